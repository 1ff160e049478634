//! What arrives at a replica's socket, and what is done about it.
//!
//! Everybody connects to the same address and says who they are: another replica, a relay, an
//! operator, a benchmark. Each may do its own things and nothing else; whoever has nothing to say in
//! time, or says what is no frame, is hung up on.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, UNIX_EPOCH};

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use vaultmark_hsm::{Clock, HsmPool, Moment};

use super::client::IN_FLIGHT_MAX;
use super::frame::{Ask, Hello, Role, Say, Why, purpose};
use super::link::{self, LinkKey, Receiver, Side};
use super::outbox::Outbox;
use super::peers::Peers;
use super::replica::ReplicaConfig;
use super::status::{DeviceStatus, GroupStatus, ReplicaCounters, ReplicaStatus};
use super::within;
use super::wrappers::{self, JumpingClock};
use crate::client::WRAPPED_LEN;
use crate::fault::Fault;
use crate::quorum::{self, Member, QuorumLog};
use crate::vault::channel::ChannelServer;
use crate::vault::command::{Command, RECORD_LEN_MAX, RegistrationRef};
use crate::vault::{AccountId, AttemptId, RegistrationId, VaultServer};

/// Connections in all: seven replicas, and some tens of relays, operators and benchmarks.
const CONNECTIONS_MAX: usize = 256;
/// How long a connection may take to say who it is and shake hands.
const HELLO_TIMEOUT: Duration = Duration::from_secs(3);
/// Frames of channels being answered, of all connections: some seconds of a busy replica.
const FORWARDS_MAX: usize = 16_384;
/// Bytes of replies that wait for one connection: those of everything in flight on it.
const REPLIES_LEN_MAX: usize = 16 << 20;
/// Files that are counted in a replica's folder; more are not there.
const FILES_MAX: usize = 100_000;

/// One group's part in this process.
pub(super) struct Hosted {
    pub(super) member: Arc<Member>,
    pub(super) core: Arc<VaultServer<Member>>,
    pub(super) channel: ChannelServer<VaultServer<Member>>,
}

/// See the head of this file.
pub(super) struct Service {
    config: ReplicaConfig,
    key: LinkKey,
    clock: Arc<dyn Clock>,
    calendar: Arc<JumpingClock>,
    started: Moment,
    pool: Arc<HsmPool>,
    peers: Arc<Peers>,
    groups: RwLock<Vec<Arc<Hosted>>>,
    consensus: Handle,
    /// Connections that live on the consensus thread.
    connections: Mutex<JoinSet<()>>,
    connections_room: Arc<Semaphore>,
    forwards_room: Arc<Semaphore>,
    /// What faults add: to each sync of the disk, to each evaluation of the device.
    slow: (Arc<AtomicU64>, Arc<AtomicU64>),
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    forwarded: AtomicU64,
    not_forwarded: AtomicU64,
    charged: AtomicU64,
    connections: AtomicU64,
    connections_refused: AtomicU64,
}

impl Service {
    #[expect(clippy::too_many_arguments, reason = "the parts of a replica, put together once")]
    pub(super) fn new(
        config: ReplicaConfig,
        key: LinkKey,
        clock: Arc<dyn Clock>,
        calendar: Arc<JumpingClock>,
        pool: Arc<HsmPool>,
        peers: Arc<Peers>,
        groups: Vec<Hosted>,
        consensus: Handle,
        slow: (Arc<AtomicU64>, Arc<AtomicU64>),
    ) -> Self {
        Self {
            started: clock.now(),
            config,
            key,
            clock,
            calendar,
            pool,
            peers,
            groups: RwLock::new(groups.into_iter().map(Arc::new).collect()),
            consensus,
            connections: Mutex::default(),
            connections_room: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            forwards_room: Arc::new(Semaphore::new(FORWARDS_MAX)),
            slow,
            counters: Counters::default(),
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.config.addresses[self.config.number as usize - 1]
    }

    /// Why a group stopped by itself.
    pub(super) fn failure(&self) -> Option<String> {
        let groups = self.groups();
        groups.iter().find_map(|hosted| {
            let status = hosted.member.status();
            // What it only cannot do at the moment is told in the status.
            if status.role == quorum::Role::Stopped { status.failure } else { None }
        })
    }

    /// Stops answering clients.
    pub(super) fn kill(&self) {
        for hosted in self.groups() {
            hosted.core.kill();
        }
    }

    /// Hangs up on everybody; the members that nobody uses any more. To be called on the consensus
    /// thread, when the other one has ended.
    pub(super) async fn end(self: Arc<Self>) -> Vec<Member> {
        let mut connections = std::mem::take(&mut *self.connections());
        connections.shutdown().await;
        let groups =
            std::mem::take(&mut *self.groups.write().unwrap_or_else(PoisonError::into_inner));
        let members = groups.into_iter().filter_map(Arc::into_inner).filter_map(|hosted| {
            let Hosted { member, core, channel } = hosted;
            drop((core, channel));
            Arc::into_inner(member)
        });
        members.collect()
    }

    /// Takes connections, for as long as the listener stands.
    pub(super) async fn listen(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of file descriptors, most likely: some will be free again.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let Ok(room) = Arc::clone(&self.connections_room).try_acquire_owned() else {
                self.counters.connections_refused.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            self.counters.connections.fetch_add(1, Ordering::Relaxed);
            let service = Arc::clone(&self);
            drop(tokio::spawn(async move {
                if service.receive(stream, room).await.is_none() {
                    service.counters.connections_refused.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
    }

    /// Hears who speaks and lets them; `None`: they were not let.
    async fn receive(
        self: &Arc<Self>,
        mut stream: TcpStream,
        room: tokio::sync::OwnedSemaphorePermit,
    ) -> Option<()> {
        let heard = within(&*self.clock, HELLO_TIMEOUT, link::hear_hello(&mut stream)).await;
        let bytes = heard?.ok()?;
        let hello = Hello::decode(&bytes).filter(|hello| hello.to == self.config.number)?;
        match hello.role {
            Role::Relay | Role::Operator => {
                let (sender, receiver) = self.open(stream, &bytes, hello.role).await?;
                self.converse(sender, receiver, hello.role).await;
            }
            Role::Bench if !self.config.charges => return None,
            Role::Peer(from) if from == self.config.number || !self.has_replica(from) => {
                return None;
            }
            Role::Peer(_) | Role::Bench => {
                // A socket belongs to the runtime that it was opened on: there it is taken apart, and
                // on the consensus thread put together again, so that no frame changes threads.
                let stream = stream.into_std().ok()?;
                let service = Arc::clone(self);
                let task = async move {
                    let _room = room;
                    let Ok(stream) = TcpStream::from_std(stream) else { return };
                    let Some((sender, receiver)) = service.open(stream, &bytes, hello.role).await
                    else {
                        service.counters.connections_refused.fetch_add(1, Ordering::Relaxed);
                        return;
                    };
                    match hello.role {
                        Role::Peer(from) => service.hear_peer(receiver, from).await,
                        _ => service.charge_for(sender, receiver).await,
                    }
                };
                let mut connections = self.connections();
                while connections.try_join_next().is_some() {}
                drop(connections.spawn_on(task, &self.consensus));
            }
        }
        Some(())
    }

    fn has_replica(&self, number: u32) -> bool {
        number >= 1 && number as usize <= self.config.addresses.len()
    }

    async fn open(
        &self,
        stream: TcpStream,
        hello: &[u8],
        role: Role,
    ) -> Option<(link::Sender, Receiver)> {
        let key = role.is_sealed().then_some(&self.key);
        let opened = link::open(stream, Side::Accepted, hello, key);
        within(&*self.clock, HELLO_TIMEOUT, opened).await?.ok()
    }

    /// A relay or an operator, until either side ends it.
    async fn converse(self: &Arc<Self>, mut sender: link::Sender, receiver: Receiver, role: Role) {
        let outbox = Arc::new(Outbox::new(REPLIES_LEN_MAX));
        tokio::select! {
            biased;
            () = self.hear(receiver, &outbox, role) => {}
            _ended = outbox.drain(&mut sender, &*self.clock) => {}
        }
        outbox.close();
    }

    async fn hear(self: &Arc<Self>, mut receiver: Receiver, outbox: &Arc<Outbox>, role: Role) {
        let room = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        while let Ok(Some(body)) = receiver.next().await {
            let Some(ask) = Ask::decode(body) else { return };
            let reply = |say: Say<'_>| {
                let _lost = outbox.push(Moment::ZERO, say.encode());
            };
            match (role, ask) {
                (Role::Relay, Ask::Forward { id, group, account, purpose: code, frame }) => {
                    let places = Arc::clone(&room).try_acquire_owned();
                    let places = places.and_then(|it| {
                        Ok((it, Arc::clone(&self.forwards_room).try_acquire_owned()?))
                    });
                    let ready = match (self.leading(group), purpose(code), places) {
                        (Err(why), ..) => Err(why),
                        (_, None, _) => Err(Why::Failed("a purpose of another version")),
                        (.., Err(_)) => Err(Why::Busy),
                        (Ok(hosted), Some(purpose), Ok(places)) => Ok((hosted, purpose, places)),
                    };
                    let (hosted, purpose, places) = match ready {
                        Ok(ready) => ready,
                        Err(why) => {
                            self.counters.not_forwarded.fetch_add(1, Ordering::Relaxed);
                            reply(Say::Not { id, why });
                            continue;
                        }
                    };
                    let (service, outbox) = (Arc::clone(self), Arc::clone(outbox));
                    let frame = frame.to_vec();
                    drop(tokio::spawn(async move {
                        let answer = hosted.channel.answer(account, purpose, &frame).await;
                        let counters = &service.counters;
                        let say = match &answer {
                            Ok(bytes) => {
                                counters.forwarded.fetch_add(1, Ordering::Relaxed);
                                Say::Done { id, bytes }
                            }
                            Err(refusal) => {
                                counters.not_forwarded.fetch_add(1, Ordering::Relaxed);
                                Say::Not { id, why: Why::Refused(refusal.code()) }
                            }
                        };
                        let _lost = outbox.push(Moment::ZERO, say.encode());
                        drop(places);
                    }));
                }
                (Role::Operator, Ask::Status { id }) => {
                    let status = postcard::to_stdvec(&self.status());
                    let bytes = status.expect("a status is numbers and texts, which serialise");
                    reply(Say::Done { id, bytes: &bytes });
                }
                (Role::Operator, Ask::Fault { id, words }) => match self.fault(words) {
                    Ok(()) => reply(Say::Done { id, bytes: &[] }),
                    Err(why) => reply(Say::Not { id, why: Why::Failed(&why) }),
                },
                (_, Ask::Ping { id }) => reply(Say::Done { id, bytes: &[] }),
                (
                    _,
                    Ask::Forward { id, .. }
                    | Ask::Charge { id, .. }
                    | Ask::Enroll { id, .. }
                    | Ask::Status { id }
                    | Ask::Fault { id, .. },
                ) => reply(Say::Not { id, why: Why::NotAllowed }),
                (_, Ask::Consensus { .. }) => return,
            }
        }
    }

    /// Another replica's frames, until it hangs up.
    async fn hear_peer(&self, mut receiver: Receiver, from: u32) {
        let members: Vec<_> =
            self.groups().iter().map(|hosted| Arc::downgrade(&hosted.member)).collect();
        while let Ok(Some(body)) = receiver.next().await {
            let Some(Ask::Consensus { group, bytes }) = Ask::decode(body) else { return };
            let Some(member) = index(group).and_then(|at| members.get(at)) else { return };
            let Some(member) = member.upgrade() else { return };
            member.deliver(from, bytes);
        }
    }

    /// A benchmark, until either side ends it. All of it on the consensus thread: between a request's
    /// bytes and its commit nothing waits for another thread.
    async fn charge_for(self: &Arc<Self>, mut sender: link::Sender, mut receiver: Receiver) {
        let outbox = Arc::new(Outbox::new(REPLIES_LEN_MAX));
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        let hear = async {
            while let Ok(Some(body)) = receiver.next().await {
                let (id, group, account, attempt) = match Ask::decode(body) {
                    Some(Ask::Charge { id, group, account, attempt }) => {
                        (id, group, account, Some(attempt))
                    }
                    Some(Ask::Enroll { id, group, account }) => (id, group, account, None),
                    Some(Ask::Ping { id }) => {
                        let _lost =
                            outbox.push(Moment::ZERO, Say::Done { id, bytes: &[] }.encode());
                        continue;
                    }
                    _ => return,
                };
                let ready = match (self.leading(group), Arc::clone(&in_flight).try_acquire_owned())
                {
                    (Err(why), _) => Err(why),
                    (_, Err(_)) => Err(Why::Busy),
                    (Ok(hosted), Ok(place)) => Ok((hosted, place)),
                };
                let (hosted, place) = match ready {
                    Ok(ready) => ready,
                    Err(why) => {
                        let _lost = outbox.push(Moment::ZERO, Say::Not { id, why }.encode());
                        continue;
                    }
                };
                let (service, outbox) = (Arc::clone(self), Arc::clone(&outbox));
                drop(tokio::spawn(async move {
                    let done = match attempt {
                        Some(attempt) => service.charge(&hosted, account, attempt).await,
                        None => service.enroll(&hosted, account).await,
                    };
                    let say = match done {
                        Ok(()) => Say::Done { id, bytes: &[] },
                        Err(why) => Say::Not { id, why },
                    };
                    let _lost = outbox.push(Moment::ZERO, say.encode());
                    drop(place);
                }));
            }
        };
        tokio::select! {
            biased;
            () = hear => {}
            _ended = outbox.drain(&mut sender, &*self.clock) => {}
        }
        outbox.close();
    }

    async fn charge(
        &self,
        hosted: &Hosted,
        account: AccountId,
        attempt: AttemptId,
    ) -> Result<(), Why<'static>> {
        let command = Command::Charge { account, attempt, now_ms: self.now_ms() };
        let committed = hosted.member.commit(command.encode()).await;
        committed.map_err(|error| Why::of_commit(&error))?;
        self.counters.charged.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// A record as long as a real one, which no password opens: its key is nobody's.
    async fn enroll(&self, hosted: &Hosted, account: AccountId) -> Result<(), Why<'static>> {
        let (id, now_ms) = (RegistrationId([0; 16]), self.now_ms());
        let registration = RegistrationRef {
            id,
            record: &[0; RECORD_LEN_MAX],
            verifying_key: [0; 32],
            wrapped_key: &[0; WRAPPED_LEN],
        };
        let commands = [
            Command::RegisterPending { account, registration, now_ms },
            Command::Confirm { account, registration: id, now_ms },
        ];
        for command in commands {
            let committed = hosted.member.commit(command.encode()).await;
            committed.map_err(|error| Why::of_commit(&error))?;
        }
        Ok(())
    }

    /// The stamp of commands.
    fn now_ms(&self) -> u64 {
        let origin = self.calendar.origin().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = origin + self.clock.now().since(Moment::ZERO);
        u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
    }

    /// The group's part here, if this replica leads it.
    fn leading(&self, group: u32) -> Result<Arc<Hosted>, Why<'static>> {
        let hosted = {
            let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
            index(group).and_then(|at| groups.get(at)).cloned().ok_or(Why::NoSuchGroup)?
        };
        match hosted.member.leader() {
            Some(leader) if leader == self.config.number => Ok(hosted),
            leader => Err(Why::NotLeader(leader)),
        }
    }

    /// Does to this replica what a fault says.
    fn fault(&self, words: &str) -> Result<(), String> {
        let own = self.config.number;
        match words.parse::<Fault>()? {
            Fault::Link { way, state } => self.peers.set(way, state),
            Fault::SlowDisk(replica, more) if replica == own => wrappers::set(&self.slow.0, more),
            Fault::SlowHsm(replica, more) if replica == own => wrappers::set(&self.slow.1, more),
            Fault::JumpClock(replica, ms) if replica == own => {
                self.calendar.jump(ms);
                for hosted in self.groups() {
                    hosted.core.sweep_soon();
                }
            }
            Fault::KillHsmSession(session) => {
                let index = usize::try_from(session).ok().and_then(|it| it.checked_sub(1));
                let index = index.filter(|index| *index < self.pool.sessions());
                let index = index.ok_or_else(|| format!("there is no HSM session {session}"))?;
                self.pool.kill_session(index);
            }
            _ => return Err(format!("replica {own} does not do \"{words}\" to itself")),
        }
        Ok(())
    }

    /// The faults in force, in their own words.
    fn faults(&self) -> Vec<String> {
        let own = self.config.number;
        let time = |more: &AtomicU64| Duration::from_nanos(more.load(Ordering::Relaxed));
        let (disk, device) = (time(&self.slow.0), time(&self.slow.1));
        let mut faults = self.peers.faults();
        if !disk.is_zero() {
            faults.push(Fault::SlowDisk(own, disk));
        }
        if !device.is_zero() {
            faults.push(Fault::SlowHsm(own, device));
        }
        if self.calendar.moved_ms() != 0 {
            faults.push(Fault::JumpClock(own, self.calendar.moved_ms()));
        }
        faults.iter().map(ToString::to_string).collect()
    }

    fn status(&self) -> ReplicaStatus {
        let (info, pool) = (self.pool.info(), self.pool.counters());
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let up = self.clock.now().since(self.started);
        ReplicaStatus {
            replica: self.config.number,
            pid: std::process::id(),
            up_ms: u64::try_from(up.as_millis()).unwrap_or(u64::MAX),
            groups: (1..).zip(self.groups()).map(|(n, it)| group_status(n, &it.member)).collect(),
            device: DeviceStatus {
                name: info.name.clone(),
                description: info.description.clone(),
                provision: info.provision.name().to_owned(),
                suite: info.suite.name().to_owned(),
                caveat: info.caveat.clone(),
                modelled: info.modelled.clone(),
                sessions: u32::try_from(self.pool.sessions()).unwrap_or(u32::MAX),
                evaluations: pool.evaluations,
                device_calls: pool.device_calls,
                failures: pool.failures,
                sessions_reopened: pool.sessions_reopened,
                wrong_answers: pool.wrong_answers,
            },
            disk_bytes: bytes_in(&self.config.folder),
            links: self.peers.status(),
            faults: self.faults(),
            counters: ReplicaCounters {
                forwarded: count(&self.counters.forwarded),
                not_forwarded: count(&self.counters.not_forwarded),
                charged: count(&self.counters.charged),
                connections: count(&self.counters.connections),
                connections_refused: count(&self.counters.connections_refused),
            },
        }
    }

    fn groups(&self) -> Vec<Arc<Hosted>> {
        self.groups.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn connections(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The place of a group, which are numbered from 1.
fn index(group: u32) -> Option<usize> {
    usize::try_from(group).ok()?.checked_sub(1)
}

fn group_status(group: u32, member: &Member) -> GroupStatus {
    let status = member.status();
    let fsync_ns = &status.counters.fsync_ns;
    GroupStatus {
        group,
        role: format!("{:?}", status.role).to_lowercase(),
        term: status.term,
        leader: status.leader,
        last: status.last.unwrap_or_default(),
        committed: status.committed.unwrap_or_default(),
        applied: status.applied.unwrap_or_default(),
        checkpoint: status.checkpoint.unwrap_or_default(),
        log_bytes: status.log_bytes,
        lags: status.followers.iter().map(|it| (it.replica, it.lag)).collect(),
        commits: status.counters.commits,
        elections: status.counters.elections,
        frames_dropped: status.counters.frames_dropped,
        fsyncs: fsync_ns.len(),
        fsync_p50_ns: fsync_ns.value_at_quantile(0.5),
        fsync_p99_ns: fsync_ns.value_at_quantile(0.99),
        fsync_max_ns: fsync_ns.max(),
        failure: status.failure,
    }
}

/// Bytes of all files in a folder and those below; what cannot be read is not counted.
fn bytes_in(folder: &Path) -> u64 {
    let (mut bytes, mut seen) = (0, 0);
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries: io::Result<Vec<_>> = std::fs::read_dir(&folder).and_then(Iterator::collect);
        for entry in entries.unwrap_or_default() {
            seen += 1;
            if seen > FILES_MAX {
                return bytes;
            }
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                // What is allocated: logs are made longer than they are, in advance.
                Ok(metadata) => bytes += std::os::unix::fs::MetadataExt::blocks(&metadata) * 512,
                Err(_) => {}
            }
        }
    }
    bytes
}
