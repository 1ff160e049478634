//! The instrument: offers load to a target, measures it, and leaves a bundle behind.
//!
//! The folders are the road of one operation: `scenario` says what is asked, `arrival` when,
//! `workload` of whom; `engine` sends it through `slab`; `recorder` keeps what was seen,
//! `guesses` checks the vault's bound on guesses, `recovery` tells how long a fault was felt; `run` joins
//! these with a target, `results` and `dashboards`; `workers` shares a run among processes; `hsm_bench` measures a device by itself. `innocence` makes the instrument tell on itself.

pub mod arrival;
pub mod chance;
pub mod cli;
#[cfg(feature = "goose")]
pub mod crosscheck;
pub mod devices;
pub mod engine;
pub mod guesses;
pub mod host;
pub mod hsm_bench;
pub mod innocence;
pub mod recorder;
pub mod recovery;
pub mod run;
pub mod scenario;
pub mod search;
pub mod slab;
pub mod sweep;
#[cfg(feature = "nats")]
pub mod workers;
pub mod workload;
