//! One replica of a fleet of processes, reached over a [`Wire`].

use std::sync::Arc;

use tokio::sync::watch;

use super::{CommitError, Committed, MemberConfig, QuorumError, QuorumLog, StateMachine, Wire};

/// One running replica of a group whose others are elsewhere.
#[derive(Debug)]
pub struct Member {
    config: MemberConfig,
    leadership: watch::Sender<Option<u32>>,
}

/// What a replica is to its group at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It commits.
    Leader,
    /// It follows a leader, or looks for one.
    Follower,
    /// It stands for election.
    Candidate,
    /// It has no vote yet: it replaces a lost one and catches up, or it was replaced itself.
    Learner,
    /// It stopped by itself; the failure says why.
    Stopped,
}

/// What a replica says of itself.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    /// What it is to its group.
    pub role: Role,
    /// The term it is in.
    pub term: u64,
    /// Who leads, as far as it knows.
    pub leader: Option<u32>,
    /// The last entry of its log.
    pub last: Option<u64>,
    /// The last entry that it knows to be committed.
    pub committed: Option<u64>,
    /// The last entry applied.
    pub applied: Option<u64>,
    /// The last entry in its durable checkpoint.
    pub checkpoint: Option<u64>,
    /// The last entry that is no longer in the log.
    pub purged: Option<u64>,
    /// Bytes of the log on disk.
    pub log_bytes: u64,
    /// If it leads: the others.
    pub followers: Vec<FollowerStatus>,
    /// Why it stopped by itself.
    pub failure: Option<String>,
    /// What it did.
    pub counters: MemberCounters,
}

/// How far a leader knows another replica to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerStatus {
    /// The replica's number.
    pub replica: u32,
    /// Whether it votes; a replica that replaces a lost one does so once it has caught up.
    pub voter: bool,
    /// The last entry that it has.
    pub matched: Option<u64>,
    /// How many entries that is behind the leader's last.
    pub lag: u64,
}

/// What a replica did since its start.
#[derive(Clone, Debug, Default)]
pub struct MemberCounters {
    /// Commands committed here and answered.
    pub commits: u64,
    /// How often it became leader.
    pub elections: u64,
    /// Frames that were not understood, or not for it, or beyond a limit, and dropped.
    pub frames_dropped: u64,
}

impl Member {
    /// Starts the replica on the present tokio runtime from what its folder holds. It is not ready
    /// on return: see [`Member::leader`] and [`Member::status`].
    ///
    /// # Errors
    /// The configuration, the folder, the log or the state machine's mark is bad, or the folder is
    /// empty and it was to resume.
    pub async fn start(
        _config: MemberConfig,
        _machine: Box<dyn StateMachine>,
        _wire: Arc<dyn Wire>,
    ) -> Result<Self, QuorumError> {
        Err(QuorumError::Replica("not built yet".to_owned()))
    }

    /// Takes in a frame that another replica handed to its wire for this one. Never blocks, and
    /// never trusts the bytes.
    pub fn deliver(&self, _from: u32, _frame: &[u8]) {}

    /// The replica that leads, as far as is known here.
    #[must_use]
    pub fn leader(&self) -> Option<u32> {
        *self.leadership.borrow()
    }

    /// Changes of [`Member::leader`].
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Option<u32>> {
        self.leadership.subscribe()
    }

    /// What the replica says of itself.
    #[must_use]
    pub fn status(&self) -> MemberStatus {
        MemberStatus {
            role: Role::Stopped,
            term: 0,
            leader: self.leader(),
            last: None,
            committed: None,
            applied: None,
            checkpoint: None,
            purged: None,
            log_bytes: 0,
            followers: Vec::new(),
            failure: None,
            counters: MemberCounters::default(),
        }
    }

    /// Stops as SIGKILL would: what was not written is gone.
    pub async fn kill(self) {}

    /// Stops with everything written that was asked for.
    pub async fn close(self) {}
}

impl QuorumLog for Member {
    /// Commits only where it leads: else [`CommitError::NotLeader`].
    async fn commit(&self, _command: Vec<u8>) -> Result<Committed, CommitError> {
        let _number = self.config.number;
        Err(CommitError::NotLeader { leader: None })
    }
}
