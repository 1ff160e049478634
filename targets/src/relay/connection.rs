//! One connection: TLS, HTTP/2 or HTTP/1.1, and how long it may take over each.
//!
//! Whoever is slow is cut off: in the handshake, before the head of a request is complete, in a body
//! (a request's own limit), and between requests.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use vaultmark_hsm::Moment;

use super::Shared;
use super::exchange;
use super::router::Upstream;
use crate::vault::channel::FRAME_LEN_MAX;

/// Bytes of all headers of a request: a token of the longest kind is 300, browsers and proxies add some.
const HEAD_LEN_MAX: u32 = 8 << 10;
/// Headers of a request, for the same reason.
const HEADERS_MAX: usize = 32;
/// What HTTP/2 connections begin with (RFC 9113 section 3.4), as far as no HTTP/1.1 method does.
pub(super) const PREFACE: &[u8; 3] = b"PRI";

/// A connection that ended otherwise than it should.
#[derive(Debug)]
pub(super) struct Broken;

/// What a connection is doing.
#[derive(Debug, Default)]
struct Activity {
    in_flight: AtomicUsize,
    /// When a request last began or ended, in nanoseconds of the clock; zero before the first.
    last_ns: AtomicU64,
}

/// Serves a connection until it ends.
pub(super) async fn serve<U: Upstream>(
    shared: &Arc<Shared<U>>,
    stream: TcpStream,
    peer: IpAddr,
    tls: Option<TlsAcceptor>,
    told: watch::Receiver<bool>,
) -> Result<(), Broken> {
    // Replies are small and waited for.
    stream.set_nodelay(true).map_err(|_gone| Broken)?;
    let patience = shared.config.limits.head_timeout();
    if let Some(tls) = tls {
        let stream = timeout(patience, tls.accept(stream)).await;
        let stream = stream.map_err(|_slow| Broken)?.map_err(|_no_tls| Broken)?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        converse(shared, stream, peer, is_http2, told).await
    } else {
        let first = timeout(patience, begins_http2(&stream)).await;
        let is_http2 = first.map_err(|_slow| Broken)?.map_err(|_gone| Broken)?;
        converse(shared, stream, peer, is_http2, told).await
    }
}

/// Looks at the first bytes and leaves them there.
async fn begins_http2(stream: &TcpStream) -> std::io::Result<bool> {
    let mut first = [0; PREFACE.len()];
    loop {
        let len = stream.peek(&mut first).await?;
        if len == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if len == PREFACE.len() || first[..len] != PREFACE[..len] {
            return Ok(first == *PREFACE);
        }
        // The rest of three bytes is on its way, or the caller's patience ends.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub(super) async fn converse<U: Upstream>(
    shared: &Arc<Shared<U>>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: IpAddr,
    is_http2: bool,
    told: watch::Receiver<bool>,
) -> Result<(), Broken> {
    let limits = &shared.config.limits;
    let activity = Arc::new(Activity::default());
    let service = service(Arc::clone(shared), peer, Arc::clone(&activity));
    let io = TokioIo::new(stream);
    // The two connections are of two types that share no trait.
    macro_rules! until_it_ends {
        ($connection:expr) => {{
            let mut connection = std::pin::pin!($connection);
            let mut ends = std::pin::pin!(ends(shared, &activity, told));
            tokio::select! {
                biased;
                ended = connection.as_mut() => return ended.map_err(|_broken| Broken),
                was_idle = ends.as_mut() => {
                    connection.as_mut().graceful_shutdown();
                    // Bodies and replies in flight, or the peer's goodbye.
                    let rest = timeout(limits.body_timeout(), connection).await;
                    return if was_idle || rest.is_ok() { Ok(()) } else { Err(Broken) };
                }
            }
        }};
    }
    if is_http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams_max)
            .max_header_list_size(HEAD_LEN_MAX)
            // A frame's length of each stream is taken before anybody has looked at it, and no more;
            // of all streams together what a burst of requests brings.
            .initial_stream_window_size(u32::try_from(FRAME_LEN_MAX + 1).unwrap_or(u32::MAX))
            .initial_connection_window_size(1 << 20);
        until_it_ends!(builder.serve_connection(io, service))
    }
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // hyper counts from the reply before, so between two requests this is how long one may wait for the next
        // head, whole; the first one, and connections with nothing to do, are for `ends`.
        .header_read_timeout(limits.idle_timeout().max(limits.head_timeout()))
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_LEN_MAX as usize);
    until_it_ends!(builder.serve_connection(io, service))
}

fn service<U: Upstream>(
    shared: Arc<Shared<U>>,
    peer: IpAddr,
    activity: Arc<Activity>,
) -> impl Service<
    Request<Incoming>,
    Response = Response<Full<Bytes>>,
    Error = Infallible,
    Future: Send + 'static,
> {
    service_fn(move |request| {
        let shared = Arc::clone(&shared);
        let busy = Busy::begin(Arc::clone(&activity));
        async move {
            shared.requests.fetch_add(1, Ordering::Relaxed);
            let response = exchange::answer(&*shared, peer, request).await;
            busy.0.last_ns.store(shared.clock.now().as_nanos().max(1), Ordering::Relaxed);
            Ok(response)
        }
    })
}

/// One request in flight; also when its client gave it up.
struct Busy(Arc<Activity>);

impl Busy {
    fn begin(activity: Arc<Activity>) -> Self {
        activity.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(activity)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Until the relay stops (false) or the connection has had nothing to do for too long (true).
async fn ends<U>(shared: &Shared<U>, activity: &Activity, mut told: watch::Receiver<bool>) -> bool {
    let limits = &shared.config.limits;
    let opened = shared.clock.now();
    loop {
        let last = Moment::from_nanos(activity.last_ns.load(Ordering::Relaxed));
        let is_busy = activity.in_flight.load(Ordering::Relaxed) > 0;
        let (since, patience) = if last == Moment::ZERO {
            (opened, limits.head_timeout())
        } else {
            (last, limits.idle_timeout())
        };
        let idle = shared.clock.now().since(since);
        if !is_busy && idle >= patience {
            return true;
        }
        let wait = if is_busy { limits.idle_timeout() } else { patience.saturating_sub(idle) };
        tokio::select! {
            biased;
            stopped = told.wait_for(|stop| *stop) => {
                // An error is the relay gone without a word.
                let _gone = stopped.is_err();
                return false;
            }
            // A millisecond more: the wheel's, so that the next look finds it over.
            () = tokio::time::sleep(wait + Duration::from_millis(1)) => {}
        }
    }
}
