//! A fleet behind a relay, as a target: real sockets, and everything a client does.
//!
//! The people are the embedded vault's. The generator plays the account service as well: it mints the
//! tokens of its people. Faults are done to the fleet elsewhere (`fleet::control`).

use std::fmt;
use std::future::Future;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::time::Duration;

use rand::RngCore;
use rand::rngs::OsRng;
use rand_chacha::ChaCha20Rng;
use tokio::runtime::{Builder, Handle, Runtime};
use vaultmark_hsm::{Clock, Moment};

use crate::client::{ClientError, VaultClient};
use crate::opaque::Stretching;
use crate::people::synthetic::{Chance, Synthetic};
use crate::people::{
    Fidelity, FleetKeys, LeanCounts, POPULATION_IN_FLIGHT, People, PeopleError, Performing,
    PopulationError, Registered, register_range,
};
use crate::target::{Evidence, Operation, Reply, Request, Stage, StageTimes, Target};
use crate::vault::channel::{ChannelFleet, ChannelService};
use crate::vault::{AccountId, Failure, Refusal};

mod client_file;
mod direct;
mod error;
mod handed;
mod http;
mod multiplexed;
mod own;
#[cfg(test)]
mod tests;
mod ways;

#[doc(hidden)]
pub use client_file::fuzz_client_file;
#[cfg(test)]
pub(crate) use client_file::fuzz_client_file_seeds;
pub use client_file::{ClientFile, ClientFileError, parse_url};
pub use direct::Direct;
pub use error::RemoteError;
pub use handed::{Handed, HandedOperation, Letter};
pub use http::{CONNECTIONS, HttpCarrier, REPLY_TIMEOUT, TokenSource};
#[doc(hidden)]
pub use multiplexed::fuzzing::fuzz_multiplexed;
#[cfg(test)]
pub(crate) use multiplexed::fuzzing::seeds::conversations as fuzz_multiplexed_seeds;
#[doc(hidden)]
pub use own::fuzz_http_reply;
#[cfg(test)]
pub(crate) use own::fuzz_http_reply_seeds;
pub use own::{
    Connection, ConnectionCounts, ExchangeError, LOOPBACK_SOURCES, OpenError, OwnConnections, Post,
    Reply as HttpReply, exchange,
};
pub use ways::{ConnectionWay, Connections, Reach};

/// How often an account of the population is tried: with the pauses below some 20 s, which an
/// election and a restarted process fit into many times.
const TRIES_MAX: u32 = 24;
/// How long after the first try that failed; twice that after each more, up to the maximum.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Who the people of a remote vault are, and how they work.
#[derive(Clone, Debug)]
pub struct RemoteConfig {
    /// What accounts, passwords and keys follow from, in every run against the fleet.
    pub seed: u64,
    /// What this run's chance follows from as well: no two runs against a fleet may have the same, or
    /// the fleet refuses what it has seen before.
    pub run: Vec<u8>,
    /// Accounts 0 to this less one are the population; further ones belong to the run.
    pub population: u64,
    /// How clients stretch.
    pub stretching: Stretching,
    /// Which client steps are really done.
    pub fidelity: Fidelity,
    /// How operations come to connections.
    pub way: ConnectionWay,
    /// Connections to the relay, where they are shared.
    pub connections: usize,
    /// How long a reply may take before the carrier gives it up. Generators time out themselves, and sooner.
    pub reply_timeout: Duration,
    /// Registrations in flight while the population is made.
    pub registrations_in_flight: usize,
    /// The runtime it runs on, with network and time; `None`: one of its own with a thread for each
    /// core.
    pub runtime: Option<Handle>,
}

impl RemoteConfig {
    /// A run of its own, with everything else as it usually is.
    #[must_use]
    pub fn new(seed: u64, population: u64) -> Self {
        let mut run = vec![0; 16];
        OsRng.fill_bytes(&mut run);
        Self {
            seed,
            run,
            population,
            stretching: Stretching::default(),
            fidelity: Fidelity::Full,
            way: ConnectionWay::default(),
            connections: CONNECTIONS,
            reply_timeout: REPLY_TIMEOUT,
            registrations_in_flight: POPULATION_IN_FLIGHT,
            runtime: None,
        }
    }
}

/// A fleet somewhere else.
///
/// Its operations add up: [`Stage::Client`] is what is left of the time from `perform` to the end of
/// the operation's task when the stages of vault, relay and network are taken off, waiting for a
/// processor included.
pub struct RemoteVault<C = Connections> {
    inner: Arc<Inner<C>>,
    handle: Handle,
    in_flight: usize,
    /// Present if it is our own; taken when dropped.
    runtime: Option<Runtime>,
}

struct Inner<C> {
    carrier: Arc<C>,
    fleet: Arc<ChannelFleet>,
    people: Arc<People>,
}

impl RemoteVault {
    /// Connects to the relay of a client file. Blocks; not to be called on a runtime.
    ///
    /// # Errors
    /// See [`RemoteError`].
    pub fn connect(
        file: &ClientFile,
        config: RemoteConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RemoteError> {
        let shared = (config.connections, config.reply_timeout);
        let how_many = (shared, config.population);
        let carrier = Connections::new(config.way, file, how_many, Arc::clone(&clock))?;
        let vault = Self::over(carrier, file, config, clock)?;
        vault.handle.block_on(vault.inner.carrier.reach())?;
        Ok(vault)
    }

    /// Opens the connections of accounts that keep theirs and have none; nothing, in other ways. Blocks; not to
    /// be called on a runtime. `progress` is told how many there are, and may stop it.
    ///
    /// # Errors
    /// One could not be opened, or `progress` said so.
    pub fn open_kept(
        &self,
        progress: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), RemoteError> {
        self.handle.block_on(self.inner.carrier.open_kept(progress))
    }

    /// What became of the connections so far; `None` where they are shared.
    #[must_use]
    pub fn connection_counts(&self) -> Option<ConnectionCounts> {
        self.inner.carrier.counts()
    }

    /// The version of TLS that is spoken, as far as it is known.
    #[must_use]
    pub fn tls_version(&self) -> Option<&'static str> {
        self.inner.carrier.tls_version()
    }
}

impl<C: Reach> RemoteVault<C> {
    /// A fleet that is reached by another carrier. Of the client file only its keys matter.
    ///
    /// # Errors
    /// See [`RemoteError`].
    pub fn over(
        carrier: C,
        file: &ClientFile,
        config: RemoteConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RemoteError> {
        let (runtime, handle) = if let Some(handle) = config.runtime {
            (None, handle)
        } else {
            let builder = Builder::new_multi_thread().thread_name("client").enable_all().build();
            let runtime = builder.map_err(|error| RemoteError::Threads(error.to_string()))?;
            let handle = runtime.handle().clone();
            (Some(runtime), handle)
        };
        let client = VaultClient::new(file.suite, &file.server_public_key);
        let client = client.map_err(|error| RemoteError::Keys(file.suite, error))?;
        let synthetic = Synthetic::new(config.seed, &config.run);
        let how = (config.stretching, config.fidelity);
        let channel = file.fleet_key.to_string();
        let fleet = FleetKeys {
            suite: file.suite,
            server: &file.server_public_key,
            others: channel.as_bytes(),
        };
        let people = People::new(client, fleet, synthetic, how, config.population);
        let inner = Inner {
            carrier: Arc::new(carrier),
            fleet: Arc::new(ChannelFleet { key: file.fleet_key, clock }),
            people: Arc::new(people.map_err(|error| match error {
                PeopleError::Threads(why) => RemoteError::Threads(why),
                PeopleError::Keys(why) => RemoteError::Keys(file.suite, why),
                PeopleError::KeysFile(why) => RemoteError::KeysFile(why),
            })?),
        };
        let in_flight = config.registrations_in_flight.max(1);
        Ok(Self { inner: Arc::new(inner), handle, in_flight, runtime })
    }

    /// The same people, whose frames another carrier takes.
    #[must_use]
    pub fn by<D: Reach>(&self, carrier: D) -> RemoteVault<D> {
        let Inner { fleet, people, .. } = &*self.inner;
        let inner = Inner {
            carrier: Arc::new(carrier),
            fleet: Arc::clone(fleet),
            people: Arc::clone(people),
        };
        let (handle, in_flight) = (self.handle.clone(), self.in_flight);
        RemoteVault { inner: Arc::new(inner), handle, in_flight, runtime: None }
    }

    /// Registers the accounts of a range of the population, through client, relay and fleet as always.
    /// Blocks; not to be called on a runtime. `progress` is told after each, and may stop it. An
    /// account whose registration fails for a reason that passes is tried again.
    ///
    /// # Errors
    /// An account could not be registered, or `progress` said so.
    pub fn register_population(
        &self,
        range: Range<u64>,
        mut progress: impl FnMut(Registered) -> ControlFlow<()>,
    ) -> Result<(), RemoteError> {
        let people = &self.inner.people;
        people.expect_population(&range).map_err(RemoteError::KeysFile)?;
        let register = |account| {
            let inner = Arc::clone(&self.inner);
            async move { inner.register(account).await }
        };
        let mut trouble = None;
        let tell = |registered: Registered| {
            trouble = trouble.take().or_else(|| people.trouble());
            if trouble.is_some() { ControlFlow::Break(()) } else { progress(registered) }
        };
        let ended =
            self.handle.block_on(register_range(range.clone(), self.in_flight, register, tell));
        if let Some(trouble) = trouble {
            return Err(RemoteError::KeysFile(trouble));
        }
        ended.map_err(|error| match error {
            PopulationError::Account(account, why) => {
                RemoteError::Population(account, why.to_string())
            }
            PopulationError::Task(why) => RemoteError::Threads(why),
            PopulationError::Stopped => RemoteError::Stopped,
        })?;
        people.know(range).map_err(RemoteError::KeysFile)
    }

    /// Accounts whose keys are known, from the first on; `None` if these clients keep none.
    #[must_use]
    pub fn known_keys(&self) -> Option<u64> {
        self.inner.people.known_keys()
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
    ) -> Result<(), RemoteError> {
        self.inner.people.prepare(end, wanted, progress).map_err(RemoteError::Threads)
    }

    /// What lean clients did so far; `None` for others.
    #[must_use]
    pub fn lean_counts(&self) -> Option<LeanCounts> {
        self.inner.people.lean_counts()
    }

    /// Bytes that the task of one operation holds while it waits, besides what it points to.
    #[must_use]
    pub fn operation_len(&self) -> usize {
        let (operation, intended) = (Operation::Recover, self.inner.fleet.clock.now());
        let request = Request { operation, account: 0, number: 0, intended };
        // Made, and never begun.
        size_of_val(&Arc::clone(&self.inner).perform(request, intended))
    }

    /// The identifier that an account of the generator's has in the fleet.
    #[must_use]
    pub fn account_id(&self, account: u64) -> AccountId {
        self.inner.people.id(account)
    }
}

impl<C: Reach> Target for RemoteVault<C> {
    fn perform(&self, request: Request) -> impl Future<Output = Reply> + Send + 'static + use<C> {
        let start = self.inner.fleet.clock.now();
        let inner = Arc::clone(&self.inner);
        Performing(self.handle.spawn(inner.perform(request, start)))
    }
}

impl<C> Drop for RemoteVault<C> {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting is not allowed wherever this may be dropped.
            runtime.shutdown_background();
        }
    }
}

impl<C: fmt::Debug> fmt::Debug for RemoteVault<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RemoteVault").field(&self.inner.carrier).finish()
    }
}

impl<C: Reach> Inner<C> {
    fn service(&self, account: u64, chance: ChaCha20Rng) -> ChannelService<C::Operation> {
        ChannelService::of(self.carrier.begin(account), Arc::clone(&self.fleet), &chance)
    }

    #[expect(clippy::manual_async_fn, reason = "an `async fn` holds twice what it is called with")]
    fn perform(
        self: Arc<Self>,
        request: Request,
        start: Moment,
    ) -> impl Future<Output = Reply> + Send {
        async move {
            let mut stages = StageTimes::default();
            let mut evidence = Evidence::default();
            let whose = Chance::Channel { number: request.number };
            let service = self.service(request.account, self.people.chance(whose));
            let operating =
                self.people.operate(&service, &request, &mut stages, &mut evidence).await;
            let (outcome, error) = operating;
            let total = self.fleet.clock.now().since(start);
            let others = Duration::from_nanos(stages.total_ns());
            stages.add(Stage::Client, total.saturating_sub(others));
            let error = error.map(|error| self.people.text(error));
            Reply { stages, error, evidence, ..Reply::of(outcome) }
        }
    }

    async fn register(&self, account: u64) -> Result<(), ClientError> {
        let mut pause = PAUSE_MIN;
        let mut again = 0;
        loop {
            let chance = self.people.chance(Chance::PopulationChannel { account, again });
            match self.people.register(&self.service(account, chance), account, again).await {
                Err(error) if again < TRIES_MAX && passes(error) => {
                    self.fleet.clock.sleep_until(self.fleet.clock.now().after(pause)).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                    again += 1;
                }
                ended => return ended,
            }
        }
    }
}

/// Whether it is worth another try, later.
const fn passes(error: ClientError) -> bool {
    let ClientError::Refused(refusal) = error else { return false };
    match refusal {
        Refusal::Busy | Refusal::NoSuchRegistration => true,
        Refusal::Failed(failure) => !matches!(
            failure,
            Failure::BadElement | Failure::TooLong | Failure::Corrupt | Failure::Unauthorized
        ),
        _ => false,
    }
}
