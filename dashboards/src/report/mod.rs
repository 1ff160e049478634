//! The report: one self-contained page, readable offline, on paper, by screen readers and in ten
//! years. It loads nothing and runs nothing.
//!
//! What stands where is decided here and in the files of the sections; the template only knows
//! headings, tables, figures and text.

mod crosscheck;
mod machine;
mod numbers;
pub(crate) mod page;
mod results;
mod workers;

use std::fmt;

use askama::Template;
use vaultmark_results::model::Run;

use crate::chart::ChartError;
use crate::input::ReportInput;
use crate::words::{Ending, warnings};

pub use crosscheck::{crosscheck_html, crosscheck_text};
use page::{Section, Tile};

/// A report could not be written.
#[derive(Debug)]
pub enum ReportError {
    /// A chart.
    Chart(ChartError),
    /// The page.
    Page(askama::Error),
}

impl fmt::Display for ReportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chart(error) => error.fmt(f),
            Self::Page(error) => write!(f, "cannot write the report's page: {error}"),
        }
    }
}

impl std::error::Error for ReportError {}

impl From<ChartError> for ReportError {
    fn from(error: ChartError) -> Self {
        Self::Chart(error)
    }
}

impl From<askama::Error> for ReportError {
    fn from(error: askama::Error) -> Self {
        Self::Page(error)
    }
}

/// The report of one run, a whole HTML document.
///
/// # Errors
/// Drawing or writing failed; both happen in memory, so neither is expected.
pub fn report_html(input: &ReportInput) -> Result<String, ReportError> {
    let run = &input.run;
    let mut sections: Vec<Section> = results::violations(run).into_iter().collect();
    sections.extend(results::loads(run));
    sections.push(results::operations(run));
    sections.extend(results::curves(input)?);
    sections.extend(results::over_time(input)?);
    sections.extend(results::stages(run)?);
    sections.push(results::errors(run));
    sections.push(machine::instrument(run));
    sections.extend(workers::workers(run));
    sections.push(machine::device(run));
    sections.push(machine::provenance(run));
    sections.push(numbers::every_number(input));
    let ending = Ending::of(run);
    let page = Page {
        run,
        subtitle: subtitle(run),
        ending_class: ending_class(ending),
        word: ending.word(),
        reasons: if run.reasons.is_empty() {
            vec![ending.meaning().to_owned()]
        } else {
            run.reasons.iter().map(|text| glued(text)).collect()
        },
        warnings: warnings(run).iter().map(|text| glued(text)).collect(),
        slos: results::slos(run),
        tiles: results::tiles(run),
        sections,
    };
    Ok(page.render()?)
}

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    run: &'a Run,
    subtitle: Vec<String>,
    ending_class: &'static str,
    word: &'static str,
    reasons: Vec<String>,
    warnings: Vec<String>,
    slos: Option<Section>,
    tiles: Vec<Tile>,
    sections: Vec<Section>,
}

fn subtitle(run: &Run) -> Vec<String> {
    let mut parts = vec![run.target.clone()];
    if let Some(hsm) = &run.hsm {
        parts.push(format!("{} ({}, {})", hsm.device, hsm.provision, hsm.suite));
    }
    parts.push(run.started_at.clone());
    parts.push(format!("revision {}", run.provenance.revision));
    parts.retain(|part| !part.is_empty());
    parts
}

/// Keeps a figure and its unit on one line.
pub(crate) fn glued(text: &str) -> String {
    let mut glued = text.to_owned();
    for unit in ["%", "ns", "µs", "ms", "s"] {
        for end in ["", ",", ".", ":", ";", ")"] {
            let (loose, tight) = (format!(" {unit}{end} "), format!("\u{a0}{unit}{end} "));
            glued = glued.replace(&loose, &tight);
        }
    }
    glued
}

const fn ending_class(ending: Ending) -> &'static str {
    match ending {
        Ending::Pass => "pass",
        Ending::Fail | Ending::Violated => "fail",
        Ending::Invalid => "invalid",
        Ending::CutShort | Ending::Running => "open",
    }
}
