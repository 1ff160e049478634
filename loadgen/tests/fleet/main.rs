//! Whole fleets as processes of the built binary.

#![expect(clippy::panic, reason = "a test that finds something says what, and when")]

mod chaos;
mod client;
mod harness;
mod life;
mod ways;
