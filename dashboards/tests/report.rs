//! The report holds together whatever a run came to: whole HTML, every number, nothing loaded,
//! nothing of the data taken for markup.

mod sample;

use std::collections::BTreeMap;

use proptest::prelude::*;
use sample::Sample;
use serde_json::Value;
use vaultmark_dashboards::{
    Curve, OperationSecond, ReportInput, Second, report_html, terminal_summary,
};
use vaultmark_results::Phase;
use vaultmark_results::hist::CurvePoint;
use vaultmark_results::model::{
    ErrorCount, FaultMark, OperationResult, OutcomeResult, Quantiles, SloResult, State, Verdict,
};
use vaultmark_results::units::{format_count, format_duration, format_share};

fn failing() -> Sample {
    Sample { stall_s: Some((10, 12)), one_in_fails: 400, ..Sample::default() }
}

fn html(input: &ReportInput) -> String {
    let html = report_html(input).expect("drawn and written in memory");
    whole(&html);
    for loading in
        ["http:", "https:", "//www", "url(", "@import", "src=", "<script", "<link", "href="]
    {
        assert!(!html.contains(loading), "the report holds {loading:?}");
    }
    html
}

/// Every element is closed in its order, and no `<` stands alone.
fn whole(html: &str) {
    const VOID: [&str; 5] = ["meta", "!doctype", "br", "hr", "wbr"];
    let mut open: Vec<&str> = Vec::new();
    let mut ids: BTreeMap<&str, usize> = BTreeMap::new();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        let end = rest[at..].find('>').expect("an element ends") + at;
        let inside = &rest[at + 1..end];
        assert!(!inside.contains('<'), "an element within an element: {inside}");
        rest = &rest[end + 1..];
        if let Some(name) = inside.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "closed out of order");
            continue;
        }
        let name = inside.split(char::is_whitespace).next().expect("a name");
        assert!(name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '!'), "<{name}");
        if let Some((_, id)) = inside.split_once(" id=\"") {
            *ids.entry(id.split('"').next().expect("an id")).or_default() += 1;
        }
        if !inside.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
    assert!(ids.values().all(|n| *n == 1), "an id twice: {ids:?}");
}

/// A name, a run, what its report says, and what it does not.
type Case = (&'static str, ReportInput, Vec<&'static str>, Vec<&'static str>);

fn judged() -> Vec<Case> {
    vec![
        (
            "pass",
            Sample::default().input(),
            vec![
                ">PASS<",
                "recover.response.p99 &#60; 250ms",
                "✓ holds",
                "to spare",
                "Response time by percentile",
                "Where the time goes",
                "role=\"img\"",
                "vaultmark run scenarios/sample.toml --hsm softhsm --seed 42",
            ],
            vec!["cut short", "✗", "∞</td>"],
        ),
        (
            "fail",
            failing().input(),
            vec![
                ">FAIL<",
                "✗ broken",
                "no reply within 5 s",
                "pause replica:1",
                "∞</td>",
                "unexpected",
            ],
            vec!["cut short"],
        ),
        (
            "invalid and cut short",
            Sample { lateness_ns: 90_000_000, cut_short: true, ..Sample::default() }.input(),
            vec![">INVALID<", "cut short", "lateness"],
            vec![],
        ),
        (
            "one operation",
            Sample { operations: vec![("recover", 50)], rules: vec![], ..Sample::default() }
                .input(),
            vec![">PASS<", "<h3>recover</h3>"],
            vec!["<h3>register</h3>", "id=\"rules\""],
        ),
        (
            "no operation",
            Sample { operations: vec![], rules: vec![], ..Sample::default() }.input(),
            vec!["No operation was measured.", "no operation was intended"],
            vec!["id=\"percentiles\"", "id=\"stages\""],
        ),
        (
            "too few for a curve",
            Sample {
                operations: vec![("recover", 1)],
                phases: [0, 3, 0],
                rules: vec![],
                ..Sample::default()
            }
            .input(),
            vec!["No operation has a curve"],
            vec![],
        ),
    ]
}

fn unusual() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut killed = Sample::default().input();
    killed.run.verdict = None;
    killed.run.reasons = vec!["cut short: killed after 12.0 s".to_owned()];
    killed.run.cut_short = true;
    killed.run.state = State::Running;
    cases.push(("killed", killed, vec![">NO VERDICT<", "killed after"], vec![">PASS<"]));
    let mut running = Sample::default().input();
    running.run.verdict = None;
    running.run.reasons = Vec::new();
    running.run.state = State::Running;
    cases.push(("running", running, vec![">RUNNING<", "so far"], vec![">PASS<", "cut short"]));
    let mut bare = Sample::default().input();
    bare.run.instrument.stall_truth = None;
    bare.run.hsm = None;
    bare.run.device = None;
    bare.run.quorum = None;
    bare.curves.clear();
    bare.seconds.clear();
    cases.push((
        "null target",
        bare,
        vec!["This target has neither.", "was not measured"],
        vec!["id=\"time\""],
    ));
    cases
}

#[test]
fn every_ending_has_its_words() {
    for (name, input, present, absent) in judged().into_iter().chain(unusual()) {
        let html = html(&input);
        // The style sheet is not what is shown.
        let (_, shown) = html.split_once("</style>").expect("a style sheet");
        for text in present {
            assert!(shown.contains(text), "{name}: {text:?} is missing");
        }
        for text in absent {
            assert!(!shown.contains(text), "{name}: {text:?} stands there");
        }
    }
}

#[test]
fn every_number_of_run_json_stands_in_the_report() {
    for input in [Sample::default().input(), failing().input()] {
        let html = html(&input);
        let json = serde_json::to_value(&input.run).expect("a run is JSON");
        let mut numbers = Vec::new();
        collect("run", &json, &mut numbers);
        assert!(numbers.len() > 100, "the run has only {} numbers", numbers.len());
        for (path, number) in numbers {
            let written = written(&number);
            assert!(written.iter().any(|text| html.contains(text)), "{path}: none of {written:?}");
        }
    }
}

fn collect(path: &str, value: &Value, numbers: &mut Vec<(String, serde_json::Number)>) {
    match value {
        Value::Number(number) => numbers.push((path.to_owned(), number.clone())),
        Value::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                collect(&format!("{path}.{n}"), item, numbers);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                collect(&format!("{path}.{name}"), field, numbers);
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// The ways a number may be written.
fn written(number: &serde_json::Number) -> Vec<String> {
    if let Some(n) = number.as_u64() {
        return vec![format_count(n), n.to_string(), format_duration(n)];
    }
    let x = number.as_f64().expect("a number");
    let ns = format!("{:.0}", x.abs()).parse().expect("whole and small");
    vec![
        format!("{x}"),
        format!("{x:.1}"),
        format!("{x:.2} ×"),
        format_share(x.abs()),
        format_duration(ns),
        if x > 0.5 { format!("{x:.1} s") } else { format_share(x) },
    ]
}

#[test]
fn data_is_never_markup() {
    const HOSTILE: &str = "<script>alert(1)</script>\" onload='x'&amp;\u{1b}[31m]]>-->";
    let mut input = failing().input();
    let run = &mut input.run;
    for text in [
        &mut run.run_id,
        &mut run.bundle,
        &mut run.scenario,
        &mut run.question,
        &mut run.target,
        &mut run.fidelity,
        &mut run.started_at,
        &mut run.provenance.revision,
        &mut run.provenance.cpu,
        &mut run.provenance.command,
    ] {
        *text = HOSTILE.to_owned();
    }
    run.reasons = vec![HOSTILE.to_owned()];
    run.warnings = vec![HOSTILE.to_owned()];
    run.errors = vec![ErrorCount {
        operation: HOSTILE.to_owned(),
        outcome: HOSTILE.to_owned(),
        error: HOSTILE.to_owned(),
        count: 1,
    }];
    run.faults =
        vec![FaultMark { what: HOSTILE.to_owned(), at_s: 2.0, until_s: None, recovery: None }];
    run.slos[0].rule = HOSTILE.to_owned();
    let mut operation = run.operations.remove("recover").expect("it was offered");
    operation.stages_mean_ns.insert(HOSTILE.to_owned(), 5e5);
    let outcome = operation.outcomes.remove("complete").expect("some did");
    operation.outcomes.insert(HOSTILE.to_owned(), outcome);
    run.operations.insert(HOSTILE.to_owned(), operation);
    for curve in input.curves.iter_mut().filter(|curve| curve.operation == "recover") {
        curve.operation = HOSTILE.to_owned();
    }
    for second in &mut input.seconds {
        if let Some(of) = second.operations.remove("recover") {
            second.operations.insert(HOSTILE.to_owned(), of);
        }
    }
    let html = html(&input);
    assert!(!html.contains("<script") && !html.contains(" onload='"));
    assert!(html.contains("alert(1)"), "the text itself is shown");
    let summary = terminal_summary(&input.run, 80, false);
    assert!(!summary.contains('\u{1b}'), "a terminal would obey");
}

#[test]
fn a_long_run_is_drawn_by_its_worst_intervals() {
    let mut input = Sample { phases: [0, 3, 0], ..Sample::default() }.input();
    let template = input.seconds[0].clone();
    let second = |n: u32| {
        let mut second = template.clone();
        (second.from_s, second.to_s) = (f64::from(n), f64::from(n + 1));
        second
    };
    input.seconds = (0..86_400).map(second).collect();
    let html = html(&input);
    assert!(html.contains("Each point is the worst of 144 intervals."));
    assert!(html.contains("The first 600 of 86400 intervals"));
    assert!(html.len() < 2_000_000, "{} bytes", html.len());
}

fn any_quantiles() -> impl Strategy<Value = Quantiles> {
    any::<[Option<u64>; 5]>().prop_map(|[p50, p90, p99, p99_9, max]| Quantiles {
        p50,
        p90,
        p99,
        p99_9,
        max,
    })
}

prop_compose! {
    fn any_operation()(
        intended: u64,
        unexpected: u64,
        count in prop::array::uniform2(any::<u64>()),
        expected: bool,
        quantiles in prop::array::uniform4(any_quantiles()),
        stages in prop::array::uniform6(any::<f64>()),
        slowest_count: u64,
    ) -> OperationResult {
        let names = ["charge_commit", "server", "other"];
        let [response_intended_ns, response_ns, service_ns, dispatch_delay_ns] = quantiles;
        let means = |from: usize| {
            names.iter().zip(&stages[from..]).map(|(name, ns)| ((*name).to_owned(), *ns)).collect()
        };
        let outcome = |n: usize| OutcomeResult {
            count: count[n], expected, response_ns, service_ns, dispatch_delay_ns,
        };
        OperationResult {
            intended,
            unexpected,
            response_intended_ns,
            stages_mean_ns: means(0),
            stages_mean_slowest_ns: means(3),
            slowest_count,
            outcomes: [("complete".to_owned(), outcome(0)), ("timed_out".to_owned(), outcome(1))].into(),
        }
    }
}

prop_compose! {
    fn any_second()(
        from_s in prop_oneof![any::<f64>(), -10.0..100.0],
        length in prop_oneof![any::<f64>(), 0.0..2.0],
        phase in prop::sample::select(&Phase::ALL[..]),
        counts: [u64; 6],
        quantiles in prop::array::uniform2(any_quantiles()),
    ) -> Second {
        let [response_ns, service_ns] = quantiles;
        let of = OperationSecond { count: counts[5], response_ns, service_ns };
        Second {
            from_s,
            to_s: from_s + length,
            phase,
            offered: counts[0],
            achieved: counts[1],
            unsent: counts[2],
            in_flight: counts[3],
            backlog: counts[4],
            operations: [("recover".to_owned(), of)].into(),
        }
    }
}

fn any_slo() -> impl Strategy<Value = SloResult> {
    let rules =
        ["recover.response.p99 < 1ms", "recover.unexpected < 1%", "run.achieved >= 9%", "odd"];
    let numbers = (any::<f64>(), any::<Option<f64>>(), any::<Option<f64>>());
    let flags = (any::<Option<bool>>(), any::<bool>(), any::<bool>());
    (prop::sample::select(rules.to_vec()), numbers, flags).prop_map(
        |(rule, (limit, measured, margin), (ok, infinite, under_sampled))| SloResult {
            rule: rule.to_owned(),
            limit,
            measured,
            margin,
            ok,
            infinite,
            under_sampled,
            closed_loop: false,
            upper: None,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn no_figures_break_the_report(
        operation in any_operation(),
        seconds in prop::collection::vec(any_second(), 0..12),
        points in prop::collection::vec((0.0..15.0, any::<u64>()), 0..12),
        slos in prop::collection::vec(any_slo(), 0..4),
        rates: [f64; 4],
        fault: (f64, Option<f64>),
        verdict in prop::sample::select(vec![None, Some(Verdict::Pass), Some(Verdict::Fail), Some(Verdict::Invalid), Some(Verdict::Violated)]),
        width in 0_usize..300,
    ) {
        let mut input = Sample { phases: [0, 1, 0], operations: vec![], rules: vec![], ..Sample::default() }.input();
        input.run.operations = [("recover".to_owned(), operation)].into();
        input.run.slos = slos;
        input.run.verdict = verdict;
        [input.run.measured_s, input.run.offered_per_s, input.run.achieved_per_s, input.run.goodput_per_s] = rates;
        input.run.faults = vec![FaultMark { what: "stall".to_owned(), at_s: fault.0, until_s: fault.1, recovery: None }];
        let points = points.into_iter().map(|(x, ns)| CurvePoint { x, ns }).collect();
        input.curves = vec![Curve { operation: "recover".to_owned(), points }];
        input.seconds = seconds;
        let html = html(&input);
        prop_assert!(!html.contains("NaN/s") && !html.contains("inf/s"));
        let summary = terminal_summary(&input.run, width, true);
        prop_assert!(summary.contains("recover"));
    }
}
