//! What answers: the reference vault, and drivers for other targets.

pub mod opaque;
pub mod target;

pub use opaque::Stretching;
pub use target::{Fault, Operation, Outcome, Reply, Request, Stage, StageTimes, Target};
