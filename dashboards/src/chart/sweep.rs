//! A figure against a parameter: one line a series where the parameter is a number, else one mark a value.

use plotters::element::{Circle, PathElement};
use plotters::style::Color;

use super::axis::Axis;
use super::canvas::{
    Canvas, Chart, EndLabel, MUTED, Margins, PAGE, Stand, line, mark, series, wide, x_of, y_of,
};
use super::{Alt, ChartError, Figure};
use crate::words;

/// One line.
#[derive(Clone, Debug)]
pub(crate) struct SweepLine {
    /// Stands at the line's end; empty where there is only one.
    pub(crate) name: String,
    /// Place on the x axis, value, and whether every run there passed.
    pub(crate) points: Vec<(f64, f64, bool)>,
}

/// What is drawn.
#[derive(Clone, Debug)]
pub(crate) struct SweepChart {
    /// Part of the names of its elements.
    pub(crate) id: &'static str,
    /// What it shows.
    pub(crate) title: String,
    /// Names of the axes.
    pub(crate) x_name: String,
    /// The same of y.
    pub(crate) y_name: String,
    /// The parameter's values: place and label. Places are the values where those are numbers.
    pub(crate) ticks: Vec<(f64, String)>,
    /// Whether the parameter is a number: points are joined.
    pub(crate) numeric: bool,
    /// Whether y is a duration in nanoseconds; else a rate.
    pub(crate) durations: bool,
    /// The lines.
    pub(crate) lines: Vec<SweepLine>,
    /// What a reader must know.
    pub(crate) caption: String,
}

/// `None` without a point.
pub(super) fn figure(chart: &SweepChart) -> Result<Option<Figure>, ChartError> {
    let values = || chart.lines.iter().flat_map(|line| &line.points).map(|point| point.1);
    let least = values().fold(f64::INFINITY, f64::min);
    if !least.is_finite() {
        return Ok(None);
    }
    let most = values().fold(0.0, f64::max);
    let alt = Alt {
        id: chart.id.to_owned(),
        title: chart.title.clone(),
        description: format!(
            "{}; the table has the same figures.",
            words::counted(words::count(chart.lines.len()), "line", "lines")
        ),
    };
    let named = i32::try_from(chart.lines.len()).unwrap_or(64).min(64) * 17 + 120;
    let heights = (named.max(340), named.max(320));
    let figure = Figure::draw(&alt, chart.caption.clone(), heights, |canvas| {
        paint(canvas, chart, (least, most))
    })?;
    Ok(Some(figure))
}

fn paint(
    canvas: &Canvas<'_>,
    chart: &SweepChart,
    (least, most): (f64, f64),
) -> Result<(), ChartError> {
    let narrow = canvas.is_narrow();
    let named = chart.lines.iter().any(|line| !line.name.is_empty());
    let right = match (named, narrow) {
        (false, _) => 28,
        (true, true) => 112,
        (true, false) => 220,
    };
    let margins = Margins { top: 34, right, bottom: 46, left: 66 };
    canvas.text(&chart.y_name, (4, 12), 12.0, MUTED, Stand::Left)?;
    let middle = margins.left + (canvas.width - margins.left - margins.right) / 2;
    canvas.text(&chart.x_name, (middle, canvas.height - 10), 12.0, MUTED, Stand::Centre)?;
    let room = (canvas.width - margins.left - margins.right) / 62;
    let x = Axis::places(&chart.ticks, usize::try_from(room).unwrap_or(4));
    let y = if chart.durations {
        Axis::durations(least, most, 10)
    } else {
        Axis::rates(most * 1.02, 5)
    };
    let mut area = canvas.frame(margins, x, y)?;
    let mut labels = Vec::new();
    for (n, one) in chart.lines.iter().enumerate() {
        let points: Vec<(f64, f64)> = one.points.iter().map(|point| (point.0, point.1)).collect();
        let Some(last) = points.last().copied() else { continue };
        if chart.numeric && points.len() > 1 {
            line(&mut area, &points, series(n), 2.2)?;
        } else {
            stems(&mut area, &points, n)?;
        }
        for (point, (.., passed)) in points.iter().zip(&one.points) {
            mark(&mut area, *point, n)?;
            if !passed {
                hollow(&mut area, *point)?;
            }
        }
        if !one.name.is_empty() {
            labels.push(EndLabel {
                x: x_of(&area, last),
                y: y_of(&area, last),
                series: n,
                name: one.name.clone(),
                detail: String::new(),
            });
        }
    }
    canvas.end_labels(margins, labels)
}

/// From the ground to each value: what is no number has nothing between two values.
fn stems(area: &mut Chart<'_>, points: &[(f64, f64)], n: usize) -> Result<(), ChartError> {
    let ground = area.y_range().start;
    for (x, y) in points {
        let style = wide(series(n), 1.6);
        area.draw_series([PathElement::new(vec![(*x, ground), (*x, *y)], style)])?;
    }
    Ok(())
}

/// A hole in a mark: not every run there passed.
fn hollow(area: &mut Chart<'_>, point: (f64, f64)) -> Result<(), ChartError> {
    let (x, y) = area.backend_coord(&point);
    let sheet = area.plotting_area().strip_coord_spec();
    let (left, top) = sheet.get_base_pixel();
    Ok(sheet.draw(&Circle::new((x - left, y - top), 18, PAGE.filled()))?)
}
