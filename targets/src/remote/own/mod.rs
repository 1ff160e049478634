//! Connections of people's own, over HTTP/1.1: one that each user keeps, or a fresh one for each operation.
//!
//! An operation holds its connection from its first request to its end; one that was given up in the middle of
//! an exchange takes its connection with it. Nothing is sent twice that may have arrived: what is opened anew is
//! a connection that had ended before the whole request was handed over.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::timeout;
use vaultmark_hsm::Clock;

use super::client_file::ClientFile;
use super::error::RemoteError;
use super::http::TokenSource;
use crate::relay::{RelayRefusal, exchange};
use crate::vault::AccountId;
use crate::vault::channel::{Carried, Carrier, CarryError, Purpose};

mod dial;
mod fuzzing;
mod http1;
#[cfg(test)]
mod tests;

pub use dial::{Connection, ConnectionCounts, LOOPBACK_SOURCES, OpenError};
pub use fuzzing::fuzz_http_reply;
#[cfg(test)]
pub(crate) use fuzzing::fuzz_http_reply_seeds;
pub use http1::{ExchangeError, Post, Reply, exchange};

use dial::Dialer;
use http1::is_quiet;

/// How long a reply may take. Generators give up sooner; people wait no longer.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections on their way while those that are kept are opened: a listener's queue has room for more.
const OPENING_MAX: usize = 128;

/// Carries frames over connections that are one user's alone.
pub struct OwnConnections {
    dialer: Dialer,
    /// As `Host` has it.
    authority: String,
    tokens: TokenSource,
    clock: Arc<dyn Clock>,
    /// The connections of those who keep theirs, by the number of the account; nobody keeps one: empty.
    kept: Box<[Mutex<Seat>]>,
    turn: AtomicU64,
}

/// What an account that keeps its connection has.
#[derive(Debug, Default)]
enum Seat {
    /// It had none yet.
    #[default]
    New,
    /// A connection on which nothing is asked.
    Idle(Connection),
    /// An operation has it.
    Lent,
    /// It ended.
    Ended,
}

impl OwnConnections {
    /// Connections to the relay of a client file. Accounts 0 to `kept` − 1 keep theirs.
    ///
    /// # Errors
    /// The token key or the certificate cannot be read.
    pub fn new(file: &ClientFile, kept: u64, clock: Arc<dyn Clock>) -> Result<Self, RemoteError> {
        Self::with_tokens(file, TokenSource::minting(file)?, kept, clock)
    }

    /// The same, with tokens from elsewhere.
    ///
    /// # Errors
    /// The certificate cannot be read.
    pub fn with_tokens(
        file: &ClientFile,
        tokens: TokenSource,
        kept: u64,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RemoteError> {
        let authority = file.url.authority().map(ToString::to_string);
        let authority = authority.ok_or_else(|| RemoteError::Url(file.url.to_string()))?;
        let kept = (0..kept).map(|_| Mutex::default()).collect();
        let dialer = Dialer::new(file)?;
        Ok(Self { dialer, authority, tokens, clock, kept, turn: AtomicU64::new(0) })
    }

    /// Opens a connection, from the address that has this turn. It is the caller's.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(&self, turn: u64) -> Result<Connection, OpenError> {
        self.dialer.open(turn).await
    }

    /// Whether the relay can be reached at all, and speaks TLS and HTTP/1.1 as it should.
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn reach(&self) -> Result<(), RemoteError> {
        let greeted = self.greeted(0).await;
        greeted.map(drop).map_err(|error| match error {
            OpenError::Other(why) => RemoteError::OtherRelay(self.authority.clone(), why),
            error => RemoteError::Unreachable(self.authority.clone(), error.to_string()),
        })
    }

    /// Opens the connections of those who keep theirs and have none yet. `progress` is told how many there are,
    /// and may stop it.
    ///
    /// # Errors
    /// The first that could not be opened.
    pub async fn open_kept(
        &self,
        mut progress: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), RemoteError> {
        let opening = |number: usize| async move {
            if let Seat::Idle(connection) = &mut *self.seat(number)
                && is_quiet(connection)
            {
                return Ok::<(), OpenError>(());
            }
            let connection = self.greeted(number as u64).await?;
            *self.seat(number) = Seat::Idle(connection);
            Ok(())
        };
        let all = futures_util::stream::iter(0..self.kept.len()).map(opening);
        let mut all = std::pin::pin!(all.buffer_unordered(OPENING_MAX));
        let mut done = 0;
        while let Some(opened) = all.next().await {
            opened.map_err(|why| RemoteError::Kept(done, why.to_string()))?;
            done += 1;
            if progress(done).is_break() {
                return Err(RemoteError::Stopped);
            }
        }
        Ok(())
    }

    /// What became of the connections so far.
    #[must_use]
    pub fn counts(&self) -> ConnectionCounts {
        self.dialer.counters.read()
    }

    /// The version of TLS that is spoken; `None` in plaintext.
    #[must_use]
    pub fn tls_version(&self) -> Option<&'static str> {
        self.dialer.tls_version()
    }

    /// The connection of an operation of this account.
    #[must_use]
    pub fn begin(self: &Arc<Self>, account: u64) -> OwnOperation {
        let kept = self.kept(account);
        let seat = kept.map(|at| std::mem::replace(&mut *self.seat(at), Seat::Lent));
        // A second operation of an account at a time has a connection of its own, and nobody keeps it.
        let owns = matches!(seat, Some(Seat::New | Seat::Idle(_) | Seat::Ended));
        let had = matches!(seat, Some(Seat::Idle(_) | Seat::Ended));
        let connection =
            if let Some(Seat::Idle(connection)) = seat { Some(connection) } else { None };
        let state = Mutex::new(Held { connection, had });
        OwnOperation { own: Arc::clone(self), account, seat: kept.filter(|_| owns), state }
    }

    /// A new connection on which a request was answered, as every relay does, if only with a refusal: so whoever
    /// does not speak HTTP/1.1 shows, and the relay has seen that somebody is there.
    async fn greeted(&self, turn: u64) -> Result<Connection, OpenError> {
        let mut connection = self.dialer.open(turn).await?;
        let hello = Post { host: &self.authority, path: "/", bearer: "", body: &[] };
        let asked = timeout(REPLY_TIMEOUT, exchange(&mut connection, &hello)).await;
        let answered = asked.map_err(|_late| OpenError::Broken("no answer".to_owned()))?;
        answered
            .map_err(|why| OpenError::Broken(format!("not HTTP/1.1 as it should be: {why}")))?;
        Ok(connection)
    }

    fn seat(&self, number: usize) -> MutexGuard<'_, Seat> {
        self.kept[number].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place of an account's connection, if it keeps one.
    fn kept(&self, account: u64) -> Option<usize> {
        usize::try_from(account).ok().filter(|number| *number < self.kept.len())
    }

    /// The next address's turn: an account's own where it keeps its connection.
    fn turn(&self, account: u64) -> u64 {
        match self.kept(account) {
            Some(_) => account,
            None => self.turn.fetch_add(1, Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for OwnConnections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dialer, kept, .. } = self;
        write!(f, "OwnConnections({dialer:?}, {} kept)", kept.len())
    }
}

/// One operation and its connection.
#[derive(Debug)]
pub struct OwnOperation {
    own: Arc<OwnConnections>,
    account: u64,
    /// Where its connection is kept afterwards.
    seat: Option<usize>,
    state: Mutex<Held>,
}

/// What an operation has between two of its requests; in one the connection is the request's.
#[derive(Debug)]
struct Held {
    connection: Option<Connection>,
    /// Whether it ever had one.
    had: bool,
}

impl OwnOperation {
    fn state(&self) -> MutexGuard<'_, Held> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn open(&self, connecting: &mut Duration) -> Result<Connection, CarryError> {
        let begun = self.own.clock.now();
        let opened = self.own.dialer.open(self.own.turn(self.account)).await;
        *connecting += self.own.clock.now().since(begun);
        opened.map_err(|error| match error {
            OpenError::NoPort => CarryError::NoPort,
            OpenError::NoFile => CarryError::NoFile,
            OpenError::Other(_) | OpenError::Broken(_) => CarryError::Unreachable,
        })
    }

    async fn ask(
        &self,
        account: AccountId,
        purpose: Purpose,
        frame: &[u8],
    ) -> Result<Carried, CarryError> {
        let own = &*self.own;
        let (path, bearer) =
            (exchange::path(purpose, &account), own.tokens.token(&*own.clock, &account));
        let post = Post { host: &own.authority, path: &path, bearer: &bearer, body: frame };
        let mut connecting = Duration::ZERO;
        let (held, had) = {
            let mut state = self.state();
            (state.connection.take(), std::mem::replace(&mut state.had, true))
        };
        let mut answered = None;
        if let Some(mut connection) = held
            && is_quiet(&mut connection)
        {
            let ended = exchange(&mut connection, &post).await;
            // What was not handed over is asked once more. On a connection that was just opened it is not.
            if ended != Err(ExchangeError::Unsent) {
                answered = Some((ended, connection));
            }
        }
        let (answered, connection) = match answered {
            Some(answered) => answered,
            None => {
                let mut connection = self.open(&mut connecting).await?;
                own.dialer.counters.reopened.fetch_add(had.into(), Ordering::Relaxed);
                (exchange(&mut connection, &post).await, connection)
            }
        };
        let reply = answered.map_err(|error| match error {
            ExchangeError::Unsent | ExchangeError::Lost => CarryError::Unreachable,
            ExchangeError::Bad(_) => CarryError::BadReply,
            // A token that is no header's value is none that a relay gave.
            ExchangeError::NoRequest => CarryError::Unauthorized,
        })?;
        if reply.keeps {
            self.state().connection = Some(connection);
        }
        let Reply { status, relay, body, .. } = reply;
        if (200..300).contains(&status) {
            return Ok(Carried { frame: body, relay, connecting });
        }
        Err(RelayRefusal::from_json(&body).map_or(CarryError::BadReply, CarryError::from))
    }
}

impl Carrier for OwnOperation {
    async fn carry(
        &self,
        account: AccountId,
        purpose: Purpose,
        frame: Vec<u8>,
    ) -> Result<Carried, CarryError> {
        let asked = timeout(REPLY_TIMEOUT, self.ask(account, purpose, &frame)).await;
        asked.unwrap_or(Err(CarryError::Unreachable))
    }
}

impl Drop for OwnOperation {
    fn drop(&mut self) {
        let Some(at) = self.seat else { return };
        *self.own.seat(at) = self.state().connection.take().map_or(Seat::Ended, Seat::Idle);
    }
}
