//! Everything else that a card says, one folded part a device.

use vaultmark_results::Card;
use vaultmark_results::card::{Basis, TailVerdict};
use vaultmark_results::model::Quantiles;
use vaultmark_results::units::{format_count, format_duration};

use super::rows::{self, Row, calls, money};
use crate::report::page::{Block, Cell, Table};
use crate::words::{self, NONE};

/// Windows of a soak that are shown; the card has all of them.
const WINDOWS_MAX: usize = 60;

/// One card in full.
pub(super) struct Details {
    pub(super) title: String,
    pub(super) blocks: Vec<Block>,
}

pub(super) fn details(row: &Row<'_>) -> Details {
    let card = row.card;
    let device = &card.device;
    let title = format!(
        "{} {} · {} · {} · {}",
        row.number,
        device.name,
        device.provision,
        device.suite,
        card.date()
    );
    let mut blocks = Vec::new();
    for warning in &card.warnings {
        blocks.push(Block::Text(warning.clone()));
    }
    blocks.push(Block::Table(facts(card)));
    if !card.sessions.is_empty() {
        blocks.push(Block::Heading("Saturated, by HSM sessions".to_owned()));
        blocks.push(Block::Table(sessions(card)));
    }
    if !card.tails.is_empty() {
        blocks.push(Block::Heading("Open loop, by load".to_owned()));
        blocks.push(Block::Table(tails(card)));
    }
    if !card.bare_calls.is_empty() {
        blocks.push(Block::Heading("Single device calls".to_owned()));
        blocks.push(Block::Table(bare_calls(card)));
    }
    if let Some(soak) = &card.soak {
        let drift = rows::change(soak.rate_drift());
        let p99 = rows::change(soak.p99_drift());
        blocks.push(Block::Heading("Soak".to_owned()));
        blocks.push(Block::Text(format!(
            "Offered {}. From its first quarter to its last the rate changed by {drift}, the slowest p99 \
             of a window by {p99}.",
            words::rate(soak.offered_per_s)
        )));
        blocks.push(Block::Table(soaked(card)));
    }
    if !card.provenance.command.is_empty() {
        blocks.push(Block::Heading("To repeat it".to_owned()));
        blocks.push(Block::Command(card.provenance.command.clone()));
    }
    Details { title, blocks }
}

fn facts(card: &Card) -> Table {
    let caption = format!("What is known of {}", card.device.name);
    let mut table = Table::new(caption, "words facts", &["What", "Value"]);
    let mut row = |what: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            table.row("", vec![what.into(), value.into()]);
        }
    };
    let device = &card.device;
    row("Device", Some(device.description.clone()));
    row("Family", Some(device.family.clone()));
    row("Firmware", device.firmware.clone());
    row("Modelled on", device.modelled.clone());
    row("To know", device.caveat.clone());
    row("HSM sessions at most", device.sessions_max.map(format_count));
    row(
        "Capacity",
        card.capacity.as_ref().map(|capacity| {
            let sessions = words::counted(capacity.knee_sessions, "HSM session", "HSM sessions");
            let seen = if capacity.knee_seen { "" } else { ", more were not tried or not granted" };
            format!(
                "{} evaluations and {} device calls with {sessions}{seen}",
                words::rate(capacity.evaluations_per_s),
                words::rate(capacity.device_calls_per_s),
            )
        }),
    );
    row(
        "At its session limit",
        card.session_limit.as_ref().map(|limit| {
            let (asked, granted) = (format_count(limit.asked), format_count(limit.granted));
            match &limit.error {
                Some(error) => format!("{granted} of {asked} granted, then: {error}"),
                None => format!("all {asked} granted that were asked for"),
            }
        }),
    );
    row(
        "Reconnect",
        card.reconnect.as_ref().map(|reconnect| {
            let losses = words::counted(reconnect.losses, "loss", "losses");
            let failed = match reconnect.failures {
                0 => String::new(),
                failures => format!(", {} not back in time", format_count(failures)),
            };
            format!("{} over {losses}{failed}", list(&reconnect.time_ns))
        }),
    );
    row(
        "Whole vault, predicted",
        card.vault.as_ref().map(|vault| {
            format!("{} recoveries, if {}", words::rate(vault.recoveries_per_s), vault.assumes)
        }),
    );
    row(
        "Price",
        card.price.as_ref().map(|price| {
            let basis = match price.basis {
                Basis::Month => "a month".to_owned(),
                Basis::MillionCalls => "a million device calls".to_owned(),
                Basis::Purchase => {
                    let months = price.amortise_months.unwrap_or(0);
                    format!("once, spread over {}", words::counted(months, "month", "months"))
                }
            };
            let source =
                price.source.as_ref().map_or_else(String::new, |from| format!(" ({from})"));
            format!("{} {basis}{source}", money(price.amount, &price.currency))
        }),
    );
    row(
        "Measured",
        Some(format!("{}, effort {}, seed {}", card.measured_at, card.effort, card.seed)),
    );
    let from = &card.provenance;
    row(
        "By",
        Some(format!(
            "vaultmark {}, revision {} ({} build)",
            from.version, from.revision, from.build
        )),
    );
    row("On", Some(on(card)));
    table
}

fn on(card: &Card) -> String {
    let from = &card.provenance;
    let mut parts = vec![from.cpu.clone()];
    if from.cores > 0 {
        parts.push(words::counted(from.cores, "core", "cores"));
    }
    if !from.vector_backend.is_empty() {
        parts.push(format!("vector backend {}", from.vector_backend));
    }
    if !from.kernel.is_empty() {
        parts.push(format!("kernel {}", from.kernel));
    }
    parts.retain(|part| !part.is_empty());
    parts.join(", ")
}

fn sessions(card: &Card) -> Table {
    let mut table = Table::new(
        format!("{} saturated, by HSM sessions", card.device.name),
        "figures",
        &[
            "HSM sessions",
            "#Evaluations/s",
            "#Device calls/s",
            "#Calls an evaluation",
            "#Service p50",
            "#p90",
            "#p99",
            "#p99.9",
            "#max",
            "#Failed",
        ],
    );
    let knee = card.capacity.as_ref().map(|capacity| capacity.knee_sessions);
    for point in &card.sessions {
        let callers = words::counted(point.callers, "caller", "callers");
        let batch = match point.batch_max {
            1 => String::new(),
            most => format!(", batches up to {}", format_count(most)),
        };
        let mut cells = vec![
            Cell::noted(format_count(point.sessions), format!("{callers}{batch}")),
            words::rate(point.evaluations_per_s).into(),
            words::rate(point.device_calls_per_s).into(),
            point.device_calls_per_evaluation.map_or_else(|| NONE.to_owned(), calls).into(),
        ];
        cells.extend(five(&point.service_ns));
        cells.push(format_count(point.failures).into());
        table.row(if knee == Some(point.sessions) { "lead" } else { "" }, cells);
    }
    table
}

fn tails(card: &Card) -> Table {
    let mut table = Table::new(
        format!("{} in open loop, by load", card.device.name),
        "figures",
        &[
            "Load",
            "Verdict",
            "#Offered",
            "#Achieved",
            "#Response p50",
            "#p90",
            "#p99",
            "#p99.9",
            "#max",
            "#Unexpected",
        ],
    );
    for tail in &card.tails {
        let (word, class) = match tail.verdict {
            TailVerdict::Pass => ("kept up", "good"),
            TailVerdict::Fail => ("did not keep up", "bad"),
            TailVerdict::Invalid => ("invalid", "unsure"),
        };
        let verdict = Cell { note: tail.reasons.join("; "), ..Cell::classed(word, class) };
        let mut cells = vec![
            Cell::from(format!("{} %", tail.load_percent)),
            verdict,
            words::rate(tail.offered_per_s).into(),
            words::rate(tail.achieved_per_s).into(),
        ];
        cells.extend(five(&tail.response_ns));
        cells.push(words::part(tail.unexpected, tail.intended).into());
        table.row("", cells);
    }
    table
}

fn bare_calls(card: &Card) -> Table {
    let mut table = Table::new(
        format!("Single calls of {}", card.device.name),
        "figures",
        &["Call", "#Per second", "#p50", "#p90", "#p99", "#p99.9", "#max", "#Timed"],
    );
    for call in &card.bare_calls {
        let head = match &call.refused {
            Some(why) => Cell::noted(call.call.clone(), format!("not offered: {why}")),
            None => call.call.clone().into(),
        };
        let rate = call.per_s.map_or_else(|| NONE.to_owned(), words::rate);
        let mut cells = vec![head, rate.into()];
        cells.extend(five(&call.time_ns));
        cells.push(format_count(call.count).into());
        table.row("", cells);
    }
    table
}

fn soaked(card: &Card) -> Table {
    let mut table = Table::new(
        format!("{} over the soak", card.device.name),
        "figures",
        &["From", "#Achieved", "#Response p50", "#p90", "#p99", "#p99.9", "#max", "#Unexpected"],
    );
    let windows = card.soak.as_ref().map_or(&[][..], |soak| &soak.windows[..]);
    // Evenly, so that a drift shows.
    let every = windows.len().div_ceil(WINDOWS_MAX).max(1);
    for window in windows.iter().step_by(every) {
        let mut cells = vec![
            Cell::from(format_duration(window.from_ns)),
            words::rate(window.achieved_per_s).into(),
        ];
        cells.extend(five(&window.response_ns));
        cells.push(format_count(window.unexpected).into());
        table.row("", cells);
    }
    table
}

fn five(quantiles: &Quantiles) -> [Cell; 5] {
    words::quantiles(quantiles).map(|(_, ns)| words::duration(ns).into())
}

fn list(quantiles: &Quantiles) -> String {
    let known = |(statistic, ns): (vaultmark_results::slo::Statistic, Option<u64>)| {
        Some(format!("{} {}", statistic.name(), format_duration(ns?)))
    };
    let parts: Vec<String> = words::quantiles(quantiles).into_iter().filter_map(known).collect();
    if parts.is_empty() { NONE.to_owned() } else { parts.join(" · ") }
}
