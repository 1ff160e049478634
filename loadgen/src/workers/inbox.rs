//! The messages of one worker, put together again: in order, each once, whatever NATS repeats or leaves out.

use std::collections::BTreeMap;

use super::frames::{Frame, Kind, PARTS_MAX};

/// Messages that may wait for one before them: an hour of seconds. A worker is lost long before.
const AHEAD_MAX: u32 = 3_600;

/// What came of one worker and is not taken yet.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    next: u32,
    waiting: BTreeMap<u32, Message>,
    /// Parts that came again.
    pub(super) repeated: u64,
}

#[derive(Debug)]
struct Message {
    kind: Kind,
    parts: Vec<Option<Vec<u8>>>,
}

impl Inbox {
    /// Keeps a part that is not known yet. Whether it was new.
    pub(super) fn put(&mut self, frame: &Frame<'_>) -> bool {
        if frame.number < self.next {
            self.repeated += 1;
            return false;
        }
        if frame.number - self.next > AHEAD_MAX {
            return false;
        }
        let parts = usize::from(frame.parts);
        let message = self
            .waiting
            .entry(frame.number)
            .or_insert_with(|| Message { kind: frame.kind, parts: vec![None; parts] });
        if message.parts.len() != parts || message.kind != frame.kind {
            return false;
        }
        let place = &mut message.parts[usize::from(frame.part)];
        if place.is_some() {
            self.repeated += 1;
            return false;
        }
        *place = Some(frame.bytes.to_vec());
        true
    }

    /// The next message, if all of it is there.
    pub(super) fn take(&mut self) -> Option<(Kind, Vec<u8>)> {
        let message = self.waiting.get(&self.next)?;
        if message.parts.iter().any(Option::is_none) {
            return None;
        }
        let message = self.waiting.remove(&self.next)?;
        self.next += 1;
        Some((message.kind, message.parts.into_iter().flatten().flatten().collect()))
    }

    /// Parts of the messages below `sent` that did not come, the first few; of a message of which nothing came its
    /// first one.
    pub(super) fn missing(&self, sent: u32) -> Vec<(u32, u16)> {
        let numbers = self.next..sent.min(self.next.saturating_add(AHEAD_MAX));
        let of = |number: u32| -> Vec<(u32, u16)> {
            let Some(message) = self.waiting.get(&number) else { return vec![(number, 0)] };
            let parts = (0..PARTS_MAX).zip(&message.parts);
            parts.filter(|(_, it)| it.is_none()).map(|(part, _)| (number, part)).collect()
        };
        numbers.flat_map(of).take(usize::from(PARTS_MAX)).collect()
    }

    /// Messages taken.
    pub(super) const fn taken(&self) -> u32 {
        self.next
    }
}

/// Frames one behind the other, each with its length (2) before it: what comes out was put in.
pub(super) fn fuzz(bytes: &[u8]) {
    let mut inbox = Inbox::default();
    let (mut rest, mut put, mut taken) = (bytes, 0, 0);
    while let Some((len, behind)) = rest.split_first_chunk::<2>() {
        let len = usize::from(u16::from_le_bytes(*len)).min(behind.len());
        let (own, behind) = behind.split_at(len);
        rest = behind;
        let Some(frame) = Frame::decode(own) else { continue };
        assert_eq!(frame.encode(), own);
        put += if inbox.put(&frame) { frame.bytes.len() } else { 0 };
        while let Some((_, message)) = inbox.take() {
            taken += message.len();
        }
        assert!(inbox.missing(u32::MAX).len() <= usize::from(PARTS_MAX));
    }
    assert!(taken <= put);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_did_not_come_is_known() {
        let mut inbox = Inbox::default();
        assert_eq!(inbox.missing(2), [(0, 0), (1, 0)]);
        let frame = Frame {
            kind: Kind::Interval,
            worker: 0,
            number: 1,
            part: 1,
            parts: 3,
            bytes: b"middle",
        };
        assert!(inbox.put(&frame));
        assert!(!inbox.put(&frame), "once");
        assert!(!inbox.put(&Frame { parts: 2, ..frame }), "another length");
        assert!(!inbox.put(&Frame { kind: Kind::Trace, ..frame }), "another kind");
        assert!(!inbox.put(&Frame { number: AHEAD_MAX + 1, ..frame }), "far ahead");
        assert_eq!(inbox.missing(2), [(0, 0), (1, 0), (1, 2)]);
        assert_eq!(inbox.take(), None);
        assert_eq!(inbox.repeated, 1);
    }

    proptest! {
        /// Whatever the order, and however often each comes.
        #[test]
        fn messages_come_out_in_order_and_once(
            lens in prop::collection::vec(0_usize..4, 1..12),
            order in prop::collection::vec(any::<u64>(), 0..200),
        ) {
            let bytes: Vec<Vec<u8>> = lens.iter().map(|len| vec![7; *len]).collect();
            // Parts of one byte, so that a message has several.
            let mut frames: Vec<(u32, u16, u16, &[u8])> = Vec::new();
            for (number, own) in (0..).zip(&bytes) {
                let parts = u16::try_from(own.len().max(1)).unwrap();
                for part in 0..parts {
                    let at = usize::from(part).min(own.len());
                    frames.push((number, part, parts, &own[at..own.len().min(at + 1)]));
                }
            }
            let mut inbox = Inbox::default();
            let mut out = Vec::new();
            let count = u64::try_from(frames.len()).unwrap();
            let some = order.iter().map(|one| usize::try_from(one % count).unwrap());
            // And then all of them, last first.
            for at in some.chain((0..frames.len()).rev()) {
                let (number, part, parts, bytes) = frames[at];
                inbox.put(&Frame { kind: Kind::Interval, worker: 0, number, part, parts, bytes });
                while let Some((_, message)) = inbox.take() {
                    out.push(message);
                }
            }
            prop_assert_eq!(out, bytes);
            prop_assert_eq!(inbox.missing(inbox.taken()), []);
        }

        #[test]
        fn made_up_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            fuzz(&bytes);
        }
    }
}
