//! The engine under a simulated clock: nothing is lost, and what is reported is what was.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hdrhistogram::Histogram;
use vaultmark::engine::{GuessCheck, Plan};
use vaultmark::run::measure;
use vaultmark::scenario::{Arrival, Load, LoadPopulation, Phases, Popularity, Population};
use vaultmark_hsm::{Clock, Moment, SimulatedClock};
use vaultmark_results::{Phase, hist};
use vaultmark_targets::null::NullTarget;
use vaultmark_targets::simulated::{Model, SimulatedTarget};
use vaultmark_targets::stalled::{StalledTarget, Stalls};
use vaultmark_targets::{Operation, Outcome, Target};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn load(rate: f64, in_flight: u32, backlog: u32) -> Load {
    Load {
        name: "people".to_owned(),
        arrival: Arrival::Constant { rate },
        mix: vec![(Operation::Recover, 1)],
        retry: None,
        population: LoadPopulation::default(),
        in_flight,
        backlog,
    }
}

fn plan(loads: Vec<Load>, phases: Phases, timeout: Duration) -> Plan {
    Plan {
        seed: 42,
        worker: 0,
        workers: 1,
        start: Moment::ZERO,
        phases,
        loads,
        population: Population {
            accounts: 100_000,
            popularity: Popularity::Uniform,
            concurrent_attempts: false,
        },
        timeout,
        spin: false,
        check: GuessCheck::Off,
        watch: Vec::new(),
    }
}

const fn measured(length: Duration) -> Phases {
    Phases { warm_up: Duration::ZERO, measure: length, cool_down: Duration::ZERO }
}

/// What a run came to, all intervals together, measurement phase only.
struct Seen {
    intended: u64,
    no_room: u64,
    instrument: u64,
    waited: u64,
    complete: u64,
    failed: u64,
    timed_out: u64,
    window_ended: u64,
    response: Histogram<u64>,
    service: Histogram<u64>,
    lateness: Histogram<u64>,
    intervals: u32,
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { intended, no_room, instrument, waited, complete, failed, timed_out, .. } = self;
        write!(
            f,
            "{intended} intended: {complete} complete, {failed} failed, {timed_out} timed out, "
        )?;
        write!(f, "{no_room} without room, {instrument} unsent; {waited} waited")
    }
}

fn run<T: Target>(plan: &Plan, target: &T, clock: &Arc<dyn Clock>) -> Seen {
    let mut seen = Seen {
        intended: 0,
        no_room: 0,
        instrument: 0,
        waited: 0,
        complete: 0,
        failed: 0,
        timed_out: 0,
        window_ended: 0,
        response: hist::new_histogram(),
        service: hist::new_histogram(),
        lateness: hist::new_histogram(),
        intervals: 0,
    };
    let each = |set: &vaultmark::recorder::IntervalSet| {
        for operation in Operation::ALL {
            let counts = set.counts(Phase::Measure, operation);
            seen.intended += counts.intended;
            seen.no_room += counts.unsent_no_room;
            seen.instrument += counts.unsent_instrument;
            seen.waited += counts.waited_for_room;
        }
        for (phase, _, outcome, cell) in set.cells() {
            if phase != Phase::Measure {
                continue;
            }
            match outcome {
                Outcome::Complete => seen.complete += cell.response.len(),
                Outcome::TimedOut => seen.timed_out += cell.response.len(),
                _ => seen.failed += cell.response.len(),
            }
            hist::add(&mut seen.response, &cell.response);
            hist::add(&mut seen.service, &cell.service);
        }
        hist::add(&mut seen.lateness, &set.lateness);
        seen.window_ended += set.window.ended;
        seen.intervals += 1;
        Ok::<(), Infallible>(())
    };
    let Ok(_effort) = measure::here(plan, target, clock, &AtomicBool::new(false), each);
    // The law of conservation: what was intended ended somehow or was counted as unsent.
    let ended = seen.complete + seen.failed + seen.timed_out;
    assert_eq!(seen.intended, ended + seen.no_room + seen.instrument, "{seen:?}");
    seen
}

fn simulated(model: Model) -> (Arc<dyn Clock>, SimulatedTarget) {
    let clock: Arc<dyn Clock> = SimulatedClock::start();
    let target = SimulatedTarget::new(Arc::clone(&clock), 42, model);
    (clock, target)
}

fn fixed(servers: u32, mean: Duration) -> Model {
    Model { servers, mean, sigma: 0.0, failures: 0.0 }
}

fn close(measured: u64, truth: Duration) -> bool {
    let truth = u64::try_from(truth.as_nanos()).expect("a time of a test");
    // Three significant digits.
    measured.abs_diff(truth) <= truth / 500 + 1
}

#[test]
fn a_target_with_room_answers_everything_in_its_service_time() {
    let (clock, target) = simulated(fixed(4, ms(5)));
    let seen =
        run(&plan(vec![load(100.0, 64, 100)], measured(ms(10_000)), ms(1_000)), &target, &clock);
    assert_eq!((seen.intended, seen.complete, seen.waited), (1_000, 1_000, 0));
    assert!(close(hist::quantile(&seen.response, 1.0).unwrap(), ms(5)), "{seen:?}");
    assert_eq!(seen.lateness.max(), 0, "a simulated instrument is never late");
    assert_eq!(seen.window_ended, 1_000);
    assert!((10..=12).contains(&seen.intervals), "{}", seen.intervals);
}

#[test]
fn what_waits_behind_a_stall_is_counted_from_its_intended_start() {
    // 1,000/s for 5 s, one stall of 1 s, 32 in flight allowed: every arrival of that second waits
    // for its end, 500 ms at the median of them, so p90 of all is 500 ms.
    let clock: Arc<dyn Clock> = SimulatedClock::start();
    let first = Moment::ZERO.after(ms(2_000));
    let stalls = Stalls { first, length: ms(1_000), every: None };
    let target = StalledTarget::new(Arc::clone(&clock), stalls, 8_192);
    let plan = plan(vec![load(1_000.0, 32, 10_000)], measured(ms(5_000)), ms(10_000));
    let seen = run(&plan, &target, &clock);
    assert_eq!((seen.intended, seen.complete), (5_000, 5_000));
    assert_eq!(seen.waited, 1_000 - 32);
    let p90 = hist::quantile(&seen.response, 0.9).unwrap();
    assert!(close(p90, ms(500)), "{p90}");
    // What a closed loop would have said: only those in flight during the stall were slow.
    assert_eq!(hist::quantile(&seen.service, 0.9), Some(0));
    assert_eq!(target.log().len(), 5_000);
}

#[test]
fn a_saturated_target_leaves_waiting_and_unsent_arrivals_not_missing_ones() {
    // One server of 10 ms serves 100/s; 200/s are offered.
    for (in_flight, backlog, seconds) in [(8, 50, 10), (1, 0, 5), (1, 1, 5), (1_000, 0, 5)] {
        let (clock, target) = simulated(fixed(1, ms(10)));
        let length = ms(1_000 * seconds);
        let seen = run(
            &plan(vec![load(200.0, in_flight, backlog)], measured(length), ms(60_000)),
            &target,
            &clock,
        );
        assert_eq!(seen.intended, 200 * seconds);
        assert!(seen.window_ended.abs_diff(100 * seconds) <= 1, "{seen:?}");
        let room = u64::from(in_flight + backlog);
        let unsent = (100 * seconds).saturating_sub(room);
        assert!(seen.no_room.abs_diff(unsent) <= 2, "{seen:?}");
        assert_eq!(seen.instrument, 0);
    }
}

#[test]
fn an_operation_without_an_answer_times_out() {
    let (clock, target) = simulated(fixed(100, ms(2_000)));
    let seen =
        run(&plan(vec![load(10.0, 100, 100)], measured(ms(1_000)), ms(500)), &target, &clock);
    assert_eq!((seen.intended, seen.timed_out), (10, 10));
    assert_eq!(seen.window_ended, 0, "a timeout is no completion");
    assert!(close(seen.response.max(), ms(500)));
}

#[test]
fn failures_are_recorded_as_such() {
    let model = Model { servers: 8, mean: ms(1), sigma: 0.5, failures: 0.25 };
    let (clock, target) = simulated(model);
    let seen =
        run(&plan(vec![load(1_000.0, 64, 64)], measured(ms(10_000)), ms(500)), &target, &clock);
    // Five standard deviations.
    assert!(seen.failed.abs_diff(2_500) < 217, "{}", seen.failed);
}

#[test]
fn loads_side_by_side_keep_their_own_limits() {
    let (clock, target) = simulated(fixed(1_000, ms(100)));
    let loads = vec![load(100.0, 1, 0), load(100.0, 100, 0)];
    let seen = run(&plan(loads, measured(ms(10_000)), ms(1_000)), &target, &clock);
    assert_eq!(seen.intended, 2_000);
    // The first load has room for one at a time, 100 ms each: some ten a second get through.
    assert!(seen.no_room.abs_diff(900) <= 10, "{}", seen.no_room);
}

#[test]
fn an_account_has_one_attempt_outstanding_at_most() {
    // Ten accounts, each held for 1 s: ten a second can be served, whatever is in flight.
    let (clock, target) = simulated(fixed(1_000, ms(1_000)));
    let mut plan = plan(vec![load(100.0, 1_000, 0)], measured(ms(10_000)), ms(5_000));
    plan.population.accounts = 10;
    let seen = run(&plan, &target, &clock);
    assert!(seen.complete.abs_diff(100) <= 10, "{}", seen.complete);
    // There was room in flight all the time: what was not sent is not the target's doing.
    assert_eq!((seen.no_room, seen.instrument), (0, 1_000 - seen.complete));

    plan.population.concurrent_attempts = true;
    let (clock, target) = simulated(fixed(1_000, ms(1_000)));
    assert_eq!(run(&plan, &target, &clock).complete, 1_000);
}

#[test]
fn workers_share_a_run_without_overlap() {
    // Each worker's part, run one after the other: together they are the whole.
    let mut whole = 0;
    for worker in 0..3 {
        let (clock, target) = simulated(fixed(1_000, ms(1)));
        let mut plan = plan(vec![load(99.0, 30, 30)], measured(ms(1_000)), ms(500));
        (plan.worker, plan.workers) = (worker, 3);
        let seen = run(&plan, &target, &clock);
        assert_eq!(seen.complete, 33);
        whole += seen.complete;
    }
    assert_eq!(whole, 99);
}

#[test]
fn a_phase_lasts_as_long_as_it_was_said_to() {
    // Arrivals at 0 and 3.3 s of 6 s: the quiet rest belongs to the measurement.
    let (clock, target) = simulated(fixed(1, ms(1)));
    let seen = run(&plan(vec![load(0.3, 1, 1)], measured(ms(6_000)), ms(500)), &target, &clock);
    assert_eq!((seen.intended, seen.complete), (2, 2));
    assert!(clock.now() >= Moment::ZERO.after(ms(6_000)), "{:?}", clock.now());
}

#[test]
fn an_engine_that_is_behind_still_sends_everything() {
    // A thousand arrivals in a microsecond, more than it sends in a turn: when their phase is over
    // most of them are still due.
    let clock: Arc<dyn Clock> = SimulatedClock::start();
    let length = Duration::from_micros(1);
    let start = Moment::ZERO.after(ms(1));
    let mut plan = plan(vec![load(1e9, 2_000, 0)], measured(length), ms(500));
    clock.park_until(start);
    plan.start = Moment::ZERO;
    let seen = run(&plan, &NullTarget, &clock);
    assert_eq!((seen.intended, seen.complete), (1_000, 1_000));
}

#[test]
fn phases_are_told_by_intended_start() {
    let (clock, target) = simulated(fixed(1_000, ms(150)));
    let phases = Phases { warm_up: ms(1_000), measure: ms(2_000), cool_down: ms(500) };
    let seen = run(&plan(vec![load(100.0, 1_000, 0)], phases, ms(500)), &target, &clock);
    assert_eq!((seen.intended, seen.complete), (200, 200));
    // By the clock as many ended within the phase: those of the warm-up that came over make up for
    // those that came too late.
    assert_eq!(seen.window_ended, 200);
}
