//! The pages of a search and of a sweep: files that load nothing, like the report.

mod figures;
mod sweep;
mod table;

use askama::Template;
use vaultmark_results::model::State;
use vaultmark_results::search::{AnswerKind, SearchResult};
use vaultmark_results::units::{exact_percent, format_rate};

use crate::chart;
use crate::report::page::{self, Block, Section, Tile};
use crate::report::{ReportError, glued};

pub use sweep::sweep_html;
pub use table::{probe_head, probe_line, sweep_text};

#[derive(Template)]
#[template(path = "search.html")]
struct Page<'a> {
    /// "vaultmark search".
    brand: &'static str,
    title: &'a str,
    question: &'a str,
    id: &'a str,
    subtitle: Vec<String>,
    ending_class: &'static str,
    word: String,
    cut_short: bool,
    reasons: Vec<String>,
    notes: Vec<String>,
    tiles: Vec<Tile>,
    sections: Vec<Section>,
    version: &'a str,
}

/// The page of a search, a whole HTML document.
///
/// # Errors
/// Drawing or writing failed; both happen in memory, so neither is expected.
pub fn search_html(search: &SearchResult) -> Result<String, ReportError> {
    let kind = search.answer.as_ref().map(|answer| answer.kind);
    let mut asked = Section::new("asked", "What has to hold");
    asked = asked.text(format!("Searched was {}.", search.scaled));
    asked.blocks.push(Block::Table(table::rules(search)));
    let mut runs = Section::new("runs", "Every run");
    if let Some(figure) = chart::load(&figures::load(search))? {
        runs.blocks.push(Block::Figure(figure));
    }
    runs.blocks.push(Block::Table(table::probes(search)));
    let page = Page {
        brand: "vaultmark search",
        title: &search.scenario,
        question: &search.question,
        id: &search.search_id,
        subtitle: subtitle(search),
        ending_class: class(kind),
        word: word(search),
        cut_short: search.cut_short,
        reasons: search.answer.as_ref().map_or_else(
            || vec!["the search goes on, or was killed: this is what it has so far".to_owned()],
            |answer| answer.words.iter().map(|text| glued(text)).collect(),
        ),
        notes: search.notes.iter().map(|text| glued(text)).collect(),
        tiles: table::tiles(search),
        sections: vec![runs, asked, how(search)],
        version: &search.provenance.version,
    };
    Ok(page.render()?)
}

fn subtitle(search: &SearchResult) -> Vec<String> {
    let mut parts = vec![search.target.clone()];
    if let Some(hsm) = &search.hsm {
        parts.push(format!("{} ({}, {})", hsm.device, hsm.provision, hsm.suite));
    }
    parts.push(search.started_at.clone());
    parts.push(format!("revision {}", search.provenance.revision));
    parts.retain(|part| !part.is_empty());
    parts
}

/// The answer in a word or two.
#[must_use]
pub fn word(search: &SearchResult) -> String {
    let Some(answer) = &search.answer else { return "RUNNING".to_owned() };
    let rate = answer.rate_per_s.map(format_rate).unwrap_or_default();
    match answer.kind {
        AnswerKind::Found => format!("{rate} HOLDS"),
        AnswerKind::AtLeast => format!("AT LEAST {rate}"),
        AnswerKind::None => "NO RATE HOLDS".to_owned(),
        AnswerKind::Instrument => "INSTRUMENT".to_owned(),
        AnswerKind::Unfinished => "NO ANSWER".to_owned(),
        AnswerKind::Violated => "VIOLATED".to_owned(),
    }
}

const fn class(kind: Option<AnswerKind>) -> &'static str {
    match kind {
        Some(AnswerKind::Found | AnswerKind::AtLeast) => "pass",
        Some(AnswerKind::None | AnswerKind::Violated) => "fail",
        Some(AnswerKind::Instrument) => "invalid",
        Some(AnswerKind::Unfinished) | None => "open",
    }
}

fn how(search: &SearchResult) -> Section {
    let goal = &search.goal;
    let ended = if search.state == State::Finished { "" } else { " (it has not ended)" };
    Section::new("how", "How it was searched")
        .text(format!(
            "From {} between {} and {}, until the bracket is at most {} wide: first by doubling and halving, \
             then in halves of the logarithm, sooner where a saturated target says what it achieves. Runs \
             measure for {} s, those that look at a side of the boundary again for {} s, longer where a \
             quantile needs more operations for its bound. {} of at most {} runs were made{ended}.",
            format_rate(goal.from_per_s),
            format_rate(goal.least_per_s),
            format_rate(goal.most_per_s),
            exact_percent((goal.precision * 1e4).round() / 1e4).replace('%', " %"),
            goal.window_s,
            goal.confirm_s,
            search.probes.len(),
            goal.runs_max
        ))
        .text(
            "An upper 95 % bound is the order statistic at q + 1.645 · √(q(1 − q) / n) of the n intended \
             operations, whatever their distribution; what did not end as expected counts as infinitely slow.",
        )
        .with(Block::Heading("The command that repeats it".to_owned()))
        .with(Block::Command(search.provenance.command.clone()))
}
