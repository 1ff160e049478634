//! Response time by percentile: one curve an operation, with the limits it has to stay under.

use vaultmark_results::model::Run;
use vaultmark_results::slo::{Rule, Statistic, Time};
use vaultmark_results::units::format_duration;

use super::axis::Axis;
use super::canvas::{
    Canvas, Chart, EndLabel, LIMIT, MUTED, Margins, Stand, line, mark, series, shortened, wide,
    x_of, y_of,
};
use super::{Alt, ChartError, Figure};
use crate::input::{Curve, ReportInput};
use crate::words;

/// A limit more than this many times the slowest point would squeeze the curves flat; the table of
/// rules has it anyway.
const FAR: f64 = 100.0;

/// A response-time limit of a rule about an operation with a curve.
struct Limit {
    x: f64,
    ns: f64,
    label: String,
}

pub(super) fn figure(input: &ReportInput) -> Result<Option<Figure>, ChartError> {
    let order = words::operations(&input.run);
    let curves: Vec<(usize, &Curve)> = order
        .iter()
        .enumerate()
        .filter_map(|(n, (name, _))| {
            let curve = input.curves.iter().find(|curve| curve.operation == **name)?;
            (!curve.points.is_empty()).then_some((n, curve))
        })
        .collect();
    if curves.is_empty() {
        return Ok(None);
    }
    let points = || curves.iter().flat_map(|(_, curve)| &curve.points);
    let least = points().map(|point| words::float(point.ns)).fold(f64::INFINITY, f64::min);
    let most = points().map(|point| words::float(point.ns)).fold(0.0, f64::max);
    let end = points().map(|point| point.x).fold(0.0, f64::max);
    let limits = limits(&input.run, &curves, end.max(1.0), most);
    let top = limits.iter().map(|limit| limit.ns).fold(most, f64::max);

    let missing = order.len() - curves.len();
    let caption = caption(missing);
    let alt = Alt {
        id: "percentiles".to_owned(),
        title: "Response time by percentile".to_owned(),
        description: format!(
            "{} on a logarithmic scale against the percentile; the table of operations has the same \
             figures.",
            words::counted(words::count(curves.len()), "curve", "curves")
        ),
    };
    let figure = Figure::draw(&alt, caption, (400, 340), |canvas| {
        let margins = Margins {
            top: 34,
            right: if canvas.is_narrow() { 106 } else { 150 },
            bottom: 30,
            left: 62,
        };
        canvas.text("response time, logarithmic", (4, 12), 12.0, MUTED, Stand::Left)?;
        let room = f64::from(canvas.width - margins.left - margins.right);
        let y = Axis::durations(least, top, 11);
        let mut chart = canvas.frame(margins, Axis::percentiles(end, room), y)?;
        let mut labels = Vec::new();
        for (n, curve) in &curves {
            labels.push(draw_curve(&mut chart, &input.run, *n, curve)?);
        }
        draw_limits(canvas, margins, &mut chart, &limits)?;
        canvas.end_labels(margins, labels)
    })?;
    Ok(Some(figure))
}

fn caption(missing: usize) -> String {
    let mut caption = "Over every intended operation, from its intended start; lower is better. A \
                       curve ends where fewer than ten operations lie above it, or where those \
                       begin that did not end as expected and count as infinitely slow. Marks are \
                       the p50, p90, p99 and p99.9 of the table."
        .to_owned();
    if missing > 0 {
        let operations = words::counted(words::count(missing), "operation has", "operations have");
        caption.push_str(&format!(" {operations} too few samples for a curve."));
    }
    caption
}

fn draw_curve(
    chart: &mut Chart<'_>,
    run: &Run,
    n: usize,
    curve: &Curve,
) -> Result<EndLabel, ChartError> {
    let points: Vec<(f64, f64)> =
        curve.points.iter().map(|point| (point.x, words::float(point.ns))).collect();
    line(chart, &points, series(n), 2.6)?;
    let last = points.last().copied().unwrap_or((0.0, 1.0));
    let mut detail = String::new();
    if let Some(result) = run.operations.get(&curve.operation) {
        for (statistic, ns) in words::quantiles(&result.response_intended_ns) {
            let (Some(x), Some(ns)) = (place(statistic), ns) else { continue };
            if x <= last.0 + 1e-9 {
                mark(chart, (x, words::float(ns)), n)?;
            }
            if matches!(statistic, Statistic::P50 | Statistic::P99) {
                detail = format!("{} {}", statistic.name(), format_duration(ns));
            }
        }
    }
    Ok(EndLabel {
        x: x_of(chart, last),
        y: y_of(chart, last),
        series: n,
        name: curve.operation.clone(),
        detail,
    })
}

/// Bars at the limits. One whose name would cover another's goes without.
fn draw_limits(
    canvas: &Canvas<'_>,
    margins: Margins,
    chart: &mut Chart<'_>,
    limits: &[Limit],
) -> Result<(), ChartError> {
    let mut named: Vec<(i32, i32)> = Vec::new();
    for limit in limits {
        let half = if canvas.is_narrow() { 0.2 } else { 0.12 };
        let ends = vec![(limit.x - half, limit.ns), (limit.x + half, limit.ns)];
        chart.draw_series([plotters::element::PathElement::new(ends, wide(LIMIT, 2.0))])?;
        // Some 6.4 pixels a character; the name stays over the plot.
        let half = i32::try_from(limit.label.chars().count()).unwrap_or(32) * 16 / 5;
        let x = x_of(chart, (limit.x, limit.ns))
            .min(canvas.width - margins.right - half)
            .max(margins.left + half);
        let at = (x, y_of(chart, (limit.x, limit.ns)) - 10);
        if named.iter().all(|other| (other.0 - at.0).abs() > 140 || (other.1 - at.1).abs() > 14) {
            canvas.text(&limit.label, at, 11.5, LIMIT, Stand::Centre)?;
            named.push(at);
        }
    }
    Ok(())
}

fn limits(run: &Run, curves: &[(usize, &Curve)], end: f64, most: f64) -> Vec<Limit> {
    let mut limits: Vec<Limit> = Vec::new();
    for slo in &run.slos {
        let Ok(Rule::Quantile { operation, outcome: None, time: Time::Response, statistic, limit }) =
            Rule::parse(&slo.rule)
        else {
            continue;
        };
        let known = curves.iter().any(|(_, curve)| curve.operation == operation);
        let ns = limit.as_secs_f64() * 1e9;
        let Some(x) = place(statistic).filter(|x| *x <= end) else { continue };
        if !known || ns > most * FAR {
            continue;
        }
        let words = format!("{} < {}", statistic.name(), words::mean(ns));
        match limits.iter_mut().find(|l| (l.x - x).abs() < 1e-9 && (l.ns - ns).abs() < 1.0) {
            Some(same) => same.label = words,
            None if curves.len() > 1 => {
                let label = format!("{} {words}", shortened(&operation, 14));
                limits.push(Limit { x, ns, label });
            }
            None => limits.push(Limit { x, ns, label: words }),
        }
    }
    limits
}

/// Where a quantile lies on the axis; the slowest lies nowhere.
fn place(statistic: Statistic) -> Option<f64> {
    match statistic {
        Statistic::P50 => Some(2_f64.log10()),
        Statistic::P90 => Some(1.0),
        Statistic::P99 => Some(2.0),
        Statistic::P99_9 => Some(3.0),
        Statistic::Max => None,
    }
}
