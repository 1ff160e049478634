//! What answers: the reference vault, and drivers for other targets.

pub mod client;
pub mod opaque;
pub mod null;
pub mod quorum;
pub mod simulated;
pub mod stalled;
pub mod target;
pub mod vault;

pub use opaque::Stretching;
pub use target::{Fault, Operation, Outcome, Reply, Request, Stage, StageTimes, Target};
