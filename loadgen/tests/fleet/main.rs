//! Whole fleets as processes of the built binary.

mod chaos;
mod harness;
mod life;
