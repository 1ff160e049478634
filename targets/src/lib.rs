//! What answers: the reference vault, and drivers for other targets.

pub mod target;

pub use target::{Fault, Operation, Outcome, Reply, Request, Stage, StageTimes, Target};
