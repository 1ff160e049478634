//! What answers: the reference vault, and drivers for other targets.

pub mod backup;
pub mod bare;
pub mod client;
pub mod embedded;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod fault;
pub mod fleet;
#[doc(hidden)]
pub mod fuzzing;
pub mod null;
pub mod opaque;
pub mod open_files;
pub mod people;
pub mod priority;
pub mod quorum;
pub mod relay;
pub mod remote;
pub mod secret_file;
pub mod simulated;
#[cfg(feature = "simulate")]
pub mod simulation;
pub mod stalled;
pub mod target;
pub mod vault;

pub use embedded::{
    AdapterFactory, EmbeddedConfig, EmbeddedCounters, EmbeddedError, EmbeddedVault,
};
pub use fault::Fault;
pub use opaque::Stretching;
pub use people::{Fidelity, LeanConfig, LeanCounts, Registered};
pub use target::{Evidence, Operation, Outcome, Reply, Request, Stage, StageTimes, Target};
