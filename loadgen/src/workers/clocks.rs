//! How far a worker's clock is from the coordinator's, by asking it the time.
//!
//! Whoever answers does so at some instant between question and answer: halfway is the best guess, and it is wrong
//! by half of the round trip at most. Of several the shortest round trip counts; the mean would carry the queues of all
//! the others in it.

use vaultmark_hsm::Moment;

use super::messages::Pong;

/// One question and its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// When it was asked, by our clock.
    pub(super) asked: Moment,
    /// When the answer was there.
    pub(super) answered: Moment,
    pub(super) pong: Pong,
}

/// What is known of another clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// Its monotonic clock less ours, nanoseconds. Each begins with its process.
    offset_ns: i128,
    /// Its calendar less ours, nanoseconds.
    pub calendar_offset_ns: i64,
    /// Both may be wrong by so much.
    pub uncertainty_ns: u64,
}

impl Clocks {
    /// From some questions; `None`: there was no answer. `origin_ns`: our own calendar at zero of our clock.
    pub(super) fn of(asked: &[Asked], origin_ns: u64) -> Option<Self> {
        let best = asked.iter().min_by_key(|one| one.answered.since(one.asked))?;
        let (asked, answered) = (best.asked.as_nanos(), best.answered.as_nanos());
        let round_trip = answered.saturating_sub(asked);
        let halfway = i128::from(asked) + i128::from(round_trip / 2);
        let offset_ns = i128::from(best.pong.now_ns) - halfway;
        let calendar = offset_ns + i128::from(best.pong.origin_ns) - i128::from(origin_ns);
        let clamped = calendar.clamp(i128::from(i64::MIN), i128::from(i64::MAX));
        Some(Self {
            offset_ns,
            calendar_offset_ns: i64::try_from(clamped).expect("clamped to it"),
            uncertainty_ns: round_trip.div_ceil(2),
        })
    }

    /// An instant of ours in its clock; `None`: before it began.
    pub(super) fn theirs(&self, at: Moment) -> Option<u64> {
        u64::try_from(i128::from(at.as_nanos()) + self.offset_ns).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_an_answer_nothing_is_known() {
        assert_eq!(Clocks::of(&[], 0), None);
    }

    proptest! {
        /// Whatever the clocks' difference, seconds or years, and however the way there differs from the way back:
        /// the truth lies within what is said.
        #[test]
        fn the_truth_lies_within(
            ours in 1_000_000_000_000_u64..1 << 50,
            ahead in -900_000_000_000_i64..1 << 50,
            calendar in -5_000_000_000_i64..5_000_000_000,
            trips in prop::collection::vec((0..50_000_000_u64, 0..50_000_000_u64), 1..20),
        ) {
            let origin = 1_795_219_200_000_000_000_u64;
            let mut asked = ours;
            let each: Vec<Asked> = trips.iter().map(|(there, back)| {
                let at = asked + there;
                let pong = Pong {
                    now_ns: u64::try_from(i128::from(at) + i128::from(ahead)).unwrap(),
                    origin_ns: u64::try_from(i128::from(origin) - i128::from(ahead) + i128::from(calendar)).unwrap(),
                };
                let one = Asked { asked: Moment::from_nanos(asked), answered: Moment::from_nanos(at + back), pong };
                asked = at + back;
                one
            }).collect();
            let clocks = Clocks::of(&each, origin).unwrap();
            let shortest = trips.iter().map(|(there, back)| there + back).min().unwrap();
            prop_assert_eq!(clocks.uncertainty_ns, shortest.div_ceil(2));
            let wrong = (clocks.offset_ns - i128::from(ahead)).unsigned_abs();
            prop_assert!(wrong <= u128::from(clocks.uncertainty_ns), "{}", wrong);
            let wrong = clocks.calendar_offset_ns.abs_diff(calendar);
            prop_assert!(wrong <= clocks.uncertainty_ns, "{}", wrong);
            let start = Moment::from_nanos(asked + 1_500_000_000);
            let theirs = clocks.theirs(start).unwrap();
            let truth = u64::try_from(i128::from(start.as_nanos()) + i128::from(ahead)).unwrap();
            prop_assert!(theirs.abs_diff(truth) <= clocks.uncertainty_ns);
        }
    }
}
