//! What a relay is made of, what it allows, and why it may not start.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::buckets::Rate;
use super::tokens::TokenKey;
use crate::secret_file::SecretFileError;

/// What a relay is made of.
#[derive(Clone, Debug)]
pub struct RelayConfig {
    /// Where it listens; port 0 for any that is free.
    pub listen: SocketAddr,
    /// How clients reach it.
    pub transport: Transport,
    /// What tokens are checked with.
    pub token_key: TokenKey,
    /// Consensus groups of the fleet.
    pub groups: u32,
    /// What it allows.
    pub limits: RelayLimits,
}

/// How clients reach a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TLS 1.2 or 1.3; HTTP/2 or HTTP/1.1, as ALPN says.
    Tls {
        /// PEM: the certificate chain.
        certificate: PathBuf,
        /// PEM: its private key, in a file of the owner's alone.
        key: PathBuf,
    },
    /// Nothing around HTTP/2 (prior knowledge) or HTTP/1.1: on loopback addresses only.
    Plaintext,
}

/// What a relay allows. Whoever reaches a limit is refused and counted.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelayLimits {
    /// Requests of one account: ten recoveries at once, and one every two seconds. A person makes a
    /// few in a life; the vault's own allowance is what bounds guesses.
    pub account: Rate,
    /// Requests of one tenant.
    pub tenant: Rate,
    /// Accounts whose rate is remembered at a time, at some 150 bytes each: those that came within the
    /// time it takes a bucket to fill, 20 s by default.
    pub accounts_max: usize,
    /// Connections at a time, at some 50 kB each with TLS.
    pub connections_max: usize,
    /// Connections of one address at a time.
    pub connections_per_address_max: usize,
    /// Requests at a time on one HTTP/2 connection.
    pub streams_max: u32,
    /// Requests at a time on all connections: a frame and a little more of memory each.
    pub in_flight_max: usize,
    /// Milliseconds in which a TLS handshake, and the head of a request, must have come.
    pub head_timeout_ms: u64,
    /// Milliseconds in which a body must have come.
    pub body_timeout_ms: u64,
    /// Milliseconds without a request after which a connection is closed.
    pub idle_timeout_ms: u64,
    /// Milliseconds a request waits for a leader to be elected.
    pub election_wait_ms: u64,
}

impl Default for RelayLimits {
    fn default() -> Self {
        Self {
            account: Rate { per_second: 1, burst: 20 },
            tenant: Rate { per_second: 10_000, burst: 20_000 },
            accounts_max: 1 << 18,
            connections_max: 4_096,
            connections_per_address_max: 256,
            streams_max: 1_024,
            in_flight_max: 16_384,
            // A mobile network's bad moments, and no more.
            head_timeout_ms: 5_000,
            body_timeout_ms: 5_000,
            idle_timeout_ms: 60_000,
            election_wait_ms: 1_000,
        }
    }
}

impl RelayLimits {
    /// The defaults with rates that no benchmark reaches: everything is still looked up and counted. Nor are there
    /// limits to connections that a generator on one machine, whose people keep theirs, would meet first: how many
    /// there are its process's file descriptors decide.
    #[must_use]
    pub fn for_benchmarks() -> Self {
        let high = Rate { per_second: 1_000_000, burst: 1_000_000 };
        // A second's worth of accounts is remembered, whatever rate a machine reaches.
        Self {
            account: high,
            tenant: high,
            accounts_max: 1 << 20,
            connections_max: 1 << 20,
            connections_per_address_max: 1 << 20,
            // Who is asked for once in half an hour still has the connection that was opened beforehand.
            idle_timeout_ms: 3_600_000,
            ..Self::default()
        }
    }

    pub(super) const fn head_timeout(&self) -> Duration {
        Duration::from_millis(self.head_timeout_ms)
    }

    pub(super) const fn body_timeout(&self) -> Duration {
        Duration::from_millis(self.body_timeout_ms)
    }

    pub(super) const fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout_ms)
    }

    pub(super) const fn election_wait(&self) -> Duration {
        Duration::from_millis(self.election_wait_ms)
    }
}

/// Why a relay does not start.
#[derive(Debug)]
pub enum RelayError {
    /// The address cannot be listened on.
    Listen(SocketAddr, io::Error),
    /// Plaintext was asked for on an address that others can reach.
    PlaintextBeyondLoopback(SocketAddr),
    /// The certificate's key is no secret, or not there.
    Key(SecretFileError),
    /// The certificate and its key do not make a server.
    Certificate(PathBuf, String),
}

impl fmt::Display for RelayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(address, why) => write!(f, "relay: listening on {address}: {why}"),
            Self::PlaintextBeyondLoopback(address) => write!(
                f,
                "relay: {address} can be reached from elsewhere: plaintext is for loopback addresses"
            ),
            Self::Key(why) => write!(f, "relay: {why}"),
            Self::Certificate(path, why) => write!(f, "relay: {}: {why}", path.display()),
        }
    }
}

impl std::error::Error for RelayError {}
