//! Axes: where the ticks are and what they are called.
//!
//! plotters chooses ticks by itself; people read 1-2-5 steps, whole minutes and nines.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use vaultmark_results::units::format_count;

use crate::words::nearest;

/// One axis.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    from: f64,
    to: f64,
    logarithmic: bool,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// Durations from one to another, nanoseconds, logarithmic: from the 1-2-5 step below to the
    /// one above, with at most `room` ticks.
    pub(super) fn durations(least_ns: f64, most_ns: f64, room: usize) -> Self {
        let least = least_ns.max(1.0);
        let most = most_ns.max(least);
        let mut first = 0;
        while step(first + 1) <= least {
            first += 1;
        }
        let mut last = first;
        while step(last) < most {
            last += 1;
        }
        // Two steps at least, so that values that are all equal lie inside and not on an edge.
        if last - first < 2 {
            last += 1;
            first = first.saturating_sub(1);
        }
        let every = [1, 3, 6, 9, 18]
            .into_iter()
            .find(|every| (first..=last).filter(|k| k % every == 0).count() <= room)
            .unwrap_or(27);
        // Ticks further apart stand at both ends too, or a line could lie beyond the last of them.
        first -= first % every;
        last = last.next_multiple_of(every);
        Self {
            from: step(first),
            to: step(last),
            logarithmic: true,
            ticks: (first..=last)
                .filter(|k| k % every == 0)
                .map(|k| (step(k), duration_label(k)))
                .collect(),
        }
    }

    /// Percentiles: x = −log10(1 − q), from the fastest to `to`.
    pub(super) fn percentiles(to: f64, room_px: f64) -> Self {
        let to = to.clamp(1.0, 12.0);
        let half = 2_f64.log10();
        let mut ticks = Vec::new();
        // Forty pixels keep two labels apart.
        if half / to * room_px >= 40.0 {
            ticks.push((0.0, "0 %".to_owned()));
        }
        ticks.push((half, "50 %".to_owned()));
        let mut nines = 1_u32;
        while f64::from(nines) <= to {
            ticks.push((f64::from(nines), nines_label(nines)));
            nines += 1;
        }
        Self { from: 0.0, to, logarithmic: false, ticks }
    }

    /// Time, seconds, with at most `room` ticks at whole seconds, minutes or hours.
    pub(super) fn seconds(from: f64, to: f64, room: usize) -> Self {
        const STEPS: [f64; 18] = [
            1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_200.0, 1_800.0, 3_600.0,
            7_200.0, 14_400.0, 21_600.0, 43_200.0, 86_400.0,
        ];
        let to = if to > from { to } else { from + 1.0 };
        let step = STEPS
            .into_iter()
            .find(|step| (to - from) / step < f64::from(u32::try_from(room).unwrap_or(1)))
            .unwrap_or(to - from);
        let (unit, name) = match step {
            step if step >= 3_600.0 => (3_600.0, "h"),
            step if step >= 60.0 => (60.0, "min"),
            _ => (1.0, "s"),
        };
        let first = (from / step).ceil();
        let ticks = (0..=32_u32)
            .map(|n| (first + f64::from(n)) * step)
            .take_while(|at| *at <= to)
            .map(|at| (at, format!("{} {name}", minus((at / unit).round()))))
            .collect();
        Self { from, to, logarithmic: false, ticks }
    }

    /// Rates from zero, per second, with at most about `room` ticks.
    pub(super) fn rates(most: f64, room: u32) -> Self {
        let most = if most.is_finite() && most > 0.0 { most } else { 1.0 };
        let least_step = most / f64::from(room.max(1));
        let mut size = 10_f64.powf(least_step.log10().floor());
        let mut multiples = [1.0, 2.0, 5.0, 10.0].into_iter();
        size *= multiples.find(|multiple| size * multiple >= least_step).unwrap_or(10.0);
        let count = (most / size).ceil().max(1.0);
        let ticks = (0..=64_u32)
            .take_while(|n| f64::from(*n) <= count)
            .map(|n| {
                let at = f64::from(n) * size;
                let label =
                    if size >= 1.0 { format_count(nearest(at)) } else { fraction(at, size) };
                (at, label)
            })
            .collect();
        Self { from: 0.0, to: count * size, logarithmic: false, ticks }
    }

    /// Rates from one to another, per second, logarithmic: from the 1-2-5 step below to the one above, with at
    /// most `room` ticks.
    pub(super) fn rates_logarithmic(least: f64, most: f64, room: usize) -> Self {
        // Slower than one in eleven days is drawn as that.
        const FIRST: i32 = -18;
        const LAST: i32 = 60;
        let places = |x: f64| if x.is_finite() { x.max(1e-6) } else { 1.0 };
        let (least, most) = (places(least), places(most));
        let mut first = (FIRST..LAST).rev().find(|k| signed_step(*k) <= least).unwrap_or(FIRST);
        let mut last = (first..LAST).find(|k| signed_step(*k) >= most).unwrap_or(LAST);
        if last - first < 2 {
            last += 1;
            first -= 1;
        }
        let every = [1, 3, 6, 9, 18]
            .into_iter()
            .find(|every| (first..=last).filter(|k| k % every == 0).count() <= room)
            .unwrap_or(27);
        if every > 1 {
            first -= first.rem_euclid(every);
            last += (-last).rem_euclid(every);
        }
        let label = |at: f64| if at >= 1.0 { format_count(nearest(at)) } else { fraction(at, at) };
        Self {
            from: signed_step(first),
            to: signed_step(last),
            logarithmic: true,
            ticks: (first..=last)
                .filter(|k| k % every == 0)
                .map(|k| (signed_step(k), label(signed_step(k))))
                .collect(),
        }
    }

    /// Counts from one, logarithmic, with a tick at every power of two, or at every second and so on.
    pub(super) fn doublings(most: f64) -> Self {
        const TICKS_MAX: u32 = 9;
        let powers = if most.is_finite() { most.max(2.0).log2().ceil() } else { 1.0 };
        let powers = u32::try_from(nearest(powers)).unwrap_or(1).clamp(1, 40);
        let every = powers.div_ceil(TICKS_MAX).max(1);
        let powers = powers.next_multiple_of(every);
        let power = |n: u32| 2_f64.powi(i32::try_from(n).unwrap_or(0));
        Self {
            from: 1.0,
            to: power(powers),
            logarithmic: true,
            ticks: (0..=powers)
                .filter(|n| n % every == 0)
                .map(|n| (power(n), format_count(nearest(power(n)))))
                .collect(),
        }
    }

    /// Loads, percent of the capacity: a tick at each, with some room on both sides.
    pub(super) fn loads(loads: &[f64]) -> Self {
        let least = loads.first().copied().unwrap_or(0.0);
        let most = loads.last().copied().unwrap_or(100.0);
        let ticks = loads.iter().map(|load| (*load, format!("{load} %"))).collect();
        Self { from: least - 5.0, to: most + 5.0, logarithmic: false, ticks }
    }

    /// Values of a parameter, each a place and its label: a tick at as many as there is room for.
    pub(super) fn places(ticks: &[(f64, String)], room: usize) -> Self {
        // From this ratio on the lower ones would lie on top of each other.
        const RATIO_MAX: f64 = 8.0;
        let least = ticks.first().map_or(0.0, |tick| tick.0);
        let most = ticks.last().map_or(1.0, |tick| tick.0);
        let logarithmic = least > 0.0 && most / least > RATIO_MAX;
        let (from, to) = if logarithmic {
            let edge = (most / least).powf(0.05);
            (least / edge, most * edge)
        } else {
            let edge = if most > least { (most - least) * 0.06 } else { 1.0 };
            (least - edge, most + edge)
        };
        let every = ticks.len().div_ceil(room.max(1)).max(1);
        let ticks = ticks.iter().step_by(every).cloned().collect();
        Self { from, to, logarithmic, ticks }
    }

    /// Where a value lies, as a share of the axis; outside it, its nearer end.
    pub(super) fn share(&self, value: f64) -> f64 {
        let share = if self.logarithmic {
            (value.max(self.from).ln() - self.from.ln()) / (self.to.ln() - self.from.ln())
        } else {
            (value - self.from) / (self.to - self.from)
        };
        if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    #[expect(clippy::cast_possible_truncation, reason = "a share of a length of pixels")]
    fn map(&self, value: &f64, (low, high): (i32, i32)) -> i32 {
        low + (self.share(*value) * f64::from(high - low)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.iter().map(|(at, _)| *at).collect()
    }

    fn range(&self) -> Range<f64> {
        self.from..self.to
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        let away = |at: f64| (at - value).abs();
        let nearest = self.ticks.iter().min_by(|a, b| away(a.0).total_cmp(&away(b.0)));
        nearest.map_or_else(String::new, |(_, label)| label.clone())
    }
}

/// The k-th of 1, 2, 5, 10, 20, 50, …
fn step(k: u32) -> f64 {
    let exponent = i32::try_from(k / 3).unwrap_or(i32::MAX);
    let mantissa = match k % 3 {
        0 => 1.0,
        1 => 2.0,
        _ => 5.0,
    };
    mantissa * 10_f64.powi(exponent)
}

/// The k-th of 1, 2, 5, 10, …; below zero 0.5, 0.2, 0.1, …
fn signed_step(k: i32) -> f64 {
    let mantissa = match k.rem_euclid(3) {
        0 => 1.0,
        1 => 2.0,
        _ => 5.0,
    };
    mantissa * 10_f64.powi(k.div_euclid(3))
}

/// The k-th step as nanoseconds: "200 µs".
fn duration_label(k: u32) -> String {
    const UNITS: [&str; 4] = ["ns", "µs", "ms", "s"];
    let decades = k / 3;
    let unit = usize::try_from(decades / 3).unwrap_or(usize::MAX).min(3);
    let below = u32::try_from(unit).unwrap_or(3) * 9;
    format!("{} {}", format_count(nearest(step(k - below))), UNITS[unit])
}

/// "90 %", "99 %", "99.9 %".
fn nines_label(nines: u32) -> String {
    match nines {
        1 => "90 %".to_owned(),
        2 => "99 %".to_owned(),
        more => format!("99.{} %", "9".repeat(usize::try_from(more - 2).unwrap_or(1))),
    }
}

/// With the minus sign of typography; the zero without any.
fn minus(x: f64) -> String {
    if x < -0.5 { format!("−{}", -x) } else { format!("{}", x.abs()) }
}

fn fraction(at: f64, size: f64) -> String {
    let decimals = size.log10().floor().abs().clamp(1.0, 9.0);
    format!("{at:.*}", usize::try_from(nearest(decimals)).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> String {
        axis.ticks.iter().map(|(_, label)| label.as_str()).collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn durations_have_1_2_5_steps_until_there_is_no_room() {
        for (least, most, room, expected) in [
            (1.3e6, 9e6, 12, "1 ms | 2 ms | 5 ms | 10 ms"),
            (4.2e6, 4.2e6, 12, "1 ms | 2 ms | 5 ms | 10 ms"),
            (5e6, 5e6, 12, "2 ms | 5 ms | 10 ms"),
            (7e8, 3e9, 12, "500 ms | 1 s | 2 s | 5 s"),
            (
                150.0,
                1.1e9,
                8,
                "100 ns | 1 µs | 10 µs | 100 µs | 1 ms | 10 ms | 100 ms | 1 s | 10 s",
            ),
            (0.0, 0.0, 8, "1 ns | 2 ns"),
            (1.0, 1.8e19, 5, "1 ns | 1 ms | 1,000 s | 1,000,000,000 s | 1,000,000,000,000,000 s"),
        ] {
            let axis = Axis::durations(least, most, room);
            assert_eq!(labels(&axis), expected, "{least} {most}");
        }
    }

    #[test]
    fn other_axes_have_ticks_people_read() {
        for (axis, expected) in [
            (Axis::percentiles(3.2, 700.0), "0 % | 50 % | 90 % | 99 % | 99.9 %"),
            (Axis::percentiles(4.0, 250.0), "50 % | 90 % | 99 % | 99.9 % | 99.99 %"),
            (Axis::percentiles(0.3, 250.0), "0 % | 50 % | 90 %"),
            (Axis::seconds(-5.0, 25.0, 8), "−5 s | 0 s | 5 s | 10 s | 15 s | 20 s | 25 s"),
            (Axis::seconds(-60.0, 660.0, 8), "0 min | 2 min | 4 min | 6 min | 8 min | 10 min"),
            (Axis::seconds(0.0, 0.0, 8), "0 s | 1 s"),
            (Axis::rates(104.0, 4), "0 | 50 | 100 | 150"),
            (Axis::rates(0.0, 4), "0.0 | 0.5 | 1.0"),
            (Axis::rates(0.9, 4), "0.0 | 0.5 | 1.0"),
            (Axis::rates(12_345.0, 5), "0 | 5,000 | 10,000 | 15,000"),
            (Axis::rates_logarithmic(613.0, 4_144.0, 8), "500 | 1,000 | 2,000 | 5,000"),
            (Axis::rates_logarithmic(13.7, 18_980.0, 8), "10 | 100 | 1,000 | 10,000 | 100,000"),
            (Axis::rates_logarithmic(0.3, 0.3, 8), "0.1 | 0.2 | 0.5 | 1"),
            (Axis::rates_logarithmic(f64::INFINITY, 0.0, 8), "0.5 | 1 | 2"),
            (Axis::doublings(1.0), "1 | 2"),
            (Axis::doublings(33.0), "1 | 2 | 4 | 8 | 16 | 32 | 64"),
            (Axis::doublings(1024.0), "1 | 4 | 16 | 64 | 256 | 1,024"),
            (Axis::loads(&[50.0, 70.0, 90.0]), "50 % | 70 % | 90 %"),
            (Axis::places(&[(1.0, "1".into()), (3.0, "3".into()), (5.0, "5".into())], 2), "1 | 5"),
            (Axis::places(&[(0.0, "softhsm".into())], 2), "softhsm"),
        ] {
            assert_eq!(labels(&axis), expected);
        }
    }
}
