//! A fleet in one process: n replicas, each with its own log, state machine and consensus task.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use vaultmark_hsm::Clock;

use super::{CommitError, Committed, QuorumError, QuorumLog, StateMachine};

/// What a fleet is made of.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// Replicas, numbered from 1: 1, 3, 5 or 7.
    pub replicas: u32,
    /// Where the logs are; each replica has a folder of its own inside.
    pub folder: PathBuf,
    /// Whether a replica answers only for what fdatasync made durable. Without it everything is
    /// still written, and a killed process loses nothing; a power cut may lose anything.
    pub durable: bool,
    /// Chance: the jitter of elections.
    pub seed: u64,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// How often a leader with nothing to say says so.
    pub heartbeat: Duration,
    /// A follower that hears nothing for longer than between these two stands for election.
    pub election_timeout_min: Duration,
    /// See `election_timeout_min`.
    pub election_timeout_max: Duration,
    /// How long a commit waits: for a leader, and then for its answer.
    pub commit_timeout: Duration,
    /// Commits in flight beyond which further ones are refused as [`CommitError::Full`].
    pub in_flight_max: usize,
    /// Entries applied between two snapshots.
    pub snapshot_every: u64,
    /// Bytes of a log segment.
    pub segment_bytes: u64,
}

impl GroupConfig {
    /// A durable fleet with everything else as it usually is.
    #[must_use]
    pub fn new(replicas: u32, folder: PathBuf, clock: Arc<dyn Clock>) -> Self {
        Self {
            replicas,
            folder,
            durable: true,
            seed: 1,
            clock,
            heartbeat: Duration::from_millis(50),
            election_timeout_min: Duration::from_millis(150),
            election_timeout_max: Duration::from_millis(300),
            commit_timeout: Duration::from_secs(5),
            in_flight_max: 16_384,
            snapshot_every: 200_000,
            segment_bytes: 64 << 20,
        }
    }
}

/// What the replicas did, all together.
#[derive(Clone, Debug)]
pub struct QuorumCounters {
    /// Commands committed and answered.
    pub commits: u64,
    /// fdatasync calls of all replicas' logs.
    pub fsyncs: u64,
    /// How long each took, in nanoseconds.
    pub fsync_ns: Histogram<u64>,
    /// How often a replica became leader.
    pub elections: u64,
}

/// A fleet in one process.
#[derive(Debug)]
pub struct Group {
    config: GroupConfig,
}

impl Group {
    /// Starts every replica on the present tokio runtime, from what its folder holds, and returns
    /// when one of them leads. `make` gives a fresh state machine for a replica's number; it is
    /// called again when a replica restarts.
    ///
    /// # Errors
    /// The configuration, a folder or a log is bad, or nobody leads within the commit timeout.
    #[expect(clippy::unused_async, reason = "the signature others build on; replicas follow")]
    pub async fn start(
        config: GroupConfig,
        make: impl Fn(u32) -> Box<dyn StateMachine> + Send + Sync + 'static,
    ) -> Result<Self, QuorumError> {
        drop(make);
        Err(QuorumError::Config(format!("{} replicas cannot start yet", config.replicas)))
    }

    /// Replicas, running or not.
    #[must_use]
    pub fn replicas(&self) -> u32 {
        self.config.replicas
    }

    /// The replica that leads, as far as is known.
    #[must_use]
    pub fn leader(&self) -> Option<u32> {
        None
    }

    /// Commits at the present leader; looks for a new one only while the command is surely not
    /// proposed. The inherent form of [`QuorumLog::commit`].
    ///
    /// # Errors
    /// See [`CommitError`].
    #[expect(clippy::unused_async, reason = "the signature others build on; replicas follow")]
    pub async fn commit(&self, command: Vec<u8>) -> Result<Committed, CommitError> {
        drop(command);
        Err(CommitError::NoLeader)
    }

    /// Commits at one replica, only if it leads.
    ///
    /// # Errors
    /// See [`CommitError`].
    #[expect(clippy::unused_async, reason = "the signature others build on; replicas follow")]
    pub async fn commit_at(
        &self,
        replica: u32,
        command: Vec<u8>,
    ) -> Result<Committed, CommitError> {
        drop(command);
        Err(CommitError::NotLeader { leader: (replica == 0).then_some(replica) })
    }

    /// Stops a replica as SIGKILL would: what it had not made durable is gone, and commits waiting
    /// at it end as [`CommitError::Unavailable`]. Nothing happens if it is not running.
    #[expect(clippy::unused_async, reason = "the signature others build on; replicas follow")]
    pub async fn kill(&self, _replica: u32) {}

    /// Starts a killed replica again from its folder.
    ///
    /// # Errors
    /// It is running, there is no such replica, or its log is bad.
    #[expect(clippy::unused_async, reason = "the signature others build on; replicas follow")]
    pub async fn restart(&self, replica: u32) -> Result<(), QuorumError> {
        Err(QuorumError::Replica(format!("there is no replica {replica}")))
    }

    /// What the replicas did since the start.
    #[must_use]
    pub fn counters(&self) -> QuorumCounters {
        let fsync_ns = Histogram::new(3).expect("three digits are allowed");
        QuorumCounters { commits: 0, fsyncs: 0, fsync_ns, elections: 0 }
    }

    /// Stops every replica, having made durable what it was given.
    #[expect(clippy::unused_async, reason = "the signature others build on; replicas follow")]
    pub async fn shutdown(&self) {}
}

impl QuorumLog for Group {
    async fn commit(&self, command: Vec<u8>) -> Result<Committed, CommitError> {
        Self::commit(self, command).await
    }
}
