//! The tables of searches and sweeps, on the page and on the terminal.

use vaultmark_results::model::Verdict;
use vaultmark_results::search::{
    AnswerKind, ProbeOutcome, ProbeResult, SearchResult, SweepPoint, SweepResult, SweepRun,
};
use vaultmark_results::slo::{Rule, Statistic};
use vaultmark_results::units::{format_duration, format_rate, format_share};

use super::figures::{Shown, judged, median, time};
use crate::report::page::{Cell, Table, Tile};
use crate::words::{self, INFINITE, NONE};

/// The rules.
pub(super) fn rules(search: &SearchResult) -> Table {
    let mut table = Table::new("What has to hold", "rules", &["At every rate that holds"]);
    for rule in &search.rules {
        table.row("", vec![rule.as_str().into()]);
    }
    table
}

/// The answer in large type.
pub(super) fn tiles(search: &SearchResult) -> Vec<Tile> {
    let tile =
        |name: &str, figure: String, detail: String| Tile { name: name.to_owned(), figure, detail };
    let mut tiles = Vec::new();
    if let Some(answer) = &search.answer {
        let confirmed =
            matches!(answer.kind, AnswerKind::Found | AnswerKind::AtLeast | AnswerKind::Instrument);
        if let Some(rate) = answer.rate_per_s {
            let detail = if confirmed { "confirmed" } else { "held once, not confirmed" };
            tiles.push(tile("Highest rate that holds", format_rate(rate), detail.to_owned()));
        }
        if let Some(above) = answer.above_per_s {
            let name = match answer.kind {
                AnswerKind::Instrument => "Cannot be measured at",
                _ => "Does not hold at",
            };
            let more =
                answer.rate_per_s.map(|rate| format!("{} more", format_share(above / rate - 1.0)));
            tiles.push(tile(name, format_rate(above), more.unwrap_or_default()));
        }
        if let Some(last) = last_at(search, answer.rate_per_s) {
            let (statistic, _) = judged(search);
            let name = format!("{} {} there", search.operation, statistic.name());
            let time = time(last, &search.operation, statistic);
            let bound = bound(last, &search.operation, statistic)
                .map(|ns| format!("at most {} (95 %)", words::mean(ns)));
            tiles.push(tile(&name, shown(time), bound.unwrap_or_default()));
        }
    }
    let of = format!("of at most {}", search.goal.runs_max);
    tiles.push(tile("Runs", search.probes.len().to_string(), of));
    tiles
}

/// The last run at a rate.
fn last_at(search: &SearchResult, rate: Option<f64>) -> Option<&ProbeResult> {
    let rate = rate?;
    search.probes.iter().rev().find(|probe| probe.rate_per_s.total_cmp(&rate).is_eq())
}

/// The upper bound of a quantile of response times that a rule is about.
fn bound(probe: &ProbeResult, of: &str, which: Statistic) -> Option<f64> {
    let is_it = |rule: &str| {
        matches!(
            Rule::parse(rule),
            Ok(Rule::Quantile { operation, outcome: None, time: vaultmark_results::slo::Time::Response, statistic, .. })
                if operation == of && statistic == which
        )
    };
    probe.slos.iter().find(|slo| is_it(&slo.rule))?.upper
}

fn shown(time: Shown) -> String {
    match time {
        Shown::Value(ns) => format_duration(ns),
        Shown::Infinite => INFINITE.to_owned(),
        Shown::Few => NONE.to_owned(),
    }
}

/// Every run.
pub(super) fn probes(search: &SearchResult) -> Table {
    let head = ["Run", "Offered", "#Achieved", "#p50", "#p99", "#p99.9", "#95 % bound", "Says"];
    let mut table =
        Table::new("Every run, in the order in which they were made", "figures probes", &head);
    let (statistic, _) = judged(search);
    for probe in &search.probes {
        let quantile = |statistic| Cell::from(shown(time(probe, &search.operation, statistic)));
        let bound = bound(probe, &search.operation, statistic);
        let class = match probe.outcome {
            ProbeOutcome::Holds => "good",
            ProbeOutcome::Fails => "bad",
            ProbeOutcome::Invalid => "unsure",
            ProbeOutcome::Settling | ProbeOutcome::CutShort => "",
        };
        let why = probe.reasons.join("; ");
        let mut says = Cell::classed(probe.outcome.word(), class);
        says.note = why;
        let number = format!("{} {}", probe.number, probe.purpose);
        let window = format!("{:.0} s", probe.window_s);
        table.row(
            "",
            vec![
                Cell::linked(number, format!("{}/report.html", probe.bundle)),
                Cell::noted(format_rate(probe.rate_per_s), window),
                format_rate(probe.achieved_per_s).into(),
                quantile(Statistic::P50),
                quantile(Statistic::P99),
                quantile(Statistic::P99_9),
                bound.map_or_else(|| NONE.to_owned(), words::mean).into(),
                says,
            ],
        );
    }
    table
}

/// The line above those of [`probe_line`].
#[must_use]
pub fn probe_head(statistic: Statistic) -> String {
    columns(&[
        "run",
        "offered",
        "achieved",
        "p50",
        statistic.name(),
        "95 % bound",
        "purpose",
        "says",
        "window",
        "why",
    ])
}

/// A run of a search on one line of a terminal: the operation's median, the quantile that is judged, its bound.
#[must_use]
pub fn probe_line(probe: &ProbeResult, operation: &str, statistic: Statistic) -> String {
    let time = |statistic| shown(time(probe, operation, statistic));
    let bound = bound(probe, operation, statistic);
    columns(&[
        &probe.number.to_string(),
        &format_rate(probe.rate_per_s),
        &format_rate(probe.achieved_per_s),
        &time(Statistic::P50),
        &time(statistic),
        &bound.map_or_else(|| NONE.to_owned(), |ns| format!("≤ {}", words::mean(ns))),
        &probe.purpose,
        probe.outcome.word(),
        &format!("{:.0} s", probe.window_s),
        probe.reasons.first().map_or("", String::as_str),
    ])
}

fn columns(cells: &[&str; 10]) -> String {
    let [number, offered, achieved, p50, judged, bound, purpose, says, window, why] = cells;
    format!(
        "{number:>3}  {offered:>10}  {achieved:>10}  {p50:>8}  {judged:>8}  {bound:>10}  {purpose:<7}  {says:<9}  \
         {window:>6}  {why}"
    )
}

/// What a point of a sweep came to: each figure the median of its runs.
struct PointWords {
    verdicts: String,
    offered: String,
    achieved: String,
    p50: String,
    p99: String,
    p99_9: String,
    spread: String,
}

impl PointWords {
    fn of(point: &SweepPoint, operation: &str) -> Self {
        let quantile = |statistic| {
            let of = |run: &SweepRun| Some(Shown::of(run.response_ns.get(operation), statistic));
            median(point, of, Shown::cmp).map_or_else(|| NONE.to_owned(), shown)
        };
        let rate = |of: fn(&SweepRun) -> f64| {
            median(point, |run| Some(of(run)), f64::total_cmp)
                .map_or_else(|| NONE.to_owned(), format_rate)
        };
        let p99s = || point.runs.iter().filter_map(|run| run.response_ns.get(operation)?.p99);
        let spread = match (p99s().min(), p99s().max()) {
            (Some(least), Some(most)) if point.runs.len() > 1 => {
                format!("{} to {}", format_duration(least), format_duration(most))
            }
            _ => String::new(),
        };
        Self {
            verdicts: verdicts(point),
            offered: rate(|run| run.offered_per_s),
            achieved: rate(|run| run.achieved_per_s),
            p50: quantile(Statistic::P50),
            p99: quantile(Statistic::P99),
            p99_9: quantile(Statistic::P99_9),
            spread,
        }
    }
}

/// "PASS", or "2 PASS, 1 FAIL".
fn verdicts(point: &SweepPoint) -> String {
    let word = |run: &SweepRun| run.verdict.map_or("NO VERDICT", Verdict::word);
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for run in &point.runs {
        match counts.iter_mut().find(|(known, _)| *known == word(run)) {
            Some((_, count)) => *count += 1,
            None => counts.push((word(run), 1)),
        }
    }
    match &counts[..] {
        [] => "not run".to_owned(),
        [(word, _)] => (*word).to_owned(),
        several => {
            several.iter().map(|(word, n)| format!("{n} {word}")).collect::<Vec<_>>().join(", ")
        }
    }
}

/// The points of a sweep.
pub(super) fn points(sweep: &SweepResult) -> Table {
    let head = ["", "#Offered", "#Achieved", "#p50", "#p99", "#p99.9", "Verdict"];
    let mut table = Table::new("Every combination", "figures probes", &head);
    let fields: Vec<&str> = sweep.parameters.iter().map(|one| one.field.as_str()).collect();
    table.head[0].text = fields.join(", ");
    for point in &sweep.points {
        let words = PointWords::of(point, &sweep.operation);
        let class = match point.runs.iter().all(|run| run.verdict == Some(Verdict::Pass)) {
            _ if point.runs.is_empty() => "",
            true => "good",
            false if point.runs.iter().any(|run| run.verdict == Some(Verdict::Invalid)) => "unsure",
            false => "bad",
        };
        let mut verdict = Cell::classed(words.verdicts, class);
        verdict.note = point
            .runs
            .iter()
            .find(|run| run.verdict != Some(Verdict::Pass))
            .and_then(|run| run.reasons.first().cloned())
            .unwrap_or_default();
        let first = point
            .runs
            .first()
            .map_or_else(String::new, |run| format!("{}/report.html", run.bundle));
        table.row(
            "",
            vec![
                Cell::linked(point.values.join(", "), first),
                words.offered.into(),
                words.achieved.into(),
                words.p50.into(),
                Cell::noted(words.p99, words.spread),
                words.p99_9.into(),
                verdict,
            ],
        );
    }
    table
}

/// A sweep as a table on a terminal.
#[must_use]
pub fn sweep_text(sweep: &SweepResult) -> String {
    let fields = sweep.parameters.iter().map(|parameter| parameter.field.clone());
    let head: Vec<String> = fields
        .chain(["offered", "achieved", "p50", "p99", "p99.9", "verdict"].map(str::to_owned))
        .collect();
    let rows = sweep.points.iter().map(|point| {
        let words = PointWords::of(point, &sweep.operation);
        let p99 = if words.spread.is_empty() {
            words.p99
        } else {
            format!("{} ({})", words.p99, words.spread)
        };
        let figures = [words.offered, words.achieved, words.p50, p99, words.p99_9, words.verdicts];
        point.values.iter().cloned().chain(figures).collect::<Vec<String>>()
    });
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(n, (cell, width))| {
            let pad = " ".repeat(width - cell.chars().count());
            // Words to the left, figures to the right.
            let left = n < sweep.parameters.len() || n + 1 == columns;
            if left { format!("{cell}{pad}") } else { format!("{pad}{cell}") }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}
