//! `constant`: evenly spaced arrivals, the first at once.

use super::{SECOND_NS, count};

#[derive(Clone, Debug)]
pub(super) struct Constant {
    gap_ns: f64,
}

impl Constant {
    pub(super) fn new(rate: f64) -> Self {
        Self { gap_ns: SECOND_NS / rate }
    }

    /// Start of arrival `number`. From the number, not from the start before: it cannot drift.
    pub(super) fn next(&self, number: u64) -> f64 {
        self.gap_ns * count(number)
    }
}
