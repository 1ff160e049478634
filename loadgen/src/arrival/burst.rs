//! `burst`: a restore storm. After an outage those who waited come at once, and the storm dies down as it
//! finds fewer who still have to: base rate, a straight rise to the peak, exponential decay. Gaps are
//! exponential.

use std::f64::consts::LN_2;
use std::time::Duration;

use super::SECOND_NS;
use super::lines::until_expected;

/// So many steps of Newton's method are taken at most: from below, on a curve that bends one way, some ten
/// reach a double's precision.
const STEPS_MAX: u32 = 100;

#[derive(Clone, Debug)]
pub(super) struct Burst {
    base: f64,
    peak: f64,
    /// Start and length of the rise, seconds.
    at: f64,
    rise: f64,
    /// Decay a second.
    decay: f64,
    /// Arrivals expected before the rise and before the peak.
    before_rise: f64,
    before_peak: f64,
}

impl Burst {
    pub(super) fn new(
        base: f64,
        peak: f64,
        at: Duration,
        rise: Duration,
        half_life: Duration,
    ) -> Self {
        let (at, rise) = (at.as_secs_f64(), rise.as_secs_f64());
        let before_rise = base * at;
        let before_peak = before_rise + rise * f64::midpoint(base, peak);
        let decay = LN_2 / half_life.as_secs_f64();
        Self { base, peak, at, rise, decay, before_rise, before_peak }
    }

    /// When `expected` arrivals have come, nanoseconds; infinite if they never will have.
    pub(super) fn at(&self, expected: f64) -> f64 {
        let seconds = if expected < self.before_rise {
            expected / self.base
        } else if expected < self.before_peak {
            let slope = (self.peak - self.base) / self.rise;
            self.at + until_expected(self.base, slope, expected - self.before_rise)
        } else {
            self.at + self.rise + self.after_peak(expected - self.before_peak)
        };
        seconds * SECOND_NS
    }

    /// The t at which base·t + extra·(1 − e^(−decay·t)) has reached `expected`.
    fn after_peak(&self, expected: f64) -> f64 {
        let extra = (self.peak - self.base) / self.decay;
        if self.base <= 0.0 {
            let left = 1.0 - expected / extra;
            return if left > 0.0 { -left.ln() / self.decay } else { f64::INFINITY };
        }
        // Both are before it: the rate is never above the peak, and never more than `extra` come beyond
        // the base. From there each step stays before it.
        let mut t = (expected / self.peak).max((expected - extra) / self.base);
        for _ in 0..STEPS_MAX {
            let left = (-self.decay * t).exp();
            let come = self.base.mul_add(t, extra * (1.0 - left));
            let step = (expected - come) / (self.peak - self.base).mul_add(left, self.base);
            t += step;
            if step <= t * f64::EPSILON {
                break;
            }
        }
        t
    }
}
