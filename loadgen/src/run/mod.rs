//! One run: a scenario, a target, the instrument between them, and a bundle at the end.
//!
//! The order of things: the instrument tells on itself, the target comes up, the bundle is begun,
//! the population registers, load is offered, the verdict falls. Whatever goes wrong after the
//! bundle was begun leaves a bundle that says so.

mod connections;
#[cfg(feature = "nats")]
mod coordinate;
mod embedded;
mod faults;
mod intake;
mod lean;
mod ledger;
mod limits;
pub mod measure;
#[cfg(feature = "nats")]
mod part;
pub mod populate;
pub mod progress;
mod remote;
mod signals;
mod words;

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use vaultmark_dashboards::{self as dashboards, ReportInput};
use vaultmark_hsm::{Clock, Moment, SimulatedClock, SystemClock, clock::nanos};
use vaultmark_results::bundle::{Bundle, BundleError, BundleWriter, Second};
use vaultmark_results::model::{Instrument, Run, SCHEMA_VERSION, State};
use vaultmark_results::slo::Time;
use vaultmark_results::totals::{Terms, Totals, Validity};
use vaultmark_results::{Interval, Shape, folder, units};
use vaultmark_targets::null::NullTarget;
use vaultmark_targets::simulated::{Model, SimulatedTarget};
use vaultmark_targets::stalled::{StalledTarget, Stalls};
use vaultmark_targets::{Operation, Target};

use crate::arrival::Share;
use crate::engine::{GuessCheck, Plan};
use crate::innocence::{self, TruthRun};
use crate::recorder::{self, IntervalSet};
use crate::scenario::{LostWorkers, Scenario, TargetSpec};
use crate::{chance::Chance, host};

#[cfg(feature = "nats")]
pub use coordinate::{Many, coordinate};
pub use embedded::TargetError;
use faults::Injection;
use intake::{CpuOfMeasure, Intake, Offered};
use measure::Effort;
#[cfg(feature = "nats")]
pub use part::{PartJob, PartOf, work};
use progress::{Mode, Progress};
pub use signals::Stop;
use words::{blind_spots, in_seconds, second_in_words, words_for, words_for_load};

/// From the moment the target is ready to the first intended start. The workers come up in it and
/// touch all the memory they will record into, some 150 MB: about 100 ms on a small machine.
const LEAD: Duration = Duration::from_millis(400);

/// What to run.
#[derive(Debug)]
pub struct Job<'a> {
    /// The question.
    pub scenario: &'a Scenario,
    /// Folder of the bundle; `None`: one of its own beneath `results/runs`.
    pub out: Option<&'a Path>,
    /// The command that repeats it.
    pub command: String,
    /// How progress is shown.
    pub progress: Mode,
}

/// A run that has ended.
#[derive(Debug)]
pub struct Done {
    /// What it found.
    pub run: Run,
    /// Its bundle.
    pub folder: PathBuf,
    /// How it went, interval by interval.
    pub seconds: Vec<Second>,
    /// The signal that ended it early.
    pub signal: Option<i32>,
}

/// Why a run came to nothing.
#[derive(Debug)]
pub enum RunError {
    /// The bundle cannot be written.
    Bundle(BundleError),
    /// The operating system refuses a thread or a runtime.
    System(std::io::Error),
    /// The fleet that is asked for is not there, or nobody says which; nothing was begun.
    Fleet(TargetError),
    /// The scenario asks for more than this machine has; nothing was begun.
    Machine(String),
    /// The target does not come up.
    Target(TargetError),
    /// The report cannot be drawn.
    Report(String),
    /// Workers and coordinator do not come together; nothing was measured.
    Workers(String),
    /// A signal ended it before there was anything to keep.
    Stopped(i32),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bundle(error) => error.fmt(f),
            Self::System(error) => write!(f, "the operating system refuses a thread: {error}"),
            Self::Fleet(error) => write!(f, "{}", error.why()),
            Self::Machine(why) => f.write_str(why),
            Self::Target(error) => error.fmt(f),
            Self::Report(why) => write!(f, "the report cannot be drawn: {why}"),
            Self::Workers(why) => f.write_str(why),
            Self::Stopped(signal) => write!(f, "ended by signal {signal}"),
        }
    }
}

impl std::error::Error for RunError {}

impl From<BundleError> for RunError {
    fn from(error: BundleError) -> Self {
        Self::Bundle(error)
    }
}

impl From<std::io::Error> for RunError {
    fn from(error: std::io::Error) -> Self {
        Self::System(error)
    }
}

impl From<TargetError> for RunError {
    fn from(error: TargetError) -> Self {
        Self::Target(error)
    }
}

/// Runs a scenario. `stop` ends it early.
///
/// # Errors
/// See [`RunError`].
pub fn run(job: &Job<'_>, stop: &Arc<Stop>) -> Result<Done, RunError> {
    run_on(job, 1, stop)
}

/// Runs a scenario with so many sending threads.
///
/// # Errors
/// See [`RunError`].
pub fn run_on(job: &Job<'_>, workers: u64, stop: &Arc<Stop>) -> Result<Done, RunError> {
    let scenario = job.scenario;
    if matches!(scenario.target, TargetSpec::Simulated { .. }) {
        if workers > 1 {
            let why = "--workers: a simulated target runs under a simulated clock, which one thread moves";
            return Err(RunError::Fleet(TargetError::other(why)));
        }
        return simulated(job, stop);
    }
    let mut told = None;
    if let TargetSpec::Remote(spec) = &scenario.target {
        // Before anything is measured for nothing.
        let fleet = remote::Fleet::find(spec).map_err(RunError::Fleet)?;
        told = fleet.has_room(scenario)?;
    }
    let clock: Arc<dyn Clock> = SystemClock::start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async { stop.listen() })?;
    let mut bench = Bench::new(job, &clock, stop)?;
    if let Some(told) = told {
        bench.progress.say(&told);
    }
    bench.threads = workers;
    bench.run.instrument.workers = workers;
    bench.tell_on_itself()?;
    on_target(bench, &runtime)
}

/// Brings the target up, or finds it, and measures it.
fn on_target(mut bench: Bench<'_>, runtime: &Runtime) -> Result<Done, RunError> {
    let scenario = bench.job.scenario;
    match &scenario.target {
        TargetSpec::Null => bench.measure(&NullTarget),
        TargetSpec::Stalled { stall, every, first } => {
            let start = bench.common_start()?;
            let first = start.after(scenario.phases.warm_up).after(*first);
            let stalls = Stalls { first, length: *stall, every: *every };
            let target = StalledTarget::new(Arc::clone(&bench.clock), stalls, 0);
            bench.start = Some(start);
            bench.measure(&target)
        }
        TargetSpec::Embedded { .. } => embedded::run(bench, runtime),
        TargetSpec::Remote(spec) => remote::run(bench, spec, runtime),
        TargetSpec::Simulated { .. } => unreachable!("a simulated target is run by itself"),
    }
}

/// The same engine under a simulated clock: over in no time, and the same for one seed.
fn simulated(job: &Job<'_>, stop: &Arc<Stop>) -> Result<Done, RunError> {
    let TargetSpec::Simulated { servers, mean, sigma, failures } = job.scenario.target else {
        unreachable!("only simulated targets are simulated")
    };
    let clock: Arc<dyn Clock> = SimulatedClock::start();
    let model = Model { servers, mean, sigma, failures };
    let target = SimulatedTarget::new(Arc::clone(&clock), job.scenario.seed, model);
    let mut bench = Bench::new(job, &clock, stop)?;
    bench.simulated = true;
    bench.run.hsm = None;
    bench.measure(&target)
}

/// Everything a run needs beside its target.
struct Bench<'a> {
    job: &'a Job<'a>,
    clock: Arc<dyn Clock>,
    stop: Arc<Stop>,
    progress: Progress,
    folder: PathBuf,
    run: Run,
    terms: Terms,
    /// Start of the warm-up, where the target had to know it.
    start: Option<Moment>,
    simulated: bool,
    /// Sending threads.
    threads: u64,
    /// Set in a process that is one of several workers.
    part: Option<&'a mut dyn Part>,
    /// Processor time that opaque-ke's bare steps take for each operation, by place in
    /// [`Operation::ALL`]; `None` for targets without cryptography.
    bare: Option<[Duration; 3]>,
}

impl<'a> Bench<'a> {
    fn new(job: &'a Job<'a>, clock: &Arc<dyn Clock>, stop: &Arc<Stop>) -> Result<Self, RunError> {
        let scenario = job.scenario;
        let (run_id, folder) = place(job, clock)?;
        // Before anything is measured or started for nothing.
        if folder.join("run.json").exists() {
            return Err(BundleError::Occupied(folder).into());
        }
        let cached = matches!(scenario.target, TargetSpec::Embedded { .. } | TargetSpec::Remote(_));
        let terms = Terms {
            shape: recorder::shape(!matches!(
                scenario.target,
                TargetSpec::Null | TargetSpec::Stalled { .. }
            )),
            rules: scenario.slos.clone(),
            validity: Validity {
                unsent_share_max: scenario.validity.unsent_share_max,
                lateness_floor_ns: nanos(scenario.validity.lateness_floor),
                lateness_share_max: scenario.validity.lateness_share_max,
                throttled_share_max: scenario.validity.throttled_share_max,
                goes_on_without_lost_workers: scenario.validity.lost_workers == LostWorkers::GoOn,
            },
        };
        let run = Run {
            schema_version: SCHEMA_VERSION,
            bundle: folder.display().to_string(),
            scenario: scenario.name.clone(),
            question: scenario.question.clone(),
            seed: scenario.seed,
            target: words_for(&scenario.target),
            loads: scenario.loads.iter().map(words_for_load).collect(),
            hsm: None,
            fidelity: if cached { scenario.client.fidelity.name() } else { "none" }.to_owned(),
            stretching: cached.then(|| scenario.client.stretching.describe().to_owned()),
            connections: None,
            started_at: folder::rfc3339(clock.origin()),
            state: State::Running,
            cut_short: false,
            verdict: None,
            reasons: Vec::new(),
            warnings: Vec::new(),
            slos: Vec::new(),
            measured_s: 0.0,
            offered_per_s: 0.0,
            achieved_per_s: 0.0,
            goodput_per_s: 0.0,
            unsent: 0,
            operations: std::collections::BTreeMap::new(),
            instrument: Instrument { workers: 1, ..Instrument::default() },
            workers: Vec::new(),
            device: None,
            quorum: None,
            faults: Vec::new(),
            violations: Vec::new(),
            violations_count: 0,
            errors: Vec::new(),
            provenance: host::provenance(clock.source(), job.command.clone()),
            run_id,
        };
        Ok(Self {
            job,
            clock: Arc::clone(clock),
            stop: Arc::clone(stop),
            progress: Progress::new(job.progress, Arc::clone(clock)),
            folder,
            run,
            terms,
            start: None,
            simulated: false,
            threads: 1,
            part: None,
            bare: None,
        })
    }

    /// Measures the instrument before it measures anything else.
    fn tell_on_itself(&mut self) -> Result<(), RunError> {
        self.progress.say("the instrument: null target, stalled target");
        let cost = innocence::null_cost(&self.clock, innocence::NULL_OPERATIONS)?;
        let truth = innocence::truth(&self.clock, TruthRun::BEFORE_A_RUN)?;
        self.run.instrument.null_cost_ns = Some(nanos(cost));
        self.run.instrument.stall_truth = Some(truth.p90);
        Ok(())
    }

    /// Begins the bundle.
    fn begin(&self) -> Result<BundleWriter, RunError> {
        let environment = serde_json::to_string_pretty(&self.run.provenance)
            .map_err(|error| RunError::Report(error.to_string()))?;
        let scenario = self.job.scenario.to_toml();
        let started = self.clock.origin();
        let (folder, run, terms) = (&self.folder, &self.run, &self.terms);
        let writer = BundleWriter::create(folder, run, terms, &scenario, &environment, started)?;
        if self.job.out.is_none() {
            // From the start: the latest run is this one even if it is killed.
            folder::link_latest(folder)?;
        }
        Ok(writer)
    }

    /// When the first arrival may be intended: soon, or when all workers begin.
    fn common_start(&mut self) -> Result<Moment, RunError> {
        match &mut self.part {
            Some(part) => part.wait_for_start(),
            None => Ok(self.clock.now().after(LEAD)),
        }
    }

    /// The workers that send from here.
    fn share(&self) -> (Range<u64>, u64) {
        match &self.part {
            Some(part) => {
                let Share { worker, workers } = part.share();
                (worker..worker + 1, workers)
            }
            None => (0..self.threads, self.threads),
        }
    }

    /// Offers the load to a target that needs nothing else.
    fn measure<T: Target>(mut self, target: &T) -> Result<Done, RunError> {
        let writer = self.begin()?;
        let start = match self.start {
            Some(start) => start,
            None => self.common_start()?,
        };
        let around =
            Around { check: GuessCheck::Off, injection: Injection::none(), group_of: &|_| 0 };
        let load = self.offer(target, writer, start, around)?;
        self.finish(load)
    }

    /// Offers the load.
    fn offer<T: Target>(
        &mut self,
        target: &T,
        writer: BundleWriter,
        start: Moment,
        around: Around<'_>,
    ) -> Result<Offered, RunError> {
        // Only where a core is to spare (a vault on this machine needs them all), and only where time
        // goes by while one spins.
        let target_spec = &self.job.scenario.target;
        let alone = matches!(target_spec, TargetSpec::Null | TargetSpec::Stalled { .. });
        let (own, workers) = self.share();
        let beside = self.part.as_ref().map_or(workers, |part| part.beside());
        let spin = alone && host::cores() > beside;
        let mut plan = Plan::of(self.job.scenario, start, own.start, workers, spin);
        plan.check = around.check;
        plan.watch = faults::windows(&self.job.scenario.faults, &plan);
        let measured = (plan.measure_start(), plan.measure_end());
        let stolen = if self.simulated { None } else { host::processors() };
        let mut intake = Intake::new(writer, self.terms.clone(), around.injection);
        let mut cpu = CpuOfMeasure::begin();
        let stop = Arc::clone(&self.stop);
        let clock = Arc::clone(&self.clock);
        let (part, progress, shape) = (&mut self.part, &mut self.progress, &self.terms.shape);
        let each = |set: &IntervalSet| -> Result<(), RunError> {
            let interval = set.lend(start, measured);
            let second = intake.take(&interval)?;
            cpu.add(interval.measured, interval.length);
            progress.step(|| second_in_words(second, &plan));
            // Last: what the others are told is on this disk.
            part.as_mut().map_or(Ok(()), |part| part.interval(&interval, shape))
        };
        let effort = if self.simulated {
            measure::here(&plan, target, &clock, &stop.flag, each)?
        } else {
            measure::some_threads(&plan, own, target, &clock, &stop.flag, each)?
        };
        let offered = intake.end(effort)?;
        let offered = self.settle(offered, &plan, around.group_of);
        self.run.instrument.steal_share =
            stolen.zip(host::processors()).and_then(|(a, b)| a.stolen_until(b));
        let totals = &offered.totals;
        if !self.simulated && !totals.measured().is_zero() {
            let sum = cpu.sum.as_secs_f64();
            let instrument = &mut self.run.instrument;
            instrument.process_cpu_share = Some(sum / totals.measured().as_secs_f64());
            instrument.crypto_share = self.bare.and_then(|bare| crypto_share(totals, bare, sum));
        }
        Ok(offered)
    }

    /// Writes into the run what the load came to beside its figures.
    fn settle(
        &mut self,
        mut offered: Offered,
        plan: &Plan,
        group_of: &dyn Fn(u64) -> u32,
    ) -> Offered {
        let run = &mut self.run;
        let effort = &offered.effort;
        run.cut_short = effort.ended_at < plan.end();
        let load = (plan.start, plan.phases);
        let mut marks = std::mem::take(&mut offered.marks);
        faults::tell_recoveries(&mut marks, &effort.trace, load, effort.ended_at, group_of);
        run.faults = marks.into_iter().map(|mark| mark.mark).collect();
        run.violations.clone_from(&effort.found.violations);
        run.violations_count = effort.found.count;
        run.warnings.extend(blind_spots(effort));
        if effort.waited_for_account > 0 {
            run.warnings.push(format!(
                "{} arrivals found every account of theirs with an attempt outstanding, and waited for one: \
                 the population is too small for this rate, which counts as the instrument's lateness",
                units::format_count(effort.waited_for_account)
            ));
        }
        let length = effort.length.as_secs_f64();
        let share = |time: Duration| if length > 0.0 { time.as_secs_f64() / length } else { 0.0 };
        let instrument = &mut run.instrument;
        instrument.cpu_share = effort.cpu.map(|cpu| share(cpu.saturating_sub(effort.spun)));
        instrument.spin_share = effort.cpu.map(|_| share(effort.spun));
        instrument.throttled_share = effort.throttled.map(share);
        instrument.stalls = effort.stalls.count;
        instrument.longest_stall_ns =
            (effort.stalls.count > 0).then(|| nanos(effort.stalls.longest));
        instrument.waited_for_account = effort.waited_for_account;
        offered
    }

    /// Writes down that it was stopped before any load was offered.
    fn stopped(mut self, writer: BundleWriter) -> Result<Done, RunError> {
        self.run.cut_short = true;
        let intake = Intake::new(writer, self.terms.clone(), Injection::none());
        let offered = intake.end(Effort::default())?;
        self.finish(offered)
    }

    /// Judges and writes everything down.
    fn finish(mut self, offered: Offered) -> Result<Done, RunError> {
        let Offered { writer, totals, seconds, effort, .. } = offered;
        self.run.state = State::Finished;
        totals.summarise(&mut self.run);
        if let Some(part) = &mut self.part {
            part.ended(&effort, &mut self.run)?;
        }
        let signal = self.stop.signal();
        if self.run.cut_short {
            let why = match signal {
                _ if self.run.violations_count > 0 => "a violation ends a run: it ended",
                Some(2) => "interrupted (SIGINT)",
                Some(15) => "terminated (SIGTERM)",
                _ => "stopped",
            };
            let after = in_seconds(self.run.measured_s);
            self.run.warnings.insert(0, format!("cut short: {why} after {after} of measurement"));
        }
        self.progress.end();
        let folder = writer.folder().to_owned();
        let bundle = Bundle {
            folder: folder.clone(),
            run: self.run,
            scenario_toml: self.job.scenario.to_toml(),
            series: seconds,
            totals: Some(totals),
        };
        let html = dashboards::report_html(&ReportInput::from(&bundle))
            .map_err(|error| RunError::Report(error.to_string()))?;
        writer.finish(&bundle.run, &html)?;
        Ok(Done { run: bundle.run, folder, seconds: bundle.series, signal })
    }
}

/// What goes on around a load.
struct Around<'a> {
    /// Whether guess bounds are checked.
    check: GuessCheck,
    /// What is broken on purpose.
    injection: Injection,
    /// The consensus group of an account.
    group_of: &'a dyn Fn(u64) -> u32,
}

/// What a process does beside sending that is one of several workers of a run.
trait Part {
    /// Which one it is.
    fn share(&self) -> Share;
    /// How many of them share this machine.
    fn beside(&self) -> u64;
    /// Whether the population was registered just before.
    fn fresh(&self) -> bool;
    /// Says that it is ready, and waits until it knows when all begin.
    fn wait_for_start(&mut self) -> Result<Moment, RunError>;
    /// Hands a second on.
    fn interval(&mut self, interval: &Interval<'_>, shape: &Shape) -> Result<(), RunError>;
    /// Tells the rest. The verdict is not this process's.
    fn ended(&mut self, effort: &Effort, run: &mut Run) -> Result<(), RunError>;
}

/// Processor time of the process over what opaque-ke's bare steps of the same operations take.
/// `None` where stretching or failures would make the two sides differ in what they did.
fn crypto_share(totals: &Totals, bare: [Duration; 3], cpu_s: f64) -> Option<f64> {
    let expected = |operation: Operation| totals.intended(operation.name(), Time::Response);
    let sum: f64 = Operation::ALL
        .into_iter()
        .zip(bare)
        .filter_map(|(operation, bare)| {
            let ended = expected(operation)?.0.len();
            Some(bare.as_secs_f64() * units::float(ended))
        })
        .sum();
    (sum > 0.0).then(|| cpu_s / sum)
}

/// The run's id, and the folder of its bundle: the named one, or one of its own.
fn place(job: &Job<'_>, clock: &Arc<dyn Clock>) -> Result<(String, PathBuf), RunError> {
    let started = clock.origin();
    let since_1970 = started.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    // The nonce only tells runs of one second apart; a simulated run has the same one always.
    let pid = if clock.source() == "simulated" { 0 } else { u64::from(std::process::id()) };
    let mut nonce = Chance::of(job.scenario.seed, pid, nanos(since_1970));
    let here = std::env::current_dir()?;
    loop {
        let run_id = folder::run_id(started, &job.scenario.name, nonce.bits());
        let Some(out) = job.out else {
            let folder = folder::runs_root(&here).join(&run_id);
            // Simulated runs all start at one instant: the next draw tells them apart.
            if folder.exists() {
                continue;
            }
            return Ok((run_id, folder));
        };
        return Ok((run_id, out.to_owned()));
    }
}
