//! The processes that offered the load, where there were several: what each did, how well its clock is known, and what
//! became of it.

use vaultmark_results::model::{Run, WorkerResult};
use vaultmark_results::units::{format_count, format_duration};

use super::page::{Block, Cell, Section, Table};
use crate::words;

/// `None`: this process alone did.
pub(super) fn workers(run: &Run) -> Option<Section> {
    if run.workers.is_empty() {
        return None;
    }
    let head = [
        "Worker",
        "Machine",
        "#Operations",
        "#Lateness p99",
        "#Sending",
        "#Coordination",
        "#Clock",
        "Ended",
    ];
    let mut table = Table::new("The workers that offered the load", "words", &head);
    for worker in &run.workers {
        let machine = format!("{}, {} cores", worker.machine, format_count(worker.cores));
        table.row(
            if worker.lost_at_s.is_some() { "bad" } else { "" },
            vec![
                Cell::from(worker.name.as_str()),
                machine.into(),
                format_count(worker.samples).into(),
                words::duration(worker.lateness_p99_ns).into(),
                words::share(worker.cpu_share).into(),
                words::share(worker.coordination_share).into(),
                clock(worker).into(),
                ended(worker).into(),
            ],
        );
    }
    let section = Section::new("workers", "Workers").text(
        "Each sent its own part of the same arrivals and recorded it; their histograms were added up bin by bin, so \
         that every figure here is over every operation of all of them. Sending and coordination are shares of one \
         core. The clock is the worker's calendar less the coordinator's; all began at one instant, told to each in \
         its own clock, right to what stands behind the ±.",
    );
    Some(section.with(Block::Table(table)))
}

fn clock(worker: &WorkerResult) -> String {
    let sign = if worker.clock_offset_ns < 0 { "−" } else { "+" };
    let offset = format_duration(worker.clock_offset_ns.unsigned_abs());
    format!("{sign}{offset} ± {}", format_duration(worker.uncertainty_ns))
}

fn ended(worker: &WorkerResult) -> String {
    let Some(at) = worker.lost_at_s else { return "with the run".to_owned() };
    let why = worker.lost_why.as_deref().unwrap_or("unknown");
    format!(
        "lost at {at:.1} s: {why}; {} arrivals not sent, {} without an end",
        format_count(worker.unsent),
        format_count(worker.unanswered)
    )
}
