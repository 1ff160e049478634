//! What the run found: rules, headline figures, operations, curves, time, stages, errors.

use vaultmark_results::model::{OperationResult, Run};
use vaultmark_results::units::{format_count, format_duration, format_share};

use super::page::{Block, Cell, Section, Table, Tile};
use crate::chart::{self, ChartError};
use crate::input::ReportInput;
use crate::words::{self, INFINITE, NONE, SloWords};

pub(super) fn slos(run: &Run) -> Option<Section> {
    if run.slos.is_empty() {
        return None;
    }
    let mut table = Table::new(
        "Rules and whether they hold",
        "rules",
        &["Rule", "Holds", "#Limit", "#Measured", "#Margin"],
    );
    for slo in &run.slos {
        let words = SloWords::of(slo);
        let (class, sign) = match slo.ok {
            Some(true) => ("good", "✓"),
            Some(false) => ("bad", "✗"),
            None => ("unsure", "?"),
        };
        table.row(
            "",
            vec![
                Cell::noted(slo.rule.clone(), words.note),
                Cell::classed(format!("{sign} {}", words.holds), class),
                words.limit.into(),
                Cell::noted(words.measured, words.upper),
                Cell::classed(words.margin, class),
            ],
        );
    }
    Some(Section::new("rules", "Rules").with(Block::Table(table)))
}

pub(super) fn tiles(run: &Run) -> Vec<Tile> {
    let tile =
        |name: &str, figure: String, detail: String| Tile { name: name.to_owned(), figure, detail };
    let mut tiles = vec![tile(
        "achieved",
        words::rate(run.achieved_per_s),
        format!("of {} offered", words::rate(run.offered_per_s)),
    )];
    if let Some((name, operation)) = words::main_operation(run) {
        let [p50, _, p99, ..] = words::intended_quantiles(operation);
        let detail = format!("response, {} intended", format_count(operation.intended));
        tiles.push(tile(&format!("{name} p50"), p50, detail.clone()));
        tiles.push(tile(&format!("{name} p99"), p99, detail));
    }
    let (unexpected, intended) = words::unexpected(run);
    let (figure, detail) = if intended == 0 {
        (NONE.to_owned(), "no operation was intended".to_owned())
    } else {
        let share = format_share(words::float(unexpected) / words::float(intended));
        (share, format!("{} of {}", format_count(unexpected), format_count(intended)))
    };
    tiles.push(tile("unexpected", figure, detail));
    if let Some(recovery) = words::longest_recovery(run) {
        let gap = format_duration(recovery.longest_gap_ns);
        let figure = words::time_to_recover(&recovery);
        tiles.push(tile(
            "time to recover",
            figure,
            format!("the longest; without a success {gap}"),
        ));
    }
    tiles
}

/// What was offered, load by load; none of a run that was written before loads were told.
pub(super) fn loads(run: &Run) -> Option<Section> {
    if run.loads.is_empty() {
        return None;
    }
    let head = ["Load", "Arrivals", "Loop", "Asks for", "Who is refused"];
    let mut table = Table::new("What was offered", "words", &head);
    for load in &run.loads {
        let looped = if load.open_loop {
            Cell::noted("open", "intended starts do not wait for answers")
        } else {
            Cell::classed("closed: response time is service time", "unsure")
        };
        table.row(
            "",
            vec![
                load.name.clone().into(),
                load.arrival.clone().into(),
                looped,
                load.operations.join(", ").into(),
                load.retry.clone().unwrap_or_else(|| "gives up".to_owned()).into(),
            ],
        );
    }
    let section = Section::new("loads", "Loads").with(Block::Table(table));
    if run.loads.iter().all(|load| load.open_loop) {
        return Some(section);
    }
    Some(section.text(
        "Virtual users of a closed loop wait for an answer before they think of asking again. When the target \
         is slow they ask less, and what they did not ask is in no figure (coordinated omission): compare \
         such figures with those of other closed loops of as many users only.",
    ))
}

pub(super) fn operations(run: &Run) -> Section {
    let section = Section::new("operations", "Operations");
    if run.operations.is_empty() {
        return section.text("No operation was measured.");
    }
    let mut table = Table::new(
        "Operations by outcome, measurement phase",
        "figures",
        &[
            "Operation",
            "#Count",
            "#Response p50",
            "#p90",
            "#p99",
            "#p99.9",
            "#max",
            "#Service p99",
            "#Dispatch p99",
        ],
    );
    for (name, operation) in words::operations(run) {
        operation_rows(&mut table, name, operation);
    }
    section
        .with(Block::Table(table))
        .text(format!(
            "Measured for {}. The first line of each operation is over everything intended, from \
             its intended start: what did not end as expected counts as infinitely slow ({INFINITE}). \
             Dispatch is the time from the intended start to the send. {NONE}: too few samples.",
            words::seconds(run.measured_s)
        ))
        .text(format!(
            "Goodput, what ended as expected: {}. Never sent: {}.",
            words::rate(run.goodput_per_s),
            format_count(run.unsent)
        ))
}

fn operation_rows(table: &mut Table, name: &str, operation: &OperationResult) {
    let mut cells = vec![
        Cell::from(name.to_owned()),
        Cell::noted(format_count(operation.intended), "intended"),
    ];
    cells.extend(words::intended_quantiles(operation).map(Cell::from));
    cells.extend([Cell::from(""), Cell::from("")]);
    table.row("lead", cells);
    for (outcome, result) in &operation.outcomes {
        let name = outcome.replace('_', " ");
        let head = if result.expected { name.into() } else { Cell::noted(name, "unexpected") };
        let mut cells = vec![head, format_count(result.count).into()];
        cells.extend(
            words::quantiles(&result.response_ns).map(|(_, ns)| Cell::from(words::duration(ns))),
        );
        cells.push(words::duration(result.service_ns.p99).into());
        cells.push(words::duration(result.dispatch_delay_ns.p99).into());
        table.row(if result.expected { "sub" } else { "sub amiss" }, cells);
    }
    let never = words::without_outcome(operation);
    if never > 0 {
        let mut cells = vec![
            Cell::noted("without an outcome", "never sent, or unanswered when the run ended"),
            format_count(never).into(),
        ];
        cells.extend((0..5).map(|_| Cell::from(INFINITE)));
        cells.extend([Cell::from(""), Cell::from("")]);
        table.row("sub amiss", cells);
    }
}

pub(super) fn curves(input: &ReportInput) -> Result<Option<Section>, ChartError> {
    let section = Section::new("percentiles", "Response time by percentile");
    Ok(match chart::percentiles(input)? {
        Some(figure) => Some(section.with(Block::Figure(figure))),
        None if input.run.operations.is_empty() => None,
        None => Some(section.text(
            "No operation has a curve: fewer than ten samples lie above every percentile, or none \
             ended as expected.",
        )),
    })
}

pub(super) fn over_time(input: &ReportInput) -> Result<Option<Section>, ChartError> {
    let Some(rates) = chart::rates(input)? else { return Ok(None) };
    let mut section = Section::new("time", "Over the run")
        .text(
            "Time counts from the start of the measurement phase; what was not measured is shaded. \
             Response and service times are of operations that ended as expected (of several \
             expected outcomes, the most frequent), by the interval they ended in. Where response \
             lies above service, arrivals waited to be sent.",
        )
        .with(Block::Heading("Offered and achieved".to_owned()))
        .with(Block::Figure(rates));
    for (index, (name, _)) in words::operations(&input.run).into_iter().enumerate() {
        if let Some(figure) = chart::over_time(input, name, index)? {
            section = section.with(Block::Heading(name.clone())).with(Block::Figure(figure));
        }
    }
    if !input.run.faults.is_empty() {
        let table = faults(&input.run);
        section = section
            .with(Block::Heading("Faults".to_owned()))
            .text(
                "Bands in the charts above. Time to recover is from the injection until an operation \
                 asked for after it had succeeded, after which, for a second, nobody failed and no \
                 two successes were unusually far apart: by the operations' own times, not by what \
                 the target says of itself.",
            )
            .with(Block::Table(table));
    }
    Ok(Some(section))
}

fn faults(run: &Run) -> Table {
    let mut table = Table::new(
        "Faults the scenario injected",
        "words",
        &["Fault", "#From", "#To", "#Time to recover", "#Longest gap", "#Failed"],
    );
    for fault in &run.faults {
        let until = fault.until_s.map_or_else(|| "the end".to_owned(), words::seconds);
        let mut cells: Vec<Cell> =
            vec![fault.what.clone().into(), words::seconds(fault.at_s).into(), until.into()];
        cells.extend(match &fault.recovery {
            None => [NONE, NONE, NONE].map(Cell::from),
            Some(recovery) => [
                words::time_to_recover(recovery).into(),
                format_duration(recovery.longest_gap_ns).into(),
                format_count(recovery.failed).into(),
            ],
        });
        table.row("", cells);
    }
    table
}

/// What the vault did that it must never do; `None` if it did not.
pub(super) fn violations(run: &Run) -> Option<Section> {
    if run.violations.is_empty() {
        return None;
    }
    let mut section = Section::new("violations", "Violations").text(format!(
        "{} in all, from what the generator itself sent and saw. Times are from the start of the run.",
        words::counted(run.violations_count, "violation", "violations")
    ));
    for violation in run.violations.iter().take(VIOLATIONS_SHOWN_MAX) {
        let mut table = Table::new(
            format!("Operations of account {}", violation.account),
            "figures",
            &["Operation", "#Number", "Outcome", "Seen", "#Sent", "#Completed"],
        );
        for operation in &violation.operations {
            table.row(
                "",
                vec![
                    operation.operation.clone().into(),
                    format_count(operation.number).into(),
                    operation.outcome.replace('_', " ").into(),
                    operation.seen.join(", ").into(),
                    format_duration(operation.sent_ns).into(),
                    format_duration(operation.completed_ns).into(),
                ],
            );
        }
        section = section.with(Block::Heading(violation.what.clone())).with(Block::Table(table));
    }
    Some(section)
}

/// So many violations are shown with their operations; run.json has more.
const VIOLATIONS_SHOWN_MAX: usize = 10;

pub(super) fn stages(run: &Run) -> Result<Option<Section>, ChartError> {
    let mut section = Section::new("stages", "Where the time goes").text(
        "Means of service time by stage, over the operations that ended as expected: means, because \
         quantiles of parts do not add up to a quantile of the whole. The second bar is the 1 % \
         with the longest service time.",
    );
    let mut any = false;
    for (index, (name, operation)) in words::operations(run).into_iter().enumerate() {
        let Some(figure) = chart::stage_bars(name, operation, index)? else { continue };
        any = true;
        section = section
            .with(Block::Heading(name.clone()))
            .with(Block::Figure(figure))
            .with(Block::Table(stage_table(name, operation)));
    }
    Ok(any.then_some(section))
}

fn stage_table(name: &str, operation: &OperationResult) -> Table {
    let stages = words::stages(operation);
    let all: f64 = stages.iter().map(|stage| stage.1).sum();
    let slowest: f64 = stages.iter().filter_map(|stage| stage.2).sum();
    let of = |ns: f64, sum: f64| {
        if sum > 0.0 { format_share(ns / sum) } else { NONE.to_owned() }
    };
    let mut table = Table::new(
        format!("Mean time of {name} by stage"),
        "figures stages",
        &["Stage", "#Mean, all", "#share", "#Mean, slowest 1 %", "#share"],
    );
    for (n, (key, mean, mean_slowest)) in stages.iter().enumerate() {
        table.row(
            "",
            vec![
                Cell::patched(words::stage_name(key), chart::series_class(n)),
                words::mean(*mean).into(),
                of(*mean, all).into(),
                mean_slowest.map_or_else(|| NONE.to_owned(), words::mean).into(),
                mean_slowest.map_or_else(|| NONE.to_owned(), |ns| of(ns, slowest)).into(),
            ],
        );
    }
    let has_slowest = operation.slowest_count > 0;
    table.row(
        "lead",
        vec![
            Cell::from("all stages"),
            words::mean(all).into(),
            Cell::from(""),
            if has_slowest { words::mean(slowest) } else { NONE.to_owned() }.into(),
            Cell::from(""),
        ],
    );
    table
}

pub(super) fn errors(run: &Run) -> Section {
    let section = Section::new("errors", "Errors");
    if run.errors.is_empty() {
        return section.text("No operation gave an error text, in any phase. How operations ended stands in the table above.");
    }
    let mut table =
        Table::new("Errors, all phases", "words", &["Error", "Operation", "Outcome", "#Count"]);
    for error in &run.errors {
        table.row(
            "",
            vec![
                error.error.clone().into(),
                error.operation.clone().into(),
                error.outcome.replace('_', " ").into(),
                format_count(error.count).into(),
            ],
        );
    }
    section.text("All phases, most frequent first.").with(Block::Table(table))
}

/// For tables in exact nanoseconds.
pub(super) fn exact(ns: Option<u64>) -> Cell {
    ns.map_or_else(|| NONE.to_owned(), format_count).into()
}

/// "4.21 ms (p50) …", for tables of words.
pub(super) fn list(quantiles: &vaultmark_results::model::Quantiles) -> String {
    let parts: Vec<String> = words::quantiles(quantiles)
        .into_iter()
        .filter_map(|(statistic, ns)| {
            Some(format!("{} {}", statistic.name(), format_duration(ns?)))
        })
        .collect();
    if parts.is_empty() { NONE.to_owned() } else { parts.join(" · ") }
}
