//! Frames over HTTP/2 to a relay: a few connections, shared by everybody.
//!
//! Nothing is sent twice that may have arrived. Who speaks for an account is said by a token, which
//! is minted here where the client plays the account service.

use std::borrow::Cow;
use std::fmt;
use std::fs;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Uri};
use http_body_util::Full;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use vaultmark_hsm::{Clock, Moment};

use super::client_file::ClientFile;
use super::error::RemoteError;
use crate::relay::RelayRefusal;
use crate::relay::exchange;
use crate::relay::tokens::{self, Tenant, TokenKey};
use crate::vault::AccountId;
use crate::vault::channel::{Carried, Carrier, CarryError, FRAME_LEN_MAX, Purpose};

/// How long connecting may take, TLS included: a few round trips around the world.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a reply may take. Generators give up sooner; people wait no longer.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a relay that could not be reached is left alone, at first and at most.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// Seconds for which a minted token is good: one operation, and clocks that differ.
const TOKEN_LIFE_S: u64 = 600;
/// Requests sent before the relay has said how many it takes: its default.
const STREAMS: usize = 1_024;

/// Connections of a carrier as a rule: a relay has as many threads as cores, and one connection is
/// served by one of them at a time.
pub const CONNECTIONS: usize = 4;

/// Where tokens come from.
#[derive(Debug)]
pub enum TokenSource {
    /// One token, for one account.
    Given(String),
    /// Minted for whoever asks: the client plays the account service.
    Minted(TokenKey, Tenant),
}

impl TokenSource {
    /// The account service that a client file names a key of.
    ///
    /// # Errors
    /// It names none, or the key cannot be read.
    pub(super) fn minting(file: &ClientFile) -> Result<Self, RemoteError> {
        let path = file.token_key.as_ref().ok_or(RemoteError::NoTokenKey)?;
        let key = TokenKey::read(path).map_err(RemoteError::TokenKey)?;
        Ok(Self::Minted(key, file.tenant.clone()))
    }

    /// A token for an account, good from now.
    pub(super) fn token<'a>(&'a self, clock: &dyn Clock, account: &AccountId) -> Cow<'a, str> {
        match self {
            Self::Given(token) => Cow::Borrowed(token),
            Self::Minted(key, tenant) => {
                let origin = clock.origin().duration_since(UNIX_EPOCH).unwrap_or_default();
                let now = origin + clock.now().since(Moment::ZERO);
                Cow::Owned(tokens::mint(key, tenant, account, now.as_secs() + TOKEN_LIFE_S))
            }
        }
    }
}

/// Carries frames to a relay. To be used on one tokio runtime with network and time.
pub struct HttpCarrier {
    scheme: Scheme,
    authority: Authority,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    tokens: TokenSource,
    clock: Arc<dyn Clock>,
    slots: Vec<Slot>,
    next: AtomicUsize,
}

type Sender = SendRequest<Full<Bytes>>;

/// The place of one connection.
#[derive(Default)]
struct Slot {
    state: Mutex<State>,
    /// Held by who connects; the others wait for it.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    sender: Option<Sender>,
    /// Not to be tried again before.
    not_before: Moment,
    backoff: Duration,
}

impl HttpCarrier {
    /// A carrier to the relay of a client file that mints its own tokens. Connects when it is used.
    ///
    /// # Errors
    /// The token key or the certificate cannot be read.
    pub fn new(
        file: &ClientFile,
        connections: usize,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RemoteError> {
        Self::with_tokens(file, TokenSource::minting(file)?, connections, clock)
    }

    /// A carrier to the relay of a client file. Connects when it is used.
    ///
    /// # Errors
    /// The certificate cannot be read.
    pub fn with_tokens(
        file: &ClientFile,
        tokens: TokenSource,
        connections: usize,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RemoteError> {
        let bad = || RemoteError::Url(file.url.to_string());
        let parts = file.url.clone().into_parts();
        let (scheme, authority) = parts.scheme.zip(parts.authority).ok_or_else(bad)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_tls = scheme == Scheme::HTTPS;
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let tls = if is_tls {
            let name = ServerName::try_from(host.clone()).map_err(|_bad| bad())?;
            Some((TlsConnector::from(Arc::new(tls_config(file, b"h2")?)), name))
        } else {
            None
        };
        let slots = (0..connections.max(1)).map(|_| Slot::default()).collect();
        let next = AtomicUsize::new(0);
        Ok(Self { scheme, authority, host, port, tls, tokens, clock, slots, next })
    }

    /// Whether the relay can be reached at all, and speaks TLS and HTTP/2 as it should.
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn reach(&self) -> Result<(), RemoteError> {
        let connected = timeout(CONNECT_TIMEOUT, self.connect()).await;
        let relay = self.authority.to_string();
        let sender = match connected {
            Err(_late) => {
                return Err(RemoteError::Unreachable(relay, "no answer".to_owned()));
            }
            Ok(Err(ConnectError::Other(why))) => return Err(RemoteError::OtherRelay(relay, why)),
            Ok(Err(ConnectError::Broken(why))) => return Err(RemoteError::Unreachable(relay, why)),
            Ok(Ok(sender)) => sender,
        };
        if self.tls.is_none() {
            // TLS has shown by now who answers, and in which protocol. In plaintext whoever does not
            // speak it shows at the first request.
            self.say_hello(sender.clone())
                .await
                .map_err(|why| RemoteError::Unreachable(relay, why))?;
        }
        self.slots[0].state().sender = Some(sender);
        Ok(())
    }

    async fn sender(&self) -> Result<Sender, CarryError> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.slots.len();
        let slot = &self.slots[turn];
        if let Some(sender) = slot.live() {
            return Ok(sender);
        }
        let _one = slot.connecting.lock().await;
        if let Some(sender) = slot.live() {
            return Ok(sender);
        }
        if self.clock.now() < slot.state().not_before {
            return Err(CarryError::Unreachable);
        }
        if let Ok(Ok(sender)) = timeout(CONNECT_TIMEOUT, self.connect()).await {
            *slot.state() = State { sender: Some(sender.clone()), ..State::default() };
            return Ok(sender);
        }
        let mut state = slot.state();
        state.backoff = (state.backoff * 2).clamp(BACKOFF_MIN, BACKOFF_MAX);
        state.not_before = self.clock.now().after(state.backoff);
        Err(CarryError::Unreachable)
    }

    /// A request that every relay answers, if only with a refusal.
    async fn say_hello(&self, mut sender: Sender) -> Result<(), String> {
        let uri = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query("/")
            .build();
        let uri = uri.map_err(|error| error.to_string())?;
        let request =
            Request::head(uri).body(Full::default()).map_err(|error| error.to_string())?;
        match timeout(CONNECT_TIMEOUT, sender.send_request(request)).await {
            Ok(Ok(_answered)) => Ok(()),
            Ok(Err(_)) => {
                Err("it does not speak HTTP/2 in plaintext; does https:// do?".to_owned())
            }
            Err(_late) => Err("no answer".to_owned()),
        }
    }

    async fn connect(&self) -> Result<Sender, ConnectError> {
        let broken = |error: io::Error| ConnectError::Broken(error.to_string());
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(broken)?;
        stream.set_nodelay(true).map_err(broken)?;
        let Some((tls, name)) = &self.tls else { return converse(stream).await };
        let stream = tls.connect(name.clone(), stream).await.map_err(|error| {
            let said = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            match said {
                Some(rustls::Error::InvalidCertificate(_)) => {
                    ConnectError::Other(error.to_string())
                }
                _ => broken(error),
            }
        })?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(ConnectError::Broken("it does not speak HTTP/2".to_owned()));
        }
        converse(stream).await
    }

    fn request(
        &self,
        account: AccountId,
        purpose: Purpose,
        frame: Vec<u8>,
    ) -> Option<Request<Full<Bytes>>> {
        let bearer = format!("Bearer {}", self.tokens.token(&*self.clock, &account));
        let mut bearer = HeaderValue::try_from(bearer).ok()?;
        // Not to be kept in tables that compress headers.
        bearer.set_sensitive(true);
        let uri = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(exchange::path(purpose, &account))
            .build()
            .ok()?;
        Request::post(uri)
            .header(AUTHORIZATION, bearer)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))
            .body(Full::new(Bytes::from(frame)))
            .ok()
    }

    async fn exchange(&self, mut request: Request<Full<Bytes>>) -> Result<Carried, CarryError> {
        // A connection that has ended takes nothing; one more try finds another one, or makes it.
        let mut again = true;
        let response = loop {
            match self.sender().await?.try_send_request(request).await {
                Ok(response) => break response,
                Err(mut error) => match error.take_message() {
                    Some(unsent) if again => {
                        again = false;
                        request = unsent;
                    }
                    _ => return Err(CarryError::Unreachable),
                },
            }
        };
        let (head, mut body) = response.into_parts();
        let body = exchange::read(&mut body).await.map_err(|refusal| match refusal {
            RelayRefusal::TooLarge => CarryError::BadReply,
            _ => CarryError::Unreachable,
        })?;
        if head.status.is_success() {
            return Ok(Carried::shared(body, exchange::parse_timing(&head.headers)));
        }
        Err(RelayRefusal::from_json(&body).map_or(CarryError::BadReply, CarryError::from))
    }
}

impl Carrier for HttpCarrier {
    async fn carry(
        &self,
        account: AccountId,
        purpose: Purpose,
        frame: Vec<u8>,
    ) -> Result<Carried, CarryError> {
        // A token that is no header's value is none that a relay gave.
        let request = self.request(account, purpose, frame).ok_or(CarryError::Unauthorized)?;
        timeout(REPLY_TIMEOUT, self.exchange(request)).await.unwrap_or(Err(CarryError::Unreachable))
    }
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self) -> Option<Sender> {
        self.state().sender.as_ref().filter(|sender| !sender.is_closed()).cloned()
    }
}

impl fmt::Debug for HttpCarrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpCarrier({}://{})", self.scheme, self.authority)
    }
}

/// Why there is no connection, in words.
enum ConnectError {
    /// Whoever answers has another certificate.
    Other(String),
    /// Nobody answers, or not in the protocol.
    Broken(String),
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Sender, ConnectError> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_max_send_streams(STREAMS)
        .initial_stream_window_size(u32::try_from(FRAME_LEN_MAX + 1).unwrap_or(u32::MAX))
        .initial_connection_window_size(1 << 20)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| ConnectError::Broken(error.to_string()))?;
    // It ends with its last sender, or tells those that wait why it broke.
    drop(tokio::spawn(connection));
    Ok(sender)
}

/// TLS 1.2 and 1.3; whoever is not the relay of the client file is not talked to.
pub(super) fn tls_config(file: &ClientFile, alpn: &[u8]) -> Result<ClientConfig, RemoteError> {
    let path = file.certificate.clone().unwrap_or_default();
    let failed = |why: &dyn ToString| RemoteError::Certificate(path.clone(), why.to_string());
    let pem = fs::read(&path).map_err(|error| failed(&error))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| failed(&error))?;
        roots.add(certificate).map_err(|error| failed(&error))?;
    }
    if roots.is_empty() {
        return Err(failed(&"no certificate in it"));
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| failed(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(config)
}
