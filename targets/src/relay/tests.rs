//! The relay over real sockets: every refusal, both versions of HTTP and of TLS.

use std::path::PathBuf;

use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, oneshot};
use tokio_rustls::TlsConnector;
use vaultmark_hsm::SystemClock;

use super::tokens::{TokenKey, mint};
use super::*;
use crate::fleet::ForwardError;
use crate::vault::channel::{ChannelRefusal, FRAME_LEN_MAX, Purpose};

/// A replica that does what a frame's first letter says.
#[derive(Default)]
struct Lettered {
    held: Notify,
    go_on: Notify,
}

impl Upstream for Arc<Lettered> {
    fn replicas(&self) -> u32 {
        1
    }

    async fn forward(
        &self,
        _replica: u32,
        _group: u32,
        _account: AccountId,
        _purpose: Purpose,
        frame: &[u8],
    ) -> Result<Vec<u8>, ForwardError> {
        match frame.first() {
            Some(b'n') => Err(ForwardError::NotLeader { leader: None }),
            Some(b'd') => Err(ForwardError::Unreachable),
            Some(b'b') => Err(ForwardError::Busy),
            Some(b'u') => Err(ForwardError::Unknown),
            Some(b'f') => Err(ForwardError::Failed("moody".to_owned())),
            Some(b'r') => Err(ForwardError::Refused(ChannelRefusal::NoSuchChannel)),
            Some(b'm') => Err(ForwardError::Refused(ChannelRefusal::Malformed)),
            Some(b'h') => {
                self.held.notify_one();
                self.go_on.notified().await;
                Ok(frame.to_vec())
            }
            _ => Ok(frame.to_vec()),
        }
    }
}

struct Fixture {
    runtime: Runtime,
    address: SocketAddr,
    upstream: Arc<Lettered>,
    counters: Box<dyn Fn() -> RelayCounters>,
    stop: Option<oneshot::Sender<()>>,
    running: Option<tokio::task::JoinHandle<()>>,
    certificate: PathBuf,
    _folder: TempDir,
}

fn key(seed: u64) -> TokenKey {
    TokenKey::generate(&mut ChaCha20Rng::seed_from_u64(seed))
}

fn account() -> AccountId {
    AccountId::synthetic(7)
}

fn bearer(seed: u64, account: u64, expiry_s: u64) -> String {
    let tenant = Tenant::new("test").unwrap();
    format!("Bearer {}", mint(&key(seed), &tenant, &AccountId::synthetic(account), expiry_s))
}

fn good() -> String {
    bearer(1, 7, u64::MAX)
}

#[derive(Clone, Copy, Debug)]
enum Over {
    Http1,
    Http2,
}

impl Fixture {
    fn start(is_tls: bool, change: impl FnOnce(&mut RelayLimits)) -> Self {
        let folder = TempDir::new().unwrap();
        let certificate = folder.path().join("relay.pem");
        let secret = folder.path().join("relay.key");
        let clock = SystemClock::start().unwrap();
        let transport = if is_tls {
            certificate::generate(&certificate, &secret, &*clock).unwrap();
            Transport::Tls { certificate: certificate.clone(), key: secret }
        } else {
            Transport::Plaintext
        };
        let mut limits = RelayLimits { election_wait_ms: 20, ..RelayLimits::for_benchmarks() };
        change(&mut limits);
        let config = RelayConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            transport,
            token_key: key(1),
            groups: 2,
            limits,
        };
        let upstream = Arc::new(Lettered::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let relay = runtime.block_on(Relay::bind(config, Arc::clone(&upstream), clock)).unwrap();
        let (address, counters) = (relay.address(), Box::new(relay.counters()));
        let (stop, stopped) = oneshot::channel();
        let running = runtime.spawn(relay.run(async move {
            let _dropped = stopped.await.is_err();
        }));
        Self {
            runtime,
            address,
            upstream,
            counters,
            stop: Some(stop),
            running: Some(running),
            certificate,
            _folder: folder,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    fn post(&self, over: Over, path: &str, token: &str, body: &[u8]) -> (u16, HeaderMap, String) {
        let request = Request::post(format!("http://localhost{path}"))
            .header("host", "localhost")
            .header("authorization", token)
            .body(Full::new(Bytes::copy_from_slice(body)))
            .unwrap();
        self.runtime.block_on(async { ask(self.connect().await, over, request).await })
    }

    fn refused(&self, name: &str) -> u64 {
        let refused = (self.counters)().refused;
        refused.into_iter().find(|(it, _)| *it == name).unwrap().1
    }

    /// Sends raw bytes; what came back until the relay closed the connection.
    fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        self.runtime.block_on(async {
            let mut stream = self.connect().await;
            stream.write_all(bytes).await.unwrap();
            read_to_end(&mut stream).await
        })
    }
}

async fn read_to_end(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut all = Vec::new();
    // A reset is an end as well.
    let _reset = stream.read_to_end(&mut all).await.is_err();
    all
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    over: Over,
    request: Request<Full<Bytes>>,
) -> (u16, HeaderMap, String) {
    let io = TokioIo::new(stream);
    let response = match over {
        Over::Http1 => {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            drop(tokio::spawn(connection));
            sender.send_request(request).await.unwrap()
        }
        Over::Http2 => {
            let executor = TokioExecutor::new();
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(executor, io).await.unwrap();
            drop(tokio::spawn(connection));
            sender.send_request(request).await.unwrap()
        }
    };
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status.as_u16(), head.headers, String::from_utf8(body.to_vec()).unwrap())
}

fn path() -> String {
    exchange::path(Purpose::Recover, &account())
}

#[test]
fn every_answer_has_its_status_and_is_counted() {
    let it = Fixture::start(false, |_| {});
    let long = "o".repeat(FRAME_LEN_MAX + 1);
    let other = exchange::path(Purpose::Recover, &AccountId::synthetic(8));
    for over in [Over::Http1, Over::Http2] {
        for (name, path, token, body, status, code) in [
            ("good", &path(), good(), "opaque", 200, ""),
            ("empty", &path(), good(), "", 200, ""),
            ("the longest", &path(), good(), &long[1..], 200, ""),
            ("too long", &path(), good(), &long, 413, "too_large"),
            ("no token", &path(), String::new(), "o", 401, "unauthorized"),
            ("no bearer", &path(), "Basic eDp5".to_owned(), "o", 401, "unauthorized"),
            ("forged", &path(), bearer(2, 7, u64::MAX), "o", 401, "unauthorized"),
            ("expired", &path(), bearer(1, 7, 1), "o", 401, "unauthorized"),
            ("another account's", &other, good(), "o", 401, "unauthorized"),
            ("no such path", &"/v1/evaluate/00".to_owned(), good(), "o", 404, "not_found"),
            ("no account", &"/v1/recover/00".to_owned(), good(), "o", 404, "not_found"),
            ("status is for GET", &"/v1/status".to_owned(), good(), "o", 404, "not_found"),
            ("no leader", &path(), good(), "nobody", 503, "no_leader"),
            ("all down", &path(), good(), "down", 503, "no_leader"),
            ("busy", &path(), good(), "busy", 503, "busy"),
            ("unknown", &path(), good(), "unknown", 504, "unknown"),
            ("failed", &path(), good(), "failed", 502, "failed"),
            ("no channel", &path(), good(), "refused", 409, "channel"),
            ("malformed", &path(), good(), "malformed", 400, "channel"),
        ] {
            let before = if code.is_empty() { 0 } else { it.refused(code) };
            let (seen, headers, reply) = it.post(over, path, &token, body.as_bytes());
            assert_eq!(seen, status, "{over:?} {name}: {reply}");
            if code.is_empty() {
                assert_eq!(reply, body, "{over:?} {name}");
            } else {
                let refusal = RelayRefusal::from_json(reply.as_bytes());
                assert_eq!(refusal.map(|it| it.status().as_u16()), Some(status), "{name}: {reply}");
                assert_eq!(it.refused(code), before + 1, "{over:?} {name}");
            }
            assert!(headers.contains_key("server-timing"), "{name}");
            assert_eq!(headers.contains_key("www-authenticate"), status == 401, "{name}");
        }
        let get = Request::get(format!("http://localhost{}", path())).header("host", "localhost");
        let get = get.body(Full::default()).unwrap();
        let (status, headers, _) =
            it.runtime.block_on(async { ask(it.connect().await, over, get).await });
        assert_eq!((status, headers["allow"].to_str().unwrap()), (405, "POST"));
        let get = Request::get("http://localhost/v1/status").header("host", "localhost");
        let get = get.body(Full::default()).unwrap();
        let (status, _, body) =
            it.runtime.block_on(async { ask(it.connect().await, over, get).await });
        assert_eq!(status, 200);
        let told: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(told["refused"]["unauthorized"], it.refused("unauthorized"));
    }
}

#[test]
fn rates_are_limited_for_account_and_tenant() {
    let rate = |per_second, burst| Rate { per_second, burst };
    // So slow that none comes back while the test runs.
    for (account, tenant, code) in [
        (rate(1, 3), rate(1_000, 1_000), "account_limited"),
        (rate(1_000, 1_000), rate(1, 3), "tenant_limited"),
    ] {
        let it = Fixture::start(false, |limits| {
            limits.account = Rate { per_second: account.per_second, ..account };
            limits.tenant = tenant;
        });
        let mut limited = 0;
        for _ in 0..50 {
            let (status, headers, reply) = it.post(Over::Http1, &path(), &good(), b"o");
            if status == 429 {
                limited += 1;
                assert!(reply.contains(code), "{reply}");
                assert!(headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
            } else {
                assert_eq!(status, 200);
            }
        }
        assert!(limited > 0 && it.refused(code) == limited, "{limited}");
    }
}

#[test]
fn who_is_slow_is_cut_off() {
    let it = Fixture::start(false, |limits| {
        limits.head_timeout_ms = 40;
        limits.body_timeout_ms = 40;
    });
    for begun in [
        "",
        "P",
        "POST /v1/recover/",
        "POST / HTTP/1.1\r\nHost: a\r\nX: ",
        "PRI * HTTP/2.0\r\n\r\nSM",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    ] {
        // It ends at all: nothing was answered, as nothing was asked.
        assert!(!it.raw(begun.as_bytes()).starts_with(b"HTTP/1.1 2"), "{begun:?}");
    }
    let body = format!(
        "POST {} HTTP/1.1\r\nHost: a\r\nAuthorization: {}\r\nContent-Length: 9\r\n\r\nslow",
        path(),
        good()
    );
    assert!(it.raw(body.as_bytes()).starts_with(b"HTTP/1.1 408 "));
    assert_eq!(it.refused("too_slow"), 1);
}

#[test]
fn heads_are_bounded() {
    let it = Fixture::start(false, |_| {});
    let many: String = (0..100).map(|n| format!("X-{n}: a\r\n")).collect();
    for head in ["X: ".to_owned() + &"a".repeat(20_000) + "\r\n", many] {
        let request = format!("POST {} HTTP/1.1\r\nHost: a\r\n{head}\r\n", path());
        let reply = it.raw(request.as_bytes());
        assert!(reply.starts_with(b"HTTP/1.1 431 "), "{}", reply.escape_ascii());
    }
}

#[test]
fn connections_and_requests_are_bounded() {
    let it = Fixture::start(false, |limits| {
        limits.connections_per_address_max = 2;
        limits.in_flight_max = 1;
    });
    it.runtime.block_on(async {
        let hold = format!(
            "POST {} HTTP/1.1\r\nHost: a\r\nAuthorization: {}\r\nContent-Length: 4\r\n\r\nhold",
            path(),
            good()
        );
        let mut first = it.connect().await;
        first.write_all(hold.as_bytes()).await.unwrap();
        it.upstream.held.notified().await;
        let mut second = it.connect().await;
        second.write_all(hold.as_bytes()).await.unwrap();
        let mut head = [0; 12];
        second.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 503");
        let mut third = it.connect().await;
        assert_eq!(read_to_end(&mut third).await, b"");
        it.upstream.go_on.notify_one();
        first.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
    });
    assert_eq!(((it.counters)().turned_away, it.refused("busy")), (1, 1));
}

#[test]
fn a_relay_that_stops_lets_requests_end() {
    let mut it = Fixture::start(false, |_| {});
    let (stop, running) = (it.stop.take().unwrap(), it.running.take().unwrap());
    it.runtime.block_on(async {
        let request = Request::post(format!("http://localhost{}", path()))
            .header("authorization", good())
            .body(Full::new(Bytes::from_static(b"hold")))
            .unwrap();
        let asking = tokio::spawn(ask(it.connect().await, Over::Http2, request));
        it.upstream.held.notified().await;
        stop.send(()).unwrap();
        // It takes nobody any more, once it has heard.
        while TcpStream::connect(it.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        it.upstream.go_on.notify_one();
        assert_eq!(asking.await.unwrap().0, 200);
        running.await.unwrap();
    });
}

#[test]
fn plaintext_is_for_loopback_and_keys_for_their_owner() {
    use std::os::unix::fs::PermissionsExt;
    let it = Fixture::start(true, |_| {});
    let key_file = it.certificate.with_extension("key");
    let permissions = std::fs::metadata(&key_file).unwrap().permissions();
    assert_eq!(permissions.mode() & 0o777, 0o600);
    let config = |listen: &str, transport| RelayConfig {
        listen: listen.parse().unwrap(),
        transport,
        token_key: key(1),
        groups: 1,
        limits: RelayLimits::default(),
    };
    let bind = |config| {
        let clock = SystemClock::start().unwrap();
        it.runtime.block_on(Relay::bind(config, Arc::<Lettered>::default(), clock)).unwrap_err()
    };
    let open = bind(config("0.0.0.0:0", Transport::Plaintext));
    assert!(matches!(open, RelayError::PlaintextBeyondLoopback(_)));
    std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let tls = Transport::Tls { certificate: it.certificate.clone(), key: key_file };
    assert!(matches!(bind(config("127.0.0.1:0", tls)), RelayError::Key(_)));
}

#[test]
fn tls_of_both_versions_carries_both_versions_of_http() {
    use rustls::version::{TLS12, TLS13};
    let it = Fixture::start(true, |_| {});
    let pem = std::fs::read(&it.certificate).unwrap();
    let certificate = CertificateDer::from_pem_slice(&pem).unwrap();
    let connector = |version, alpn: &[u8], trusted: bool| {
        let mut roots = rustls::RootCertStore::empty();
        if trusted {
            roots.add(certificate.clone()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        TlsConnector::from(Arc::new(config))
    };
    it.runtime.block_on(async {
        for version in [&TLS12, &TLS13] {
            for (over, alpn) in [(Over::Http1, &b"http/1.1"[..]), (Over::Http2, b"h2")] {
                for name in ["localhost", "127.0.0.1", "::1"] {
                    let name = ServerName::try_from(name).unwrap();
                    let tls = connector(version, alpn, true);
                    let stream = tls.connect(name, it.connect().await).await.unwrap();
                    let request = Request::post(format!("http://localhost{}", path()))
                        .header("authorization", good())
                        .body(Full::new(Bytes::from_static(b"opaque")))
                        .unwrap();
                    assert_eq!(ask(stream, over, request).await.0, 200, "{version:?} {over:?}");
                }
            }
        }
        let name = ServerName::try_from("localhost").unwrap();
        let untrusted = connector(&TLS13, b"h2", false);
        assert!(untrusted.connect(name.clone(), it.connect().await).await.is_err());
        let elsewhere = ServerName::try_from("vault.example.org").unwrap();
        let stranger = connector(&TLS13, b"h2", true);
        assert!(stranger.connect(elsewhere, it.connect().await).await.is_err());
        let nonsense = connector(&TLS13, b"smtp", true);
        assert!(nonsense.connect(name, it.connect().await).await.is_err());
    });
    // Whoever speaks plaintext to it gets none back.
    assert!(!it.raw(b"GET /v1/status HTTP/1.1\r\nHost: a\r\n\r\n").starts_with(b"HTTP"));
}
