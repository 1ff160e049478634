//! The highest rate that holds the limits, found in few runs.
//!
//! `machine` decides at which rate to run next and when there is an answer, purely; `scale` puts a rate into
//! the scenario, `window` says how long a run has to be, `outcome` and `steady` what it says. What is here makes
//! the runs: each is an ordinary one with a bundle of its own, and `search.json` is written after each.

pub mod machine;
pub mod outcome;
pub mod scale;
pub mod steady;
pub mod window;
mod words;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use vaultmark_dashboards::search_html;
use vaultmark_hsm::clock::nanos;
use vaultmark_hsm::{Clock, SystemClock};
use vaultmark_results::bundle::BundleError;
use vaultmark_results::folder;
use vaultmark_results::model::{Run, State, Verdict};
use vaultmark_results::search::{
    Answer, AnswerKind, ProbeOutcome, ProbeResult, SEARCH_VERSION, SearchGoal, SearchResult,
    is_occupied, response_ns, write_search,
};
use vaultmark_results::units::{exact_duration, format_count, format_duration, format_rate};

use crate::chance::Chance;
use crate::host;
use crate::run::{self, Done, Job, RunError, Stop, progress::Mode};
use crate::scenario::{Scenario, TargetSpec};
use machine::{Goal, Probe, Search};
use outcome::{Watched, judge};
use scale::Scaling;

/// A warm-up that turned out to be too short becomes at least so much longer.
const WARM_UP_MORE: Duration = Duration::from_secs(2);
/// And at most this long.
const WARM_UP_MAX: Duration = Duration::from_secs(60);

/// What to search.
#[derive(Debug)]
pub struct Ask<'a> {
    /// The question, its measurement phase as long as the search's window.
    pub scenario: &'a Scenario,
    /// Which of its rates.
    pub scaling: Scaling,
    /// What is looked for.
    pub goal: Goal,
    /// Folder of the search; `None`: one of its own beneath `results/runs`.
    pub out: Option<&'a Path>,
    /// The command that repeats it.
    pub command: String,
    /// How the progress of each run is shown.
    pub progress: Mode,
}

/// What a search tells while it goes on.
#[derive(Clone, Copy, Debug)]
pub enum News<'a> {
    /// A run begins: its number, its rate, why it is made, how long it measures.
    Begins(u32, &'a Probe, Duration),
    /// A run has ended.
    Ended(&'a ProbeResult),
}

/// A search that has ended.
#[derive(Debug)]
pub struct Ended {
    /// What it found.
    pub result: SearchResult,
    /// Its folder.
    pub folder: PathBuf,
    /// The signal that ended it early.
    pub signal: Option<i32>,
}

/// Why a search came to nothing.
#[derive(Debug)]
pub enum SearchError {
    /// Its folder cannot be written, or is taken.
    Folder(BundleError),
    /// The operating system refuses a thread or a runtime.
    System(std::io::Error),
    /// A run came to nothing; what was found before is kept.
    Run(RunError),
    /// The page cannot be drawn.
    Report(String),
}

impl fmt::Display for SearchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(error) => error.fmt(f),
            Self::System(error) => write!(f, "the operating system refuses a thread: {error}"),
            Self::Run(error) => error.fmt(f),
            Self::Report(why) => write!(f, "the page cannot be drawn: {why}"),
        }
    }
}

impl std::error::Error for SearchError {}

impl From<std::io::Error> for SearchError {
    fn from(error: std::io::Error) -> Self {
        Self::System(error)
    }
}

impl From<BundleError> for SearchError {
    fn from(error: BundleError) -> Self {
        Self::Folder(error)
    }
}

/// Searches. `stop` ends it early and keeps what it has.
///
/// # Errors
/// See [`SearchError`].
pub fn search(
    ask: &Ask<'_>,
    stop: &Arc<Stop>,
    tell: &mut dyn FnMut(News<'_>),
) -> Result<Ended, SearchError> {
    let runtime = listening(stop)?;
    let mut hunt = Hunt::begin(ask)?;
    let mut machine = Search::new(ask.goal);
    let mut done = Ok(());
    while let Some(probe) = machine.next() {
        if stop.signal().is_some() {
            break;
        }
        match hunt.probe(probe, stop, tell) {
            Ok(Some(outcome)) => machine.took(outcome),
            Ok(None) => break,
            Err(error) => {
                done = Err(error);
                break;
            }
        }
        hunt.write()?;
    }
    drop(runtime);
    hunt.finish(&machine, stop, done)
}

/// Listens for signals from now on, in all runs and between them.
///
/// # Errors
/// The operating system refuses.
pub fn listening(stop: &Arc<Stop>) -> std::io::Result<tokio::runtime::Runtime> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async { stop.listen() })?;
    Ok(runtime)
}

/// The id and the folder of a search or a sweep, called `what`: the named one, or one of its own.
///
/// # Errors
/// The folder holds something already.
pub fn place(
    what: &str,
    scenario: &Scenario,
    out: Option<&Path>,
    clock: &dyn Clock,
) -> Result<(String, PathBuf), SearchError> {
    let started = clock.origin();
    let since_1970 = started.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let nonce = Chance::of(scenario.seed, std::process::id().into(), nanos(since_1970)).bits();
    let id = folder::run_id(started, &format!("{what}-{}", scenario.name), nonce);
    let folder = match out {
        Some(out) => out.to_owned(),
        None => folder::runs_root(&std::env::current_dir()?).join(&id),
    };
    if is_occupied(&folder) {
        return Err(BundleError::Occupied(folder).into());
    }
    Ok((id, folder))
}

/// A seed of its own for the n-th run, from 0: repeated chance would confirm itself. A fleet keeps its seed, from
/// which its people follow; its runs draw chance of their own.
#[must_use]
pub fn seed_of(scenario: &Scenario, n: u32) -> u64 {
    match scenario.target {
        TargetSpec::Remote(_) => scenario.seed,
        // TOML's integers end at 2^63.
        _ => scenario.seed.wrapping_add(n.into()) & (u64::MAX >> 1),
    }
}

/// The runs of a search.
struct Hunt<'a> {
    ask: &'a Ask<'a>,
    folder: PathBuf,
    watched: Watched,
    warm_up: Duration,
    /// The warm-up was made longer already.
    extended: bool,
    result: SearchResult,
}

impl<'a> Hunt<'a> {
    fn begin(ask: &'a Ask<'a>) -> Result<Self, SearchError> {
        let clock: Arc<dyn Clock> = SystemClock::start()?;
        let (search_id, folder) = place("search", ask.scenario, ask.out, &*clock)?;
        let watched = Watched::of(ask.scenario);
        let Goal { from, least, most, precision, window, confirmation, runs_max } = ask.goal;
        let scenario = ask.scenario;
        let result = SearchResult {
            schema_version: SEARCH_VERSION,
            search_id,
            folder: folder.display().to_string(),
            scenario: scenario.name.clone(),
            question: scenario.question.clone(),
            seed: scenario.seed,
            target: String::new(),
            hsm: None,
            scaled: ask.scaling.words.clone(),
            rules: outcome::in_words(scenario, &watched),
            operation: watched.operation.clone(),
            statistic: watched.statistic.name().to_owned(),
            goal: SearchGoal {
                from_per_s: from,
                least_per_s: least,
                most_per_s: most,
                precision: precision - 1.0,
                window_s: window.as_secs_f64(),
                confirm_s: confirmation.as_secs_f64(),
                runs_max,
            },
            started_at: folder::rfc3339(clock.origin()),
            state: State::Running,
            cut_short: false,
            answer: None,
            probes: Vec::new(),
            notes: notes(scenario),
            provenance: host::provenance(clock.source(), ask.command.clone()),
        };
        let warm_up = scenario.phases.warm_up;
        let hunt = Self { ask, folder, watched, warm_up, extended: false, result };
        hunt.write()?;
        Ok(hunt)
    }

    /// Makes one run. `None`: it says nothing, and there are to be no more.
    fn probe(
        &mut self,
        probe: Probe,
        stop: &Arc<Stop>,
        tell: &mut dyn FnMut(News<'_>),
    ) -> Result<Option<machine::Outcome>, SearchError> {
        let number = u32::try_from(self.result.probes.len()).unwrap_or(u32::MAX).saturating_add(1);
        let mut scenario = self.ask.scaling.at(self.ask.scenario, probe.rate);
        scenario.seed = seed_of(self.ask.scenario, number - 1);
        scenario.phases.warm_up = self.warm_up;
        scenario.phases.measure = self.window(&scenario, probe);
        tell(News::Begins(number, &probe, scenario.phases.measure));
        let bundle = format!("probes/{number:02}-{}-{}", probe.purpose.name(), short(probe.rate));
        let out = self.folder.join(&bundle);
        let job = Job {
            scenario: &scenario,
            out: Some(&out),
            command: format!("{} # probe {number}", self.ask.command),
            progress: self.ask.progress,
        };
        let done = run::run(&job, stop).map_err(SearchError::Run)?;
        let judged = judge(&done, &self.watched, !self.extended);
        let Done { run, .. } = done;
        if self.result.target.is_empty() {
            self.result.target.clone_from(&run.target);
            self.result.hsm.clone_from(&run.hsm);
        }
        let result = ProbeResult {
            number,
            bundle,
            purpose: probe.purpose.name().to_owned(),
            rate_per_s: probe.rate,
            warm_up_s: self.warm_up.as_secs_f64(),
            window_s: run.measured_s,
            seed: scenario.seed,
            outcome: judged.shown,
            reasons: judged.reasons,
            verdict: run.verdict,
            offered_per_s: run.offered_per_s,
            achieved_per_s: run.achieved_per_s,
            slos: run.slos.clone(),
            response_ns: response_ns(&run),
        };
        tell(News::Ended(&result));
        self.result.probes.push(result);
        if judged.shown == ProbeOutcome::Settling {
            self.extend();
        }
        if run.verdict == Some(Verdict::Violated) {
            self.result.answer = Some(violated(&run, probe.rate));
            return Ok(None);
        }
        Ok(judged.outcome)
    }

    /// As long as the search's window, or as the rules need at this rate.
    fn window(&mut self, scenario: &Scenario, probe: Probe) -> Duration {
        let Some(need) = window::needed(scenario).filter(|need| need.window > probe.window) else {
            return probe.window;
        };
        let window = need.window.min(window::WINDOW_MAX);
        self.note(format!(
            "runs measure for longer than {} where a rule needs it, up to {}: {}",
            exact_duration(self.ask.goal.window),
            exact_duration(window::WINDOW_MAX),
            need.why
        ));
        window
    }

    fn extend(&mut self) {
        let longer = (self.warm_up * 2).max(self.warm_up + WARM_UP_MORE).min(WARM_UP_MAX);
        self.extended = true;
        self.note(format!(
            "the warm-up was too short: from run {} on it is {} instead of {}",
            self.result.probes.len() + 1,
            format_duration(nanos(longer.max(self.warm_up))),
            format_duration(nanos(self.warm_up))
        ));
        self.warm_up = longer.max(self.warm_up);
    }

    fn note(&mut self, note: String) {
        if !self.result.notes.contains(&note) {
            self.result.notes.push(note);
        }
    }

    fn write(&self) -> Result<(), SearchError> {
        let html =
            search_html(&self.result).map_err(|error| SearchError::Report(error.to_string()))?;
        Ok(write_search(&self.folder, &self.result, &html)?)
    }

    fn finish(
        mut self,
        machine: &Search,
        stop: &Stop,
        done: Result<(), SearchError>,
    ) -> Result<Ended, SearchError> {
        let signal = stop.signal();
        let (held, failed) = machine.bracket();
        if self.result.answer.is_none() {
            self.result.answer = Some(match (machine.found(), &done) {
                (Some(found), _) => words::answer(found, &self.result.probes),
                (None, Err(error)) => words::stopped(held, failed, &error.to_string()),
                (None, Ok(())) => {
                    let runs = machine.runs();
                    let why = match signal {
                        Some(2) => "interrupted (SIGINT)",
                        Some(15) => "terminated (SIGTERM)",
                        _ => "ended",
                    };
                    let after =
                        format!("{why} after {runs} whole run{}", if runs == 1 { "" } else { "s" });
                    words::stopped(held, failed, &after)
                }
            });
        }
        self.result.state = State::Finished;
        self.result.cut_short = machine.found().is_none() && signal.is_some();
        if self.result.probes.iter().any(|probe| probe.window_s < 8.0) {
            self.note(
                "windows of less than 8 s are too short to see whether a run was steady at its end"
                    .to_owned(),
            );
        }
        self.write()?;
        done?;
        let signal = signal.filter(|_| self.result.cut_short);
        Ok(Ended { result: self.result, folder: self.folder, signal })
    }
}

fn violated(run: &Run, rate: f64) -> Answer {
    let rate = format_rate(rate);
    let begun = format!("the vault violated what it promises, at {rate}: the search ends here");
    Answer {
        kind: AnswerKind::Violated,
        rate_per_s: None,
        above_per_s: None,
        words: std::iter::once(begun).chain(run.reasons.iter().cloned()).collect(),
    }
}

/// What holds for every run of a search on this target.
fn notes(scenario: &Scenario) -> Vec<String> {
    let accounts = format_count(scenario.population.accounts);
    match scenario.target {
        TargetSpec::Embedded { .. } => vec![format!(
            "each run brings up a vault of its own and registers {accounts} accounts before it measures: no \
             run inherits another's state, and the registering takes its time"
        )],
        TargetSpec::Remote(_) => vec![
            "all runs meet one fleet: what one left behind (queues, tables to merge) the next one finds"
                .to_owned(),
        ],
        TargetSpec::Simulated { .. } => {
            vec!["the target is a model under a simulated clock; each run has a seed of its own".to_owned()]
        }
        TargetSpec::Null | TargetSpec::Stalled { .. } => Vec::new(),
    }
}

/// A rate in a folder's name.
fn short(rate: f64) -> String {
    if rate >= 10.0 { format!("{rate:.0}") } else { format!("{rate:.2}") }
}
