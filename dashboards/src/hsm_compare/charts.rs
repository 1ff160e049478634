//! The two pictures: evaluations against HSM sessions, and tails against load.

use vaultmark_results::card::TailVerdict;

use super::rows::Row;
use crate::chart::{self, ChartError, Figure, ScaledLine};
use crate::words;

/// More lines cannot be told apart: colour and mark repeat.
const LINES_MAX: usize = 24;

/// Evaluations per second against HSM sessions; `None` if no card has a point.
pub(super) fn sessions(rows: &[Row<'_>]) -> Result<Option<Figure>, ChartError> {
    let lines = lines(rows, |row| {
        let points = row.card.sessions.iter().filter(|point| point.evaluations_per_s > 0.0);
        points.map(|point| (words::float(point.sessions), point.evaluations_per_s)).collect()
    });
    let mut caption =
        "Both scales are logarithmic; higher is better. The device always had more to do \
                       than it could. Numbers are those of the table."
            .to_owned();
    caption.push_str(&missing(rows.len(), lines.len(), "no such measurement"));
    chart::sessions(&lines, caption)
}

/// Response p99 against load; `None` if no card has a point.
pub(super) fn tails(rows: &[Row<'_>]) -> Result<Option<Figure>, ChartError> {
    let lines = lines(rows, |row| {
        let tails = row.card.tails.iter().filter(|tail| tail.verdict == TailVerdict::Pass);
        let point = |ns: u64, load: u64| (words::float(load), words::float(ns));
        tails.filter_map(|tail| Some(point(tail.response_ns.p99?, tail.load_percent))).collect()
    });
    let mut caption = "Response time from the intended start, open loop; lower is better. Load is a share \
                       of each device's own capacity. Measurements that were invalid, or that the device \
                       did not keep up with, are left out."
        .to_owned();
    caption.push_str(&missing(rows.len(), lines.len(), "no such measurement"));
    chart::tails(&lines, caption)
}

fn lines(rows: &[Row<'_>], points: impl Fn(&Row<'_>) -> Vec<(f64, f64)>) -> Vec<ScaledLine> {
    rows.iter()
        .filter_map(|row| {
            let points = points(row);
            let device = &row.card.device;
            let provision =
                device.provision.strip_prefix("key-inside-").unwrap_or(&device.provision);
            (!points.is_empty()).then(|| ScaledLine {
                series: row.number - 1,
                name: format!("{} {}", row.number, device.name),
                detail: format!("{}, {provision}", row.suite_short()),
                dashed: row.is_modelled(),
                points,
            })
        })
        .take(LINES_MAX)
        .collect()
}

fn missing(rows: usize, lines: usize, why: &str) -> String {
    match words::count(rows.saturating_sub(lines)) {
        0 => String::new(),
        n if lines == LINES_MAX => {
            format!(" {} not drawn: too many lines.", rows_have(n, "is", "are"))
        }
        n => format!(" {} {why}.", rows_have(n, "has", "have")),
    }
}

fn rows_have(n: u64, one: &str, many: &str) -> String {
    words::counted(n, &format!("row {one}"), &format!("rows {many}"))
}
