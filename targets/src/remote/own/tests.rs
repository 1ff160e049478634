//! Replies as bytes, and servers that do not behave.

use std::collections::VecDeque;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use vaultmark_hsm::{Suite, SystemClock};

use super::http1::{HEAD_LEN_MAX, parse};
use super::*;
use crate::relay::tokens::Tenant;
use crate::vault::channel::{ChannelPublicKey, FRAME_LEN_MAX};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn reply(status: u16, body: &[u8]) -> Reply {
    Reply { status, relay: Duration::ZERO, body: body.to_vec(), keeps: true }
}

#[test]
fn replies_are_what_they_say_or_refused() {
    let bad = |why| Err(ExchangeError::Bad(why));
    let closing = |reply: Reply| Ok(Some(Reply { keeps: false, ..reply }));
    let too_long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(HEAD_LEN_MAX));
    let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "a".repeat(HEAD_LEN_MAX));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: a\r\n".repeat(33));
    let body = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", FRAME_LEN_MAX + 1);
    let is_no_number = "the reply's length is no number";
    for (text, expected) in [
        ("", Ok(None)),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\na", Ok(None)),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab", Ok(Some(reply(200, b"ab")))),
        ("HTTP/1.1 409\r\nContent-Length: 0\r\n\r\n", Ok(Some(reply(409, b"")))),
        ("HTTP/1.1 204 No Content\r\n\r\n", Ok(Some(reply(204, b"")))),
        (
            "HTTP/1.1 200 OK\r\nserver-timing: relay;dur=1.500\r\ncontent-length: 0\r\n\r\n",
            Ok(Some(Reply { relay: Duration::from_micros(1_500), ..reply(200, b"") })),
        ),
        (
            "HTTP/1.1 200 OK\r\nConnection: x , CLOSE\r\nContent-Length: 1\r\n\r\na",
            closing(reply(200, b"a")),
        ),
        ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", closing(reply(200, b"a"))),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
            bad("more came than the reply's length"),
        ),
        ("HTTP/1.1 200 OK\r\n\r\n", bad("the reply does not say how long it is")),
        ("HTTP/1.1 204 No\r\nContent-Length: 3\r\n\r\n", bad("the reply has a length and no body")),
        ("HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n", bad(is_no_number)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n", bad(is_no_number)),
        ("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n", bad(is_no_number)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na", bad(is_no_number)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", bad(is_no_number)),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            bad("the reply is chunked, which no relay does"),
        ),
        ("HTTP/1.1 100 Continue\r\n\r\n", bad("the reply has a status that was not asked for")),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bad("the reply is not HTTP/1.1")),
        ("\0\0\0\x04\0\0\0\0\0", bad("the reply is not HTTP/1.1")),
        (&too_long, bad("the head of the reply is too long")),
        (&endless, bad("the head of the reply is too long")),
        (&many, bad("the reply has too many headers")),
        (&body, bad("the body of the reply is too long")),
    ] {
        assert_eq!(parse(text.as_bytes()), expected, "{text:.80}");
    }
}

#[test]
fn what_does_not_belong_into_a_head_is_not_sent() {
    for (host, path, bearer, good) in [
        ("127.0.0.1:1", "/v1/recover/00", "v1.a.b", true),
        ("127.0.0.1:1", "/", "", true),
        ("127.0.0.1:1", "/", "a b", false),
        ("127.0.0.1:1", "/", "a\r\nX: b", false),
        ("127.0.0.1:1", "/\n", "a", false),
        ("a\tb", "/", "a", false),
        ("ä", "/", "a", false),
    ] {
        let mut out = Vec::new();
        let written = Post { host, path, bearer, body: b"body" }.write(&mut out);
        assert_eq!(written.is_some(), good, "{host:?} {path:?} {bearer:?}");
        assert_eq!(out.is_empty(), !good);
    }
}

/// Sends the reply in pieces to a client that reads it, in as many as are given.
async fn dribble(mut server: DuplexStream, bytes: &[u8], pieces: &[usize]) {
    let mut head = [0; 1_024];
    assert!(server.read(&mut head).await.unwrap() > 0);
    let mut rest = bytes;
    for len in pieces.iter().map(|len| len % bytes.len().max(1)) {
        let (piece, after) = rest.split_at(len.min(rest.len()));
        server.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
        rest = after;
    }
    server.write_all(rest).await.unwrap();
}

proptest! {
    #[test]
    fn bytes_that_are_nothing_are_refused_or_waited_for(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        fuzz_http_reply(&bytes);
        let mut like = b"HTTP/1.1 200 OK\r\nContent-Length: ".to_vec();
        like.extend_from_slice(&bytes);
        fuzz_http_reply(&like);
    }

    #[test]
    fn a_reply_is_one_in_however_many_pieces_it_comes(
        status in 200_u16..600,
        body in proptest::collection::vec(any::<u8>(), 0..=FRAME_LEN_MAX),
        pieces in proptest::collection::vec(any::<usize>(), 0..8),
        micros in 0_u64..10_000_000,
    ) {
        let body = if matches!(status, 204 | 304) { Vec::new() } else { body };
        let bytes = [
            format!(
                "HTTP/1.1 {status} Words\r\nServer-Timing: relay;dur={}.{:03}\r\nContent-Length: {}\r\n\r\n",
                micros / 1_000, micros % 1_000, body.len()
            ).as_bytes(),
            &body,
        ].concat();
        fuzz_http_reply(&bytes);
        let post = Post { host: "h", path: "/", bearer: "t", body: b"asked" };
        let (mut client, server) = duplex(64 << 10);
        let (seen, ()) = runtime().block_on(async {
            tokio::join!(exchange(&mut client, &post), dribble(server, &bytes, &pieces))
        });
        let seen = seen.unwrap();
        prop_assert_eq!((seen.status, &seen.body), (status, &body));
        prop_assert!(seen.relay.abs_diff(Duration::from_micros(micros)) < Duration::from_nanos(100));
    }

    #[test]
    fn a_request_that_goes_out_in_pieces_arrives_whole(len in 0_usize..4_000, window in 1_usize..700) {
        let body = vec![7; len];
        let post = Post { host: "h", path: "/p", bearer: "t", body: &body };
        let mut expected = Vec::new();
        post.write(&mut expected).unwrap();
        let (mut client, mut server) = duplex(window);
        let (seen, came) = runtime().block_on(async {
            let serve = async {
                let mut came = vec![0; expected.len()];
                server.read_exact(&mut came).await.unwrap();
                server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
                came
            };
            tokio::join!(exchange(&mut client, &post), serve)
        });
        prop_assert_eq!(seen.map(|reply| reply.status), Ok(200));
        prop_assert_eq!(came, expected);
    }
}

/// What a server does with a connection, request by request; at the end it closes it.
#[derive(Clone, Copy, Debug)]
enum Does {
    /// Answers with these bytes.
    Says(&'static [u8]),
    /// Closes before it has read anything.
    Closes,
    /// Reads the request, and closes.
    ReadsAndCloses,
    /// Reads the request, and resets.
    Resets,
    /// Reads the request, and answers nothing for as long as the client waits.
    Hangs,
}

const OK: Does = Does::Says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
const OK_CLOSE: Does =
    Does::Says(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");

/// A server that does to each connection in turn what it is told; it counts the requests it has read.
async fn serve(listener: TcpListener, script: Vec<Vec<Does>>, read: Arc<AtomicU64>) {
    let mut script: VecDeque<_> = script.into();
    while let Ok((mut stream, _)) = listener.accept().await {
        let does = script.pop_front().unwrap_or_default();
        let read = Arc::clone(&read);
        drop(tokio::spawn(async move {
            for step in does {
                if matches!(step, Does::Closes) || !read_request(&mut stream).await {
                    return;
                }
                read.fetch_add(1, Ordering::SeqCst);
                match step {
                    Does::Says(bytes) => stream.write_all(bytes).await.unwrap(),
                    Does::Resets => {
                        // What is unread makes the end a reset; so does this.
                        stream.set_zero_linger().unwrap();
                        return;
                    }
                    Does::Hangs => std::future::pending().await,
                    Does::Closes | Does::ReadsAndCloses => return,
                }
            }
        }));
    }
}

/// Reads a request whose body is three bytes.
async fn read_request(stream: &mut TcpStream) -> bool {
    let mut seen = Vec::new();
    while !seen.windows(7).any(|it| it == b"\r\n\r\nask") {
        let mut more = [0; 512];
        match stream.read(&mut more).await {
            Ok(len @ 1..) => seen.extend_from_slice(&more[..len]),
            _ => return false,
        }
    }
    true
}

fn connections(address: std::net::SocketAddr, kept: u64) -> Arc<OwnConnections> {
    let file = ClientFile {
        url: format!("http://{address}").parse().unwrap(),
        certificate: None,
        fleet_key: ChannelPublicKey([7; 32]),
        server_public_key: vec![2; 32],
        suite: Suite::Ristretto255Sha512,
        tenant: Tenant::new("test").unwrap(),
        groups: 1,
        token_key: None,
        control: None,
    };
    let (tokens, clock) = (TokenSource::Given("token".to_owned()), SystemClock::start().unwrap());
    Arc::new(OwnConnections::with_tokens(&file, tokens, kept, clock).unwrap())
}

/// Asks so often in each of so many operations of an account that keeps its connection or not.
fn asked(
    script: Vec<Vec<Does>>,
    keeps: bool,
    operations: &[usize],
) -> (Vec<Result<Vec<u8>, CarryError>>, ConnectionCounts, u64) {
    // Where nobody answers whoever asks gives up; elsewhere they wait however slow this machine is.
    let hangs = script.iter().flatten().any(|does| matches!(does, Does::Hangs));
    let patience = Duration::from_millis(if hangs { 500 } else { 60_000 });
    runtime().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = connections(listener.local_addr().unwrap(), keeps.into());
        let read = Arc::new(AtomicU64::new(0));
        drop(tokio::spawn(serve(listener, script, Arc::clone(&read))));
        let mut ended = Vec::new();
        for requests in operations {
            let operation = own.begin(0);
            for _ in 0..*requests {
                let account = AccountId::synthetic(1);
                let carried = operation.carry(account, Purpose::Recover, b"ask".to_vec());
                let carried = match timeout(patience, carried).await {
                    Ok(carried) => carried.map(|carried| carried.frame),
                    // Whoever asked has given up.
                    Err(_late) => Err(CarryError::Unreachable),
                };
                ended.push(carried);
                // The server's end of the connection is seen before the next request.
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        (ended, own.counts(), read.load(Ordering::SeqCst))
    })
}

/// What requests end with, connections that were opened and reopened, and requests that the server read.
type Seen = (Vec<Result<Vec<u8>, CarryError>>, (u64, u64), u64);

#[track_caller]
fn check(name: &str, (script, keeps, operations): (Vec<Vec<Does>>, bool, &[usize]), seen: Seen) {
    let (ended, counts, read) = asked(script, keeps, operations);
    assert_eq!((ended, (counts.opened, counts.reopened), read), seen, "{name}: {counts:?}");
    assert!(counts.open <= u64::from(keeps), "{name}: {counts:?}");
}

fn ok() -> Result<Vec<u8>, CarryError> {
    Ok(b"ok".to_vec())
}

#[test]
fn connections_are_kept_or_fresh_whatever_the_server_thinks_of_it() {
    check("kept", (vec![vec![OK; 4]], true, &[2, 2]), (vec![ok(); 4], (1, 0), 4));
    check("fresh", (vec![vec![OK; 2]; 2], false, &[2, 2]), (vec![ok(); 4], (2, 0), 4));
    let closes = || vec![vec![OK]; 3];
    check("closes, kept", (closes(), true, &[2, 1]), (vec![ok(); 3], (3, 2), 3));
    check("closes, fresh", (closes(), false, &[2, 1]), (vec![ok(); 3], (3, 1), 3));
    check("says so", (vec![vec![OK_CLOSE]; 2], true, &[2]), (vec![ok(); 2], (2, 1), 2));
    let busy = Does::Says(b"HTTP/1.1 503 No\r\nContent-Length: 16\r\n\r\n{\"error\":\"busy\"}");
    let refused = vec![Err(CarryError::Busy), ok()];
    check("refuses", (vec![vec![busy, OK]], true, &[2]), (refused, (1, 0), 2));
}

#[test]
fn what_may_have_arrived_is_not_asked_again() {
    let gone = || Err(CarryError::Unreachable);
    let bad = || Err(CarryError::BadReply);
    // And the connection on which it happened is not used again.
    for (name, first, ended) in [
        ("reads and closes", Does::ReadsAndCloses, gone()),
        ("resets", Does::Resets, gone()),
        ("hangs", Does::Hangs, gone()),
        ("half", Does::Says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal"), gone()),
        ("garbage", Does::Says(b"\x15\x03\x01\0\x02\x02\x46"), bad()),
        ("two", Does::Says(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 "), bad()),
        ("words", Does::Says(b"HTTP/1.1 500 No\r\nContent-Length: 3\r\n\r\nwhy"), bad()),
    ] {
        for before in 0..2 {
            let script = vec![[vec![OK; before], vec![first]].concat(), vec![OK]];
            let expected = [vec![ok(); before], vec![ended.clone(), ok()]].concat();
            // A refusal of nobody's is a whole reply: its connection is as good as before.
            let opened = if name == "words" { (1, 0) } else { (2, 1) };
            let script = if name == "words" { vec![script.concat()] } else { script };
            let seen = (expected, opened, before as u64 + 2);
            check(name, (script, true, &[before + 1, 1]), seen);
        }
    }
    check("closes at once", (vec![vec![Does::Closes]], false, &[1]), (vec![gone()], (1, 0), 0));
}

#[test]
fn nobody_there() {
    runtime().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = connections(listener.local_addr().unwrap(), 1);
        drop(listener);
        assert!(matches!(own.reach().await, Err(RemoteError::Unreachable(..))));
        let opened = own.open_kept(|_| ControlFlow::Continue(())).await;
        assert!(matches!(opened, Err(RemoteError::Kept(0, _))), "{opened:?}");
        let operation = own.begin(0);
        let carried = operation.carry(AccountId::synthetic(1), Purpose::Recover, Vec::new());
        assert_eq!(carried.await.map(drop), Err(CarryError::Unreachable));
        let expected = ConnectionCounts { failed: 3, ..ConnectionCounts::default() };
        assert_eq!(own.counts(), expected);
    });
}

#[test]
fn two_operations_of_an_account_at_a_time_have_a_connection_each() {
    runtime().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = connections(listener.local_addr().unwrap(), 1);
        drop(tokio::spawn(serve(listener, vec![vec![OK; 9]; 3], Arc::default())));
        let ask = async |operation: &OwnOperation| {
            let carried =
                operation.carry(AccountId::synthetic(1), Purpose::Recover, b"ask".to_vec());
            carried.await.unwrap();
        };
        let (one, two) = (own.begin(0), own.begin(0));
        ask(&one).await;
        ask(&two).await;
        ask(&one).await;
        assert_eq!((own.counts().open, own.counts().opened), (2, 2));
        drop((two, one));
        assert_eq!(own.counts().open, 1, "one is kept");
        ask(&own.begin(0)).await;
        let counts = own.counts();
        assert_eq!((counts.opened, counts.reopened, counts.open_max), (2, 0, 2));
    });
}
