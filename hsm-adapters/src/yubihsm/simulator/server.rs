//! The simulator's connector: HTTP/1.1 on one address of this machine, with a bound on connections, on
//! the size of a request and on how long one may take to arrive.
//!
//! One thread serves them all: the device computes one thing at a time anyway, and each thread more
//! between a client and the device would cost it a wait. Headers are written in title case, since the
//! crate `yubihsm` looks for `Content-Length` in those letters; an answer leaves in one piece, since the
//! crate misreads one that does not.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::device::{Device, MESSAGE_LEN_MAX};
use super::service::Engine;
use crate::clock::Clock;

/// How long a connection may take over the head of a request, the wait for one included: a session ends
/// after as much.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the body of a request may take, as in yubihsm-connector 3.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of a request's head; clients send five short headers.
const HEAD_LEN_MAX: usize = 8 << 10;

/// Headers of a request.
const HEADERS_MAX: usize = 32;

/// Bytes of the shortest message: a command without a body.
const MESSAGE_LEN_MIN: usize = 3;

/// The connector and the device behind it.
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    pub(super) clock: Arc<dyn Clock>,
    /// What it says of itself in `modelled`.
    pub(super) modelled: String,
    pub(super) address: SocketAddr,
    /// Messages answered.
    pub(super) messages: AtomicU64,
    /// Fault injection: nothing is answered any more.
    pub(super) hangs: AtomicBool,
}

pub(super) struct State {
    pub(super) device: Device,
    pub(super) engine: Engine,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes a message to the device, and waits for as long as the device would take.
    async fn pass(&self, message: &[u8]) -> Vec<u8> {
        let (reply, done_at) = {
            let mut state = self.lock();
            let now = self.clock.now();
            let reply = state.device.handle(message, now);
            let done_at = state.engine.take_up(reply.command, now);
            (reply, done_at)
        };
        if let Some(done_at) = done_at {
            self.clock.sleep_until(done_at).await;
        }
        self.messages.fetch_add(1, Ordering::Relaxed);
        reply.message
    }

    /// What yubihsm-connector says, and the line that a connector with a device behind it does not have.
    fn status(&self) -> String {
        format!(
            "status=OK\nserial=*\nversion=3.0.5\npid={}\naddress={}\nport={}\nmodelled={}\n",
            std::process::id(),
            self.address.ip(),
            self.address.port(),
            self.modelled
        )
    }
}

/// Serves until told to stop.
pub(super) async fn serve(
    shared: Arc<Shared>,
    listener: TcpListener,
    connections_max: usize,
    mut stop: watch::Receiver<bool>,
) {
    let room = Arc::new(Semaphore::new(connections_max));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            // An error is the handle gone without a word.
            _stopped = stop.wait_for(|stop| *stop) => return,
            Some(_ended) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        // One that does not come about is its client's to notice; out of descriptors, waiting for one
        // of ours to end is all that helps.
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        // One too many is closed at once: its client sees that rather than a wait.
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else { continue };
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            converse(shared, stream).await;
            drop(place);
        });
    }
}

async fn converse(shared: Arc<Shared>, stream: TcpStream) {
    // Answers are small and waited for.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(answer(&shared, request).await) }
    });
    // How it ended is its client's business.
    let _ended = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_LEN_MAX)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(shared: &Shared, request: Request<Incoming>) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::POST, "/connector/api") => match message_of(request).await {
            Ok(message) => {
                if shared.hangs.load(Ordering::SeqCst) {
                    std::future::pending::<()>().await;
                }
                let reply = shared.pass(&message).await;
                respond(StatusCode::OK, "application/octet-stream", reply)
            }
            Err(status) => respond(status, "text/plain", Vec::new()),
        },
        (&Method::GET, "/connector/status") => {
            respond(StatusCode::OK, "text/plain; charset=utf-8", shared.status().into_bytes())
        }
        (_, "/connector/api" | "/connector/status") => {
            respond(StatusCode::METHOD_NOT_ALLOWED, "text/plain", Vec::new())
        }
        _ => respond(StatusCode::NOT_FOUND, "text/plain", Vec::new()),
    }
}

async fn message_of(request: Request<Incoming>) -> Result<Bytes, StatusCode> {
    // Like yubihsm-connector, which wants to know the length beforehand.
    let lens = u64::try_from(MESSAGE_LEN_MIN).unwrap_or(0)
        ..=u64::try_from(MESSAGE_LEN_MAX).unwrap_or(u64::MAX);
    let len = request.body().size_hint().exact().ok_or(StatusCode::BAD_REQUEST)?;
    if !lens.contains(&len) {
        return Err(StatusCode::BAD_REQUEST);
    }
    let body = Limited::new(request.into_body(), MESSAGE_LEN_MAX).collect();
    match timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_broken)) => Err(StatusCode::BAD_REQUEST),
        Err(_late) => Err(StatusCode::REQUEST_TIMEOUT),
    }
}

fn respond(status: StatusCode, of: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(of));
    response
}
