//! What a peer may say, frame by frame; and beside hyper's client, over hyper's server.

use std::convert::Infallible;
use std::future::Future;
use std::task::Waker;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2 as client;
use hyper::server::conn::http2 as server;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use proptest::prelude::*;
use tokio::io::DuplexStream;
use tokio::runtime::{Builder, Runtime};

use super::connection::{Fatal, OUT_LEN_MAX, QUEUED_MAX, WINDOW};
use super::frame::{self, Code};
use super::hpack::Head;
use super::*;
use crate::relay::exchange;
use crate::vault::channel::FRAME_LEN_MAX;

const OK: u8 = 0x88;
const PATIENCE: Duration = Duration::from_secs(30);

fn one(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::push(&mut out, kind, flags, stream, payload);
    out
}

fn settings(pairs: &[(u16, u32)]) -> Vec<u8> {
    let pairs = pairs
        .iter()
        .flat_map(|(name, value)| name.to_be_bytes().into_iter().chain(value.to_be_bytes()));
    one(frame::SETTINGS, 0, 0, &pairs.collect::<Vec<_>>())
}

fn head(stream: u32) -> Vec<u8> {
    one(frame::HEADERS, frame::END_HEADERS, stream, &[OK])
}

fn whole(stream: u32) -> Vec<u8> {
    one(frame::HEADERS, frame::END_HEADERS | frame::END_STREAM, stream, &[OK])
}

fn request(body: usize) -> Unsent {
    Unsent { head: vec![0x83], body: vec![7; body] }
}

fn poll(connection: &mut Connection, place: Place) -> Option<Ended> {
    match connection.poll(place, Waker::noop()) {
        Poll::Ready(ended) => Some(ended),
        Poll::Pending => None,
    }
}

fn out(connection: &mut Connection) -> Vec<u8> {
    let mut bytes = Vec::new();
    connection.take_out(&mut bytes);
    bytes
}

fn answer(body: &[u8]) -> Ended {
    let held = u32::try_from(body.len()).unwrap();
    Ended::Answer { head: Head { status: 200, relay_us: 0 }, body: body.to_vec(), held }
}

/// What the peer says after its settings, to two requests: how they end, `None` if they still wait.
fn check(name: &str, said: &[Vec<u8>], expected: Result<[Option<Ended>; 2], Code>) {
    let mut connection = Connection::new();
    let places = [5, 0].map(|body| connection.ask(request(body)).unwrap());
    let said = [settings(&[]), said.concat()].concat();
    let received = connection.receive(&said);
    let ended = received.map(|()| places.map(|place| poll(&mut connection, place)));
    let broken = expected.as_ref().err().copied();
    assert_eq!(ended, expected.map_err(Fatal), "{name}");
    if let Some(code) = broken {
        let goodbye = out(&mut connection);
        let last = [0, 0, 0, code as u8];
        assert!(goodbye.ends_with(&last), "{name}: {goodbye:x?}");
    }
}

#[test]
fn answers_end_requests() {
    use frame::*;
    let data = |flags, payload: &[u8]| one(DATA, flags, 1, payload);
    let long = vec![1; FRAME_LEN_MAX + 1];
    let end = END_STREAM;
    let timing = [&[OK, 0, 13][..], b"server-timing", &[13], b"relay;dur=0.5"].concat();
    let timed =
        Ended::Answer { head: Head { status: 200, relay_us: 500 }, body: Vec::new(), held: 0 };
    for (name, said, first) in [
        ("nothing yet", vec![], None),
        ("a head alone", vec![head(1)], None),
        ("a head that ends", vec![whole(1)], Some(answer(b""))),
        ("a body in two", vec![head(1), data(0, b"a"), data(end, b"b")], Some(answer(b"ab"))),
        ("padding", vec![head(1), data(PADDED | end, &[2, 9, 0, 0])], Some(answer(&[9]))),
        ("an empty end", vec![head(1), data(0, b"ab"), data(end, b"")], Some(answer(b"ab"))),
        (
            "trailers",
            vec![head(1), data(0, b"a"), one(HEADERS, 5, 1, &[0, 1, b'x', 1, b'y'])],
            Some(answer(b"a")),
        ),
        (
            "a hint before",
            vec![one(HEADERS, 4, 1, &[8, 3, b'1', b'0', b'3']), whole(1)],
            Some(answer(b"")),
        ),
        ("only a hint", vec![one(HEADERS, 5, 1, &[8, 3, b'1', b'0', b'3'])], Some(Ended::Lost)),
        (
            "a head in three, with a priority",
            vec![
                one(HEADERS, HAS_PRIORITY | end, 1, &[0, 0, 0, 0, 1, OK]),
                one(CONTINUATION, 0, 1, &timing[1..7]),
                one(CONTINUATION, END_HEADERS, 1, &timing[7..]),
            ],
            Some(timed),
        ),
        ("refused", vec![one(RST_STREAM, 0, 1, &[0, 0, 0, 7])], Some(Ended::Refused)),
        ("reset", vec![one(RST_STREAM, 0, 1, &[0, 0, 0, 2])], Some(Ended::Lost)),
        ("a body before its head", vec![data(0, b"a")], Some(Ended::Lost)),
        ("a head without a status", vec![one(HEADERS, 5, 1, &[])], Some(Ended::Lost)),
        ("a body that is too long", vec![head(1), data(0, &long)], Some(Ended::TooLong)),
        ("a window of nothing", vec![one(WINDOW_UPDATE, 0, 1, &[0; 4])], Some(Ended::Lost)),
        ("a goodbye that knows both", vec![one(GOAWAY, 0, 0, &[0, 0, 0, 3, 0, 0, 0, 0])], None),
        ("what nobody knows", vec![one(0x42, 0xff, 1, b"?"), whole(1)], Some(answer(b""))),
        ("a priority", vec![one(PRIORITY, 0, 1, &[0; 5])], None),
        ("after the end", vec![whole(1), data(end, b"late"), whole(1)], Some(answer(b""))),
    ] {
        check(name, &said, Ok([first, None]));
    }
    let goodbye = one(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]);
    check("a goodbye to the second", &[goodbye], Ok([None, Some(Ended::Lost)]));
}

#[test]
fn peers_that_break_the_rules_are_left() {
    use frame::*;
    let ping = one(PING, 0, 0, &[0; 8]);
    let header = one(HEADERS, 0, 1, &[OK]);
    for (name, said, code) in [
        ("a push", vec![one(PUSH_PROMISE, 4, 1, &[0, 0, 0, 2])], Code::Protocol),
        ("an answer to nobody", vec![whole(9)], Code::Protocol),
        ("an even stream", vec![whole(2)], Code::Protocol),
        ("data of the connection", vec![one(DATA, 0, 0, b"a")], Code::Protocol),
        ("settings of a stream", vec![one(SETTINGS, 0, 1, &[])], Code::Protocol),
        ("settings in part", vec![one(SETTINGS, 0, 0, &[0; 5])], Code::FrameSize),
        ("settings in an answer", vec![one(SETTINGS, ACK, 0, &[0; 6])], Code::FrameSize),
        (
            "a window beyond all",
            vec![settings(&[(INITIAL_WINDOW_SIZE, 1 << 31)])],
            Code::FlowControl,
        ),
        ("frames that are too short", vec![settings(&[(MAX_FRAME_SIZE, 1)])], Code::Protocol),
        ("pushes by a server", vec![settings(&[(ENABLE_PUSH, 1)])], Code::Protocol),
        ("a short ping", vec![one(PING, 0, 0, &[0; 7])], Code::FrameSize),
        ("a short goodbye", vec![one(GOAWAY, 0, 0, &[0; 7])], Code::FrameSize),
        ("a short reset", vec![one(RST_STREAM, 0, 1, &[0; 3])], Code::FrameSize),
        ("a short priority", vec![one(PRIORITY, 0, 1, &[0; 4])], Code::FrameSize),
        ("no more window", vec![one(WINDOW_UPDATE, 0, 0, &[0; 4])], Code::Protocol),
        (
            "a window that runs over",
            vec![one(WINDOW_UPDATE, 0, 0, &[0x7f, 255, 255, 255])],
            Code::FlowControl,
        ),
        ("all padding", vec![one(DATA, PADDED, 1, &[9, 0])], Code::Protocol),
        ("a head that cannot be read", vec![one(HEADERS, 4, 1, &[0xbe])], Code::Compression),
        ("something within a head", vec![header.clone(), ping.clone()], Code::Protocol),
        (
            "another head within a head",
            vec![header.clone(), one(CONTINUATION, 4, 3, &[])],
            Code::Protocol,
        ),
        ("the rest of no head", vec![one(CONTINUATION, 4, 1, &[])], Code::Protocol),
        (
            "a head without end",
            [vec![header.clone()], vec![one(CONTINUATION, 0, 1, &[OK; 9_000]); 2]].concat(),
            Code::TooMuch,
        ),
        (
            "a head of nothing without end",
            [vec![header], vec![one(CONTINUATION, 0, 1, &[]); 2_000]].concat(),
            Code::TooMuch,
        ),
        ("pings without end", vec![ping; 2_000], Code::TooMuch),
        ("settings without end", vec![settings(&[]); 2_000], Code::TooMuch),
        ("a frame that is too long", vec![vec![1, 0, 0, 0, 0, 0, 0, 0, 1]], Code::FrameSize),
    ] {
        check(name, &said, Err(code));
    }
    // Whoever speaks another protocol, or does not begin as every server does.
    for said in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &whole(1)] {
        let mut connection = Connection::new();
        let place = connection.ask(request(0)).unwrap();
        assert!(connection.receive(said).is_err());
        connection.fail();
        assert_eq!(poll(&mut connection, place), Some(Ended::Lost));
        assert!(connection.ask(request(0)).is_err());
    }
}

#[test]
fn what_the_peer_does_not_take_waits() {
    let mut connection = Connection::new();
    connection.receive(&settings(&[(frame::MAX_CONCURRENT_STREAMS, 2)])).unwrap();
    let places = [0; 4].map(|body| connection.ask(request(body)).unwrap());
    let said = out(&mut connection);
    assert_eq!(said.iter().filter(|byte| **byte == 0x83).count(), 2, "two are sent");
    connection.give_up(places[2]);
    // The fourth has its turn when one of the first two has ended.
    connection.receive(&whole(3)).unwrap();
    assert_eq!(poll(&mut connection, places[1]), Some(answer(b"")));
    assert_eq!(out(&mut connection), one(frame::HEADERS, 5, 5, &[0x83]));
    let fifth = connection.ask(request(0)).unwrap();
    connection.receive(&one(frame::GOAWAY, 0, 0, &[0, 0, 0, 5, 0, 0, 0, 0])).unwrap();
    assert_eq!(
        poll(&mut connection, fifth),
        Some(Ended::Unsent(request(0))),
        "another one's to send"
    );
    assert!(connection.ask(request(0)).is_err() && !connection.is_done());
    connection.receive(&[whole(1), whole(5)].concat()).unwrap();
    assert_eq!(poll(&mut connection, places[0]), Some(answer(b"")));
    assert_eq!(poll(&mut connection, places[3]), Some(answer(b"")));
    assert!(connection.is_done());
}

#[test]
fn bodies_go_out_as_windows_open() {
    let mut connection = Connection::new();
    connection.receive(&settings(&[(frame::INITIAL_WINDOW_SIZE, 2)])).unwrap();
    let place = connection.ask(request(7)).unwrap();
    assert!(out(&mut connection).ends_with(&one(frame::DATA, 0, 1, &[7; 2])));
    connection.receive(&one(frame::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])).unwrap();
    assert_eq!(out(&mut connection), one(frame::DATA, 0, 1, &[7]));
    connection.receive(&settings(&[(frame::INITIAL_WINDOW_SIZE, 5)])).unwrap();
    assert!(out(&mut connection).ends_with(&one(frame::DATA, 0, 1, &[7; 3])));
    // Whoever answers before it has heard everything wants no more of it.
    connection.receive(&whole(1)).unwrap();
    assert_eq!(poll(&mut connection, place), Some(answer(b"")));
    assert_eq!(out(&mut connection), one(frame::RST_STREAM, 0, 1, &[0; 4]));
}

#[test]
fn a_peer_that_does_not_read_makes_nothing_grow() {
    let mut connection = Connection::new();
    connection.receive(&settings(&[(frame::MAX_CONCURRENT_STREAMS, u32::MAX)])).unwrap();
    connection.receive(&one(frame::WINDOW_UPDATE, 0, 0, &[0x70, 0, 0, 0])).unwrap();
    let mut places = Vec::new();
    while let Ok(place) = connection.ask(request(FRAME_LEN_MAX)) {
        places.push(place);
    }
    assert!(places.len() > QUEUED_MAX && places.len() < 2 * QUEUED_MAX);
    let sent = places.len() - QUEUED_MAX;
    // Asked and given up again and again, by people who time out.
    for _ in 0..3 {
        for place in places.drain(sent..) {
            connection.give_up(place);
        }
        while let Ok(place) = connection.ask(request(FRAME_LEN_MAX)) {
            places.push(place);
        }
        assert_eq!(places.len(), sent + QUEUED_MAX);
    }
    assert!(out(&mut connection).len() < OUT_LEN_MAX + 2 * FRAME_LEN_MAX);
}

#[test]
fn answers_that_nobody_takes_hold_their_peer_up() {
    let mut connection = Connection::new();
    connection.receive(&settings(&[])).unwrap();
    let body = vec![1; FRAME_LEN_MAX];
    let data = |stream| one(frame::DATA, frame::END_STREAM, stream, &body);
    let many = WINDOW as usize / FRAME_LEN_MAX;
    let mut places = Vec::new();
    for n in 0..many {
        places.push(connection.ask(request(0)).unwrap());
        let stream = 2 * u32::try_from(n).unwrap() + 1;
        connection.receive(&[head(stream), data(stream)].concat()).unwrap();
        out(&mut connection);
    }
    let mut given = Vec::new();
    for place in places {
        assert_eq!(poll(&mut connection, place), Some(answer(&body)));
        given.extend(out(&mut connection));
    }
    assert_eq!(given[..frame::HEADER_LEN], [0, 0, 4, frame::WINDOW_UPDATE, 0, 0, 0, 0, 0]);
    // Beyond what was given back there is nothing.
    let mut greedy = Connection::new();
    greedy.receive(&settings(&[])).unwrap();
    let mut received = Ok(());
    for n in 0..=many {
        greedy.ask(request(0)).unwrap();
        let stream = 2 * u32::try_from(n).unwrap() + 1;
        received = greedy.receive(&[head(stream), data(stream)].concat());
    }
    assert_eq!(received, Err(Fatal(Code::FlowControl)));
}

#[test]
fn who_waits_too_long_is_told() {
    let mut connection = Connection::new();
    connection.receive(&settings(&[(frame::MAX_CONCURRENT_STREAMS, 1)])).unwrap();
    let places = [0, 0].map(|body| connection.ask(request(body)).unwrap());
    out(&mut connection);
    connection.tick(1);
    assert_eq!(poll(&mut connection, places[0]), None);
    connection.tick(1);
    for place in places {
        assert_eq!(poll(&mut connection, place), Some(Ended::Lost));
    }
    assert!(out(&mut connection).starts_with(&one(frame::RST_STREAM, 0, 1, &[0, 0, 0, 8])));
}

/// What a server is, and what it is asked.
#[derive(Clone, Debug)]
struct Talk {
    streams_max: u32,
    stream_window: u32,
    connection_window: u32,
    /// Bytes of each request's body, its answer's status, and bytes of the answer's.
    asked: Vec<(usize, u16, usize)>,
    timing: String,
    other: String,
}

fn talks() -> impl Strategy<Value = Talk> {
    let len = || prop_oneof![Just(0), Just(FRAME_LEN_MAX), 0..=FRAME_LEN_MAX];
    // Those that may have a body.
    let status = prop_oneof![Just(200_u16), Just(201), Just(409), Just(429), Just(503), Just(599)];
    let asked = proptest::collection::vec((len(), status, len()), 1..24);
    let windows = (1_u32..6, 1_u32..2_000, 65_535_u32..200_000);
    (windows, asked, "relay;dur=[0-9]{1,4}\\.[0-9]{3}", "[ -~]{0,200}").prop_map(
        |((streams_max, stream_window, connection_window), asked, timing, other)| Talk {
            streams_max,
            stream_window,
            connection_window,
            asked,
            timing,
            other: other.trim().to_owned(),
        },
    )
}

/// A server's end of a connection: it answers as the path of a request says, with what it was asked.
fn serve(stream: DuplexStream, talk: &Talk) -> impl Future<Output = ()> + use<> {
    let (timing, other) = (talk.timing.clone(), talk.other.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let (timing, other) = (timing.clone(), other.clone());
        async move {
            let (asked, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let numbers = asked.uri.path().split('/').skip(1);
            let mut parts = numbers.map(|part| part.parse::<u16>().unwrap());
            let (status, len) = (parts.next().unwrap(), parts.next().unwrap());
            assert_eq!(asked.method, http::Method::POST);
            assert_eq!(asked.uri.authority().unwrap().as_str(), "relay:1");
            assert_eq!(asked.headers["authorization"], "Bearer x");
            assert_eq!(asked.headers["content-length"], body.len().to_string());
            // Longer and shorter than what was asked, and made of it.
            let body: Bytes =
                body.iter().copied().chain([3; FRAME_LEN_MAX]).take(len.into()).collect();
            let mut response = Response::new(Full::new(body));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response.headers_mut().insert("server-timing", timing.parse().unwrap());
            response.headers_mut().insert("x-other", other.parse().unwrap());
            Ok::<_, Infallible>(response)
        }
    });
    let connection = server::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(talk.streams_max)
        .initial_stream_window_size(talk.stream_window)
        .initial_connection_window_size(talk.connection_window)
        .serve_connection(TokioIo::new(stream), service);
    async { drop(connection.await) }
}

type Answers = Vec<(u16, Vec<u8>, Duration)>;

async fn ours(talk: &Talk) -> Answers {
    let (near, far) = tokio::io::duplex(1 << 10);
    drop(tokio::spawn(serve(far, talk)));
    let sender = converse(near, PATIENCE);
    let origin = Origin::new(true, &"relay:1".parse().unwrap());
    // What is asked before the peer has said how much it takes may be refused.
    let first = sender.send(origin.post("/200/0", "Bearer x", Vec::new())).unwrap().await;
    assert!(matches!(first, Ended::Answer { .. }));
    let asks = talk.asked.iter().map(|(sent, status, len)| {
        let request = origin.post(&format!("/{status}/{len}"), "Bearer x", vec![7; *sent]);
        sender.send(request).unwrap()
    });
    let ended = join_all(asks).await.into_iter().map(|ended| match ended {
        Ended::Answer { head, body, .. } => {
            (head.status, body, Duration::from_micros(head.relay_us.into()))
        }
        other => unreachable!("{other:?}"),
    });
    ended.collect()
}

async fn theirs(talk: &Talk) -> Answers {
    let (near, far) = tokio::io::duplex(1 << 10);
    drop(tokio::spawn(serve(far, talk)));
    let (sender, connection) =
        client::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(near)).await.unwrap();
    drop(tokio::spawn(connection));
    let asks = talk.asked.iter().map(|(sent, status, len)| {
        let request = Request::post(format!("https://relay:1/{status}/{len}"))
            .header("authorization", "Bearer x")
            .header("content-length", sent.to_string())
            .body(Full::new(Bytes::from(vec![7; *sent])))
            .unwrap();
        let mut sender = sender.clone();
        async move {
            let (head, body) = sender.send_request(request).await.unwrap().into_parts();
            let body = body.collect().await.unwrap().to_bytes().to_vec();
            (head.status.as_u16(), body, timing(&head.headers))
        }
    });
    join_all(asks).await
}

fn timing(headers: &HeaderMap) -> Duration {
    exchange::parse_timing(headers)
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn servers_see_and_say_the_same(talk in talks()) {
        let (ours, theirs) = runtime().block_on(async { (ours(&talk).await, theirs(&talk).await) });
        prop_assert_eq!(ours.len(), theirs.len());
        for (ours, theirs) in ours.iter().zip(&theirs) {
            prop_assert_eq!(&ours.1, &theirs.1);
            prop_assert_eq!(ours.0, theirs.0);
            prop_assert!(ours.2.abs_diff(theirs.2) < Duration::from_micros(1));
        }
    }
}

#[test]
fn a_connection_ends_with_its_last_sender_and_its_last_answer() {
    let talk = Talk {
        streams_max: 1,
        stream_window: 100,
        connection_window: 65_535,
        asked: Vec::new(),
        timing: String::new(),
        other: String::new(),
    };
    runtime().block_on(async {
        let (near, far) = tokio::io::duplex(1 << 10);
        let served = tokio::spawn(serve(far, &talk));
        let sender = converse(near, PATIENCE);
        let origin = Origin::new(false, &"relay:1".parse().unwrap());
        let post = |len| origin.post(&format!("/200/{len}"), "Bearer x", vec![7; 3]);
        let waiting = sender.send(post(5)).unwrap();
        drop(sender.send(post(6)).unwrap());
        drop(sender);
        assert!(matches!(waiting.await, Ended::Answer { body, .. } if body == [7, 7, 7, 3, 3]));
        served.await.unwrap();
    });
}
