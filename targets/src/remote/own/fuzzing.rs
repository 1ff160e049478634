//! Made-up bytes as a reply: what is one whole is one however it comes.

use super::http1::{HEAD_LEN_MAX, parse};
use crate::vault::channel::FRAME_LEN_MAX;

/// Prefixes of a reply that are tried: every one would take the square of its length.
const PREFIXES_MAX: usize = 64;

/// A reply. What is one is bounded, ends where its length says, and is none before its last byte has come.
pub fn fuzz_http_reply(bytes: &[u8]) {
    let whole = parse(bytes);
    if let Ok(Some(reply)) = &whole {
        assert!((200..600).contains(&reply.status));
        assert!(reply.body.len() <= FRAME_LEN_MAX && bytes.ends_with(&reply.body));
        assert!(bytes.len() - reply.body.len() <= HEAD_LEN_MAX);
        let more = [bytes, b"H"].concat();
        assert!(parse(&more).is_err(), "a byte too many");
    }
    if whole.is_ok() {
        let step = (bytes.len() / PREFIXES_MAX).max(1);
        for len in (0..bytes.len()).step_by(step) {
            assert_eq!(parse(&bytes[..len]), Ok(None), "{len} of {} bytes", bytes.len());
        }
    }
}

#[cfg(test)]
pub(crate) fn fuzz_http_reply_seeds() -> Vec<Vec<u8>> {
    let replies: [&[u8]; 6] = [
        b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\nserver-timing: relay;dur=0.125\r\n\
          content-length: 3\r\ndate: Sat, 21 Nov 2026 00:00:00 GMT\r\n\r\nabc",
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 16\r\n\r\n{\"error\":\"busy\"}",
        b"HTTP/1.1 200 OK\r\nConnection: Close, x\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    ];
    replies.map(<[u8]>::to_vec).to_vec()
}
