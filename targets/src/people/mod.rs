//! What synthetic people do: they register backup keys and recover them, right or wrong, against any
//! vault.
//!
//! The embedded vault and a fleet behind a relay are measured by the same people. Where their vault
//! is, and which of its replicas they talk to, is the target's.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::ops::{ControlFlow, Range};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::Either;
use tokio::task::JoinHandle;

use crate::client::{
    AccountKeys, BackupKey, ClientError, ClientStretching, KnownAccount, StretchingThreads,
    VaultClient,
};
use crate::opaque::{KnownStretchings, OpaqueError, Stretcher, Stretching};
use crate::target::{Evidence, Operation, Outcome, Reply, Request, StageTimes};
use crate::vault::{AccountId, Refusal, VaultService};

mod keys_file;
mod lean;
#[cfg(test)]
mod lean_tests;
mod population;
mod shares;
pub(crate) mod synthetic;
mod watched;

pub(crate) use keys_file::{KeysFile, Whose};
pub use keys_file::{KeysFileError, forget_keys};
pub(crate) use lean::FleetKeys;
pub use lean::{FULL_EVERY, LeanConfig};
pub use population::Registered;
pub(crate) use population::{POPULATION_IN_FLIGHT, PopulationError, register_range};
pub use shares::{LeanCounts, SHARES_MAX};

use lean::Lean;
use shares::count;
use synthetic::{Chance, Synthetic, WRONG_PASSWORD};
use watched::Watched;

/// Which client steps are really done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fidelity {
    /// Every step.
    Full,
    /// Accounts of the population are stretched once, when they are registered; a password known to
    /// be wrong is not stretched. The vault sees no difference.
    Cached,
    /// Recoveries do what the vault can observe and nothing else, with keys that are known since the
    /// registration; one in so many does every step. The vault sees no difference.
    Lean(LeanConfig),
}

/// Why there are no people.
#[derive(Debug)]
pub(crate) enum PeopleError {
    /// No threads to stretch on.
    Threads(String),
    /// The fleet's key is none.
    Keys(OpaqueError),
    /// The keys of the population are not to be had.
    KeysFile(KeysFileError),
}

/// Everybody who has, or will have, an account.
pub(crate) struct People {
    client: VaultClient,
    synthetic: Synthetic,
    stretching: Stretching,
    fidelity: Fidelity,
    /// Present if they are.
    lean: Option<Lean>,
    threads: Option<Arc<StretchingThreads>>,
    known: OnceLock<Arc<KnownStretchings>>,
    /// Accounts whose stretchings are known: those registered from here.
    registered: RwLock<Range<u64>>,
    /// Where the population ends and the accounts that the run makes begin.
    population: AtomicU64,
    population_prefix: [u8; 8],
    run_prefix: [u8; 8],
    errors: Mutex<HashMap<&'static str, Arc<str>>>,
}

impl People {
    /// People who do not know their vault yet. `population`: how many are going to be registered
    /// before the run.
    ///
    /// # Errors
    /// See [`PeopleError`].
    pub(crate) fn new(
        client: VaultClient,
        fleet: FleetKeys<'_>,
        synthetic: Synthetic,
        (stretching, fidelity): (Stretching, Fidelity),
        population: u64,
    ) -> Result<Self, PeopleError> {
        let threads = if stretching == Stretching::None {
            None
        } else {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            let threads = StretchingThreads::start(cores);
            Some(Arc::new(threads.map_err(|error| PeopleError::Threads(error.to_string()))?))
        };
        let lean = match &fidelity {
            Fidelity::Full | Fidelity::Cached => None,
            Fidelity::Lean(config) => Some(Lean::new(config, fleet, stretching, &synthetic)?),
        };
        let (population_prefix, run_prefix) = synthetic.prefixes();
        Ok(Self {
            client,
            stretching,
            fidelity,
            lean,
            threads,
            known: OnceLock::new(),
            registered: RwLock::new(0..0),
            population: AtomicU64::new(population),
            population_prefix,
            run_prefix,
            synthetic,
            errors: Mutex::default(),
        })
    }

    /// Chance that is drawn for nobody else.
    pub(crate) fn chance(&self, whose: Chance) -> rand_chacha::ChaCha20Rng {
        self.synthetic.chance(whose)
    }

    /// The identifier of an account: 8 bytes that follow from the seed (and for accounts that the run
    /// makes, from the run), then the number, big-endian. So a run finds the population that an
    /// earlier one with its seed registered, and registers where nobody else does.
    pub(crate) fn id(&self, account: u64) -> AccountId {
        let settled = account < self.population.load(Ordering::Acquire);
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(if settled {
            &self.population_prefix
        } else {
            &self.run_prefix
        });
        bytes[8..].copy_from_slice(&account.to_be_bytes());
        AccountId::new(&bytes).expect("16 bytes are enough for an account")
    }

    /// Does what is asked, at a vault. `stages` is given the vault's times, `evidence` what is seen of
    /// its rules.
    #[expect(clippy::manual_async_fn, reason = "an `async fn` holds twice what it is called with")]
    pub(crate) fn operate<S: VaultService>(
        &self,
        service: &S,
        request: &Request,
        stages: &mut StageTimes,
        evidence: &mut Evidence,
    ) -> impl Future<Output = (Outcome, Option<&'static str>)> + Send {
        async move {
            let service = Watched::new(service);
            let ended = self.begin(&service, request, stages).await;
            *evidence = service.evidence();
            match ended {
                Ok(()) => (Outcome::Complete, None),
                Err(Ended::Client(error)) => {
                    evidence.unopened = error == ClientError::WrongPassword;
                    ended_badly(error)
                }
                Err(Ended::Key(why)) => {
                    evidence.key_differs = true;
                    (Outcome::Failed, Some(why))
                }
            }
        }
    }

    /// Begins what is asked. Lean recoveries wait in many and take little; everything else is larger, and on the heap:
    /// a place is as large as the largest that it may hold.
    fn begin<'a, S: VaultService>(
        &'a self,
        service: &'a S,
        request: &Request,
        stages: &'a mut StageTimes,
    ) -> impl Future<Output = Result<(), Ended>> + Send + use<'a, S> {
        let Request { operation, account, number, .. } = *request;
        if operation == Operation::Register {
            return Either::Right(self.register_new(service, *request, stages).boxed());
        }
        let Some(lean) = self.lean_for(number) else {
            return Either::Right(self.recover_in_full(service, *request, stages).boxed());
        };
        let whose = (&self.synthetic, number);
        if operation == Operation::RecoverWrong {
            let guessed = lean.guess(service, self.id(account), whose, stages);
            return Either::Right(guessed.map(|error| Err(Ended::Client(error))).boxed());
        }
        if account >= lean.keys.made() {
            count(&lean.counts.unknown);
            return Either::Right(self.recover_in_full(service, *request, stages).boxed());
        }
        let known = Known { people: self, lean, account };
        let recovering = lean.recover(service, known, whose, stages);
        Either::Left(
            recovering
                .map(move |recovered| self.is_right(account, recovered.map_err(Ended::Client)?)),
        )
    }

    async fn register_new<S: VaultService>(
        &self,
        service: &S,
        Request { account, number, .. }: Request,
        stages: &mut StageTimes,
    ) -> Result<(), Ended> {
        let mut chance = self.synthetic.chance(Chance::Operation { number });
        let (password, key) = self.person(account);
        let stretching = self.stretched_in_full();
        let person = (self.id(account), &password[..], &key);
        if let Some(lean) = self.lean_for(number) {
            let registering =
                lean.client.register(service, person, &stretching, &mut chance, stages);
            return registering.await.map(drop).map_err(Ended::Client);
        }
        let registered = self.client.register(service, person, &stretching, &mut chance, stages);
        registered.await.map(drop).map_err(Ended::Client)
    }

    async fn recover_in_full<S: VaultService>(
        &self,
        service: &S,
        Request { operation, account, number, .. }: Request,
        stages: &mut StageTimes,
    ) -> Result<(), Ended> {
        let mut chance = self.synthetic.chance(Chance::Operation { number });
        let (password, _) = self.person(account);
        let is_wrong = operation == Operation::RecoverWrong;
        let (password, stretching) = if is_wrong {
            (WRONG_PASSWORD, self.stretched_in_vain())
        } else {
            (&password[..], self.stretched_for(account))
        };
        let person = (self.id(account), password);
        let recovering = self.client.recover(service, person, &stretching, &mut chance, stages);
        match recovering.await {
            Ok(_) if is_wrong => Err(Ended::Key("a wrong password recovered a key")),
            Ok(recovered) => self.is_right(account, recovered),
            Err(error) => Err(Ended::Client(error)),
        }
    }

    fn is_right(&self, account: u64, recovered: BackupKey) -> Result<(), Ended> {
        if recovered == self.synthetic.backup_key(account) {
            Ok(())
        } else {
            Err(Ended::Key("recovered key differs from the registered one"))
        }
    }

    /// How an operation is done by lean people that is not drawn to do every step.
    fn lean_for(&self, number: u64) -> Option<&Lean> {
        let lean = self.lean.as_ref()?;
        if lean.is_sampled(number) {
            count(&lean.counts.full);
            return None;
        }
        Some(lean)
    }

    /// Registers an account of the population. `again` counts the tries before this one.
    pub(crate) async fn register<S: VaultService>(
        &self,
        service: &S,
        account: u64,
        again: u32,
    ) -> Result<(), ClientError> {
        let mut chance = self.synthetic.chance(Chance::Population { account, again });
        let (password, key) = self.person(account);
        let stretcher = match (&self.fidelity, self.known.get()) {
            (Fidelity::Cached, Some(known)) => {
                Stretcher::with_known(self.stretching, Arc::clone(known))
            }
            _ => Stretcher::new(self.stretching),
        };
        let stretching = ClientStretching { stretcher, threads: self.threads.clone() };
        let person = (self.id(account), &password[..], &key);
        let mut nobody = StageTimes::default();
        if let Some(lean) = &self.lean {
            let client = &lean.client;
            let registering =
                client.register(service, person, &stretching, &mut chance, &mut nobody);
            let (_, keys) = registering.await?;
            lean.keys.keep(account, &keys);
            return Ok(());
        }
        self.client.register(service, person, &stretching, &mut chance, &mut nobody).await.map(drop)
    }

    /// Makes room for what the accounts of a range stretch to, and forgets what was known of them: they
    /// are going to be registered anew.
    pub(crate) fn expect_population(&self, range: &Range<u64>) -> Result<(), KeysFileError> {
        if let Some(lean) = &self.lean
            && !range.is_empty()
        {
            lean.keys.cut(range.start)?;
        }
        self.population.fetch_max(range.end, Ordering::AcqRel);
        let room = usize::try_from(range.end).unwrap_or(usize::MAX);
        self.known.get_or_init(|| Arc::new(KnownStretchings::new(room)));
        Ok(())
    }

    /// The accounts of a range are registered, and what they stretch to is known.
    pub(crate) fn know(&self, range: Range<u64>) -> Result<(), KeysFileError> {
        if let Some(lean) = &self.lean {
            lean.keys.reached(range.end)?;
        }
        *self.registered.write().unwrap_or_else(PoisonError::into_inner) = range;
        Ok(())
    }

    /// What kept keys of registered accounts from being written.
    pub(crate) fn trouble(&self) -> Option<KeysFileError> {
        self.lean.as_ref()?.keys.trouble()
    }

    /// Accounts whose keys are known, from the first on; `None` if these people keep none.
    pub(crate) fn known_keys(&self) -> Option<u64> {
        Some(self.lean.as_ref()?.keys.made())
    }

    /// Makes what the lean logins of operations 0 to `end` − 1 need, of those that are `wanted`; nothing,
    /// for people who are not lean. `progress` is told how far that is, and may stop it.
    ///
    /// # Errors
    /// No threads.
    pub(crate) fn prepare(
        &self,
        end: u64,
        wanted: &(dyn Fn(u64) -> bool + Sync),
        progress: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), String> {
        let Some(lean) = &self.lean else { return Ok(()) };
        lean.prepare(&self.synthetic, end, wanted, progress)
    }

    /// What lean people did so far; `None` for others.
    pub(crate) fn lean_counts(&self) -> Option<LeanCounts> {
        Some(self.lean.as_ref()?.counts())
    }

    fn person(&self, account: u64) -> (zeroize::Zeroizing<[u8; 16]>, BackupKey) {
        (self.synthetic.password(account), self.synthetic.backup_key(account))
    }

    fn stretched_in_full(&self) -> ClientStretching {
        let stretcher = Stretcher::new(self.stretching);
        ClientStretching { stretcher, threads: self.threads.clone() }
    }

    /// When cached, accounts registered from here are known: a look-up, on the operation's own task.
    /// Those that an earlier run registered are stretched the first time.
    fn stretched_for(&self, account: u64) -> ClientStretching {
        match (&self.fidelity, self.known.get()) {
            (Fidelity::Cached, Some(known))
                if account < self.population.load(Ordering::Acquire) =>
            {
                let registered = self.registered.read().unwrap_or_else(PoisonError::into_inner);
                let stretcher = Stretcher::with_known(self.stretching, Arc::clone(known));
                let threads =
                    if registered.contains(&account) { None } else { self.threads.clone() };
                ClientStretching { stretcher, threads }
            }
            _ => self.stretched_in_full(),
        }
    }

    fn stretched_in_vain(&self) -> ClientStretching {
        match self.fidelity {
            Fidelity::Full | Fidelity::Lean(_) => self.stretched_in_full(),
            Fidelity::Cached => {
                ClientStretching { stretcher: Stretcher::new(Stretching::None), threads: None }
            }
        }
    }

    /// One shared text for each error.
    pub(crate) fn text(&self, error: &'static str) -> Arc<str> {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(errors.entry(error).or_insert_with(|| Arc::from(error)))
    }
}

impl fmt::Debug for People {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("People").field("fidelity", &self.fidelity).finish_non_exhaustive()
    }
}

/// An account of lean people whose keys are in their file.
struct Known<'a> {
    people: &'a People,
    lean: &'a Lean,
    account: u64,
}

impl KnownAccount for Known<'_> {
    fn id(&self) -> AccountId {
        self.people.id(self.account)
    }

    fn keys(&self) -> Option<AccountKeys> {
        self.lean.keys.look_up(self.account)
    }
}

/// Why an operation did not do what it should.
enum Ended {
    /// The client says.
    Client(ClientError),
    /// A key came back that is not the one expected.
    Key(&'static str),
}

/// An operation on the target's own runtime; dropping it is the client giving up.
pub(crate) struct Performing(pub(crate) JoinHandle<Reply>);

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

/// How an operation ended that did not succeed.
fn ended_badly(error: ClientError) -> (Outcome, Option<&'static str>) {
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
