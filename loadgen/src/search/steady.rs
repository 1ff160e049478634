//! Whether a run was in a steady state: by its own seconds, not by a stopwatch set beforehand.
//!
//! Whether it drifts from its beginning to its end is told by Mann and Kendall's test (Mann, Econometrica 13(3),
//! 1945), which compares every two seconds and asks only which is larger: one outlier decides nothing. Whether
//! it began otherwise than it went on is told by MSER (White, Simulation 69(6), 1997): the first d seconds are cut
//! off so that the standard error of the mean of the rest is least (the best of 46 methods in Hoad, Robinson and
//! Davies, JORS 61, 2010). A second's median is a batch of a second's operations, so that no batches of
//! five are needed. What is too small to matter to the limit is not called a drift, however sure it is.

use std::time::Duration;

use vaultmark_results::bundle::Second;
use vaultmark_results::phase::Phase;
use vaultmark_results::units::{float, format_duration, whole};

/// Seconds that a test needs: of fewer, half is too few to tell anything.
const SECONDS_MIN: usize = 8;
/// A change of the mean by less than this share of it is nobody's concern.
const SHARE: f64 = 0.2;
/// Nor is one by less than this share of the limit.
const SHARE_OF_LIMIT: f64 = 0.05;
/// Nor is a queue that grew by fewer operations than this: a handful more or less is chance.
const QUEUE_MIN: f64 = 10.0;
/// MSER's estimate from the last few points is chance: a quarter of them always stays.
const REST: usize = 4;
/// A drift is believed where chance alone would show it once in a hundred runs, in one direction.
const Z_99: f64 = 2.326;
/// A beginning is told from the rest where their means are so many standard errors apart: MSER chose the cut so
/// that they differ, so that two would not do.
const ERRORS_APART: f64 = 3.0;

/// What the seconds say.
#[derive(Clone, Debug, PartialEq)]
pub enum Steadiness {
    /// Nothing drifts that matters.
    Steady,
    /// It began otherwise than it went on: the warm-up was too short. In words.
    Settling(String),
    /// It was growing to its end: there is no steady state at this rate. In words.
    Growing(String),
    /// Too short to tell.
    TooShort,
}

/// Looks at the seconds of the measurement phase. `operation` is the one whose median is looked at, `limit`
/// what its times have to stay below.
#[must_use]
pub fn steadiness(seconds: &[Second], operation: &str, limit: Duration) -> Steadiness {
    let measured = |second: &&Second| {
        second.phase == Phase::Measure.name() && second.measured_ns * 2 >= second.length_ns
    };
    let seconds: Vec<&Second> = seconds.iter().filter(measured).collect();
    if seconds.len() < SECONDS_MIN {
        return Steadiness::TooShort;
    }
    let offered: f64 = seconds.iter().map(|second| float(second.offered)).sum();
    let length: f64 = seconds.iter().map(|second| float(second.length_ns)).sum();
    let medians: Vec<f64> = seconds.iter().filter_map(|second| median(second, operation)).collect();
    // By Little's law, how long those who are waiting or in flight stay: nanoseconds, like the medians.
    let waiting = |second: &&Second| float(second.in_flight + second.backlog) * length / offered;
    let queue: Vec<f64> = seconds.iter().map(waiting).collect();
    let limit = limit.as_secs_f64() * 1e9;
    let of_medians = (medians.len() >= SECONDS_MIN).then(|| trend(&medians, limit));
    let of_queue = if offered > 0.0 { trend(&queue, limit) } else { Trend::None };
    let median = |from: f64, to: f64| {
        let [from, to] = [from, to].map(|ns| format_duration(whole(ns)));
        format!("the median response of {operation} went from {from} to {to}")
    };
    match (of_medians, of_queue) {
        (Some(Trend::Growing(from, to)), _) => Steadiness::Growing(median(from, to)),
        (_, Trend::Growing(from, to)) if (to - from) * offered / length >= QUEUE_MIN => {
            let [from, to] = [from, to].map(|ns| format!("{:.0}", ns * offered / length));
            let words = format!("operations waiting or in flight went from {from} to {to}");
            Steadiness::Growing(words)
        }
        (Some(Trend::Settling(from, to)), _) => Steadiness::Settling(median(from, to)),
        _ => Steadiness::Steady,
    }
}

/// What most of an operation's expected ends took in a second.
fn median(second: &Second, operation: &str) -> Option<f64> {
    let outcomes = second.operations.get(operation)?;
    let expected = outcomes.values().filter(|times| times.expected);
    expected.max_by_key(|times| times.count)?.response_ns.p50.map(float)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Trend {
    None,
    /// What it was at first, and what it was then.
    Settling(f64, f64),
    /// Mean of the first third, and of the last.
    Growing(f64, f64),
}

fn trend(values: &[f64], limit: f64) -> Trend {
    let matters =
        |from: f64, to: f64| (to - from).abs() > (SHARE * from.min(to)).max(SHARE_OF_LIMIT * limit);
    let third = values.len() / 3;
    let first = mean(&values[..third]);
    let middle = mean(&values[third..values.len() - third]);
    let last = mean(&values[values.len() - third..]);
    // To the very end: a queue that has filled and stays is no drift.
    let z = mann_kendall(values);
    if matters(first, last) && matters(middle, last) {
        if z > Z_99 && first < middle && middle < last {
            return Trend::Growing(first, last);
        }
        if z < -Z_99 && first > middle && middle > last {
            return Trend::Settling(first, last);
        }
    }
    let cut = truncation(values).min(values.len() / 2);
    let (before, after) = values.split_at(cut);
    let error = (variance(after) / count(cut)).sqrt();
    let (before, after) = (mean(before), mean(after));
    let differs = cut > 0 && (after - before).abs() > ERRORS_APART * error;
    if differs && matters(before, after) { Trend::Settling(before, after) } else { Trend::None }
}

/// Standard deviations from no trend at all: above zero it rises.
fn mann_kendall(values: &[f64]) -> f64 {
    let pairs =
        values.iter().enumerate().flat_map(|(n, a)| values[n + 1..].iter().map(move |b| (a, b)));
    let sum: f64 = pairs.map(|(a, b)| f64::from(i8::from(b > a) - i8::from(b < a))).sum();
    let n = count(values.len());
    let variance = n * (n - 1.0) * (2.0 * n + 5.0) / 18.0;
    // One less for a continuous distribution's sake.
    (sum.abs() - 1.0).max(0.0).copysign(sum) / variance.sqrt()
}

/// How many values to cut off at the beginning, by MSER.
fn truncation(values: &[f64]) -> usize {
    let n = values.len();
    let error = |cut: usize| {
        let rest = &values[cut..];
        let mean = mean(rest);
        rest.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>()
            / (count(rest.len()) * count(rest.len()))
    };
    let cuts = 0..=n - n.div_ceil(REST);
    cuts.min_by(|a, b| error(*a).total_cmp(&error(*b))).unwrap_or(0)
}

fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / count(values.len()) }
}

/// Of a sample, which has one degree of freedom less than values.
fn variance(values: &[f64]) -> f64 {
    let mean = mean(values);
    values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>()
        / (count(values.len()) - 1.0).max(1.0)
}

fn count(n: usize) -> f64 {
    float(u64::try_from(n).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use vaultmark_results::bundle::SecondTimes;
    use vaultmark_results::model::Quantiles;

    use super::*;
    use crate::chance::Chance;

    const LIMIT: Duration = Duration::from_millis(100);
    const MS: f64 = 1e6;

    /// Seconds of 1,000 arrivals each: medians in milliseconds, and how many are in flight.
    fn seconds(points: impl IntoIterator<Item = (f64, u64)>) -> Vec<Second> {
        let second = |(median, in_flight): (f64, u64)| {
            let response_ns = Quantiles { p50: Some(whole(median * MS)), ..Quantiles::default() };
            let times =
                SecondTimes { count: 1_000, expected: true, response_ns, ..SecondTimes::default() };
            let outcomes = BTreeMap::from([("complete".to_owned(), times)]);
            Second {
                phase: "measure".to_owned(),
                length_ns: 1_000_000_000,
                measured_ns: 1_000_000_000,
                offered: 1_000,
                in_flight,
                operations: BTreeMap::from([("recover".to_owned(), outcomes)]),
                ..Second::default()
            }
        };
        points.into_iter().map(second).collect()
    }

    fn check(points: impl IntoIterator<Item = (f64, u64)>, expected: &str) {
        let found = steadiness(&seconds(points), "recover", LIMIT);
        assert!(format!("{found:?}").starts_with(expected), "{found:?}, expected {expected}");
    }

    #[test]
    fn a_run_is_told_by_its_seconds() {
        let flat = |n: u32| (0..n).map(|_| (20.0, 20));
        check(flat(10), "Steady");
        check(flat(7), "TooShort");
        check((0..20).map(|n| (20.0 + f64::from(n) * 5.0, 20)), "Growing(\"the median response");
        check((0..20).map(|n| (20.0, 20 + n * 5)), "Growing(\"operations waiting");
        check((0..20).map(|n| (20.0, n / 2)), "Steady");
        // Caches that were cold, and a queue that had to fill.
        check([(90.0, 20), (60.0, 20)].into_iter().chain(flat(10)), "Settling");
        check([(1.0, 20), (4.0, 20)].into_iter().chain(flat(10)), "Settling");
        check((0..20).map(|n| (120.0 - f64::from(n) * 5.0, 20)), "Settling");
        // Sure, and too small to matter: by a fifth of its time, by a twentieth of the limit.
        check((0..20).map(|n| (20.0 + f64::from(n) * 0.15, 20)), "Steady");
        check((0..20).map(|n| (1.0 + f64::from(n) * 0.15, 1)), "Steady");
    }

    /// Of 1,000 runs how many are told as the first, and the second: steady, growing, settling. Medians with a
    /// logarithm that is noise of so much (standard deviation).
    fn told(noise: f64, medians: impl Fn(u32) -> f64, n: u32) -> [u32; 3] {
        let mut told = [0; 3];
        for seed in 0..1_000 {
            let mut dice = Chance::of(seed, 0, 0);
            // Six uniform deviates have a standard deviation of √½.
            let mut normal = || (0..6).map(|_| dice.unit() - 0.5).sum::<f64>() * 2_f64.sqrt();
            let points = (0..n).map(|at| (medians(at) * (noise * normal()).exp(), 20));
            let points: Vec<(f64, u64)> = points.collect();
            match steadiness(&seconds(points), "recover", LIMIT) {
                Steadiness::Steady => told[0] += 1,
                Steadiness::Growing(_) => told[1] += 1,
                Steadiness::Settling(_) => told[2] += 1,
                Steadiness::TooShort => {}
            }
        }
        told
    }

    #[test]
    fn chance_is_seldom_taken_for_a_drift_and_a_drift_seldom_for_chance() {
        for (noise, n, growing_max, settling_max) in [
            (0.05, 10, 0, 5),
            (0.1, 10, 5, 50),
            (0.1, 30, 5, 50),
            (0.2, 10, 15, 150),
            (0.2, 30, 15, 80),
        ] {
            let [_, growing, settling] = told(noise, |_| 40.0, n);
            let said = format!("{n} s, noise {noise}: {growing} growing, {settling} settling");
            assert!(growing <= growing_max && settling <= settling_max, "{said}");
        }
        for (noise, growing_min) in [(0.05, 990), (0.1, 900), (0.2, 700)] {
            let [_, growing, _] = told(noise, |at| 20.0 + f64::from(at) * 2.5, 15);
            assert!(growing >= growing_min, "noise {noise}: {growing}");
            let [steady, ..] = told(noise, |at| if at < 2 { 80.0 } else { 20.0 }, 10);
            assert!(steady <= 30, "noise {noise}: {steady}");
        }
    }
}
