//! The sheet a chart is drawn on: size, colours, text, the frame, and labels at line ends.

use plotters::backend::SVGBackend;
use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{Circle, DashedPathElement, PathElement, Polygon, Rectangle, Text};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontStyle, IntoFont, RGBColor, ShapeStyle, TRANSPARENT, TextStyle};

use super::axis::Axis;
use super::{Alt, ChartError};

/// plotters counts in whole pixels; lines drawn in eighths of one are smooth.
const SCALE: i32 = 8;

/// plotters' SVG backend divides font sizes by this.
const FONT: f64 = 1.24;

/// Longest lead from a line's end to its name that is drawn through, CSS pixels.
const LEAD_MAX: i32 = 90;

pub(super) const PAGE: RGBColor = RGBColor(0xFF, 0xFF, 0xFF);
pub(super) const INK: RGBColor = RGBColor(0x1F, 0x29, 0x37);
pub(super) const MUTED: RGBColor = RGBColor(0x5B, 0x64, 0x72);
pub(super) const AXIS: RGBColor = RGBColor(0x6B, 0x72, 0x80);
pub(super) const GRID: RGBColor = RGBColor(0xE5, 0xE7, 0xEB);
pub(super) const LIMIT: RGBColor = RGBColor(0xB9, 0x1C, 0x1C);
pub(super) const FAULT: RGBColor = RGBColor(0xB4, 0x53, 0x09);

/// Okabe and Ito's colours, told apart by colour-blind people; with each a darker one for its text,
/// which needs more contrast than a line. The style sheet has both for the dark.
const SERIES: [(RGBColor, RGBColor); 8] = [
    (RGBColor(0x00, 0x72, 0xB2), RGBColor(0x00, 0x5F, 0x96)),
    (RGBColor(0xD5, 0x5E, 0x00), RGBColor(0xA8, 0x4A, 0x00)),
    (RGBColor(0x00, 0x9E, 0x73), RGBColor(0x00, 0x70, 0x4F)),
    (RGBColor(0xCC, 0x79, 0xA7), RGBColor(0x99, 0x44, 0x6F)),
    (RGBColor(0xE6, 0x9F, 0x00), RGBColor(0x8A, 0x5F, 0x00)),
    (RGBColor(0x56, 0xB4, 0xE9), RGBColor(0x1F, 0x6E, 0x9F)),
    (RGBColor(0x7F, 0x7F, 0x7F), RGBColor(0x59, 0x59, 0x59)),
    (RGBColor(0xF0, 0xE4, 0x42), RGBColor(0x6E, 0x67, 0x00)),
];

/// The colour of the n-th series.
pub(super) const fn series(n: usize) -> RGBColor {
    SERIES[n % SERIES.len()].0
}

/// The colour of the n-th series' text.
pub(super) const fn series_text(n: usize) -> RGBColor {
    SERIES[n % SERIES.len()].1
}

/// The style-sheet class with the n-th series' colour.
pub(crate) fn series_class(n: usize) -> String {
    format!("series-{}", n % SERIES.len())
}

/// A chart's sheet.
pub(super) struct Canvas<'a> {
    root: DrawingArea<SVGBackend<'a>, Shift>,
    pub(super) width: i32,
    pub(super) height: i32,
}

pub(super) type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<Axis, Axis>>;

/// Room around the plot, CSS pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Margins {
    pub(super) top: i32,
    pub(super) right: i32,
    pub(super) bottom: i32,
    pub(super) left: i32,
}

/// How a text stands at its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stand {
    Left,
    Centre,
}

/// A line's name at its end.
#[derive(Clone, Debug)]
pub(super) struct EndLabel {
    /// CSS pixels from the left: where the line ends.
    pub(super) x: i32,
    /// CSS pixels from the top.
    pub(super) y: i32,
    pub(super) series: usize,
    pub(super) name: String,
    pub(super) detail: String,
}

/// Draws one chart. The text is the whole `<svg>` element.
pub(super) fn svg(
    class: &str,
    (width, height): (i32, i32),
    alt: &Alt,
    paint: &impl Fn(&Canvas<'_>) -> Result<(), ChartError>,
) -> Result<String, ChartError> {
    let mut text = String::new();
    {
        let size = |n: i32| u32::try_from(n * SCALE).unwrap_or(1);
        let backend = SVGBackend::with_string(&mut text, (size(width), size(height)));
        let canvas = Canvas { root: backend.into_drawing_area(), width, height };
        paint(&canvas)?;
        canvas.root.present()?;
    }
    // The opening element is written anew: with a view box alone it scales with the page.
    let body = text.split_once('>').map_or("", |(_, body)| body);
    let id = format!("{}-{class}", alt.id);
    Ok(format!(
        "<svg class=\"chart {class}\" viewBox=\"0 0 {w} {h}\" role=\"img\" \
         aria-labelledby=\"{id}-t {id}-d\"><title id=\"{id}-t\">{title}</title>\
         <desc id=\"{id}-d\">{description}</desc>{body}",
        w = width * SCALE,
        h = height * SCALE,
        title = escaped(&alt.title),
        description = escaped(&alt.description),
    ))
}

impl<'a> Canvas<'a> {
    /// Narrow sheets have less room for words.
    pub(super) const fn is_narrow(&self) -> bool {
        self.width < 600
    }

    /// Grid, axes and tick labels.
    pub(super) fn frame(
        &self,
        margins: Margins,
        x: Axis,
        y: Axis,
    ) -> Result<Chart<'a>, ChartError> {
        let mut chart = ChartBuilder::on(&self.root)
            .margin_top(px(margins.top))
            .margin_right(px(margins.right))
            .x_label_area_size(px(margins.bottom))
            .y_label_area_size(px(margins.left))
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID.stroke_width(stroke(1.0)))
            .axis_style(AXIS.stroke_width(stroke(1.0)))
            .label_style(style(12.0, FontStyle::Normal, INK, Stand::Left))
            .set_all_tick_mark_size(px(4))
            .draw()?;
        Ok(chart)
    }

    /// Text at a point, CSS pixels; y is its middle.
    pub(super) fn text(
        &self,
        text: &str,
        (x, y): (i32, i32),
        size: f64,
        colour: RGBColor,
        stand: Stand,
    ) -> Result<(), ChartError> {
        let style = style(size, FontStyle::Normal, colour, stand);
        Ok(self.root.draw(&Text::new(text.to_owned(), (x * SCALE, y * SCALE), style))?)
    }

    /// A heavier text.
    pub(super) fn name(
        &self,
        text: &str,
        (x, y): (i32, i32),
        colour: RGBColor,
        stand: Stand,
    ) -> Result<(), ChartError> {
        let style = style(12.5, FontStyle::Bold, colour, stand);
        Ok(self.root.draw(&Text::new(text.to_owned(), (x * SCALE, y * SCALE), style))?)
    }

    /// A filled rectangle, CSS pixels.
    pub(super) fn bar(
        &self,
        (left, top): (f64, f64),
        (right, bottom): (f64, f64),
        colour: RGBColor,
    ) -> Result<(), ChartError> {
        let corners = [(eighths(left), eighths(top)), (eighths(right), eighths(bottom))];
        Ok(self.root.draw(&Rectangle::new(corners, colour.filled()))?)
    }

    /// Names at the line ends, pushed apart so that none covers another.
    pub(super) fn end_labels(
        &self,
        margins: Margins,
        mut labels: Vec<EndLabel>,
    ) -> Result<(), ChartError> {
        let spacing = if labels.iter().any(|label| !label.detail.is_empty()) { 33 } else { 17 };
        labels.sort_by_key(|label| label.y);
        let mut at: Vec<i32> = labels.iter().map(|label| label.y).collect();
        push_apart(&mut at, spacing, margins.top, self.height - margins.bottom);
        let x = self.width - margins.right + 9;
        for (label, y) in labels.iter().zip(&at) {
            // A line that ends far from its name is led there.
            if x - label.x > 40 {
                let lead =
                    vec![((label.x + 5) * SCALE, label.y * SCALE), ((x - 4) * SCALE, y * SCALE)];
                let style = series(label.series).mix(0.45).stroke_width(stroke(1.0));
                // A long one would be taken for data.
                if x - label.x > LEAD_MAX {
                    let (dot, gap) = (px(1), px(4));
                    self.root.draw(&DashedPathElement::new(lead, dot, gap, style))?;
                } else {
                    self.root.draw(&PathElement::new(lead, style))?;
                }
            }
        }
        for (label, y) in labels.iter().zip(at) {
            let room = usize::try_from((margins.right - 12) * 10 / 72).unwrap_or(8);
            let up = if label.detail.is_empty() { 0 } else { 8 };
            let colour = series_text(label.series);
            self.name(&shortened(&label.name, room), (x, y - up), colour, Stand::Left)?;
            if !label.detail.is_empty() {
                self.text(&label.detail, (x, y + 8), 12.0, MUTED, Stand::Left)?;
            }
        }
        Ok(())
    }
}

/// CSS pixels from the top of a point of the chart.
pub(super) fn y_of(chart: &Chart<'_>, point: (f64, f64)) -> i32 {
    chart.backend_coord(&point).1 / SCALE
}

/// CSS pixels from the left of a point of the chart.
pub(super) fn x_of(chart: &Chart<'_>, point: (f64, f64)) -> i32 {
    chart.backend_coord(&point).0 / SCALE
}

/// A line; a lone point becomes a dot, which a line would not show.
pub(super) fn line(
    chart: &mut Chart<'_>,
    points: &[(f64, f64)],
    colour: RGBColor,
    width: f64,
) -> Result<(), ChartError> {
    if let [point] = points {
        chart.draw_series([Circle::new(*point, stroke(width), colour.filled())])?;
    } else {
        chart.draw_series([PathElement::new(points.to_vec(), wide(colour, width))])?;
    }
    Ok(())
}

/// A mark on the n-th series: round, square or a triangle, so that colour is not the only sign.
pub(super) fn mark(chart: &mut Chart<'_>, point: (f64, f64), n: usize) -> Result<(), ChartError> {
    const SIZE: i32 = 36;
    let (x, y) = chart.backend_coord(&point);
    let style = series(n).filled();
    let area = chart.plotting_area().strip_coord_spec();
    let (left, top) = area.get_base_pixel();
    let (x, y) = (x - left, y - top);
    match n % 3 {
        0 => area.draw(&Circle::new((x, y), SIZE, style))?,
        1 => {
            let d = SIZE * 9 / 10;
            area.draw(&Rectangle::new([(x - d, y - d), (x + d, y + d)], style))?;
        }
        _ => {
            let d = SIZE * 6 / 5;
            let corners = vec![(x, y - d), (x + d, y + d * 4 / 5), (x - d, y + d * 4 / 5)];
            area.draw(&Polygon::new(corners, style))?;
        }
    }
    Ok(())
}

/// A line's colour and width, CSS pixels.
pub(super) fn wide(colour: RGBColor, width: f64) -> ShapeStyle {
    colour.stroke_width(stroke(width))
}

/// At most so many characters, with an ellipsis.
pub(super) fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(most.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// Moves sorted positions so that neighbours are `spacing` apart, between `top` and `bottom` if
/// there is room.
fn push_apart(at: &mut [i32], spacing: i32, top: i32, bottom: i32) {
    let mut least = top;
    for y in at.iter_mut() {
        *y = (*y).max(least);
        least = *y + spacing;
    }
    let mut most = bottom;
    for y in at.iter_mut().rev() {
        *y = (*y).min(most);
        most = *y - spacing;
    }
}

fn style(size: f64, weight: FontStyle, colour: RGBColor, stand: Stand) -> TextStyle<'static> {
    let horizontal = match stand {
        Stand::Left => HPos::Left,
        Stand::Centre => HPos::Center,
    };
    ("system-ui", size * FONT * f64::from(SCALE))
        .into_font()
        .style(weight)
        .color(&colour)
        .pos(Pos::new(horizontal, VPos::Center))
}

const fn px(n: i32) -> i32 {
    n * SCALE
}

#[expect(clippy::cast_possible_truncation, reason = "a few thousand at most; `as` saturates")]
fn eighths(x: f64) -> i32 {
    (x * f64::from(SCALE)).round() as i32
}

fn stroke(width: f64) -> u32 {
    u32::try_from(eighths(width)).unwrap_or(1)
}

fn escaped(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '<' => "&lt;".to_owned(),
            '>' => "&gt;".to_owned(),
            '&' => "&amp;".to_owned(),
            '"' => "&quot;".to_owned(),
            '\'' => "&apos;".to_owned(),
            c => c.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_pushed_apart_and_stay_on_the_sheet() {
        for (before, after) in [
            (vec![10, 100], vec![10, 100]),
            (vec![50, 50, 50], vec![50, 70, 90]),
            (vec![195, 198, 199], vec![160, 180, 200]),
            (vec![0, 5], vec![10, 30]),
            (vec![], vec![]),
        ] {
            let mut at = before.clone();
            push_apart(&mut at, 20, 10, 200);
            assert_eq!(at, after, "{before:?}");
        }
    }

    #[test]
    fn long_names_are_cut_by_characters() {
        for (text, most, expected) in
            [("recover", 10, "recover"), ("recover-wrong", 8, "recover…"), ("äöü", 2, "ä…")]
        {
            assert_eq!(shortened(text, most), expected);
        }
    }
}
