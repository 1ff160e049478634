//! What fuzzers call: everything that whoever reaches a relay may send, and what a relay may reply.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use http::{HeaderMap, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use vaultmark_hsm::SimulatedClock;
use zeroize::Zeroizing;

use super::exchange::{self, SERVER_TIMING};
use super::tokens::{self, Tenant, TokenKey, mint, verify};
use super::{
    Rate, RelayConfig, RelayLimits, RelayRefusal, Shared, Transport, Upstream, connection,
};
use crate::fleet::ForwardError;
use crate::vault::AccountId;
use crate::vault::channel::{FRAME_LEN_MAX, Purpose};

/// Requests of an account that a relay here takes; its clock stands still.
const BURST: u32 = 3;
/// Bytes on their way on a connection: more than any made-up ones.
const ROOM: usize = 1 << 16;
/// How often everybody has a turn before the client hangs up, which ends what was not answered yet.
const TURNS: usize = 64;
/// Not this machine's: those may ask for the status.
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// Unix time when a token is verified.
const NOW_S: u64 = 1_000;

/// Everything that a client sends on a connection, in either version of HTTP. What a replica is asked
/// has a token, no more often than the account may, and is no longer than a frame.
pub fn fuzz_relay_connection(bytes: &[u8]) {
    let (reply, asked) = converse(bytes);
    assert!(asked <= BURST as usize, "{asked} of one account at once");
    if !bytes.starts_with(connection::PREFACE) {
        assert!(reply.is_empty() || reply.starts_with(b"HTTP/1."));
        let has_token = bytes.windows(token().len()).any(|window| window == token().as_bytes());
        assert!(asked == 0 || has_token, "forwarded without a token");
    }
}

/// What a relay replies on a connection, and how often it asked a replica.
fn converse(bytes: &[u8]) -> (Vec<u8>, usize) {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        Builder::new_current_thread().enable_time().build().expect("no threads, no sockets")
    });
    let upstream = Arc::<Witness>::default();
    let shared = Arc::new(Shared::new(config(), Arc::clone(&upstream), SimulatedClock::start()));
    let is_http2 = bytes.starts_with(connection::PREFACE);
    let reply = RUNTIME.block_on(async {
        let (client, relay) = tokio::io::duplex(ROOM);
        let (mut reads, mut writes) = tokio::io::split(client);
        let (_tell, told) = watch::channel(false);
        let served = connection::converse(&shared, relay, PEER, is_http2, told);
        let asks = async {
            // The relay may have hung up.
            let _gone = writes.write_all(bytes).await.is_err();
            turns().await;
            let _gone = writes.shutdown().await.is_err();
        };
        let hears = async {
            let mut reply = Vec::new();
            let _gone = reads.read_to_end(&mut reply).await.is_err();
            reply
        };
        let (_ended, (), reply) = tokio::join!(served, asks, hears);
        reply
    });
    (reply, upstream.asked.load(Ordering::Relaxed))
}

/// Everybody else's.
async fn turns() {
    for _ in 0..TURNS {
        tokio::task::yield_now().await;
    }
}

/// Which text (1) ‖ its characters: a path, a bearer token, a refusal's JSON, how long a relay took.
/// Paths, tokens and refusals have one text each.
pub fn fuzz_relay_texts(bytes: &[u8]) {
    let Some((which, text)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    match which % 4 {
        0 => {
            if let Some((purpose, account)) = exchange::parse_path(text) {
                assert_eq!(exchange::path(purpose, &account), text);
            }
        }
        1 => check_token(text),
        2 => {
            if let Some(refusal) = RelayRefusal::from_json(text.as_bytes()) {
                assert_eq!(RelayRefusal::from_json(refusal.json().as_bytes()), Some(refusal));
            }
        }
        _ => {
            let Ok(value) = HeaderValue::from_str(text) else { return };
            let headers = HeaderMap::from_iter([(SERVER_TIMING, value)]);
            let _took = exchange::parse_timing(&headers);
        }
    }
}

fn check_token(text: &str) {
    match verify(&key(), text, NOW_S) {
        Ok(token) => {
            assert!(token.expiry_s > NOW_S);
            assert_eq!(mint(&key(), &token.tenant, &token.account, token.expiry_s), text);
        }
        Err(_) => assert_ne!(text, token()),
    }
    // As the key's owner would have signed it.
    if let Some(parsed) = tokens::parse(text) {
        let minted = mint(&key(), &parsed.tenant, &parsed.account, parsed.expiry_s);
        assert_eq!(verify(&key(), &minted, 0).ok(), (parsed.expiry_s > 0).then_some(parsed));
    }
}

/// A fleet that answers every frame with itself, and knows what may reach it.
#[derive(Default)]
struct Witness {
    asked: AtomicUsize,
}

impl Upstream for Arc<Witness> {
    fn replicas(&self) -> u32 {
        1
    }

    async fn forward(
        &self,
        _replica: u32,
        _group: u32,
        account: AccountId,
        _purpose: Purpose,
        frame: &[u8],
    ) -> Result<Vec<u8>, ForwardError> {
        assert_eq!(account, self::account(), "the only one with a token");
        assert!(frame.len() <= FRAME_LEN_MAX);
        self.asked.fetch_add(1, Ordering::Relaxed);
        Ok(frame.to_vec())
    }
}

fn config() -> RelayConfig {
    let limits = RelayLimits {
        account: Rate { per_second: 1, burst: BURST },
        accounts_max: 16,
        streams_max: 8,
        in_flight_max: 4,
        ..RelayLimits::default()
    };
    RelayConfig {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        transport: Transport::Plaintext,
        token_key: key(),
        groups: 1,
        limits,
    }
}

fn key() -> TokenKey {
    TokenKey::from_bytes(Zeroizing::new([1; tokens::KEY_LEN]))
}

fn account() -> AccountId {
    AccountId::synthetic(7)
}

/// The one token that fuzzing begins with.
fn token() -> &'static str {
    static TOKEN: LazyLock<String> = LazyLock::new(|| {
        let tenant = Tenant::new("fuzz").expect("letters");
        mint(&key(), &tenant, &account(), u64::MAX)
    });
    &TOKEN
}

#[cfg(test)]
pub(crate) mod seeds {
    use bytes::Bytes;
    use http::Request;
    use http_body_util::Full;
    use hyper::client::conn::http2;
    use hyper_util::rt::{TokioExecutor, TokioIo};

    use super::*;

    /// A request that is forwarded, some that are not, and a connection of HTTP/2.
    pub(crate) fn connections() -> Vec<Vec<u8>> {
        let (path, token) = (exchange::path(Purpose::Recover, &account()), token());
        let post = |body: &str| {
            format!(
                "POST {path} HTTP/1.1\r\nhost: relay\r\nauthorization: Bearer {token}\r\n{body}"
            )
        };
        let sized = post("content-length: 5\r\n\r\nframe");
        let texts = [
            sized.clone(),
            post("transfer-encoding: chunked\r\n\r\n3\r\nfra\r\n2\r\nme\r\n0\r\n\r\n"),
            post("expect: 100-continue\r\ncontent-length: 99999\r\n\r\n"),
            [&sized[..], "GET /v1/status HTTP/1.1\r\nhost: relay\r\n\r\n", &sized].concat(),
            format!("POST {path} HTTP/1.0\r\n\r\n"),
        ];
        texts.into_iter().map(String::into_bytes).chain([http2(&path)]).collect()
    }

    fn http2(path: &str) -> Vec<u8> {
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (client, mut relay) = tokio::io::duplex(ROOM);
            let builder = http2::Builder::new(TokioExecutor::new());
            let (mut sender, connection) = builder.handshake(TokioIo::new(client)).await.unwrap();
            let request = Request::post(format!("http://relay{path}"))
                .header("authorization", format!("Bearer {}", token()))
                .body(Full::new(Bytes::from_static(b"frame")))
                .unwrap();
            // Nobody answers, and a client that goes away would take its request back.
            let mut sent = vec![0; ROOM];
            let hears = async {
                turns().await;
                relay.read(&mut sent).await.unwrap()
            };
            let len = tokio::select! {
                biased;
                ended = async { tokio::join!(connection, sender.send_request(request)) } => {
                    unreachable!("{ended:?}");
                }
                len = hears => len,
            };
            sent.truncate(len);
            sent
        })
    }

    /// Of each kind one that is good, and refusals of both kinds.
    pub(crate) fn texts() -> Vec<Vec<u8>> {
        let path = exchange::path(Purpose::Register, &account());
        let unsigned = token().rsplit_once('.').unwrap().0;
        let channel = crate::vault::channel::ChannelRefusal::NoSuchChannel;
        [
            (0, path),
            (1, token().to_owned()),
            (1, unsigned.to_owned()),
            (2, RelayRefusal::Busy.json()),
            (2, RelayRefusal::Channel(channel).json()),
            (3, "relay;dur=12.345".to_owned()),
        ]
        .map(|(which, text)| [&[which], text.as_bytes()].concat())
        .to_vec()
    }
    #[test]
    fn a_replica_is_asked_for_whoever_has_a_token() {
        let asked = connections().iter().map(|bytes| converse(bytes).1).collect::<Vec<_>>();
        assert_eq!(asked, [1, 1, 0, 2, 0, 1]);
    }
}
