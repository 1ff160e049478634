//! Charts of the comparison of HSMs: one line a device, named at its end.

use plotters::element::DashedPathElement;

use super::axis::Axis;
use super::canvas::{
    Canvas, Chart, EndLabel, MUTED, Margins, Stand, line, mark, series, shortened, wide, x_of, y_of,
};
use super::{Alt, ChartError, Figure};
use crate::words;

/// Dashes and the gaps between them, in plotters' eighths of a pixel.
const DASH: (i32, i32) = (56, 36);

/// One device's line.
#[derive(Clone, Debug)]
pub(crate) struct ScaledLine {
    /// Which colour and mark.
    pub(crate) series: usize,
    /// Stands at the line's end.
    pub(crate) name: String,
    /// Beneath the name, where there is room.
    pub(crate) detail: String,
    /// Service times are a model's.
    pub(crate) dashed: bool,
    /// In the order of x; both above zero.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Evaluations per second against HSM sessions; `None` without a line.
pub(super) fn sessions(
    lines: &[ScaledLine],
    caption: String,
) -> Result<Option<Figure>, ChartError> {
    let alt = Alt {
        id: "sessions".to_owned(),
        title: "Evaluations per second against HSM sessions".to_owned(),
        description: description(lines),
    };
    let x = Axis::doublings(bounds(lines, |point| point.0).1);
    let (least, most) = bounds(lines, |point| point.1);
    figure(lines, &alt, caption, ("evaluations/s", "HSM sessions"), |_| {
        (x.clone(), Axis::rates_logarithmic(least, most, 11))
    })
}

/// Response p99 against load; `None` without a line.
pub(super) fn tails(lines: &[ScaledLine], caption: String) -> Result<Option<Figure>, ChartError> {
    let alt = Alt {
        id: "tails".to_owned(),
        title: "Response time p99 against load".to_owned(),
        description: description(lines),
    };
    let (least, most) = bounds(lines, |point| point.1);
    let mut loads: Vec<f64> = lines.iter().flat_map(|line| &line.points).map(|p| p.0).collect();
    loads.sort_by(f64::total_cmp);
    loads.dedup();
    figure(lines, &alt, caption, ("response p99, logarithmic", "share of capacity"), |canvas| {
        let room = if canvas.is_narrow() { 8 } else { 11 };
        (Axis::loads(&loads), Axis::durations(least, most, room))
    })
}

fn description(lines: &[ScaledLine]) -> String {
    let count = words::counted(words::count(lines.len()), "line", "lines");
    format!("{count}, one a device; the tables have the same figures.")
}

fn bounds(lines: &[ScaledLine], of: impl Fn(&(f64, f64)) -> f64) -> (f64, f64) {
    let values = lines.iter().flat_map(|line| &line.points).map(of);
    values.fold((f64::INFINITY, 0.0), |(least, most), x| (least.min(x), most.max(x)))
}

fn figure(
    lines: &[ScaledLine],
    alt: &Alt,
    caption: String,
    (y_name, x_name): (&str, &str),
    axes: impl Fn(&Canvas<'_>) -> (Axis, Axis),
) -> Result<Option<Figure>, ChartError> {
    if lines.is_empty() {
        return Ok(None);
    }
    // Each line's name needs its room at the right.
    let named = |each: i32| i32::try_from(lines.len()).unwrap_or(64).min(64) * each + 90;
    let heights = (named(33).max(380), named(17).max(340));
    let figure = Figure::draw(alt, caption, heights, |canvas| {
        let narrow = canvas.is_narrow();
        let margins = Margins {
            top: 34,
            right: if narrow { 112 } else { 200 },
            bottom: 46,
            left: if narrow { 58 } else { 66 },
        };
        canvas.text(y_name, (4, 12), 12.0, MUTED, Stand::Left)?;
        let middle = margins.left + (canvas.width - margins.left - margins.right) / 2;
        canvas.text(x_name, (middle, canvas.height - 10), 12.0, MUTED, Stand::Centre)?;
        let (x, y) = axes(canvas);
        let mut chart = canvas.frame(margins, x, y)?;
        let mut labels = Vec::new();
        for one in lines {
            labels.extend(draw(&mut chart, one, narrow)?);
        }
        canvas.end_labels(margins, labels)
    })?;
    Ok(Some(figure))
}

fn draw(
    chart: &mut Chart<'_>,
    one: &ScaledLine,
    narrow: bool,
) -> Result<Option<EndLabel>, ChartError> {
    let Some(last) = one.points.last().copied() else { return Ok(None) };
    let colour = series(one.series);
    if one.dashed {
        let (dash, gap) = DASH;
        let path = DashedPathElement::new(one.points.clone(), dash, gap, wide(colour, 2.2));
        chart.draw_series([path])?;
    } else {
        line(chart, &one.points, colour, 2.6)?;
    }
    for point in &one.points {
        mark(chart, *point, one.series)?;
    }
    let modelled = if one.dashed { ", modelled" } else { "" };
    let detail = format!("{}{modelled}", one.detail);
    Ok(Some(EndLabel {
        x: x_of(chart, last),
        y: y_of(chart, last),
        series: one.series,
        name: one.name.clone(),
        detail: if narrow { String::new() } else { shortened(&detail, 32) },
    }))
}
