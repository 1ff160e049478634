//! One connection of HTTP/2, without a socket: bytes in, bytes out (RFC 9113, the client's half).
//!
//! What a peer can make it keep is bounded: a place for each request that somebody waits for; of answers, what the
//! connection's window lets in before somebody takes them; one head; bytes to send up to [`OUT_LEN_MAX`] and a reset
//! for each request that was given up. A peer that wants more answers to its pings and settings than it reads is left.

use std::collections::{HashMap, VecDeque};
use std::task::{Poll, Waker};

use super::frame::{self, Code, PAYLOAD_LEN_MAX};
use super::slots::{Ended, Open, Place, Rest, Slots, State, Unsent};
use crate::vault::channel::FRAME_LEN_MAX;

mod received;

use received::Continuing;

/// Bytes of answers on their way, or here and not taken yet.
pub(super) const WINDOW: u32 = 1 << 20;
/// Bytes of one answer: a frame's, and one more that shows that it is too long.
#[expect(clippy::cast_possible_truncation, reason = "a frame is some hundred bytes")]
const STREAM_WINDOW: u32 = FRAME_LEN_MAX as u32 + 1;
/// What a connection's window is before anybody says otherwise.
const WINDOW_AT_FIRST: u32 = 65_535;
/// Requests sent before the peer has said how many it takes: a relay's default.
const STREAMS_AT_FIRST: u32 = 1_024;
/// Requests that wait for a stream; one more is turned away. With everything in them some 40 MB.
pub(super) const QUEUED_MAX: usize = 1 << 16;
/// Bytes that wait for the socket; then requests wait.
pub(super) const OUT_LEN_MAX: usize = 1 << 18;
/// Bytes of a head, all of its frames together: a relay's has a hundred.
const HEAD_LEN_MAX: u32 = 1 << 14;
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
