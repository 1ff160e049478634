//! A fleet in one process: n replicas, each with its own log, state machine and consensus task.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use hdrhistogram::Histogram;
use openraft::async_runtime::WatchReceiver;
use openraft::{ReadPolicy, ServerState};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::config::GroupConfig;
use super::machine::{self, Hold};
use super::recovery::Place;
use super::replica::{Opened, Replica, Room, check, mix, propose};
use super::transport::{Switchboard, Transport};
use super::types::{Command, Raft};
use super::wal::Meter;
use super::{CommitError, Committed, QuorumError, QuorumLog, StateMachine};

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
    /// Logs that were found cut off within their last frame, as a crash leaves them.
    pub torn_tails: u64,
}

/// A fleet in one process. It lives on the runtime that it was started on, whose timers must be
/// enabled; commits may come from any. A runtime of one thread that does nothing else keeps it out
/// of the way of long computations, which would delay heartbeats and cause elections.
pub struct Group {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    config: GroupConfig,
    library: Arc<openraft::Config>,
    make: Arc<Make>,
    pub(super) switchboard: Arc<Switchboard>,
    /// The runtime the replicas live on: a restarted one joins the others there.
    runtime: tokio::runtime::Handle,
    /// What commits need of replica n, at n − 1; `None` while it is down.
    running: RwLock<Vec<Option<Raft>>>,
    /// The replicas themselves. Held while one is killed or restarted, so that one of these happens
    /// at a time.
    slots: Mutex<Vec<Slot>>,
    pub(super) leadership: watch::Sender<Leadership>,
    meter: Arc<Meter>,
    failures: std::sync::Mutex<BTreeMap<u32, String>>,
    pub(super) in_flight: AtomicUsize,
    commits: AtomicU64,
    elections: AtomicU64,
}

/// Opens a replica's state machine.
type Make = dyn Fn(u32) -> io::Result<Box<dyn StateMachine>> + Send + Sync;

#[derive(Debug, Default)]
struct Slot {
    replica: Option<(Replica, JoinHandle<()>)>,
    /// How often it was started, so that no two lives have the same chance.
    lives: u64,
}

#[derive(Clone, Copy, Debug)]
enum Stop {
    Kill,
    Close,
}

/// Who leads, as the replicas last said of themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Leadership {
    pub(super) term: u64,
    pub(super) leader: Option<u32>,
}

impl Group {
    /// Starts every replica on the present tokio runtime, from what its folder holds, and returns
    /// when one of them leads and has applied everything that was ever committed. `make` opens the
    /// state machine of a replica's number; it is called again when a replica restarts, after the
    /// former one was dropped.
    ///
    /// # Errors
    /// The configuration, a folder or a log is bad, or nobody leads within the commit timeout.
    pub async fn start(
        config: GroupConfig,
        make: impl Fn(u32) -> io::Result<Box<dyn StateMachine>> + Send + Sync + 'static,
    ) -> Result<Self, QuorumError> {
        let library = Arc::new(config.library()?);
        let count = config.replicas;
        let shared = Arc::new(Shared {
            meter: Arc::new(Meter::new(Arc::clone(&config.clock))),
            config,
            library,
            make: Arc::new(make),
            switchboard: Arc::default(),
            runtime: tokio::runtime::Handle::current(),
            running: RwLock::new((0..count).map(|_| None).collect()),
            slots: Mutex::new((0..count).map(|_| Slot::default()).collect()),
            leadership: watch::Sender::default(),
            failures: std::sync::Mutex::default(),
            in_flight: AtomicUsize::new(0),
            commits: AtomicU64::new(0),
            elections: AtomicU64::new(0),
        });
        let group = Self { shared };
        if let Err(error) = group.found().await {
            group.shutdown().await;
            return Err(error);
        }
        if !group.shared.is_ready().await {
            group.shutdown().await;
            return Err(QuorumError::Consensus("no replica came to lead".to_owned()));
        }
        Ok(group)
    }

    /// Replicas, running or not.
    #[must_use]
    pub fn replicas(&self) -> u32 {
        self.shared.config.replicas
    }

    /// The replica that leads, as far as is known.
    #[must_use]
    pub fn leader(&self) -> Option<u32> {
        self.shared.leadership.borrow().leader
    }

    /// Commits at the present leader; looks for a new one only while the command is surely not
    /// proposed. The inherent form of [`QuorumLog::commit`].
    ///
    /// # Errors
    /// See [`CommitError`].
    pub async fn commit(&self, command: Vec<u8>) -> Result<Committed, CommitError> {
        let command = check(command)?;
        let deadline = Instant::now() + self.shared.config.commit_timeout;
        loop {
            let Some(leader) = self.shared.leader_by(deadline).await else {
                return Err(CommitError::NoLeader);
            };
            match self.shared.commit_at(leader, command.clone(), deadline).await {
                Err(CommitError::NotLeader { .. }) => {}
                settled => return settled,
            }
            // Who was thought to lead does not, or not now: time for the news to arrive.
            let pause = self.shared.config.heartbeat / 2;
            if Instant::now() + pause >= deadline {
                return Err(CommitError::NoLeader);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Commits at one replica, only if it leads.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub async fn commit_at(
        &self,
        replica: u32,
        command: Vec<u8>,
    ) -> Result<Committed, CommitError> {
        let command = check(command)?;
        let deadline = Instant::now() + self.shared.config.commit_timeout;
        self.shared.commit_at(replica, command, deadline).await
    }

    /// Stops a replica as SIGKILL would: what it had not written is gone, and commits waiting at it
    /// end as [`CommitError::Unavailable`]. Nothing happens if it is not running.
    pub async fn kill(&self, replica: u32) {
        self.shared.stop(replica, Stop::Kill).await;
    }

    /// Starts a killed replica again from its folder.
    ///
    /// # Errors
    /// It is running, there is no such replica, or its log is bad.
    pub async fn restart(&self, replica: u32) -> Result<(), QuorumError> {
        self.shared.on_runtime(replica, None).await
    }

    /// Cuts every link between a replica and the others, or mends them.
    pub fn isolate(&self, replica: u32, isolated: bool) {
        self.shared.switchboard.isolate(replica, isolated);
    }

    /// What the replicas did since the start.
    #[must_use]
    pub fn counters(&self) -> QuorumCounters {
        let meter = &self.shared.meter;
        let fsync_ns = meter.sync_ns.lock().unwrap_or_else(PoisonError::into_inner).clone();
        QuorumCounters {
            commits: self.shared.commits.load(Ordering::Relaxed),
            fsyncs: fsync_ns.len(),
            fsync_ns,
            torn_tails: meter.torn_tails.load(Ordering::Relaxed),
            elections: self.shared.elections.load(Ordering::Relaxed),
        }
    }

    /// The replicas that stopped by themselves, and why: a disk that failed, for one.
    #[must_use]
    pub fn failures(&self) -> Vec<(u32, String)> {
        let failures = self.shared.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.iter().map(|(replica, why)| (*replica, why.clone())).collect()
    }

    /// Stops every replica, with everything written that was asked for.
    pub async fn shutdown(&self) {
        self.shared.close().await;
    }

    /// Starts every replica, and makes them one group if nothing was ever written.
    async fn found(&self) -> Result<(), QuorumError> {
        let mut opened = Vec::new();
        for replica in 1..=self.replicas() {
            opened.push(Opened::open(self.shared.place(replica)).await?);
        }
        let founded = opened.iter().any(Opened::is_founded);
        for (number, opened) in (1..).zip(opened) {
            // A replica that forgot its votes could vote twice, and undo what was committed.
            if founded && opened.is_new() {
                let folder = self.shared.place(number).folder;
                let why = format!("{}: the log is gone, and others are not", folder.display());
                return Err(QuorumError::Disk(why));
            }
            self.shared.on_runtime(number, Some(opened)).await?;
        }
        if !founded {
            let first = self.shared.raft(1).expect("every replica was just started");
            let members: BTreeSet<u32> = (1..=self.replicas()).collect();
            let founded = first.initialize(members).await;
            founded.map_err(|error| QuorumError::Consensus(error.to_string()))?;
        }
        Ok(())
    }
}

impl Drop for Group {
    /// Replicas hold each other, so they would go on by themselves, and keep their folders.
    fn drop(&mut self) {
        let shared = Arc::clone(&self.shared);
        // On a runtime that is ending this does nothing, and the replicas end with it.
        drop(self.shared.runtime.spawn(async move { shared.close().await }));
    }
}

impl QuorumLog for Group {
    async fn commit(&self, command: Vec<u8>) -> Result<Committed, CommitError> {
        Self::commit(self, command).await
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("config", &self.shared.config)
            .field("leader", &self.leader())
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Starts a replica on the runtime of the others; from its folder, unless that is `opened`.
    async fn on_runtime(
        self: &Arc<Self>,
        number: u32,
        opened: Option<Opened>,
    ) -> Result<(), QuorumError> {
        let started = self.runtime.spawn(Arc::clone(self).start(number, opened));
        started.await.map_err(|error| QuorumError::Consensus(error.to_string()))?
    }

    async fn start(
        self: Arc<Self>,
        number: u32,
        opened: Option<Opened>,
    ) -> Result<(), QuorumError> {
        let mut slots = self.slots.lock().await;
        let Some(slot) = index(number).and_then(|index| slots.get_mut(index)) else {
            return Err(QuorumError::Replica(format!("there is no replica {number}")));
        };
        if slot.replica.is_some() {
            return Err(QuorumError::Replica(format!("replica {number} is running")));
        }
        let opened = match opened {
            Some(opened) => opened,
            None => Opened::open(self.place(number)).await?,
        };
        if slot.lives > 0 && opened.is_new() {
            return Err(QuorumError::Disk(format!("the log of replica {number} is gone")));
        }
        let make = Arc::clone(&self.make);
        let machine = machine::blocking(self.config.inline, move || make(number)).await;
        let machine =
            machine.map_err(|error| QuorumError::Disk(format!("replica {number}: {error}")))?;
        slot.lives += 1;
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        let replica = Replica::start(
            opened,
            Arc::clone(&self.library),
            Arc::clone(&self.switchboard) as Arc<dyn Transport>,
            machine,
            // Checkpoints go from hand to hand here, and nobody waits for one.
            Hold { sending: Arc::default(), entries_max: 0 },
            mix(self.config.seed, u64::from(number), slot.lives),
        )
        .await?;
        self.switchboard.connect(number, replica.raft.clone());
        self.set_running(number, Some(replica.raft.clone()));
        let watcher = tokio::spawn(Arc::clone(&self).watch(number, replica.raft.clone()));
        slot.replica = Some((replica, watcher));
        Ok(())
    }

    /// Takes a replica out of the group, and returns once nothing of it runs any more.
    async fn stop(&self, number: u32, how: Stop) {
        let mut slots = self.slots.lock().await;
        let slot = index(number).and_then(|index| slots.get_mut(index));
        let Some((replica, watcher)) = slot.and_then(|slot| slot.replica.take()) else { return };
        self.set_running(number, None);
        self.switchboard.disconnect(number);
        watcher.abort();
        self.resign(number);
        match how {
            Stop::Kill => replica.kill().await,
            Stop::Close => replica.close().await,
        }
    }

    async fn close(&self) {
        for replica in 1..=self.config.replicas {
            self.stop(replica, Stop::Close).await;
        }
    }

    fn place(&self, replica: u32) -> Place {
        self.config.place(replica, true, Arc::clone(&self.meter))
    }

    async fn commit_at(
        &self,
        replica: u32,
        command: Command,
        deadline: Instant,
    ) -> Result<Committed, CommitError> {
        let Some(raft) = self.raft(replica) else {
            return Err(CommitError::NotLeader { leader: None });
        };
        let _room = Room::take(&self.in_flight, self.config.in_flight_max)?;
        let committed = propose(&raft, command, deadline).await?;
        self.commits.fetch_add(1, Ordering::Relaxed);
        Ok(committed)
    }

    /// The leader, as soon as there is one; `None` if there is none until `deadline`.
    pub(super) async fn leader_by(&self, deadline: Instant) -> Option<u32> {
        if let Some(leader) = self.leadership.borrow().leader {
            return Some(leader);
        }
        let mut leadership = self.leadership.subscribe();
        let elected = leadership.wait_for(|leadership| leadership.leader.is_some());
        tokio::time::timeout_at(deadline, elected).await.ok()?.ok()?.leader
    }

    /// Waits until there is a leader that a majority follows and that has applied what was committed
    /// before; whether that came true within the commit timeout.
    async fn is_ready(&self) -> bool {
        let deadline = Instant::now() + self.config.commit_timeout;
        while let Some(leader) = self.leader_by(deadline).await {
            if let Some(raft) = self.raft(leader) {
                let ready = raft.ensure_linearizable(ReadPolicy::ReadIndex);
                if matches!(tokio::time::timeout_at(deadline, ready).await, Ok(Ok(_))) {
                    return true;
                }
            }
            if Instant::now() >= deadline {
                break;
            }
            tokio::time::sleep(self.config.heartbeat / 2).await;
        }
        false
    }

    /// Follows what a replica says of itself until it stops.
    async fn watch(self: Arc<Self>, number: u32, raft: Raft) {
        let mut metrics = raft.server_metrics();
        let all = raft.metrics();
        drop(raft);
        loop {
            let (leads, term) = {
                let now = metrics.borrow_and_update();
                // It leads once a majority has confirmed its vote, not when it merely counts them.
                let leads = now.state == ServerState::Leader && now.current_leader == Some(number);
                (leads, now.vote.leader_id.term)
            };
            if leads {
                self.lead(number, term)
            } else {
                self.resign(number)
            }
            if metrics.changed().await.is_err() {
                break;
            }
        }
        self.resign(number);
        // Killed replicas do not come here: their watch ends first.
        if let Err(fatal) = &all.borrow_watched().running_state {
            let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            failures.insert(number, fatal.to_string());
        }
    }

    fn lead(&self, number: u32, term: u64) {
        let elected = self.leadership.send_if_modified(|now| {
            let next = Leadership { term, leader: Some(number) };
            let newer = term >= now.term && *now != next;
            if newer {
                *now = next;
            }
            newer
        });
        if elected {
            self.elections.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn resign(&self, number: u32) {
        self.leadership.send_if_modified(|now| {
            let led = now.leader == Some(number);
            if led {
                now.leader = None;
            }
            led
        });
    }

    pub(super) fn raft(&self, number: u32) -> Option<Raft> {
        let running = self.running.read().unwrap_or_else(PoisonError::into_inner);
        running.get(index(number)?).cloned().flatten()
    }

    fn set_running(&self, number: u32, raft: Option<Raft>) {
        let mut running = self.running.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = index(number).and_then(|index| running.get_mut(index)) {
            *slot = raft;
        }
    }
}

/// Replica n is at n − 1.
fn index(replica: u32) -> Option<usize> {
    usize::try_from(replica.checked_sub(1)?).ok()
}
