//! Putting what a lossy wire carries back in order: what arrives twice counts once, what arrives
//! early waits, and what belongs to a stream that is over is told from what belongs to the present
//! one.

use std::collections::{BTreeMap, VecDeque};

use super::packet::StreamId;

/// Lives of a sender that are remembered as over. Few: a frame of an older life that is mistaken for
/// a new stream costs the present one a fresh start, and nothing else.
const PAST_MAX: usize = 4;

/// Things with places, handed on in order.
#[derive(Debug)]
pub(super) struct Reorder<T> {
    next: u64,
    held: BTreeMap<u64, T>,
}

/// What became of something that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It is kept until its turn, which may be now.
    Kept,
    /// It had arrived before.
    Seen,
    /// It is further ahead than its sender may go.
    TooFar,
}

impl<T> Default for Reorder<T> {
    fn default() -> Self {
        Self { next: 0, held: BTreeMap::new() }
    }
}

impl<T> Reorder<T> {
    /// Takes in what has this place; nothing from `limit` on is kept.
    pub(super) fn arrive(&mut self, place: u64, thing: T, limit: u64) -> Arrival {
        if place < self.next {
            return Arrival::Seen;
        }
        if place >= limit {
            return Arrival::TooFar;
        }
        drop(self.held.insert(place, thing));
        Arrival::Kept
    }

    /// What comes next, if it is here.
    pub(super) fn ready(&mut self) -> Option<T> {
        let thing = self.held.remove(&self.next)?;
        self.next += 1;
        Some(thing)
    }
}

/// The present stream of a sender.
#[derive(Debug, Default)]
pub(super) struct Present {
    stream: StreamId,
    past: VecDeque<u64>,
}

/// How a stream relates to the present one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    Present,
    Newer,
    Over,
}

impl Present {
    pub(super) fn judge(&self, stream: StreamId) -> Age {
        if stream == self.stream {
            Age::Present
        } else if stream.life == self.stream.life && stream.number < self.stream.number
            || self.past.contains(&stream.life)
        {
            Age::Over
        } else {
            Age::Newer
        }
    }

    /// Makes a newer stream the present one.
    pub(super) fn begin(&mut self, stream: StreamId) {
        if stream.life != self.stream.life {
            self.past.push_back(self.stream.life);
            if self.past.len() > PAST_MAX {
                self.past.pop_front();
            }
        }
        self.stream = stream;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_wire_does_each_comes_once_and_in_order() {
        let arrivals = [1, 0, 0, 3, 2, 9, 3, 4];
        let mut order = Reorder::default();
        let mut out = Vec::new();
        let mut said = Vec::new();
        for place in arrivals {
            said.push(order.arrive(place, place, 8));
            out.extend(std::iter::from_fn(|| order.ready()));
        }
        assert_eq!(out, [0, 1, 2, 3, 4]);
        use Arrival::{Kept, Seen, TooFar};
        assert_eq!(said, [Kept, Kept, Seen, Kept, Kept, TooFar, Seen, Kept]);
    }

    #[test]
    fn a_stream_that_is_over_stays_over() {
        let stream = |life, number| StreamId { life, number };
        let mut present = Present::default();
        present.begin(stream(7, 3));
        for (seen, age) in [
            (stream(7, 3), Age::Present),
            (stream(7, 2), Age::Over),
            (stream(7, 4), Age::Newer),
            (stream(8, 1), Age::Newer),
        ] {
            assert_eq!(present.judge(seen), age, "{seen:?}");
        }
        present.begin(stream(8, 1));
        assert_eq!(present.judge(stream(7, 9)), Age::Over);
    }
}
