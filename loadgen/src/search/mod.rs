//! The highest rate that holds the limits, found in few runs.
//!
//! `machine` decides at which rate to run next and when there is an answer, purely.

pub mod machine;
