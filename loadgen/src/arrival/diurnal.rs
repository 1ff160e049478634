//! `diurnal`: a day of people, compressed to any length. The rate goes in straight lines from hour to hour,
//! around a mean, up to a peak that is so many times the mean; gaps are exponential.

use std::time::Duration;

use super::SECOND_NS;
use super::lines::Lines;

/// How busy the hours of a day are to one another, from 0:00: least before dawn, most in the evening, as
/// where people use something at home. Ours, round numbers: a service's own hours go into the scenario.
pub const HOURS: [f64; 24] = [
    0.55, 0.38, 0.27, 0.21, 0.20, 0.24, 0.36, 0.55, 0.75, 0.88, 0.95, 1.00, //
    1.05, 1.05, 1.02, 1.02, 1.06, 1.15, 1.30, 1.48, 1.60, 1.55, 1.25, 0.85,
];

/// A day's shape.
pub(super) struct Shape<'a> {
    /// Arrivals a second, on average.
    pub(super) mean: f64,
    /// The busiest hour over the mean.
    pub(super) peak: f64,
    /// The hours to one another.
    pub(super) hours: &'a [f64; 24],
}

#[derive(Clone, Debug)]
pub(super) struct Diurnal {
    day: Lines,
    /// Length of a day, seconds.
    day_s: f64,
    /// Arrivals expected in one.
    day_expects: f64,
    /// The time of day at the start of the run, seconds.
    from_s: f64,
    /// Arrivals expected in the day before it.
    before: f64,
}

impl Diurnal {
    /// `from_hour` is the hour at the start of the measurement phase, which comes `warm_up` after that of
    /// the run.
    pub(super) fn new(shape: &Shape<'_>, day: Duration, from_hour: f64, warm_up: Duration) -> Self {
        let day_s = day.as_secs_f64();
        let hours = peaked(shape.hours, shape.peak).map(|hour| hour * shape.mean);
        let hour_s = day_s / 24.0;
        let parts = (0..24).map(|hour| (hour_s, hours[hour], hours[(hour + 1) % 24]));
        let day = Lines::new(parts);
        let from_s = from_hour.mul_add(hour_s, -warm_up.as_secs_f64()).rem_euclid(day_s);
        let before = day.expected(from_s);
        Self { day, day_s, day_expects: shape.mean * day_s, from_s, before }
    }

    /// When `expected` arrivals have come, nanoseconds.
    pub(super) fn at(&self, expected: f64) -> f64 {
        let expected = expected + self.before;
        let days = (expected / self.day_expects).floor();
        let today = days.mul_add(-self.day_expects, expected);
        // The day's last line goes on for ever: rounding must not let it.
        let time = self.day.at(today).min(self.day_s);
        (days.mul_add(self.day_s, time) - self.from_s).max(0.0) * SECOND_NS
    }
}

/// Hours with a mean of 1 whose busiest is `peak`: each to that power which makes it so. A peak of 1 is a
/// flat day, and no hour is ever below zero.
fn peaked(hours: &[f64; 24], peak: f64) -> [f64; 24] {
    let most = hours.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let to = |power: f64| hours.map(|hour| (hour / most).powf(power));
    let factor = |hours: &[f64; 24]| 24.0 / hours.iter().sum::<f64>();
    let (mut low, mut high) = (0.0, 1.0);
    while factor(&to(high)) < peak && high < 1e6 {
        high *= 2.0;
    }
    // Halved until a double cannot tell the ends apart.
    for _ in 0..64 {
        let middle = f64::midpoint(low, high);
        if factor(&to(middle)) < peak { low = middle } else { high = middle }
    }
    let hours = to(high);
    let scale = factor(&hours);
    hours.map(|hour| hour * scale)
}

/// The highest peak that these hours can have: as many times the mean as there are hours to one of the
/// busiest.
pub(crate) fn peak_max(hours: &[f64; 24]) -> f64 {
    let most = hours.iter().copied().fold(0.0, f64::max);
    let busiest = hours.iter().filter(|hour| **hour >= most).count();
    24.0 / super::count(busiest as u64)
}
