//! Response time against the offered rate: what a search saw, with the limit and the rate that holds.

use plotters::element::{Circle, DashedPathElement, PathElement, Polygon, Rectangle};
use plotters::style::Color;

use super::axis::Axis;
use super::canvas::{
    Canvas, Chart, EndLabel, INK, LIMIT, MUTED, Margins, Stand, line, series, wide, x_of, y_of,
};
use super::{Alt, ChartError, Figure};
use crate::words;

/// From this ratio of the highest to the lowest rate on, rates stand on a logarithmic scale: on a linear one the
/// lower ones would lie on top of each other.
const RATIO_MAX: f64 = 12.0;
/// Dashes and gaps of guide lines, eighths of a pixel.
const GUIDE: (i32, i32) = (40, 32);

/// One quantile against the rate.
#[derive(Clone, Debug)]
pub(crate) struct LoadLine {
    /// Stands at the line's end.
    pub(crate) name: String,
    /// In the order of the rate; `None` is infinite, and breaks the line.
    pub(crate) points: Vec<(f64, Option<f64>)>,
}

/// How a run ended, as its mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoadMark {
    /// A full circle.
    Held,
    /// A cross.
    Failed,
    /// An open triangle.
    Invalid,
}

/// What the chart shows.
#[derive(Clone, Debug)]
pub(crate) struct LoadChart {
    /// The operation.
    pub(crate) operation: String,
    /// The lower quantiles first; the marks lie on the one that is judged.
    pub(crate) lines: Vec<LoadLine>,
    /// Every run: its rate, the judged quantile (`None`: infinite), how it ended.
    pub(crate) runs: Vec<(f64, Option<f64>, LoadMark)>,
    /// The limit and its words.
    pub(crate) limit: Option<(f64, String)>,
    /// The rate that holds and its words.
    pub(crate) held: Option<(f64, String)>,
    /// The rate above it that does not.
    pub(crate) above: Option<f64>,
    /// What a reader must know.
    pub(crate) caption: String,
}

/// `None` if no run has a point.
pub(super) fn figure(chart: &LoadChart) -> Result<Option<Figure>, ChartError> {
    let finite = || chart.lines.iter().flat_map(|line| &line.points).filter_map(|point| point.1);
    let least = finite().fold(f64::INFINITY, f64::min);
    if !least.is_finite() || chart.runs.is_empty() {
        return Ok(None);
    }
    let limit = chart.limit.as_ref().map_or(0.0, |limit| limit.0);
    let most = finite().fold(limit, f64::max);
    let rates = || chart.runs.iter().map(|run| run.0);
    let bounds = (rates().fold(f64::INFINITY, f64::min), rates().fold(0.0, f64::max));
    let alt = Alt {
        id: "load".to_owned(),
        title: format!("Response time of {} against the offered rate", chart.operation),
        description: format!(
            "{} on logarithmic times; the table of runs below has the same figures.",
            words::counted(words::count(chart.lines.len()), "line", "lines")
        ),
    };
    let figure = Figure::draw(&alt, chart.caption.clone(), (460, 400), |canvas| {
        paint(canvas, chart, (least, most), bounds)
    })?;
    Ok(Some(figure))
}

fn paint(
    canvas: &Canvas<'_>,
    chart: &LoadChart,
    (least, most): (f64, f64),
    (slowest, fastest): (f64, f64),
) -> Result<(), ChartError> {
    let narrow = canvas.is_narrow();
    let right = if narrow { 62 } else { 110 };
    let margins = Margins { top: 52, right, bottom: 46, left: 62 };
    canvas.text("response time, logarithmic", (4, 12), 12.0, MUTED, Stand::Left)?;
    let middle = margins.left + (canvas.width - margins.left - margins.right) / 2;
    let logarithmic = fastest / slowest > RATIO_MAX;
    let x_name = if logarithmic {
        "offered rate, operations per second, logarithmic"
    } else {
        "offered rate, operations per second"
    };
    canvas.text(x_name, (middle, canvas.height - 10), 12.0, MUTED, Stand::Centre)?;
    let room = if narrow { 5 } else { 10 };
    let x = if logarithmic {
        Axis::rates_logarithmic(slowest, fastest, room)
    } else {
        Axis::rates(fastest * 1.02, if narrow { 4 } else { 9 })
    };
    let mut area = canvas.frame(margins, x, Axis::durations(least, most, 11))?;
    let ceiling = area.y_range().end;
    bracket(canvas, margins, &mut area, chart)?;
    if let Some((limit, words)) = &chart.limit {
        let from = area.x_range();
        let ends = vec![(from.start, *limit), (from.end, *limit)];
        area.draw_series([PathElement::new(ends, wide(LIMIT, 1.6))])?;
        let at = (margins.left + 6, y_of(&area, (from.start, *limit)) - 9);
        canvas.text(words, at, 11.5, LIMIT, Stand::Left)?;
    }
    let mut labels = Vec::new();
    for (n, one) in chart.lines.iter().enumerate() {
        labels.extend(draw_line(&mut area, n, one)?);
    }
    for (rate, time, how) in &chart.runs {
        mark(&mut area, (*rate, time.unwrap_or(ceiling)), *how, time.is_none())?;
        if time.is_none() {
            let at = (x_of(&area, (*rate, ceiling)) + 9, margins.top + 9);
            canvas.text("∞", at, 13.0, MUTED, Stand::Left)?;
        }
    }
    canvas.end_labels(margins, labels)
}

/// The rate that holds, and the gap in which the boundary lies.
fn bracket(
    canvas: &Canvas<'_>,
    margins: Margins,
    area: &mut Chart<'_>,
    chart: &LoadChart,
) -> Result<(), ChartError> {
    let Some((held, words)) = &chart.held else { return Ok(()) };
    let y = area.y_range();
    if let Some(above) = chart.above {
        let corners = [(*held, y.start), (above, y.end)];
        area.draw_series([Rectangle::new(corners, LIMIT.mix(0.14).filled())])?;
    }
    let (dash, gap) = GUIDE;
    let ends = vec![(*held, y.start), (*held, y.end)];
    area.draw_series([DashedPathElement::new(ends, dash, gap, wide(INK, 1.4))])?;
    // Some 6.6 pixels a character; the words stay over the plot.
    let half = i32::try_from(words.chars().count()).unwrap_or(40) * 33 / 10;
    let x = x_of(area, (*held, y.end));
    let x = x.min(canvas.width - half - 4).max(margins.left + half);
    canvas.name(words, (x, margins.top - 12), INK, Stand::Centre)
}

fn draw_line(
    area: &mut Chart<'_>,
    n: usize,
    one: &LoadLine,
) -> Result<Option<EndLabel>, ChartError> {
    let mut last = None;
    for run in one.points.split(|point| point.1.is_none()) {
        let points: Vec<(f64, f64)> =
            run.iter().filter_map(|point| Some((point.0, point.1?))).collect();
        if points.is_empty() {
            continue;
        }
        line(area, &points, series(n), 2.2)?;
        last = points.last().copied();
    }
    Ok(last.map(|last| EndLabel {
        x: x_of(area, last),
        y: y_of(area, last),
        series: n,
        name: one.name.clone(),
        detail: String::new(),
    }))
}

/// A run's mark: its shape says how it ended. What is infinite lies beneath the upper edge, whole.
fn mark(
    area: &mut Chart<'_>,
    point: (f64, f64),
    how: LoadMark,
    infinite: bool,
) -> Result<(), ChartError> {
    const SIZE: i32 = 40;
    let (x, y) = area.backend_coord(&point);
    let sheet = area.plotting_area().strip_coord_spec();
    let (left, top) = sheet.get_base_pixel();
    let (x, y) = (x - left, y - top + if infinite { SIZE * 7 / 4 } else { 0 });
    let d = SIZE;
    match how {
        LoadMark::Held => sheet.draw(&Circle::new((x, y), d, INK.filled()))?,
        LoadMark::Failed => {
            for (from, to) in [((x - d, y - d), (x + d, y + d)), ((x - d, y + d), (x + d, y - d))] {
                sheet.draw(&PathElement::new(vec![from, to], wide(LIMIT, 2.4)))?;
            }
        }
        LoadMark::Invalid => {
            let corners =
                vec![(x, y - d), (x + d, y + d * 4 / 5), (x - d, y + d * 4 / 5), (x, y - d)];
            sheet.draw(&Polygon::new(corners.clone(), super::canvas::GRID.filled()))?;
            sheet.draw(&PathElement::new(corners, wide(MUTED, 1.8)))?;
        }
    }
    Ok(())
}
