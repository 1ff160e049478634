//! What answers: the reference vault, and drivers for other targets.

pub mod bare;
pub mod client;
pub mod embedded;
pub mod null;
pub mod opaque;
pub mod quorum;
pub mod simulated;
pub mod stalled;
pub mod target;
pub mod vault;

pub use embedded::{
    AdapterFactory, EmbeddedConfig, EmbeddedCounters, EmbeddedError, EmbeddedVault, Fidelity,
};
pub use opaque::Stretching;
pub use target::{Fault, Operation, Outcome, Reply, Request, Stage, StageTimes, Target};
