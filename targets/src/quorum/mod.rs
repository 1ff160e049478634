//! The replicated log: commands in, each made durable by a strict majority of replicas and applied
//! by all of them in one order.
//!
//! It knows bytes only. What a command means, and how a command that was proposed twice is told
//! apart (a commit whose answer was lost may or may not have happened), is its owner's: the vault's
//! state machine. What it needs from the world is handed in: disk, network, clock and chance.

use std::fmt;
use std::future::Future;

mod config;
pub mod disk;
mod frame;
mod group;
mod log;
mod machine;
mod network;
mod recovery;
mod replica;
mod snapshots;
mod transport;
mod types;
mod wal;

pub use config::GroupConfig;
pub use group::{Group, QuorumCounters};

/// Bytes of the longest command: a hundred times the vault's, and few enough that one command
/// holds up nobody.
pub const COMMAND_LEN_MAX: usize = 64 << 10;

/// What the committed commands are applied to: one instance a replica.
///
/// It must be deterministic: the same commands in the same order give the same replies and the same
/// snapshot on every replica, and after every restart. `apply` runs on the replica's own task, in
/// the road of every commit, so it is kept light.
pub trait StateMachine: Send + 'static {
    /// Applies one committed command; its reply goes to whoever proposed it, if it still waits.
    fn apply(&mut self, command: &[u8]) -> Vec<u8>;

    /// The whole state, in a form that [`StateMachine::restore`] takes.
    fn snapshot(&self) -> Vec<u8>;

    /// Replaces the whole state.
    ///
    /// # Errors
    /// The bytes are not a snapshot of this state machine. The replica then stops, loudly.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String>;
}

/// A command that a majority made durable and the leader applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// What the state machine replied.
    pub reply: Vec<u8>,
    /// The command's place in the log.
    pub index: u64,
}

/// Why a command has no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitError {
    /// The replica asked is not the leader; the command was surely not proposed.
    NotLeader {
        /// Who leads, as far as it is known there.
        leader: Option<u32>,
    },
    /// No leader was found in the time allowed; the command was surely not proposed.
    NoLeader,
    /// More commits are in flight than the configuration allows; the command was surely not
    /// proposed.
    Full,
    /// The command is longer than [`COMMAND_LEN_MAX`]; it was surely not proposed.
    TooLong,
    /// The command was proposed and its fate is not known: it may or may not be committed, now or
    /// later.
    Unavailable(String),
}

impl CommitError {
    /// Whether the command surely did not and will not happen, so that proposing it again is safe.
    #[must_use]
    pub const fn surely_not_proposed(&self) -> bool {
        !matches!(self, Self::Unavailable(_))
    }
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader { leader: Some(leader) } => {
                write!(f, "not the leader; replica {leader} is")
            }
            Self::NotLeader { leader: None } => f.write_str("not the leader"),
            Self::NoLeader => f.write_str("no replica leads"),
            Self::Full => f.write_str("too many commits in flight"),
            Self::TooLong => write!(f, "a command of more than {COMMAND_LEN_MAX} bytes"),
            Self::Unavailable(why) => write!(f, "the fate of the commit is not known: {why}"),
        }
    }
}

impl std::error::Error for CommitError {}

/// Why a group or a replica did not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuorumError {
    /// The configuration makes no sense.
    Config(String),
    /// The disk refused, or what it holds is not what was written; names the file, and the offset
    /// where there is one.
    Disk(String),
    /// There is no replica of that number, or it is in the wrong state for what was asked.
    Replica(String),
    /// The consensus library stopped.
    Consensus(String),
}

impl fmt::Display for QuorumError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(why) => write!(f, "quorum configuration: {why}"),
            Self::Disk(why) => write!(f, "quorum log: {why}"),
            Self::Replica(why) => write!(f, "replica: {why}"),
            Self::Consensus(why) => write!(f, "consensus: {why}"),
        }
    }
}

impl std::error::Error for QuorumError {}

/// The one thing the vault asks of a replicated log.
pub trait QuorumLog: Send + Sync + 'static {
    /// Proposes a command and waits until a majority made it durable and it was applied. Dropping
    /// the future does not take the command back.
    fn commit(
        &self,
        command: Vec<u8>,
    ) -> impl Future<Output = Result<Committed, CommitError>> + Send;
}

#[cfg(test)]
mod tests;
