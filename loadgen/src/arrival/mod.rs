//! When operations are supposed to start. One file for each law, named as users write it; every
//! law gives the gap before arrival n as a pure function of (seed, n), so that any worker can lay
//! out the whole schedule by itself.

mod constant;
mod poisson;
mod ramp;

use std::time::Duration;

use vaultmark_hsm::Moment;

use crate::scenario::Arrival;

/// The intended starts of one load, in order.
#[derive(Clone, Debug)]
pub struct Schedule {
    law: Law,
    start: Moment,
    end: Moment,
    /// Nanoseconds from `start` to the next arrival; a double, so that rounding does not add up.
    next_ns: f64,
    number: u64,
}

#[derive(Clone, Debug)]
enum Law {
    Constant(constant::Constant),
    Poisson(poisson::Poisson),
    Ramp(ramp::Ramp),
}

impl Schedule {
    /// The schedule of a load from `start` up to but not including `start + length`.
    #[must_use]
    pub fn new(arrival: Arrival, seed: u64, start: Moment, length: Duration) -> Self {
        let law = match arrival {
            Arrival::Constant { rate } => Law::Constant(constant::Constant::new(rate)),
            Arrival::Poisson { rate } => Law::Poisson(poisson::Poisson::new(rate, seed)),
            Arrival::Ramp { from, to } => Law::Ramp(ramp::Ramp::new(from, to, length)),
        };
        let mut schedule = Self { law, start, end: start.after(length), next_ns: 0.0, number: 0 };
        schedule.next_ns = schedule.after(0.0);
        schedule
    }

    /// The next arrival's number and intended start, without taking it.
    #[must_use]
    pub fn peek(&self) -> Option<(u64, Moment)> {
        // A law may run out (a ramp down to zero): its next start is infinite.
        let at = self.start.after(whole_ns(self.next_ns));
        (at < self.end && self.next_ns.is_finite()).then_some((self.number, at))
    }

    /// Goes on to the arrival after the next one.
    pub fn advance(&mut self) {
        self.number += 1;
        self.next_ns = self.after(self.next_ns);
    }

    fn after(&self, ns: f64) -> f64 {
        match &self.law {
            Law::Constant(law) => law.next(self.number),
            Law::Poisson(law) => law.next(self.number, ns),
            Law::Ramp(law) => law.next(self.number),
        }
    }
}

/// Nanoseconds of a double, rounded down; a run is 24 hours at most, far below 2⁵³ ns.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates, and the schedules give no negative number"
)]
const fn whole_ns(ns: f64) -> Duration {
    Duration::from_nanos(ns as u64)
}

/// Nanoseconds in a second, for rates.
const SECOND_NS: f64 = 1e9;

/// An arrival's number as a double: exact up to 2⁵³, far more than the limit on a run's arrivals.
#[expect(clippy::cast_precision_loss, reason = "arrivals are fewer than 2⁵³")]
const fn count(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(arrival: Arrival, seconds: u64) -> Vec<u64> {
        let start = Moment::from_nanos(5);
        let mut schedule = Schedule::new(arrival, 42, start, Duration::from_secs(seconds));
        let mut starts = Vec::new();
        while let Some((number, at)) = schedule.peek() {
            assert_eq!(number, u64::try_from(starts.len()).unwrap());
            starts.push(at.as_nanos() - 5);
            schedule.advance();
        }
        assert!(starts.is_sorted());
        starts
    }

    #[test]
    fn laws_offer_their_rate() {
        for (arrival, seconds, count, tolerance) in [
            (Arrival::Constant { rate: 4.0 }, 2, 8, 0),
            (Arrival::Constant { rate: 1_000.0 }, 10, 10_000, 0),
            (Arrival::Constant { rate: 0.25 }, 8, 2, 0),
            // Five standard deviations of a Poisson count.
            (Arrival::Poisson { rate: 1_000.0 }, 100, 100_000, 1_581),
            (Arrival::Poisson { rate: 3.0 }, 1_000, 3_000, 274),
            (Arrival::Ramp { from: 0.0, to: 100.0 }, 10, 500, 1),
            (Arrival::Ramp { from: 100.0, to: 0.0 }, 10, 500, 1),
            (Arrival::Ramp { from: 50.0, to: 50.0 }, 10, 500, 1),
        ] {
            let starts = starts(arrival, seconds);
            assert!(starts.len().abs_diff(count) <= tolerance, "{arrival:?}: {}", starts.len());
        }
    }

    #[test]
    fn a_constant_rate_does_not_drift() {
        let starts = starts(Arrival::Constant { rate: 3.0 }, 3_600);
        assert_eq!(starts.len(), 10_800);
        assert_eq!(starts[10_797], 3_599_000_000_000);
    }

    #[test]
    fn a_ramp_spends_its_first_half_on_a_quarter() {
        let starts = starts(Arrival::Ramp { from: 0.0, to: 1_000.0 }, 10);
        let first_half = starts.iter().filter(|at| **at < 5_000_000_000).count();
        assert!(first_half.abs_diff(1_250) <= 1, "{first_half}");
    }

    #[test]
    fn poisson_gaps_are_exponential() {
        let starts = starts(Arrival::Poisson { rate: 1_000.0 }, 100);
        let longer = starts.windows(2).filter(|pair| pair[1] - pair[0] > 1_000_000).count();
        // e⁻¹ of all gaps are longer than the mean one.
        #[expect(clippy::cast_precision_loss, reason = "small counts")]
        let share = longer as f64 / (starts.len() - 1) as f64;
        assert!((share - (-1.0_f64).exp()).abs() < 0.01, "{share}");
    }
}
