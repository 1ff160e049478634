//! Every number of the run, unrounded: what the charts draw and the tables above round.

use vaultmark_results::model::Quantiles;
use vaultmark_results::units::format_count;

use super::page::{Block, Cell, Section, Table};
use super::results::exact;
use crate::input::{ReportInput, Second};
use crate::words::{self, NONE};

/// Rows of the table of intervals; the bundle has all of them.
const INTERVALS_MAX: usize = 600;

pub(super) fn every_number(input: &ReportInput) -> Section {
    let run = &input.run;
    let mut section = Section::new("numbers", "Every number")
        .text("Unrounded. Times are in nanoseconds, as run.json has them.");
    if !run.operations.is_empty() {
        section = section
            .with(Block::Heading("Quantiles".to_owned()))
            .with(Block::Table(quantiles(input)));
    }
    if run.operations.values().any(|operation| !operation.stages_mean_ns.is_empty()) {
        section =
            section.with(Block::Heading("Stages".to_owned())).with(Block::Table(stages(input)));
    }
    section = section
        .with(Block::Heading("Rates and counts".to_owned()))
        .with(Block::Table(totals(input)));
    if input.seconds.is_empty() {
        return section;
    }
    let shown = input.seconds.len().min(INTERVALS_MAX);
    let summary = if shown < input.seconds.len() {
        format!("The first {shown} of {} intervals; series.ndjson has all", input.seconds.len())
    } else {
        words::counted(words::count(shown), "interval", "intervals")
    };
    section
        .with(Block::Heading("Intervals".to_owned()))
        .with(Block::Folded(summary, intervals(&input.seconds[..shown])))
}

fn quantiles(input: &ReportInput) -> Table {
    let mut table = Table::new(
        "Quantiles in nanoseconds",
        "figures",
        &["Operation", "Outcome", "Time", "#Count", "#p50", "#p90", "#p99", "#p99.9", "#max"],
    );
    let mut row =
        |operation: &str, outcome: &str, time: &str, count: Option<u64>, of: &Quantiles| {
            let count = count.map_or_else(String::new, format_count);
            let mut cells: Vec<Cell> =
                vec![operation.into(), outcome.into(), time.into(), count.into()];
            cells.extend(words::quantiles(of).map(|(_, ns)| exact(ns)));
            table.row("", cells);
        };
    for (name, operation) in words::operations(&input.run) {
        let intended = Some(operation.intended);
        row(name, "all intended", "response", intended, &operation.response_intended_ns);
        for (outcome, result) in &operation.outcomes {
            let count = Some(result.count);
            row(name, outcome, "response", count, &result.response_ns);
            row(name, outcome, "service", count, &result.service_ns);
            row(name, outcome, "dispatch delay", count, &result.dispatch_delay_ns);
        }
    }

    row("instrument", "", "lateness", None, &input.run.instrument.lateness_ns);
    if let Some(quorum) = &input.run.quorum {
        row("quorum", "", "fsync", Some(quorum.fsyncs), &quorum.fsync_ns);
    }
    table
}

fn stages(input: &ReportInput) -> Table {
    let mut table = Table::new(
        "Mean stage times in nanoseconds",
        "figures",
        &["Operation", "Stage", "#Mean, all", "#Mean, slowest 1 %", "#Slowest 1 %, count"],
    );
    for (name, operation) in words::operations(&input.run) {
        for (key, all, slowest) in words::stages(operation) {
            table.row(
                "",
                vec![
                    name.clone().into(),
                    key.into(),
                    format!("{all:.1}").into(),
                    slowest.map_or_else(|| NONE.to_owned(), |ns| format!("{ns:.1}")).into(),
                    format_count(operation.slowest_count).into(),
                ],
            );
        }
    }
    table
}

fn totals(input: &ReportInput) -> Table {
    let run = &input.run;
    let mut table =
        Table::new("Rates and counts of the measurement phase", "words facts", &["What", "#Value"]);
    let mut row = |what: String, value: String| table.row("", vec![what.into(), value.into()]);
    row("measured, seconds".to_owned(), format!("{}", run.measured_s));
    row("offered per second".to_owned(), format!("{}", run.offered_per_s));
    row("achieved per second".to_owned(), format!("{}", run.achieved_per_s));
    row("goodput per second".to_owned(), format!("{}", run.goodput_per_s));
    row("unsent".to_owned(), format_count(run.unsent));
    for (name, operation) in words::operations(run) {
        row(format!("{name}: unexpected"), words::part(operation.unexpected, operation.intended));
    }
    table
}

fn intervals(seconds: &[Second]) -> Table {
    let mut table = Table::new(
        "The run by intervals; times in nanoseconds",
        "figures",
        &[
            "From, s",
            "Phase",
            "#Offered",
            "#Achieved",
            "#Unsent",
            "#In flight",
            "#Backlog",
            "Operation",
            "#Count",
            "#Response p50",
            "#p99",
            "#max",
            "#Service p50",
            "#p99",
            "#max",
        ],
    );
    for second in seconds {
        let mut lead: Vec<Cell> = vec![
            format!("{:.1}", second.from_s).into(),
            second.phase.name().replace('_', "-").into(),
            format_count(second.offered).into(),
            format_count(second.achieved).into(),
            format_count(second.unsent).into(),
            format_count(second.in_flight).into(),
            format_count(second.backlog).into(),
        ];
        if second.operations.is_empty() {
            lead.extend((0..8).map(|_| Cell::from("")));
            table.row("", lead);
            continue;
        }
        for (n, (name, of)) in second.operations.iter().enumerate() {
            // The interval's own figures stand once; its start heads every row.
            let mut cells: Vec<Cell> = if n == 0 {
                std::mem::take(&mut lead)
            } else {
                let mut cells: Vec<Cell> = vec![format!("{:.1}", second.from_s).into()];
                cells.extend((0..6).map(|_| Cell::from("")));
                cells
            };
            cells.extend([name.clone().into(), format_count(of.count).into()]);
            for quantiles in [&of.response_ns, &of.service_ns] {
                cells.extend([quantiles.p50, quantiles.p99, quantiles.max].map(exact));
            }
            table.row("", cells);
        }
    }
    table
}
