//! Heads as HPACK has them (RFC 7541), without tables that grow: none is offered to the peer, and none of
//! the peer's is used. So a head is a function of its bytes, and a connection keeps nothing for it.

use std::time::Duration;

use super::huffman;
use crate::relay::exchange;

/// Entries of the static table (appendix A).
const STATIC_LEN: usize = 61;
/// Of those, the ones that are of requests, and the ones that are a status.
const OF_REQUESTS: usize = 7;
const STATUSES: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
/// Names in the static table.
pub(super) const AUTHORITY: u8 = 1;
pub(super) const METHOD: u8 = 2;
pub(super) const PATH: u8 = 4;
pub(super) const AUTHORIZATION: u8 = 23;
pub(super) const CONTENT_LENGTH: u8 = 28;
pub(super) const CONTENT_TYPE: u8 = 31;
/// Whole fields in the static table.
pub(super) const METHOD_POST: u8 = 3;
pub(super) const SCHEME_HTTP: u8 = 6;
pub(super) const SCHEME_HTTPS: u8 = 7;

/// Bytes that are no head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// What is looked at of a response's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Head {
    pub(in super::super) status: u16,
    /// Time inside the relay itself, in microseconds: an hour at most.
    pub(in super::super) relay_us: u32,
}

/// Appends a field that the static table has whole.
pub(super) fn push_indexed(block: &mut Vec<u8>, field: u8) {
    block.push(0x80 | field);
}

/// Appends a field whose name the static table has. One that is secret is never to be kept in a table, also by
/// whoever passes it on.
pub(super) fn push(block: &mut Vec<u8>, name: u8, value: &[u8], is_secret: bool) {
    push_number(block, if is_secret { 0x10 } else { 0 }, 4, name.into());
    push_number(block, 0, 7, value.len());
    block.extend_from_slice(value);
}

/// Section 5.1: a number in the lower bits of a byte, and in more if they do not suffice.
fn push_number(block: &mut Vec<u8>, above: u8, bits: u8, number: usize) {
    let most = (1_usize << bits) - 1;
    let low = |number: usize| u8::try_from(number & 0xff).unwrap_or_default();
    if number < most {
        block.push(above | low(number));
        return;
    }
    block.push(above | low(most));
    let mut rest = number - most;
    while rest >= 128 {
        block.push(0x80 | low(rest & 0x7f));
        rest >>= 7;
    }
    block.push(low(rest));
}

/// Reads the head of a response, or its trailers, in which there is no status.
pub(super) fn decode(block: &[u8]) -> Result<Result<Option<Head>, Unsound>, Malformed> {
    let mut fields = Fields { rest: block, name: Vec::new(), value: Vec::new() };
    let (mut status, mut relay, mut sound, mut regular) = (None, Duration::ZERO, true, false);
    while let Some(name) = fields.next()? {
        match name {
            // Fields of the protocol come first, and there is one of a response.
            Name::Status(number) => {
                sound &= status.is_none() && !regular;
                let number = number.or_else(|| parse_status(&fields.value));
                sound &= number.is_some();
                status = number;
            }
            Name::OfRequests => sound = false,
            Name::Known => regular = true,
            Name::Given => {
                regular = true;
                let upper = fields.name.iter().any(u8::is_ascii_uppercase);
                sound &= !upper && !fields.name.is_empty() && fields.name[0] != b':';
                if fields.name == exchange::SERVER_TIMING.as_str().as_bytes() {
                    let text = std::str::from_utf8(&fields.value).unwrap_or_default();
                    relay = exchange::parse_relay_time(text);
                }
            }
        }
    }
    if !sound {
        return Ok(Err(Unsound));
    }
    let relay_us = u32::try_from(relay.as_micros()).unwrap_or(u32::MAX);
    Ok(Ok(status.map(|status| Head { status, relay_us })))
}

/// A head that can be read, and says what none may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unsound;

fn parse_status(value: &[u8]) -> Option<u16> {
    let is_one = value.len() == 3 && value.iter().all(u8::is_ascii_digit);
    is_one.then(|| value.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0')))
}

enum Name {
    /// The static table may have it whole.
    Status(Option<u16>),
    OfRequests,
    /// In the static table, and of no interest.
    Known,
    /// As `Fields::name` says.
    Given,
}

/// The fields of a block, one after the other.
struct Fields<'a> {
    rest: &'a [u8],
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Fields<'_> {
    fn next(&mut self) -> Result<Option<Name>, Malformed> {
        loop {
            let Some(first) = self.rest.first().copied() else { return Ok(None) };
            self.name.clear();
            self.value.clear();
            let name_bits = match first {
                0x80.. => {
                    let index = self.number(7)?;
                    let status = index.checked_sub(OF_REQUESTS + 1).and_then(|at| STATUSES.get(at));
                    return match (self.named(index)?, status) {
                        (Name::Status(_), status) => Ok(Some(Name::Status(status.copied()))),
                        (name, _) => Ok(Some(name)),
                    };
                }
                // A table that grows is not offered: what is put into it is gone at once.
                0x40.. => 6,
                0x20.. => {
                    if self.number(5)? != 0 {
                        return Err(Malformed);
                    }
                    continue;
                }
                _ => 4,
            };
            let index = self.number(name_bits)?;
            let name = if index == 0 {
                let mut name = std::mem::take(&mut self.name);
                self.string(&mut name)?;
                self.name = name;
                if self.name == b":status" { Name::Status(None) } else { Name::Given }
            } else {
                self.named(index)?
            };
            let mut value = std::mem::take(&mut self.value);
            self.string(&mut value)?;
            self.value = value;
            return Ok(Some(name));
        }
    }

    fn named(&self, index: usize) -> Result<Name, Malformed> {
        match index {
            1..=OF_REQUESTS => Ok(Name::OfRequests),
            8..=14 => Ok(Name::Status(None)),
            15..=STATIC_LEN => Ok(Name::Known),
            _ => Err(Malformed),
        }
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.rest.split_first().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*first)
    }

    fn number(&mut self, bits: u8) -> Result<usize, Malformed> {
        let most = (1_usize << bits) - 1;
        let mut number = usize::from(self.byte()?) & most;
        if number < most {
            return Ok(number);
        }
        // Three more bytes are two million: more than any head.
        for shift in [0, 7, 14] {
            let byte = self.byte()?;
            number += usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Malformed)
    }

    fn string(&mut self, text: &mut Vec<u8>) -> Result<(), Malformed> {
        let is_coded = self.rest.first().ok_or(Malformed)? & 0x80 != 0;
        let len = self.number(7)?;
        let (string, rest) = self.rest.split_at_checked(len).ok_or(Malformed)?;
        self.rest = rest;
        if is_coded {
            return huffman::decode(string, text);
        }
        text.extend_from_slice(string);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(status: u16, relay_us: u32) -> Result<Result<Option<Head>, Unsound>, Malformed> {
        Ok(Ok(Some(Head { status, relay_us })))
    }

    #[test]
    fn heads_are_read() {
        let given = |name: &str, value: &str| {
            let mut block = vec![0];
            for text in [name, value] {
                push_number(&mut block, 0, 7, text.len());
                block.extend_from_slice(text.as_bytes());
            }
            block
        };
        let timed = [&[0x88][..], &given("server-timing", "relay;dur=1.234")].concat();
        let late = [&given("a", "b")[..], &[0x88]].concat();
        let long = [&[0x88][..], &given("x", &"y".repeat(20_000))].concat();
        for (name, block, expected) in [
            // RFC 7541 section C.6.1, but that the table it fills is not kept.
            (
                "the RFC's",
                b"\x48\x82\x64\x02\x58\x85\xae\xc3\x77\x1a\x4b\x61\x96\xd0\x7a\xbe\x94\x10\x54\xd4\x44\xa8\x20\x05\x95\x04\x0b\
                  \x81\x66\xe0\x82\xa6\x2d\x1b\xff\x6e\x91\x9d\x29\xad\x17\x18\x63\xc7\x8f\x0b\x97\xc8\xe9\xae\x82\xae\x43\xd3"
                    .to_vec(),
                head(302, 0),
            ),
            ("a status of the table", vec![0x8c], head(400, 0)),
            ("a table of no size", vec![0x20, 0x88], head(200, 0)),
            ("how long the relay took", timed, head(200, 1_234)),
            ("a long field", long, head(200, 0)),
            ("trailers", given("a", "b"), Ok(Ok(None))),
            ("nothing", vec![], Ok(Ok(None))),
            ("a status in words", given(":status", "503"), head(503, 0)),
            ("two", vec![0x88, 0x88], Ok(Err(Unsound))),
            ("a status at the end", late, Ok(Err(Unsound))),
            ("a field of requests", vec![0x88, 0x83], Ok(Err(Unsound))),
            ("a status of two digits", given(":status", "20"), Ok(Err(Unsound))),
            ("capitals", given("Server", "x"), Ok(Err(Unsound))),
            ("a table that is not there", vec![0xbe], Err(Malformed)),
            ("a table that is not offered", vec![0x3f, 0xe1, 0x1f], Err(Malformed)),
            ("field 0", vec![0x80], Err(Malformed)),
            ("a name that is cut off", vec![0x00, 0x05, b'a'], Err(Malformed)),
            ("a number without end", vec![0xff, 0xff, 0xff, 0xff, 0xff], Err(Malformed)),
        ] {
            assert_eq!(decode(&block), expected, "{name}");
        }
    }

    /// RFC 7541 section C.1.
    #[test]
    fn the_rfcs_numbers() {
        for (number, bits, bytes) in [
            (10, 5, &[0b0000_1010][..]),
            (1_337, 5, &[0b0001_1111, 0b1001_1010, 0b0000_1010]),
            (42, 8, &[42]),
        ] {
            let mut block = Vec::new();
            push_number(&mut block, 0, bits, number);
            assert_eq!(block, bytes);
            let mut fields = Fields { rest: &block, name: Vec::new(), value: Vec::new() };
            assert_eq!(fields.number(bits), Ok(number));
        }
    }
}
