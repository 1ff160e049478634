//! The reference vault: what it remembers ([`state`]), and what it does ([`server`]).
//!
//! OPAQUE itself is in `opaque`, the device in `hsm-adapters`, the replicated log in `quorum`. What
//! a client does is in `client`; nothing of the network is here.

pub mod account;
pub mod channel;
pub mod command;
pub mod cryptography;
pub mod message;
pub mod plant;
pub mod proof;
pub mod server;
pub mod state;
pub mod store;
pub mod wire;

mod expiring;
mod recover;
mod register;

#[cfg(test)]
mod life_tests;
#[cfg(test)]
mod register_tests;
#[cfg(test)]
mod state_crashes;
#[cfg(test)]
mod state_properties;
#[cfg(test)]
mod state_tests;
#[cfg(test)]
pub(crate) mod testing;

pub use account::{AccountId, AttemptId, RegistrationId};
pub use cryptography::{Cryptography, DeviceCryptography};
pub use message::{Answer, Failure, Refusal, VaultReply, VaultRequest, VaultService};
pub use server::{ServerLimits, VaultServer};
pub use state::VaultState;
