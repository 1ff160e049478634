//! The simulated fleet: replicas that start, crash and are replaced, each with a disk, stores and a
//! clock that outlive it, and the way from clients to them.
//!
//! What is done to it, and when, is in `faults`.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::{Rng, RngCore};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use vaultmark_hsm::Clock;

use super::clock::ReplicaClock;
use super::disk::FailingDisk;
use super::lock;
use super::machine::{WatchedCore, WatchedMachine};
use super::network::{Network, SimulatedWire};
use super::plan::Plan;
use super::standin::StandIn;
use super::trace::Trace;
use super::watch::{Watch, group_of};
use crate::quorum::disk::Survivors;
use crate::quorum::{GroupConfig, Member, MemberConfig, MemberStatus, Start};
use crate::vault::channel::{
    Carried, Carrier, CarryError, ChannelKey, ChannelLimits, ChannelRefusal, ChannelServer, Purpose,
};
use crate::vault::store::{Interrupt, MemoryStore, StorageKey};
use crate::vault::{AccountId, ServerLimits, VaultServer, VaultState};

/// How long a client waits for a reply: longer than any commit.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a relay looks for a leader before it says that there is none.
const TRIES: usize = 6;
/// How long it waits in between.
const RETRY: Duration = Duration::from_millis(50);

/// Accounts that a replica takes: more than there are people.
const ACCOUNTS_MAX: usize = 1 << 10;
/// Accounts that a replica keeps in memory unchanged: so few that others are read back.
const CACHE_MAX: usize = 2;

/// A fleet.
#[derive(Debug)]
pub(super) struct Fleet {
    pub(super) plan: Plan,
    pub(super) watch: Arc<Watch>,
    pub(super) trace: Arc<Trace>,
    pub(super) network: Arc<Network>,
    zero: Instant,
    seats: Vec<Mutex<Seat>>,
    chance: Mutex<ChaCha20Rng>,
    pub(super) channel_key: ChannelKey,
    storage_key: StorageKey,
    counts: Mutex<Counts>,
    /// Whether the faults are over.
    is_calm: AtomicBool,
}

/// What happened to a fleet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Replicas that were killed, or died of their disk.
    pub crashes: u64,
    /// Replicas that were replaced by an empty one.
    pub replacements: u64,
    /// Ways between replicas that were cut.
    pub cuts: u64,
    /// Clocks that jumped.
    pub jumps: u64,
    /// Replies that did not reach their client.
    pub swallowed: u64,
}

/// Where a replica runs.
#[derive(Debug)]
struct Seat {
    disk: FailingDisk,
    stores: Vec<MemoryStore>,
    clock: Arc<ReplicaClock>,
    lives: u64,
    next: Start,
    running: Option<Running>,
    /// Held while the replica starts or stops: one of these at a time.
    busy: Arc<tokio::sync::Mutex<()>>,
}

/// A running replica.
#[derive(Debug)]
struct Running {
    members: Vec<Arc<Member>>,
    channels: Vec<Arc<ChannelServer<WatchedCore>>>,
    /// Requests being served, and the sweepers.
    tasks: JoinSet<()>,
}

/// Why a replica gave no frame.
enum Unserved {
    /// It was not asked, or did not ask its vault.
    NotHere,
    /// It was asked, and died.
    Died,
    Refused(ChannelRefusal),
}

impl Fleet {
    /// A fleet of which nothing runs yet.
    pub(super) fn new(
        plan: Plan,
        trace: Arc<Trace>,
        zero: Instant,
        mut chance: ChaCha20Rng,
    ) -> Self {
        let mut fork = || ChaCha20Rng::seed_from_u64(chance.next_u64());
        let seat = || Seat {
            disk: FailingDisk::new(),
            stores: (0..plan.groups).map(|_| MemoryStore::new()).collect(),
            clock: Arc::new(ReplicaClock::new(zero)),
            lives: 0,
            next: Start::Found,
            running: None,
            busy: Arc::default(),
        };
        let seats: Vec<Seat> = (0..plan.replicas).map(|_| seat()).collect();
        let disks = seats.iter().map(|seat| seat.disk.clone()).collect();
        let watch = Arc::new(Watch::new(Arc::clone(&trace), disks, plan.groups));
        let network = Arc::new(Network::new(fork(), plan.weather, Arc::clone(&trace)));
        let channel_key = ChannelKey::generate(&mut fork());
        Self {
            plan,
            watch,
            trace,
            network,
            zero,
            seats: seats.into_iter().map(Mutex::new).collect(),
            chance: Mutex::new(fork()),
            channel_key,
            storage_key: StorageKey::new([7; 32]),
            counts: Mutex::default(),
            is_calm: AtomicBool::new(false),
        }
    }

    /// Starts a replica that does not run. One whose disk fails meanwhile stays down.
    pub(super) async fn start(&self, replica: u32) {
        let _busy = self.busy(replica).await;
        let (how, life, disk) = {
            let mut seat = lock(self.seat(replica));
            if seat.running.is_some() {
                return;
            }
            seat.lives += 1;
            (seat.next, seat.lives, seat.disk.clone())
        };
        let failures = disk.failures();
        self.trace.note(format_args!("replica {replica} starts ({how:?}, life {life})"));
        let mut members = Vec::new();
        for group in 0..self.plan.groups {
            match self.member(group, replica, how, life).await {
                Ok(member) => members.push(Arc::new(member)),
                Err(why) => {
                    self.trace.note(format_args!("replica {replica} does not start: {why}"));
                    for member in members {
                        stop(member).await;
                    }
                    let was_told_to = disk.failures() > failures;
                    if was_told_to {
                        // As after a power cut: a dead disk works again when the next one starts.
                        disk.crash(Survivors::Sectors(self.fork().next_u64()));
                    } else {
                        let what = format_args!("replica {replica} does not start again: {why}");
                        self.watch.violated(None, what);
                    }
                    return;
                }
            }
        }
        let mut tasks = JoinSet::new();
        let mut channels = Vec::new();
        for (group, member) in (0..self.plan.groups).zip(&members) {
            self.network.connect(group, replica, member);
            let core = self.core(group, replica, Arc::clone(member));
            let core = Arc::new(core);
            let sweeper = Arc::clone(&core);
            tasks.spawn(async move { sweeper.core.sweep().await });
            let clock = Arc::clone(&lock(self.seat(replica)).clock) as Arc<dyn Clock>;
            let limits = ChannelLimits { channels_max: 4_096 };
            let key = self.channel_key.clone();
            channels.push(Arc::new(ChannelServer::new(core, key, clock, self.fork(), limits)));
        }
        let mut seat = lock(self.seat(replica));
        seat.next = Start::Resume;
        seat.running = Some(Running { members, channels, tasks });
    }

    async fn member(
        &self,
        group: u32,
        replica: u32,
        how: Start,
        life: u64,
    ) -> Result<Member, String> {
        let (disk, store, clock) = {
            let seat = lock(self.seat(replica));
            let store = seat.stores[index(group + 1)].clone();
            (seat.disk.clone(), store, Arc::clone(&seat.clock))
        };
        let mut config = GroupConfig::new(self.plan.replicas, folder(group, replica), clock);
        config.disk = Arc::new(disk);
        config.inline = true;
        config.seed = self.plan.seed ^ (life << 32) ^ (u64::from(group) << 16) ^ u64::from(replica);
        config.commit_timeout = Duration::from_millis(1_500);
        config.snapshot_every = self.plan.snapshot_every;
        config.segment_bytes = self.plan.segment_bytes;
        let state = VaultState::open(Arc::new(store), &self.storage_key, ACCOUNTS_MAX, CACHE_MAX)
            .map_err(|error| error.to_string())?;
        let who = (group, replica);
        let machine = WatchedMachine::new(state, Arc::clone(&self.watch), who);
        let network = Arc::clone(&self.network);
        let wire = Arc::new(SimulatedWire { network, group, from: replica });
        let config = MemberConfig { number: replica, start: how, group: config };
        let member = Member::start(config, Box::new(machine), wire).await;
        member.map_err(|error| error.to_string())
    }

    fn core(&self, group: u32, replica: u32, member: Arc<Member>) -> WatchedCore {
        let standin = StandIn {
            replica,
            group,
            watch: Arc::clone(&self.watch),
            chance: Mutex::new(self.fork()),
            failing_ppm: self.plan.device_failing_ppm,
        };
        let clock = Arc::clone(&lock(self.seat(replica)).clock) as Arc<dyn Clock>;
        let limits = ServerLimits { registrations_max: 256, attempts_max: 4_096 };
        let core = VaultServer::with(standin, member, clock, self.fork(), limits);
        WatchedCore { core, watch: Arc::clone(&self.watch), replica, group }
    }

    /// Kills a replica, if it runs, as a power cut would.
    pub(super) async fn crash(&self, replica: u32, survivors: Survivors) {
        let _busy = self.busy(replica).await;
        self.power_off(replica, survivors).await;
    }

    async fn power_off(&self, replica: u32, survivors: Survivors) {
        let running = lock(self.seat(replica)).running.take();
        let Some(running) = running else { return };
        self.trace.note(format_args!("replica {replica} crashes ({survivors:?})"));
        lock(&self.counts).crashes += 1;
        for group in 0..self.plan.groups {
            self.network.disconnect(group, replica);
        }
        let Running { members, channels, mut tasks } = running;
        lock(self.seat(replica)).disk.die_after(0);
        tasks.shutdown().await;
        drop(channels);
        for member in members {
            stop(member).await;
        }
        lock(self.seat(replica)).disk.crash(survivors);
    }

    /// Kills a replica, and has an empty one take its place when it starts.
    pub(super) async fn lose(&self, replica: u32) {
        let _busy = self.busy(replica).await;
        self.power_off(replica, Survivors::Nothing).await;
        self.trace.note(format_args!("replica {replica} loses its disk"));
        lock(&self.counts).replacements += 1;
        let disk = FailingDisk::new();
        let mut seat = lock(self.seat(replica));
        seat.disk = disk.clone();
        for store in &seat.stores {
            store.clear();
        }
        seat.next = Start::Replace;
        drop(seat);
        self.watch.replaced(replica, disk);
    }

    /// Has the disk of a replica fail: its next sync, or everything after some more calls.
    pub(super) fn fail_disk(&self, replica: u32, after: Option<u64>) {
        let seat = lock(self.seat(replica));
        match after {
            Some(calls) => seat.disk.die_after(calls),
            None => seat.disk.fail_sync(),
        }
    }

    /// Has a replica's next checkpoint meet a crash.
    pub(super) fn interrupt(&self, replica: u32, interrupt: Interrupt) {
        for store in &lock(self.seat(replica)).stores {
            store.interrupt(interrupt);
        }
    }

    /// Moves the clock of a replica.
    pub(super) fn jump(&self, replica: u32, by_ms: i64) {
        self.trace.note(format_args!("the clock of replica {replica} jumps by {by_ms} ms"));
        lock(&self.counts).jumps += 1;
        lock(self.seat(replica)).clock.jump(by_ms);
    }

    /// Cuts the way from one replica to another.
    pub(super) fn cut(&self, from: u32, to: u32) {
        self.trace.note(format_args!("the way from {from} to {to} is cut"));
        lock(&self.counts).cuts += 1;
        self.network.cut(from, to);
    }

    /// Ends the faults.
    pub(super) fn calm(&self) {
        self.trace.note(format_args!("the faults end"));
        self.is_calm.store(true, Ordering::Relaxed);
        self.network.calm();
        for seat in &self.seats {
            let seat = lock(seat);
            seat.disk.calm();
            for store in &seat.stores {
                store.interrupt(None);
            }
        }
    }

    pub(super) fn is_calm(&self) -> bool {
        self.is_calm.load(Ordering::Relaxed)
    }

    pub(super) fn is_running(&self, replica: u32) -> bool {
        lock(self.seat(replica)).running.is_some()
    }

    /// Whether a replica stopped by itself, and runs all the same.
    pub(super) fn has_failed(&self, replica: u32) -> bool {
        let seat = lock(self.seat(replica));
        let mut members = seat.running.iter().flat_map(|running| &running.members);
        members.any(|member| member.status().failure.is_some())
    }

    /// The replicas that say they lead a group.
    pub(super) fn leaders(&self, group: u32) -> Vec<u32> {
        let leads = |replica: &u32| {
            let seat = lock(self.seat(*replica));
            seat.running
                .as_ref()
                .is_some_and(|running| running.members[index(group + 1)].leader() == Some(*replica))
        };
        (1..=self.plan.replicas).filter(leads).collect()
    }

    /// Notes what every replica says of itself.
    pub(super) fn note_status(&self) {
        for replica in 1..=self.plan.replicas {
            let seat = lock(self.seat(replica));
            let members = seat.running.iter().flat_map(|running| &running.members);
            for (group, member) in members.enumerate() {
                let MemberStatus { role, term, leader, last, applied, followers, failure, .. } =
                    member.status();
                self.trace.note(format_args!(
                    "r{replica} g{group} is {role:?} in term {term} under {leader:?}, has {last:?}, \
                     applied {applied:?}, {followers:?}, {failure:?}"
                ));
            }
        }
    }

    pub(super) fn counts(&self) -> Counts {
        *lock(&self.counts)
    }

    /// A stream of chance that nobody else has.
    pub(super) fn fork(&self) -> ChaCha20Rng {
        ChaCha20Rng::seed_from_u64(lock(&self.chance).next_u64())
    }

    /// The right time, for clients.
    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(ReplicaClock::new(self.zero))
    }

    async fn busy(&self, replica: u32) -> tokio::sync::OwnedMutexGuard<()> {
        let busy = Arc::clone(&lock(self.seat(replica)).busy);
        busy.lock_owned().await
    }

    fn seat(&self, replica: u32) -> &Mutex<Seat> {
        &self.seats[index(replica)]
    }

    /// Has a replica answer a frame, on a task of its own that dies with it.
    async fn serve(
        &self,
        (group, replica): (u32, u32),
        account: AccountId,
        purpose: Purpose,
        frame: Vec<u8>,
    ) -> Result<Vec<u8>, Unserved> {
        let answer = {
            let mut seat = lock(self.seat(replica));
            let running = seat.running.as_mut().ok_or(Unserved::NotHere)?;
            if running.members[index(group + 1)].leader() != Some(replica) {
                return Err(Unserved::NotHere);
            }
            // Those that ended are forgotten, so that there are as many as are being served.
            while running.tasks.try_join_next().is_some() {}
            let channel = Arc::clone(&running.channels[index(group + 1)]);
            let (reply, answer) = oneshot::channel();
            running.tasks.spawn(async move {
                // Who asked may have gone.
                let _gone = reply.send(channel.answer(account, purpose, &frame).await);
            });
            answer
        };
        match answer.await {
            Ok(answered) => answered.map_err(Unserved::Refused),
            Err(_died) => Err(Unserved::Died),
        }
    }

    async fn carry(
        self: &Arc<Self>,
        account: AccountId,
        purpose: Purpose,
        frame: Vec<u8>,
    ) -> Result<Vec<u8>, CarryError> {
        let group = u32::try_from(group_of(&account, index(self.plan.groups + 1))).unwrap_or(0);
        for _ in 0..TRIES {
            let leaders = self.leaders(group);
            let Some(count) = (!leaders.is_empty()).then_some(leaders.len()) else {
                sleep(RETRY).await;
                continue;
            };
            let replica = leaders[lock(&self.chance).gen_range(0..count)];
            let Some(there) = self.network.client_way(replica) else {
                sleep(PATIENCE).await;
                return Err(CarryError::Unreachable);
            };
            sleep(there).await;
            if self.network.doubles() {
                let (fleet, frame) = (Arc::clone(self), frame.clone());
                drop(tokio::spawn(async move {
                    sleep(there).await;
                    drop(fleet.serve((group, replica), account, purpose, frame).await);
                }));
            }
            match self.serve((group, replica), account, purpose, frame.clone()).await {
                Ok(reply) => {
                    if let Some(back) = self.network.client_way(replica) {
                        sleep(back).await;
                        return Ok(reply);
                    }
                    self.trace.note(format_args!("a reply to {account:?} is swallowed"));
                    lock(&self.counts).swallowed += 1;
                    sleep(PATIENCE).await;
                    return Err(CarryError::Unreachable);
                }
                Err(Unserved::NotHere) => sleep(RETRY).await,
                Err(Unserved::Died) => return Err(CarryError::Unreachable),
                Err(Unserved::Refused(refusal)) => return Err(CarryError::Refused(refusal)),
            }
        }
        Err(CarryError::NoLeader)
    }
}

/// A client's way to the fleet: what a relay is to a real one.
#[derive(Clone, Debug)]
pub(super) struct ClientWay(pub(super) Arc<Fleet>);

impl Carrier for ClientWay {
    async fn carry(
        &self,
        account: AccountId,
        purpose: Purpose,
        frame: Vec<u8>,
    ) -> Result<Carried, CarryError> {
        let frame = self.0.carry(account, purpose, frame).await?;
        Ok(Carried::shared(frame, Duration::ZERO))
    }
}

/// Stops a member that nobody else has any more.
async fn stop(member: Arc<Member>) {
    let member = Arc::into_inner(member).expect("whoever else held it was stopped before");
    member.kill().await;
}

fn folder(group: u32, replica: u32) -> PathBuf {
    PathBuf::from(format!("/group-{group}/replica-{replica}"))
}

/// What is numbered from 1, as an index.
fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX) - 1
}
