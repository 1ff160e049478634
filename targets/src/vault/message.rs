//! What a client and the vault say to each other, and the one trait a client needs.
//!
//! How messages travel (in process here; relay and channel elsewhere) is not here.

use std::fmt;
use std::future::Future;

use super::account::{AccountId, AttemptId, RegistrationId};
use crate::target::StageTimes;

/// What a client asks. Bytes are as RFC 9807 serialises them, for the vault's suite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VaultRequest {
    /// Begins a registration under a fresh key.
    RegisterStart {
        /// Whose.
        account: AccountId,
        /// `RegistrationRequest`: 32 or 33 bytes.
        request: Vec<u8>,
    },
    /// Leaves the registration with the vault, pending.
    RegisterUpload {
        /// Whose.
        account: AccountId,
        /// Which, as the vault named it.
        registration: RegistrationId,
        /// `RegistrationRecord`: 192 or 129 bytes.
        upload: Vec<u8>,
        /// The Ed25519 public key whose private half follows from `export_key`.
        verifying_key: [u8; 32],
        /// The backup key, wrapped under `export_key`: at most 128 bytes.
        wrapped_key: Vec<u8>,
    },
    /// Proves that the client can open what it left; only then does it replace an older record.
    RegisterConfirm {
        /// Whose.
        account: AccountId,
        /// Which.
        registration: RegistrationId,
        /// Ed25519 over [`confirm_statement`](super::proof::confirm_statement).
        signature: [u8; 64],
    },
    /// Spends an attempt.
    RecoverStart {
        /// Whose.
        account: AccountId,
        /// Fresh for each attempt.
        attempt: AttemptId,
        /// `KE1`: 96 or 98 bytes.
        ke1: Vec<u8>,
    },
    /// Proves that the attempt's password was right.
    RecoverFinish {
        /// Whose.
        account: AccountId,
        /// Which.
        attempt: AttemptId,
        /// `KE3`: 64 or 32 bytes.
        ke3: Vec<u8>,
        /// Ed25519 over [`finish_statement`](super::proof::finish_statement).
        signature: [u8; 64],
    },
    /// Removes the record. Needs no proof: who reaches the vault as this account can as well spend
    /// its attempts, and nothing is given back by it.
    Delete {
        /// Whose.
        account: AccountId,
    },
}

/// What the vault replies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VaultReply {
    /// To `RegisterStart`.
    RegisterStarted {
        /// The registration's name from now on.
        registration: RegistrationId,
        /// `RegistrationResponse`: 64 or 66 bytes.
        response: Vec<u8>,
    },
    /// To `RegisterUpload`: kept until confirmed.
    Pending {
        /// To be signed.
        nonce: [u8; 32],
        /// The account's attempts had run out.
        previously_destroyed: bool,
    },
    /// To `RegisterConfirm`: this is the account's record now.
    Confirmed {
        /// Which life of the account.
        generation: u32,
        /// Attempts it has: what was left before.
        left: u8,
        /// The account's attempts had run out.
        previously_destroyed: bool,
    },
    /// To `RecoverStart`: the same for an account that is not known.
    RecoverStarted {
        /// `KE2`: 320 or 259 bytes.
        ke2: Vec<u8>,
    },
    /// To `RecoverFinish`.
    Released {
        /// The wrapped backup key, sealed under the session key.
        sealed: Vec<u8>,
    },
    /// To `Delete`: there is no record (any more).
    Deleted,
    /// To anything.
    Refused(Refusal),
}

/// Why the vault did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No room, at the device or in a table. Nothing was charged.
    Busy,
    /// The attempts ran out; the key material is gone.
    Destroyed,
    /// The message does not decode. Nothing was charged.
    Malformed,
    /// KE3 or a signature does not verify.
    Rejected,
    /// No such registration waits here: never begun, more than 60 s ago, or a newer one took over.
    NoSuchRegistration,
    /// No such attempt is open here: never begun, finished, more than 60 s ago, or its replica died.
    NoSuchAttempt,
    /// This attempt has been charged before; it is not evaluated again.
    Replayed,
    /// A last attempt is outstanding: within 60 s it is either verified or the record is destroyed.
    LastOutstanding,
    /// The record that the attempt was evaluated under has been replaced or removed since.
    Superseded,
    /// The vault holds as many accounts as it may.
    Full,
    /// Something inside went wrong. What was charged stays charged.
    Failed(Failure),
}

/// What went wrong inside the vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The device refused the blinded element: it is not a group element.
    BadElement,
    /// The HSM session was lost while evaluating.
    HsmSessionLost,
    /// The device failed.
    Device,
    /// No replica leads; nothing was proposed.
    NoLeader,
    /// Too many commits in flight; nothing was proposed.
    LogFull,
    /// The command is longer than the log takes; nothing was proposed.
    TooLong,
    /// The commit may or may not have happened.
    CommitUnknown,
    /// This replica is down.
    ReplicaDown,
    /// A stored record or a reply of the replicated state does not decode.
    Corrupt,
    /// Nobody answered: whether the request arrived is not known.
    Unreachable,
    /// The relay does not take the account's token. Nothing was forwarded.
    Unauthorized,
    /// The relay's limit for the account or its tenant is reached. Nothing was forwarded.
    RateLimited,
    /// The replica that leads now does not know the channel: it was opened elsewhere, or too long ago.
    NoSuchChannel,
    /// A frame of the channel was refused, or its reply does not open.
    BadChannel,
    /// The client's machine has no port left for another connection. Nothing was sent.
    NoPort,
    /// The client has no file descriptor left for another connection. Nothing was sent.
    NoFile,
}

impl VaultRequest {
    /// Whose account it is about.
    #[must_use]
    pub const fn account(&self) -> &AccountId {
        match self {
            Self::RegisterStart { account, .. }
            | Self::RegisterUpload { account, .. }
            | Self::RegisterConfirm { account, .. }
            | Self::RecoverStart { account, .. }
            | Self::RecoverFinish { account, .. }
            | Self::Delete { account } => account,
        }
    }
}

impl Refusal {
    /// The refusal in words that recur: no identifiers, no numbers.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Busy => "no room; nothing was charged",
            Self::Destroyed => "the record's attempts ran out",
            Self::Malformed => "the message does not decode",
            Self::Rejected => "KE3 or a signature does not verify",
            Self::NoSuchRegistration => "no such registration waits at this replica",
            Self::NoSuchAttempt => "no such attempt is open at this replica",
            Self::Replayed => "the attempt has been charged before",
            Self::LastOutstanding => "a last attempt is outstanding",
            Self::Superseded => "the record was replaced or removed during the attempt",
            Self::Full => "the vault holds as many accounts as it may",
            Self::Failed(failure) => failure.describe(),
        }
    }
}

impl Failure {
    /// The failure in words that recur: no identifiers, no numbers.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::BadElement => "the blinded element is not a group element",
            Self::HsmSessionLost => "the HSM session was lost",
            Self::Device => "the device failed",
            Self::NoLeader => "no replica leads",
            Self::LogFull => "too many commits in flight",
            Self::TooLong => "a command is longer than the log takes",
            Self::CommitUnknown => "the fate of a quorum commit is not known",
            Self::ReplicaDown => "the replica is down",
            Self::Corrupt => "stored state does not decode",
            Self::Unreachable => "nobody answered",
            Self::Unauthorized => "the relay does not take the token",
            Self::RateLimited => "the relay's rate limit is reached",
            Self::NoSuchChannel => "the leader does not know the channel",
            Self::BadChannel => "the channel is broken",
            Self::NoPort => "the client's machine has no port left (EADDRNOTAVAIL, EADDRINUSE)",
            Self::NoFile => "the client has no file descriptor left (EMFILE)",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.describe())
    }
}

/// A reply, and where the vault's time went.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The reply.
    pub reply: VaultReply,
    /// Everything but `Stage::Client`: together, the time from request to reply.
    pub stages: StageTimes,
}

/// Whatever carries a client's request to a vault and the reply back.
pub trait VaultService: Send + Sync {
    /// Asks once. Dropping the future takes nothing back: the vault may have charged.
    fn call(&self, request: VaultRequest) -> impl Future<Output = Answer> + Send;
}

impl<S: VaultService> VaultService for &S {
    fn call(&self, request: VaultRequest) -> impl Future<Output = Answer> + Send {
        S::call(self, request)
    }
}
