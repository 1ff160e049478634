//! Workers under a simulated clock, whose messages are repeated, shuffled and lost on the way.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;
use vaultmark_hsm::{Clock, SimulatedClock};
use vaultmark_results::{Terms, Totals, Validity};
use vaultmark_targets::simulated::{Model, SimulatedTarget};

use super::*;
use crate::recorder;
use crate::run::measure;
use crate::scenario::ScenarioFile;
use crate::workers::messages::write;

const SCENARIO: &str = r#"
version = 1
name = "shared"
[target]
kind = "null"
[population]
accounts = 1_000
[phases]
warm_up = "1s"
measure = "4s"
cool_down = "1s"
[[load]]
name = "people"
arrival = { kind = "poisson", rate = "150/s" }
mix = { recover = 6, recover-wrong = 3, register = 1 }
[[load]]
name = "clock"
arrival = { kind = "constant", rate = "40/s" }
mix = { recover = 1 }
"#;

fn plan(workers: u64) -> Plan {
    let scenario = ScenarioFile::parse("shared.toml", SCENARIO).unwrap().resolve().unwrap();
    Plan::of(&scenario, Moment::ZERO, 0, workers, false)
}

/// What one worker says: its seconds, then its last words.
fn messages(plan: &Plan) -> Vec<Vec<u8>> {
    let clock: Arc<dyn Clock> = SimulatedClock::start();
    let mean = Duration::from_millis(5);
    let model = Model { servers: 64, mean, sigma: 0.5, failures: 0.05 };
    let target = SimulatedTarget::new(Arc::clone(&clock), plan.worker, model);
    let measure = (plan.measure_start(), plan.measure_end());
    let shape = recorder::shape(true);
    let mut bodies = Vec::new();
    let effort = measure::here(plan, &target, &clock, &AtomicBool::new(false), |set| {
        bodies.push((Kind::Interval, wire::encode(&set.lend(plan.start, measure), &shape)));
        Ok::<(), ()>(())
    })
    .unwrap();
    let ended_at_ns = nanos(effort.ended_at.since(plan.start));
    let intervals = u32::try_from(bodies.len()).unwrap();
    let summary = Summary { intervals, ended_at_ns, ..Summary::default() };
    bodies.push((Kind::Summary, write(&summary)));
    let worker = u32::try_from(plan.worker).unwrap();
    let frame = |(number, (kind, body)): (u32, &(Kind, Vec<u8>))| {
        Frame::split(*kind, worker, number, body).unwrap()[0].encode()
    };
    (0..).zip(&bodies).map(frame).collect()
}

fn all_messages(workers: u64) -> Vec<Vec<Vec<u8>>> {
    (0..workers).map(|worker| messages(&Plan { worker, ..plan(workers) })).collect()
}

fn totals() -> Totals {
    Totals::new(Terms {
        shape: recorder::shape(true),
        rules: Vec::new(),
        validity: Validity {
            unsent_share_max: 1.0,
            lateness_floor_ns: u64::MAX,
            lateness_share_max: 1.0,
            throttled_share_max: 1.0,
            goes_on_without_lost_workers: false,
        },
    })
}

/// Adds up every second that is ready, and checks that they follow each other.
fn drain(assembly: &mut Assembly, totals: &mut Totals, until: &mut Duration, last: bool) {
    let measure = (Duration::from_secs(1), Duration::from_secs(5));
    loop {
        let next = if last { assembly.last_seconds() } else { assembly.next_second() };
        let Some(second) = next else { return };
        assert_eq!(second.start, *until, "no gap and no overlap");
        *until = second.end();
        totals.add(&second.lend(measure));
    }
}

/// Counts of the measurement phase by operation: intended, ended in each way.
fn counted(totals: &Totals) -> Vec<(u64, Vec<(String, u64)>)> {
    let shape = recorder::shape(true);
    let of = |operation: &String| {
        let outcomes = shape.outcomes.iter().filter_map(|outcome| {
            let times = totals.times(operation, outcome)?;
            Some((outcome.clone(), times.response.len()))
        });
        let intended = totals.intended(operation, vaultmark_results::slo::Time::Response);
        (intended.map_or(0, |(_, intended)| intended), outcomes.collect())
    };
    shape.operations.iter().map(of).collect()
}

#[test]
fn the_union_is_the_same_however_many_share_it() {
    let mut first = None;
    for workers in [1, 2, 4] {
        let mut assembly =
            Assembly::new(plan(workers), recorder::shape(true), LostWorkers::Invalid);
        let (mut sums, mut until) = (totals(), Duration::ZERO);
        for own in all_messages(workers) {
            for message in own {
                assert_eq!(assembly.take(&message), News::New);
            }
        }
        drain(&mut assembly, &mut sums, &mut until, false);
        assert!(assembly.is_over());
        drain(&mut assembly, &mut sums, &mut until, true);
        assert!(sums.measured() == Duration::from_secs(4));
        let intended: Vec<u64> = counted(&sums).iter().map(|(intended, _)| *intended).collect();
        assert_eq!(intended, *first.get_or_insert(intended.clone()), "{workers} workers");
        let merged = assembly.finish();
        assert_eq!(merged.ended_at, plan(1).end());
        assert!(merged.workers.iter().all(|one| one.lost_at_s.is_none() && one.samples > 100));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is repeated and in whatever order messages come, sums are the same; and of whoever dies all that is
    /// left of its share is unsent, to the arrival.
    #[test]
    fn nothing_is_lost_and_nothing_counts_twice(
        order in prop::collection::vec((0_usize..3, 0_usize..12), 0..200),
        dead in prop::option::of((0_usize..3, 0_usize..6)),
        goes_on in any::<bool>(),
    ) {
        let lost_workers = if goes_on { LostWorkers::GoOn } else { LostWorkers::Invalid };
        let all = all_messages(3);
        let mut assembly = Assembly::new(plan(3), recorder::shape(true), lost_workers);
        let (mut sums, mut until) = (totals(), Duration::ZERO);
        let told = |worker: usize| match dead {
            Some((who, after)) if who == worker => after,
            _ => all[worker].len(),
        };
        let rest = (0..3).flat_map(|worker| (0..all[worker].len()).map(move |at| (worker, at)));
        for (worker, at) in order.iter().copied().chain(rest) {
            if at < told(worker) {
                let news = assembly.take(&all[worker][at]);
                prop_assert!(news != News::Bad);
                drain(&mut assembly, &mut sums, &mut until, false);
            }
        }
        if let Some((worker, _)) = dead {
            prop_assert!(!assembly.is_over());
            assembly.lose(worker, "it was killed");
            assembly.lose(worker, "once");
            prop_assert_eq!(assembly.take(&all[worker][told(worker)]), News::Old);
        }
        prop_assert!(assembly.is_over());
        drain(&mut assembly, &mut sums, &mut until, false);
        drain(&mut assembly, &mut sums, &mut until, true);

        // The same without anything on the way.
        let (mut whole, mut kept) = (totals(), totals());
        let measure = (Duration::from_secs(1), Duration::from_secs(5));
        for (worker, own) in all.iter().enumerate() {
            for (at, message) in own.iter().enumerate() {
                let frame = Frame::decode(message).unwrap();
                if frame.kind == Kind::Interval {
                    let interval = wire::decode(frame.bytes, &recorder::shape(true)).unwrap();
                    whole.add(&interval.lend(measure));
                    if at < told(worker) {
                        kept.add(&interval.lend(measure));
                    }
                }
            }
        }
        let merged = assembly.finish();
        let (whole, kept, sums) = (counted(&whole), counted(&kept), counted(&sums));
        let intended = |of: &[(u64, Vec<(String, u64)>)]| of.iter().map(|one| one.0).collect::<Vec<u64>>();
        let ended = |of: &[(u64, Vec<(String, u64)>)]| of.iter().map(|one| one.1.clone()).collect::<Vec<_>>();
        prop_assert_eq!(ended(&sums), ended(&kept), "what was told is there, once");
        let left = intended(&whole).iter().sum::<u64>() - intended(&kept).iter().sum::<u64>();
        prop_assert_eq!(merged.workers.iter().map(|one| one.unsent).sum::<u64>(), left);
        if goes_on {
            prop_assert_eq!(intended(&sums), intended(&kept), "less was offered");
        } else {
            prop_assert_eq!(intended(&sums), intended(&whole), "its share is counted");
        }
        for (worker, one) in merged.workers.iter().enumerate() {
            prop_assert_eq!(one.lost_at_s.is_some(), dead.is_some_and(|(who, _)| who == worker));
        }
    }
}
