//! The requests of a connection: a place each, of some fifty bytes while it waits for its answer.

use std::task::Waker;

use super::hpack::Head;

/// A request's place.
pub(super) type Place = u32;

/// A request that is not sent yet.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Unsent {
    /// As HPACK has it.
    pub(super) head: Vec<u8>,
    pub(super) body: Vec<u8>,
}

/// How a request ended.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum Ended {
    /// With an answer. How much of the connection's window it holds.
    Answer { head: Head, body: Vec<u8>, held: u32 },
    /// With an answer that is longer than any may be.
    TooLong,
    /// The peer says that it did nothing with it.
    Refused,
    /// Nobody knows how: it may have arrived.
    Lost,
    /// It was never sent.
    Unsent(Unsent),
}

/// A request on its way.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) stream: u32,
    /// What its body holds of the connection's window.
    pub(super) held: u32,
    pub(super) head: Option<Head>,
    /// What came of the answer's body.
    #[expect(clippy::box_collection, reason = "nearly all requests wait for the first byte of it")]
    pub(super) body: Option<Box<Vec<u8>>>,
    /// What could not be sent of the request's body, for want of a window.
    pub(super) rest: Option<Box<Rest>>,
}

#[derive(Debug)]
pub(super) struct Rest {
    pub(super) body: Vec<u8>,
    pub(super) window: i64,
}

#[derive(Debug)]
pub(super) enum State {
    Free,
    /// It waits for its turn, which has this number.
    Queued(Box<Unsent>, u32),
    Open(Open),
    Ended(Box<Ended>),
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) waker: Option<Waker>,
    /// When it was asked for, in ticks.
    pub(super) since: u32,
    pub(super) state: State,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Slots {
    all: Vec<Slot>,
    free: Vec<Place>,
}

impl Slots {
    pub(super) fn insert(&mut self, state: State, since: u32) -> Place {
        let slot = Slot { waker: None, since, state };
        if let Some(place) = self.free.pop() {
            self.all[place as usize] = slot;
            return place;
        }
        self.all.push(slot);
        // A stream has a number of 31 bits, of which every other is a client's.
        u32::try_from(self.all.len() - 1).expect("fewer requests than streams have numbers")
    }

    pub(super) fn get(&mut self, place: Place) -> &mut Slot {
        &mut self.all[place as usize]
    }

    /// Empties a place; what was in it.
    pub(super) fn free(&mut self, place: Place) -> State {
        let slot = &mut self.all[place as usize];
        slot.waker = None;
        self.free.push(place);
        std::mem::replace(&mut slot.state, State::Free)
    }

    pub(super) fn in_use(&self) -> usize {
        self.all.len() - self.free.len()
    }

    /// The places of requests that match.
    pub(super) fn which(&self, matches: impl Fn(&Slot) -> bool) -> Vec<Place> {
        let places = (0..).zip(&self.all);
        places.filter(|(_, slot)| matches(slot)).map(|(place, _)| place).collect()
    }
}
