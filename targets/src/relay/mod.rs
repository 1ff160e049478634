//! The relay: it authenticates accounts, limits rates, finds the leader and forwards opaque bytes.
//!
//! It sees who, when and how many bytes. It holds no key of the vault and of the channel: what it
//! forwards it cannot open, and what it recorded opens nothing later. What the bytes are is in
//! `vault::channel`; the client's end is in `remote`. This file is the listener and its connections;
//! a request is in [`exchange`].
//!
//! hyper without a framework: the relay's share of a recovery's processor time is a figure.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use vaultmark_hsm::{Clock, Moment};

use crate::vault::AccountId;

mod buckets;
pub mod certificate;
mod config;
mod connection;
pub mod exchange;
mod fuzzing;
mod refusal;
mod router;
#[cfg(test)]
mod tests;
pub mod tokens;

pub use buckets::Rate;
pub use config::{RelayConfig, RelayError, RelayLimits, Transport};
#[cfg(test)]
pub(crate) use fuzzing::seeds as fuzz_seeds;
#[doc(hidden)]
pub use fuzzing::{fuzz_relay_connection, fuzz_relay_texts};
pub use refusal::RelayRefusal;
pub use router::{Router, Upstream};

use buckets::Buckets;
use refusal::RefusalCounters;
use tokens::Tenant;

/// Tenants whose rate is remembered at a time: who has the key makes them, and there are few.
const TENANTS_MAX: usize = 1_024;
/// How long the listener rests when the system has no more sockets: some are closed meanwhile.
const REST: Duration = Duration::from_millis(20);
/// How long requests in flight are waited for at the end: a quorum commit around the world and back.
const FAREWELL: Duration = Duration::from_secs(2);

/// A relay that listens.
pub struct Relay<U> {
    shared: Arc<Shared<U>>,
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
}

/// What every connection of a relay shares.
pub(crate) struct Shared<U> {
    config: RelayConfig,
    router: Router<U>,
    clock: Arc<dyn Clock>,
    accounts: Buckets<AccountId>,
    tenants: Buckets<Tenant>,
    places: Semaphore,
    peers: Mutex<HashMap<IpAddr, usize>>,
    refusals: RefusalCounters,
    requests: AtomicU64,
    connections: AtomicU64,
    turned_away: AtomicU64,
    broken: AtomicU64,
}

/// What a relay did so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayCounters {
    /// Requests, answered or refused.
    pub requests: u64,
    /// Refusals by name.
    pub refused: Vec<(&'static str, u64)>,
    /// Connections taken.
    pub connections: u64,
    /// Connections not taken: too many, or too many of one address.
    pub turned_away: u64,
    /// Connections that ended otherwise than they should: no TLS, no HTTP, or too slow.
    pub broken: u64,
}

impl RelayCounters {
    fn json(&self) -> String {
        let refused: Vec<String> =
            self.refused.iter().map(|(name, count)| format!("\"{name}\":{count}")).collect();
        format!(
            "{{\"requests\":{},\"refused\":{{{}}},\"connections\":{},\"turned_away\":{},\"broken\":{}}}",
            self.requests,
            refused.join(","),
            self.connections,
            self.turned_away,
            self.broken
        )
    }
}

impl<U: Upstream> Relay<U> {
    /// A relay before these replicas. It listens, and answers once it runs.
    ///
    /// # Errors
    /// See [`RelayError`].
    pub async fn bind(
        config: RelayConfig,
        upstream: U,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RelayError> {
        let tls = match &config.transport {
            Transport::Tls { certificate, key } => Some(certificate::acceptor(certificate, key)?),
            Transport::Plaintext if config.listen.ip().is_loopback() => None,
            Transport::Plaintext => {
                return Err(RelayError::PlaintextBeyondLoopback(config.listen));
            }
        };
        let failed = |error| RelayError::Listen(config.listen, error);
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let shared = Arc::new(Shared::new(config, upstream, clock));
        Ok(Self { shared, listener, address, tls })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// A way to ask what it did so far, also while it runs.
    pub fn counters(&self) -> impl Fn() -> RelayCounters + Send + Sync + 'static + use<U> {
        let shared = Arc::clone(&self.shared);
        move || shared.counters()
    }

    /// Answers until `stop`, then lets what is in flight end, for a while.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let (tell, told) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let mut stop = pin!(stop);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                Some(_ended) = tasks.join_next(), if !tasks.is_empty() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => self.take(&mut tasks, stream, peer.ip(), &told),
                    Err(error) => self.rest(&error).await,
                },
            }
        }
        drop(self.listener);
        let _all_gone = tell.send(true).is_err();
        let farewell = async { while tasks.join_next().await.is_some() {} };
        // What is left is cut off when the set is dropped.
        let _late = tokio::time::timeout(FAREWELL, farewell).await.is_err();
    }

    fn take(
        &self,
        tasks: &mut JoinSet<()>,
        stream: TcpStream,
        peer: IpAddr,
        told: &watch::Receiver<bool>,
    ) {
        let shared = &self.shared;
        let full = tasks.len() >= shared.config.limits.connections_max;
        let Some(visit) = (!full).then(|| Visit::begin(shared, peer)).flatten() else {
            // Closed at once: who waits in a queue of ours costs more.
            shared.turned_away.fetch_add(1, Ordering::Relaxed);
            return;
        };
        shared.connections.fetch_add(1, Ordering::Relaxed);
        let (tls, told) = (self.tls.clone(), told.clone());
        tasks.spawn(async move {
            let shared = &visit.shared;
            if connection::serve(shared, stream, visit.peer, tls, told).await.is_err() {
                shared.broken.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    /// A connection that broke before it was taken is nobody's loss; without sockets it is better to
    /// wait than to spin.
    async fn rest(&self, error: &io::Error) {
        self.shared.turned_away.fetch_add(1, Ordering::Relaxed);
        if error.kind() != io::ErrorKind::ConnectionAborted {
            tokio::time::sleep(REST).await;
        }
    }
}

impl<U: Upstream> Shared<U> {
    fn new(config: RelayConfig, upstream: U, clock: Arc<dyn Clock>) -> Self {
        let limits = &config.limits;
        let patience = limits.election_wait();
        Self {
            router: Router::new(upstream, config.groups, Arc::clone(&clock), patience),
            accounts: Buckets::new(limits.account, limits.accounts_max),
            tenants: Buckets::new(limits.tenant, TENANTS_MAX),
            places: Semaphore::new(limits.in_flight_max.min(Semaphore::MAX_PERMITS)),
            peers: Mutex::default(),
            refusals: RefusalCounters::default(),
            requests: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            turned_away: AtomicU64::new(0),
            broken: AtomicU64::new(0),
            clock,
            config,
        }
    }
}

impl<U> Shared<U> {
    /// Unix time.
    fn now_s(&self) -> u64 {
        let origin = self.clock.origin().duration_since(UNIX_EPOCH).unwrap_or_default();
        (origin + self.clock.now().since(Moment::ZERO)).as_secs()
    }

    fn counters(&self) -> RelayCounters {
        RelayCounters {
            requests: self.requests.load(Ordering::Relaxed),
            refused: self.refusals.read().to_vec(),
            connections: self.connections.load(Ordering::Relaxed),
            turned_away: self.turned_away.load(Ordering::Relaxed),
            broken: self.broken.load(Ordering::Relaxed),
        }
    }

    fn peers(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection of an address, while it lasts.
struct Visit<U> {
    shared: Arc<Shared<U>>,
    peer: IpAddr,
}

impl<U> Visit<U> {
    fn begin(shared: &Arc<Shared<U>>, peer: IpAddr) -> Option<Self> {
        let mut peers = shared.peers();
        let connections = peers.entry(peer).or_insert(0);
        if *connections >= shared.config.limits.connections_per_address_max {
            return None;
        }
        *connections += 1;
        drop(peers);
        Some(Self { shared: Arc::clone(shared), peer })
    }
}

impl<U> Drop for Visit<U> {
    fn drop(&mut self) {
        let mut peers = self.shared.peers();
        if let Some(connections) = peers.get_mut(&self.peer) {
            *connections -= 1;
            if *connections == 0 {
                peers.remove(&self.peer);
            }
        }
    }
}

impl<U> fmt::Debug for Relay<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("address", &self.address).finish_non_exhaustive()
    }
}
