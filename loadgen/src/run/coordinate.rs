//! A run whose load is offered by workers in other processes, here or on other machines: they send, this one adds up and
//! judges.

use std::sync::Arc;
use std::time::Duration;

use vaultmark_hsm::{Clock, SystemClock};
use vaultmark_results::OwnInterval;
use vaultmark_results::model::{LeanResult, StallTruth, WorkerResult};
use vaultmark_results::units;

use super::faults::Injection;
use super::intake::Intake;
use super::measure::Effort;
use super::remote::Population;
use super::words::second_in_words;
use super::{Bench, Done, Job, RunError, Stop, TargetError};
use crate::engine::{Plan, Stalls};
use crate::guesses::Found;
use crate::scenario::TargetSpec;
use crate::workers::{
    Assembly, Coordinator, LinkError, Member, Merged, NatsOptions, Summary, Welcome,
};

/// Many workers.
#[derive(Clone, Debug)]
pub struct Many {
    /// How many.
    pub workers: u64,
    /// How to reach NATS.
    pub nats: NatsOptions,
    /// For so long they may take to come.
    pub join_timeout: Duration,
}

impl From<LinkError> for RunError {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Usage(why) => Self::Fleet(TargetError::other(&why)),
            LinkError::Failed(why) => Self::Workers(why),
            LinkError::Stopped => Self::Stopped(0),
        }
    }
}

/// Runs a scenario with workers in other processes.
///
/// # Errors
/// See [`RunError`]; what goes wrong after the start is in the run instead.
pub fn coordinate(job: &Job<'_>, many: &Many, stop: &Arc<Stop>) -> Result<Done, RunError> {
    let done = coordinated(job, many, stop);
    match (done, stop.signal()) {
        (Err(RunError::Stopped(_)), Some(signal)) => Err(RunError::Stopped(signal)),
        (done, _) => done,
    }
}

fn coordinated(job: &Job<'_>, many: &Many, stop: &Arc<Stop>) -> Result<Done, RunError> {
    let scenario = job.scenario;
    refuse(&scenario.target)?;
    let clock: Arc<dyn Clock> = SystemClock::start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async { stop.listen() })?;
    let mut bench = Bench::new(job, &clock, stop)?;
    bench.threads = many.workers;
    bench.run.instrument.workers = many.workers;
    let welcome = Welcome {
        run_id: bench.run.run_id.clone(),
        worker: 0,
        workers: many.workers,
        scenario: scenario.to_toml(),
        fresh: None,
    };
    let mut coordinator = Coordinator::open(&many.nats, welcome, &clock)?;
    // One process registers, before anybody else asks anything of the fleet.
    let population = match &scenario.target {
        TargetSpec::Remote(spec) => match Population::register(&mut bench, spec, &runtime) {
            Ok(population) => Some(population),
            Err(error) => {
                coordinator.tell_over(&error.to_string());
                return Err(error);
            }
        },
        _ => None,
    };
    let (run_id, workers, url) = (&bench.run.run_id, many.workers, &many.nats.url);
    bench.progress.say(&format!(
        "run {run_id} waits for {workers} workers at {url}: vaultmark worker --nats {url}"
    ));
    let fresh = population.as_ref().map(Population::is_fresh);
    let progress = &mut bench.progress;
    coordinator.gather(fresh, (many.join_timeout, stop), |text| progress.say(text))?;
    let start = coordinator.start()?;
    let writer = bench.begin().inspect_err(|error| coordinator.tell_over(&error.to_string()))?;
    let plan = Plan::of(scenario, start, 0, many.workers, false);
    let (measure_start, faults) = (plan.measure_start(), &scenario.faults);
    let injection = population.as_ref().map_or_else(Injection::none, |population| {
        population.inject(faults, &clock, measure_start, &runtime)
    });
    let mut intake = Intake::new(writer, bench.terms.clone(), injection);
    let lost_workers = scenario.validity.lost_workers;
    let mut assembly = Assembly::new(plan.clone(), bench.terms.shape.clone(), lost_workers);
    let progress = std::cell::RefCell::new(&mut bench.progress);
    let phases = plan.phases;
    let measured = (phases.warm_up, phases.warm_up + phases.measure);
    let each = |second: &OwnInterval| -> Result<(), RunError> {
        let second = intake.take(&second.lend(measured))?;
        progress.borrow_mut().step(|| second_in_words(second, &plan));
        Ok(())
    };
    let say = |text: &str| progress.borrow_mut().say(text);
    coordinator.collect(&mut assembly, start, plan.timeout * 2, stop, say, each)?;

    let mut merged = assembly.finish();
    let effort = effort(&merged, start);
    bench.run.workers = workers_of(&coordinator, &mut merged);
    tell_instrument(&mut bench, &merged);
    if coordinator.bad() > 0 {
        bench.run.warnings.push(format!(
            "{} messages came over NATS that none of the workers wrote, or that were damaged; they count for nothing",
            units::format_count(coordinator.bad())
        ));
    }
    let offered = intake.end(effort)?;
    let group_of = |account| population.as_ref().map_or(0, |it| it.group_of(account));
    let offered = bench.settle(offered, &plan, &group_of);
    if let Some(population) = &population {
        population.count(&mut bench, &runtime)?;
    }
    let done = bench.finish(offered)?;
    coordinator.close();
    Ok(done)
}

/// Targets that workers in other processes cannot share.
fn refuse(target: &TargetSpec) -> Result<(), RunError> {
    let why = match target {
        TargetSpec::Embedded { .. } => {
            "the embedded vault lives in one process, and other workers cannot reach it: start a fleet with \"vaultmark \
             vault up\" and run against it with --fleet fleets/three/client.toml (each worker needs that file: \
             vaultmark worker --client-file)"
        }
        TargetSpec::Simulated { .. } => {
            "a simulated target runs under a simulated clock, which processes cannot share: run it without --workers"
        }
        TargetSpec::Null | TargetSpec::Stalled { .. } | TargetSpec::Remote(_) => return Ok(()),
    };
    Err(RunError::Fleet(TargetError::other(why)))
}

/// What the workers' threads took together.
fn effort(merged: &Merged, start: vaultmark_hsm::Moment) -> Effort {
    let mut all = Effort::none();
    for one in merged.summaries.iter().flatten() {
        all.add(Effort {
            ended_at: start,
            length: Duration::from_nanos(one.length_ns),
            cpu: one.cpu_ns.map(Duration::from_nanos),
            spun: Duration::from_nanos(one.spun_ns),
            waited_for_account: one.waited_for_account,
            unretried: one.unretried,
            stalls: Stalls {
                count: one.stalls,
                longest: Duration::from_nanos(one.longest_stall_ns),
            },
            throttled: one.throttled_ns.map(Duration::from_nanos),
            found: Found {
                violations: one.violations.clone(),
                count: one.violations_count,
                unchecked: one.unchecked,
            },
            trace: crate::recovery::Trace::default(),
        });
    }
    all.ended_at = merged.ended_at;
    all.trace.merge(merged.trace.clone());
    all
}

fn workers_of(coordinator: &Coordinator, merged: &mut Merged) -> Vec<WorkerResult> {
    let told = std::mem::take(&mut merged.workers);
    let named = |(member, told): (&Member, WorkerResult)| WorkerResult {
        name: member.name.clone(),
        machine: member.machine.clone(),
        cores: member.cores,
        clock_offset_ns: member.clocks.map_or(0, |clocks| clocks.calendar_offset_ns),
        uncertainty_ns: member.clocks.map_or(0, |clocks| clocks.uncertainty_ns),
        ..told
    };
    coordinator.members().zip(told).map(named).collect()
}

/// The workers' accounts of themselves: of what cannot be added the worst.
fn tell_instrument(bench: &mut Bench<'_>, merged: &Merged) {
    let told = || merged.summaries.iter().flatten();
    let instrument = &mut bench.run.instrument;
    instrument.null_cost_ns = told().filter_map(|one| one.null_cost_ns).max();
    instrument.steal_share = told().filter_map(|one| one.steal_share).max_by(f64::total_cmp);
    let wrong = |truth: &StallTruth| truth.truth_p90_ns.abs_diff(truth.response_p90_ns);
    instrument.stall_truth = told().filter_map(|one| one.stall_truth).max_by_key(wrong);
    let lean = told().filter_map(|one: &Summary| one.lean);
    instrument.lean = lean.reduce(|one, other| LeanResult {
        full_every: one.full_every,
        lean: one.lean + other.lean,
        full: one.full + other.full,
        unknown: one.unknown + other.unknown,
        prepared: one.prepared + other.prepared,
        prepared_cpu_s: one.prepared_cpu_s + other.prepared_cpu_s,
        on_the_spot: one.on_the_spot + other.on_the_spot,
    });
}
