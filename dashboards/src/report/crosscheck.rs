//! What two instruments said of the same users: a page, and the same for a terminal.

use askama::Template;
use vaultmark_results::crosscheck::Crosscheck;
use vaultmark_results::model::Quantiles;
use vaultmark_results::units::{format_count, format_rate};

use super::page::{self, Block, Cell, Section, Table};
use super::{ReportError, glued};
use crate::words;

#[derive(Template)]
#[template(path = "crosscheck.html")]
struct Page<'a> {
    found: &'a Crosscheck,
    sections: Vec<Section>,
}

/// A cross-check, a whole HTML document.
///
/// # Errors
/// Writing failed; it happens in memory, so that is not expected.
pub fn crosscheck_html(found: &Crosscheck) -> Result<String, ReportError> {
    let mut why = Section::new("why", "Why they differ");
    for explanation in &found.explanations {
        why = why.text(glued(&format!("{explanation}.")));
    }
    let bundles = found.bundles.join("\n");
    let sections = vec![
        Section::new("sides", "What each said").with(Block::Table(sides(found))),
        why,
        Section::new("requests", "Requests, as goose tells of them")
            .text("Beside each: what goose's own correction for coordinated omission makes of it.")
            .with(Block::Table(requests(found))),
        Section::new("bundles", "Our own runs")
            .text("Each has a report of its own.")
            .with(Block::Command(bundles)),
    ];
    Ok(Page { found, sections }.render()?)
}

fn quantiles(ns: &Quantiles) -> Vec<Cell> {
    [ns.p50, ns.p90, ns.p99, ns.p99_9, ns.max].map(|ns| words::duration(ns).into()).into()
}

fn sides(found: &Crosscheck) -> Table {
    const HEAD: [&str; 9] =
        ["Instrument", "#Ended", "#Unexpected", "#Rate", "#p50", "#p90", "#p99", "#p99.9", "#max"];
    let mut table = Table::new("What each instrument said", "figures", &HEAD);
    for side in &found.sides {
        let mut cells = vec![
            Cell::noted(side.name.as_str(), side.times.as_str()),
            format_count(side.ended).into(),
            format_count(side.unexpected).into(),
            format_rate(side.per_s).into(),
        ];
        cells.extend(quantiles(&side.ns));
        table.row("", cells);
    }
    table
}

fn requests(found: &Crosscheck) -> Table {
    const HEAD: [&str; 9] =
        ["Request", "#Made", "#Failed", "#Made up", "#p50", "#p90", "#p99", "#p99.9", "#max"];
    let mut table = Table::new("Requests, as goose tells of them", "figures", &HEAD);
    for one in &found.requests {
        let mut row = |name: String, made_up: String, ns: &Quantiles| {
            let (made, failed) = (format_count(one.made), format_count(one.failed));
            let mut cells = vec![name.into(), made.into(), failed.into(), made_up.into()];
            cells.extend(quantiles(ns));
            table.row("", cells);
        };
        row(one.name.clone(), "0".to_owned(), &one.ns);
        let corrected = format!("{}, corrected", one.name);
        row(corrected, format_count(one.made_up), &one.corrected_ns);
    }
    table
}

/// The same in lines for a terminal or a pipe.
#[must_use]
pub fn crosscheck_text(found: &Crosscheck) -> String {
    let mut lines = vec![format!("{}: {}", found.scenario, found.users), found.target.clone()];
    lines.push(String::new());
    lines.push(format!(
        "{:<36} {:>9} {:>9} {:>10} {:>10} {:>10} {:>10}",
        "", "ended", "rate", "p50", "p90", "p99", "max"
    ));
    for side in &found.sides {
        let told = words::duration;
        lines.push(format!(
            "{:<36} {:>9} {:>9} {:>10} {:>10} {:>10} {:>10}",
            side.name,
            format_count(side.ended),
            format_rate(side.per_s),
            told(side.ns.p50),
            told(side.ns.p90),
            told(side.ns.p99),
            told(side.ns.max)
        ));
    }
    for explanation in &found.explanations {
        lines.push(String::new());
        lines.push(format!("{explanation}."));
    }
    lines.push(String::new());
    lines.join("\n")
}
