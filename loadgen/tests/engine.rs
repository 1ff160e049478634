//! The engine under a simulated clock: nothing is lost, and what is reported is what was.

use std::convert::Infallible;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hdrhistogram::Histogram;
use vaultmark::engine::{GuessCheck, Plan};
use vaultmark::run::measure;
use vaultmark::scenario::{
    Arrival, Closed, Load, LoadPopulation, Phases, Popularity, Population, Ramping, Retry, Think,
};
use vaultmark_hsm::{Clock, Moment, SimulatedClock};
use vaultmark_results::{Phase, hist};
use vaultmark_targets::null::NullTarget;
use vaultmark_targets::simulated::{Model, SimulatedTarget};
use vaultmark_targets::stalled::{StalledTarget, Stalls};
use vaultmark_targets::{Operation, Outcome, Reply, Request, Target};

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
fn everybody_is_counted_where_nobody_is_answered_and_many_wait() {
    for (in_flight, backlog, timeout) in [(8, 50, 500), (1, 100, 300), (50, 50, 900)] {
        let (clock, target) = simulated(fixed(1, ms(3_600_000)));
        let load = load(100.0, in_flight, backlog);
        let seen = run(&plan(vec![load], measured(ms(1_000)), ms(timeout)), &target, &clock);
        assert_eq!(seen.intended, 100);
        let ended = seen.complete + seen.failed + seen.timed_out;
        assert_eq!(ended + seen.no_room + seen.instrument, 100, "{seen:?}");
    }
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
        assert!((20..47).contains(&seen.complete), "{}", seen.complete);
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

fn closed(users: u32, think: Duration, in_flight: u32) -> Load {
    let ramping = Ramping::UpDown { up: Some(Duration::ZERO), down: Duration::ZERO };
    let think = Think::Fixed(think);
    let closed = Closed { users, think, iterations: None, ramping };
    Load { arrival: Arrival::Closed(closed), ..load(1.0, in_flight, users) }
}

#[test]
fn virtual_users_ask_as_fast_as_they_are_answered() {
    // Ten users, 10 ms and 90 ms: a hundred a second. None is ever late, so response is service time.
    let (clock, target) = simulated(fixed(1_000, ms(10)));
    let plan = plan(vec![closed(10, ms(90), 10)], measured(ms(10_000)), ms(1_000));
    let seen = run(&plan, &target, &clock);
    assert_eq!((seen.intended, seen.complete, seen.waited), (1_000, 1_000, 0));
    assert_eq!(seen.response, seen.service);
    assert!(close(seen.response.max(), ms(10)));

    // One server of 100 ms serves ten a second, whoever waits; the others ask less, and nobody sees it.
    let (clock, target) = simulated(fixed(1, ms(100)));
    let seen = run(&plan, &target, &clock);
    assert!(seen.intended.abs_diff(109) <= 1, "{seen:?}");
    assert!(seen.response.max() < 1_001_000_000, "{}", seen.response.max());
}

#[test]
fn virtual_users_go_on_after_what_was_not_answered() {
    // Nobody is answered in time: each user asks anew after 500 ms and 100 ms of thinking.
    let (clock, target) = simulated(fixed(1_000, ms(60_000)));
    let plan = plan(vec![closed(10, ms(100), 10)], measured(ms(6_000)), ms(500));
    let seen = run(&plan, &target, &clock);
    assert_eq!((seen.intended, seen.timed_out), (100, 100));
    // Room for three of ten, none to wait: who is turned away thinks and comes again.
    let mut plan = plan;
    plan.loads = vec![Load { backlog: 0, ..closed(10, ms(100), 3) }];
    let (clock, target) = simulated(fixed(1_000, ms(300)));
    let seen = run(&plan, &target, &clock);
    assert_eq!(seen.intended, seen.complete + seen.no_room);
    assert!(seen.complete > 40 && seen.no_room > 300, "{seen:?}");
}

/// Answers at once, and keeps what it was asked: number, operation, account, nanoseconds.
#[derive(Debug)]
struct Asked {
    clock: Arc<dyn Clock>,
    asked: Mutex<Vec<(u64, Operation, u64, u64)>>,
}

impl Asked {
    fn by(plan: &Plan) -> Vec<(u64, Operation, u64, u64)> {
        let clock: Arc<dyn Clock> = SimulatedClock::start();
        let target = Self { clock: Arc::clone(&clock), asked: Mutex::default() };
        let seen = run(plan, &target, &clock);
        assert_eq!((seen.no_room, seen.instrument), (0, 0), "{seen:?}");
        target.asked.into_inner().expect("no test panics within")
    }
}

impl Target for Asked {
    fn perform(&self, request: Request) -> impl Future<Output = Reply> + Send + 'static + use<> {
        let Request { operation, account, number, intended } = request;
        let mut asked = self.asked.lock().expect("no test panics within");
        asked.push((number, operation, account, intended.as_nanos()));
        let wrong = operation == Operation::RecoverWrong;
        let outcome = if wrong { Outcome::Refused } else { Outcome::Complete };
        let (clock, end) = (Arc::clone(&self.clock), self.clock.now().after(ms(1)));
        async move {
            clock.sleep_until(end).await;
            Reply::of(outcome)
        }
    }
}

const MIX: [(Operation, u32); 3] =
    [(Operation::Register, 1), (Operation::Recover, 8), (Operation::RecoverWrong, 3)];

/// However many workers share a run, together they ask what one of them alone would have: the same number
/// the same of the same account at the same instant.
#[test]
fn a_run_that_is_split_is_the_same_run() {
    let retry = Some(Retry { tries: 4, right: 0.5, after: Think::Between(ms(5), ms(500)) });
    let mixed = |arrival| Load { arrival, mix: MIX.to_vec(), retry, ..load(1.0, 10_000, 10_000) };
    let loads = vec![
        mixed(Arrival::Poisson { rate: 60.0 }),
        Load { retry: None, ..mixed(Arrival::Constant { rate: 40.0 }) },
        mixed(Arrival::Steps { rates: vec![10.0, 50.0], each: None }),
        mixed(Arrival::Burst {
            base: 5.0,
            peak: 80.0,
            at: ms(2_000),
            rise: ms(500),
            half_life: ms(700),
        }),
    ];
    let mut plan = plan(loads, measured(ms(10_000)), ms(1_000));
    // So many that nobody ever draws the account of somebody who is about to try again.
    plan.population.accounts = 1_000_000_000;
    let mut whole = Asked::by(&plan);
    whole.sort_unstable();
    assert!(whole.len() > 1_500, "{}", whole.len());
    assert_eq!(whole, {
        let mut again = Asked::by(&plan);
        again.sort_unstable();
        again
    });
    for workers in [2, 3, 5] {
        let mut parts = Vec::new();
        for worker in 0..workers {
            (plan.worker, plan.workers) = (worker, workers);
            let part = Asked::by(&plan);
            let share = u64::try_from(part.len()).unwrap() * workers;
            assert!(share.abs_diff(whole.len() as u64) < whole.len() as u64 / 3, "{share}");
            parts.extend(part);
        }
        parts.sort_unstable();
        assert!(parts == whole, "{workers} workers");
    }
}

#[test]
fn who_is_refused_tries_again_with_an_account_of_their_own() {
    let after = Think::Mean(ms(300));
    let retry = Some(Retry { tries: 4, right: 0.4, after });
    let wrong = vec![(Operation::RecoverWrong, 1)];
    let load = Load { mix: wrong, retry, ..load(50.0, 1_000, 1_000) };
    let mut plan = plan(vec![load], measured(ms(60_000)), ms(1_000));
    plan.population.accounts = 100;
    let asked = Asked::by(&plan);
    // By account, in the order of time: each person's attempts follow one another, numbered from 0 on.
    let mut tried = vec![None; 100];
    let mut given_up = [0_u32; 4];
    for (number, operation, account, _) in asked {
        let (person, attempt) = (number & ((1 << 56) - 1), number >> 56);
        let before = &mut tried[usize::try_from(account).unwrap()];
        match (*before, attempt) {
            (_, 0) => assert_eq!(operation, Operation::RecoverWrong),
            (Some((same, last, Operation::RecoverWrong)), _) => {
                assert_eq!((same, last + 1), (person, attempt), "account {account}");
            }
            other => panic!("account {account}: {other:?}"),
        }
        assert!(attempt < 4);
        given_up[usize::try_from(attempt).unwrap()] += 1;
        *before = Some((person, attempt, operation));
    }
    // 3,000 people; six in ten of those who try again are refused again.
    assert_eq!(given_up[0], 3_000);
    for (attempt, expected) in [(1, 3_000), (2, 1_800), (3, 1_080)] {
        assert!(given_up[attempt].abs_diff(expected) < expected / 10, "{given_up:?}");
    }
}

#[test]
fn people_who_wait_for_an_account_do_not_keep_back_who_has_it() {
    // Two accounts and ten people a second, each of whom has theirs for up to a second: the accounts are
    // nearly always somebody's, who must get to try again though others wait.
    let retry = Some(Retry { tries: 3, right: 0.0, after: Think::Fixed(ms(400)) });
    let wrong = vec![(Operation::RecoverWrong, 1)];
    let load = Load { mix: wrong, retry, ..load(10.0, 1, 1_000) };
    let mut plan = plan(vec![load], measured(ms(10_000)), ms(60_000));
    plan.population.accounts = 2;
    let asked = {
        let clock: Arc<dyn Clock> = SimulatedClock::start();
        let target = Asked { clock: Arc::clone(&clock), asked: Mutex::default() };
        run(&plan, &target, &clock);
        target.asked.into_inner().expect("no test panics within")
    };
    // Each person takes 802 ms: in ten seconds some 24 get through, with three attempts each.
    assert!((70..=78).contains(&asked.len()), "{}", asked.len());
}
