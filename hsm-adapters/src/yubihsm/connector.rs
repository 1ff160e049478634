//! A yubihsm-connector from the host's side: HTTP/1.1 over one connection that is kept, with a deadline
//! over each request.
//!
//! A connector passes messages on and knows nothing of sessions, which therefore outlive the
//! connection: it is opened anew whenever the connector has closed it (yubihsm-connector 3 does so
//! after five idle seconds). A request is sent once; whether one that was not answered reached the
//! device, nobody knows.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, Moment};

/// Bytes of an answer's head: yubihsm-connector sends four short headers.
const HEAD_LEN_MAX: usize = 8 << 10;

/// Bytes of an answer's body: the longest message is 3,136 (yubihsm-shell, `yubihsm.h`:
/// YH_MSG_BUF_SIZE), a status some hundred.
const BODY_LEN_MAX: usize = 4 << 10;

/// The port that yubihsm-connector listens on unless told otherwise.
pub(super) const DEFAULT_PORT: u16 = 12_345;

/// A connection to a connector.
pub(super) struct Connector {
    /// `127.0.0.1:12345`.
    address: String,
    deadline: Duration,
    clock: Arc<dyn Clock>,
    stream: Option<TcpStream>,
}

/// What a connector says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Status {
    /// Whether it has a device.
    pub(super) has_device: bool,
    /// Set by the simulator only: what its service times are modelled on.
    pub(super) modelled: Option<String>,
}

/// Why a request had no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NoAnswer(pub(super) String);

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Connector {
    /// Connects at the first request.
    pub(super) fn new(address: &str, deadline: Duration, clock: Arc<dyn Clock>) -> Self {
        Self { address: address.to_owned(), deadline, clock, stream: None }
    }

    /// Passes a message to the device and its answer back.
    pub(super) fn send(&mut self, message: &[u8]) -> Result<Vec<u8>, NoAnswer> {
        self.request("POST", "/connector/api", message)
    }

    pub(super) fn status(&mut self) -> Result<Status, NoAnswer> {
        let text = self.request("GET", "/connector/status", &[])?;
        Ok(Status::parse(&String::from_utf8_lossy(&text)))
    }

    fn request(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Vec<u8>, NoAnswer> {
        let until = self.clock.now().after(self.deadline);
        let mut stream = match self.stream.take().filter(still_open) {
            Some(stream) => stream,
            None => self.connect()?,
        };
        let mut request = Vec::with_capacity(160 + body.len());
        // Cannot fail: a vector takes everything.
        let _written = write!(
            request,
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/octet-stream\r\n\
             Content-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        request.extend_from_slice(body);
        let told = |error: std::io::Error| self.told(&error);
        stream.set_write_timeout(Some(self.remaining(until)?)).map_err(told)?;
        stream.write_all(&request).map_err(told)?;
        let (answer, keep) = self.read(&mut stream, until)?;
        if keep {
            self.stream = Some(stream);
        }
        Ok(answer)
    }

    fn connect(&self) -> Result<TcpStream, NoAnswer> {
        let told = |error: std::io::Error| self.told(&error);
        let address = self.address.to_socket_addrs().map_err(told)?.next();
        let address =
            address.ok_or_else(|| NoAnswer(format!("{} has no address", self.address)))?;
        let stream = TcpStream::connect_timeout(&address, self.deadline).map_err(told)?;
        // Requests are small and their answers are waited for.
        stream.set_nodelay(true).map_err(told)?;
        Ok(stream)
    }

    /// The body of the answer, and whether the connection may be used again.
    fn read(&self, stream: &mut TcpStream, until: Moment) -> Result<(Vec<u8>, bool), NoAnswer> {
        let mut buffer = vec![0; 1 << 10];
        let mut len = 0;
        let mut head = None;
        loop {
            if len == buffer.len() {
                buffer.resize(2 * len, 0);
            }
            stream
                .set_read_timeout(Some(self.remaining(until)?))
                .map_err(|error| self.told(&error))?;
            match stream.read(&mut buffer[len..]) {
                Ok(0) => {
                    return Err(NoAnswer(format!("{} closed the connection", self.address)));
                }
                Ok(more) => len += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.told(&error)),
            }
            if head.is_none() {
                head = Head::parse(&buffer[..len]).map_err(|why| self.wrong(&why))?;
            }
            match &head {
                Some(head) if len > head.len + head.body_len => {
                    return Err(self.wrong("more than one answer"));
                }
                Some(head) if len == head.len + head.body_len => {
                    buffer.truncate(len);
                    return Ok((buffer.split_off(head.len), head.keep));
                }
                None if len > HEAD_LEN_MAX => return Err(self.wrong("a head without an end")),
                _ => {}
            }
        }
    }

    fn remaining(&self, until: Moment) -> Result<Duration, NoAnswer> {
        let remaining = until.since(self.clock.now());
        if remaining.is_zero() { Err(self.late()) } else { Ok(remaining) }
    }

    fn late(&self) -> NoAnswer {
        NoAnswer(format!("{} did not answer within {:?}", self.address, self.deadline))
    }

    fn wrong(&self, why: &str) -> NoAnswer {
        NoAnswer(format!("{} is no YubiHSM connector: {why}", self.address))
    }

    fn told(&self, error: &std::io::Error) -> NoAnswer {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => self.late(),
            _ => NoAnswer(format!("{}: {error}", self.address)),
        }
    }
}

impl Status {
    fn parse(text: &str) -> Self {
        let value = |name: &str| {
            text.lines().find_map(|line| line.split_once('=').filter(|(is, _)| *is == name))
        };
        Self {
            has_device: value("status").is_some_and(|(_, status)| status == "OK"),
            modelled: value("modelled").map(|(_, modelled)| modelled.to_owned()),
        }
    }
}

/// Whether a kept connection has neither been closed nor has anything in it that nobody asked for.
fn still_open(stream: &TcpStream) -> bool {
    let looked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
    let waits = matches!(looked, Err(error) if error.kind() == ErrorKind::WouldBlock);
    waits && stream.set_nonblocking(false).is_ok()
}

struct Head {
    len: usize,
    body_len: usize,
    keep: bool,
}

impl Head {
    /// `None` if it is not complete yet.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, String> {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            return Ok(None);
        };
        let text = std::str::from_utf8(&bytes[..end]).map_err(|_| "a head that is no text")?;
        let mut lines = text.split("\r\n");
        let status = lines.next().unwrap_or_default();
        let mut words = status.split(' ');
        let is_http = words.next().is_some_and(|version| version.starts_with("HTTP/1."));
        if !is_http || words.next() != Some("200") {
            // Not all of it: who knows what answered.
            return Err(status.chars().take(80).collect());
        }
        let mut head = Self { len: end + 4, body_len: 0, keep: !status.starts_with("HTTP/1.0") };
        for line in lines {
            let (name, value) = line.split_once(':').ok_or("a header without a value")?;
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                head.body_len = value.parse().map_err(|_| "a length that is no number")?;
            } else if name.eq_ignore_ascii_case("connection") {
                head.keep = !value.eq_ignore_ascii_case("close");
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                return Err("an answer in chunks".to_owned());
            }
        }
        if head.body_len > BODY_LEN_MAX {
            return Err("a longer answer than a device has".to_owned());
        }
        Ok(Some(head))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_status_says_whether_there_is_a_device_and_whether_it_is_one() {
        let text = "status=OK\nserial=*\nversion=3.0.5\npid=7\naddress=localhost\nport=12345\n";
        assert_eq!(Status::parse(text), Status { has_device: true, modelled: None });
        let simulator = format!("{text}modelled=73 ms a key operation\n");
        let modelled = Status::parse(&simulator).modelled;
        assert_eq!(modelled.as_deref(), Some("73 ms a key operation"));
        assert!(!Status::parse("status=NO_DEVICE\n").has_device);
        assert!(!Status::parse("<html>").has_device);
    }

    #[test]
    fn a_head_has_an_end_a_length_and_a_success() {
        let parse = |text: &str| {
            Head::parse(text.as_bytes()).map(|head| head.map(|h| (h.len, h.body_len, h.keep)))
        };
        let ok = "HTTP/1.1 200 OK\r\nCONTENT-length: 12\r\n\r\n";
        assert_eq!(parse(ok), Ok(Some((39, 12, true))));
        assert_eq!(parse(&ok[..38]), Ok(None));
        let closing = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
        assert_eq!(parse(closing), Ok(Some((38, 0, false))));
        for wrong in [
            "HTTP/1.1 404 Not Found\r\n\r\n",
            "SSH-2.0-OpenSSH\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_connector_are_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let answer = [b"HTTP/1.1 200 OK\r\n", &bytes[..], b"\r\n\r\n"].concat();
            let _parsed = Head::parse(&answer);
            let _parsed = Head::parse(&bytes);
        }
    }
}
