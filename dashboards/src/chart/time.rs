//! The run over time: offered and achieved rate, and each operation's response and service time,
//! all on one time scale, with warm-up, cool-down and faults as bands.

use plotters::element::Rectangle;
use plotters::style::Color;
use vaultmark_results::model::Quantiles;
use vaultmark_results::phase::Phase;

use super::axis::Axis;
use super::canvas::{
    AXIS, Canvas, Chart, EndLabel, FAULT, MUTED, Margins, Stand, line, series, shortened, x_of,
    y_of,
};
use super::{Alt, ChartError, Figure, drawable};
use crate::input::{OperationSecond, ReportInput, Second};
use crate::words;

/// A wide chart has about this many pixels; more points than that cannot be seen.
const POINTS_MAX: usize = 600;

/// Neighbouring intervals that are drawn as one point.
struct Group<'a> {
    from_s: f64,
    to_s: f64,
    seconds: Vec<&'a Second>,
}

impl Group<'_> {
    const fn middle(&self) -> f64 {
        f64::midpoint(self.from_s, self.to_s)
    }

    fn per_s(&self, count: impl Fn(&Second) -> u64) -> f64 {
        let sum: f64 = self.seconds.iter().map(|second| words::float(count(second))).sum();
        sum / (self.to_s - self.from_s)
    }

    /// The worst interval's quantile. Quantiles of intervals are never averaged.
    fn worst(&self, of: &impl Fn(&Second) -> Option<u64>) -> Option<u64> {
        self.seconds.iter().filter_map(|second| of(second)).max()
    }
}

pub(super) fn rates(input: &ReportInput) -> Result<Option<Figure>, ChartError> {
    let (groups, together) = groups(&input.seconds);
    if groups.is_empty() {
        return Ok(None);
    }
    let offered: Vec<(f64, f64)> =
        groups.iter().map(|group| (group.middle(), group.per_s(|s| s.offered))).collect();
    let achieved: Vec<(f64, f64)> =
        groups.iter().map(|group| (group.middle(), group.per_s(|s| s.achieved))).collect();
    let most = offered.iter().chain(&achieved).map(|point| point.1).fold(0.0, f64::max);
    let mut caption = "Intended starts and completions per second, all operations, however they \
                       ended."
        .to_owned();
    if together > 1 {
        caption.push_str(&format!(" Each point is the rate over {together} intervals."));
    }
    let alt = Alt {
        id: "rates".to_owned(),
        title: "Offered and achieved rate over the run".to_owned(),
        description: "Two lines over time, in operations per second; the table of intervals has \
                      the same figures."
            .to_owned(),
    };
    let figure = Figure::draw(&alt, caption, (220, 220), |canvas| {
        let margins = margins(canvas);
        canvas.text("operations per second", (4, 12), 12.0, MUTED, Stand::Left)?;
        let mut chart = canvas.frame(margins, time_axis(canvas, &groups), Axis::rates(most, 4))?;
        bands(canvas, margins, &mut chart, input)?;
        let mut labels = Vec::new();
        for (n, name, points, width) in
            [(4, "offered", &offered, 4.0), (0, "achieved", &achieved, 1.8)]
        {
            line(&mut chart, points, series(n), width)?;
            let last = points.last().copied().unwrap_or_default();
            labels.push(EndLabel {
                x: x_of(&chart, last),
                y: y_of(&chart, last),
                series: n,
                name: name.to_owned(),
                detail: String::new(),
            });
        }
        canvas.end_labels(margins, labels)
    })?;
    Ok(Some(figure))
}

pub(super) fn operation(
    input: &ReportInput,
    operation: &str,
    index: usize,
) -> Result<Option<Figure>, ChartError> {
    let (groups, together) = groups(&input.seconds);
    let of = |second: &Second| second.operations.get(operation).copied();
    let ended: Vec<OperationSecond> =
        drawable(&input.seconds).filter_map(of).filter(|second| second.count > 0).collect();
    if ended.is_empty() {
        return Ok(None);
    }
    let upper = Upper::of(&ended);
    let lines = [
        (
            0,
            format!("response {}", upper.name()),
            3.6,
            points(&groups, |s| upper.pick(of(s)?.response_ns)),
        ),
        (
            1,
            format!("service {}", upper.name()),
            1.5,
            points(&groups, |s| upper.pick(of(s)?.service_ns)),
        ),
        (0, "response p50".to_owned(), 3.6, points(&groups, |s| of(s)?.response_ns.p50)),
        (1, "service p50".to_owned(), 1.5, points(&groups, |s| of(s)?.service_ns.p50)),
    ];
    let values = || lines.iter().flat_map(|line| &line.3).flatten().map(|point| point.1);
    let least = values().fold(f64::INFINITY, f64::min);
    if !least.is_finite() {
        return Ok(None);
    }
    let most = values().fold(0.0, f64::max);
    let alt = Alt {
        id: format!("time-{index}"),
        title: format!("Response and service time of {operation} over the run"),
        description: format!(
            "Median and {} of each interval on a logarithmic scale.",
            upper.words()
        ),
    };
    let figure = Figure::draw(&alt, upper.caption(together), (250, 260), |canvas| {
        let margins = margins(canvas);
        canvas.text("time, logarithmic", (4, 12), 12.0, MUTED, Stand::Left)?;
        let y = Axis::durations(least, most, 10);
        let mut chart = canvas.frame(margins, time_axis(canvas, &groups), y)?;
        bands(canvas, margins, &mut chart, input)?;
        let mut labels = Vec::new();
        for (n, name, width, runs) in &lines {
            for run in runs {
                line(&mut chart, run, series(*n), *width)?;
            }
            if let Some(last) = runs.last().and_then(|run| run.last()) {
                labels.push(EndLabel {
                    x: x_of(&chart, *last),
                    y: y_of(&chart, *last),
                    series: *n,
                    name: name.clone(),
                    detail: String::new(),
                });
            }
        }
        canvas.end_labels(margins, labels)
    })?;
    Ok(Some(figure))
}

/// The upper line. A second of few operations has no p99; its slowest it has.
#[derive(Clone, Copy)]
enum Upper {
    P99,
    Max,
}

impl Upper {
    fn of(seconds: &[OperationSecond]) -> Self {
        let with_p99 = seconds.iter().filter(|second| second.response_ns.p99.is_some()).count();
        if with_p99 * 2 >= seconds.len() { Self::P99 } else { Self::Max }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::P99 => "p99",
            Self::Max => "max",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::P99 => "99th percentile",
            Self::Max => "slowest",
        }
    }

    const fn pick(self, quantiles: Quantiles) -> Option<u64> {
        match self {
            Self::P99 => quantiles.p99,
            Self::Max => quantiles.max,
        }
    }

    fn caption(self, together: usize) -> String {
        let mut parts = Vec::new();
        if matches!(self, Self::Max) {
            parts.push(
                "An interval has too few of these for a p99: its slowest is drawn.".to_owned(),
            );
        }
        if together > 1 {
            parts.push(format!("Each point is the worst of {together} intervals."));
        }
        parts.join(" ")
    }
}

/// Lines through the groups that have a value; one without breaks the line.
fn points(groups: &[Group<'_>], of: impl Fn(&Second) -> Option<u64>) -> Vec<Vec<(f64, f64)>> {
    let mut lines = vec![Vec::new()];
    for group in groups {
        match group.worst(&of) {
            Some(ns) => {
                if let Some(line) = lines.last_mut() {
                    line.push((group.middle(), words::float(ns)));
                }
            }
            None => lines.push(Vec::new()),
        }
    }
    lines.retain(|line| !line.is_empty());
    lines
}

/// Intervals in groups few enough to draw, and how many make one. A last one that is much shorter
/// than the others joins its neighbour: its rate would be mostly chance.
fn groups(seconds: &[Second]) -> (Vec<Group<'_>>, usize) {
    let seconds: Vec<&Second> = drawable(seconds).collect();
    let together = seconds.len().div_ceil(POINTS_MAX).max(1);
    let mut groups: Vec<Group<'_>> = seconds
        .chunks(together)
        .filter_map(|chunk| {
            let (first, last) = (chunk.first()?, chunk.last()?);
            Some(Group { from_s: first.from_s, to_s: last.to_s, seconds: chunk.to_vec() })
        })
        .filter(|group| group.to_s > group.from_s)
        .collect();
    if let [.., before, last] = groups.as_mut_slice()
        && last.to_s - last.from_s < (before.to_s - before.from_s) / 2.0
    {
        before.to_s = before.to_s.max(last.to_s);
        before.seconds.append(&mut last.seconds);
        groups.pop();
    }
    (groups, together)
}

fn margins(canvas: &Canvas<'_>) -> Margins {
    Margins { top: 34, right: if canvas.is_narrow() { 106 } else { 150 }, bottom: 30, left: 62 }
}

fn time_axis(canvas: &Canvas<'_>, groups: &[Group<'_>]) -> Axis {
    let from = groups.iter().map(|group| group.from_s).fold(f64::INFINITY, f64::min);
    let to = groups.iter().map(|group| group.to_s).fold(f64::NEG_INFINITY, f64::max);
    Axis::seconds(from, to, if canvas.is_narrow() { 5 } else { 12 })
}

/// Shades what was not measured, and faults, and names what has room for its name.
fn bands(
    canvas: &Canvas<'_>,
    margins: Margins,
    chart: &mut Chart<'_>,
    input: &ReportInput,
) -> Result<(), ChartError> {
    let y = chart.y_range();
    let end = chart.x_range().end;
    let mut named_to = 0;
    for (from, to, phase) in phases(&input.seconds) {
        let (colour, name) = match phase {
            Phase::WarmUp => (AXIS, "warm-up"),
            Phase::CoolDown => (AXIS, "cool-down"),
            Phase::Measure => continue,
        };
        chart.draw_series([Rectangle::new(
            [(from, y.start), (to, y.end)],
            colour.mix(0.13).filled(),
        )])?;
        let (left, right) = (x_of(chart, (from, y.end)), x_of(chart, (to, y.end)));
        if right - left > 58 {
            let at = (i32::midpoint(left, right), margins.top + 9);
            canvas.text(name, at, 11.0, MUTED, Stand::Centre)?;
        }
    }
    for fault in input.run.faults.iter().filter(|fault| fault.at_s.is_finite()) {
        let to = fault.until_s.filter(|s| s.is_finite()).unwrap_or(end);
        let corners = [(fault.at_s, y.start), (to.max(fault.at_s), y.end)];
        chart.draw_series([Rectangle::new(corners, FAULT.mix(0.16).filled())])?;
        let left = x_of(chart, (fault.at_s, y.end));
        chart.draw_series([plotters::element::PathElement::new(
            vec![(fault.at_s, y.start), (fault.at_s, y.end)],
            super::canvas::wide(FAULT, 1.2),
        )])?;
        // A band has two edges; one without an end has none to the right.
        if fault.until_s.is_some() {
            chart.draw_series([plotters::element::PathElement::new(
                vec![(to, y.start), (to, y.end)],
                super::canvas::wide(FAULT, 0.6),
            )])?;
        }
        // The name stands above the plot, clear of the lines, unless another stands there.
        let name = shortened(&fault.what, 28);
        let width = i32::try_from(name.chars().count()).unwrap_or(28) * 7;
        if left > named_to.max(160) && left + width < canvas.width {
            canvas.text(&name, (left, margins.top - 9), 11.0, FAULT, Stand::Left)?;
            named_to = left + width;
        }
    }
    Ok(())
}

/// Phases as stretches of time.
fn phases(seconds: &[Second]) -> Vec<(f64, f64, Phase)> {
    let mut phases: Vec<(f64, f64, Phase)> = Vec::new();
    for second in drawable(seconds) {
        match phases.last_mut() {
            Some((_, to, phase)) if *phase == second.phase => *to = second.to_s,
            _ => phases.push((second.from_s, second.to_s, second.phase)),
        }
    }
    phases
}
