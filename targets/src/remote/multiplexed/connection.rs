//! One connection of HTTP/2, without a socket: bytes in, bytes out (RFC 9113, the client's half).
//!
//! What a peer can make it keep is bounded: a place for each request that somebody waits for; of answers, what the
//! connection's window lets in before somebody takes them; one head; bytes to send up to [`OUT_LEN_MAX`] and a reset
//! for each request that was given up. A peer that wants more answers to its pings and settings than it reads is left.

use std::collections::{HashMap, VecDeque};
use std::task::{Poll, Waker};

use super::frame::{self, Code, HEADER_LEN, Header, PAYLOAD_LEN_MAX};
use super::hpack;
use super::slots::{Ended, Open, Place, Rest, Slots, State, Unsent};
use crate::vault::channel::FRAME_LEN_MAX;

/// Bytes of answers on their way, or here and not taken yet.
pub(super) const WINDOW: u32 = 1 << 20;
/// Bytes of one answer: a frame's, and one more that shows that it is too long.
#[expect(clippy::cast_possible_truncation, reason = "a frame is some hundred bytes")]
const STREAM_WINDOW: u32 = FRAME_LEN_MAX as u32 + 1;
/// What a connection's window is before anybody says otherwise.
const WINDOW_AT_FIRST: u32 = 65_535;
const WINDOW_MAX: i64 = (1 << 31) - 1;
/// Requests sent before the peer has said how many it takes: a relay's default.
const STREAMS_AT_FIRST: u32 = 1_024;
/// Requests that wait for a stream; one more is turned away. With everything in them some 40 MB.
pub(super) const QUEUED_MAX: usize = 1 << 16;
/// Bytes that wait for the socket; then requests wait.
pub(super) const OUT_LEN_MAX: usize = 1 << 18;
/// Bytes of a head, all of its frames together: a relay's has a hundred.
const HEAD_LEN_MAX: u32 = 1 << 14;
/// Answers to pings and settings that wait for the socket.
const ANSWERS_MAX: u32 = 1_024;
/// The last number that a client's stream may have.
const STREAM_MAX: u32 = (1 << 31) - 1;

/// A connection's error: it is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fatal(pub(super) Code);

/// A request that is not taken, and why.
#[derive(Debug)]
pub(super) enum Refused {
    /// The connection has ended, or is about to.
    Gone(Unsent),
    /// Too many wait already.
    Full,
}

/// A head of which more frames are to come.
#[derive(Debug)]
struct Continuing {
    stream: u32,
    ends: bool,
    block: Vec<u8>,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// A frame that has not come whole.
    pending: Vec<u8>,
    out: Vec<u8>,
    slots: Slots,
    /// Open streams.
    streams: HashMap<u32, Place>,
    /// Places, with the turn that they have it for; of those given up some may still be here.
    queue: VecDeque<(Place, u32)>,
    queued: usize,
    turn: u32,
    next_stream: u32,
    continuing: Option<Continuing>,
    /// What the peer said.
    streams_max: u32,
    window: i64,
    stream_window: i64,
    /// Requests with a body that is not sent whole.
    unfinished: Vec<Place>,
    /// What the peer may still send, and what is to be given back to it.
    receivable: i64,
    credit: u32,
    answers: u32,
    /// The peer's first settings have come.
    settled: bool,
    /// No further streams: the peer said goodbye, or the numbers are used up.
    going: bool,
    broken: bool,
    /// Nobody asks any more.
    closing: bool,
    ticks: u32,
    woken: Vec<Waker>,
}

impl Connection {
    pub(super) fn new() -> Self {
        let mut out = frame::PREFACE.to_vec();
        let settings = [
            (frame::HEADER_TABLE_SIZE, 0),
            (frame::ENABLE_PUSH, 0),
            (frame::INITIAL_WINDOW_SIZE, STREAM_WINDOW),
            (frame::MAX_HEADER_LIST_SIZE, HEAD_LEN_MAX),
        ];
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend_from_slice(&name.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        frame::push(&mut out, frame::SETTINGS, 0, 0, &payload);
        let more = (WINDOW - WINDOW_AT_FIRST).to_be_bytes();
        frame::push(&mut out, frame::WINDOW_UPDATE, 0, 0, &more);
        Self {
            pending: Vec::new(),
            out,
            slots: Slots::default(),
            streams: HashMap::new(),
            queue: VecDeque::new(),
            queued: 0,
            turn: 0,
            next_stream: 1,
            continuing: None,
            streams_max: STREAMS_AT_FIRST,
            window: WINDOW_AT_FIRST.into(),
            stream_window: WINDOW_AT_FIRST.into(),
            unfinished: Vec::new(),
            receivable: WINDOW.into(),
            credit: 0,
            answers: 0,
            settled: false,
            going: false,
            broken: false,
            closing: false,
            ticks: 0,
            woken: Vec::new(),
        }
    }

    /// Whether it takes requests.
    pub(super) const fn is_open(&self) -> bool {
        !self.broken && !self.going
    }

    /// Whether the socket has nothing more to do.
    pub(super) fn is_done(&self) -> bool {
        (self.closing || self.going) && self.slots.in_use() == 0
    }

    pub(super) const fn has_out(&self) -> bool {
        !self.out.is_empty()
    }

    /// Nobody asks any more: it ends with its last request.
    pub(super) const fn close(&mut self) {
        self.closing = true;
    }

    /// Who is to be woken.
    pub(super) fn take_woken(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.woken)
    }

    /// Hands out what is to be sent, and makes more of it out of what waits.
    pub(super) fn take_out(&mut self, out: &mut Vec<u8>) {
        out.clear();
        std::mem::swap(out, &mut self.out);
        self.answers = 0;
        self.advance();
    }

    /// Takes a request in.
    pub(super) fn ask(&mut self, request: Unsent) -> Result<Place, Refused> {
        if !self.is_open() || request.head.len() > PAYLOAD_LEN_MAX {
            return Err(Refused::Gone(request));
        }
        if self.queued >= QUEUED_MAX {
            return Err(Refused::Full);
        }
        let place = self.slots.insert(State::Free, self.ticks);
        if self.queued == 0 && self.may_open(request.body.len()) {
            self.open(place, request);
        } else {
            self.turn = self.turn.wrapping_add(1);
            self.slots.get(place).state = State::Queued(Box::new(request), self.turn);
            self.queue.push_back((place, self.turn));
            self.queued += 1;
        }
        Ok(place)
    }

    /// How a request ended, which frees its place; or who is to be woken then.
    pub(super) fn poll(&mut self, place: Place, waker: &Waker) -> Poll<Ended> {
        let slot = self.slots.get(place);
        if !matches!(slot.state, State::Ended(_)) {
            match &mut slot.waker {
                Some(old) => old.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
            return Poll::Pending;
        }
        let State::Ended(ended) = self.slots.free(place) else { return Poll::Ready(Ended::Lost) };
        if let Ended::Answer { held, .. } = *ended {
            self.give_back(held);
        }
        Poll::Ready(*ended)
    }

    /// Whoever waited for it does so no more.
    pub(super) fn give_up(&mut self, place: Place) {
        match self.slots.free(place) {
            State::Free => {}
            State::Queued(..) => self.unqueue(),
            State::Open(open) => {
                self.reset(open.stream, Code::Cancel);
                self.streams.remove(&open.stream);
                self.give_back(open.held);
            }
            State::Ended(ended) => {
                if let Ended::Answer { held, .. } = *ended {
                    self.give_back(held);
                }
            }
        }
        self.advance();
    }

    /// A second has passed: whoever has waited for more than so many is told that nobody answered.
    pub(super) fn tick(&mut self, patience: u32) {
        self.ticks = self.ticks.wrapping_add(1);
        let now = self.ticks;
        let late = self.slots.which(|slot| {
            let waits = matches!(slot.state, State::Queued(..) | State::Open(_));
            waits && now.wrapping_sub(slot.since) > patience
        });
        for place in late {
            let slot = self.slots.get(place);
            match std::mem::replace(&mut slot.state, State::Ended(Box::new(Ended::Lost))) {
                State::Queued(..) => self.unqueue(),
                State::Open(open) => {
                    self.reset(open.stream, Code::Cancel);
                    self.streams.remove(&open.stream);
                    self.give_back(open.held);
                }
                State::Free | State::Ended(_) => {}
            }
            self.woken.extend(self.slots.get(place).waker.take());
        }
        self.advance();
    }

    /// The connection has ended: so has whatever waits for it.
    pub(super) fn fail(&mut self) {
        self.broken = true;
        while let Some((place, request)) = self.next_queued() {
            self.end(place, Ended::Unsent(request));
        }
        for place in self.slots.which(|slot| matches!(slot.state, State::Open(_))) {
            self.end(place, Ended::Lost);
        }
    }

    /// Takes bytes in.
    ///
    /// # Errors
    /// The peer broke the rules: what is to be sent then says which, and nothing more is to be read.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<(), Fatal> {
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

    fn give_back(&mut self, bytes: u32) {
        self.credit += bytes;
        if self.credit >= WINDOW / 2 && !self.broken {
            frame::push(&mut self.out, frame::WINDOW_UPDATE, 0, 0, &self.credit.to_be_bytes());
            self.receivable += i64::from(self.credit);
            self.credit = 0;
        }
    }

    fn reset(&mut self, stream: u32, code: Code) {
        if !self.broken {
            let code = (code as u32).to_be_bytes();
            frame::push(&mut self.out, frame::RST_STREAM, 0, stream, &code);
        }
    }

    /// The answer is complete.
    fn answered(&mut self, place: Place) {
        let State::Open(open) = &mut self.slots.get(place).state else { return };
        let Some(head) = open.head else { return };
        let body = open.body.take().map_or_else(Vec::new, |body| *body);
        let (held, stream) = (std::mem::take(&mut open.held), open.stream);
        if open.rest.is_some() {
            // It was answered before it was sent whole: the rest is not wanted (section 8.1).
            self.reset(stream, Code::None);
        }
        self.end(place, Ended::Answer { head, body, held });
    }

    fn end_badly(&mut self, place: Place, code: Code, ended: Ended) {
        if let State::Open(open) = &self.slots.get(place).state {
            let stream = open.stream;
            self.reset(stream, code);
        }
        self.end(place, ended);
    }

    fn end(&mut self, place: Place, ended: Ended) {
        let slot = self.slots.get(place);
        let was = std::mem::replace(&mut slot.state, State::Ended(Box::new(ended)));
        self.woken.extend(slot.waker.take());
        if let State::Open(open) = was {
            self.streams.remove(&open.stream);
            self.give_back(open.held);
        }
    }

    fn unqueue(&mut self) {
        self.queued -= 1;
        // Those given up are passed over when their turn comes, unless there are very many.
        if self.queue.len() > 2 * self.queued + 64 {
            let slots = &mut self.slots;
            self.queue.retain(|(place, turn)| {
                matches!(&slots.get(*place).state, State::Queued(_, own) if own == turn)
            });
        }
    }

    /// Takes out whose turn it is.
    fn next_queued(&mut self) -> Option<(Place, Unsent)> {
        loop {
            let (place, turn) = self.queue.pop_front()?;
            let slot = self.slots.get(place);
            if !matches!(&slot.state, State::Queued(_, own) if *own == turn) {
                continue;
            }
            self.queued -= 1;
            let State::Queued(request, _) = std::mem::replace(&mut slot.state, State::Free) else {
                continue;
            };
            return Some((place, *request));
        }
    }

    fn may_open(&self, body_len: usize) -> bool {
        let streams = u32::try_from(self.streams.len()).unwrap_or(u32::MAX);
        let body = i64::try_from(body_len).unwrap_or(i64::MAX);
        self.is_open()
            && streams < self.streams_max
            && self.window >= body
            && self.out.len() < OUT_LEN_MAX
    }

    /// Sends what waits, as far as the peer lets it.
    fn advance(&mut self) {
        if self.broken {
            return;
        }
        if !self.unfinished.is_empty() {
            let unfinished = std::mem::take(&mut self.unfinished);
            for place in unfinished {
                self.send_rest(place);
            }
        }
        while let Some((place, turn)) = self.queue.front().copied() {
            match &self.slots.get(place).state {
                State::Queued(request, own) if *own == turn => {
                    let body = request.body.len();
                    if !self.may_open(body) {
                        return;
                    }
                }
                _ => {
                    self.queue.pop_front();
                    continue;
                }
            }
            if let Some((place, request)) = self.next_queued() {
                self.open(place, request);
            }
        }
    }

    /// Sends a request.
    fn open(&mut self, place: Place, Unsent { head, body }: Unsent) {
        let stream = self.next_stream;
        self.next_stream += 2;
        // The next connection begins anew.
        self.going |= self.next_stream > STREAM_MAX;
        let ends = if body.is_empty() { frame::END_STREAM } else { 0 };
        frame::push(&mut self.out, frame::HEADERS, frame::END_HEADERS | ends, stream, &head);
        self.streams.insert(stream, place);
        let rest = (!body.is_empty()).then(|| Box::new(Rest { body, window: self.stream_window }));
        let open = Open { stream, held: 0, head: None, body: None, rest };
        self.slots.get(place).state = State::Open(open);
        self.send_rest(place);
    }

    /// Sends of a request's body what the windows let through.
    fn send_rest(&mut self, place: Place) {
        let State::Open(open) = &mut self.slots.get(place).state else { return };
        while let Some(rest) = &mut open.rest {
            let room = self.window.min(rest.window).max(0);
            let room = usize::try_from(room).unwrap_or(usize::MAX).min(PAYLOAD_LEN_MAX);
            let len = rest.body.len().min(room);
            if len == 0 {
                self.unfinished.push(place);
                return;
            }
            let ends = len == rest.body.len();
            let flags = if ends { frame::END_STREAM } else { 0 };
            frame::push(&mut self.out, frame::DATA, flags, open.stream, &rest.body[..len]);
            let sent = i64::try_from(len).unwrap_or(0);
            self.window -= sent;
            rest.window -= sent;
            rest.body.drain(..len);
            if ends {
                open.rest = None;
            }
        }
    }
}
