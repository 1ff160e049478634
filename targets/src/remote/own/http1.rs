//! One exchange over HTTP/1.1 (RFC 9112): a request with a body, and a reply whose length is told.
//!
//! A connection that waits owns no buffer: bytes are read into one of the thread's and looked at there, and
//! only what has come in part is kept beside it. What a relay does not do is refused, not guessed at: chunked
//! bodies, interim replies, replies without a length, more bytes than were announced.

use std::cell::RefCell;
use std::fmt;
use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use httparse::{EMPTY_HEADER, Header, Status};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::relay::exchange::parse_relay_time;
use crate::vault::channel::FRAME_LEN_MAX;

/// Bytes of a reply's status line and headers: a relay's are 200, proxies add some.
pub(super) const HEAD_LEN_MAX: usize = 8 << 10;
/// Headers of a reply, for the same reason.
const HEADERS_MAX: usize = 32;
/// Bytes read at a time: nearly every reply comes whole.
const READ_LEN: usize = 16 << 10;

thread_local! {
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_LEN].into_boxed_slice());
    static WRITE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What is asked: `POST`, with a body.
#[derive(Clone, Copy, Debug)]
pub struct Post<'a> {
    /// `Host`: the authority of the URL.
    pub host: &'a str,
    /// From the slash on.
    pub path: &'a str,
    /// Who speaks, as `Authorization: Bearer` has it; empty: nobody says.
    pub bearer: &'a str,
    /// What is sent.
    pub body: &'a [u8],
}

/// A reply, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// How long the relay itself took, as it says; zero if it says nothing.
    pub relay: Duration,
    /// The body.
    pub body: Vec<u8>,
    /// Whether another request may follow on the connection.
    pub keeps: bool,
}

/// Why there is no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeError {
    /// The connection ended before all of the request was handed over: nobody can have processed it.
    Unsent,
    /// The connection ended before the whole reply had come: the request may have been processed.
    Lost,
    /// What came back is no reply of a relay, and why.
    Bad(&'static str),
    /// Host, path or token have characters that do not belong into a head. Nothing was sent.
    NoRequest,
}

impl fmt::Display for ExchangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unsent => "the connection ended before the request was sent",
            Self::Lost => "the connection ended before the reply had come",
            Self::Bad(why) => why,
            Self::NoRequest => "host, path or token do not belong into a request",
        })
    }
}

impl std::error::Error for ExchangeError {}

impl Post<'_> {
    /// The request's bytes, behind what is there. `None`: a part would not stay where it belongs, in its
    /// line of the head.
    pub fn write(&self, out: &mut Vec<u8>) -> Option<()> {
        let fits = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if ![self.host, self.path, self.bearer].into_iter().all(fits) {
            return None;
        }
        out.extend_from_slice(b"POST ");
        out.extend_from_slice(self.path.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
        out.extend_from_slice(self.host.as_bytes());
        if !self.bearer.is_empty() {
            out.extend_from_slice(b"\r\nAuthorization: Bearer ");
            out.extend_from_slice(self.bearer.as_bytes());
        }
        out.extend_from_slice(b"\r\nContent-Type: application/octet-stream\r\nContent-Length: ");
        write!(out, "{}\r\n\r\n", self.body.len()).ok()?;
        out.extend_from_slice(self.body);
        Some(())
    }
}

/// Asks and waits for the reply. After an error the connection is good for nothing more; nor is it when this
/// future is dropped before its end, which who owns the connection has to see to.
///
/// # Errors
/// See [`ExchangeError`].
pub async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    post: &Post<'_>,
) -> Result<Reply, ExchangeError> {
    send(stream, post).await?;
    receive(stream).await
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, post: &Post<'_>) -> Result<(), ExchangeError> {
    let mut begun = false;
    // What the connection did not take at once, which is rare.
    let (mut rest, mut sent) = (Vec::new(), 0);
    std::future::poll_fn(|context| {
        if !begun {
            begun = true;
            let first = WRITE.with_borrow_mut(|out| {
                out.clear();
                if post.write(out).is_none() {
                    return Err(ExchangeError::NoRequest);
                }
                let taken = match Pin::new(&mut *stream).poll_write(context, out) {
                    Poll::Ready(taken) => taken.map_err(|_gone| ExchangeError::Unsent)?,
                    Poll::Pending => 0,
                };
                if taken < out.len() {
                    rest.extend_from_slice(&out[taken..]);
                }
                Ok(())
            });
            if let Err(error) = first {
                return Poll::Ready(Err(error));
            }
        }
        while sent < rest.len() {
            match ready!(Pin::new(&mut *stream).poll_write(context, &rest[sent..])) {
                Ok(taken @ 1..) => sent += taken,
                Ok(0) | Err(_) => return Poll::Ready(Err(ExchangeError::Unsent)),
            }
        }
        Pin::new(&mut *stream).poll_flush(context).map_err(|_gone| ExchangeError::Lost)
    })
    .await
}

async fn receive<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Reply, ExchangeError> {
    // What has come of a reply that is not whole yet.
    let mut partial: Vec<u8> = Vec::new();
    std::future::poll_fn(|context| {
        READ.with_borrow_mut(|buffer| {
            loop {
                let mut read = ReadBuf::new(buffer);
                let came = ready!(Pin::new(&mut *stream).poll_read(context, &mut read));
                let new = read.filled();
                if came.is_err() || new.is_empty() {
                    return Poll::Ready(Err(ExchangeError::Lost));
                }
                let parsed = if partial.is_empty() {
                    parse(new)
                } else {
                    partial.extend_from_slice(new);
                    parse(&partial)
                };
                match parsed {
                    Ok(None) if partial.is_empty() => partial.extend_from_slice(new),
                    Ok(None) => {}
                    Ok(Some(reply)) => return Poll::Ready(Ok(reply)),
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
        })
    })
    .await
}

/// Whether nothing has come on a connection on which nothing is asked, its end least of all.
pub(super) fn is_quiet(stream: &mut (impl AsyncRead + Unpin)) -> bool {
    let mut byte = [0];
    let mut context = Context::from_waker(Waker::noop());
    Pin::new(stream).poll_read(&mut context, &mut ReadBuf::new(&mut byte)).is_pending()
}

/// The reply that these bytes are; `None`: more must come.
///
/// # Errors
/// Whatever comes, it is going to be none.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Reply>, ExchangeError> {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let parsed = head.parse(bytes).map_err(|error| {
        ExchangeError::Bad(match error {
            httparse::Error::TooManyHeaders => "the reply has too many headers",
            _ => "the reply is not HTTP/1.1",
        })
    })?;
    let head_len = match parsed {
        Status::Complete(len) => len,
        Status::Partial => bytes.len(),
    };
    if head_len > HEAD_LEN_MAX {
        return Err(ExchangeError::Bad("the head of the reply is too long"));
    }
    if parsed.is_partial() {
        return Ok(None);
    }
    let status = head.code.unwrap_or_default();
    if !(200..600).contains(&status) {
        return Err(ExchangeError::Bad("the reply has a status that was not asked for"));
    }
    let told = Told::of(head.headers, status)?;
    let whole = head_len + told.length;
    if bytes.len() < whole {
        return Ok(None);
    }
    if bytes.len() > whole {
        return Err(ExchangeError::Bad("more came than the reply's length"));
    }
    Ok(Some(Reply {
        status,
        relay: told.relay,
        body: bytes[head_len..].to_vec(),
        // HTTP/1.0 closes by itself.
        keeps: told.keeps && head.version == Some(1),
    }))
}

/// What the headers of a reply say that matters here.
struct Told {
    length: usize,
    keeps: bool,
    relay: Duration,
}

impl Told {
    fn of(headers: &[Header<'_>], status: u16) -> Result<Self, ExchangeError> {
        let (mut length, mut keeps, mut relay) = (None, true, Duration::ZERO);
        for Header { name, value } in headers {
            if name.eq_ignore_ascii_case("content-length") {
                // Two of them are somebody's trick (RFC 9112 section 6.3), even if they are equal.
                let told = parse_length(value).filter(|_| length.is_none());
                length = Some(told.ok_or(ExchangeError::Bad("the reply's length is no number"))?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                return Err(ExchangeError::Bad("the reply is chunked, which no relay does"));
            } else if name.eq_ignore_ascii_case("connection") {
                let mut words = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
                keeps &= !words.any(|word| word.eq_ignore_ascii_case(b"close"));
            } else if name.eq_ignore_ascii_case("server-timing") {
                relay = std::str::from_utf8(value).map_or(Duration::ZERO, parse_relay_time);
            }
        }
        let length = match (length, status) {
            (None | Some(0), 204 | 304) => 0,
            (Some(_), 204 | 304) => {
                return Err(ExchangeError::Bad("the reply has a length and no body"));
            }
            (Some(length), _) => length,
            (None, _) => return Err(ExchangeError::Bad("the reply does not say how long it is")),
        };
        if length > FRAME_LEN_MAX {
            return Err(ExchangeError::Bad("the body of the reply is too long"));
        }
        Ok(Self { length, keeps, relay })
    }
}

/// Digits and nothing else; what is longer than any length is none.
fn parse_length(value: &[u8]) -> Option<usize> {
    if value.is_empty() || value.len() > 9 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}
