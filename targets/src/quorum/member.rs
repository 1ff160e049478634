//! One replica of a fleet of processes, reached over a [`Wire`].

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hdrhistogram::Histogram;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{InitializeError, RaftError};
use openraft::{Instant as _, ServerState};
use openraft_rt::deterministic_rng::DeterministicRng;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::caretaker;
use super::machine::Hold;
use super::parcel::Spool;
use super::post::{Mail, Post, PostConfig, lock, number_of, replacement_id};
use super::replica::{Opened, Replica, Room, check, mix, propose};
use super::types::{Raft, Runtime};
use super::wal::Meter;
use super::{
    CommitError, Committed, MemberConfig, QuorumError, QuorumLog, Start, StateMachine, Wire,
};

/// While a checkpoint is on its way to another replica, the log behind it is kept for up to so many
/// times the entries between two checkpoints.
const HOLD: u64 = 10;

/// One running replica of a group whose others are elsewhere. It lives on the runtime that it was
/// started on, whose timers must be enabled; frames and commits may come from any. A runtime of one
/// thread that does nothing else keeps it out of the way of long computations.
pub struct Member {
    shared: Arc<Shared>,
    replica: Option<Replica>,
    tasks: Vec<JoinHandle<()>>,
}

pub(super) struct Shared {
    pub(super) config: MemberConfig,
    pub(super) raft: Raft,
    pub(super) post: Arc<Post>,
    leadership: watch::Sender<Option<u32>>,
    meter: Arc<Meter>,
    failure: Mutex<Option<String>>,
    in_flight: AtomicUsize,
    commits: AtomicU64,
    elections: AtomicU64,
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
    /// Bytes that the log takes on disk.
    pub log_bytes: u64,
    /// If it leads: the others.
    pub followers: Vec<FollowerStatus>,
    /// Why it stopped by itself, or why it cannot do something it should.
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
#[derive(Clone, Debug)]
pub struct MemberCounters {
    /// Commands committed here and answered.
    pub commits: u64,
    /// How often it became leader.
    pub elections: u64,
    /// Frames that were not understood, or not for it, or too late, or beyond a limit.
    pub frames_dropped: u64,
    /// Frames sent again because no answer came in time.
    pub frames_resent: u64,
    /// Checkpoints that another replica took from it.
    pub checkpoints_sent: u64,
    /// Checkpoints that it took from another.
    pub checkpoints_taken: u64,
    /// How long each fdatasync of its log took, in nanoseconds.
    pub fsync_ns: Histogram<u64>,
    /// Whether its log was found cut off within the last frame, as a crash leaves it.
    pub torn_tails: u64,
}

impl Member {
    /// Starts the replica on the present tokio runtime from what its folder holds. It is not ready
    /// on return: see [`Member::leader`] and [`Member::status`].
    ///
    /// # Errors
    /// The configuration, the folder, the log or the state machine's mark is bad, or the folder has
    /// no log and the replica was to resume.
    pub async fn start(
        config: MemberConfig,
        machine: Box<dyn StateMachine>,
        wire: Arc<dyn Wire>,
    ) -> Result<Self, QuorumError> {
        let (number, group) = (config.number, &config.group);
        let library = Arc::new(group.library()?);
        if !(1..=group.replicas).contains(&number) {
            let last = group.replicas;
            return Err(QuorumError::Config(format!("a replica from 1 to {last}, not {number}")));
        }
        let meter = Arc::new(Meter::new(Arc::clone(&group.clock)));
        // No two starts of a replica have the same chance, and no two replacements the same id.
        let life = group.life(u64::from(number));
        let id = match config.start {
            Start::Found | Start::Resume => number,
            Start::Replace => replacement_id(number, life),
        };
        // A replica that forgot its votes could vote twice, and undo what was committed.
        let may_begin = match config.start {
            Start::Found => machine.mark().is_none(),
            Start::Resume => false,
            Start::Replace => true,
        };
        let place = group.place(id, may_begin, Arc::clone(&meter));
        let folder = place.folder.clone();
        let opened = Opened::open(place).await?;
        let founds = config.start == Start::Found && !opened.is_founded();
        let sending = Arc::<AtomicUsize>::default();
        let post = Post::new(PostConfig {
            me: opened.id(),
            wire,
            patience: group.election_timeout_max,
            heartbeat: group.heartbeat,
            life,
            spool: Spool {
                disk: Arc::clone(&group.disk),
                folder,
                inline: group.inline,
                alone: Arc::default(),
            },
            sending: Arc::clone(&sending),
        });
        let hold = Hold { sending, entries_max: group.snapshot_every.saturating_mul(HOLD) };
        let mail = Arc::new(Mail(Arc::clone(&post)));
        let replica = Replica::start(opened, library, mail, machine, hold, life).await?;
        let raft = replica.raft.clone();
        post.open(raft.clone());
        let shared = Arc::new(Shared {
            raft,
            post,
            leadership: watch::Sender::default(),
            meter,
            failure: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            commits: AtomicU64::new(0),
            elections: AtomicU64::new(0),
            config,
        });
        let tasks = vec![
            tokio::spawn(Arc::clone(&shared).watch()),
            tokio::spawn(DeterministicRng::<Runtime>::scope(
                mix(life, 0, u64::from(number)),
                caretaker::take_care(Arc::clone(&shared)),
            )),
        ];
        let member = Self { shared, replica: Some(replica), tasks };
        if founds {
            member.found().await?;
        }
        Ok(member)
    }

    /// Takes in a frame that another replica handed to its wire for this one. Never blocks, and
    /// never trusts the bytes.
    pub fn deliver(&self, from: u32, frame: &[u8]) {
        self.shared.post.deliver(from, frame);
    }

    /// Which replica this is.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.shared.config.number
    }

    /// The replica that leads, as far as is known here.
    #[must_use]
    pub fn leader(&self) -> Option<u32> {
        *self.shared.leadership.borrow()
    }

    /// Changes of [`Member::leader`].
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Option<u32>> {
        self.shared.leadership.subscribe()
    }

    /// What the replica says of itself.
    #[must_use]
    pub fn status(&self) -> MemberStatus {
        self.shared.status()
    }

    /// Stops as SIGKILL would: what was not written is gone.
    pub async fn kill(mut self) {
        self.shared.end(&self.tasks);
        if let Some(replica) = self.replica.take() {
            replica.kill().await;
        }
    }

    /// Stops with everything written that was asked for.
    pub async fn close(mut self) {
        self.shared.end(&self.tasks);
        if let Some(replica) = self.replica.take() {
            replica.close().await;
        }
    }

    /// Makes the replicas a group. Each may do so: all say the same.
    async fn found(&self) -> Result<(), QuorumError> {
        let members: std::collections::BTreeSet<u32> =
            (1..=self.shared.config.group.replicas).collect();
        match self.shared.raft.initialize(members).await {
            // Another one was faster, and has sent what makes this one a member.
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(QuorumError::Consensus(error.to_string())),
        }
    }
}

impl QuorumLog for Member {
    /// Commits only where it leads: else [`CommitError::NotLeader`].
    async fn commit(&self, command: Vec<u8>) -> Result<Committed, CommitError> {
        let shared = &self.shared;
        let command = check(command)?;
        let _room = Room::take(&shared.in_flight, shared.config.group.in_flight_max)?;
        let deadline = Instant::now() + shared.config.group.commit_timeout;
        let committed = propose(&shared.raft, command, deadline).await?;
        shared.commits.fetch_add(1, Ordering::Relaxed);
        Ok(committed)
    }
}

impl Drop for Member {
    /// The replica's tasks would go on by themselves, and keep its folder.
    fn drop(&mut self) {
        self.shared.end(&self.tasks);
        if let Some(replica) = self.replica.take() {
            // On a runtime that is ending this does nothing, and the replica ends with it.
            drop(self.shared.post.runtime.spawn(replica.close()));
        }
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("number", &self.shared.config.number)
            .field("leader", &self.leader())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn end(&self, tasks: &[JoinHandle<()>]) {
        tasks.iter().for_each(JoinHandle::abort);
        self.post.close();
        self.leadership.send_replace(None);
    }

    /// Whether this replica leads, and a majority has confirmed it.
    pub(super) fn leads(&self) -> bool {
        *self.leadership.borrow() == Some(self.config.number)
    }

    /// Whether a majority has answered this leader, or has elected it, within the time after which
    /// others would stand for election, twice: then nobody else leads, most likely.
    fn is_followed(&self, since: Instant) -> bool {
        let patience = self.config.group.election_timeout_max * 2;
        let acked = self.raft.metrics().borrow_watched().last_quorum_acked;
        let silent = acked.map_or(since.elapsed(), |at| at.elapsed().min(since.elapsed()));
        self.config.group.replicas == 1 || silent < patience
    }

    /// Follows what the replica says of itself until it stops.
    async fn watch(self: Arc<Self>) {
        let mut metrics = self.raft.server_metrics();
        // Since when it leads.
        let mut since = None;
        loop {
            let (leader, leads) = {
                let now = metrics.borrow_and_update();
                (now.current_leader.map(number_of), now.state == ServerState::Leader)
            };
            since = if leads { since.or_else(|| Some(Instant::now())) } else { None };
            // It leads once a majority has confirmed its vote, not when it merely counts them; and for
            // as long as a majority answers. The library would have it lead for ever alone.
            let leads = since.is_some_and(|since| self.is_followed(since));
            let leader = leader.filter(|leader| *leader != self.config.number || leads);
            let changed = self.leadership.send_if_modified(|now| {
                let changed = *now != leader;
                *now = leader;
                changed
            });
            if changed && leader == Some(self.config.number) {
                self.elections.fetch_add(1, Ordering::Relaxed);
            }
            let changed = metrics.changed();
            let ended = if since.is_some() {
                // Silence is no change of the library's.
                let look = tokio::time::timeout(self.config.group.heartbeat, changed).await;
                look.is_ok_and(|changed| changed.is_err())
            } else {
                changed.await.is_err()
            };
            if ended {
                break;
            }
        }
        self.leadership.send_replace(None);
        // Killed replicas do not come here: their watch ends first.
        if let Err(fatal) = &self.raft.metrics().borrow_watched().running_state {
            *lock(&self.failure) = Some(fatal.to_string());
        }
    }

    fn status(&self) -> MemberStatus {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let failure = lock(&self.failure).clone().or_else(|| lock(&self.post.trouble).clone());
        let role = match metrics.state {
            _ if metrics.running_state.is_err() => Role::Stopped,
            ServerState::Leader => Role::Leader,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Learner => Role::Learner,
            ServerState::Shutdown => Role::Stopped,
        };
        let membership = metrics.membership_config.membership();
        let voters: Vec<u32> = membership.voter_ids().collect();
        let last = metrics.last_log_index;
        let followers = metrics.replication.iter().flatten();
        let followers = followers.filter(|(id, _)| **id != self.post.me).map(|(id, matched)| {
            let matched = matched.map(|matched| matched.index);
            let lag = last.map_or(0, |last| last + 1) - matched.map_or(0, |matched| matched + 1);
            FollowerStatus { replica: number_of(*id), voter: voters.contains(id), matched, lag }
        });
        let counters = &self.post.counters;
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        MemberStatus {
            role,
            term: metrics.current_term,
            leader: *self.leadership.borrow(),
            last,
            committed: metrics.cluster_committed.map(|id| id.index),
            applied: metrics.last_applied.map(|id| id.index),
            checkpoint: metrics.snapshot.map(|id| id.index),
            purged: metrics.purged.map(|id| id.index),
            log_bytes: load(&self.meter.segments) * self.config.group.segment_bytes,
            followers: followers.collect(),
            failure,
            counters: MemberCounters {
                commits: load(&self.commits),
                elections: load(&self.elections),
                frames_dropped: load(&counters.dropped),
                frames_resent: load(&counters.resent),
                checkpoints_sent: load(&counters.checkpoints_sent),
                checkpoints_taken: load(&counters.checkpoints_taken),
                fsync_ns: lock(&self.meter.sync_ns).clone(),
                torn_tails: load(&self.meter.torn_tails),
            },
        }
    }
}
