//! `steps`: evenly spaced arrivals, one rate after the other. The steps divide the measurement phase; the
//! warm-up has the first rate, and the last one stays to the end.

use std::time::Duration;

use super::SECOND_NS;
use super::lines::Lines;

#[derive(Clone, Debug)]
pub(super) struct Steps(Lines);

impl Steps {
    pub(super) fn new(
        rates: &[f64],
        each: Option<Duration>,
        warm_up: Duration,
        measure: Duration,
    ) -> Self {
        let steps = u32::try_from(rates.len()).unwrap_or(u32::MAX).max(1);
        let each = each.unwrap_or(measure / steps).as_secs_f64();
        let length = |step: usize| if step == 0 { warm_up.as_secs_f64() + each } else { each };
        let parts = rates.iter().enumerate().map(|(step, rate)| (length(step), *rate, *rate));
        Self(Lines::new(parts))
    }

    /// When `expected` arrivals have come, nanoseconds.
    pub(super) fn at(&self, expected: f64) -> f64 {
        self.0.at(expected) * SECOND_NS
    }
}
