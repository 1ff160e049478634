//! When operations are supposed to start. One file for each law, named as users write it; every
//! law gives the gap before arrival n as a pure function of (seed, n), so that any worker can lay
//! out the whole schedule by itself. The one exception is `closed`, whose users wait for answers: there
//! only what they ask and how long they think is.
//!
//! Rates that change are kept as how many arrivals are expected by each instant. Its inverse gives evenly
//! spaced arrivals from whole numbers and random ones from a sum of exponential gaps, so that neither the
//! shape nor the chance of a law knows the other.

mod burst;
mod closed;
mod constant;
mod diurnal;
mod lines;
mod poisson;
mod ramp;
mod replay;
mod steps;
#[cfg(test)]
mod tests;

use std::time::Duration;

use vaultmark_hsm::{Moment, clock::nanos};

pub use closed::{IDLE_USER_BYTES, think};
pub use diurnal::HOURS;
pub(crate) use diurnal::peak_max;
pub use replay::{BadLine, BadLog, Entry, Recording};
#[cfg(test)]
use replay::{Format, Header};

use crate::chance::Chance;
use crate::scenario::{Arrival, Phases};

/// What the dice are for; see [`Chance::of`].
const SALT_GAP: u64 = 0x6761_7073;

/// The intended starts of one load, in order.
#[derive(Clone, Debug)]
pub struct Schedule {
    law: Law,
    seed: u64,
    start: Moment,
    end: Moment,
    /// Nanoseconds from `start` to the next arrival; a double, so that rounding does not add up.
    next_ns: f64,
    /// Arrivals that are expected up to it, where chance decides how far apart they are.
    expected: f64,
    number: u64,
}

/// Whose part of a run is laid out: of `workers`, the one numbered `worker` from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The worker's number.
    pub worker: u64,
    /// How many there are.
    pub workers: u64,
}

impl Share {
    /// The only worker of a run.
    pub const WHOLE: Self = Self { worker: 0, workers: 1 };
}

#[derive(Clone, Debug)]
enum Law {
    Constant(constant::Constant),
    Poisson(poisson::Poisson),
    Ramp(ramp::Ramp),
    Steps(steps::Steps),
    Diurnal(diurnal::Diurnal),
    Burst(burst::Burst),
    Replay(replay::Replay),
    Closed(closed::Users),
}

impl Schedule {
    /// The schedule of a load over the phases of a run that starts at `start`. Open-loop schedules are laid
    /// out whole, whoever does it; of virtual users each worker has its own.
    #[must_use]
    pub fn new(arrival: &Arrival, seed: u64, start: Moment, phases: &Phases, share: Share) -> Self {
        let length = phases.warm_up + phases.measure + phases.cool_down;
        let law = match arrival {
            Arrival::Constant { rate } => Law::Constant(constant::Constant::new(*rate)),
            Arrival::Poisson { rate } => Law::Poisson(poisson::Poisson::new(*rate, seed)),
            Arrival::Ramp { from, to } => Law::Ramp(ramp::Ramp::new(*from, *to, length)),
            Arrival::Steps { rates, each } => {
                Law::Steps(steps::Steps::new(rates, *each, phases.warm_up, phases.measure))
            }
            Arrival::Diurnal { mean, peak, day, from_hour, hours } => {
                let day = day.unwrap_or(phases.measure);
                let hours = hours.as_deref().unwrap_or(&HOURS);
                let shape = diurnal::Shape { mean: *mean, peak: *peak, hours };
                Law::Diurnal(diurnal::Diurnal::new(&shape, day, *from_hour, phases.warm_up))
            }
            Arrival::Burst { base, peak, at, rise, half_life } => {
                let at = phases.warm_up + *at;
                Law::Burst(burst::Burst::new(*base, *peak, at, *rise, *half_life))
            }
            Arrival::Replay { recording, speed } => {
                Law::Replay(replay::Replay::new(recording.clone(), *speed))
            }
            Arrival::Closed(closed) => Law::Closed(closed::Users::new(closed, seed, phases, share)),
        };
        let end = start.after(length);
        let mut schedule = Self { law, seed, start, end, next_ns: 0.0, expected: 0.0, number: 0 };
        schedule.next_ns = schedule.next();
        schedule
    }

    /// The next arrival's number and intended start, without taking it.
    #[must_use]
    pub fn peek(&self) -> Option<(u64, Moment)> {
        if let Law::Closed(users) = &self.law {
            let (number, at) = users.peek()?;
            let at = self.start.after(at);
            return (at < self.end).then_some((number, at));
        }
        // A law may run out (a ramp down to zero, a log): its next start is infinite.
        let at = self.start.after(whole_ns(self.next_ns));
        (at < self.end && self.next_ns.is_finite()).then_some((self.number, at))
    }

    /// Goes on to the arrival after the next one.
    pub fn advance(&mut self) {
        if let Law::Closed(users) = &mut self.law {
            users.take();
            return;
        }
        self.number += 1;
        self.next_ns = self.next();
    }

    /// What arrival `number` asked has ended for good: a virtual user begins to think.
    pub fn ended(&mut self, number: u64, now: Moment) {
        if let Law::Closed(users) = &mut self.law {
            users.back(number, now.since(self.start));
        }
    }

    /// Start of the arrival that `number` now counts, the one before being at `next_ns`.
    fn next(&mut self) -> f64 {
        match &self.law {
            Law::Constant(law) => law.next(self.number),
            Law::Poisson(law) => law.next(self.number, self.next_ns),
            Law::Ramp(law) => law.next(self.number),
            Law::Steps(law) => law.at(count(self.number)),
            Law::Diurnal(law) => {
                self.expected += gap(self.seed, self.number);
                law.at(self.expected)
            }
            Law::Burst(law) => {
                self.expected += gap(self.seed, self.number);
                law.at(self.expected)
            }
            Law::Replay(law) => law.next(self.number),
            Law::Closed(_) => f64::INFINITY,
        }
    }
}

/// The exponential gap before arrival `number` of a law of chance, in units of its mean.
fn gap(seed: u64, number: u64) -> f64 {
    -(1.0 - Chance::of(seed, SALT_GAP, number).unit()).ln()
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

/// A time as a double, in nanoseconds.
fn float_ns(time: Duration) -> f64 {
    count(nanos(time))
}
