//! The instrument tells on itself: before every run it measures, in the very process that will
//! measure, what one operation costs when the target does nothing, and what it reports of a target
//! whose true response times are known.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hdrhistogram::Histogram;
use vaultmark_hsm::{Clock, Suite, clock::nanos};
use vaultmark_results::hist;
use vaultmark_results::model::StallTruth;
use vaultmark_results::phase::Phase;
use vaultmark_targets::null::NullTarget;
use vaultmark_targets::stalled::{StalledTarget, Stalls};
use vaultmark_targets::{Operation, bare};

use crate::engine::{GuessCheck, Plan};
use crate::host;
use crate::recorder::IntervalSet;
use crate::run::measure;
use crate::scenario::{
    Arrival, Client, Fidelity, Load, LoadPopulation, Phases, Popularity, Population,
};

/// Operations of the null run: at some 300 ns each, a tenth of a second.
pub const NULL_OPERATIONS: u64 = 300_000;

/// Operations of each kind for the bare steps: some 0.2 s, and no clock tick in the figure.
const BARE_ROUNDS: u32 = 100;

/// A ground truth: what a stalled target knew, what the instrument said, and what was lost.
#[derive(Clone, Copy, Debug)]
pub struct Truth {
    /// The quantiles, side by side.
    pub p90: StallTruth,
    /// Arrivals intended.
    pub intended: u64,
    /// Of those, not answered.
    pub lost: u64,
    /// Of those, arrivals that waited for room in flight.
    pub waited_for_room: u64,
}

/// Parameters of a ground truth.
#[derive(Clone, Copy, Debug)]
pub struct TruthRun {
    /// Arrivals a second.
    pub rate: f64,
    /// Length of the run.
    pub length: Duration,
    /// Length of its one stall.
    pub stall: Duration,
    /// Start of the stall, from the start of the run.
    pub stall_at: Duration,
    /// Most operations in flight.
    pub in_flight: u32,
}

impl TruthRun {
    /// The one before every run: a second, a fifth of which is a stall.
    pub const BEFORE_A_RUN: Self = Self {
        rate: 1_000.0,
        length: Duration::from_millis(1_000),
        stall: Duration::from_millis(200),
        stall_at: Duration::from_millis(400),
        in_flight: 32,
    };
}

/// Processor time of one operation of the null target: schedule, dispatch, record.
///
/// # Errors
/// The operating system refuses a thread.
pub fn null_cost(clock: &Arc<dyn Clock>, operations: u64) -> Result<Duration, std::io::Error> {
    // Everything is due at once, so that no waiting is in the figure: what is left is the path.
    let length = Duration::from_nanos(operations * 10);
    let mut plan = plan(clock, 1e8, length, 1_024);
    plan.loads[0].mix =
        vec![(Operation::Register, 5), (Operation::Recover, 90), (Operation::RecoverWrong, 5)];
    let stop = AtomicBool::new(false);
    let mut ended = 0;
    let effort = measure::threads(&plan, &NullTarget, clock, &stop, |set| {
        ended += set.cells().map(|(.., cell)| cell.response.len()).sum::<u64>();
        Ok::<(), std::io::Error>(())
    })?;
    if ended != operations {
        return Err(std::io::Error::other(format!("{ended} of {operations} operations ended")));
    }
    let cpu = effort.cpu.unwrap_or_default();
    Ok(Duration::from_nanos(nanos(cpu) / ended.max(1)))
}

/// Offers a load to a target that stalls once, and compares.
///
/// # Errors
/// The operating system refuses a thread.
pub fn truth(clock: &Arc<dyn Clock>, run: TruthRun) -> Result<Truth, std::io::Error> {
    let mut plan = plan(clock, run.rate, run.length, run.in_flight);
    plan.start = clock.now().after(Duration::from_millis(5));
    let first = plan.start.after(run.stall_at);
    let stalls = Stalls { first, length: run.stall, every: None };
    let target = StalledTarget::new(Arc::clone(clock), stalls, 16_384);
    let stop = AtomicBool::new(false);
    let mut response = hist::new_histogram();
    let mut service = hist::new_histogram();
    let (mut intended, mut waited_for_room) = (0, 0);
    measure::threads(&plan, &target, clock, &stop, |set| {
        add(set, &mut response, &mut service);
        let counts = set.counts(Phase::Measure, Operation::Recover);
        intended += counts.intended;
        waited_for_room += counts.waited_for_room;
        Ok::<(), std::io::Error>(())
    })?;
    let mut truth = hist::new_histogram();
    for line in target.log() {
        hist::record(&mut truth, nanos(line.answered.since(line.intended)));
    }
    let p90 = |histogram: &Histogram<u64>| hist::quantile(histogram, 0.9).unwrap_or(0);
    let quantiles = StallTruth {
        truth_p90_ns: p90(&truth),
        response_p90_ns: p90(&response),
        service_p90_ns: p90(&service),
    };
    let lost = intended - response.len().min(intended);
    Ok(Truth { p90: quantiles, intended, lost, waited_for_room })
}

/// How late arrivals were sent that had room.
#[derive(Clone, Copy, Debug)]
pub struct Lateness {
    /// Of half of them at most.
    pub p50_ns: u64,
    /// Of 99 in 100 at most.
    pub p99_ns: u64,
    /// Of the latest.
    pub max_ns: u64,
    /// Processor time that sending took, over the time that went by; spinning included.
    pub cpu_share: f64,
}

/// Offers a constant rate to the null target, from one thread, and says how late that was.
///
/// # Errors
/// The operating system refuses a thread, or arrivals were not sent.
pub fn lateness(
    clock: &Arc<dyn Clock>,
    rate: f64,
    length: Duration,
) -> Result<Lateness, std::io::Error> {
    let mut plan = plan(clock, rate, length, 1_024);
    // The worker's memory is touched before it begins.
    plan.start = clock.now().after(Duration::from_millis(400));
    let stop = AtomicBool::new(false);
    let (mut late, mut unsent) = (hist::new_histogram(), 0);
    let effort = measure::threads(&plan, &NullTarget, clock, &stop, |set| {
        late.add(&set.lateness).expect("all histograms have one shape");
        unsent += set.counts(Phase::Measure, Operation::Recover).unsent_instrument;
        Ok::<(), std::io::Error>(())
    })?;
    if unsent > 0 {
        return Err(std::io::Error::other(format!("{unsent} arrivals were not sent")));
    }
    let quantile = |q| hist::quantile(&late, q).unwrap_or(0);
    let cpu = effort.cpu.unwrap_or_default().as_secs_f64();
    let cpu_share = cpu / length.as_secs_f64();
    Ok(Lateness { p50_ns: quantile(0.5), p99_ns: quantile(0.99), max_ns: late.max(), cpu_share })
}

/// Processor time that opaque-ke's bare client and server steps take for each operation, by place in
/// [`Operation::ALL`], stretching included where the scenario's clients really stretch. Lean clients do
/// other steps than opaque-ke's: nothing is to be held against these.
#[must_use]
pub fn bare_costs(suite: Suite, client: &Client) -> [Duration; 3] {
    let costs = bare::costs(suite, BARE_ROUNDS, host::thread_cpu);
    let stretching = bare::stretching_cost(client.stretching, 1, host::thread_cpu);
    let known = match client.fidelity {
        Fidelity::Full => stretching,
        Fidelity::Cached | Fidelity::Lean => Duration::ZERO,
    };
    [costs.register + stretching, costs.recover + known, costs.recover_wrong + known]
}

fn add(set: &IntervalSet, response: &mut Histogram<u64>, service: &mut Histogram<u64>) {
    for (phase, _, _, cell) in set.cells() {
        if phase == Phase::Measure {
            response.add(&cell.response).expect("all histograms have one shape");
            service.add(&cell.service).expect("all histograms have one shape");
        }
    }
}

/// A plan that measures from its first instant to its last.
fn plan(clock: &Arc<dyn Clock>, rate: f64, length: Duration, in_flight: u32) -> Plan {
    let load = Load {
        name: "self-test".to_owned(),
        arrival: Arrival::Constant { rate },
        mix: vec![(Operation::Recover, 1)],
        retry: None,
        population: LoadPopulation::default(),
        in_flight,
        backlog: 1_000_000,
    };
    Plan {
        seed: 1,
        worker: 0,
        workers: 1,
        start: clock.now(),
        phases: Phases { warm_up: Duration::ZERO, measure: length, cool_down: Duration::ZERO },
        loads: vec![load],
        population: Population {
            accounts: 100_000,
            popularity: Popularity::Uniform,
            concurrent_attempts: false,
        },
        timeout: Duration::from_secs(60),
        spin: host::cores() > 1,
        check: GuessCheck::Off,
        watch: Vec::new(),
    }
}
