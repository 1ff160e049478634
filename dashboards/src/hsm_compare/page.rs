//! The comparison's page: one file that loads nothing. The table stands by itself; where scripts run, a
//! few lines of one of ours filter it. Nothing else can run: the page's policy names that script by its hash.

use std::collections::BTreeSet;

use askama::Template;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::details::{self, Details};
use super::rows::{self, Row, TAIL_PERCENT, published_rate};
use super::{CompareInput, charts};
use crate::chart::{Figure, series_class};
use crate::report::{ReportError, page};
use crate::words;

/// What filters the table.
const SCRIPT: &str = include_str!("../../templates/hsm_compare.js");

#[derive(Template)]
#[template(path = "hsm_compare.html")]
struct Page<'a> {
    policy: String,
    script: &'static str,
    version: &'a str,
    tail_percent: u64,
    dates: String,
    lines: Vec<Line>,
    has_cost: bool,
    filters: Vec<Filter>,
    notes: Vec<String>,
    internal: bool,
    left_out: Option<String>,
    charts: Vec<(&'static str, &'static str, Figure)>,
    published: Vec<Published>,
    details: Vec<Details>,
}

/// A row of the table, ready to be shown.
struct Line {
    number: usize,
    patch: String,
    name: String,
    badges: Vec<(&'static str, &'static str)>,
    /// What the device says of itself, what its times were modelled on, what to know.
    small: Vec<String>,
    provision: String,
    suite: String,
    measured: &'static str,
    rate: String,
    rate_exact: f64,
    share: String,
    /// Percent of the fastest, for the bar.
    width: f64,
    tail: (String, String),
    calls: String,
    cost: (String, String),
    date: String,
    firmware: Option<String>,
}

/// A choice of which rows are shown.
struct Filter {
    name: &'static str,
    title: &'static str,
    values: BTreeSet<String>,
}

struct Published {
    device: String,
    operation: String,
    rate: String,
    note: String,
    confidence: &'static str,
    source: String,
}

/// The page, a whole HTML document.
///
/// # Errors
/// Drawing or writing failed; both happen in memory, so neither is expected.
pub fn compare_html(input: &CompareInput) -> Result<String, ReportError> {
    let (cards, left_out) = input.visible();
    let rows = rows::rows(&cards);
    let lines: Vec<Line> = rows.iter().map(line).collect();
    let mut drawn = Vec::new();
    if let Some(figure) = charts::sessions(&rows)? {
        drawn.push(("scaling", "Evaluations per second against HSM sessions", figure));
    }
    if let Some(figure) = charts::tails(&rows)? {
        drawn.push(("tails", "Tails", figure));
    }
    let page = Page {
        policy: policy(),
        script: SCRIPT,
        version: &input.version,
        tail_percent: TAIL_PERCENT,
        dates: dates(&rows),
        has_cost: lines.iter().any(|line| !line.cost.0.is_empty()),
        filters: filters(&lines),
        notes: notes(&rows),
        internal: rows.iter().any(Row::is_internal),
        left_out: left_out.words(),
        charts: drawn,
        published: input.published.iter().map(published).collect(),
        details: rows.iter().map(details::details).collect(),
        lines,
    };
    Ok(page.render()?)
}

/// Only our script, by its hash, and our styles.
fn policy() -> String {
    let hash = STANDARD.encode(Sha256::digest(SCRIPT.as_bytes()));
    format!(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{hash}'; base-uri 'none'; \
         form-action 'none'"
    )
}

fn line(row: &Row<'_>) -> Line {
    let device = &row.card.device;
    let mut badges = Vec::new();
    if row.is_modelled() {
        badges.push(("modelled", "unsure"));
    }
    if row.is_internal() {
        badges.push(("internal", "open"));
    }
    if row.card.effort == "quick" {
        badges.push(("quick", "open"));
    }
    let modelled = device.modelled.as_ref().map(|on| format!("modelled on: {on}"));
    let small = [Some(device.description.clone()), modelled, device.caveat.clone()]
        .into_iter()
        .flatten()
        .filter(|text| !text.is_empty())
        .collect();
    Line {
        number: row.number,
        patch: series_class(row.number - 1),
        name: device.name.clone(),
        badges,
        small,
        provision: device.provision.clone(),
        suite: device.suite.clone(),
        measured: if row.is_modelled() { "modelled" } else { "measured" },
        rate: row.rate_words(),
        rate_exact: row.rate.filter(|rate| rate.is_finite()).unwrap_or(0.0),
        share: row.share_words(),
        width: row
            .share
            .filter(|share| share.is_finite())
            .map_or(0.0, |share| (share.clamp(0.0, 1.0) * 10_000.0).round() / 100.0),
        tail: row.tail_words(),
        calls: row.calls_words(),
        cost: row.cost_words(),
        date: row.card.date().to_owned(),
        firmware: device.firmware.clone(),
    }
}

/// What can be chosen between; a choice of one thing is none.
fn filters(lines: &[Line]) -> Vec<Filter> {
    let of = |name, title, value: fn(&Line) -> &str| Filter {
        name,
        title,
        values: lines.iter().map(|line| value(line).to_owned()).collect(),
    };
    let mut filters = vec![
        of("provision", "Key provision", |line| &line.provision),
        of("suite", "Suite", |line| &line.suite),
        of("measured", "Service times", |line| line.measured),
    ];
    filters.retain(|filter| filter.values.len() > 1);
    filters
}

fn notes(rows: &[Row<'_>]) -> Vec<String> {
    let mut notes = vec![format!(
        "An evaluation is one OPRF BlindEvaluate (RFC 9497); what of it happens inside the device is the \
         key provision. Evaluations/s is the measured capacity, and its share is of the fastest row shown. \
         p99 is the response time from the intended start, open loop, at {TAIL_PERCENT} % of the device's \
         own capacity. A device call is one vendor or PKCS#11 call."
    )];
    if rows.iter().any(Row::is_modelled) {
        notes.push(
            "Modelled: the service times are a model's and no device's; what they were modelled on stands \
             with the row."
                .to_owned(),
        );
    }
    if rows.iter().any(|row| row.card.price.is_some()) {
        notes.push(
            "Cost is of a million evaluations at the price the card names, calls included. By the month or \
             purchase it is what a device costs that never rests; half idle, it is twice that."
                .to_owned(),
        );
    }
    notes
}

fn dates(rows: &[Row<'_>]) -> String {
    let dates = || rows.iter().map(|row| row.card.date());
    match (dates().min(), dates().max()) {
        (Some(first), Some(last)) if first == last => format!("measured {first}"),
        (Some(first), Some(last)) => format!("measured {first} to {last}"),
        _ => String::new(),
    }
}

fn published(figure: &super::PublishedFigure) -> Published {
    Published {
        device: figure.device.clone(),
        operation: figure.operation.clone(),
        rate: published_rate(figure.per_s),
        note: figure.note.clone(),
        confidence: figure.confidence.words(),
        source: figure.source.clone(),
    }
}

impl Page<'_> {
    /// "12 rows".
    fn count(&self) -> String {
        words::counted(words::count(self.lines.len()), "row", "rows")
    }
}
