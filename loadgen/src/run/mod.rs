//! One run: a scenario, a target, the instrument between them, and a bundle at the end.
//!
//! The order of things: the instrument tells on itself, the target comes up, the bundle is begun,
//! the population registers, load is offered, the verdict falls. Whatever goes wrong after the
//! bundle was begun leaves a bundle that says so.

mod connections;
mod embedded;
mod faults;
mod lean;
mod ledger;
mod limits;
pub mod measure;
pub mod populate;
pub mod progress;
mod remote;
mod signals;
mod words;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use vaultmark_dashboards::{self as dashboards, ReportInput};
use vaultmark_hsm::{Clock, Moment, SimulatedClock, SystemClock, clock::nanos};
use vaultmark_results::bundle::{Bundle, BundleError, BundleWriter, Second};
use vaultmark_results::model::{Instrument, Run, SCHEMA_VERSION, State};
use vaultmark_results::slo::Time;
use vaultmark_results::totals::{Terms, Totals, Validity};
use vaultmark_results::{folder, units};
use vaultmark_targets::null::NullTarget;
use vaultmark_targets::simulated::{Model, SimulatedTarget};
use vaultmark_targets::stalled::{StalledTarget, Stalls};
use vaultmark_targets::{Operation, Target};

use crate::engine::{GuessCheck, Plan};
use crate::innocence::{self, TruthRun};
use crate::recorder::{self, IntervalSet};
use crate::scenario::{Scenario, TargetSpec};
use crate::{chance::Chance, host};

pub use embedded::TargetError;
use faults::{Injection, Mark};
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
    let scenario = job.scenario;
    if matches!(scenario.target, TargetSpec::Simulated { .. }) {
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
    bench.tell_on_itself()?;
    match &scenario.target {
        TargetSpec::Null => bench.measure(&NullTarget),
        TargetSpec::Stalled { stall, every, first } => {
            let start = clock.now().after(LEAD);
            let first = start.after(scenario.phases.warm_up).after(*first);
            let stalls = Stalls { first, length: *stall, every: *every };
            let target = StalledTarget::new(Arc::clone(&clock), stalls, 0);
            bench.start = Some(start);
            bench.measure(&target)
        }
        TargetSpec::Embedded { .. } => embedded::run(bench, &runtime),
        TargetSpec::Remote(spec) => remote::run(bench, spec, &runtime),
        TargetSpec::Simulated { .. } => simulated(job, stop),
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

    /// Offers the load to a target that needs nothing else.
    fn measure<T: Target>(mut self, target: &T) -> Result<Done, RunError> {
        let writer = self.begin()?;
        let start = self.start.unwrap_or_else(|| self.clock.now().after(LEAD));
        let around =
            Around { check: GuessCheck::Off, injection: Injection::none(), group_of: &|_| 0 };
        let load = self.offer(target, writer, start, around)?;
        self.finish(load)
    }

    /// Offers the load.
    fn offer<T: Target>(
        &mut self,
        target: &T,
        mut writer: BundleWriter,
        start: Moment,
        around: Around<'_>,
    ) -> Result<Offered, RunError> {
        // Only where a core is to spare (a vault on this machine needs them all), and only where time
        // goes by while one spins.
        let target_spec = &self.job.scenario.target;
        let alone = matches!(target_spec, TargetSpec::Null | TargetSpec::Stalled { .. });
        let spin = alone && host::cores() > 1;
        let mut plan = Plan::of(self.job.scenario, start, 0, 1, spin);
        plan.check = around.check;
        plan.watch = faults::windows(&self.job.scenario.faults, &plan);
        let measured = (plan.measure_start(), plan.measure_end());
        let mut totals = Totals::new(self.terms.clone());
        let mut marks: Vec<Mark> = Vec::new();
        let mut seconds = Vec::new();
        let stolen = if self.simulated { None } else { host::processors() };
        let mut cpu = CpuOfMeasure { last: host::process_cpu(), sum: Duration::ZERO };
        let stop = Arc::clone(&self.stop);
        let clock = Arc::clone(&self.clock);
        let (run, progress) = (&mut self.run, &mut self.progress);
        let each = |set: &IntervalSet| -> Result<(), RunError> {
            let interval = set.lend(start, measured);
            for mark in around.injection.news() {
                writer.mark(&mark.mark)?;
                keep(&mut marks, mark);
            }
            totals.add(&interval);
            let second = writer.interval(&interval)?;
            cpu.add(interval.measured, interval.length);
            progress.step(|| second_in_words(&second, &plan));
            seconds.push(second);
            Ok(())
        };
        let effort = if self.simulated {
            measure::here(&plan, target, &clock, &stop.flag, each)?
        } else {
            measure::threads(&plan, target, &clock, &stop.flag, each)?
        };
        for mark in around.injection.news() {
            writer.mark(&mark.mark)?;
            keep(&mut marks, mark);
        }
        run.cut_short = effort.ended_at < plan.end();
        let ended_at = effort.ended_at;
        let load = (start, plan.phases);
        faults::tell_recoveries(&mut marks, &effort.trace, load, ended_at, around.group_of);
        run.faults = marks.into_iter().map(|mark| mark.mark).collect();
        run.violations.clone_from(&effort.found.violations);
        run.violations_count = effort.found.count;
        run.warnings.extend(blind_spots(&effort));
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
        instrument.steal_share =
            stolen.zip(host::processors()).and_then(|(a, b)| a.stolen_until(b));
        instrument.stalls = effort.stalls.count;
        instrument.longest_stall_ns =
            (effort.stalls.count > 0).then(|| nanos(effort.stalls.longest));
        instrument.waited_for_account = effort.waited_for_account;
        if !self.simulated && !totals.measured().is_zero() {
            let sum = cpu.sum.as_secs_f64();
            instrument.process_cpu_share = Some(sum / totals.measured().as_secs_f64());
            instrument.crypto_share = self.bare.and_then(|bare| crypto_share(&totals, bare, sum));
        }
        Ok(Offered { writer, totals, seconds })
    }

    /// Writes down that it was stopped before any load was offered.
    fn stopped(mut self, writer: BundleWriter) -> Result<Done, RunError> {
        self.run.cut_short = true;
        let totals = Totals::new(self.terms.clone());
        self.finish(Offered { writer, totals, seconds: Vec::new() })
    }

    /// Judges and writes everything down.
    fn finish(mut self, offered: Offered) -> Result<Done, RunError> {
        let Offered { writer, totals, seconds } = offered;
        self.run.state = State::Finished;
        totals.summarise(&mut self.run);
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

/// A run's load, offered.
struct Offered {
    writer: BundleWriter,
    totals: Totals,
    seconds: Vec<Second>,
}

/// Processor time of the process during the measurement phase, second by second.
struct CpuOfMeasure {
    last: Duration,
    sum: Duration,
}

impl CpuOfMeasure {
    /// An interval has ended, of which `measured` lay in the measurement phase.
    fn add(&mut self, measured: Duration, length: Duration) {
        let now = host::process_cpu();
        let spent = now.saturating_sub(self.last);
        self.last = now;
        if !length.is_zero() {
            self.sum += spent.mul_f64(measured.as_secs_f64() / length.as_secs_f64());
        }
    }
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

/// Replaces the mark of a fault that is now undone, or adds it.
fn keep(marks: &mut Vec<Mark>, mark: Mark) {
    match marks.iter_mut().find(|one| one.index == mark.index) {
        Some(known) => *known = mark,
        None => marks.push(mark),
    }
    marks.sort_by_key(|mark| mark.injected);
}
