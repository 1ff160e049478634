//! A core on a bench: the software device, a log in memory, a clock that stands still, and a tap on
//! the wire.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use tokio::runtime::Runtime;
use vaultmark_hsm::software::SoftwareAdapter;
use vaultmark_hsm::{
    Clock, DeviceError, DeviceInfo, Element, Evaluation, FleetSecrets, HsmAdapter, HsmPool,
    HsmSession, Moment, SimulatedClock, Suite,
};

use super::account::AccountId;
use super::message::{Answer, VaultReply, VaultRequest, VaultService};
use super::server::{ServerLimits, VaultServer};
use super::state::VaultState;
use crate::client::{BackupKey, ClientError, ClientStretching, RegistrationEnd, VaultClient};
use crate::opaque::{OpaqueClient, ServerKeys, Stretcher, Stretching};
use crate::quorum::{CommitError, Committed, QuorumLog, StateMachine};
use crate::target::StageTimes;

pub(super) const SLOTS: usize = 4;

/// A log that commits at once, or fails as it is told.
#[derive(Default)]
pub(crate) struct MemoryLog {
    state: Mutex<VaultState>,
    /// Bytes of every command.
    pub(super) sizes: Mutex<Vec<usize>>,
    pub(super) error: Mutex<Option<CommitError>>,
}

impl MemoryLog {
    pub(super) fn commits(&self) -> usize {
        self.sizes.lock().unwrap().len()
    }
}

impl QuorumLog for MemoryLog {
    async fn commit(&self, command: Vec<u8>) -> Result<Committed, CommitError> {
        if let Some(error) = self.error.lock().unwrap().clone() {
            return Err(error);
        }
        let mut sizes = self.sizes.lock().unwrap();
        sizes.push(command.len());
        let index = u64::try_from(sizes.len()).unwrap();
        Ok(Committed { reply: self.state.lock().unwrap().apply(&command).unwrap(), index })
    }
}

/// The software device, with a switch that makes it fail.
#[derive(Debug)]
struct Moody {
    inner: SoftwareAdapter,
    failing: Arc<AtomicBool>,
}

struct MoodySession {
    inner: Box<dyn HsmSession>,
    failing: Arc<AtomicBool>,
}

impl HsmAdapter for Moody {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }

    fn open_session(&self) -> Result<Box<dyn HsmSession>, DeviceError> {
        let inner = self.inner.open_session()?;
        Ok(Box::new(MoodySession { inner, failing: Arc::clone(&self.failing) }))
    }

    fn sessions_default(&self) -> usize {
        1
    }

    fn batch_max(&self) -> usize {
        1
    }
}

impl HsmSession for MoodySession {
    fn evaluate(&mut self, jobs: &[Evaluation], results: &mut Vec<Result<Element, DeviceError>>) {
        if self.failing.load(Ordering::SeqCst) {
            results.extend(jobs.iter().map(|_| Err(DeviceError::Failed("moody".to_owned()))));
        } else {
            self.inner.evaluate(jobs, results);
        }
    }

    fn device_calls(&self) -> u64 {
        self.inner.device_calls()
    }

    fn kill(&mut self) {
        self.inner.kill();
    }
}

/// The whole bench.
pub(crate) struct Bench {
    pub(crate) runtime: Runtime,
    pub(super) clock: Arc<SimulatedClock>,
    pub(super) log: Arc<MemoryLog>,
    pub(super) pool: Arc<HsmPool>,
    pub(super) failing: Arc<AtomicBool>,
    pub(crate) server: VaultServer<MemoryLog>,
    pub(crate) client: VaultClient,
    suite: Suite,
    draws: AtomicU64,
}

impl Bench {
    pub(crate) fn new(suite: Suite) -> Self {
        Self::with_limits(suite, ServerLimits { registrations_max: 64, attempts_max: 64 })
    }

    pub(super) fn with_limits(suite: Suite, limits: ServerLimits) -> Self {
        let clock = SimulatedClock::start();
        let mut chance = ChaCha20Rng::seed_from_u64(1);
        let secrets = FleetSecrets::generate(&mut chance);
        let keys = ServerKeys::generate(suite, &mut chance);
        let failing = Arc::new(AtomicBool::new(false));
        let inner = SoftwareAdapter::new(suite, &secrets);
        let adapter = Arc::new(Moody { inner, failing: Arc::clone(&failing) });
        let pool = HsmPool::open(adapter, 1, SLOTS, Arc::<SimulatedClock>::clone(&clock)).unwrap();
        let pool = Arc::new(pool);
        let log = Arc::new(MemoryLog::default());
        let server = VaultServer::new(
            &keys,
            Arc::clone(&pool),
            Arc::clone(&log),
            Arc::<SimulatedClock>::clone(&clock),
            chance,
            limits,
        )
        .unwrap();
        let client = VaultClient::new(suite, server.public_key()).unwrap();
        assert_eq!(server.public_key(), keys.public_key().unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let draws = AtomicU64::new(100);
        Self { runtime, clock, log, pool, failing, server, client, suite, draws }
    }

    pub(super) fn advance(&self, time: Duration) {
        let at = self.clock.now().after(time);
        while self.clock.now() < at {
            self.clock.park_until(at);
        }
    }

    pub(super) fn clock_now(&self) -> Moment {
        self.clock.now()
    }

    /// Lets some time pass, then says what time it is.
    pub(super) fn clock_now_after(&self, time: Duration) -> Moment {
        self.advance(time);
        self.clock.now()
    }

    /// Moves the clock to the next wait, at most to `until`.
    pub(super) fn tick(&self, until: Moment) {
        self.clock.park_until(until);
    }

    pub(super) fn register(
        &self,
        account: AccountId,
        password: &str,
    ) -> Result<RegistrationEnd, ClientError> {
        self.register_through(&self.server, account, password)
    }

    pub(super) fn register_through(
        &self,
        service: &impl VaultService,
        account: AccountId,
        password: &str,
    ) -> Result<RegistrationEnd, ClientError> {
        let (mut chance, mut stages) = (self.draw(), StageTimes::default());
        let key = key_of(password);
        let person = (account, password.as_bytes(), &key);
        let plain = plain();
        let done = self.client.register(service, person, &plain, &mut chance, &mut stages);
        self.runtime.block_on(done)
    }

    pub(super) fn recover(
        &self,
        account: AccountId,
        password: &str,
    ) -> Result<BackupKey, ClientError> {
        self.recover_through(&self.server, account, password)
    }

    pub(super) fn recover_through(
        &self,
        service: &impl VaultService,
        account: AccountId,
        password: &str,
    ) -> Result<BackupKey, ClientError> {
        let (mut chance, mut stages) = (self.draw(), StageTimes::default());
        let person = (account, password.as_bytes());
        let plain = plain();
        let done = self.client.recover(service, person, &plain, &mut chance, &mut stages);
        self.runtime.block_on(done)
    }

    pub(super) fn ask(&self, request: VaultRequest) -> VaultReply {
        self.runtime.block_on(self.server.answer(request)).reply
    }

    pub(super) fn ask_through(
        &self,
        service: &impl VaultService,
        request: VaultRequest,
    ) -> VaultReply {
        self.runtime.block_on(service.call(request)).reply
    }

    /// A `KE1` that is sound.
    pub(super) fn start_log_in(&self) -> Vec<u8> {
        let client = OpaqueClient::new(self.suite, self.server.public_key()).unwrap();
        client.start_log_in(b"wrong", &mut self.draw()).unwrap().0
    }

    /// So many guesses, each answered and each wrong.
    pub(super) fn guess_wrong(&self, account: AccountId, times: usize) {
        for guess in 1..=times {
            let end = self.recover(account, "wrong");
            assert_eq!(end, Err(ClientError::WrongPassword), "guess {guess} of {times}");
        }
    }

    pub(super) fn draw(&self) -> ChaCha20Rng {
        ChaCha20Rng::seed_from_u64(self.draws.fetch_add(1, Ordering::SeqCst))
    }
}

/// The backup key registered under a password in these tests.
pub(super) fn key_of(password: &str) -> BackupKey {
    let mut bytes = [7; 32];
    bytes[..password.len()].copy_from_slice(password.as_bytes());
    BackupKey::from_bytes(zeroize::Zeroizing::new(bytes))
}

fn plain() -> ClientStretching {
    ClientStretching { stretcher: Stretcher::new(Stretching::None), threads: None }
}

/// A wire on which somebody listens, and may change or swallow what the client sends.
pub(super) struct Tap<'a, F> {
    pub(super) server: &'a VaultServer<MemoryLog>,
    /// `None` swallows the request; the client is told it was busy.
    pub(super) change: F,
    pub(super) heard: Mutex<Vec<(VaultRequest, VaultReply)>>,
}

impl<'a, F: Fn(VaultRequest) -> Option<VaultRequest> + Send + Sync> Tap<'a, F> {
    pub(super) fn new(server: &'a VaultServer<MemoryLog>, change: F) -> Self {
        Self { server, change, heard: Mutex::default() }
    }

    pub(super) fn heard(self) -> Vec<(VaultRequest, VaultReply)> {
        self.heard.into_inner().unwrap()
    }
}

impl<F: Fn(VaultRequest) -> Option<VaultRequest> + Send + Sync> VaultService for Tap<'_, F> {
    async fn call(&self, request: VaultRequest) -> Answer {
        let Some(request) = (self.change)(request) else {
            let reply = VaultReply::Refused(super::message::Refusal::Busy);
            return Answer { reply, stages: StageTimes::default() };
        };
        let answer = self.server.answer(request.clone()).await;
        self.heard.lock().unwrap().push((request, answer.reply.clone()));
        answer
    }
}
