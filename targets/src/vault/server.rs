//! One replica's core: what the vault does with a request.
//!
//! It holds nothing that must survive: what a client was told between two messages is in bounded
//! tables that die with the replica, what bounds guesses is in the replicated state. The rule of the
//! house: no reply that could help a guess leaves before its quorum commit.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use rand::RngCore;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use tokio::sync::Notify;
use vaultmark_hsm::{Clock, DeviceError, Element, Evaluation, HsmPool, Moment};

use super::account::{AccountId, AttemptId, RegistrationId};
use super::command::{Command, CommandReply};
use super::cryptography::{Cryptography, DeviceCryptography};
use super::expiring::Expiring;
use super::message::{Answer, Failure, Refusal, VaultReply, VaultRequest, VaultService};
use super::recover::Attempt;
use super::register::Waiting;
use super::state::{LAST_ATTEMPT, millis};
use crate::opaque::{OpaqueError, ServerKeys};
use crate::quorum::{CommitError, QuorumLog};
use crate::target::{Stage, StageTimes};

/// How long a client has between two messages: a person's whole recovery takes seconds.
pub const MESSAGE_TTL: Duration = Duration::from_secs(60);
/// How long the sweeper waits after a commit that failed: elections take a few hundred milliseconds.
const SWEEP_RETRY: Duration = Duration::from_secs(1);

/// How much a core remembers between two messages of a client.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// Registrations begun and not confirmed.
    pub registrations_max: usize,
    /// Attempts charged and not finished. Those with a wrong password are never finished: room for
    /// 4,300 of them a second.
    pub attempts_max: usize,
}

/// The attempts that a core has begun.
type Attempts<L> = Expiring<(AccountId, AttemptId), Attempt<L>>;

impl Default for ServerLimits {
    fn default() -> Self {
        Self { registrations_max: 1 << 16, attempts_max: 1 << 18 }
    }
}

/// One replica's core, over a replicated log and the cryptography it stands on.
pub struct VaultServer<L, C: Cryptography = DeviceCryptography> {
    pub(super) cryptography: C,
    log: Arc<L>,
    clock: Arc<dyn Clock>,
    chance: Mutex<ChaCha20Rng>,
    alive: AtomicBool,
    pub(super) registrations: Mutex<Expiring<(AccountId, RegistrationId), Waiting>>,
    pub(super) attempts: Mutex<Attempts<C::Login>>,
    /// When the next sweep is due, in milliseconds since the Unix epoch; `u64::MAX` for never.
    sweep_due_ms: AtomicU64,
    sweep_sooner: Notify,
}

impl<L: QuorumLog> VaultServer<L> {
    /// A core that remembers nothing yet. `chance` must not repeat: not between replicas, and not
    /// when a replica starts again.
    ///
    /// # Errors
    /// See [`OpaqueServer::new`].
    pub fn new(
        keys: &ServerKeys,
        pool: Arc<HsmPool>,
        log: Arc<L>,
        clock: Arc<dyn Clock>,
        mut chance: ChaCha20Rng,
        limits: ServerLimits,
    ) -> Result<Self, OpaqueError> {
        let cryptography = DeviceCryptography::new(keys, pool, &mut chance)?;
        Ok(Self::with(cryptography, log, clock, chance, limits))
    }

    /// The pool it evaluates on.
    #[must_use]
    pub fn pool(&self) -> &HsmPool {
        &self.cryptography.pool
    }
}

impl<L: QuorumLog, C: Cryptography> VaultServer<L, C> {
    /// As [`VaultServer::new`], over any cryptography.
    pub fn with(
        cryptography: C,
        log: Arc<L>,
        clock: Arc<dyn Clock>,
        chance: ChaCha20Rng,
        limits: ServerLimits,
    ) -> Self {
        Self {
            cryptography,
            log,
            clock,
            chance: Mutex::new(chance),
            alive: AtomicBool::new(true),
            registrations: Mutex::new(Expiring::new(limits.registrations_max, MESSAGE_TTL)),
            attempts: Mutex::new(Expiring::new(limits.attempts_max, MESSAGE_TTL)),
            sweep_due_ms: AtomicU64::new(0),
            sweep_sooner: Notify::new(),
        }
    }

    /// The public key that clients pin.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        self.cryptography.public_key()
    }

    /// Answers one request.
    pub async fn answer(&self, request: VaultRequest) -> Answer {
        let start = self.clock.now();
        let mut stages = StageTimes::default();
        let done = if self.alive.load(Ordering::Acquire) {
            self.dispatch(request, &mut stages).await
        } else {
            Err(Refusal::Failed(Failure::ReplicaDown))
        };
        // A replica that was killed meanwhile answers nothing.
        let done = if self.alive.load(Ordering::Acquire) {
            done
        } else {
            Err(Refusal::Failed(Failure::ReplicaDown))
        };
        let total = self.clock.now().since(start);
        let others = Duration::from_nanos(stages.total_ns());
        stages.add(Stage::Server, total.saturating_sub(others));
        Answer { reply: done.unwrap_or_else(VaultReply::Refused), stages }
    }

    async fn dispatch(
        &self,
        request: VaultRequest,
        stages: &mut StageTimes,
    ) -> Result<VaultReply, Refusal> {
        match request {
            VaultRequest::RegisterStart { account, request } => {
                self.register_start(account, &request, stages).await
            }
            VaultRequest::RegisterUpload {
                account,
                registration,
                upload,
                verifying_key,
                wrapped_key,
            } => {
                let left = (&upload[..], verifying_key, &wrapped_key[..]);
                self.register_upload(account, registration, left, stages).await
            }
            VaultRequest::RegisterConfirm { account, registration, signature } => {
                self.register_confirm(account, registration, &signature, stages).await
            }
            VaultRequest::RecoverStart { account, attempt, ke1 } => {
                self.recover_start(account, attempt, &ke1, stages).await
            }
            VaultRequest::RecoverFinish { account, attempt, ke3, signature } => {
                self.recover_finish(account, attempt, &ke3, &signature, stages).await
            }
            VaultRequest::Delete { account } => self.delete(account, stages).await,
        }
    }

    async fn delete(
        &self,
        account: AccountId,
        stages: &mut StageTimes,
    ) -> Result<VaultReply, Refusal> {
        let command = Command::Delete { account, now_ms: self.now_ms() };
        let reply = self.commit(command, Stage::ResetCommit, stages).await?;
        match parse(&reply)? {
            CommandReply::Deleted => Ok(VaultReply::Deleted),
            CommandReply::Destroyed => Err(Refusal::Destroyed),
            _ => Err(Refusal::Failed(Failure::Corrupt)),
        }
    }

    /// Stops answering, and forgets what only memory knew, as a killed process does. For good: a
    /// replica that starts again is a new core.
    pub fn kill(&self) {
        self.alive.store(false, Ordering::Release);
        self.registrations().clear();
        self.attempts().clear();
        self.sweep_sooner.notify_one();
    }

    /// Destroys records whose last attempt is overdue, each when it is due, until the core is killed.
    /// One commit when it begins, then one a minute and one for each record that is due: the minute
    /// is for attempts that another core began, and did not live to end.
    pub async fn sweep(&self) {
        while self.alive.load(Ordering::Acquire) {
            let now_ms = self.now_ms();
            let due_ms = self.sweep_due_ms.load(Ordering::Acquire);
            if due_ms > now_ms {
                let wait = self.clock.sleep_until(self.moment(due_ms));
                // In one order, so that a simulation has one: chance is not asked.
                tokio::select! {
                    biased;
                    () = wait => {}
                    () = self.sweep_sooner.notified() => {}
                }
                continue;
            }
            let minute_ms = now_ms.saturating_add(millis(LAST_ATTEMPT));
            self.sweep_due_ms.store(minute_ms, Ordering::Release);
            let swept = self.sweep_once().await;
            let next_ms = match swept {
                Ok(next_ms) => next_ms,
                Err(_) => Some(now_ms.saturating_add(millis(SWEEP_RETRY))),
            };
            self.sweep_due_ms.fetch_min(next_ms.unwrap_or(u64::MAX), Ordering::AcqRel);
        }
    }

    /// Destroys what is overdue now; says when the next record is due, in milliseconds since the Unix
    /// epoch.
    ///
    /// # Errors
    /// The commit failed.
    pub async fn sweep_once(&self) -> Result<Option<u64>, Refusal> {
        let command = Command::Sweep { now_ms: self.now_ms() };
        let mut nobody = StageTimes::default();
        let reply = self.commit(command, Stage::ResetCommit, &mut nobody).await?;
        match parse(&reply)? {
            CommandReply::Swept { next_due_ms, .. } => Ok(next_due_ms),
            _ => Err(Refusal::Failed(Failure::Corrupt)),
        }
    }

    /// Has the sweeper look at once: something may be due that this core has not begun.
    pub fn sweep_soon(&self) {
        self.sweep_at(0);
    }

    pub(super) fn sweep_at(&self, due_ms: u64) {
        if self.sweep_due_ms.fetch_min(due_ms, Ordering::AcqRel) > due_ms {
            self.sweep_sooner.notify_one();
        }
    }

    pub(super) async fn commit(
        &self,
        command: Command<'_>,
        stage: Stage,
        stages: &mut StageTimes,
    ) -> Result<Vec<u8>, Refusal> {
        let start = self.clock.now();
        let committed = self.log.commit(command.encode()).await;
        stages.add(stage, self.clock.now().since(start));
        match committed {
            Ok(committed) => Ok(committed.reply),
            Err(error) => Err(Refusal::Failed(match error {
                CommitError::NotLeader { .. } | CommitError::NoLeader => Failure::NoLeader,
                CommitError::Full => Failure::LogFull,
                CommitError::TooLong => Failure::TooLong,
                CommitError::Unavailable(_) => Failure::CommitUnknown,
            })),
        }
    }

    pub(super) fn reserve(&self) -> Result<C::Room, Refusal> {
        self.cryptography.reserve().ok_or(Refusal::Busy)
    }

    pub(super) async fn evaluate(
        &self,
        room: C::Room,
        credential_identifier: Arc<[u8]>,
        blinded: Element,
        stages: &mut StageTimes,
    ) -> Result<Element, Refusal> {
        let job = Evaluation::new(credential_identifier, blinded);
        let evaluated = self.cryptography.evaluate(room, job).await.map_err(|error| {
            Refusal::Failed(match error {
                DeviceError::BadElement => Failure::BadElement,
                DeviceError::SessionLost(_) => Failure::HsmSessionLost,
                DeviceError::Failed(_) => Failure::Device,
            })
        })?;
        stages.add(Stage::DeviceWait, evaluated.device_wait);
        stages.add(Stage::OprfEvaluation, evaluated.evaluation);
        Ok(evaluated.element)
    }

    /// Chance for one request: drawn once, so that requests wait for each other no longer than that.
    pub(super) fn chance(&self) -> ChaCha20Rng {
        let mut seed = [0; 32];
        self.chance.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(&mut seed);
        ChaCha20Rng::from_seed(seed)
    }

    pub(super) fn now(&self) -> Moment {
        self.clock.now()
    }

    /// The stamp of commands.
    pub(super) fn now_ms(&self) -> u64 {
        self.origin_ms().saturating_add(millis(self.clock.now().since(Moment::ZERO)))
    }

    /// Milliseconds since the Unix epoch at the clock's zero; asked each time, since a calendar may be
    /// set.
    fn origin_ms(&self) -> u64 {
        millis(self.clock.origin().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    fn moment(&self, unix_ms: u64) -> Moment {
        Moment::ZERO.after(Duration::from_millis(unix_ms.saturating_sub(self.origin_ms())))
    }

    pub(super) fn registrations(
        &self,
    ) -> MutexGuard<'_, Expiring<(AccountId, RegistrationId), Waiting>> {
        self.registrations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn attempts(&self) -> MutexGuard<'_, Attempts<C::Login>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<L: QuorumLog, C: Cryptography> VaultService for VaultServer<L, C> {
    async fn call(&self, request: VaultRequest) -> Answer {
        self.answer(request).await
    }
}

impl<L, C: Cryptography> fmt::Debug for VaultServer<L, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultServer")
            .field("cryptography", &self.cryptography)
            .field("alive", &self.alive)
            .finish_non_exhaustive()
    }
}

/// The `credential_identifier` of a registration: account ‖ registration id. The id's length is
/// fixed, so no two pairs give the same bytes.
pub(super) fn credential_identifier(account: &AccountId, id: RegistrationId) -> Arc<[u8]> {
    let account = account.as_bytes();
    let mut bytes = [0; super::account::ACCOUNT_LEN_MAX + 16];
    bytes[..account.len()].copy_from_slice(account);
    bytes[account.len()..account.len() + 16].copy_from_slice(&id.0);
    Arc::from(&bytes[..account.len() + 16])
}

pub(super) fn parse(reply: &[u8]) -> Result<CommandReply<'_>, Refusal> {
    postcard::from_bytes(reply).map_err(|_| Refusal::Failed(Failure::Corrupt))
}
