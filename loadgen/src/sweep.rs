//! A scenario at every combination of some fields' values. Each run is an ordinary one with a bundle of its own,
//! and `sweep.json` is written after each.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use vaultmark_dashboards::sweep_html;
use vaultmark_hsm::{Clock, SystemClock};
use vaultmark_results::folder;
use vaultmark_results::model::State;
use vaultmark_results::search::{
    Parameter, SEARCH_VERSION, SweepPoint, SweepResult, SweepRun, write_sweep,
};

use crate::host;
use crate::run::{self, Done, Job, Stop, progress::Mode};
use crate::scenario::Scenario;
use crate::search::outcome::Watched;
use crate::search::{SearchError, listening, place, seed_of};

/// What to run.
#[derive(Debug)]
pub struct Ask<'a> {
    /// What varies.
    pub parameters: Vec<Parameter>,
    /// Every combination: a value for each parameter, and the scenario with them. At least one.
    pub points: Vec<(Vec<String>, Scenario)>,
    /// Runs at each.
    pub repeat: u32,
    /// Folder of the sweep; `None`: one of its own beneath `results/runs`.
    pub out: Option<&'a Path>,
    /// The command that repeats it.
    pub command: String,
    /// How the progress of each run is shown.
    pub progress: Mode,
}

/// A sweep that has ended.
#[derive(Debug)]
pub struct Ended {
    /// What it found.
    pub result: SweepResult,
    /// Its folder.
    pub folder: PathBuf,
    /// The signal that ended it early.
    pub signal: Option<i32>,
}

/// Runs every combination, then every one again: what changes in time is spread over all of them. `tell` is
/// told the values and the run of each that has ended.
///
/// # Errors
/// See [`SearchError`].
pub fn sweep(
    ask: &Ask<'_>,
    stop: &Arc<Stop>,
    tell: &mut dyn FnMut(&[String], &SweepRun),
) -> Result<Ended, SearchError> {
    let runtime = listening(stop)?;
    let (folder, mut result) = begin(ask)?;
    let mut failed = None;
    'all: for n in 0..ask.repeat {
        for (index, (values, scenario)) in ask.points.iter().enumerate() {
            if stop.signal().is_some() {
                break 'all;
            }
            let mut scenario = scenario.clone();
            // The same chance for every combination, another for each repetition.
            scenario.seed = seed_of(&scenario, n);
            let bundle = format!("runs/{:02}-{}", index + 1, n + 1);
            let out = folder.join(&bundle);
            let job = Job {
                scenario: &scenario,
                out: Some(&out),
                command: format!("{} # {bundle}", ask.command),
                progress: ask.progress,
            };
            let Done { run, .. } = match run::run(&job, stop) {
                Ok(done) => done,
                Err(error) => {
                    failed = Some(SearchError::Run(error));
                    break 'all;
                }
            };
            if result.target.is_empty() {
                result.target.clone_from(&run.target);
            }
            let run = SweepRun::of(&run, bundle);
            tell(values, &run);
            result.points[index].runs.push(run);
            write(&folder, &result)?;
        }
    }
    drop(runtime);
    let asked = ask.points.len() * usize::try_from(ask.repeat).unwrap_or(usize::MAX);
    let whole = |runs: &[SweepRun]| runs.iter().filter(|run| !run.cut_short).count();
    let made: usize = result.points.iter().map(|point| whole(&point.runs)).sum();
    let signal = stop.signal().filter(|_| made < asked);
    result.cut_short = signal.is_some();
    result.state = State::Finished;
    write(&folder, &result)?;
    match failed {
        Some(error) => Err(error),
        None => Ok(Ended { result, folder, signal }),
    }
}

fn begin(ask: &Ask<'_>) -> Result<(PathBuf, SweepResult), SearchError> {
    let clock: Arc<dyn Clock> = SystemClock::start()?;
    let (_, first) = ask.points.first().expect("there is a combination");
    let (sweep_id, folder) = place("sweep", first, ask.out, &*clock)?;
    let point = |(values, _): &(Vec<String>, Scenario)| SweepPoint {
        values: values.clone(),
        runs: Vec::new(),
    };
    let result = SweepResult {
        schema_version: SEARCH_VERSION,
        sweep_id,
        folder: folder.display().to_string(),
        scenario: first.name.clone(),
        question: first.question.clone(),
        target: String::new(),
        parameters: ask.parameters.clone(),
        operation: Watched::of(first).operation,
        repeat: ask.repeat,
        started_at: folder::rfc3339(clock.origin()),
        state: State::Running,
        cut_short: false,
        points: ask.points.iter().map(point).collect(),
        provenance: host::provenance(clock.source(), ask.command.clone()),
    };
    write(&folder, &result)?;
    Ok((folder, result))
}

fn write(folder: &Path, result: &SweepResult) -> Result<(), SearchError> {
    let html = sweep_html(result).map_err(|error| SearchError::Report(error.to_string()))?;
    Ok(write_sweep(folder, result, &html)?)
}
