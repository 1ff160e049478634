//! What a search and a sweep leave: `search.json` and `sweep.json`, beside a bundle for each run. Rewritten
//! after each run, so that what was measured outlives whoever is killed.
//!
//! The published schemas are `results/schema/search.v1.json` and `sweep.v1.json`; fields are only ever added to a version.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::bundle::BundleError;
use crate::model::{Hsm, Provenance, Quantiles, Run, SloResult, State, Verdict};

/// The version this crate writes.
pub const SEARCH_VERSION: u32 = 1;

/// The file of a search.
pub const SEARCH: &str = "search.json";
/// The file of a sweep.
pub const SWEEP: &str = "sweep.json";
/// The page beside either.
const REPORT: &str = "report.html";

/// A search for the highest rate that holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SearchResult {
    /// [`SEARCH_VERSION`] when it was written.
    pub schema_version: u32,
    /// `20261121T031502Z-search-quickstart-7f3a`.
    pub search_id: String,
    /// Its folder.
    pub folder: String,
    /// Name of the scenario.
    pub scenario: String,
    /// The question the scenario asks.
    pub question: String,
    /// Seed of the scenario.
    pub seed: u64,
    /// What answered, in words; empty before the first run.
    pub target: String,
    /// The device, if the target has one.
    pub hsm: Option<Hsm>,
    /// What was scaled, in words: "the rate of load \"people\"".
    pub scaled: String,
    /// What has to hold at a rate, in words: the rules, and what a search asks besides.
    pub rules: Vec<String>,
    /// The operation whose times are shown.
    pub operation: String,
    /// The quantile of its response time that is judged, or shown where none is: `p99`.
    pub statistic: String,
    /// What was looked for.
    pub goal: SearchGoal,
    /// Start, RFC 3339 UTC.
    pub started_at: String,
    /// Whether it has ended.
    pub state: State,
    /// Ended by a signal.
    pub cut_short: bool,
    /// Null while it goes on.
    pub answer: Option<Answer>,
    /// Every run, in the order in which they were made.
    pub probes: Vec<ProbeResult>,
    /// What a reader must know besides.
    pub notes: Vec<String>,
    /// Where and by what it was measured.
    pub provenance: Provenance,
}

/// What a search looked for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchGoal {
    /// Where it began, arrivals a second.
    pub from_per_s: f64,
    /// No rate below was tried.
    pub least_per_s: f64,
    /// No rate above was tried.
    pub most_per_s: f64,
    /// Width of the bracket that is narrow enough, as a share of the rate that holds.
    pub precision: f64,
    /// Measurement phase of a run, seconds; longer where quantiles need it.
    pub window_s: f64,
    /// The same of a run that confirms or refutes.
    pub confirm_s: f64,
    /// Most runs.
    pub runs_max: u32,
}

/// How a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerKind {
    /// The rate holds, confirmed; the one above it fails.
    Found,
    /// The highest rate that might be tried holds, confirmed.
    AtLeast,
    /// Not even the lowest rate holds.
    None,
    /// The instrument is the limit.
    Instrument,
    /// It ended before there was an answer.
    Unfinished,
    /// The vault answered more guesses than it may, or lost what it had acknowledged.
    Violated,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Which kind of.
    pub kind: AnswerKind,
    /// The highest rate that held, arrivals a second; confirmed if `kind` says so.
    pub rate_per_s: Option<f64>,
    /// The lowest rate above it that did not, or could not be measured.
    pub above_per_s: Option<f64>,
    /// In words, the most important first.
    pub words: Vec<String>,
}

/// What a run said about its rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeOutcome {
    /// Everything that is asked holds.
    Holds,
    /// Something does not.
    Fails,
    /// The instrument was at fault.
    Invalid,
    /// The target was still settling: the warm-up was too short, and the run was made again.
    Settling,
    /// Cut short.
    CutShort,
}

impl ProbeOutcome {
    /// The word users read.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Fails => "fails",
            Self::Invalid => "invalid",
            Self::Settling => "settling",
            Self::CutShort => "cut short",
        }
    }
}

/// One run of a search.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProbeResult {
    /// From 1.
    pub number: u32,
    /// Its bundle, seen from the search's folder.
    pub bundle: String,
    /// Why it was made: `bracket`, `narrow`, `confirm`, `refute`.
    pub purpose: String,
    /// What was asked for, arrivals a second.
    pub rate_per_s: f64,
    /// Warm-up, seconds.
    pub warm_up_s: f64,
    /// Measurement phase, seconds.
    pub window_s: f64,
    /// Its seed.
    pub seed: u64,
    /// What it said.
    pub outcome: ProbeOutcome,
    /// Why, in words.
    pub reasons: Vec<String>,
    /// The run's own verdict.
    pub verdict: Option<Verdict>,
    /// Intended starts a second.
    pub offered_per_s: f64,
    /// Ended within the measurement phase, a second.
    pub achieved_per_s: f64,
    /// One row for each rule.
    pub slos: Vec<SloResult>,
    /// Response times of each operation over every intended one; null is infinite, or too few samples.
    pub response_ns: BTreeMap<String, Quantiles>,
}

/// Runs at every combination of some parameters' values.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SweepResult {
    /// [`SEARCH_VERSION`] when it was written.
    pub schema_version: u32,
    /// `20261121T031502Z-sweep-quickstart-7f3a`.
    pub sweep_id: String,
    /// Its folder.
    pub folder: String,
    /// Name of the scenario.
    pub scenario: String,
    /// The question the scenario asks.
    pub question: String,
    /// What answered at first, in words; empty before the first run.
    pub target: String,
    /// What varies, and its values as typed.
    pub parameters: Vec<Parameter>,
    /// The operation whose times are shown.
    pub operation: String,
    /// Runs at each point.
    pub repeat: u32,
    /// Start, RFC 3339 UTC.
    pub started_at: String,
    /// Whether it has ended.
    pub state: State,
    /// Ended by a signal.
    pub cut_short: bool,
    /// Every combination, in the order in which they were run.
    pub points: Vec<SweepPoint>,
    /// Where and by what it was measured.
    pub provenance: Provenance,
}

/// What varies in a sweep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    /// The field, as `--set` takes it.
    pub field: String,
    /// Its values as typed.
    pub values: Vec<String>,
}

/// One combination.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SweepPoint {
    /// One value for each parameter, in their order.
    pub values: Vec<String>,
    /// Its runs; none: not yet.
    pub runs: Vec<SweepRun>,
}

/// One run of a sweep.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SweepRun {
    /// Its bundle, seen from the sweep's folder.
    pub bundle: String,
    /// Its seed.
    pub seed: u64,
    /// Its verdict.
    pub verdict: Option<Verdict>,
    /// In words.
    pub reasons: Vec<String>,
    /// Ended early.
    pub cut_short: bool,
    /// Intended starts a second.
    pub offered_per_s: f64,
    /// Ended within the measurement phase, a second.
    pub achieved_per_s: f64,
    /// Those that ended as expected, a second.
    pub goodput_per_s: f64,
    /// One row for each rule.
    pub slos: Vec<SloResult>,
    /// Response times of each operation over every intended one.
    pub response_ns: BTreeMap<String, Quantiles>,
}

impl SweepRun {
    /// What a run came to.
    #[must_use]
    pub fn of(run: &Run, bundle: String) -> Self {
        Self {
            bundle,
            seed: run.seed,
            verdict: run.verdict,
            reasons: run.reasons.clone(),
            cut_short: run.cut_short,
            offered_per_s: run.offered_per_s,
            achieved_per_s: run.achieved_per_s,
            goodput_per_s: run.goodput_per_s,
            slos: run.slos.clone(),
            response_ns: response_ns(run),
        }
    }
}

/// Response times by operation, of those that were asked for.
#[must_use]
pub fn response_ns(run: &Run) -> BTreeMap<String, Quantiles> {
    let asked = run.operations.iter().filter(|(_, operation)| operation.intended > 0);
    asked.map(|(name, operation)| (name.clone(), operation.response_intended_ns)).collect()
}

/// Writes a search's file and its page.
///
/// # Errors
/// One of them cannot be written.
pub fn write_search(folder: &Path, search: &SearchResult, html: &str) -> Result<(), BundleError> {
    write(folder, SEARCH, search, html)
}

/// Writes a sweep's file and its page.
///
/// # Errors
/// One of them cannot be written.
pub fn write_sweep(folder: &Path, sweep: &SweepResult, html: &str) -> Result<(), BundleError> {
    write(folder, SWEEP, sweep, html)
}

/// Whether a folder has a search or a sweep in it, or a run.
#[must_use]
pub fn is_occupied(folder: &Path) -> bool {
    ["run.json", SEARCH, SWEEP].iter().any(|name| folder.join(name).exists())
}

fn write(folder: &Path, name: &str, what: &impl Serialize, html: &str) -> Result<(), BundleError> {
    let cannot = |path: &Path| {
        let path = path.to_owned();
        move |error| BundleError::Write(path, error)
    };
    fs::create_dir_all(folder).map_err(cannot(folder))?;
    let mut json = serde_json::to_vec_pretty(what).expect("it has string keys only");
    json.push(b'\n');
    for (name, bytes) in [(name, json.as_slice()), (REPORT, html.as_bytes())] {
        // Written beside and moved over: who reads meanwhile finds the old or the new one, whole.
        let (path, fresh) = (folder.join(name), folder.join(format!(".{name}.new")));
        fs::write(&fresh, bytes).map_err(cannot(&fresh))?;
        fs::rename(&fresh, &path).map_err(cannot(&path))?;
    }
    Ok(())
}
