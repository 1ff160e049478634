//! The channel between a client and the fleet: `Noise_NK_25519_AESGCM_SHA256`, inside the requests.
//!
//! The client knows the fleet's public key and is itself nobody; whose account it is about is the
//! relay's to check, and the channel is bound to it: protocol version, purpose and account are the
//! prologue. The first request rides in the first handshake message and its answer in the second, so
//! the channel costs no round trip. A deletion is the exception: a first message can be played again
//! later or to another replica, and a deletion has no attempt id by which that would be seen, so it
//! waits for the second frame. Every channel carries one operation.
//!
//! ```text
//! prologue        "vaultmark channel v1" ‖ purpose (1) ‖ length of account (1) ‖ account
//! opening         1 ‖ 1 ‖ e (32) ‖ sealed request (empty for a deletion) ‖ tag (16)
//!   its answer    1 ‖ 1 ‖ e (32) ‖ sealed answer (empty for a deletion) ‖ tag (16)
//! later request   1 ‖ 2 ‖ channel (16) ‖ counter (4, big-endian) ‖ sealed request ‖ tag (16)
//!   its answer    1 ‖ 2 ‖ counter (4, the request's) ‖ sealed answer ‖ tag (16)
//! ```
//!
//! The first byte is the version. A channel is named by the first 16 bytes of the client's ephemeral
//! key, so one table both finds channels and refuses openings that were played again. The counter is
//! the AEAD's nonce: each frame is taken once and in order. How the plaintexts look is in
//! [`wire`](super::wire); who may open a channel at all, and how frames travel, is the relay's.

use std::fmt;
use std::str::FromStr;

use rand::{CryptoRng, RngCore};
use zeroize::Zeroizing;

use super::account::AccountId;
use super::message::{VaultReply, VaultRequest};
use super::wire::{PLAINTEXT_LEN_MAX, RequestKind};

mod client;
mod costs;
mod frame;
mod initiator;
pub(crate) mod noise;
mod server;
mod service;

pub use client::{ChannelClient, ChannelError};
pub use costs::client_cost;
pub use server::{CHANNEL_TTL, ChannelCounters, ChannelLimits, ChannelServer};
pub use service::{Carried, Carrier, CarryError, ChannelFleet, ChannelService};

/// Bytes of the longest frame either way: relay and replica refuse longer ones unread.
/// Openings have the longest headers.
pub const FRAME_LEN_MAX: usize =
    frame::OPENING_HEADER + noise::KEY_LEN + PLAINTEXT_LEN_MAX + noise::TAG_LEN;

/// What a channel is for: in clear, for the relay's routing and limits, and authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Purpose {
    /// A registration, from its start to its confirmation.
    Register,
    /// One attempt at recovery.
    Recover,
    /// A deletion.
    Delete,
}

impl Purpose {
    /// Every purpose.
    pub const ALL: [Self; 3] = [Self::Register, Self::Recover, Self::Delete];

    /// The name in paths of the relay.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Recover => "recover",
            Self::Delete => "delete",
        }
    }

    /// The number in bytes that travel.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Register => 1,
            Self::Recover => 2,
            Self::Delete => 3,
        }
    }

    /// The purpose with this number.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|purpose| purpose.code() == code)
    }

    /// What a request is for.
    #[must_use]
    pub const fn of(request: &VaultRequest) -> Self {
        match request {
            VaultRequest::RegisterStart { .. }
            | VaultRequest::RegisterUpload { .. }
            | VaultRequest::RegisterConfirm { .. } => Self::Register,
            VaultRequest::RecoverStart { .. } | VaultRequest::RecoverFinish { .. } => Self::Recover,
            VaultRequest::Delete { .. } => Self::Delete,
        }
    }

    /// What rides in the first message of such a channel.
    const fn first(self) -> Option<RequestKind> {
        match self {
            Self::Register => Some(RequestKind::RegisterStart),
            Self::Recover => Some(RequestKind::RecoverStart),
            Self::Delete => None,
        }
    }

    /// What may ride in later ones.
    const fn later(self) -> &'static [RequestKind] {
        match self {
            Self::Register => &[RequestKind::RegisterUpload, RequestKind::RegisterConfirm],
            Self::Recover => &[RequestKind::RecoverFinish],
            Self::Delete => &[RequestKind::Delete],
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Purpose {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|purpose| purpose.name() == text).ok_or(())
    }
}

/// Why a fleet did not take a frame. It travels in clear and says nothing secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChannelRefusal {
    /// The frame is not laid out as one, or what it holds is no request.
    Malformed,
    /// No such channel of this account here: never opened, ended, idle for 60 s, or opened at another
    /// replica or before this one started.
    NoSuchChannel,
    /// As many channels as there may be. Nothing was charged.
    Full,
    /// The channel is for something else.
    WrongPurpose,
    /// This opening, or a frame with this counter, was here before.
    Replayed,
    /// The frame's counter is ahead of its turn.
    OutOfOrder,
    /// The request before it is not answered yet, or never will be.
    InFlight,
    /// The frame does not open: for another fleet, account or purpose, or changed on the way.
    DoesNotOpen,
}

impl ChannelRefusal {
    /// Every refusal.
    pub const ALL: [Self; 8] = [
        Self::Malformed,
        Self::NoSuchChannel,
        Self::Full,
        Self::WrongPurpose,
        Self::Replayed,
        Self::OutOfOrder,
        Self::InFlight,
        Self::DoesNotOpen,
    ];

    /// The number in bytes that travel.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Malformed => 1,
            Self::NoSuchChannel => 2,
            Self::Full => 3,
            Self::WrongPurpose => 4,
            Self::Replayed => 5,
            Self::OutOfOrder => 6,
            Self::InFlight => 7,
            Self::DoesNotOpen => 8,
        }
    }

    /// The refusal with this number.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|refusal| refusal.code() == code)
    }

    /// The refusal in words that recur: no identifiers, no numbers.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Malformed => "the frame is not one of the channel's",
            Self::NoSuchChannel => "no such channel is open at this replica",
            Self::Full => "no room for another channel; nothing was charged",
            Self::WrongPurpose => "the channel is for something else",
            Self::Replayed => "the frame was here before",
            Self::OutOfOrder => "the frame is ahead of its turn",
            Self::InFlight => "the request before it is not answered",
            Self::DoesNotOpen => "the frame does not open",
        }
    }
}

impl fmt::Display for ChannelRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.describe())
    }
}

impl std::error::Error for ChannelRefusal {}

/// The fleet's half of every channel: the same at each of its replicas, wiped when dropped.
#[derive(Clone)]
pub struct ChannelKey {
    secret: Zeroizing<[u8; 32]>,
    public: ChannelPublicKey,
}

impl ChannelKey {
    /// The key of a new fleet.
    pub fn generate(chance: &mut (impl RngCore + CryptoRng)) -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        chance.fill_bytes(secret.as_mut_slice());
        Self::from_bytes(secret)
    }

    /// A key that is known already: an X25519 private key (RFC 7748).
    #[must_use]
    pub fn from_bytes(secret: Zeroizing<[u8; 32]>) -> Self {
        let public = ChannelPublicKey(noise::public_of(&secret));
        Self { secret, public }
    }

    /// The private key itself.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.secret
    }

    /// What clients pin.
    #[must_use]
    pub const fn public(&self) -> ChannelPublicKey {
        self.public
    }
}

impl fmt::Debug for ChannelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChannelKey({}, secret)", self.public)
    }
}

/// What a client knows a fleet by: an X25519 public key, written as 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelPublicKey(pub [u8; 32]);

impl fmt::Display for ChannelPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for ChannelPublicKey {
    type Err = BadPublicKey;

    fn from_str(text: &str) -> Result<Self, BadPublicKey> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(BadPublicKey);
        }
        let mut key = [0; 32];
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16).ok_or(BadPublicKey);
            *byte = u8::try_from(16 * digit(0)? + digit(1)?).map_err(|_| BadPublicKey)?;
        }
        Ok(Self(key))
    }
}

/// The text is not 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPublicKey;

impl fmt::Display for BadPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a fleet's channel key is 64 hexadecimal digits")
    }
}

impl std::error::Error for BadPublicKey {}

/// The first 16 bytes of the client's ephemeral key.
type ChannelId = [u8; 16];

/// After these replies nothing more can be asked on the channel.
const fn is_last(reply: &VaultReply) -> bool {
    matches!(
        reply,
        VaultReply::Confirmed { .. } | VaultReply::Released { .. } | VaultReply::Deleted
    )
}

fn prologue(account: &AccountId, purpose: Purpose) -> Vec<u8> {
    const LABEL: &[u8] = b"vaultmark channel v1";
    let account = account.as_bytes();
    let mut bytes = Vec::with_capacity(LABEL.len() + 2 + account.len());
    bytes.extend_from_slice(LABEL);
    bytes.push(purpose.code());
    bytes.push(u8::try_from(account.len()).expect("an account is at most 64 bytes"));
    bytes.extend_from_slice(account);
    bytes
}

#[cfg(test)]
mod tests;
