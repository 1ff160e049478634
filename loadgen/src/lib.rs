//! The instrument: offers load to a target, measures it, and leaves a bundle behind.
//!
//! The folders are the road of one operation: `scenario` says what is asked, `arrival` when,
//! `workload` of whom; `engine` sends it through `slab`; `recorder` keeps what was seen; `run` joins
//! these with a target, `results` and `dashboards`. `innocence` makes the instrument tell on itself.

pub mod arrival;
pub mod chance;
pub mod cli;
pub mod engine;
pub mod host;
pub mod innocence;
pub mod recorder;
pub mod run;
pub mod scenario;
pub mod slab;
pub mod workload;
