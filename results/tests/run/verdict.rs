//! What a run is worth, and in which words.

use std::time::Duration;

use vaultmark_results::model::{
    ConnectionsResult, DeviceResult, FaultMark, Instrument, LoadResult, QuorumResult, Recovery,
    Verdict, Violation,
};
use vaultmark_results::{Phase, Run, Totals};

use crate::recorder::{Recorded, Sample, run, terms};

const MS: u64 = 1_000_000;

/// `count` recoveries that ended so, all with the same times.
fn recoveries(count: usize, outcome: usize, service_ns: u64) -> Vec<Sample> {
    let sample = Sample {
        operation: 0,
        outcome,
        phase: Phase::Measure,
        dispatch_ns: 1_000,
        service_ns,
        waited: false,
    };
    vec![sample; count]
}

/// 990 take 10 ms and 10 take 200 ms.
fn good() -> Vec<Sample> {
    [recoveries(990, 0, 10 * MS), recoveries(10, 0, 200 * MS)].concat()
}

fn judged(rules: &[&str], samples: &[Sample], change: impl FnOnce(&mut Recorded, &mut Run)) -> Run {
    let (mut recorded, mut run) = (Recorded::second(0, samples), run());
    change(&mut recorded, &mut run);
    let mut totals = Totals::new(terms(rules));
    totals.add(&recorded.lend());
    totals.summarise(&mut run);
    run
}

#[track_caller]
fn check(run: &Run, verdict: Verdict, reasons: &[&str]) {
    assert_eq!(run.verdict, Some(verdict), "{:?}", run.reasons);
    assert_eq!(run.reasons, reasons);
}

#[test]
fn a_run_whose_rules_hold_passes_and_says_by_how_much() {
    let run = judged(&["recover.response.p99 < 250ms"], &good(), |_, _| {});
    check(
        &run,
        Verdict::Pass,
        &["the SLO holds: recover.response.p99 is 10.0 ms, the limit is 250 ms: 96.0 % to spare"],
    );
    let rules =
        ["recover.response.max < 250ms", "run.achieved >= 98%", "recover.unexpected < 0.1%"];
    let run = judged(&rules, &good(), |_, _| {});
    check(
        &run,
        Verdict::Pass,
        &["all 3 SLOs hold; the closest: run.achieved is 100 %, the limit is 98.0 %: 2.04 % to \
           spare"],
    );
    let run = judged(&[], &good(), |_, _| {});
    check(&run, Verdict::Pass, &["no SLO was set; the instrument was on time"]);
}

#[test]
fn a_broken_rule_fails_with_limit_figure_and_margin() {
    let run = judged(&["recover.response.p99.9 < 160ms"], &good(), |_, _| {});
    check(
        &run,
        Verdict::Fail,
        &["recover.response.p99.9 is 200 ms, the limit is 160 ms: 25.0 % over"],
    );
    let slo = &run.slos[0];
    assert_eq!((slo.ok, slo.infinite, slo.under_sampled), (Some(false), false, true));

    // Nothing is hidden by rounding: 250 ms is not below 250 ms.
    let run = judged(&["recover.service.p50 < 2us"], &recoveries(100, 0, 2_000), |_, _| {});
    check(
        &run,
        Verdict::Fail,
        &["recover.service.p50 is 2.00 µs, the limit is 2.00 µs: it must stay below"],
    );
}

#[test]
fn what_did_not_end_as_expected_is_infinitely_slow() {
    let samples = [recoveries(980, 0, 10 * MS), recoveries(20, 2, 50 * MS)].concat();
    let rules = [
        "recover.response.p99 < 250ms",
        "recover.complete.response.p99 < 250ms",
        "recover.unexpected < 0.1%",
    ];
    let run = judged(&rules, &samples, |_, _| {});
    check(
        &run,
        Verdict::Fail,
        &[
            "recover.response.p99 is infinite, the limit is 250 ms: 20 of 1,000 intended operations \
             did not end as expected",
            "recover.unexpected is 2.00 %, the limit is 0.100 %: 1900 % over",
        ],
    );
    assert_eq!(
        run.slos.iter().map(|slo| slo.ok).collect::<Vec<_>>(),
        [Some(false), Some(true), Some(false)]
    );
    assert!(run.slos[0].infinite && run.slos[0].measured.is_none());
    let recover = &run.operations["recover"];
    assert_eq!((recover.intended, recover.unexpected), (1_000, 20));
    assert_eq!(recover.response_intended_ns.p99, None);
    assert!(recover.response_intended_ns.p90.is_some());
    assert!((run.goodput_per_s - 980.0).abs() < 1e-9 && (run.achieved_per_s - 1e3).abs() < 1e-9);
}

#[test]
fn a_target_that_lets_arrivals_wait_is_saturated_only_if_a_rule_broke() {
    let hold_up = |recorded: &mut Recorded, _: &mut Run| {
        let counts = recorded.counts_of(0, Phase::Measure);
        counts.intended += 50;
        counts.unsent_no_room += 50;
        counts.waited_for_room += 300;
    };
    let run = judged(&["run.achieved >= 98%"], &good(), hold_up);
    check(
        &run,
        Verdict::Fail,
        &[
            "run.achieved is 95.2 %, the limit is 98.0 %: 2.82 % short",
            "saturated: of 1,050 arrivals 300 waited for room in flight and 50 were never sent for \
             want of it, because those in flight did not end fast enough (the stages say where)",
        ],
    );
    assert_eq!(run.unsent, 50);
    let run = judged(&["run.achieved >= 95%"], &good(), hold_up);
    assert_eq!(run.verdict, Some(Verdict::Pass));
}

#[test]
fn an_instrument_at_fault_invalidates_whatever_the_rules_say() {
    let broken = "recover.response.p50 < 1ms";
    let unjudged = "not judged: recover.response.p50 is 10.0 ms, the limit is 1.00 ms: 900 % over";
    let run = judged(&[broken], &good(), |recorded, _| {
        let counts = recorded.counts_of(0, Phase::Measure);
        counts.intended += 2;
        counts.unsent_instrument += 2;
    });
    check(
        &run,
        Verdict::Invalid,
        &[
            "the instrument did not send 2 of 1,002 arrivals though there was room: 0.200 %, the \
           limit is 0.100 %",
            unjudged,
        ],
    );

    let mut late = good();
    late.iter_mut().step_by(50).for_each(|sample| sample.dispatch_ns = 15 * MS);
    let run = judged(&[broken], &late, |_, _| {});
    check(
        &run,
        Verdict::Invalid,
        &[
            "the instrument was late: lateness p99 is 15.0 ms, the limit is 1.25 ms (the larger of \
           1.00 ms and 5.00 % of response p99, which is 25.0 ms)",
            unjudged,
        ],
    );
    // The same delays are the target's doing when there was no room in flight.
    late.iter_mut().for_each(|sample| sample.waited = sample.dispatch_ns > MS);
    assert_eq!(judged(&[broken], &late, |_, _| {}).verdict, Some(Verdict::Fail));

    let run = judged(&[broken], &good(), |_, run| run.instrument.throttled_share = Some(0.0612));
    check(
        &run,
        Verdict::Invalid,
        &[
            "the instrument was throttled: its threads were ready but not run for 6.12 % of the run, \
           the limit is 5.00 %",
            unjudged,
        ],
    );

    let stolen = judged(&[broken], &good(), |_, run| {
        run.instrument.throttled_share = Some(0.0612);
        run.instrument.steal_share = Some(0.125);
    });
    check(
        &stolen,
        Verdict::Invalid,
        &[
            "the instrument was throttled: its threads were ready but not run for 6.12 % of the run, \
           the limit is 5.00 %; the hypervisor gave 12.5 % of this machine's to other machines",
            unjudged,
        ],
    );
    let run = judged(&[broken], &good(), |_, run| {
        run.connections =
            Some(ConnectionsResult { no_port: 1_200, no_file: 1, ..ConnectionsResult::default() });
    });
    check(
        &run,
        Verdict::Invalid,
        &[
            "the instrument could not connect: its machine lacked a port 1,200 times (EADDRNOTAVAIL, EADDRINUSE) and \
             a file descriptor 1 times (EMFILE)",
            unjudged,
        ],
    );
    let run = judged(&[broken], &good(), |_, run| {
        run.connections =
            Some(ConnectionsResult { failed: Some(9), ..ConnectionsResult::default() });
    });
    assert_eq!(run.verdict, Some(Verdict::Fail), "that nobody answers is the target's doing");

    for rule in ["recover-wrong.response.p50 < 1s", "recover.refused.response.p50 < 1s"] {
        let run = judged(&[broken, rule], &good(), |_, _| {});
        let figure = rule.split(' ').next().unwrap();
        let reason = format!("{figure} has no samples, the limit is 1.00 s: it cannot be judged");
        check(&run, Verdict::Invalid, &[&reason, unjudged]);
        assert_eq!(run.slos[1].ok, None);
    }
    let run = judged(&["recover-wrong.unexpected < 1%"], &good(), |_, _| {});
    assert_eq!(run.verdict, Some(Verdict::Invalid));
}

#[test]
fn an_instrument_at_fault_says_what_it_was_short_of() {
    let mut late = good();
    late.iter_mut().step_by(50).for_each(|sample| sample.dispatch_ns = 15 * MS);
    // What it was short of, as far as can be told: the likeliest first.
    let mut told = Instrument::default();
    let mut short_of = |change: fn(&mut Instrument), what: &str| {
        change(&mut told);
        let instrument = Instrument { workers: 2, ..told.clone() };
        let run = judged(&[], &late, move |_, run| run.instrument = instrument);
        let found = run.reasons[0].split_once("; it was short of ").map_or("", |(_, found)| found);
        assert!(found.starts_with(what) && what.is_empty() == found.is_empty(), "{found:?}");
    };
    short_of(|told| told.cpu_share = Some(1.5), "");
    short_of(
        |told| (told.stalls, told.longest_stall_ns) = (3, Some(15 * MS)),
        "steadiness: its loop stalled 3 times, for 15.0 ms at the longest",
    );
    short_of(
        |told| told.cpu_share = Some(1.9),
        "time of its own: each sending thread was at work for 95.0 % of the run",
    );
    short_of(
        |told| told.throttled_share = Some(0.04),
        "processors: its threads were ready but not run for 4.00 % of the run",
    );
    short_of(
        |told| told.steal_share = Some(0.3),
        "processors: the hypervisor gave 30.0 % of this machine's to other machines",
    );
    short_of(|told| told.waited_for_account = 7, "accounts: 7 arrivals found each of theirs");
}

#[test]
fn an_instrument_that_lost_count_invalidates() {
    let lose = |recorded: &mut Recorded, _: &mut Run| {
        recorded.counts_of(0, Phase::Measure).intended += 3;
    };
    let run = judged(&[], &good(), lose);
    check(
        &run,
        Verdict::Invalid,
        &["the instrument lost count: 1,003 arrivals were intended, 1,000 ended and 0 were never \
           sent"],
    );
    // A run that was cut short may leave some unanswered; they count as infinitely slow.
    let run = judged(&["recover.response.max < 1s"], &good(), |recorded, run| {
        lose(recorded, run);
        run.cut_short = true;
    });
    assert_eq!(run.verdict, Some(Verdict::Fail));
    assert_eq!(
        run.warnings,
        [
            "cut short: the measurement phase lasted 1.00 s",
            "3 operations were unanswered when the run was cut short; they count as infinitely slow",
        ]
    );
}

#[test]
fn a_run_that_never_measured_has_no_verdict() {
    let run = judged(&["run.achieved >= 98%"], &[], |recorded, run| {
        recorded.measured = Duration::ZERO;
        recorded.phase = Phase::WarmUp;
        run.cut_short = true;
    });
    assert_eq!(run.verdict, None);
    assert_eq!(run.reasons, ["it ended before the measurement phase: there is nothing to judge"]);
    assert!(run.operations.is_empty());
}

#[test]
fn only_the_measurement_phase_counts() {
    let mut samples = good();
    let slow = Sample { phase: Phase::WarmUp, ..recoveries(1, 2, 5_000 * MS)[0] };
    samples.extend([slow; 500]);
    samples.extend([Sample { phase: Phase::CoolDown, ..slow }; 500]);
    let run = judged(&["recover.response.max < 250ms"], &samples, |_, _| {});
    assert_eq!(run.verdict, Some(Verdict::Pass), "{:?}", run.reasons);
    assert_eq!(run.operations["recover"].intended, 1_000);
    assert!((run.offered_per_s - 1_000.0).abs() < 1e-9);
    assert_eq!(run.operations["recover"].outcomes.len(), 1);
}

#[test]
fn a_reader_is_warned() {
    let check = |rules: &[&str], change: fn(&mut Recorded, &mut Run), warning: &str| {
        assert_eq!(judged(rules, &good(), change).warnings, [warning]);
    };
    check(
        &["recover.response.p99.9 < 1s"],
        |_, _| {},
        "recover.response.p99.9 rests on few samples: fewer than ten of 1,000 operations lie above it",
    );
    check(
        &[],
        |_, run| run.quorum = Some(QuorumResult::default()),
        "not durable: commits were acknowledged without fsync, so a real vault is slower",
    );
    check(
        &[],
        |_, run| {
            let file_system = "tmpfs".to_owned();
            run.quorum =
                Some(QuorumResult { durable: true, file_system, ..QuorumResult::default() });
        },
        "the log lies on tmpfs, where an fsync costs nothing: a real disk is slower",
    );
    check(
        &[],
        |_, run| {
            run.device =
                Some(DeviceResult { sessions_reopened: 2, failures: 5, ..DeviceResult::default() });
        },
        "2 HSM sessions were lost and reopened; the device failed 5 evaluations",
    );
    check(
        &[],
        |recorded, _| recorded.clipped = 7,
        "7 samples were longer than 137 s and count as that long",
    );
}

#[test]
fn stages_are_means_over_all_and_over_the_slowest() {
    let run = judged(&[], &good(), |_, _| {});
    let recover = &run.operations["recover"];
    assert_eq!(recover.slowest_count, 10);
    let near = |figure: f64, expected: f64| (figure - expected).abs() < 1.0;
    assert!(near(recover.stages_mean_slowest_ns["server"], 66_666_666.0));
    assert!(near(recover.stages_mean_slowest_ns["client"], 133_333_334.0));
    let mean = (990.0 * 3_333_333.0 + 10.0 * 66_666_666.0) / 1_000.0;
    assert!(near(recover.stages_mean_ns["server"], mean), "{recover:?}");
}

/// A fault and how long it took until operations succeeded again.
fn recovered(ns: Option<u64>) -> FaultMark {
    let recovery = Recovery { time_to_recover_ns: ns, longest_gap_ns: 1, failed: 0 };
    let what = "kill leader".to_owned();
    FaultMark { what, at_s: 0.5, until_s: None, recovery: Some(recovery) }
}

#[test]
fn the_slowest_recovery_from_a_fault_is_judged() {
    let rules = ["run.time_to_recover < 500ms"];
    let with = |faults: &[Option<u64>]| {
        let faults: Vec<FaultMark> = faults.iter().copied().map(recovered).collect();
        judged(&rules, &good(), |_, run| run.faults = faults)
    };
    check(
        &with(&[Some(100 * MS), Some(400 * MS)]),
        Verdict::Pass,
        &["the SLO holds: run.time_to_recover is 400 ms, the limit is 500 ms: 20.0 % to spare"],
    );
    check(
        &with(&[Some(600 * MS), Some(400 * MS)]),
        Verdict::Fail,
        &["run.time_to_recover is 600 ms, the limit is 500 ms: 20.0 % over"],
    );
    check(
        &with(&[Some(100 * MS), None]),
        Verdict::Fail,
        &[
            "run.time_to_recover is infinite, the limit is 500 ms: after 1 of 2 faults operations did \
           not succeed steadily again",
        ],
    );
    check(
        &with(&[]),
        Verdict::Invalid,
        &["run.time_to_recover has no samples, the limit is 500 ms: it cannot be judged"],
    );
}

#[test]
fn a_violation_outranks_everything() {
    let violation = |n: u64| Violation {
        rule: "allowance".to_owned(),
        account: n,
        what: format!("account {n} was answered 11 evaluations"),
        operations: Vec::new(),
    };
    let rules = ["recover.response.p99 < 1ms"];
    let run = judged(&rules, &good(), |recorded, run| {
        run.violations = (1..=5).map(violation).collect();
        run.violations_count = 9;
        run.instrument.throttled_share = Some(0.5);
        recorded.measured = Duration::from_secs(1);
    });
    assert_eq!(run.verdict, Some(Verdict::Violated));
    assert_eq!(run.reasons[0], "account 1 was answered 11 evaluations");
    assert_eq!(run.reasons[3], "and 6 more violations (run.json has the first)");
    assert!(run.reasons[4].starts_with("not judged: the instrument was throttled"));
    assert!(run.reasons[5].starts_with("not judged: recover.response.p99"));
    // Also in a run that was stopped before anything else could be judged.
    let run = judged(&rules, &[], |recorded, run| {
        recorded.measured = Duration::ZERO;
        run.cut_short = true;
        run.violations = vec![violation(1)];
        run.violations_count = 1;
    });
    assert_eq!(run.verdict, Some(Verdict::Violated));
}

#[test]
fn rules_over_virtual_users_say_that_they_are_no_open_loop() {
    let load = |name: &str, open_loop, operation: &str| LoadResult {
        name: name.to_owned(),
        kind: "any".to_owned(),
        arrival: "any".to_owned(),
        open_loop,
        operations: vec![operation.to_owned()],
        retry: None,
    };
    let rules = [
        "recover.response.p99 < 250ms",
        "recover.service.p99 < 250ms",
        "register.response.p99 < 250ms",
        "run.achieved >= 98%",
    ];
    let told = |loads: Vec<LoadResult>| {
        let run = judged(&rules, &good(), |_, run| run.loads = loads);
        let closed: Vec<bool> = run.slos.iter().map(|slo| slo.closed_loop).collect();
        (closed, run.warnings.into_iter().find(|warning| warning.starts_with("closed loop: ")))
    };
    let people = || load("people", true, "register");
    let (closed, warning) = told(vec![people(), load("users", false, "recover")]);
    assert_eq!(closed, [true, false, false, true]);
    let warning = warning.expect("one is closed");
    assert!(warning.contains("load \"users\" ask nothing while they wait"), "{warning}");
    assert!(warning.contains("so recover.response.p99, run.achieved can say less"), "{warning}");
    assert_eq!(told(vec![people(), load("more", true, "recover")]), (vec![false; 4], None));
    assert_eq!(told(Vec::new()), (vec![false; 4], None));
}
