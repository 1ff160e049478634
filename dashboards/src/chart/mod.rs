//! Charts: plotters' SVG backend, drawn into the page.
//!
//! Every chart is drawn twice, wide and narrow, and the style sheet shows the one that fits: a wide
//! chart scaled down to a telephone has text nobody can read. Colours are fixed here and replaced
//! by the style sheet in the dark, which knows them by their hexadecimal value.

mod axis;
mod canvas;
mod curves;
mod load;
mod scaled;
mod stages;
mod sweep;
mod time;

use std::fmt;

use plotters::drawing::DrawingAreaErrorKind;

use crate::input::{ReportInput, Second};

use canvas::Canvas;

pub(crate) use canvas::series_class;
pub(crate) use load::{LoadChart, LoadLine, LoadMark};
pub(crate) use scaled::ScaledLine;
pub(crate) use sweep::{SweepChart, SweepLine};

/// A chart could not be drawn. It is drawn into memory, so this never happens; it is told, not
/// swallowed.
#[derive(Debug)]
pub struct ChartError(String);

impl fmt::Display for ChartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot draw a chart: {}", self.0)
    }
}

impl std::error::Error for ChartError {}

impl From<DrawingAreaErrorKind<std::io::Error>> for ChartError {
    fn from(error: DrawingAreaErrorKind<std::io::Error>) -> Self {
        Self(error.to_string())
    }
}

/// One chart in the page.
#[derive(Debug)]
pub(crate) struct Figure {
    /// For wide windows and paper.
    pub(crate) wide: String,
    /// For narrow windows.
    pub(crate) narrow: String,
    /// What a reader must know to read it.
    pub(crate) caption: String,
}

/// What a chart says to who cannot see it, and the name its elements are known by.
#[derive(Clone, Debug)]
struct Alt {
    id: String,
    title: String,
    description: String,
}

impl Figure {
    fn draw(
        alt: &Alt,
        caption: String,
        heights: (i32, i32),
        paint: impl Fn(&Canvas<'_>) -> Result<(), ChartError>,
    ) -> Result<Self, ChartError> {
        Ok(Self {
            wide: canvas::svg("wide", (960, heights.0), alt, &paint)?,
            narrow: canvas::svg("narrow", (400, heights.1), alt, &paint)?,
            caption,
        })
    }
}

/// Response time by percentile, one curve an operation; `None` if no curve has a point.
pub(crate) fn percentiles(input: &ReportInput) -> Result<Option<Figure>, ChartError> {
    curves::figure(input)
}

/// Offered and achieved rate over the run; `None` without seconds.
pub(crate) fn rates(input: &ReportInput) -> Result<Option<Figure>, ChartError> {
    time::rates(input)
}

/// Response and service time of one operation over the run; `None` if it never ended.
pub(crate) fn over_time(
    input: &ReportInput,
    operation: &str,
    index: usize,
) -> Result<Option<Figure>, ChartError> {
    time::operation(input, operation, index)
}

/// The means of one operation's stages, over all and over the slowest; `None` without stages.
pub(crate) fn stage_bars(
    operation: &str,
    result: &vaultmark_results::model::OperationResult,
    index: usize,
) -> Result<Option<Figure>, ChartError> {
    stages::figure(operation, result, index)
}

/// Evaluations per second against HSM sessions; `None` without a line.
pub(crate) fn sessions(
    lines: &[ScaledLine],
    caption: String,
) -> Result<Option<Figure>, ChartError> {
    scaled::sessions(lines, caption)
}

/// Response p99 against load; `None` without a line.
pub(crate) fn tails(lines: &[ScaledLine], caption: String) -> Result<Option<Figure>, ChartError> {
    scaled::tails(lines, caption)
}

/// Response time against the offered rate; `None` if no run has a point.
pub(crate) fn load(chart: &LoadChart) -> Result<Option<Figure>, ChartError> {
    load::figure(chart)
}

/// A figure against a parameter; `None` without a point.
pub(crate) fn sweep(chart: &SweepChart) -> Result<Option<Figure>, ChartError> {
    sweep::figure(chart)
}

/// Intervals that a picture can place: of some length, at a time that is a number.
fn drawable(seconds: &[Second]) -> impl Iterator<Item = &Second> {
    seconds.iter().filter(|s| s.from_s.is_finite() && s.to_s.is_finite() && s.to_s > s.from_s)
}
