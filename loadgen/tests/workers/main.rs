//! Workers as processes of the binary, coordinated over a real nats-server on loopback, and everything that can go wrong
//! with them.

#![cfg(feature = "nats")]

mod faults;
mod fleet;
mod harness;
mod merge;
