//! What synthetic people do: they register backup keys and recover them, right or wrong, against any
//! vault.
//!
//! The embedded vault and a fleet behind a relay are measured by the same people. Where their vault
//! is, and which of its replicas they talk to, is the target's.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::future::Future;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use tokio::task::JoinSet;

use crate::client::{BackupKey, ClientError, ClientStretching, StretchingThreads, VaultClient};
use crate::opaque::{KnownStretchings, Stretcher, Stretching};
use crate::target::{Operation, Outcome, Request, StageTimes};
use crate::vault::{AccountId, Refusal, VaultService};

pub(crate) mod synthetic;

use synthetic::{Chance, Synthetic, WRONG_PASSWORD};

/// Registrations in flight while the population is made: enough to keep every core and the log busy.
pub(crate) const POPULATION_IN_FLIGHT: usize = 64;

/// Which client steps are really done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fidelity {
    /// Every step.
    Full,
    /// Accounts of the population are stretched once, when they are registered; a password known to
    /// be wrong is not stretched. The vault sees no difference.
    Cached,
}

/// Everybody who has, or will have, an account.
pub(crate) struct People {
    client: VaultClient,
    synthetic: Synthetic,
    stretching: Stretching,
    fidelity: Fidelity,
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
    /// No threads to stretch on.
    pub(crate) fn new(
        client: VaultClient,
        synthetic: Synthetic,
        (stretching, fidelity): (Stretching, Fidelity),
        population: u64,
    ) -> Result<Self, String> {
        let threads = if stretching == Stretching::None {
            None
        } else {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            let threads = StretchingThreads::start(cores).map_err(|error| error.to_string())?;
            Some(Arc::new(threads))
        };
        let (population_prefix, run_prefix) = synthetic.prefixes();
        Ok(Self {
            client,
            stretching,
            fidelity,
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

    /// Does what is asked, at a vault. `stages` is given the vault's times.
    pub(crate) async fn operate<S: VaultService>(
        &self,
        service: &S,
        request: Request,
        stages: &mut StageTimes,
    ) -> (Outcome, Option<&'static str>) {
        let Request { operation, account, number, .. } = request;
        let mut chance = self.synthetic.chance(Chance::Operation { number });
        let id = self.id(account);
        match operation {
            Operation::Register => {
                let (password, key) = self.person(account);
                let stretching = self.stretched_in_full();
                let person = (id, &password[..], &key);
                let registered =
                    self.client.register(service, person, &stretching, &mut chance, stages).await;
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
                    self.client.recover(service, person, &stretching, &mut chance, stages).await;
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
                    self.client.recover(service, person, &stretching, &mut chance, stages).await;
                match recovered {
                    Ok(_) => (Outcome::Failed, Some("a wrong password recovered a key")),
                    Err(error) => ended(error),
                }
            }
        }
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
        let stretcher = match (self.fidelity, self.known.get()) {
            (Fidelity::Cached, Some(known)) => {
                Stretcher::with_known(self.stretching, Arc::clone(known))
            }
            _ => Stretcher::new(self.stretching),
        };
        let stretching = ClientStretching { stretcher, threads: self.threads.clone() };
        let person = (self.id(account), &password[..], &key);
        let mut nobody = StageTimes::default();
        self.client.register(service, person, &stretching, &mut chance, &mut nobody).await.map(drop)
    }

    /// Makes room for what the accounts of a range stretch to.
    pub(crate) fn expect_population(&self, range: &Range<u64>) {
        self.population.fetch_max(range.end, Ordering::AcqRel);
        let room = usize::try_from(range.end).unwrap_or(usize::MAX);
        self.known.get_or_init(|| Arc::new(KnownStretchings::new(room)));
    }

    /// The accounts of a range are registered, and what they stretch to is known.
    pub(crate) fn know(&self, range: Range<u64>) {
        *self.registered.write().unwrap_or_else(PoisonError::into_inner) = range;
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
        match (self.fidelity, self.known.get()) {
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
            Fidelity::Full => self.stretched_in_full(),
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

/// How far the registration of a range has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Accounts of the range that are registered.
    pub done: u64,
    /// Every account of the range below this one is: where to begin after an interruption.
    pub below: u64,
}

/// Why a population is not complete.
#[derive(Debug)]
pub(crate) enum PopulationError {
    /// An account could not be registered.
    Account(u64, ClientError),
    /// A task did not end.
    Task(String),
    /// The caller had enough.
    Stopped,
}

/// Registers the accounts of a range, so many at a time. `progress` is told after each, and may stop
/// it; those in flight are then given up.
pub(crate) async fn register_range<F, R>(
    range: Range<u64>,
    in_flight: usize,
    register: F,
    mut progress: impl FnMut(Registered) -> ControlFlow<()>,
) -> Result<(), PopulationError>
where
    F: Fn(u64) -> R,
    R: Future<Output = Result<(), ClientError>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    let mut waiting = range.clone();
    let mut told = Registered { done: 0, below: range.start };
    // Done, but not everyone before them: no more than are in flight behind the slowest.
    let mut ahead = BTreeSet::new();
    loop {
        // No further ahead of the slowest than that, so that the set has a limit.
        while tasks.len() < in_flight && ahead.len() < 16 * in_flight {
            let Some(account) = waiting.next() else { break };
            let registering = register(account);
            tasks.spawn(async move { (account, registering.await) });
        }
        match tasks.join_next().await {
            None => return Ok(()),
            Some(Err(error)) => return Err(PopulationError::Task(error.to_string())),
            Some(Ok((account, Err(error)))) => {
                return Err(PopulationError::Account(account, error));
            }
            Some(Ok((account, Ok(())))) => {
                ahead.insert(account);
                told.done += 1;
                while ahead.remove(&told.below) {
                    told.below += 1;
                }
            }
        }
        if progress(told).is_break() {
            return Err(PopulationError::Stopped);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn run(
        range: Range<u64>,
        in_flight: usize,
        fails: Option<u64>,
        stop_at: u64,
    ) -> (Vec<Registered>, Result<(), PopulationError>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut told = Vec::new();
        let register = |account| async move {
            // Even ones take longer.
            for _ in 0..(account + 1) % 2 * 3 {
                tokio::task::yield_now().await;
            }
            if fails == Some(account) { Err(ClientError::BadRelease) } else { Ok(()) }
        };
        let ended = runtime.block_on(register_range(range, in_flight, register, |progress| {
            told.push(progress);
            if progress.done == stop_at {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        }));
        (told, ended)
    }

    #[test]
    fn a_range_is_registered_once_each_and_says_from_where_to_resume() {
        for (range, in_flight) in [(0..0, 4), (5..6, 4), (3..40, 1), (3..200, 7)] {
            let len = range.end - range.start;
            let (told, ended) = run(range.clone(), in_flight, None, u64::MAX);
            assert!(ended.is_ok());
            let done: Vec<_> = told.iter().map(|it| it.done).collect();
            assert_eq!(done, (1..=len).collect::<Vec<_>>());
            assert!(told.iter().all(|it| it.below - range.start <= it.done));
            assert_eq!(told.last().map_or(range.end, |it| it.below), range.end);
        }
        let (told, ended) = run(0..100, 8, Some(50), u64::MAX);
        assert!(matches!(ended, Err(PopulationError::Account(50, ClientError::BadRelease))));
        assert!(told.iter().all(|it| it.below <= 50));
        let (told, ended) = run(0..100, 8, None, 20);
        assert!(matches!(ended, Err(PopulationError::Stopped)));
        assert_eq!(told.len(), 20);
    }
}
