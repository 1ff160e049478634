//! What fuzzers call: everything that a peer may say on a connection.

use std::task::{Poll, Waker};

use super::connection::{Connection, OUT_LEN_MAX};
use super::slots::{Ended, Unsent};
use crate::vault::channel::FRAME_LEN_MAX;

/// How long the pieces are (1) in which a peer's bytes come ‖ those bytes. However they are cut, requests end alike,
/// each once, and with no more than fits.
pub fn fuzz_multiplexed(bytes: &[u8]) {
    let Some((piece, bytes)) = bytes.split_first() else { return };
    let whole = converse(bytes, bytes.len().max(1));
    assert_eq!(converse(bytes, usize::from(*piece).max(1)), whole);
}

/// The requests that a fuzzer's peer is asked. The last one is given up before it says a word.
fn requests() -> Vec<Unsent> {
    let bodies = [0, 5, FRAME_LEN_MAX, 1, 300];
    bodies.into_iter().map(|len| Unsent { head: vec![0x83], body: vec![7; len] }).collect()
}

fn converse(bytes: &[u8], piece: usize) -> (Vec<Ended>, bool) {
    let mut connection = Connection::new();
    let ask = |request| connection.ask(request).expect("it has just begun");
    let mut places: Vec<_> = requests().into_iter().map(ask).collect();
    let given_up = places.pop().expect("one more than wait");
    connection.give_up(given_up);
    let received = bytes.chunks(piece).try_for_each(|piece| connection.receive(piece));
    let mut out = Vec::new();
    connection.take_out(&mut out);
    // Each frame asks for one of its own at most, and none of them is longer than a ping.
    assert!(out.len() <= OUT_LEN_MAX && out.len() <= 4_096 + 2 * bytes.len());
    connection.fail();
    drop(connection.take_woken());
    let ended = places.into_iter().map(|place| match connection.poll(place, Waker::noop()) {
        Poll::Ready(ended) => {
            if let Ended::Answer { head, body, .. } = &ended {
                assert!(body.len() <= FRAME_LEN_MAX && head.status >= 200);
            }
            ended
        }
        Poll::Pending => unreachable!("the connection has ended"),
    });
    (ended.collect(), received.is_ok())
}

#[cfg(test)]
pub(crate) mod seeds {
    use std::convert::Infallible;

    use bytes::Bytes;
    use http::{Request, Response, StatusCode};
    use http_body_util::{BodyExt, Full};
    use hyper::body::Incoming;
    use hyper::server::conn::http2;
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::runtime::Builder;

    use super::*;
    use crate::remote::multiplexed::{Origin, frame};

    /// What hyper's server says, and frames by hand.
    pub(crate) fn conversations() -> Vec<Vec<u8>> {
        let settings = |payload: &[u8]| {
            let mut out = vec![64];
            frame::push(&mut out, frame::SETTINGS, 0, 0, payload);
            out
        };
        let mut narrow = settings(&[0, 4, 0, 0, 0, 3, 0, 3, 0, 0, 0, 1]);
        frame::push(&mut narrow, frame::WINDOW_UPDATE, 0, 3, &[0, 0, 0, 9]);
        frame::push(&mut narrow, frame::PING, 0, 0, &[1; 8]);
        frame::push(&mut narrow, frame::HEADERS, frame::END_STREAM, 1, &[]);
        frame::push(&mut narrow, frame::CONTINUATION, frame::END_HEADERS, 1, &[0x88]);
        let mut gone = settings(&[]);
        frame::push(&mut gone, frame::RST_STREAM, 0, 3, &[0, 0, 0, 7]);
        frame::push(&mut gone, frame::HEADERS, frame::END_HEADERS, 1, &[0x88]);
        frame::push(&mut gone, frame::DATA, frame::PADDED | frame::END_STREAM, 1, &[2, 8, 9, 0, 0]);
        frame::push(&mut gone, frame::GOAWAY, 0, 0, &[0, 0, 0, 5, 0, 0, 0, 0]);
        vec![hyper(), narrow, gone]
    }

    fn hyper() -> Vec<u8> {
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (mut client, server) = tokio::io::duplex(1 << 16);
            let service = service_fn(|request: Request<Incoming>| async move {
                let body =
                    request.into_body().collect().await.map(http_body_util::Collected::to_bytes);
                let mut response = Response::new(Full::new(body.unwrap_or_else(|_| Bytes::new())));
                *response.status_mut() = StatusCode::CONFLICT;
                response.headers_mut().insert("server-timing", "relay;dur=0.042".parse().unwrap());
                Ok::<_, Infallible>(response)
            });
            let serves = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(server), service);
            let asks = async {
                let origin = Origin::new(false, &"relay".parse().unwrap());
                let mut connection = Connection::new();
                for request in requests() {
                    let request = origin.post("/v1/a", "Bearer b", request.body);
                    connection.ask(request).unwrap();
                }
                let mut out = Vec::new();
                connection.take_out(&mut out);
                client.write_all(&out).await.unwrap();
                let mut said = vec![0; 1 << 16];
                let mut len = 0;
                // Its answers end with the longest body.
                while len < FRAME_LEN_MAX + 500 {
                    len += client.read(&mut said[len..]).await.unwrap();
                }
                said.truncate(len);
                [vec![200], said].concat()
            };
            tokio::select! {
                biased;
                said = asks => said,
                ended = serves => unreachable!("{ended:?}"),
            }
        })
    }
}
