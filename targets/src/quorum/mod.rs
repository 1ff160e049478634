//! The replicated log: commands in, each made durable by a strict majority of replicas and applied
//! by all of them in one order.
//!
//! It knows bytes only. What a command means, and how a command that was proposed twice is told
//! apart (a commit whose answer was lost may or may not have happened), is its owner's: the vault's
//! state machine. What it needs from the world is handed in: disk, network, clock and chance.

use std::fmt;
use std::future::Future;
use std::io;

mod appends;
mod caretaker;
mod codec;
mod config;
pub mod disk;
mod frame;
mod fuzzing;
mod group;
mod log;
mod machine;
mod member;
mod network;
mod order;
mod packet;
mod parcel;
mod post;
mod recovery;
mod replica;
mod runtime;
mod transport;
mod types;
mod wal;
mod whole;

pub use config::{GroupConfig, MemberConfig, Start};
#[cfg(test)]
pub(crate) use fuzzing::seeds as fuzz_seeds;
#[doc(hidden)]
pub use fuzzing::{fuzz_log_segment, fuzz_member_frames};
pub use group::{Group, QuorumCounters};
pub use member::{FollowerStatus, Member, MemberCounters, MemberStatus, Role};
pub use whole::{Whole, WholeState};

/// Bytes of the longest command: a hundred times the vault's, and few enough that one command
/// holds up nobody.
pub const COMMAND_LEN_MAX: usize = 64 << 10;

/// Bytes of the longest chunk of an [`Export`]: a few of them in flight fill any link, and none holds
/// up a heartbeat behind it for long.
pub const CHUNK_LEN_MAX: usize = 256 << 10;

/// Bytes of the longest frame that is handed to a [`Wire`].
pub const FRAME_LEN_MAX: usize = 1 << 20;

/// What the committed commands are applied to: one instance a replica. It owns its durable state: a
/// *checkpoint*, with the mark that the replica gave it. What was applied after is in the log, which
/// goes back at least to the last durable checkpoint, and is applied again.
///
/// It must be deterministic: the same commands in the same order give the same replies and the same
/// checkpoints on every replica, and after every restart. `apply` runs on the replica's own task, in
/// the road of every commit, so it is kept light.
///
/// No two of `checkpoint`'s work and `install` ever run at the same time; `apply` and `export` may
/// be called while a checkpoint's work goes on, and what was exported is read while all of them do.
pub trait StateMachine: Send + 'static {
    /// Applies one committed command; its reply goes to whoever proposed it, if it still waits.
    ///
    /// # Errors
    /// The state cannot be read. The replica then stops, loudly: it must not go on without a command
    /// that others applied.
    fn apply(&mut self, command: &[u8]) -> io::Result<Vec<u8>>;

    /// The mark of the latest durable checkpoint, at which the state stands when it is opened;
    /// `None` when it is empty.
    fn mark(&self) -> Option<Vec<u8>>;

    /// Begins a checkpoint of everything applied so far, under an opaque mark. Quick; the work
    /// returned is the slow part, run elsewhere while commands go on being applied. When it returned
    /// `Ok`, the checkpoint is durable and its mark is what a restart finds.
    fn checkpoint(&mut self, mark: Vec<u8>) -> Box<dyn FnOnce() -> io::Result<()> + Send>;

    /// The latest durable checkpoint, for another replica.
    ///
    /// # Errors
    /// There is none, or the disk refuses, or holds what was not written.
    fn export(&self) -> io::Result<Export>;

    /// Replaces the whole state by what another replica exported; durable on return. Cut off at any
    /// point it leaves the state as it was, or one that is opened as empty.
    ///
    /// # Errors
    /// The chunks are not an export, or end early, or the disk refuses. The replica then stops.
    fn install(
        &mut self,
        mark: Vec<u8>,
        chunks: &mut dyn Iterator<Item = io::Result<Vec<u8>>>,
    ) -> io::Result<()>;
}

/// A checkpoint on its way to another replica: a consistent view, although commands go on.
pub struct Export {
    /// The checkpoint's mark.
    pub mark: Vec<u8>,
    /// Its content, in order, in chunks of at most [`CHUNK_LEN_MAX`] bytes.
    pub chunks: Box<dyn Iterator<Item = io::Result<Vec<u8>>> + Send>,
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export").finish_non_exhaustive()
    }
}

/// Carries frames to the other replicas of a group. It may lose, delay, duplicate or reorder them,
/// and never blocks. A frame has at most [`FRAME_LEN_MAX`] bytes.
pub trait Wire: fmt::Debug + Send + Sync + 'static {
    /// Sends a frame to the replica of that number.
    fn send(&self, to: u32, frame: Vec<u8>);
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
