//! Rates that go in straight lines: how many arrivals are expected by an instant, and the instant by which
//! so many are. Steps and days are made of them.

/// Rates per second along straight lines, one after the other; the last one goes on for ever.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    lines: Vec<Line>,
}

#[derive(Clone, Copy, Debug)]
struct Line {
    /// Start, seconds.
    at: f64,
    /// Rate at the start.
    rate: f64,
    /// Change of the rate, per second and second.
    slope: f64,
    /// Arrivals that are expected before its start.
    before: f64,
    /// And before its end.
    until: f64,
}

impl Lines {
    /// Lines of (length in seconds, rate at the start, rate at the end).
    pub(super) fn new(parts: impl IntoIterator<Item = (f64, f64, f64)>) -> Self {
        let (mut at, mut before) = (0.0, 0.0);
        let line = |(length, from, to): (f64, f64, f64)| {
            let slope = if length > 0.0 { (to - from) / length } else { 0.0 };
            let until = before + length * f64::midpoint(from, to);
            let line = Line { at, rate: from, slope, before, until };
            (at, before) = (at + length, until);
            line
        };
        let mut lines: Vec<Line> = parts.into_iter().map(line).collect();
        if let Some(last) = lines.last_mut() {
            last.until = f64::INFINITY;
        }
        Self { lines }
    }

    /// How many arrivals are expected in the first `t` seconds.
    pub(super) fn expected(&self, t: f64) -> f64 {
        let after = self.lines.partition_point(|line| line.at <= t);
        let Some(line) = after.checked_sub(1).map(|at| self.lines[at]) else { return 0.0 };
        let into = t - line.at;
        line.before + into * (line.slope * into).mul_add(0.5, line.rate)
    }

    /// Seconds by which `expected` arrivals are; infinite if they never are. Where nobody comes for a
    /// while it is the end of that while.
    pub(super) fn at(&self, expected: f64) -> f64 {
        let place = self.lines.partition_point(|line| line.until <= expected);
        let Some(line) = self.lines.get(place) else { return f64::INFINITY };
        let more = (expected - line.before).max(0.0);
        let into = until_expected(line.rate, line.slope, more);
        line.at + into
    }
}

/// The t at which rate·t + slope·t²/2 has reached `expected`; infinite if it never does.
pub(super) fn until_expected(rate: f64, slope: f64, expected: f64) -> f64 {
    let under = rate.mul_add(rate, 2.0 * slope * expected);
    if under < 0.0 {
        return f64::INFINITY;
    }
    // This root's form stays exact when the slope is small or zero, where the textbook's subtracts two
    // nearly equal numbers.
    let t = 2.0 * expected / (rate + under.sqrt());
    // The very first arrival of a rate from zero divides zero by zero.
    if t.is_nan() { 0.0 } else { t }
}
