//! The summary on the terminal, line by line.

mod sample;

use sample::Sample;
use vaultmark_dashboards::terminal_summary;
use vaultmark_results::model::{
    OperationResult, OutcomeResult, Quantiles, Run, SloResult, Verdict,
};

/// A run with round figures.
fn run() -> Run {
    let sample =
        Sample { operations: vec![], rules: vec![], phases: [0, 1, 0], ..Sample::default() };
    let mut run = sample.input().run;
    let quantiles = Quantiles {
        p50: Some(5_530_000),
        p90: Some(7_820_000),
        p99: Some(61_200_000),
        p99_9: None,
        max: Some(81_000_000),
    };
    let outcome = |count, expected| OutcomeResult {
        count,
        expected,
        response_ns: quantiles,
        service_ns: quantiles,
        dispatch_delay_ns: Quantiles::default(),
    };
    run.verdict = Some(Verdict::Pass);
    run.reasons = vec!["all 2 SLOs hold".to_owned()];
    run.warnings = Vec::new();
    run.measured_s = 20.0;
    (run.offered_per_s, run.achieved_per_s, run.goodput_per_s) = (100.2, 100.1, 99.95);
    run.slos = vec![
        slo("recover.response.p99 < 250ms", 250e6, Some(61.2e6), Some(0.7552), Some(true)),
        slo("recover.unexpected < 0.1%", 0.001, Some(0.0015), Some(-0.5), Some(false)),
        slo("register.response.p99 < 1s", 1e9, None, None, None),
    ];
    run.operations = [
        (
            "recover".to_owned(),
            OperationResult {
                intended: 2_004,
                unexpected: 3,
                response_intended_ns: Quantiles { max: None, ..quantiles },
                stages_mean_ns: [("charge_commit".to_owned(), 2e6), ("client".to_owned(), 6e6)]
                    .into(),
                stages_mean_slowest_ns: [].into(),
                slowest_count: 0,
                outcomes: [
                    ("complete".to_owned(), outcome(2_001, true)),
                    ("timed_out".to_owned(), outcome(2, false)),
                ]
                .into(),
            },
        ),
        (
            "register".to_owned(),
            OperationResult {
                intended: 90,
                response_intended_ns: quantiles,
                outcomes: [("complete".to_owned(), outcome(90, true))].into(),
                ..OperationResult::default()
            },
        ),
    ]
    .into();
    run
}

fn slo(
    rule: &str,
    limit: f64,
    measured: Option<f64>,
    margin: Option<f64>,
    ok: Option<bool>,
) -> SloResult {
    SloResult {
        rule: rule.to_owned(),
        limit,
        measured,
        margin,
        ok,
        infinite: false,
        under_sampled: false,
        closed_loop: false,
        upper: None,
    }
}

#[test]
fn every_line_has_its_place() {
    let expected = "\
PASS  all 2 SLOs hold
      sample · embedded vault, 3 replicas, durable · softhsm (KeyInsideTweaked)

  ✓ recover.response.p99 < 250ms     61.2 ms  75.5 % to spare
  ✗ recover.unexpected < 0.1%        0.150 %      50.0 % over
  ? register.response.p99 < 1s    no samples                —

  offered 100/s, achieved 100/s, goodput 100/s, unsent 0, over 20.0 s
  unexpected 3 of 2,094 (0.143 %)

                        count      p50      p90      p99  p99.9      max  service p99
  recover               2,004  5.53 ms  7.82 ms  61.2 ms      ∞        ∞
    complete            2,001  5.53 ms  7.82 ms  61.2 ms      —  81.0 ms      61.2 ms
    timed out               2  5.53 ms  7.82 ms  61.2 ms      —  81.0 ms      61.2 ms
    without an outcome      1
  register                 90  5.53 ms  7.82 ms  61.2 ms      —  81.0 ms      61.2 ms

  where the time goes (means)
  recover 8.00 ms: charge commit 2.00 ms (25.0 %), client 6.00 ms (75.0 %)

  instrument: 1 worker, late by p99 —, 0 unsent by its own fault, 3.42 % of a core,
    throttled 0.170 %, 412 ns an operation on the null target,
    stall truth p90 812 ms, reported 813 ms
";
    assert_eq!(terminal_summary(&run(), 88, false), expected);
}

#[test]
fn colour_changes_nothing_but_colour() {
    for width in [0, 60, 88, 200] {
        let coloured = terminal_summary(&run(), width, true);
        assert!(coloured.contains("\x1b[32mPASS\x1b[0m") && coloured.contains("\x1b[31m"));
        let mut plain = String::new();
        let mut rest = coloured.as_str();
        while let Some((before, after)) = rest.split_once("\x1b[") {
            plain.push_str(before);
            rest = after.split_once('m').expect("a colour ends").1;
        }
        plain.push_str(rest);
        assert_eq!(plain, terminal_summary(&run(), width, false));
    }
}
