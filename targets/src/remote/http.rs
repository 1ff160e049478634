//! Frames over HTTP/2 to a relay: a few connections, shared by everybody.
//!
//! Nothing is sent twice that may have arrived. Who speaks for an account is said by a token, which
//! is minted here where the client plays the account service.

use std::borrow::Cow;
use std::fmt;
use std::fs;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, UNIX_EPOCH};

use http::HeaderValue;
use http::uri::{Authority, Scheme};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use vaultmark_hsm::{Clock, Moment};

use super::client_file::ClientFile;
use super::error::RemoteError;
use super::multiplexed::{self, Ended, NotTaken, Origin, Sender, Unsent, Waiting};
use crate::relay::RelayRefusal;
use crate::relay::exchange;
use crate::relay::tokens::{self, Tenant, TokenKey};
use crate::vault::AccountId;
use crate::vault::channel::{Carried, Carrier, CarryError, Purpose};

/// How long connecting may take, TLS included: a few round trips around the world.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a reply may take as a rule. Generators give up sooner; people wait no longer.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a relay that could not be reached is left alone, at first and at most.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// Seconds for which a minted token is good: one operation, and clocks that differ.
const TOKEN_LIFE_S: u64 = 600;

/// Bytes of the longest token that is sent: more than a relay takes, so that it is the relay that refuses.
const BEARER_LEN_MAX: usize = 4 << 10;

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
    origin: Origin,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    tokens: TokenSource,
    clock: Arc<dyn Clock>,
    slots: Vec<Slot>,
    next: AtomicUsize,
    pub(super) reply_timeout: Duration,
}

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
        let origin = Origin::new(is_tls, &authority);
        let (next, reply_timeout) = (AtomicUsize::new(0), REPLY_TIMEOUT);
        Ok(Self {
            scheme,
            authority,
            origin,
            host,
            port,
            tls,
            tokens,
            clock,
            slots,
            next,
            reply_timeout,
        })
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
            self.say_hello(&sender).await.map_err(|why| RemoteError::Unreachable(relay, why))?;
        }
        self.slots[0].state().sender = Some(sender);
        Ok(())
    }

    /// The place of the connection whose turn it is.
    fn turn(&self) -> &Slot {
        &self.slots[self.next.fetch_add(1, Ordering::Relaxed) % self.slots.len()]
    }

    /// A connection at a place, made if there is none.
    async fn sender(&self, slot: &Slot) -> Result<Sender, CarryError> {
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
    async fn say_hello(&self, sender: &Sender) -> Result<(), String> {
        let strange = || "it does not speak HTTP/2 in plaintext; does https:// do?".to_owned();
        let waiting = sender.send(self.origin.hello()).map_err(|_ended| strange())?;
        match timeout(CONNECT_TIMEOUT, waiting).await {
            Ok(Ended::Answer { .. } | Ended::TooLong) => Ok(()),
            Ok(_) => Err(strange()),
            Err(_late) => Err("no answer".to_owned()),
        }
    }

    async fn connect(&self) -> Result<Sender, ConnectError> {
        let broken = |error: io::Error| ConnectError::Broken(error.to_string());
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(broken)?;
        stream.set_nodelay(true).map_err(broken)?;
        let patience = self.reply_timeout;
        let Some((tls, name)) = &self.tls else {
            return Ok(multiplexed::converse(stream, patience));
        };
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
        Ok(multiplexed::converse(stream, patience))
    }

    /// `None`: the token is none that a relay gave.
    fn request(&self, account: AccountId, purpose: Purpose, frame: Vec<u8>) -> Option<Unsent> {
        let bearer = format!("Bearer {}", self.tokens.token(&*self.clock, &account));
        let sound = bearer.len() <= BEARER_LEN_MAX && HeaderValue::from_str(&bearer).is_ok();
        let path = exchange::path(purpose, &account);
        sound.then(|| self.origin.post(&path, &bearer, frame))
    }

    /// Sends a request on a connection that is there; the request, if there is none.
    fn send(&self, request: Unsent, slot: &Slot) -> Result<Waiting, NotTaken> {
        match slot.live() {
            Some(sender) => sender.send(request),
            None => Err(NotTaken::Gone(request)),
        }
    }

    /// Sends a request on a connection that is made first if need be. One that ends before it has taken the
    /// request in is no loss: one more try finds another one, or makes it.
    async fn send_again(&self, mut request: Unsent) -> Result<Ended, CarryError> {
        for _ in 0..2 {
            let sender = self.sender(self.turn()).await?;
            match sender.send(request) {
                Ok(waiting) => match waiting.await {
                    Ended::Unsent(unsent) => request = unsent,
                    ended => return Ok(ended),
                },
                Err(NotTaken::Full) => return Err(CarryError::Busy),
                Err(NotTaken::Gone(unsent)) => request = unsent,
            }
        }
        Err(CarryError::Unreachable)
    }
}

impl Carrier for HttpCarrier {
    fn carry(
        &self,
        account: AccountId,
        purpose: Purpose,
        frame: Vec<u8>,
    ) -> impl Future<Output = Result<Carried, CarryError>> + Send {
        let Some(request) = self.request(account, purpose, frame) else {
            return Carrying::Not(CarryError::Unauthorized);
        };
        match self.send(request, self.turn()) {
            Ok(waiting) => Carrying::First(self, waiting),
            Err(NotTaken::Full) => Carrying::Not(CarryError::Busy),
            Err(NotTaken::Gone(request)) => Carrying::Again(Box::pin(self.send_again(request))),
        }
    }
}

/// A frame on its way. What waits is small: the request is with the connection before anybody waits for it, and
/// all that is rare is on the heap.
enum Carrying<'a> {
    First(&'a HttpCarrier, Waiting),
    Again(Pin<Box<dyn Future<Output = Result<Ended, CarryError>> + Send + 'a>>),
    Not(CarryError),
}

impl Future for Carrying<'_> {
    type Output = Result<Carried, CarryError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let ended = match &mut *self {
                Self::First(carrier, waiting) => {
                    let carrier = *carrier;
                    match ready!(Pin::new(waiting).poll(context)) {
                        Ended::Unsent(request) => {
                            *self = Self::Again(Box::pin(carrier.send_again(request)));
                            continue;
                        }
                        ended => Ok(ended),
                    }
                }
                Self::Again(again) => ready!(again.as_mut().poll(context)),
                Self::Not(error) => Err(*error),
            };
            return Poll::Ready(ended.and_then(carried));
        }
    }
}

/// What came back, as a relay says it.
fn carried(ended: Ended) -> Result<Carried, CarryError> {
    match ended {
        Ended::Answer { head, body, .. } if (200..300).contains(&head.status) => {
            let relay = Duration::from_micros(head.relay_us.into());
            Ok(Carried::shared(body, relay))
        }
        Ended::Answer { body, .. } => {
            Err(RelayRefusal::from_json(&body).map_or(CarryError::BadReply, CarryError::from))
        }
        Ended::TooLong => Err(CarryError::BadReply),
        // The peer says that it did nothing with it (RFC 9113 section 8.7).
        Ended::Refused => Err(CarryError::Busy),
        Ended::Lost | Ended::Unsent(_) => Err(CarryError::Unreachable),
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
