//! `ramp`: evenly spaced arrivals at a rate that goes in a straight line from one value to another.

use std::time::Duration;

use super::lines::until_expected;
use super::{SECOND_NS, count};

#[derive(Clone, Debug)]
pub(super) struct Ramp {
    from: f64,
    /// Change of the rate, per second and second.
    slope: f64,
}

impl Ramp {
    pub(super) fn new(from: f64, to: f64, length: Duration) -> Self {
        Self { from, slope: (to - from) / length.as_secs_f64() }
    }

    /// Start of arrival `number`: the t at which from·t + slope·t²/2 has reached it.
    pub(super) fn next(&self, number: u64) -> f64 {
        until_expected(self.from, self.slope, count(number)) * SECOND_NS
    }
}
