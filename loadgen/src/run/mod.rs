//! One run: a scenario, a target, the instrument between them, and a bundle at the end.

pub mod measure;
