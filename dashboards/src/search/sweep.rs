//! The page of a sweep.

use askama::Template;
use vaultmark_results::model::{State, Verdict};
use vaultmark_results::search::SweepResult;

use super::{Page, figures, table};
use crate::chart;
use crate::report::ReportError;
use crate::report::page::{Block, Section, Tile};
use crate::words;

/// The page of a sweep, a whole HTML document.
///
/// # Errors
/// Drawing or writing failed; both happen in memory, so neither is expected.
pub fn sweep_html(sweep: &SweepResult) -> Result<String, ReportError> {
    let mut results = Section::new("results", "Every combination");
    for figure in figures::sweep(sweep) {
        let title = figure.title.clone();
        if let Some(figure) = chart::sweep(&figure)? {
            results.blocks.push(Block::Heading(title));
            results.blocks.push(Block::Figure(figure));
        }
    }
    results.blocks.push(Block::Table(table::points(sweep)));
    let command = Section::new("how", "The command that repeats it")
        .with(Block::Command(sweep.provenance.command.clone()));
    let fields: Vec<String> = sweep
        .parameters
        .iter()
        .map(|parameter| format!("{} = {}", parameter.field, parameter.values.join(", ")))
        .collect();
    let page = Page {
        brand: "vaultmark sweep",
        title: &sweep.scenario,
        question: &sweep.question,
        id: &sweep.sweep_id,
        subtitle: vec![
            sweep.target.clone(),
            sweep.started_at.clone(),
            format!("revision {}", sweep.provenance.revision),
        ]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect(),
        ending_class: class(sweep),
        word: word(sweep),
        cut_short: sweep.cut_short,
        reasons: fields,
        notes: Vec::new(),
        tiles: tiles(sweep),
        sections: vec![results, command],
        version: &sweep.provenance.version,
    };
    Ok(page.render()?)
}

fn word(sweep: &SweepResult) -> String {
    let runs = sweep.points.iter().map(|point| point.runs.len()).sum();
    let runs = words::counted(words::count(runs), "run", "runs");
    let points = words::counted(words::count(sweep.points.len()), "combination", "combinations");
    let ended = if sweep.state == State::Finished { "" } else { " so far" };
    format!("{points}, {runs}{ended}")
}

fn has(sweep: &SweepResult, verdict: Verdict) -> usize {
    let runs = sweep.points.iter().flat_map(|point| &point.runs);
    runs.filter(|run| run.verdict == Some(verdict)).count()
}

fn class(sweep: &SweepResult) -> &'static str {
    if has(sweep, Verdict::Violated) > 0 {
        "fail"
    } else if has(sweep, Verdict::Invalid) > 0 {
        "invalid"
    } else {
        "open"
    }
}

fn tiles(sweep: &SweepResult) -> Vec<Tile> {
    [Verdict::Pass, Verdict::Fail, Verdict::Invalid, Verdict::Violated]
        .into_iter()
        .filter_map(|verdict| {
            let count = has(sweep, verdict);
            (count > 0).then(|| Tile {
                name: verdict.word().to_owned(),
                figure: count.to_string(),
                detail: if count == 1 { "run" } else { "runs" }.to_owned(),
            })
        })
        .collect()
}
