//! The same virtual users by two instruments: what each said, and why they differ.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::Quantiles;

/// The newest layout of [`Crosscheck`].
pub const SCHEMA_VERSION: u32 = 1;

/// A scenario's closed journeys by this engine and by another one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Crosscheck {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The scenario's name.
    pub scenario: String,
    /// What was asked, in words.
    pub target: String,
    /// The virtual users, in words.
    pub users: String,
    /// When the first run started, RFC 3339.
    pub started_at: String,
    /// Whoever measured, in the order in which they did.
    pub sides: Vec<Side>,
    /// Quantiles of each request as the other instrument kept them, and as it corrected them.
    pub requests: Vec<OfRequest>,
    /// Why the sides differ, in sentences.
    pub explanations: Vec<String>,
    /// Bundles of our own runs.
    pub bundles: Vec<String>,
}

/// What one instrument said.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Side {
    /// Its name.
    pub name: String,
    /// What its times are, in words.
    pub times: String,
    /// Operations that ended in the measurement phase.
    pub ended: u64,
    /// Of those, not as expected.
    pub unexpected: u64,
    /// Operations a second.
    pub per_s: f64,
    /// Nanoseconds.
    pub ns: Quantiles,
}

/// One kind of request, as the other instrument tells of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OfRequest {
    /// Its name.
    pub name: String,
    /// How often it was made.
    pub made: u64,
    /// Of those, failed.
    pub failed: u64,
    /// As measured, nanoseconds.
    pub ns: Quantiles,
    /// Requests that its correction for coordinated omission made up.
    pub made_up: u64,
    /// With those.
    pub corrected_ns: Quantiles,
}

/// Times as goose keeps them: how many requests took so many milliseconds.
pub type Milliseconds = BTreeMap<usize, usize>;

/// The milliseconds that goose 0.18 keeps of a time: rounded down, from 100 ms on to the nearest ten, from 500 ms on
/// to the nearest hundred, from a second on to the nearest second.
#[must_use]
pub const fn as_goose_keeps(ns: u64) -> u64 {
    let ms = ns / 1_000_000;
    let to = match ms {
        0..100 => 1,
        100..500 => 10,
        500..1_000 => 100,
        _ => 1_000,
    };
    (ms + to / 2) / to * to
}

/// The quantiles of such times: the nearest rank, as everywhere else.
#[must_use]
pub fn quantiles(times: &Milliseconds) -> Quantiles {
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let all: u64 = times.values().map(|n| count(*n)).sum();
    let at = |q: f64| {
        let rank = crate::hist::rank(all, q);
        let mut seen = 0;
        times.iter().find_map(|(ms, n)| {
            seen += count(*n);
            (all > 0 && seen >= rank).then(|| count(*ms) * 1_000_000)
        })
    };
    Quantiles { p50: at(0.5), p90: at(0.9), p99: at(0.99), p99_9: at(0.999), max: at(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goose_rounds_by_the_size() {
        for (us, kept) in [
            (0, 0),
            (999, 0),
            (1_000, 1),
            (99_999, 99),
            (104_000, 100),
            (105_000, 110),
            (499_000, 500),
            (549_000, 500),
            (550_000, 600),
            (999_999, 1_000),
            (1_499_000, 1_000),
            (1_500_000, 2_000),
        ] {
            assert_eq!(as_goose_keeps(us * 1_000), kept, "{us} us");
        }
    }

    #[test]
    fn quantiles_are_nearest_ranks() {
        let times = Milliseconds::from([(1, 50), (2, 40), (7, 9), (90, 1)]);
        let ms = |ms: u64| Some(ms * 1_000_000);
        let Quantiles { p50, p90, p99, p99_9, max } = quantiles(&times);
        assert_eq!([p50, p90, p99, p99_9, max], [ms(1), ms(2), ms(7), ms(90), ms(90)]);
        assert_eq!(quantiles(&Milliseconds::new()).max, None);
    }
}
