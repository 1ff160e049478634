//! What the peer says, frame by frame (RFC 9113 section 6), and what it means to a connection.

use super::super::frame::{self, Code, HEADER_LEN, Header, PAYLOAD_LEN_MAX};
use super::super::hpack;
use super::super::slots::{Ended, Open, Place, State};
use super::{Connection, Fatal, HEAD_LEN_MAX};
use crate::vault::channel::FRAME_LEN_MAX;

/// No window is larger.
const WINDOW_MAX: i64 = (1 << 31) - 1;
/// Answers to pings and settings that wait for the socket.
const ANSWERS_MAX: u32 = 1_024;
/// A head of which more frames are to come.
#[derive(Debug)]
pub(super) struct Continuing {
    stream: u32,
    ends: bool,
    block: Vec<u8>,
}

impl Connection {
    /// Takes bytes in.
    ///
    /// # Errors
    /// The peer broke the rules: what is to be sent then says which, and nothing more is to be read.
    pub(in super::super) fn receive(&mut self, bytes: &[u8]) -> Result<(), Fatal> {
        let received = self.frames(bytes);
        if let Err(Fatal(code)) = received {
            self.broken = true;
            let mut payload = [0; 8];
            payload[4..].copy_from_slice(&(code as u32).to_be_bytes());
            frame::push(&mut self.out, frame::GOAWAY, 0, 0, &payload);
        }
        received
    }

    fn frames(&mut self, bytes: &[u8]) -> Result<(), Fatal> {
        let mut joined = std::mem::take(&mut self.pending);
        let mut rest = if joined.is_empty() {
            bytes
        } else {
            joined.extend_from_slice(bytes);
            &joined[..]
        };
        while let Some(header) = rest.first_chunk().map(Header::read) {
            if header.len > PAYLOAD_LEN_MAX {
                return Err(Fatal(Code::FrameSize));
            }
            let Some(payload) = rest.get(HEADER_LEN..HEADER_LEN + header.len) else { break };
            self.frame(header, payload)?;
            rest = &rest[HEADER_LEN + header.len..];
            // At once: what comes next may be the answer to it, wherever the peer's bytes were cut.
            self.advance();
        }
        self.pending = rest.to_vec();
        Ok(())
    }

    fn frame(&mut self, header: Header, payload: &[u8]) -> Result<(), Fatal> {
        if !self.settled && (header.kind != frame::SETTINGS || header.has(frame::ACK)) {
            return Err(Fatal(Code::Protocol));
        }
        if let Some(head) = &self.continuing
            && (header.kind != frame::CONTINUATION || header.stream != head.stream)
        {
            return Err(Fatal(Code::Protocol));
        }
        let of_connection = header.stream == 0;
        match header.kind {
            frame::DATA
            | frame::HEADERS
            | frame::PRIORITY
            | frame::RST_STREAM
            | frame::CONTINUATION
                if of_connection =>
            {
                Err(Fatal(Code::Protocol))
            }
            frame::SETTINGS | frame::PING | frame::GOAWAY if !of_connection => {
                Err(Fatal(Code::Protocol))
            }
            frame::DATA => self.data(header, payload),
            frame::HEADERS => self.headers(header, payload),
            frame::CONTINUATION => self.continuation(header, payload),
            frame::PRIORITY if payload.len() != 5 => Err(Fatal(Code::FrameSize)),
            frame::RST_STREAM => self.was_reset(header, payload),
            frame::SETTINGS => self.settings(header, payload),
            frame::PUSH_PROMISE => Err(Fatal(Code::Protocol)),
            frame::PING => self.ping(header, payload),
            frame::GOAWAY => self.goodbye(payload),
            frame::WINDOW_UPDATE => self.window_update(header, payload),
            // Kinds that nobody knows mean nothing (section 5.5).
            _ => Ok(()),
        }
    }

    fn data(&mut self, header: Header, payload: &[u8]) -> Result<(), Fatal> {
        self.expect_known(header.stream)?;
        let body = frame::unpadded(header, payload).ok_or(Fatal(Code::Protocol))?;
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.receivable -= i64::from(len);
        if self.receivable < 0 {
            return Err(Fatal(Code::FlowControl));
        }
        let Some(place) = self.streams.get(&header.stream).copied() else {
            // Somebody gave it up.
            self.give_back(len);
            return Ok(());
        };
        let padding = len - u32::try_from(body.len()).unwrap_or(len);
        let State::Open(open) = &mut self.slots.get(place).state else { return Ok(()) };
        if open.head.is_none() {
            self.give_back(len);
            self.end_badly(place, Code::Protocol, Ended::Lost);
            return Ok(());
        }
        let before = open.body.as_ref().map_or(0, |body| body.len());
        if before + body.len() > FRAME_LEN_MAX {
            self.give_back(len);
            self.end_badly(place, Code::Cancel, Ended::TooLong);
            return Ok(());
        }
        if !body.is_empty() {
            open.held += len - padding;
            open.body.get_or_insert_default().extend_from_slice(body);
        }
        if padding > 0 {
            // It takes room of the stream's window, and is nobody's to take out.
            self.give_back(padding);
            if !header.has(frame::END_STREAM) {
                let more = padding.to_be_bytes();
                frame::push(&mut self.out, frame::WINDOW_UPDATE, 0, header.stream, &more);
                self.answer()?;
            }
        }
        if header.has(frame::END_STREAM) {
            self.answered(place);
        }
        Ok(())
    }

    fn headers(&mut self, header: Header, payload: &[u8]) -> Result<(), Fatal> {
        self.expect_known(header.stream)?;
        let mut block = frame::unpadded(header, payload).ok_or(Fatal(Code::Protocol))?;
        if header.has(frame::HAS_PRIORITY) {
            block = block.get(5..).ok_or(Fatal(Code::Protocol))?;
        }
        let ends = header.has(frame::END_STREAM);
        if header.has(frame::END_HEADERS) {
            return self.head(header.stream, ends, block);
        }
        let block = block.to_vec();
        self.continuing = Some(Continuing { stream: header.stream, ends, block });
        Ok(())
    }

    fn continuation(&mut self, header: Header, payload: &[u8]) -> Result<(), Fatal> {
        let Some(mut head) = self.continuing.take() else { return Err(Fatal(Code::Protocol)) };
        // Also of frames with nothing in them there may be only so many.
        if head.block.len() + payload.len() + HEADER_LEN > HEAD_LEN_MAX as usize {
            return Err(Fatal(Code::TooMuch));
        }
        head.block.extend_from_slice(payload);
        if header.has(frame::END_HEADERS) {
            return self.head(head.stream, head.ends, &head.block);
        }
        if payload.is_empty() {
            self.answer()?;
        }
        self.continuing = Some(head);
        Ok(())
    }

    fn head(&mut self, stream: u32, ends: bool, block: &[u8]) -> Result<(), Fatal> {
        // Also where nobody waits any more: what cannot be read shows that the two ends disagree.
        let head = hpack::decode(block).map_err(|hpack::Malformed| Fatal(Code::Compression))?;
        let Some(place) = self.streams.get(&stream).copied() else { return Ok(()) };
        let State::Open(open) = &mut self.slots.get(place).state else { return Ok(()) };
        match (head, open.head) {
            // More is to come before the answer itself (RFC 9110 section 15.2).
            (Ok(Some(head)), None) if (100..200).contains(&head.status) && !ends => {}
            (Ok(Some(head)), None) if head.status >= 200 => {
                open.head = Some(head);
                if ends {
                    self.answered(place);
                }
            }
            // Trailers, which mean nothing here.
            (Ok(None), Some(_)) if ends => self.answered(place),
            _ => self.end_badly(place, Code::Protocol, Ended::Lost),
        }
        Ok(())
    }

    fn was_reset(&mut self, header: Header, payload: &[u8]) -> Result<(), Fatal> {
        self.expect_known(header.stream)?;
        let code = payload.first_chunk().filter(|_| payload.len() == 4);
        let code = u32::from_be_bytes(*code.ok_or(Fatal(Code::FrameSize))?);
        if let Some(place) = self.streams.get(&header.stream).copied() {
            let refused = code == Code::Refused as u32;
            self.end(place, if refused { Ended::Refused } else { Ended::Lost });
        }
        Ok(())
    }

    fn settings(&mut self, header: Header, payload: &[u8]) -> Result<(), Fatal> {
        if header.has(frame::ACK) {
            return if payload.is_empty() { Ok(()) } else { Err(Fatal(Code::FrameSize)) };
        }
        if !payload.len().is_multiple_of(6) {
            return Err(Fatal(Code::FrameSize));
        }
        self.settled = true;
        for setting in payload.chunks_exact(6) {
            let name = u16::from_be_bytes([setting[0], setting[1]]);
            let value = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
            match name {
                frame::ENABLE_PUSH if value != 0 => return Err(Fatal(Code::Protocol)),
                frame::MAX_CONCURRENT_STREAMS => self.streams_max = value,
                frame::INITIAL_WINDOW_SIZE => self.set_stream_window(value)?,
                // Nothing here is longer than what every peer takes.
                frame::MAX_FRAME_SIZE if !(1 << 14..1 << 24).contains(&value) => {
                    return Err(Fatal(Code::Protocol));
                }
                _ => {}
            }
        }
        frame::push(&mut self.out, frame::SETTINGS, frame::ACK, 0, &[]);
        self.answer()
    }

    fn set_stream_window(&mut self, value: u32) -> Result<(), Fatal> {
        let value = i64::from(value);
        if value > WINDOW_MAX {
            return Err(Fatal(Code::FlowControl));
        }
        let more = value - self.stream_window;
        self.stream_window = value;
        for place in self.unfinished.clone() {
            if let State::Open(Open { rest: Some(rest), .. }) = &mut self.slots.get(place).state {
                rest.window += more;
                if rest.window > WINDOW_MAX {
                    return Err(Fatal(Code::FlowControl));
                }
            }
        }
        Ok(())
    }

    fn ping(&mut self, header: Header, payload: &[u8]) -> Result<(), Fatal> {
        if payload.len() != 8 {
            return Err(Fatal(Code::FrameSize));
        }
        if !header.has(frame::ACK) {
            frame::push(&mut self.out, frame::PING, frame::ACK, 0, payload);
            self.answer()?;
        }
        Ok(())
    }

    /// What the peer has not begun it never will, and what was not sent is somebody else's to send.
    fn goodbye(&mut self, payload: &[u8]) -> Result<(), Fatal> {
        let last = frame::number(payload).filter(|_| payload.len() >= 8);
        let last = last.ok_or(Fatal(Code::FrameSize))?;
        self.going = true;
        let lost: Vec<Place> = self
            .streams
            .iter()
            .filter(|(stream, _)| **stream > last)
            .map(|(_, place)| *place)
            .collect();
        for place in lost {
            self.end(place, Ended::Lost);
        }
        while let Some((place, request)) = self.next_queued() {
            self.end(place, Ended::Unsent(request));
        }
        Ok(())
    }

    fn window_update(&mut self, header: Header, payload: &[u8]) -> Result<(), Fatal> {
        let more = frame::number(payload).filter(|_| payload.len() == 4);
        let more = i64::from(more.ok_or(Fatal(Code::FrameSize))?);
        if header.stream == 0 {
            self.window += more;
            if more == 0 || self.window > WINDOW_MAX {
                let code = if more == 0 { Code::Protocol } else { Code::FlowControl };
                return Err(Fatal(code));
            }
            return Ok(());
        }
        self.expect_known(header.stream)?;
        let Some(place) = self.streams.get(&header.stream).copied() else { return Ok(()) };
        let State::Open(open) = &mut self.slots.get(place).state else { return Ok(()) };
        // Where all is sent nobody looks at the window.
        let window = open.rest.as_mut().map(|rest| {
            rest.window += more;
            rest.window
        });
        if more == 0 {
            self.end_badly(place, Code::Protocol, Ended::Lost);
        } else if window.is_some_and(|window| window > WINDOW_MAX) {
            self.end_badly(place, Code::FlowControl, Ended::Lost);
        }
        Ok(())
    }

    /// A stream that nobody opened is one that the peer made up.
    const fn expect_known(&self, stream: u32) -> Result<(), Fatal> {
        if stream % 2 == 1 && stream < self.next_stream {
            Ok(())
        } else {
            Err(Fatal(Code::Protocol))
        }
    }

    /// Something was added to what is to be sent because the peer asked.
    const fn answer(&mut self) -> Result<(), Fatal> {
        self.answers += 1;
        if self.answers > ANSWERS_MAX { Err(Fatal(Code::TooMuch)) } else { Ok(()) }
    }
}
