//! `poisson`: arrivals of many people who know nothing of each other: exponential gaps.

use super::SECOND_NS;
use crate::chance::Chance;

/// What the dice are for; see [`Chance::of`].
const SALT: u64 = 0x706F_6973;

#[derive(Clone, Debug)]
pub(super) struct Poisson {
    mean_gap_ns: f64,
    seed: u64,
}

impl Poisson {
    pub(super) fn new(rate: f64, seed: u64) -> Self {
        Self { mean_gap_ns: SECOND_NS / rate, seed }
    }

    /// Start of arrival `number`, the one before being at `before_ns`.
    pub(super) fn next(&self, number: u64, before_ns: f64) -> f64 {
        let above_zero = 1.0 - Chance::of(self.seed, SALT, number).unit();
        before_ns - self.mean_gap_ns * above_zero.ln()
    }
}
