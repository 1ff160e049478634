//! Where the time of an operation goes: the means of its stages end to end, over all operations and
//! over the slowest, on one scale.

use vaultmark_results::model::OperationResult;
use vaultmark_results::units::{format_count, format_share};

use super::canvas::{Canvas, INK, MUTED, Stand, series, series_text};
use super::{Alt, ChartError, Figure};
use crate::words;

/// A bar: its name, its detail, and the length of each stage.
struct Bar {
    name: String,
    stages: Vec<(usize, f64)>,
}

impl Bar {
    fn total(&self) -> f64 {
        self.stages.iter().map(|(_, ns)| ns).sum()
    }
}

pub(super) fn figure(
    operation: &str,
    result: &OperationResult,
    index: usize,
) -> Result<Option<Figure>, ChartError> {
    let stages = words::stages(result);
    let expected = result.outcomes.values().filter(|outcome| outcome.expected);
    let count = expected.fold(0, |sum: u64, outcome| sum.saturating_add(outcome.count));
    let all = Bar {
        name: format!("all: {}", format_count(count)),
        stages: stages.iter().enumerate().map(|(n, stage)| (n, stage.1)).collect(),
    };
    let slowest = Bar {
        name: format!("slowest 1 %: {}", format_count(result.slowest_count)),
        stages: stages.iter().enumerate().filter_map(|(n, s)| Some((n, s.2?))).collect(),
    };
    let bars: Vec<&Bar> = [&all, &slowest].into_iter().filter(|bar| bar.total() > 0.0).collect();
    let longest = bars.iter().map(|bar| bar.total()).fold(0.0, f64::max);
    if longest <= 0.0 {
        return Ok(None);
    }
    let names: Vec<String> = stages.iter().map(|stage| words::stage_name(&stage.0)).collect();
    let alt = Alt {
        id: format!("stages-{index}"),
        title: format!("Where the time of {operation} goes"),
        description: format!(
            "Bars of mean times: {}. The table below has every figure.",
            bars.iter()
                .map(|bar| format!("{}, {}", bar.name, words::mean(bar.total())))
                .collect::<Vec<_>>()
                .join("; ")
        ),
    };
    let height = i32::try_from(bars.len()).unwrap_or(2) * 72;
    let figure = Figure::draw(&alt, String::new(), (height, height), |canvas| {
        for (row, bar) in (0_i32..).zip(&bars) {
            draw_bar(canvas, row * 72, bar, longest, &names)?;
        }
        Ok(())
    })?;
    Ok(Some(figure))
}

fn draw_bar(
    canvas: &Canvas<'_>,
    top: i32,
    bar: &Bar,
    longest: f64,
    names: &[String],
) -> Result<(), ChartError> {
    const HEIGHT: f64 = 22.0;
    let scale = f64::from(canvas.width) / longest;
    canvas.name(&words::mean(bar.total()), (0, top + 10), INK, Stand::Left)?;
    canvas.text(&bar.name, (76, top + 10), 12.0, MUTED, Stand::Left)?;
    let upper = f64::from(top) + 21.0;
    let mut left = 0.0;
    for (n, ns) in &bar.stages {
        let right = left + ns * scale;
        // One pixel of the page between two stages, where both are wide enough to lose it.
        let gap = if right - left > 3.0 { 1.0 } else { 0.0 };
        canvas.bar((left, upper), (right - gap, upper + HEIGHT), series(*n))?;
        let name = format!("{} {}", names[*n], format_share(ns / bar.total()));
        let short = format_share(ns / bar.total());
        let at = (whole(left), top + 54);
        if fits(&name, right - left) {
            canvas.text(&name, at, 11.5, series_text(*n), Stand::Left)?;
        } else if fits(&short, right - left) {
            canvas.text(&short, at, 11.5, series_text(*n), Stand::Left)?;
        }
        left = right;
    }
    Ok(())
}

/// Whether a text of 11.5 pixels fits, with a little room; seven pixels a character is generous.
fn fits(text: &str, room: f64) -> bool {
    words::float(words::count(text.chars().count())) * 7.0 + 6.0 <= room
}

#[expect(clippy::cast_possible_truncation, reason = "within the sheet")]
fn whole(x: f64) -> i32 {
    x.round() as i32
}
