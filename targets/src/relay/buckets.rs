//! Token buckets: how often something may be asked, for each of very many.
//!
//! What is remembered is bounded without forgetting anybody who could gain by it: a bucket that was
//! not touched for as long as it takes to fill is full, which is the same as not being there. Two
//! tables take turns, each for that long, and what was touched in neither is forgotten.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use vaultmark_hsm::Moment;

/// Locks that share the buckets: more than the cores of a relay.
const SHARDS: usize = 16;

/// A rate, and how much may come at once.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Requests a second, in the long run.
    pub per_second: u32,
    /// Requests at once, after a silence.
    pub burst: u32,
}

/// What a bucket says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Go on.
    Within,
    /// Too often: room for one more is that far away.
    Beyond(Duration),
    /// There are too many to remember one more.
    Crowded,
}

/// Buckets of one rate, for everybody.
#[derive(Debug)]
pub(super) struct Buckets<K> {
    /// Time that one request takes up; a bucket holds `burst` times that.
    each_ns: u64,
    full_ns: u64,
    entries_max_per_shard: usize,
    hasher: RandomState,
    shards: [Mutex<Shard<K>>; SHARDS],
}

/// A bucket is the instant at which it is full again: it has room for one more request while that is
/// less than all but one request ahead.
#[derive(Debug)]
struct Shard<K> {
    turn: u64,
    now: HashMap<K, u64>,
    before: HashMap<K, u64>,
}

impl<K: Clone + Eq + Hash> Buckets<K> {
    /// Buckets for at most about so many at a time.
    pub(super) fn new(rate: Rate, entries_max: usize) -> Self {
        let each_ns = 1_000_000_000 / u64::from(rate.per_second.clamp(1, 1_000_000_000));
        Self {
            each_ns,
            full_ns: each_ns * u64::from(rate.burst.max(1)),
            entries_max_per_shard: entries_max.div_ceil(SHARDS),
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| {
                Mutex::new(Shard { turn: 0, now: HashMap::new(), before: HashMap::new() })
            }),
        }
    }

    /// Takes one from somebody's bucket.
    pub(super) fn take(&self, key: &K, now: Moment) -> Verdict {
        let place = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        let mut shard = self.shards[place].lock().unwrap_or_else(PoisonError::into_inner);
        let now_ns = now.as_nanos();
        shard.turn_to(now_ns / self.full_ns);
        let full_at = match shard.now.get(key) {
            Some(full_at) => *full_at,
            None if shard.now.len() >= self.entries_max_per_shard => return Verdict::Crowded,
            None => shard.before.get(key).copied().unwrap_or(0),
        };
        let full_at = full_at.max(now_ns) + self.each_ns;
        if let Some(ahead) = full_at.checked_sub(now_ns + self.full_ns).filter(|ahead| *ahead > 0) {
            return Verdict::Beyond(Duration::from_nanos(ahead));
        }
        match shard.now.get_mut(key) {
            Some(kept) => *kept = full_at,
            None => drop(shard.now.insert(key.clone(), full_at)),
        }
        Verdict::Within
    }
}

impl<K> Shard<K> {
    fn turn_to(&mut self, turn: u64) {
        if turn == self.turn {
            return;
        }
        // One turn later the others may still be filling; two turns later nobody is.
        let next = turn == self.turn + 1;
        std::mem::swap(&mut self.now, &mut self.before);
        self.now.clear();
        if !next {
            self.before.clear();
        }
        self.turn = turn;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate { per_second: 10, burst: 5 };

    fn at(ms: u64) -> Moment {
        Moment::ZERO.after(Duration::from_millis(ms))
    }

    #[test]
    fn a_burst_then_the_rate() {
        let buckets = Buckets::new(RATE, 1_000);
        for _ in 0..5 {
            assert_eq!(buckets.take(&1, at(0)), Verdict::Within);
        }
        assert_eq!(buckets.take(&1, at(0)), Verdict::Beyond(Duration::from_millis(100)));
        assert_eq!(buckets.take(&1, at(99)), Verdict::Beyond(Duration::from_millis(1)));
        assert_eq!(buckets.take(&2, at(99)), Verdict::Within);
        assert_eq!(buckets.take(&1, at(100)), Verdict::Within);
        assert_eq!(buckets.take(&1, at(100)), Verdict::Beyond(Duration::from_millis(100)));
        for _ in 0..5 {
            assert_eq!(buckets.take(&1, at(10_000)), Verdict::Within);
        }
        assert!(matches!(buckets.take(&1, at(10_000)), Verdict::Beyond(_)));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_comes_free_again() {
        let buckets = Buckets::new(RATE, 160);
        let taken = (0..10_000).filter(|key| buckets.take(key, at(0)) == Verdict::Within).count();
        assert_eq!(taken, 160);
        assert_eq!(buckets.take(&20_000, at(0)), Verdict::Crowded);
        assert_eq!(buckets.take(&20_000, at(1_000)), Verdict::Within);
        let held: usize = buckets
            .shards
            .iter()
            .map(|shard| shard.lock().unwrap())
            .map(|shard| shard.now.len() + shard.before.len())
            .sum();
        assert!(held <= 320, "{held}");
    }

    proptest! {
        /// Whenever they come: never more in any stretch of time than the burst and the rate allow.
        #[test]
        fn never_more_than_burst_and_rate(gaps in proptest::collection::vec(0_u64..400, 1..200)) {
            let buckets = Buckets::new(RATE, 1_000);
            let mut now_ms = 0;
            let mut within = Vec::new();
            for gap in gaps {
                now_ms += gap;
                if buckets.take(&1, at(now_ms)) == Verdict::Within {
                    within.push(now_ms);
                }
            }
            for (index, from) in within.iter().enumerate() {
                for (later, to) in within.iter().enumerate().skip(index) {
                    let count = later - index + 1;
                    let allowed = 5 + (to - from) / 100;
                    prop_assert!(count as u64 <= allowed, "{count} in {} ms", to - from);
                }
            }
        }
    }
}
