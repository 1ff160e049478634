//! Requests to a relay over one connection of HTTP/2, many at a time: a request that waits for its answer takes a
//! place of some tens of bytes here and a pointer to it in its task.
//!
//! It offers load, and so is our own: hyper's client takes some kilobytes a request that waits, and a generator
//! holds a million. What it does not do: pushed streams, tables of header fields, priorities, bodies that do not
//! fit into one frame of the vault's. What an answer may hold is the connection's window, given back as answers are
//! taken, so that a peer that answers faster than anybody listens waits, too.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::Authority;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::timeout;

mod connection;
mod frame;
pub(super) mod fuzzing;
mod hpack;
mod huffman;
mod slots;
#[cfg(test)]
mod tests;

pub(super) use slots::{Ended, Unsent};

use connection::{Connection, Refused};
use slots::Place;

/// Bytes read at once: a hundred answers.
const READ_LEN: usize = 1 << 15;
/// How long the last words of a connection may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// How often it is looked for requests that have waited too long: who waits half a minute gives a second.
const TICK: Duration = Duration::from_secs(1);

/// Where requests of one relay begin alike.
#[derive(Debug)]
pub(super) struct Origin {
    post: Vec<u8>,
    head: Vec<u8>,
}

impl Origin {
    pub(super) fn new(is_tls: bool, authority: &Authority) -> Self {
        let mut rest = Vec::new();
        hpack::push_indexed(
            &mut rest,
            if is_tls { hpack::SCHEME_HTTPS } else { hpack::SCHEME_HTTP },
        );
        hpack::push(&mut rest, hpack::AUTHORITY, authority.as_str().as_bytes(), false);
        let mut post = Vec::new();
        hpack::push_indexed(&mut post, hpack::METHOD_POST);
        post.extend_from_slice(&rest);
        let mut head = Vec::new();
        hpack::push(&mut head, hpack::METHOD, b"HEAD", false);
        head.extend_from_slice(&rest);
        Self { post, head }
    }

    /// A frame that goes to a path.
    pub(super) fn post(&self, path: &str, bearer: &str, body: Vec<u8>) -> Unsent {
        let octets = b"application/octet-stream";
        let len = body.len().to_string();
        // Three lengths and names besides.
        let mut head = Vec::with_capacity(
            self.post.len() + path.len() + bearer.len() + octets.len() + len.len() + 16,
        );
        head.extend_from_slice(&self.post);
        hpack::push(&mut head, hpack::PATH, path.as_bytes(), false);
        hpack::push(&mut head, hpack::CONTENT_TYPE, octets, false);
        hpack::push(&mut head, hpack::CONTENT_LENGTH, len.as_bytes(), false);
        hpack::push(&mut head, hpack::AUTHORIZATION, bearer.as_bytes(), true);
        Unsent { head, body }
    }

    /// A request that every relay answers, if only with a refusal.
    pub(super) fn hello(&self) -> Unsent {
        let mut head = self.head.clone();
        hpack::push(&mut head, hpack::PATH, b"/", false);
        Unsent { head, body: Vec::new() }
    }
}

/// A connection, for whoever has requests. It ends when the last of these is gone and nobody waits any more.
#[derive(Clone, Debug)]
pub(super) struct Sender(Arc<Alive>);

/// Why a request is not taken.
#[derive(Debug)]
pub(super) enum NotTaken {
    /// The connection has ended; another one may take it.
    Gone(Unsent),
    /// Too many wait already.
    Full,
}

impl Sender {
    pub(super) fn is_closed(&self) -> bool {
        !self.0.0.connection().is_open()
    }

    /// Sends a request, or lets it wait for its turn.
    pub(super) fn send(&self, request: Unsent) -> Result<Waiting, NotTaken> {
        let shared = &self.0.0;
        match shared.with(|connection| connection.ask(request)) {
            Ok(place) => Ok(Waiting { shared: Arc::clone(shared), place: Some(place) }),
            Err(Refused::Gone(request)) => Err(NotTaken::Gone(request)),
            Err(Refused::Full) => Err(NotTaken::Full),
        }
    }
}

#[derive(Debug)]
struct Alive(Arc<Shared>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.with(Connection::close);
    }
}

/// A request on its way; dropping it is giving it up.
#[derive(Debug)]
pub(super) struct Waiting {
    shared: Arc<Shared>,
    /// Taken when it has ended.
    place: Option<Place>,
}

impl Future for Waiting {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Ended> {
        let Some(place) = self.place else { return Poll::Ready(Ended::Lost) };
        let polled = self.shared.with(|connection| connection.poll(place, context.waker()));
        if polled.is_ready() {
            self.place = None;
        }
        polled
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.shared.with(|connection| connection.give_up(place));
        }
    }
}

#[derive(Debug)]
struct Shared {
    connection: Mutex<Connection>,
    /// There is something to send, or nothing more.
    writer: Notify,
}

impl Shared {
    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the connection, and tells those whom it concerns.
    fn with<T>(&self, change: impl FnOnce(&mut Connection) -> T) -> T {
        let mut connection = self.connection();
        let result = change(&mut connection);
        let woken = connection.take_woken();
        let writes = connection.has_out() || connection.is_done();
        drop(connection);
        if writes {
            self.writer.notify_one();
        }
        for waker in woken {
            waker.wake();
        }
        result
    }
}

/// Begins to converse over a connection. Who has waited for an answer longer than `patience`, give a second, is told
/// that nobody answered.
pub(super) fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    patience: Duration,
) -> Sender {
    let shared =
        Arc::new(Shared { connection: Mutex::new(Connection::new()), writer: Notify::new() });
    drop(tokio::spawn(run(stream, Arc::clone(&shared), patience)));
    Sender(Arc::new(Alive(shared)))
}

async fn run(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    shared: Arc<Shared>,
    patience: Duration,
) {
    let (mut reads, mut writes) = tokio::io::split(stream);
    tokio::select! {
        () = read(&mut reads, &shared) => {}
        () = write(&mut writes, &shared) => {}
        () = watch(&shared, patience) => {}
    }
    shared.with(Connection::fail);
    let mut last = Vec::new();
    shared.connection().take_out(&mut last);
    let farewell = async {
        let said = writes.write_all(&last).await.is_ok();
        said && writes.shutdown().await.is_ok()
    };
    let _heard = timeout(FAREWELL, farewell).await.is_ok();
}

async fn read(reads: &mut (impl AsyncRead + Unpin), shared: &Shared) {
    let mut bytes = vec![0; READ_LEN];
    loop {
        let len = reads.read(&mut bytes).await.unwrap_or(0);
        if len == 0 || shared.with(|connection| connection.receive(&bytes[..len])).is_err() {
            return;
        }
    }
}

async fn write(writes: &mut (impl AsyncWrite + Unpin), shared: &Shared) {
    let mut bytes = Vec::new();
    loop {
        let is_done = {
            let mut connection = shared.connection();
            connection.take_out(&mut bytes);
            connection.is_done()
        };
        if bytes.is_empty() {
            if is_done {
                return;
            }
            shared.writer.notified().await;
        } else if writes.write_all(&bytes).await.is_err() || writes.flush().await.is_err() {
            return;
        }
    }
}

async fn watch(shared: &Shared, patience: Duration) {
    let patience = u32::try_from(patience.as_secs()).unwrap_or(u32::MAX);
    let mut ticks = tokio::time::interval(TICK);
    loop {
        ticks.tick().await;
        shared.with(|connection| connection.tick(patience));
    }
}
