//! The reference vault inside the generator's process, as a target: clients, cores, devices and the
//! replicated log, on a runtime of their own.
//!
//! Where the processor time of an operation goes is the same as in a real fleet, less the network.
//! What an operation means is in `client` and `vault`; when operations start is the generator's.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::{Duration, UNIX_EPOCH};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::{JoinHandle, JoinSet};
use vaultmark_hsm::{Clock, FleetSecrets, HsmPool, Moment, PoolCounters};

use crate::client::{BackupKey, ClientError, ClientStretching, StretchingThreads, VaultClient};
use crate::fault::Fault;
use crate::opaque::{KnownStretchings, ServerKeys, Stretcher, Stretching};
use crate::quorum::{Group, GroupConfig, StateMachine, Whole};
use crate::target::{Operation, Outcome, Reply, Request, Stage, StageTimes, Target};
use crate::vault::{AccountId, Failure, Refusal, ServerLimits, VaultServer, VaultState};

mod config;
mod synthetic;
#[cfg(test)]
mod tests;

pub use config::{AdapterFactory, EmbeddedConfig, EmbeddedCounters, EmbeddedError, Fidelity};

use synthetic::{Chance, Synthetic, WRONG_PASSWORD};

/// Registrations in flight while the population is made: enough to keep every core and the log busy.
const POPULATION_IN_FLIGHT: usize = 64;

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
    client: VaultClient,
    synthetic: Synthetic,
    clock: Arc<dyn Clock>,
    limits: ServerLimits,
    hsm_sessions: usize,
    stretching: Stretching,
    fidelity: Fidelity,
    threads: Option<Arc<StretchingThreads>>,
    known: OnceLock<Arc<KnownStretchings>>,
    population: AtomicU64,
    errors: Mutex<HashMap<&'static str, Arc<str>>>,
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
        let room = usize::try_from(accounts).unwrap_or(usize::MAX);
        self.inner.known.get_or_init(|| Arc::new(KnownStretchings::new(room)));
        let registered: Result<(), EmbeddedError> = self.handle.block_on(async {
            let (mut tasks, mut next, mut done) = (JoinSet::new(), 0, 0);
            while done < accounts {
                while next < accounts && tasks.len() < POPULATION_IN_FLIGHT {
                    let inner = Arc::clone(&self.inner);
                    let account = next;
                    tasks.spawn_on(
                        async move { (account, inner.register_person(account).await) },
                        &self.handle,
                    );
                    next += 1;
                }
                match tasks.join_next().await {
                    Some(Ok((_, Ok(())))) => done += 1,
                    Some(Ok((account, Err(error)))) => {
                        return Err(EmbeddedError::Population(account, error.to_string()));
                    }
                    Some(Err(error)) => return Err(EmbeddedError::Threads(error.to_string())),
                    None => break,
                }
                if progress(done).is_break() {
                    return Err(EmbeddedError::Stopped);
                }
            }
            Ok(())
        });
        registered?;
        self.inner.population.store(accounts, Ordering::Release);
        Ok(())
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
        let mut pool = PoolCounters::default();
        for slot in &self.inner.cores {
            let one = slot.pool.counters();
            pool.evaluations += one.evaluations;
            pool.device_calls += one.device_calls;
            pool.failures += one.failures;
            pool.sessions_reopened += one.sessions_reopened;
        }
        EmbeddedCounters {
            pool,
            quorum: self.inner.group.counters(),
            replicas: self.inner.group.replicas(),
            leader: self.inner.group.leader(),
            device: self.inner.cores[0].pool.info().clone(),
            hsm_sessions: self.inner.hsm_sessions,
        }
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

/// An operation on the vault's own runtime; dropping it is the client giving up.
struct Performing(JoinHandle<Reply>);

impl Future for Performing {
    type Output = Reply;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Reply> {
        Pin::new(&mut self.0).poll(context).map(|joined| {
            joined.unwrap_or_else(|_| Reply {
                error: Some(Arc::from("the operation's task ended early")),
                ..Reply::of(Outcome::Failed)
            })
        })
    }
}

impl Drop for Performing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Inner {
    fn start(
        config: EmbeddedConfig,
        clock: Arc<dyn Clock>,
        adapters: &AdapterFactory<'_>,
        handle: &Handle,
    ) -> Result<Self, EmbeddedError> {
        let synthetic = Synthetic::new(config.seed);
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
        let (disk, folder) = (Arc::clone(&group.disk), group.folder.clone());
        let open = move |replica| {
            let folder = folder.join(format!("replica-{replica}"));
            let state = Whole::open(VaultState::new(), Arc::clone(&disk), &folder)?;
            Ok(Box::new(state) as Box<dyn StateMachine>)
        };
        let group = handle.block_on(Group::start(group, open)).map_err(EmbeddedError::Quorum)?;
        let threads = if config.stretching == Stretching::None {
            None
        } else {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            let threads = StretchingThreads::start(cores);
            Some(Arc::new(threads.map_err(|error| EmbeddedError::Threads(error.to_string()))?))
        };
        Ok(Self {
            group: Arc::new(group),
            hsm_sessions: cores.first().map_or(0, |slot| slot.pool.sessions()),
            cores,
            keys,
            client,
            synthetic,
            clock,
            limits: config.limits,
            stretching: config.stretching,
            fidelity: config.fidelity,
            threads,
            known: OnceLock::new(),
            population: AtomicU64::new(0),
            errors: Mutex::default(),
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
        let chance = self.synthetic.chance(Chance::Core { replica, life, started_ns });
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
            _ => Err("not a fault of a fleet in one process".to_owned()),
        }
    }

    async fn perform(&self, request: Request, start: Moment) -> Reply {
        let mut stages = StageTimes::default();
        let (outcome, error) = match self.core() {
            Some(core) => self.operate(&core, request, &mut stages).await,
            None => (Outcome::Failed, Some(Failure::ReplicaDown.describe())),
        };
        let total = self.clock.now().since(start);
        let others = Duration::from_nanos(stages.total_ns());
        stages.add(Stage::Client, total.saturating_sub(others));
        let error = error.map(|error| self.text(error));
        Reply { stages, error, ..Reply::of(outcome) }
    }

    async fn operate(
        &self,
        core: &Core,
        request: Request,
        stages: &mut StageTimes,
    ) -> (Outcome, Option<&'static str>) {
        let Request { operation, account, number, .. } = request;
        let mut chance = self.synthetic.chance(Chance::Operation { number });
        let id = AccountId::synthetic(account);
        match operation {
            Operation::Register => {
                let (password, key) = self.person(account);
                let stretching = self.stretched_in_full();
                let person = (id, &password[..], &key);
                let registered =
                    self.client.register(core, person, &stretching, &mut chance, stages).await;
                match registered {
                    Ok(_) => (Outcome::Complete, None),
                    Err(error) => ended(error),
                }
            }
            Operation::Recover => {
                let (password, key) = self.person(account);
                let stretching = self.stretched_for(account);
                let person = (id, &password[..]);
                let recovered =
                    self.client.recover(core, person, &stretching, &mut chance, stages).await;
                match recovered {
                    Ok(recovered) if recovered == key => (Outcome::Complete, None),
                    Ok(_) => {
                        (Outcome::Failed, Some("recovered key differs from the registered one"))
                    }
                    Err(error) => ended(error),
                }
            }
            Operation::RecoverWrong => {
                let stretching = self.stretched_in_vain();
                let person = (id, WRONG_PASSWORD);
                let recovered =
                    self.client.recover(core, person, &stretching, &mut chance, stages).await;
                match recovered {
                    Ok(_) => (Outcome::Failed, Some("a wrong password recovered a key")),
                    Err(error) => ended(error),
                }
            }
        }
    }

    async fn register_person(&self, account: u64) -> Result<(), ClientError> {
        let core =
            self.core().ok_or(ClientError::Refused(Refusal::Failed(Failure::ReplicaDown)))?;
        let mut chance = self.synthetic.chance(Chance::Population { account });
        let (password, key) = self.person(account);
        let stretcher = match (self.fidelity, self.known.get()) {
            (Fidelity::Cached, Some(known)) => {
                Stretcher::with_known(self.stretching, Arc::clone(known))
            }
            _ => Stretcher::new(self.stretching),
        };
        let stretching = ClientStretching { stretcher, threads: self.threads.clone() };
        let person = (AccountId::synthetic(account), &password[..], &key);
        let mut nobody = StageTimes::default();
        self.client.register(&*core, person, &stretching, &mut chance, &mut nobody).await.map(drop)
    }

    fn person(&self, account: u64) -> (zeroize::Zeroizing<[u8; 16]>, BackupKey) {
        (self.synthetic.password(account), self.synthetic.backup_key(account))
    }

    fn stretched_in_full(&self) -> ClientStretching {
        let stretcher = Stretcher::new(self.stretching);
        ClientStretching { stretcher, threads: self.threads.clone() }
    }

    /// Accounts of the population are known when cached: a look-up, on the operation's own task.
    fn stretched_for(&self, account: u64) -> ClientStretching {
        match (self.fidelity, self.known.get()) {
            (Fidelity::Cached, Some(known))
                if account < self.population.load(Ordering::Acquire) =>
            {
                let stretcher = Stretcher::with_known(self.stretching, Arc::clone(known));
                ClientStretching { stretcher, threads: None }
            }
            _ => self.stretched_in_full(),
        }
    }

    fn stretched_in_vain(&self) -> ClientStretching {
        match self.fidelity {
            Fidelity::Full => self.stretched_in_full(),
            Fidelity::Cached => {
                ClientStretching { stretcher: Stretcher::new(Stretching::None), threads: None }
            }
        }
    }

    /// One shared text for each error.
    fn text(&self, error: &'static str) -> Arc<str> {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(errors.entry(error).or_insert_with(|| Arc::from(error)))
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

/// How an operation ended that did not succeed.
fn ended(error: ClientError) -> (Outcome, Option<&'static str>) {
    match error {
        ClientError::WrongPassword | ClientError::Refused(Refusal::Rejected) => {
            (Outcome::Refused, None)
        }
        ClientError::Refused(Refusal::Destroyed) => (Outcome::Destroyed, None),
        ClientError::Refused(Refusal::Busy) => (Outcome::Busy, None),
        ClientError::Refused(Refusal::LastOutstanding) => {
            (Outcome::Busy, Some(Refusal::LastOutstanding.describe()))
        }
        error => (Outcome::Failed, Some(error.describe())),
    }
}
