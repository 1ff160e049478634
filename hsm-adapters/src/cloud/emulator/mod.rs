//! AWS KMS, emulated: as much of its protocol as an OPRF needs, spoken to the unmodified SDK on a loopback
//! address of this process. Keys, states, signatures and quotas are real; nothing is kept when it ends.
//!
//! It is not AWS: its service times are those of a model (or of this machine, where the model is off), and whatever
//! is measured on it says so.

mod kms;
mod latency;
mod sigv4;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rand::RngCore;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, Semaphore};

use super::{Access, DEADLINE_DEFAULT};
use crate::clock::{Clock, nanos};
use crate::device::Secret;

use kms::{Kms, Refusal};

pub use latency::Latency;

/// Largest body of a request: KMS's own largest are a few kilobytes.
const BODY_MAX: usize = 64 << 10;

/// Connections at once. Others wait to be accepted.
const CONNECTIONS_MAX: usize = 1_024;

/// Who sends no whole header for so long is sent away.
const HEADER_WAIT: Duration = Duration::from_secs(10);

/// Where it says it is.
const REGION: &str = "vaultmark-1";

/// What names a request in the JSON protocol (AWS JSON 1.1): `TrentService.CreateKey`.
const TARGET_PREFIX: &str = "TrentService.";

/// How an emulator behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens; port 0: any that is free.
    pub address: SocketAddr,
    /// How long a cryptographic request takes at least.
    pub latency: Latency,
    /// Cryptographic requests a second; more are answered with ThrottlingException. `None`: no quota.
    pub quota_per_s: Option<u32>,
    /// Where the model's chance comes from.
    pub seed: u64,
    /// Injected faults.
    pub faults: Faults,
}

/// What an emulator does wrong on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Every so many-th derived secret or MAC is another; 0: none.
    pub wrong_every: u64,
    /// Every so many-th cryptographic request is never answered; 0: none.
    pub hang_every: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            latency: Latency::Off,
            quota_per_s: None,
            seed: 0,
            faults: Faults::default(),
        }
    }
}

/// What an emulator was asked so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests of every kind, refused ones included.
    pub requests: u64,
    /// DeriveSharedSecret and GenerateMac, throttled ones included.
    pub cryptographic: u64,
    /// Answered with ThrottlingException.
    pub throttled: u64,
    /// Of the wrong signature, or none.
    pub unsigned: u64,
}

/// A running emulator. Ends when dropped; requests under way get no answer.
pub struct Emulator {
    endpoint: String,
    access_key_id: String,
    secret_access_key: Secret,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

/// What connections share.
struct Shared {
    kms: Kms,
    config: Config,
    clock: Arc<dyn Clock>,
    signer: sigv4::Signer,
    quota: latency::Quota,
    requests: AtomicU64,
    cryptographic: AtomicU64,
    throttled: AtomicU64,
    unsigned: AtomicU64,
    /// Never notified: what hangs waits for it, until the runtime ends.
    never: Notify,
}

impl Emulator {
    /// Starts one, with credentials of its own.
    ///
    /// # Errors
    /// The address is not this machine's own, or the system gives no port or no thread.
    pub fn start(config: Config, clock: Arc<dyn Clock>) -> io::Result<Self> {
        if !config.address.ip().is_loopback() {
            let why = format!("{} is not a loopback address", config.address);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        // Made before anybody waits for it.
        kms::wrapping_key();
        let threads = crate::software::cores();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("kms-emulator")
            .enable_io()
            .enable_time()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind(config.address))?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let access_key_id = "VAULTMARKEMULATOR".to_owned();
        // Made up for this process; whoever has them may use an emulator that ends with it.
        let mut chance = [0; 32];
        rand::rngs::OsRng.fill_bytes(&mut chance);
        let secret_access_key: Secret = STANDARD.encode(chance).into();
        let shared = Arc::new(Shared {
            kms: Kms::new(REGION),
            quota: latency::Quota::new(config.quota_per_s, clock.now()),
            signer: sigv4::Signer::new(&access_key_id, &secret_access_key, REGION),
            config,
            clock,
            requests: AtomicU64::new(0),
            cryptographic: AtomicU64::new(0),
            throttled: AtomicU64::new(0),
            unsigned: AtomicU64::new(0),
            never: Notify::new(),
        });
        runtime.spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self { endpoint, access_key_id, secret_access_key, shared, runtime: Some(runtime) })
    }

    /// Its address: `http://127.0.0.1:45991`.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// How to get in, marked as an emulator.
    #[must_use]
    pub fn access(&self) -> Access {
        Access {
            endpoint: Some(self.endpoint.clone()),
            region: REGION.to_owned(),
            access_key_id: self.access_key_id.clone(),
            secret_access_key: self.secret_access_key.clone(),
            session_token: None,
            deadline: DEADLINE_DEFAULT,
            modelled: Some(self.modelled()),
        }
    }

    /// What its service times are modelled on, in words.
    #[must_use]
    pub fn modelled(&self) -> String {
        let quota = match self.shared.config.quota_per_s {
            Some(quota) => format!(", at most {quota} requests a second"),
            None => String::new(),
        };
        format!("vaultmark's emulator of AWS KMS, {}{quota}", self.shared.config.latency)
    }

    /// What it was asked so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            requests: read(&self.shared.requests),
            cryptographic: read(&self.shared.cryptographic),
            throttled: read(&self.shared.throttled),
            unsigned: read(&self.shared.unsigned),
        }
    }

    /// Keys that are there and not being deleted.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.shared.kms.live()
    }
}

impl fmt::Debug for Emulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emulator").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else { continue };
        // Small answers wait for nothing.
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let answer = service_fn(|request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, std::convert::Infallible>(shared.answer(request).await) }
            });
            // A client that goes away is no event.
            let _ended = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_WAIT)
                .serve_connection(TokioIo::new(stream), answer)
                .await;
            drop(place);
        });
    }
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        match self.operate(request).await {
            Ok(body) => respond(StatusCode::OK, &body, number),
            Err(refusal) => {
                let body = json!({ "__type": refusal.code, "message": refusal.message });
                respond(refusal.status, &body, number)
            }
        }
    }

    async fn operate(&self, request: Request<Incoming>) -> Result<Value, Refusal> {
        let (head, body) = request.into_parts();
        if head.method != Method::POST || head.uri.path() != "/" {
            return Err(Refusal::new("UnknownOperationException", "POST / is all there is"));
        }
        let body = Limited::new(body, BODY_MAX)
            .collect()
            .await
            .map_err(|_| Refusal::new("SerializationException", "the body is too long or cut off"))?
            .to_bytes();
        if let Err(why) = self.signer.verify(&head.headers, &body) {
            self.unsigned.fetch_add(1, Ordering::Relaxed);
            return Err(why);
        }
        let operation = operation(&head.headers)?;
        let input: Value = serde_json::from_slice(&body)
            .map_err(|_| Refusal::new("SerializationException", "the body is not JSON"))?;
        if !matches!(operation, "DeriveSharedSecret" | "GenerateMac") {
            return self.kms.operate(operation, &input);
        }
        let number = self.cryptographic.fetch_add(1, Ordering::Relaxed);
        if !self.quota.take(self.clock.now()) {
            self.throttled.fetch_add(1, Ordering::Relaxed);
            return Err(Refusal::new(
                "ThrottlingException",
                "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.",
            ));
        }
        let is_nth = |every: u64| every > 0 && (number + 1).is_multiple_of(every);
        if is_nth(self.config.faults.hang_every) {
            self.never.notified().await;
        }
        let arrived = self.clock.now();
        let mut answer = self.kms.operate(operation, &input)?;
        if is_nth(self.config.faults.wrong_every) {
            spoil(&mut answer);
        }
        // Computing is part of the modelled time and not on top of it.
        let takes = self.config.latency.of(self.config.seed, number);
        if nanos(takes) > 0 {
            self.clock.sleep_until(arrived.after(takes)).await;
        }
        Ok(answer)
    }
}

fn operation(headers: &HeaderMap) -> Result<&str, Refusal> {
    let target = headers.get("x-amz-target").and_then(|value| value.to_str().ok());
    target
        .and_then(|target| target.strip_prefix(TARGET_PREFIX))
        .ok_or_else(|| Refusal::new("UnknownOperationException", "x-amz-target names no operation"))
}

/// Another secret or MAC of the same length.
fn spoil(answer: &mut Value) {
    for name in ["SharedSecret", "Mac"] {
        let bytes = answer[name].as_str().and_then(|text| STANDARD.decode(text).ok());
        if let Some(mut bytes) = bytes
            && let Some(last) = bytes.last_mut()
        {
            *last ^= 1;
            answer[name] = STANDARD.encode(bytes).into();
        }
    }
}

fn respond(status: StatusCode, body: &Value, number: u64) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .header("content-type", "application/x-amz-json-1.1")
        .header("x-amzn-requestid", format!("00000000-0000-4000-8000-{number:012x}"))
        .body(Full::new(Bytes::from(body.to_string())))
        .expect("the headers are plain text")
}
