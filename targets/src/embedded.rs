//! The reference vault inside the generator's process, as a target: clients, cores, devices and the
//! replicated log, on a runtime of their own.
//!
//! Where the processor time of an operation goes is the same as in a real fleet, less the network.
//! What an operation means is in `client` and `vault`; when operations start is the generator's.

use std::fmt;
use std::future::Future;
use std::ops::Add;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, UNIX_EPOCH};

use tokio::runtime::{Builder, Handle, Runtime};
use vaultmark_hsm::{Clock, FleetSecrets, HsmPool, Moment, PoolCounters};

use crate::client::{ClientError, VaultClient};
use crate::fault::{Fault, LinkState, Way};
use crate::opaque::ServerKeys;
use crate::people::synthetic::{Chance, Synthetic};
use crate::people::{
    FleetKeys, LeanCounts, POPULATION_IN_FLIGHT, People, PeopleError, Performing, PopulationError,
    Registered, register_range,
};
use crate::quorum::{Group, GroupConfig, StateMachine};
use crate::target::{Evidence, Outcome, Reply, Request, Stage, StageTimes, Target};
use crate::vault::state::{ACCOUNTS_MAX, CACHE_MAX};
use crate::vault::store::{FjallStore, StorageKey};
use crate::vault::{
    Answer, Failure, Refusal, ServerLimits, VaultReply, VaultRequest, VaultServer, VaultService,
    VaultState,
};

mod config;
#[cfg(test)]
mod tests;

pub use config::{AdapterFactory, EmbeddedConfig, EmbeddedCounters, EmbeddedError};

pub use crate::people::Fidelity;

/// A running vault.
///
/// Its operations add up: [`Stage::Client`] is what is left of the time from `perform` to the end of
/// the operation's task when the vault's own stages are taken off, waiting for a processor included.
pub struct EmbeddedVault {
    inner: Arc<Inner>,
    handle: Handle,
    /// Present if it is our own; taken when dropped.
    runtime: Option<Runtime>,
}

type Core = VaultServer<Group>;

struct Inner {
    group: Arc<Group>,
    cores: Vec<Slot>,
    keys: ServerKeys,
    people: People,
    clock: Arc<dyn Clock>,
    limits: ServerLimits,
    hsm_sessions: usize,
}

/// A replica's place. Its device outlives it: a process that dies leaves its HSM running.
struct Slot {
    pool: Arc<HsmPool>,
    core: RwLock<Option<Arc<Core>>>,
    lives: AtomicU64,
}

impl EmbeddedVault {
    /// Starts every replica and waits until one leads. Blocks; not to be called on a runtime.
    ///
    /// # Errors
    /// See [`EmbeddedError`].
    pub fn start(
        config: EmbeddedConfig,
        clock: Arc<dyn Clock>,
        adapters: &AdapterFactory<'_>,
    ) -> Result<Self, EmbeddedError> {
        let threads = |error: &dyn fmt::Display| EmbeddedError::Threads(error.to_string());
        let (runtime, handle) = if let Some(handle) = config.runtime.clone() {
            (None, handle)
        } else {
            let builder = Builder::new_multi_thread().thread_name("vault").enable_time().build();
            let runtime = builder.map_err(|error| threads(&error))?;
            let handle = runtime.handle().clone();
            (Some(runtime), handle)
        };
        let inner = Inner::start(config, clock, adapters, &handle)?;
        let vault = Self { inner: Arc::new(inner), handle, runtime };
        for replica in 1..=vault.inner.group.replicas() {
            let core = vault.inner.new_core(replica)?;
            vault.inner.install(replica, core, &vault.handle);
        }
        Ok(vault)
    }

    /// Registers accounts 0 to `accounts` − 1, through client and vault as always. Blocks; not to be
    /// called on a runtime. `progress` is told how many are done, and may stop it.
    ///
    /// # Errors
    /// An account could not be registered, or `progress` said so.
    pub fn register_population(
        &self,
        accounts: u64,
        mut progress: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), EmbeddedError> {
        let people = &self.inner.people;
        people.expect_population(&(0..accounts)).map_err(EmbeddedError::KeysFile)?;
        let register = |account| {
            let inner = Arc::clone(&self.inner);
            async move { inner.register(account).await }
        };
        let mut trouble = None;
        let tell = |registered: Registered| {
            trouble = trouble.take().or_else(|| people.trouble());
            if trouble.is_some() { ControlFlow::Break(()) } else { progress(registered.done) }
        };
        let ended =
            self.handle.block_on(register_range(0..accounts, POPULATION_IN_FLIGHT, register, tell));
        if let Some(trouble) = trouble {
            return Err(EmbeddedError::KeysFile(trouble));
        }
        ended.map_err(|error| match error {
            PopulationError::Account(account, why) => {
                EmbeddedError::Population(account, why.to_string())
            }
            PopulationError::Task(why) => EmbeddedError::Threads(why),
            PopulationError::Stopped => EmbeddedError::Stopped,
        })?;
        people.know(0..accounts).map_err(EmbeddedError::KeysFile)
    }

    /// Makes what the lean logins of operations 0 to `end` − 1 need, of those that are `wanted`, on all
    /// cores; nothing, for clients that are not lean. `progress` is told how far that is, and may stop it:
    /// the rest is then made on the spot, and counted.
    ///
    /// # Errors
    /// No threads.
    pub fn prepare(
        &self,
        end: u64,
        wanted: &(dyn Fn(u64) -> bool + Sync),
        progress: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), EmbeddedError> {
        self.inner.people.prepare(end, wanted, progress).map_err(EmbeddedError::Threads)
    }

    /// What lean clients did so far; `None` for others.
    #[must_use]
    pub fn lean_counts(&self) -> Option<LeanCounts> {
        self.inner.people.lean_counts()
    }

    /// Whether something can be done to a vault in one process: its replicas die and come back, their
    /// links are cut and mended, HSM sessions are lost. Who leads, and dies as leader, the caller knows.
    #[must_use]
    pub const fn can(fault: Fault) -> bool {
        matches!(
            fault,
            Fault::KillReplica(_)
                | Fault::KillLeader
                | Fault::RestartReplica(_)
                | Fault::KillHsmSession(_)
                | Fault::Link { way: Way::Around(_), state: LinkState::Cut | LinkState::Mended }
        )
    }

    /// Does something to the vault on purpose. Begins at once; the future is only news of its end.
    pub fn inject(
        &self,
        fault: Fault,
    ) -> impl Future<Output = Result<(), String>> + Send + 'static + use<> {
        let (inner, handle) = (Arc::clone(&self.inner), self.handle.clone());
        let done = self.handle.spawn(async move { inner.inject(fault, &handle).await });
        async move { done.await.unwrap_or_else(|error| Err(error.to_string())) }
    }

    /// What its parts did so far.
    #[must_use]
    pub fn counters(&self) -> EmbeddedCounters {
        let pools = self.inner.cores.iter().map(|slot| slot.pool.counters());
        let pool = pools.fold(PoolCounters::default(), Add::add);
        EmbeddedCounters {
            pool,
            quorum: self.inner.group.counters(),
            replicas: self.inner.group.replicas(),
            leader: self.inner.group.leader(),
            device: self.inner.cores[0].pool.info().clone(),
            hsm_sessions: self.inner.hsm_sessions,
        }
    }

    /// The OPAQUE public key that clients pin.
    #[must_use]
    pub fn public_key(&self) -> Vec<u8> {
        self.inner.keys.public_key().expect("the vault's cores started with it")
    }

    /// Stops every replica, with everything written that was acknowledged. Blocks; not to be called
    /// on a runtime.
    pub fn shutdown(&self) {
        for slot in &self.inner.cores {
            slot.kill();
        }
        self.handle.block_on(self.inner.group.shutdown());
    }
}

impl Target for EmbeddedVault {
    fn perform(&self, request: Request) -> impl Future<Output = Reply> + Send + 'static + use<> {
        let start = self.inner.clock.now();
        let inner = Arc::clone(&self.inner);
        Performing(self.handle.spawn(async move { inner.perform(request, start).await }))
    }
}

/// As any client meets it, on the caller's runtime and at the replica that leads: no operation of the
/// load, and in no figure.
impl VaultService for EmbeddedVault {
    async fn call(&self, request: VaultRequest) -> Answer {
        if let Some(core) = self.inner.core() {
            return core.call(request).await;
        }
        let reply = VaultReply::Refused(Refusal::Failed(Failure::ReplicaDown));
        Answer { reply, stages: StageTimes::default() }
    }
}

impl Drop for EmbeddedVault {
    fn drop(&mut self) {
        for slot in &self.inner.cores {
            slot.kill();
        }
        if let Some(runtime) = self.runtime.take() {
            // Waiting is not allowed wherever this may be dropped.
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for EmbeddedVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedVault").field("group", &self.inner.group).finish_non_exhaustive()
    }
}

impl Inner {
    fn start(
        config: EmbeddedConfig,
        clock: Arc<dyn Clock>,
        adapters: &AdapterFactory<'_>,
        handle: &Handle,
    ) -> Result<Self, EmbeddedError> {
        let synthetic = Synthetic::new(config.seed, b"");
        let mut chance = synthetic.chance(Chance::Fleet);
        let secrets = FleetSecrets::generate(&mut chance);
        let keys = ServerKeys::generate(config.suite, &mut chance);
        let public = keys.public_key().map_err(EmbeddedError::Keys)?;
        let client = VaultClient::new(config.suite, &public).map_err(EmbeddedError::Keys)?;
        let mut cores = Vec::new();
        for replica in 1..=config.replicas {
            let adapter = adapters(replica, &secrets)
                .map_err(|error| EmbeddedError::Adapter(replica, error))?;
            if adapter.info().suite != config.suite {
                return Err(EmbeddedError::WrongSuite(adapter.info().suite));
            }
            let sessions = config.hsm_sessions.unwrap_or_else(|| adapter.sessions_default());
            let pool = HsmPool::open(adapter, sessions, config.slots_max, Arc::clone(&clock))
                .map_err(|error| EmbeddedError::Pool(replica, error))?;
            cores.push(Slot {
                pool: Arc::new(pool),
                core: RwLock::new(None),
                lives: AtomicU64::new(0),
            });
        }
        let mut group = GroupConfig::new(config.replicas, config.folder, Arc::clone(&clock));
        group.durable = config.durable;
        group.seed = config.seed;
        let key = StorageKey::generate(&mut chance);
        let folder = group.folder.clone();
        // Also where nothing is fsynced: the store is what bounds the memory that accounts take.
        let open = move |replica| {
            let folder = folder.join(format!("replica-{replica}")).join("store");
            let store = Arc::new(FjallStore::open(&folder)?);
            let state = VaultState::open(store, &key, ACCOUNTS_MAX, CACHE_MAX)?;
            Ok(Box::new(state) as Box<dyn StateMachine>)
        };
        let group = handle.block_on(Group::start(group, open)).map_err(EmbeddedError::Quorum)?;
        let how = (config.stretching, config.fidelity);
        let fleet = FleetKeys { suite: config.suite, server: &public, others: b"" };
        let people =
            People::new(client, fleet, synthetic, how, 0).map_err(|error| match error {
                PeopleError::Threads(why) => EmbeddedError::Threads(why),
                PeopleError::Keys(why) => EmbeddedError::Keys(why),
                PeopleError::KeysFile(why) => EmbeddedError::KeysFile(why),
            })?;
        Ok(Self {
            group: Arc::new(group),
            hsm_sessions: cores.first().map_or(0, |slot| slot.pool.sessions()),
            cores,
            keys,
            people,
            clock,
            limits: config.limits,
        })
    }

    fn slot(&self, replica: u32) -> Option<&Slot> {
        self.cores.get(usize::try_from(replica).ok()?.checked_sub(1)?)
    }

    fn new_core(&self, replica: u32) -> Result<Core, EmbeddedError> {
        let slot = self.slot(replica).ok_or(EmbeddedError::Stopped)?;
        let life = slot.lives.fetch_add(1, Ordering::Relaxed);
        // A vault that starts again over the same logs must not draw the same registration ids.
        let origin = self.clock.origin().duration_since(UNIX_EPOCH).unwrap_or_default();
        let started_ns = (origin + self.clock.now().since(Moment::ZERO)).as_nanos();
        let chance = self.people.chance(Chance::Core { replica, life, started_ns });
        let (pool, group) = (Arc::clone(&slot.pool), Arc::clone(&self.group));
        Core::new(&self.keys, pool, group, Arc::clone(&self.clock), chance, self.limits)
            .map_err(EmbeddedError::Keys)
    }

    fn install(&self, replica: u32, core: Core, handle: &Handle) {
        let Some(slot) = self.slot(replica) else { return };
        let core = Arc::new(core);
        let sweeper = Arc::clone(&core);
        // It ends when the core is killed.
        drop(handle.spawn(async move { sweeper.sweep().await }));
        *slot.core.write().unwrap_or_else(PoisonError::into_inner) = Some(core);
    }

    /// The core that new operations go to: the leader's. While nobody leads, any that runs: its
    /// commits wait for a leader. An operation stays with its core, as a connection would.
    fn core(&self) -> Option<Arc<Core>> {
        let leader = self.group.leader().and_then(|leader| self.slot(leader)?.running());
        leader.or_else(|| self.cores.iter().find_map(Slot::running))
    }

    async fn inject(&self, fault: Fault, handle: &Handle) -> Result<(), String> {
        let none = |replica| format!("there is no replica {replica}");
        match fault {
            Fault::KillReplica(replica) => {
                self.slot(replica).ok_or_else(|| none(replica))?.kill();
                self.group.kill(replica).await;
                // Last attempts that it had begun are now somebody else's to end.
                if let Some(core) = self.cores.iter().find_map(Slot::running) {
                    core.sweep_soon();
                }
                Ok(())
            }
            Fault::RestartReplica(replica) => {
                let restarted = self.group.restart(replica).await;
                restarted.map_err(|error| error.to_string())?;
                let core = self.new_core(replica).map_err(|error| error.to_string())?;
                self.install(replica, core, handle);
                Ok(())
            }
            Fault::KillHsmSession(session) => {
                let index = usize::try_from(session).ok().and_then(|it| it.checked_sub(1));
                let index = index.filter(|index| *index < self.hsm_sessions);
                let index = index.ok_or_else(|| format!("there is no HSM session {session}"))?;
                for slot in &self.cores {
                    slot.pool.kill_session(index);
                }
                Ok(())
            }
            Fault::Link { way: Way::Around(replica), state } if EmbeddedVault::can(fault) => {
                self.slot(replica).ok_or_else(|| none(replica))?;
                self.group.isolate(replica, state == LinkState::Cut);
                Ok(())
            }
            _ => Err("not a fault of a fleet in one process".to_owned()),
        }
    }

    async fn perform(&self, request: Request, start: Moment) -> Reply {
        let mut stages = StageTimes::default();
        let mut evidence = Evidence::default();
        let (outcome, error) = match self.core() {
            Some(core) => self.people.operate(&*core, &request, &mut stages, &mut evidence).await,
            None => (Outcome::Failed, Some(Failure::ReplicaDown.describe())),
        };
        let total = self.clock.now().since(start);
        let others = Duration::from_nanos(stages.total_ns());
        stages.add(Stage::Client, total.saturating_sub(others));
        let error = error.map(|error| self.people.text(error));
        Reply { stages, error, evidence, ..Reply::of(outcome) }
    }

    async fn register(&self, account: u64) -> Result<(), ClientError> {
        let down = ClientError::Refused(Refusal::Failed(Failure::ReplicaDown));
        let core = self.core().ok_or(down)?;
        self.people.register(&*core, account, 0).await
    }
}

impl Slot {
    fn running(&self) -> Option<Arc<Core>> {
        self.core.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn kill(&self) {
        let core = self.core.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(core) = core {
            core.kill();
        }
    }
}
