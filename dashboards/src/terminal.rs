//! The summary on the terminal: the same figures as the report, aligned.

use vaultmark_results::model::{Instrument, OperationResult, Run};
use vaultmark_results::units::{format_count, format_duration, format_share};

use crate::words::{self, Ending, SloWords};

/// A narrower terminal gets lines this long: tables cannot be squeezed further.
const WIDTH_MIN: usize = 60;

/// A space at which no line is broken.
const TIED: char = '\u{a0}';

const BOLD: &str = "1";
pub(crate) const FAINT: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";

/// The run on the terminal, some 30 lines without the bundle's path: verdict first. `width` is in
/// columns; texts are wrapped to it, tables are not. Colours only with `color`.
#[must_use]
pub fn terminal_summary(run: &Run, width: usize, color: bool) -> String {
    let mut page = Page::new(width, color);
    verdict(&mut page, run);
    slos(&mut page, run);
    operations(&mut page, run);
    faults(&mut page, run);
    stages(&mut page, run);
    if let Some(connections) = words::connections(run) {
        page.wrapped("  ", 4, &plain(&format!("connections: {connections}")));
    }
    instrument(&mut page, run);
    page.into_text()
}

/// Lines of text as wide as they may be.
pub(crate) struct Page {
    text: String,
    width: usize,
    color: bool,
}

impl Page {
    pub(crate) fn new(width: usize, color: bool) -> Self {
        Self { text: String::new(), width: width.max(WIDTH_MIN), color }
    }

    pub(crate) fn into_text(self) -> String {
        self.text
    }

    pub(crate) fn line(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    fn paint(&self, text: &str, code: &str) -> String {
        if self.color && !code.is_empty() && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// Text wrapped at spaces behind a hanging start, whose own width is given.
    pub(crate) fn wrapped(&mut self, start: &str, indent: usize, text: &str) {
        let mut line = start.to_owned();
        let mut used = indent;
        let mut fresh = true;
        for word in text.split([' ', '\n', '\t']).filter(|word| !word.is_empty()) {
            let word = word.replace(TIED, " ");
            let length = word.chars().count();
            if !fresh && used + 1 + length > self.width {
                self.line(&line);
                line = " ".repeat(indent);
                used = indent;
                fresh = true;
            }
            if !fresh {
                line.push(' ');
                used += 1;
            }
            line.push_str(&word);
            used += length;
            fresh = false;
        }
        self.line(&line);
    }

    /// Rows with columns of equal width; the first column flush left, the others flush right if
    /// they are figures. Each row has a colour, which may be empty.
    pub(crate) fn table(&mut self, figures_from: usize, rows: &[(&str, Vec<String>)]) {
        let columns = rows.iter().map(|(_, cells)| cells.len()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|n| {
                let cells = rows.iter().filter_map(|(_, cells)| cells.get(n));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        for (code, cells) in rows {
            let mut line = String::from(" ");
            for (n, (cell, width)) in cells.iter().zip(&widths).enumerate() {
                let padding = " ".repeat(width - cell.chars().count());
                line.push(' ');
                if n >= figures_from {
                    line.push_str(&padding);
                    line.push_str(cell);
                } else {
                    line.push_str(cell);
                    line.push_str(&padding);
                }
                line.push(' ');
            }
            let line = self.paint(line.trim_end(), code);
            self.line(&line);
        }
    }
}

/// Data may hold control characters, which a terminal would obey.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A part of a list, kept on one line.
fn tied(text: &str) -> String {
    text.replace(' ', &TIED.to_string())
}

fn verdict(page: &mut Page, run: &Run) {
    let ending = Ending::of(run);
    let code = match ending {
        Ending::Pass => GREEN,
        Ending::Fail | Ending::Violated => RED,
        Ending::Invalid | Ending::CutShort | Ending::Running => YELLOW,
    };
    let word = page.paint(&page.paint(ending.word(), code), BOLD);
    let start = format!("{word}  ");
    let indent = ending.word().chars().count() + 2;
    let meaning = [ending.meaning().to_owned()];
    let reasons = if run.reasons.is_empty() { &meaning[..] } else { &run.reasons[..] };
    for (n, reason) in reasons.iter().enumerate() {
        let start = if n == 0 { start.clone() } else { " ".repeat(indent) };
        page.wrapped(&start, indent, &plain(reason));
    }
    violation(page, run, indent);
    let mut title = format!("{} · {}", plain(&run.scenario), plain(&run.target));
    if let Some(hsm) = &run.hsm {
        title.push_str(&format!(" · {} ({})", plain(&hsm.device), plain(&hsm.provision)));
    }
    page.wrapped(&" ".repeat(indent), indent, &title);
    for warning in words::warnings(run) {
        let start = page.paint("! ", YELLOW);
        page.wrapped(&format!("  {start}"), 4, &plain(&warning));
    }
    page.line("");
}

/// The operations of the first violation: who has to explain it begins there.
fn violation(page: &mut Page, run: &Run, indent: usize) {
    let Some(first) = run.violations.first() else { return };
    for operation in &first.operations {
        let text = format!(
            "{} {} sent at {}, {} at {}{}",
            operation.operation,
            operation.number,
            format_duration(operation.sent_ns),
            operation.outcome.replace('_', " "),
            format_duration(operation.completed_ns),
            if operation.seen.is_empty() {
                String::new()
            } else {
                format!(": {}", operation.seen.join(", "))
            }
        );
        page.wrapped(&" ".repeat(indent), indent + 2, &plain(&text));
    }
}

fn slos(page: &mut Page, run: &Run) {
    if run.slos.is_empty() {
        return;
    }
    let rows: Vec<(&str, Vec<String>)> = run
        .slos
        .iter()
        .map(|slo| {
            let words = SloWords::of(slo);
            let (code, sign) = match slo.ok {
                Some(true) => ("", "✓"),
                Some(false) => (RED, "✗"),
                None => (YELLOW, "?"),
            };
            let rule = format!("{sign} {}", plain(&slo.rule));
            let few = if slo.under_sampled { "  (few samples)" } else { "" };
            let closed = if slo.closed_loop { "  (closed loop)" } else { "" };
            (code, vec![rule, words.measured, format!("{}{few}{closed}", words.margin)])
        })
        .collect();
    page.table(1, &rows);
    page.line("");
}

fn operations(page: &mut Page, run: &Run) {
    let rates = format!(
        "offered {}, achieved {}, goodput {}, unsent {}, over {}",
        words::rate(run.offered_per_s),
        words::rate(run.achieved_per_s),
        words::rate(run.goodput_per_s),
        format_count(run.unsent),
        words::seconds(run.measured_s),
    );
    for load in &run.loads {
        let looped = if load.open_loop { "" } else { " (closed loop)" };
        let retry = load.retry.as_ref().map_or_else(String::new, |retry| format!("; {retry}"));
        let told = format!("{}: {}{looped}{retry}", load.name, load.arrival);
        page.wrapped("  ", 4, &plain(&told));
    }
    page.wrapped("  ", 2, &rates);
    if run.operations.is_empty() {
        return;
    }
    let (unexpected, intended) = words::unexpected(run);
    page.wrapped("  ", 2, &format!("unexpected {}", words::part(unexpected, intended)));
    page.line("");
    let head = ["", "count", "p50", "p90", "p99", "p99.9", "max", "service p99"];
    let mut rows: Vec<(&str, Vec<String>)> = vec![(FAINT, head.map(str::to_owned).to_vec())];
    for (name, operation) in words::operations(run) {
        operation_rows(&mut rows, name, operation);
    }
    page.table(1, &rows);
    page.line("");
}

fn operation_rows(
    rows: &mut Vec<(&'static str, Vec<String>)>,
    name: &str,
    operation: &OperationResult,
) {
    let mut cells = vec![plain(name), format_count(operation.intended)];
    cells.extend(words::intended_quantiles(operation));
    // One expected outcome and nothing else says the same as the line over all: one line will do.
    let only = match operation.outcomes.values().next() {
        Some(only) if operation.outcomes.len() == 1 && only.count == operation.intended => {
            only.expected.then_some(only)
        }
        _ => None,
    };
    cells.push(only.map_or_else(String::new, |only| words::duration(only.service_ns.p99)));
    rows.push((BOLD, cells));
    if only.is_some() {
        return;
    }
    for (outcome, result) in &operation.outcomes {
        let mut cells =
            vec![format!("  {}", plain(&outcome.replace('_', " "))), format_count(result.count)];
        cells.extend(words::quantiles(&result.response_ns).map(|(_, ns)| words::duration(ns)));
        cells.push(words::duration(result.service_ns.p99));
        rows.push((if result.expected { "" } else { RED }, cells));
    }
    let never = words::without_outcome(operation);
    if never > 0 {
        rows.push((RED, vec!["  without an outcome".to_owned(), format_count(never)]));
    }
}

fn faults(page: &mut Page, run: &Run) {
    if run.faults.is_empty() {
        return;
    }
    let head = page.paint("faults", FAINT);
    page.line(&format!("  {head}"));
    for fault in &run.faults {
        page.wrapped("  ", 4, &plain(&words::fault(fault)));
    }
    page.line("");
}

fn stages(page: &mut Page, run: &Run) {
    let mut any = false;
    for (name, operation) in words::operations(run) {
        let stages = words::stages(operation);
        let sum: f64 = stages.iter().map(|stage| stage.1).sum();
        if sum <= 0.0 {
            continue;
        }
        if !any {
            let head = page.paint("where the time goes (means)", FAINT);
            page.line(&format!("  {head}"));
        }
        any = true;
        let parts: Vec<String> = stages
            .iter()
            .filter(|stage| stage.1 > 0.0)
            .map(|(key, ns, _)| {
                let share = format_share(ns / sum);
                tied(&format!("{} {} ({share})", plain(&words::stage_name(key)), words::mean(*ns)))
            })
            .collect();
        let text = format!("{} {}: {}", plain(name), words::mean(sum), parts.join(", "));
        page.wrapped("  ", 4, &text);
    }
    if any {
        page.line("");
    }
}

fn instrument(page: &mut Page, run: &Run) {
    let Instrument { workers, lateness_ns, unsent_instrument, .. } = &run.instrument;
    let mut parts = vec![words::counted(*workers, "worker", "workers")];
    parts.push(format!("late by p99 {}", words::duration(lateness_ns.p99)));
    parts.push(format!("{} unsent by its own fault", format_count(*unsent_instrument)));
    if run.instrument.cpu_share.is_some() {
        parts.push(format!("{} of a core", words::share(run.instrument.cpu_share)));
    }
    if run.instrument.throttled_share.is_some() {
        parts.push(format!("throttled {}", words::share(run.instrument.throttled_share)));
    }
    if let Some(ns) = run.instrument.null_cost_ns {
        parts.push(format!("{} an operation on the null target", format_duration(ns)));
    }
    if let Some(truth) = run.instrument.stall_truth {
        parts.push(format!(
            "stall truth p90 {}, reported {}",
            format_duration(truth.truth_p90_ns),
            format_duration(truth.response_p90_ns)
        ));
    }
    let parts: Vec<String> = parts.iter().map(|part| tied(part)).collect();
    page.wrapped("  ", 4, &format!("instrument: {}", parts.join(", ")));
    for worker in &run.workers {
        let machine = format!("worker {} on {}", worker.name, worker.machine);
        let mut parts = vec![format!("{} operations", format_count(worker.samples))];
        parts.push(format!("late by p99 {}", words::duration(worker.lateness_p99_ns)));
        parts.push(format!("clock known to {}", format_duration(worker.uncertainty_ns)));
        if let Some(at) = worker.lost_at_s {
            let unsent = format_count(worker.unsent);
            parts.push(format!("lost at {at:.1} s, {unsent} arrivals not sent"));
        }
        let parts: Vec<String> = parts.iter().map(|part| tied(part)).collect();
        page.wrapped("  ", 4, &format!("{}: {}", plain(&machine), parts.join(", ")));
    }
}
