//! What a run leaves: bundle format, statistics, verdict.

pub mod model;

pub use model::Run;
