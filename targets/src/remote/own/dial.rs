//! Opening connections: TCP from one of many addresses of this machine, TLS around it, and a count of both.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::Scheme;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::client_file::ClientFile;
use super::super::error::RemoteError;
use super::super::http::tls_config;

/// How long opening a connection may take, TLS included: a few round trips around the world.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses of this machine that connections to it come from, in turn: 127.1.0.1 and on. A pair of addresses
/// has some 28,000 ports, and a port rests for a minute after its connection was closed. So many addresses are
/// enough for a hundred thousand new connections a second; and 18,000 that are kept stay below what a relay
/// usually takes from one address.
pub const LOOPBACK_SOURCES: u32 = 250;
/// Addresses that are tried when one has no port left. Nothing has been sent by then.
const SOURCES_TRIED: u32 = 3;

/// Connections, counted while they live.
#[derive(Debug, Default)]
pub(super) struct Counters {
    open: AtomicU64,
    open_max: AtomicU64,
    opened: AtomicU64,
    handshakes: AtomicU64,
    resumed: AtomicU64,
    pub(super) reopened: AtomicU64,
    failed: AtomicU64,
    no_port: AtomicU64,
    no_file: AtomicU64,
}

/// What became of a carrier's connections so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionCounts {
    /// Open now.
    pub open: u64,
    /// The most that were open at a time.
    pub open_max: u64,
    /// Opened.
    pub opened: u64,
    /// Of those, with a TLS handshake.
    pub handshakes: u64,
    /// Of those, the ones that resumed an earlier session: its keys were not agreed on anew.
    pub resumed: u64,
    /// Opened in the place of one that had ended before its time.
    pub reopened: u64,
    /// Not opened: nobody answered, or not as the relay of the client file.
    pub failed: u64,
    /// Not opened since this machine had no port left (`EADDRNOTAVAIL`, `EADDRINUSE`).
    pub no_port: u64,
    /// Not opened since this process had no file descriptor left (`EMFILE`, `ENFILE`).
    pub no_file: u64,
}

impl Counters {
    pub(super) fn read(&self) -> ConnectionCounts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        ConnectionCounts {
            open: read(&self.open),
            open_max: read(&self.open_max),
            opened: read(&self.opened),
            handshakes: read(&self.handshakes),
            resumed: read(&self.resumed),
            reopened: read(&self.reopened),
            failed: read(&self.failed),
            no_port: read(&self.no_port),
            no_file: read(&self.no_file),
        }
    }

    fn count(&self, error: &OpenError) {
        let counter = match error {
            OpenError::NoPort => &self.no_port,
            OpenError::NoFile => &self.no_file,
            OpenError::Other(_) | OpenError::Broken(_) => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Why a connection is not opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// No port is left on the addresses that were tried.
    NoPort,
    /// No file descriptor is left.
    NoFile,
    /// Whoever answers has another certificate.
    Other(String),
    /// Nobody answers, or not in the protocol.
    Broken(String),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        use rustix::io::Errno;
        let is = |errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
        if is(Errno::ADDRNOTAVAIL) || is(Errno::ADDRINUSE) {
            return Self::NoPort;
        }
        if is(Errno::MFILE) || is(Errno::NFILE) {
            return Self::NoFile;
        }
        Self::Broken(error.to_string())
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPort => f.write_str(
                "this machine has no port left for another connection (EADDRNOTAVAIL, EADDRINUSE)",
            ),
            Self::NoFile => f.write_str(
                "this process has no file descriptor left for another connection (EMFILE)",
            ),
            Self::Other(why) | Self::Broken(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for OpenError {}

/// Opens connections to one relay.
pub(super) struct Dialer {
    host: String,
    port: u16,
    /// Where the relay was found: what `host` stands for may be more than one address.
    address: OnceLock<SocketAddr>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    tls_version: OnceLock<ProtocolVersion>,
    pub(super) counters: Arc<Counters>,
}

impl Dialer {
    pub(super) fn new(file: &ClientFile) -> Result<Self, RemoteError> {
        let bad = || RemoteError::Url(file.url.to_string());
        let authority = file.url.authority().ok_or_else(bad)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_tls = file.url.scheme() == Some(&Scheme::HTTPS);
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let tls = if is_tls {
            let name = ServerName::try_from(host.clone()).map_err(|_bad| bad())?;
            let mut config = tls_config(file, b"http/1.1")?;
            // Each connection is another person's: nobody has a session to resume. Nor is any kept.
            config.resumption = Resumption::disabled();
            Some((TlsConnector::from(Arc::new(config)), name))
        } else {
            None
        };
        Ok(Self {
            host,
            port,
            address: OnceLock::new(),
            tls,
            tls_version: OnceLock::new(),
            counters: Arc::default(),
        })
    }

    /// The version of TLS that was spoken; `None` before, and in plaintext.
    pub(super) fn tls_version(&self) -> Option<&'static str> {
        match self.tls_version.get()? {
            ProtocolVersion::TLSv1_2 => Some("TLS 1.2"),
            ProtocolVersion::TLSv1_3 => Some("TLS 1.3"),
            _ => Some("TLS"),
        }
    }

    /// Opens a connection, from the address that has this turn.
    pub(super) async fn open(&self, turn: u64) -> Result<Connection, OpenError> {
        let opened = timeout(OPEN_TIMEOUT, self.try_open(turn)).await;
        let opened = opened.unwrap_or_else(|_late| Err(OpenError::Broken("no answer".to_owned())));
        opened.inspect_err(|error| self.counters.count(error))
    }

    async fn try_open(&self, turn: u64) -> Result<Connection, OpenError> {
        let stream = match self.address.get() {
            Some(address) => connect(*address, turn).await?,
            None => self.find(turn).await?,
        };
        // Requests are small and waited for.
        stream.set_nodelay(true)?;
        let stream = match &self.tls {
            None => Stream::Plain(stream),
            Some((tls, name)) => {
                Stream::Tls(Box::new(self.shake_hands(tls, name.clone(), stream).await?))
            }
        };
        let counters = Arc::clone(&self.counters);
        counters.opened.fetch_add(1, Ordering::Relaxed);
        let open = counters.open.fetch_add(1, Ordering::Relaxed) + 1;
        counters.open_max.fetch_max(open, Ordering::Relaxed);
        Ok(Connection { stream, counters })
    }

    async fn shake_hands(
        &self,
        tls: &TlsConnector,
        name: ServerName<'static>,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, OpenError> {
        let stream = tls.connect(name, stream).await.map_err(|error| {
            let said = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            match said {
                Some(rustls::Error::InvalidCertificate(_)) => OpenError::Other(error.to_string()),
                _ => OpenError::from(error),
            }
        })?;
        let session = stream.get_ref().1;
        if session.alpn_protocol() != Some(b"http/1.1") {
            return Err(OpenError::Broken("it does not speak HTTP/1.1".to_owned()));
        }
        self.counters.handshakes.fetch_add(1, Ordering::Relaxed);
        if session.handshake_kind() == Some(HandshakeKind::Resumed) {
            self.counters.resumed.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(version) = session.protocol_version() {
            self.tls_version.get_or_init(|| version);
        }
        Ok(stream)
    }

    /// The first connection of all: to the first address that answers.
    async fn find(&self, turn: u64) -> Result<TcpStream, OpenError> {
        // On this machine, where load goes, names are in a file: nobody is waited for.
        let known = (self.host.as_str(), self.port).to_socket_addrs()?;
        let mut ended = Err(OpenError::Broken(format!("{} has no address", self.host)));
        for address in known {
            ended = connect(address, turn).await;
            if ended.is_ok() {
                self.address.get_or_init(|| address);
                break;
            }
        }
        ended
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        write!(f, "Dialer({scheme}://{}:{})", self.host, self.port)
    }
}

/// Connects to an address: to this machine's own from one of many of its addresses.
async fn connect(address: SocketAddr, turn: u64) -> Result<TcpStream, OpenError> {
    let mut tried = 0;
    loop {
        let ended = match source(address.ip(), turn.wrapping_add(tried.into())) {
            Some(source) => {
                let socket = TcpSocket::new_v4()?;
                socket.bind(SocketAddr::new(source.into(), 0))?;
                socket.connect(address).await
            }
            None => TcpStream::connect(address).await,
        };
        tried += 1;
        match ended.map_err(OpenError::from) {
            Err(OpenError::NoPort) if tried < SOURCES_TRIED => {}
            ended => return ended,
        }
    }
}

fn source(to: IpAddr, turn: u64) -> Option<Ipv4Addr> {
    let IpAddr::V4(to) = to else { return None };
    let last = u8::try_from(turn % u64::from(LOOPBACK_SOURCES)).ok()?;
    to.is_loopback().then(|| Ipv4Addr::new(127, 1, 0, last + 1))
}

/// A connection to a relay.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    counters: Arc<Counters>,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    /// Boxed: plaintext connections are not to be as large.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.counters.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_to_this_machine_come_from_many_of_its_addresses() {
        let of = |to: &str, turn| source(to.parse().unwrap(), turn).map(|it| it.to_string());
        for (to, turn, from) in [
            ("127.0.0.1", 0, Some("127.1.0.1")),
            ("127.0.0.1", 249, Some("127.1.0.250")),
            ("127.3.2.1", 250, Some("127.1.0.1")),
            ("127.0.0.1", u64::MAX, Some("127.1.0.116")),
            ("::1", 3, None),
            ("192.0.2.1", 3, None),
        ] {
            assert_eq!(of(to, turn).as_deref(), from, "{to} {turn}");
        }
    }

    #[test]
    fn what_this_machine_lacks_is_told_apart() {
        use rustix::io::Errno;
        for (errno, expected) in [
            (Errno::ADDRNOTAVAIL, Some(OpenError::NoPort)),
            (Errno::ADDRINUSE, Some(OpenError::NoPort)),
            (Errno::MFILE, Some(OpenError::NoFile)),
            (Errno::NFILE, Some(OpenError::NoFile)),
            (Errno::CONNREFUSED, None),
        ] {
            let told = OpenError::from(io::Error::from_raw_os_error(errno.raw_os_error()));
            match expected {
                Some(expected) => assert_eq!(told, expected),
                None => assert!(matches!(told, OpenError::Broken(_)), "{told}"),
            }
        }
    }
}
