//! The instrument's own figures.

use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use vaultmark::chance::Chance;
use vaultmark::guesses::{Ended, Guesses};
use vaultmark::host;
use vaultmark::innocence::{self, TruthRun};
use vaultmark::recorder::{Exchange, IntervalSet, Recorder, Sample};
use vaultmark::scenario::{Popularity, Population};
use vaultmark_hsm::{Moment, Suite, clock::nanos};
use vaultmark_results::Phase;
use vaultmark_targets::{Evidence, Operation, Outcome, Reply, Stage, bare};

use crate::{Lab, RUNS};

/// How far the reported response p90 is from the truth, in percent of it. Any loss is a failure.
pub(crate) fn truth_1s(lab: &Lab) -> Result<Vec<f64>, String> {
    let run = TruthRun {
        rate: 1_000.0,
        length: Duration::from_secs(5),
        stall: Duration::from_secs(1),
        stall_at: Duration::from_secs(2),
        in_flight: 32,
    };
    let mut off = Vec::new();
    for number in 1..=RUNS {
        let truth = innocence::truth(&lab.clock, run).map_err(|error| error.to_string())?;
        let (real, said) = (float(truth.p90.truth_p90_ns), float(truth.p90.response_p90_ns));
        let percent = (said - real).abs() / real * 100.0;
        lab.say(&format!(
            "run {number}: truth p90 {:.1} ms, response p90 {:.1} ms ({percent:.2} % off), service p90 {:.3} ms; {} intended, {} lost, {} waited for room",
            real / 1e6,
            said / 1e6,
            float(truth.p90.service_p90_ns) / 1e6,
            truth.intended,
            truth.lost,
            truth.waited_for_room,
        ));
        if truth.lost > 0 || truth.intended != 5_000 {
            return Err(format!("{} of {} arrivals were lost", truth.lost, truth.intended));
        }
        off.push(percent);
    }
    Ok(off)
}

/// How late the 99th of a hundred arrivals is, at 20,000 a second, in microseconds. The sending thread has one
/// core, which nothing else wants, and whoever collects has another one where there is one: as in a run.
pub(crate) fn dispatch_delay(lab: &Lab) -> Result<Vec<f64>, String> {
    const RATE: f64 = 20_000.0;
    const LENGTH: Duration = Duration::from_secs(5);
    let us = |ns: u64| float(ns) / 1e3;
    let mut runs = Vec::new();
    for number in 1..=RUNS {
        let spinning = innocence::lateness(&lab.clock, RATE, LENGTH).map_err(|e| e.to_string())?;
        let parking = on_one_core(|| innocence::lateness(&lab.clock, RATE, LENGTH))?
            .map_err(|error| error.to_string())?;
        let words = |late: &innocence::Lateness| {
            format!(
                "late by p50 {:.1} us, p99 {:.1} us, {:.1} us at most; {:.0} % of a core",
                us(late.p50_ns),
                us(late.p99_ns),
                us(late.max_ns),
                100.0 * late.cpu_share
            )
        };
        lab.say(&format!(
            "run {number}: {}; on a core that it shares with whoever collects, without spinning: {}",
            words(&spinning),
            words(&parking)
        ));
        runs.push(us(spinning.p99_ns));
    }
    Ok(runs)
}

/// Does something on one core only, threads that it begins included.
pub(crate) fn on_one_core<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let everywhere = sched_getaffinity(None).map_err(|error| error.to_string())?;
    let mut here = CpuSet::new();
    let first = (0..CpuSet::MAX_CPU).find(|cpu| everywhere.is_set(*cpu)).ok_or("no processor")?;
    here.set(first);
    sched_setaffinity(None, &here).map_err(|error| error.to_string())?;
    let done = work();
    sched_setaffinity(None, &everywhere).map_err(|error| error.to_string())?;
    Ok(done)
}

/// Processor time of one operation of the null target.
pub(crate) fn null_cost(lab: &Lab) -> Result<Vec<f64>, String> {
    let mut runs = Vec::new();
    for number in 1..=RUNS {
        let cost =
            innocence::null_cost(&lab.clock, 2_000_000).map_err(|error| error.to_string())?;
        lab.say(&format!("run {number}: {} ns an operation, 2,000,000 operations", nanos(cost)));
        runs.push(float(nanos(cost)));
    }
    Ok(runs)
}

/// Swaps nothing: the cost of a second's exchange is in `null-cost`.
struct Keep;

impl Exchange for Keep {
    fn exchange(&mut self, full: Box<IntervalSet>) -> Box<IntervalSet> {
        full
    }

    fn last(&mut self, full: Box<IntervalSet>) {
        drop(full);
    }
}

/// Operations of one pass.
const RECORDED: u32 = 1_000_000;

/// Recording one operation with all its stages, while 32 (operation, outcome) pairs are live.
///
/// Stages are kept of operations that ended as expected, which only four pairs do. So each of those
/// is recorded in turn with one of the other 28, and what the others cost by themselves is taken
/// off: alone they find warmer caches, so too little is taken off rather than too much.
pub(crate) fn record_cost(lab: &Lab) -> Result<Vec<f64>, String> {
    let pairs = |expected: bool| {
        [Phase::Measure, Phase::CoolDown].into_iter().flat_map(move |phase| {
            Operation::ALL.into_iter().flat_map(move |operation| {
                let outcomes = Outcome::ALL.into_iter();
                let chosen = outcomes.filter(move |one| {
                    (phase == Phase::Measure && operation.expects(*one)) == expected
                });
                chosen.map(move |outcome| (phase, operation, outcome))
            })
        })
    };
    let with_stages: Vec<_> = pairs(true).collect();
    let others: Vec<_> = pairs(false).take(32 - with_stages.len()).collect();
    let mut runs = Vec::new();
    for number in 1..=RUNS {
        let alone = pass(&[&others], number as u64);
        let both = pass(&[&with_stages, &others], number as u64);
        let cost = (nanos(both).saturating_sub(nanos(alone))) / u64::from(RECORDED);
        lab.say(&format!(
            "run {number}: {cost} ns an operation with stages ({} pairs), {} ns without ({} pairs), {RECORDED} of each",
            with_stages.len(),
            nanos(alone) / u64::from(RECORDED),
            others.len(),
        ));
        runs.push(float(cost));
    }
    Ok(runs)
}

type Pair = (Phase, Operation, Outcome);

/// Processor time of recording one operation of each kind in turn, [`RECORDED`] times.
fn pass(kinds: &[&[Pair]], seed: u64) -> Duration {
    let measure_end = Moment::from_nanos(u64::MAX / 2);
    let mut recorder = Recorder::new(Keep, Moment::ZERO, Moment::ZERO, measure_end);
    let mut chance = Chance::of(1, 2, seed);
    // Samples are drawn beforehand, spread as times of a vault are: 0.06 to 12 ms in all.
    let mut draw = |pairs: &[Pair]| -> Vec<(Pair, Reply, u64)> {
        let samples = (0..4_096).map(|_| {
            let pair = pairs[usize::try_from(chance.below(pairs.len() as u64)).unwrap_or(0)];
            let mut reply = Reply::of(pair.2);
            for stage in Stage::ALL {
                reply.stages.add(stage, Duration::from_nanos(10_000 + chance.below(2_000_000)));
            }
            let total_ns = reply.stages.total_ns();
            (pair, reply, total_ns)
        });
        samples.collect()
    };
    let samples: Vec<Vec<(Pair, Reply, u64)>> = kinds.iter().map(|pairs| draw(pairs)).collect();
    let begin = host::thread_cpu();
    for turn in 0..RECORDED {
        for kind in &samples {
            let ((phase, operation, _), reply, service_ns) = &kind[turn as usize % kind.len()];
            let intended = Moment::from_nanos(u64::from(turn) * 1_000);
            let sent = intended.after(Duration::from_nanos(800 + service_ns % 4_096));
            let completed = sent.after(Duration::from_nanos(*service_ns));
            let (phase, operation) = (*phase, *operation);
            recorder.ended(&Sample { phase, operation, intended, sent, completed, reply });
        }
    }
    host::thread_cpu().saturating_sub(begin)
}

/// Accounts of the population that the checker is measured over: more than any cache holds.
const CHECKED_ACCOUNTS: u64 = 1_000_000;

/// Processor time of checking the guess bound of one recovery, in percent of what the generator spends
/// on it at the least: half of opaque-ke's bare steps, of which its client has more than the server.
pub(crate) fn checker_cost(lab: &Lab) -> Result<Vec<f64>, String> {
    let population = Population {
        accounts: CHECKED_ACCOUNTS,
        popularity: Popularity::Uniform,
        concurrent_attempts: false,
    };
    let verified =
        Evidence { evaluated: true, finish_sent: true, verified: true, ..Evidence::default() };
    let mut runs = Vec::new();
    for number in 1..=RUNS {
        let bare = bare::costs(Suite::Ristretto255Sha512, 200, host::thread_cpu).recover;
        let mut guesses = Guesses::new(&population, true, Moment::ZERO);
        let begin = host::thread_cpu();
        for turn in 0..u64::from(RECORDED) {
            let account = Chance::of(number as u64, 3, turn).below(CHECKED_ACCOUNTS);
            let ticket = guesses.sent(Operation::Recover, account);
            let ended = Ended {
                number: turn,
                operation: Operation::Recover,
                account,
                sent: Moment::from_nanos(turn * 1_000),
                completed: Moment::from_nanos(turn * 1_000 + 500),
                outcome: Outcome::Complete,
                seen: verified,
            };
            if guesses.ended(&ended, ticket) {
                return Err("a vault that did nothing wrong is accused".to_owned());
            }
        }
        let each = nanos(host::thread_cpu().saturating_sub(begin)) / u64::from(RECORDED);
        let percent = float(each) / (float(nanos(bare)) / 2.0) * 100.0;
        lab.say(&format!(
            "run {number}: {each} ns an operation over {CHECKED_ACCOUNTS} accounts, dice included; bare steps of a recovery {:.1} us ({percent:.3} %)",
            float(nanos(bare)) / 1e3,
        ));
        runs.push(percent);
    }
    Ok(runs)
}

/// A count or a time as a double; below 2⁵³ it is exact.
#[expect(clippy::cast_precision_loss, reason = "nanoseconds of seconds")]
pub(crate) const fn float(n: u64) -> f64 {
    n as f64
}
