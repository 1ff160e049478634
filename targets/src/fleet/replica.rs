//! One replica as a process of its own: its members of every consensus group, the vault's core over
//! each, its device, and the socket that everybody reaches it at.
//!
//! Consensus has a thread of its own, so that no computation delays a heartbeat; everything else
//! runs on the other one's workers. What arrives over the socket is `serve`'s.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::Duration;

use rand::RngCore;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;
use vaultmark_hsm::{Clock, DeviceError, HsmAdapter, HsmPool};

use super::keys::FleetKeys;
use super::network::Network;
use super::peers::{Peer, Peers};
use super::serve::{Hosted, Service};
use super::wrappers::{JumpingClock, SlowDevice};
use crate::opaque::OpaqueError;
use crate::priority::Priority;
use crate::quorum::disk::{FileDisk, SlowDisk};
use crate::quorum::{GroupConfig, Member, MemberConfig, QuorumError, Start, StateMachine};
use crate::vault::channel::{ChannelLimits, ChannelServer};
use crate::vault::state::{ACCOUNTS_MAX, CACHE_MAX};
use crate::vault::store::{FjallStore, StorageKey};
use crate::vault::{ServerLimits, VaultServer, VaultState};

/// How long what is still being answered may take when the replica is to end.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// What one replica is made of.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    /// Its number, from 1.
    pub number: u32,
    /// Where every replica of the fleet listens, replica 1 first.
    pub addresses: Vec<SocketAddr>,
    /// Consensus groups; accounts are dealt out among them.
    pub groups: u32,
    /// Its own folder.
    pub folder: PathBuf,
    /// What it makes of an empty folder.
    pub start: Start,
    /// Whether it answers only for what fdatasync made durable.
    pub durable: bool,
    /// HSM sessions; `None`: the adapter's own number.
    pub hsm_sessions: Option<usize>,
    /// Evaluations waiting or running at its device, beyond which requests are refused as busy.
    pub slots_max: usize,
    /// What is between the data centres; `None`: nothing but the real network.
    pub network: Option<Network>,
    /// Whether attempts may be charged without a channel or an evaluation, for benchmarks.
    pub charges: bool,
    /// How much its core remembers between two messages.
    pub limits: ServerLimits,
    /// Chance: of elections and of the injected network. Secrets never come from it.
    pub seed: u64,
}

/// Why a replica does not start.
#[derive(Debug)]
pub enum ReplicaError {
    /// The operating system refuses a thread, a socket or a folder.
    Io(&'static str, io::Error),
    /// The device does not open.
    Device(DeviceError),
    /// A group's log or consensus.
    Quorum(u32, QuorumError),
    /// A group's store of accounts.
    Store(u32, io::Error),
    /// No server key follows from the fleet's keys.
    Keys(OpaqueError),
    /// The configuration names no such replica.
    NoSuchReplica(u32),
}

impl fmt::Display for ReplicaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(what, error) => write!(f, "{what}: {error}"),
            Self::Device(error) => write!(f, "the device: {error}"),
            Self::Quorum(group, error) => write!(f, "group {group}: {error}"),
            Self::Store(group, error) => write!(f, "group {group}: the store: {error}"),
            Self::Keys(error) => write!(f, "the fleet's keys: {error}"),
            Self::NoSuchReplica(number) => write!(f, "there is no replica {number}"),
        }
    }
}

impl std::error::Error for ReplicaError {}

/// A running replica. Blocks where it says so; not to be used on a runtime.
#[derive(Debug)]
pub struct Replica {
    service: Arc<Service>,
    work: Runtime,
    consensus: Consensus,
}

/// The thread that consensus runs on.
#[derive(Debug)]
struct Consensus {
    handle: Handle,
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Replica {
    /// Starts it from what its folder holds, and listens. Blocks. Whether a group has a leader is
    /// another matter: its status says.
    ///
    /// # Errors
    /// See [`ReplicaError`].
    pub fn start(
        config: ReplicaConfig,
        keys: &FleetKeys,
        adapter: Arc<dyn HsmAdapter>,
        clock: Arc<dyn Clock>,
        chance: &mut (impl RngCore + rand::CryptoRng),
    ) -> Result<Self, ReplicaError> {
        let own = config.number.checked_sub(1).and_then(|at| config.addresses.get(at as usize));
        let own = *own.ok_or(ReplicaError::NoSuchReplica(config.number))?;
        let calendar = JumpingClock::new(Arc::clone(&clock));
        let threads = |error| ReplicaError::Io("threads", error);
        let work = Builder::new_multi_thread().thread_name("vault").enable_all().build();
        let work = work.map_err(threads)?;
        let consensus = Consensus::start().map_err(threads)?;
        let listener = work.block_on(TcpListener::bind(own));
        let listener =
            listener.map_err(|error| ReplicaError::Io("the replica's address", error))?;
        let sessions = config.hsm_sessions.unwrap_or_else(|| adapter.sessions_default());
        let (device, slow_device) = SlowDevice::new(adapter, &clock);
        let pool = HsmPool::open(device, sessions, config.slots_max, Arc::clone(&clock));
        let pool = Arc::new(pool.map_err(ReplicaError::Device)?);
        let others = others(&config);
        let (link, runtime) = (keys.link(), &consensus.handle);
        let peers =
            Arc::new(Peers::start(config.number, &others, link, &clock, config.seed, runtime));
        let slow_disk = Arc::new(AtomicU64::new(0));
        let mut hosted = Vec::new();
        for group in 1..=config.groups {
            let machine = machine(&config, keys, group)?;
            let member = member_config(&config, group, &clock, &slow_disk);
            let wire = peers.wire(group);
            let started = consensus.run(async move { Member::start(member, machine, wire).await });
            let member = Arc::new(started.map_err(|error| ReplicaError::Quorum(group, error))?);
            let calendar: Arc<dyn Clock> = Arc::<JumpingClock>::clone(&calendar);
            let core = VaultServer::new(
                keys.server(),
                Arc::clone(&pool),
                Arc::clone(&member),
                Arc::clone(&calendar),
                fork(chance),
                config.limits,
            );
            let core = Arc::new(core.map_err(ReplicaError::Keys)?);
            let (key, limits) = (keys.channel().clone(), ChannelLimits::default());
            let channel =
                ChannelServer::new(Arc::clone(&core), key, calendar, fork(chance), limits);
            let sweeper = Arc::clone(&core);
            // It ends when the core is killed.
            drop(work.spawn(async move { sweeper.sweep().await }));
            hosted.push(Hosted { member, core, channel });
        }
        let service = Arc::new(Service::new(
            config,
            keys.link().clone(),
            clock,
            calendar,
            pool,
            peers,
            hosted,
            consensus.handle.clone(),
            (slow_disk, slow_device),
        ));
        let theirs = Arc::clone(&service);
        drop(work.spawn(async move { theirs.listen(listener).await }));
        Ok(Self { service, work, consensus })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.service.address()
    }

    /// Why a group stopped by itself, if one did: the process is then of no more use.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.service.failure()
    }

    /// Waits for something on the replica's runtime. Blocks.
    pub fn wait<T>(&self, something: impl Future<Output = T>) -> T {
        self.work.block_on(something)
    }

    /// Ends it with everything written that was acknowledged. Blocks.
    pub fn close(self) {
        let Self { service, work, consensus } = self;
        service.kill();
        work.shutdown_timeout(END_TIMEOUT);
        consensus.run(async move {
            let members = service.end().await;
            for member in members {
                member.close().await;
            }
        });
        consensus.end();
    }
}

impl Consensus {
    fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            // What it starts are threads that make and send checkpoints.
            .on_thread_start(|| Priority::Background.take())
            .build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name("consensus".to_owned()).spawn(move || {
            // An error says that whoever was to end it has gone, which is an end too.
            let _gone = runtime.block_on(ended).is_err();
            runtime.shutdown_timeout(END_TIMEOUT);
        })?;
        Ok(Self { handle, end, thread })
    }

    /// Runs something there and waits for it. Blocks.
    fn run<T: Send + 'static>(&self, something: impl Future<Output = T> + Send + 'static) -> T {
        let (tell, told) = oneshot::channel();
        drop(self.handle.spawn(async move {
            // Whoever waits is below and cannot have gone.
            let _gone = tell.send(something.await).is_err();
        }));
        told.blocking_recv().expect("the thread runs until it is ended, below")
    }

    fn end(self) {
        // An error says that the thread has ended already.
        let _gone = self.end.send(()).is_err();
        let _panicked = self.thread.join().is_err();
    }
}

/// Chance of its own for one part, from chance that is real.
fn fork(chance: &mut (impl RngCore + rand::CryptoRng)) -> ChaCha20Rng {
    let mut seed = [0; 32];
    chance.fill_bytes(&mut seed);
    ChaCha20Rng::from_seed(seed)
}

fn machine(
    config: &ReplicaConfig,
    keys: &FleetKeys,
    group: u32,
) -> Result<Box<dyn StateMachine>, ReplicaError> {
    let folder = config.folder.join(format!("group-{group}")).join("store");
    let refused = |error| ReplicaError::Store(group, error);
    let store = Arc::new(FjallStore::open(&folder).map_err(refused)?);
    let key = StorageKey::new(*keys.storage());
    let state = VaultState::open(store, &key, ACCOUNTS_MAX, CACHE_MAX).map_err(refused)?;
    Ok(Box::new(state))
}

fn member_config(
    config: &ReplicaConfig,
    group: u32,
    clock: &Arc<dyn Clock>,
    slow_disk: &Arc<AtomicU64>,
) -> MemberConfig {
    let folder = config.folder.join(format!("group-{group}"));
    let replicas = u32::try_from(config.addresses.len()).unwrap_or(u32::MAX);
    let mut it = GroupConfig::new(replicas, folder, Arc::clone(clock));
    it.disk = Arc::new(SlowDisk::new(Arc::new(FileDisk), Arc::clone(slow_disk), Arc::clone(clock)));
    it.durable = config.durable;
    it.seed = config.seed ^ (u64::from(group) << 8) ^ u64::from(config.number);
    let longest = config.network.as_ref().map_or(Duration::ZERO, Network::rtt_max);
    let group = it.for_round_trips(longest);
    MemberConfig { number: config.number, start: config.start, group }
}

fn others(config: &ReplicaConfig) -> Vec<Peer> {
    let numbered = (1..).zip(&config.addresses);
    let others = numbered.filter(|(number, _)| *number != config.number);
    let peer = |(number, address): (u32, &SocketAddr)| {
        let network = config.network.as_ref();
        let shape = network.and_then(|network| {
            network.link(network.site_of(config.number), network.site_of(number))
        });
        Peer { number, address: *address, shape: shape.unwrap_or_default() }
    };
    others.map(peer).collect()
}
