//! OPAQUE (RFC 9807) as the vault uses it, on an unmodified opaque-ke.
//!
//! What an account is, how often it may guess and what a device does is not here but in `vault`
//! and `hsm-adapters`.

mod stretching;

pub use stretching::Stretching;
