//! What a target is: something that performs operations and says how each ended.
//!
//! A failing target is a measurement, so nothing here is an `Err`: every way to end is an
//! [`Outcome`]. How an operation is scheduled, timed and recorded is not here but in `loadgen`.

use std::fmt;
use std::future::Future;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use vaultmark_hsm::Moment;

/// What one arrival asks of the vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// A new account registers its backup key under a password.
    Register,
    /// An account recovers its backup key with the right password.
    Recover,
    /// Somebody tries a wrong password on an account.
    RecoverWrong,
}

impl Operation {
    /// Every operation, in the order of reports.
    pub const ALL: [Self; 3] = [Self::Register, Self::Recover, Self::RecoverWrong];

    /// The name in scenarios, results and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Recover => "recover",
            Self::RecoverWrong => "recover-wrong",
        }
    }

    /// Place in [`Operation::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether an operation of this kind is supposed to end so.
    #[must_use]
    pub const fn expects(self, outcome: Outcome) -> bool {
        match self {
            Self::Register | Self::Recover => matches!(outcome, Outcome::Complete),
            Self::RecoverWrong => matches!(outcome, Outcome::Refused | Outcome::Destroyed),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Operation {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|operation| operation.name() == text).ok_or(())
    }
}

/// How an operation ended: a closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// The key was registered, or recovered and equal to what was registered.
    Complete,
    /// The vault answered, and the password did not open the record.
    Refused,
    /// The record's attempts had run out; its key material is gone.
    Destroyed,
    /// The vault knows no such account.
    Unknown,
    /// No room at the device; nothing was charged.
    Busy,
    /// No answer within the operation timeout.
    TimedOut,
    /// Anything else; the reply's error says what.
    Failed,
}

impl Outcome {
    /// Every outcome, in the order of reports.
    pub const ALL: [Self; 7] = [
        Self::Complete,
        Self::Refused,
        Self::Destroyed,
        Self::Unknown,
        Self::Busy,
        Self::TimedOut,
        Self::Failed,
    ];

    /// The name in results and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Refused => "refused",
            Self::Destroyed => "destroyed",
            Self::Unknown => "unknown",
            Self::Busy => "busy",
            Self::TimedOut => "timed_out",
            Self::Failed => "failed",
        }
    }

    /// Place in [`Outcome::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A part of an operation's service time. Together they are all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// Quorum commit that charges the attempt (for `register`: of the pending registration).
    ChargeCommit,
    /// Waiting for an HSM session.
    DeviceWait,
    /// OPRF evaluation on the HSM session.
    OprfEvaluation,
    /// Quorum commit that resets the counter (for `register`: of the confirmation).
    ResetCommit,
    /// Everything else between a request's arrival at the vault and its reply.
    Server,
    /// Opening a connection for this very operation: TCP and TLS handshakes. Zero where one was there; what
    /// operations wait for that share a connection is the network's.
    Connect,
    /// In the relay: authentication, limits, forwarding.
    Relay,
    /// Between client and relay, and between relay and replica.
    Network,
    /// The client: its cryptography, and waiting for a processor to do it on.
    Client,
}

impl Stage {
    /// Every stage, in the order of reports.
    pub const ALL: [Self; 9] = [
        Self::ChargeCommit,
        Self::DeviceWait,
        Self::OprfEvaluation,
        Self::ResetCommit,
        Self::Server,
        Self::Connect,
        Self::Relay,
        Self::Network,
        Self::Client,
    ];

    /// The name in results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ChargeCommit => "charge_commit",
            Self::DeviceWait => "device_wait",
            Self::OprfEvaluation => "oprf_evaluation",
            Self::ResetCommit => "reset_commit",
            Self::Server => "server",
            Self::Connect => "connect",
            Self::Relay => "relay",
            Self::Network => "network",
            Self::Client => "client",
        }
    }

    /// Place in [`Stage::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// How long each stage took, in nanoseconds; all zero for targets that have none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTimes([u64; Stage::ALL.len()]);

impl StageTimes {
    /// Adds time to a stage.
    pub fn add(&mut self, stage: Stage, time: Duration) {
        let slot = &mut self.0[stage.index()];
        *slot = slot.saturating_add(vaultmark_hsm::clock::nanos(time));
    }

    /// Nanoseconds of a stage.
    #[must_use]
    pub const fn ns(&self, stage: Stage) -> u64 {
        self.0[stage.index()]
    }

    /// Nanoseconds of all stages together.
    #[must_use]
    pub fn total_ns(&self) -> u64 {
        self.0.iter().fold(0, |sum, ns| sum.saturating_add(*ns))
    }
}

/// One operation asked of a target.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// What is asked.
    pub operation: Operation,
    /// Of which account.
    pub account: u64,
    /// The operation's number in its run: with the seed it determines everything about it.
    pub number: u64,
    /// When it was supposed to start.
    pub intended: Moment,
}

/// What an operation's client saw of the vault's rules at work, for whoever checks them. What it did
/// not see may have happened all the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// A KE2 came: the vault answered one evaluation, which is one guess.
    pub evaluated: bool,
    /// The KE2 did not open with the password: a wrong one, or no longer the account's record.
    pub unopened: bool,
    /// The KE3 was sent: from here on the counter may have been reset, whatever was seen of it.
    pub finish_sent: bool,
    /// The vault released the wrapped key, as it only does after it verified the KE3 and reset.
    pub verified: bool,
    /// A key came back that is not the one that was registered.
    pub key_differs: bool,
}

/// How an operation ended, as its target tells it.
#[derive(Clone, Debug)]
pub struct Reply {
    /// How it ended.
    pub outcome: Outcome,
    /// Where the time went.
    pub stages: StageTimes,
    /// What went wrong, in a form that recurs (no ids, no numbers), for the table of errors. Shared
    /// text: a failing target may fail a million times.
    pub error: Option<Arc<str>>,
    /// What was seen of the vault's rules; nothing, for targets that are no vaults.
    pub evidence: Evidence,
}

/// `Default` is not const.
const NOTHING: Evidence = Evidence {
    evaluated: false,
    unopened: false,
    finish_sent: false,
    verified: false,
    key_differs: false,
};

impl Reply {
    /// A reply without stages, error or evidence.
    #[must_use]
    pub const fn of(outcome: Outcome) -> Self {
        Self { outcome, stages: StageTimes([0; Stage::ALL.len()]), error: None, evidence: NOTHING }
    }
}

/// Something that performs operations.
pub trait Target: Send + Sync + 'static {
    /// Performs one operation. Dropping the future is the client giving up: the target forgets it
    /// or finishes on its own.
    fn perform(&self, request: Request)
    -> impl Future<Output = Reply> + Send + 'static + use<Self>;
}
