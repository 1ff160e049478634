//! The one shape of histogram, and the one definition of a quantile, that table, chart, rule,
//! terminal and JSON share. What the quantiles of a run are is `totals.rs`.
//!
//! A quantile is the nearest rank: of n operations in order of time, the q-quantile is number
//! ⌈q · n⌉ (at least number 1). It is told as the upper end of that operation's bin, so it is never
//! too small, and too large by less than 0.1 %.

use hdrhistogram::Histogram;

use crate::model::Quantiles;
use crate::units::{float, whole};

/// Longest time that is measured, nanoseconds (137 s): where the bins that cover two minutes end.
/// What is longer is counted here and told as clipped.
pub const HIGHEST_NS: u64 = (1 << 37) - 1;

/// Shortest time that is told apart from zero. One nanosecond keeps three digits down to what a
/// null target takes; coarser bounds would save memory, not time.
const LOWEST_NS: u64 = 1;

/// Three digits (DESIGN.md).
const DIGITS: u8 = 3;

/// A quantile rests on at least this many operations beyond it, or it is told as under-sampled.
pub const SAMPLES_ABOVE_MIN: u64 = 10;

/// An empty histogram of nanoseconds: 224 KiB, allocated here and never again.
#[must_use]
pub fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(LOWEST_NS, HIGHEST_NS, DIGITS)
        .expect("the bounds are constants that a test creates a histogram with")
}

/// Counts one time, and says whether it was clipped: longer than [`HIGHEST_NS`], counted there.
pub fn record(histogram: &mut Histogram<u64>, ns: u64) -> bool {
    histogram.saturating_record(ns.min(HIGHEST_NS));
    ns > HIGHEST_NS
}

/// Adds one histogram to another.
pub fn add(sum: &mut Histogram<u64>, more: &Histogram<u64>) {
    sum.add(more).expect("every histogram of a run has the bounds of new_histogram");
}

/// A quantile of operations some of which may never have ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantile {
    /// Nanoseconds.
    Value(u64),
    /// It falls among those that are infinitely slow.
    Infinite,
    /// There was no operation.
    NoSamples,
}

/// The q-quantile of what a histogram holds; `None` if that is nothing.
#[must_use]
pub fn quantile(histogram: &Histogram<u64>, q: f64) -> Option<u64> {
    match quantile_over(histogram, histogram.len(), q) {
        Quantile::Value(ns) => Some(ns),
        Quantile::Infinite | Quantile::NoSamples => None,
    }
}

/// The q-quantile of `intended` operations, of which those that the histogram does not hold are
/// infinitely slow.
#[must_use]
pub fn quantile_over(histogram: &Histogram<u64>, intended: u64, q: f64) -> Quantile {
    let n = intended.max(histogram.len());
    if n == 0 {
        return Quantile::NoSamples;
    }
    let rank = rank(n, q);
    if rank > histogram.len() {
        return Quantile::Infinite;
    }
    // `value_at_quantile` multiplies the quantile by the count and rounds up, and the product of
    // an inexact quantile may lie just above a whole number. Half a rank below the rank rounds up
    // to it whatever the last bits are (up to 2^51 operations).
    let halfway = (float(rank) - 0.5) / float(histogram.len());
    Quantile::Value(histogram.value_at_quantile(halfway))
}

/// The standard normal distribution's 0.95-quantile: one-sided bounds of 95 %.
const Z_95: f64 = 1.645;

/// The upper end of a one-sided 95 % confidence interval of the q-quantile of `intended` operations, as
/// [`quantile_over`] takes them: the order statistic at q + 1.645 · √(q(1 − q) / n), whatever the times'
/// distribution (Conover, Practical Nonparametric Statistics, 3rd ed., 3.2). Infinite where so few
/// operations have none, and where it falls among the infinitely slow.
#[must_use]
pub fn upper_bound_over(histogram: &Histogram<u64>, intended: u64, q: f64) -> Quantile {
    let n = intended.max(histogram.len());
    if n == 0 {
        return Quantile::NoSamples;
    }
    let above = q + Z_95 * (q * (1.0 - q) / float(n)).sqrt();
    if above < 1.0 { quantile_over(histogram, intended, above) } else { Quantile::Infinite }
}

/// The fewest operations whose q-quantile has an upper bound; `None`: however many there are (the slowest).
#[must_use]
pub fn samples_for_bound(q: f64) -> Option<u64> {
    // q + z √(q(1 − q) / n) < 1 is n > z² q / (1 − q).
    (q < 1.0).then(|| whole((Z_95 * Z_95 * q / (1.0 - q)).floor()) + 1)
}

/// Whether fewer than ten of n operations lie above their q-quantile. The slowest (q = 1) has none
/// above it and is not meant to.
#[must_use]
pub fn under_sampled(n: u64, q: f64) -> bool {
    q < 1.0 && (n == 0 || n - rank(n, q) < SAMPLES_ABOVE_MIN)
}

impl Quantiles {
    /// The list, of what a histogram holds.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>) -> Self {
        Self::over(histogram, histogram.len())
    }

    /// The list, of `intended` operations, of which those that the histogram does not hold are
    /// infinitely slow.
    #[must_use]
    pub fn over(histogram: &Histogram<u64>, intended: u64) -> Self {
        let n = intended.max(histogram.len());
        let at = |q: f64| match quantile_over(histogram, n, q) {
            Quantile::Value(ns) if q >= 1.0 || rank(n, q) < n => Some(ns),
            _ => None,
        };
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p99_9: at(0.999), max: at(1.0) }
    }
}

/// One point of a percentile curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CurvePoint {
    /// −log10(1 − q): 0 is the fastest, 1 is p90, 2 is p99.
    pub x: f64,
    /// The q-quantile, nanoseconds.
    pub ns: u64,
}

/// The percentile curve of `intended` operations (as [`quantile_over`] takes it; the histogram's
/// own count for what it holds). Ends where fewer than ten operations lie above, or where the
/// infinitely slow begin; empty if that is at once.
#[must_use]
pub fn curve(histogram: &Histogram<u64>, intended: u64) -> Vec<CurvePoint> {
    // Fifty points from one power of ten to the next: smooth at any width, and p90, p99 and p99.9
    // are among them.
    const STEPS: u64 = 50;
    let n = intended.max(histogram.len());
    (0..)
        .map(|step| {
            let x = float(step) / float(STEPS);
            (x, 1.0 - 10_f64.powf(-x))
        })
        .take_while(|&(_, q)| !under_sampled(n, q))
        .map_while(|(x, q)| match quantile_over(histogram, n, q) {
            Quantile::Value(ns) => Some(CurvePoint { x, ns }),
            Quantile::Infinite | Quantile::NoSamples => None,
        })
        .collect()
}

/// ⌈q · n⌉ from 1 to n, with q taken to nine decimals: 0.07 · 100 is 7, not 7.000000000000001.
pub(crate) fn rank(n: u64, q: f64) -> u64 {
    const DECIMALS: u32 = 1_000_000_000;
    let share = u128::from(whole(q.clamp(0.0, 1.0) * f64::from(DECIMALS)));
    let rank = (share * u128::from(n)).div_ceil(u128::from(DECIMALS));
    u64::try_from(rank).expect("a share of n is at most n").max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: impl IntoIterator<Item = u64>) -> Histogram<u64> {
        let mut histogram = new_histogram();
        for value in values {
            assert!(!record(&mut histogram, value));
        }
        histogram
    }

    #[test]
    fn ranks_are_exact_where_floating_point_is_not() {
        for (n, q, expected) in [
            (100, 0.07, 7),
            (100, 0.5, 50),
            (101, 0.5, 51),
            (1_000, 0.999, 999),
            (1_000, 0.9, 900),
            (100, 0.29, 29),
            (1, 0.5, 1),
            (7, 0.0, 1),
            (7, 1.0, 7),
            (10_000_000_000, 0.99, 9_900_000_000),
        ] {
            assert_eq!(rank(n, q), expected, "n {n}, q {q}");
        }
    }

    #[test]
    fn what_did_not_end_well_is_infinitely_slow() {
        // Values below 2,048 ns have a bin each, so quantiles are exact here.
        let histogram = of(1..=100);
        let check = |intended, q, expected| {
            assert_eq!(quantile_over(&histogram, intended, q), expected, "{intended} {q}");
        };
        check(100, 0.99, Quantile::Value(99));
        check(100, 1.0, Quantile::Value(100));
        check(101, 1.0, Quantile::Infinite);
        check(101, 0.99, Quantile::Value(100));
        check(200, 0.5, Quantile::Value(100));
        check(200, 0.505, Quantile::Infinite);
        assert_eq!(quantile_over(&new_histogram(), 0, 0.5), Quantile::NoSamples);
        assert_eq!(quantile_over(&new_histogram(), 5, 0.5), Quantile::Infinite);
        assert_eq!(quantile(&new_histogram(), 0.5), None);
    }

    #[test]
    fn the_list_is_null_where_nothing_lies_above() {
        let all = Quantiles::of(&of(1..=1_000));
        assert_eq!((all.p50, all.p99_9, all.max), (Some(500), Some(999), Some(1_000)));
        let few = Quantiles::of(&of(1..=100));
        assert_eq!((few.p90, few.p99, few.p99_9, few.max), (Some(90), Some(99), None, Some(100)));
        assert_eq!(Quantiles::of(&new_histogram()), Quantiles::default());
        let broken = Quantiles::over(&of(1..=980), 1_000);
        assert_eq!((broken.p90, broken.p99, broken.max), (Some(900), None, None));
    }

    #[test]
    fn a_bound_needs_so_many_operations() {
        for (q, n) in [(0.5, 3), (0.9, 25), (0.99, 268), (0.999, 2_704)] {
            assert_eq!(samples_for_bound(q), Some(n), "{q}");
            let bound = |n| upper_bound_over(&of(1..=n), n, q);
            assert!(matches!(bound(n), Quantile::Value(_)), "{q}: {n}");
            assert_eq!(bound(n - 1), Quantile::Infinite, "{q}: {n} less one");
        }
        assert_eq!(samples_for_bound(1.0), None);
        assert_eq!(upper_bound_over(&of(1..=9), 9, 1.0), Quantile::Infinite);
        assert_eq!(upper_bound_over(&new_histogram(), 0, 0.5), Quantile::NoSamples);
        // 0.99 + 1.645 · √(0.0099 / 1,000) is 0.99518: number 996 of 1,000.
        assert_eq!(upper_bound_over(&of(1..=1_000), 1_000, 0.99), Quantile::Value(996));
        // Of 1,000, five never ended well: number 996 is one of them, the quantile itself is not.
        assert_eq!(upper_bound_over(&of(1..=995), 1_000, 0.99), Quantile::Infinite);
        assert_eq!(quantile_over(&of(1..=995), 1_000, 0.99), Quantile::Value(990));
    }

    #[test]
    fn ten_above_or_under_sampled() {
        for (n, q, expected) in [
            (0, 0.5, true),
            (1_000, 0.99, false),
            (999, 0.99, true),
            (100, 0.9, false),
            (99, 0.9, true),
            (1, 1.0, false),
        ] {
            assert_eq!(under_sampled(n, q), expected, "{n} {q}");
        }
    }

    #[test]
    fn a_time_beyond_the_bound_is_clipped_and_told() {
        let mut histogram = new_histogram();
        assert!(!record(&mut histogram, HIGHEST_NS));
        assert!(record(&mut histogram, HIGHEST_NS + 1));
        assert!(record(&mut histogram, u64::MAX));
        assert!(!record(&mut histogram, 0));
        assert_eq!(histogram.len(), 4);
        assert_eq!(quantile(&histogram, 1.0), Some(HIGHEST_NS));
        assert_eq!(quantile(&histogram, 0.0), Some(0));
    }

    #[test]
    fn the_curve_passes_through_the_table() {
        let histogram = of((1..=2_000).map(|n| n * 1_000));
        let points = curve(&histogram, histogram.len());
        for (step, q) in [(50, 0.9), (100, 0.99)] {
            assert_eq!(Some(points[step].ns), quantile(&histogram, q));
        }
        // log10(2,000 / 10) is 2.30.
        assert!((points.last().unwrap().x - 2.3).abs() < 0.011, "{points:?}");
        assert!(points.is_sorted_by_key(|point| point.ns));
        assert_eq!(curve(&of(1..=9), 9), []);
        let broken = curve(&histogram, 4_000);
        assert!((broken.last().unwrap().x - 0.3).abs() < 0.011, "half never ended: ends at p50");
    }

    proptest! {
        #[test]
        fn a_quantile_is_the_nearest_rank(
            mut values in prop::collection::vec(0..HIGHEST_NS, 1..300),
            per_mille in 0_u32..=1_000,
        ) {
            let histogram = of(values.iter().copied());
            values.sort_unstable();
            let n = values.len();
            let rank = (usize::try_from(per_mille).unwrap() * n).div_ceil(1_000).max(1);
            let expected = histogram.highest_equivalent(values[rank - 1]);
            prop_assert_eq!(quantile(&histogram, f64::from(per_mille) / 1_000.0), Some(expected));
            let exact = values[rank - 1];
            prop_assert!(expected >= exact && expected - exact <= exact / 1_000);
        }
    }
}
