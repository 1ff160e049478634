//! A process that is one of several workers of a run: it takes its part of the scenario, measures as any run does, keeps
//! a bundle of its own, and hands every second on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use vaultmark_hsm::{Clock, Moment, SystemClock, clock::nanos};
use vaultmark_results::model::Run;
use vaultmark_results::{Interval, Shape, folder, wire};

use super::measure::Effort;
use super::progress::{Mode, Progress};
use super::{Bench, Done, Job, Part, RunError, Stop, TargetError, on_target};
use crate::arrival::Share;
use crate::scenario::{RemoteSpec, Scenario, ScenarioFile, TargetSpec};
use crate::workers::{JoinOptions, Joined, LinkError, Summary, Welcome, join};

/// What a worker is told by whoever starts it; the rest comes from the coordinator.
#[derive(Clone, Debug)]
pub struct PartJob {
    /// How it comes to its run.
    pub join: JoinOptions,
    /// The fleet's client file here, where it is another than the scenario says.
    pub client_file: Option<PathBuf>,
    /// Folder of its bundle; `None`: one of its own beneath `results/runs`.
    pub out: Option<PathBuf>,
    /// The command that was given.
    pub command: String,
    /// How progress is shown.
    pub progress: Mode,
}

/// A worker's part, done.
#[derive(Debug)]
pub struct PartOf {
    /// The run.
    pub run_id: String,
    /// Its number.
    pub worker: u64,
    /// What it recorded itself.
    pub done: Done,
}

/// Joins a run, does its part, and hands everything over.
///
/// # Errors
/// There is no run for it, it cannot begin, or it lost the coordinator: what it recorded until then is kept.
pub fn work(job: &PartJob, stop: &Arc<Stop>) -> Result<PartOf, RunError> {
    let done = worked(job, stop);
    match (done, stop.signal()) {
        (Err(RunError::Stopped(_)), Some(signal)) => Err(RunError::Stopped(signal)),
        (done, _) => done,
    }
}

fn worked(job: &PartJob, stop: &Arc<Stop>) -> Result<PartOf, RunError> {
    let clock: Arc<dyn Clock> = SystemClock::start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async { stop.listen() })?;
    let mut progress = Progress::new(job.progress, Arc::clone(&clock));
    let JoinOptions { name, nats, .. } = &job.join;
    progress.say(&format!("worker \"{name}\" asks {} for a run", nats.url));
    let joined = join(job.join.clone(), &clock, stop)?;
    let Welcome { run_id, worker, workers, .. } = joined.welcome().clone();
    progress.say(&format!("worker {} of {workers} of run {run_id}", worker + 1));
    let mut part = OnePart {
        joined,
        start: None,
        beside: workers,
        folder: PathBuf::new(),
        stop: Arc::clone(stop),
    };
    let measured = measured(job, &mut part, &clock, (stop, &runtime));
    match measured {
        Ok(done) => {
            let handed_over = part.joined.finish();
            handed_over.map_err(|error| kept(error, &done.folder))?;
            Ok(PartOf { run_id, worker, done })
        }
        Err(error) => {
            part.joined.fail(&error.to_string());
            Err(error)
        }
    }
}

fn measured(
    job: &PartJob,
    part: &mut OnePart,
    clock: &Arc<dyn Clock>,
    (stop, runtime): (&Arc<Stop>, &tokio::runtime::Runtime),
) -> Result<Done, RunError> {
    let Welcome { run_id, worker, workers, scenario, .. } = part.joined.welcome().clone();
    let scenario = understand(&scenario, job.client_file.as_deref())?;
    let name = format!("{run_id}-worker-{worker}");
    let out = match &job.out {
        Some(out) => out.clone(),
        None => folder::runs_root(&std::env::current_dir()?).join(&name),
    };
    let job = Job {
        scenario: &scenario,
        out: Some(&out),
        command: job.command.clone(),
        progress: job.progress,
    };
    part.folder.clone_from(&out);
    let mut bench = Bench::new(&job, clock, stop)?;
    bench.run.run_id = name;
    bench.run.target = format!("{} (worker {} of {workers})", bench.run.target, worker + 1);
    // Whether they hold is told of all workers together.
    bench.terms.rules.clear();
    bench.part = Some(part);
    bench.tell_on_itself()?;
    on_target(bench, runtime)
}

/// The scenario that the coordinator sent, as it is here: its files have to be.
fn understand(text: &str, client_file: Option<&Path>) -> Result<Scenario, RunError> {
    let file = ScenarioFile::parse("the coordinator's scenario", text);
    let resolved = file.and_then(ScenarioFile::resolve);
    let mut scenario = resolved.map_err(|mistakes| {
        RunError::Workers(format!("this worker cannot do it:\n{}", mistakes.render(false)))
    })?;
    if let (Some(file), TargetSpec::Remote(spec)) = (client_file, &scenario.target) {
        let fleet = Some(file.display().to_string());
        scenario.target = TargetSpec::Remote(RemoteSpec {
            fleet,
            url: spec.url.clone(),
            elsewhere: spec.elsewhere,
        });
    }
    if let TargetSpec::Remote(spec) = &scenario.target {
        super::remote::Fleet::find(spec).map_err(|error| {
            RunError::Fleet(TargetError::other(&format!(
                "{}; every worker needs the fleet's client file: copy it here, and name it with --client-file",
                error.why()
            )))
        })?;
    }
    Ok(scenario)
}

/// Words for somebody whose results did not reach the coordinator.
fn kept(error: LinkError, folder: &Path) -> RunError {
    match RunError::from(error) {
        RunError::Workers(why) => RunError::Workers(format!(
            "{why}; what this worker recorded is kept in {}",
            folder.display()
        )),
        other => other,
    }
}

/// The one part.
struct OnePart {
    joined: Joined,
    start: Option<Moment>,
    beside: u64,
    folder: PathBuf,
    stop: Arc<Stop>,
}

impl Part for OnePart {
    fn share(&self) -> Share {
        let Welcome { worker, workers, .. } = *self.joined.welcome();
        Share { worker, workers }
    }

    fn beside(&self) -> u64 {
        self.beside
    }

    fn fresh(&self) -> bool {
        self.joined.welcome().fresh.unwrap_or(false)
    }

    fn wait_for_start(&mut self) -> Result<Moment, RunError> {
        let (start, beside) = self.joined.wait_for_start()?;
        (self.start, self.beside) = (Some(start), beside);
        Ok(start)
    }

    fn interval(&mut self, interval: &Interval<'_>, shape: &Shape) -> Result<(), RunError> {
        let sent = self.joined.interval(|| wire::encode(interval, shape));
        sent.map_err(|error| kept(error, &self.folder))
    }

    fn ended(&mut self, effort: &Effort, run: &mut Run) -> Result<(), RunError> {
        let start = self.start.unwrap_or_default();
        let ns = |time: Duration| nanos(time);
        let summary = Summary {
            intervals: 0,
            ended_at_ns: ns(effort.ended_at.since(start)),
            length_ns: ns(effort.length),
            cpu_ns: effort.cpu.map(ns),
            spun_ns: ns(effort.spun),
            throttled_ns: effort.throttled.map(ns),
            waited_for_account: effort.waited_for_account,
            unretried: effort.unretried,
            stalls: effort.stalls.count,
            longest_stall_ns: ns(effort.stalls.longest),
            steal_share: run.instrument.steal_share,
            violations: effort.found.violations.clone(),
            violations_count: effort.found.count,
            unchecked: effort.found.unchecked,
            coordination_ns: 0,
            lean: run.instrument.lean,
            null_cost_ns: run.instrument.null_cost_ns,
            stall_truth: run.instrument.stall_truth,
            signal: self.stop.signal(),
        };
        let told = self.joined.last(&effort.trace, start, summary);
        // What it recorded is worth something only beside what the others did.
        run.verdict = None;
        let Welcome { run_id, worker, workers, .. } = self.joined.welcome();
        run.reasons = vec![format!(
            "this is what worker {} of {workers} of run {run_id} recorded: the verdict is the coordinator's",
            worker + 1
        )];
        told.map_err(|error| kept(error, &self.folder))
    }
}
