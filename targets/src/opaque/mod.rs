//! OPAQUE (RFC 9807) as the vault uses it, on an unmodified opaque-ke.
//!
//! Both sides speak bytes; which of the two suites they are in is decided once, here. The server
//! side never evaluates: it is handed the element that a device evaluated ([`evaluated`]). What an
//! account is, how often it may guess and what a device does is not here but in `vault` and
//! `hsm-adapters`.

mod client;
mod evaluated;
mod keys;
pub mod lean;
mod server;
mod stretcher;
mod stretching;
mod suites;
pub(crate) mod tabled;

#[cfg(test)]
mod vector_tests;

pub use client::{LoginStarted, OpaqueClient, Opened, Recovering, Registered, Registering};
pub use keys::ServerKeys;
pub use server::{Login, OpaqueServer, ParsedKe1};
pub use stretcher::{KnownStretchings, Stretcher};
pub use stretching::Stretching;
pub use suites::{Lengths, OpaqueError};

/// The context of every login (RFC 9807 section 6.4): ties a transcript to this protocol.
pub const CONTEXT: &[u8] = b"vaultmark vault v1";
