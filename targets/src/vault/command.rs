//! What is proposed to the replicated log, and what its application replies: the vault's durable
//! format (postcard).
//!
//! Commands carry everything their application depends on, time and chance included, so that every
//! replica computes the same. What they do is in `state`.

use serde::{Deserialize, Serialize};

use super::account::{AccountId, AttemptId, RegistrationId};

/// Bytes of the longest registration record (ristretto255-SHA512).
pub const RECORD_LEN_MAX: usize = 192;
/// Bytes of the longest wrapped backup key a client may leave; ours are 60.
pub const WRAPPED_LEN_MAX: usize = 128;

/// Room for the largest command and the largest reply, so that encoding allocates once.
const PENDING_LEN_MAX: usize = 512;

/// A command to the replicated state. Its variants are numbered by their order: new ones go last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command<'a> {
    /// Keeps a registration until it is confirmed; a newer one replaces it.
    RegisterPending {
        /// Whose.
        account: AccountId,
        /// What the client left.
        #[serde(borrow)]
        registration: RegistrationRef<'a>,
        /// Milliseconds since the Unix epoch, at the proposer.
        now_ms: u64,
    },
    /// Makes the pending registration the account's record.
    Confirm {
        /// Whose.
        account: AccountId,
        /// Which; another pending one is left alone.
        registration: RegistrationId,
        /// As above.
        now_ms: u64,
    },
    /// Takes one attempt off, before anything is evaluated. For an account without a record the
    /// same bytes are a no-op.
    Charge {
        /// Whose.
        account: AccountId,
        /// A second charge of the same attempt is not made.
        attempt: AttemptId,
        /// As above.
        now_ms: u64,
    },
    /// Gives all attempts back: this attempt's KE3 verified.
    Reset {
        /// Whose, and under which record the attempt was evaluated.
        charged: ChargedId,
        /// As above.
        now_ms: u64,
    },
    /// Destroys the record if this attempt was its last: its KE3 did not verify.
    WipeLast {
        /// Whose, and under which record the attempt was evaluated.
        charged: ChargedId,
        /// As above.
        now_ms: u64,
    },
    /// Destroys the records whose last attempt has been outstanding for too long.
    Sweep {
        /// As above.
        now_ms: u64,
    },
    /// Removes the record and leaves a tombstone that holds the allowance.
    Delete {
        /// Whose.
        account: AccountId,
        /// As above.
        now_ms: u64,
    },
}

/// An attempt, and everything it was charged to: checks are per (account, generation), and a reset
/// for a record that has been replaced since is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChargedId {
    /// Whose.
    pub account: AccountId,
    /// Which life of the account.
    pub generation: u32,
    /// Which record.
    pub registration: RegistrationId,
    /// Which attempt.
    pub attempt: AttemptId,
}

/// What a registration leaves with the vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationRef<'a> {
    /// Which.
    pub id: RegistrationId,
    /// The registration record of RFC 9807 section 5: 192 or 129 bytes.
    #[serde(with = "serde_bytes")]
    pub record: &'a [u8],
    /// The Ed25519 public key whose private half follows from `export_key`.
    pub verifying_key: [u8; 32],
    /// The backup key, wrapped under `export_key`.
    #[serde(with = "serde_bytes")]
    pub wrapped_key: &'a [u8],
}

/// What the application of a command replies. Only the vault's own core reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommandReply<'a> {
    /// The attempt is charged and may be evaluated.
    Charged {
        /// Which life of the account.
        generation: u32,
        /// The record to evaluate under.
        #[serde(borrow)]
        registration: RegistrationRef<'a>,
        /// Attempts left after this one.
        left: u8,
        /// If this was the last one: when the record is destroyed unless it succeeds.
        last_until_ms: Option<u64>,
    },
    /// No record: never registered, not confirmed yet, or deleted.
    Unknown,
    /// The attempts ran out; the key material is gone.
    Destroyed,
    /// This attempt has been charged before; it is not charged or evaluated again.
    Replayed,
    /// The registration waits for its confirmation.
    Pending {
        /// The account's attempts had run out: this begins a new generation.
        previously_destroyed: bool,
    },
    /// The registration is the account's record.
    Confirmed {
        /// Which life of the account.
        generation: u32,
        /// Attempts left: what the account had left before.
        left: u8,
        /// The account's attempts had run out: this began a new generation.
        previously_destroyed: bool,
    },
    /// Not while a last attempt is outstanding.
    LastOutstanding,
    /// No such registration is pending, or the attempt is not open under the present record.
    Stale,
    /// All attempts are given back.
    Reset {
        /// The wrapped backup key, to be released.
        #[serde(with = "serde_bytes")]
        wrapped_key: &'a [u8],
    },
    /// Nothing was to be destroyed.
    Kept,
    /// Overdue records are destroyed.
    Swept {
        /// How many, in this command.
        wiped: u32,
        /// When the next one is due.
        next_due_ms: Option<u64>,
    },
    /// There is no record (any more).
    Deleted,
    /// The vault holds as many accounts as it may.
    Full,
    /// The command does not decode or breaks a limit; nothing changed.
    Malformed,
}

impl Command<'_> {
    /// The command's bytes in the log.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let room = match self {
            Self::RegisterPending { .. } => PENDING_LEN_MAX,
            _ => 160,
        };
        postcard::to_extend(self, Vec::with_capacity(room)).expect("a vector takes every command")
    }
}

impl CommandReply<'_> {
    /// The reply's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let room = match self {
            Self::Charged { .. } => PENDING_LEN_MAX,
            _ => 160,
        };
        postcard::to_extend(self, Vec::with_capacity(room)).expect("a vector takes every reply")
    }
}
