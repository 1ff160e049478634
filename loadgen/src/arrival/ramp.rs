//! `ramp`: evenly spaced arrivals at a rate that goes in a straight line from one value to another.

use std::time::Duration;

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
        let n = count(number);
        // This root's form stays exact when the slope is small or zero, where the textbook's
        // subtracts two nearly equal numbers.
        let under = self.from.mul_add(self.from, 2.0 * self.slope * n);
        if under < 0.0 {
            return f64::INFINITY;
        }
        let t = 2.0 * n / (self.from + under.sqrt());
        // The very first arrival of a ramp from zero divides zero by zero.
        if t.is_nan() { 0.0 } else { t * SECOND_NS }
    }
}
