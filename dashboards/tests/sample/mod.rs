//! A made-up run for tests and for looking at: arrivals at random, a vault with two processors that
//! stalls for a while, recorded and judged by `results` exactly as a real run is.

use std::collections::BTreeMap;
use std::time::Duration;

use vaultmark_dashboards::ReportInput;
use vaultmark_results::hist::{new_histogram, record};
use vaultmark_results::interval::Window;
use vaultmark_results::model::{
    DeviceResult, FaultMark, Hsm, Instrument, Provenance, Quantiles, QuorumResult, Recovery, Run,
    SCHEMA_VERSION, StallTruth, State,
};
use vaultmark_results::{
    Cell, Counts, ErrorText, Interval, OperationStages, Phase, Rule, Second, Shape, StageBins,
    Terms, Totals, Validity,
};

const S: u64 = 1_000_000_000;

/// What a sample is made of.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Operations and their arrivals a second.
    pub(crate) operations: Vec<(&'static str, u64)>,
    /// Warm-up, measurement and cool-down, seconds.
    pub(crate) phases: [u64; 3],
    /// The vault does nothing from and to these seconds of the measurement phase.
    pub(crate) stall_s: Option<(u64, u64)>,
    /// One in so many recoveries fails; 0: none.
    pub(crate) one_in_fails: u64,
    /// Rules.
    pub(crate) rules: Vec<&'static str>,
    /// Our own lateness, nanoseconds.
    pub(crate) lateness_ns: u64,
    /// It ended before its scenario said.
    pub(crate) cut_short: bool,
}

impl Default for Sample {
    fn default() -> Self {
        Self {
            operations: vec![("register", 8), ("recover", 184), ("recover-wrong", 8)],
            phases: [5, 30, 4],
            stall_s: None,
            one_in_fails: 0,
            rules: vec![
                "recover.response.p99 < 250ms",
                "recover.unexpected < 0.1%",
                "register.response.p90 < 200ms",
                "run.achieved >= 98%",
            ],
            lateness_ns: 40_000,
            cut_short: false,
        }
    }
}

/// Random numbers that are the same everywhere.
struct Chance(u64);

impl Chance {
    /// From 0 to 1, without 0.
    fn share(&mut self) -> f64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from(u32::try_from(self.0 >> 33).expect("31 bits") + 1) / f64::from(1_u32 << 31)
    }

    fn ns(&mut self, mean: f64) -> u64 {
        let ns = -self.share().ln() * mean;
        format!("{ns:.0}").parse().expect("a whole number")
    }
}

/// One operation that ended.
struct Ended {
    operation: usize,
    outcome: usize,
    intended: u64,
    sent: u64,
    done: u64,
    stages: [u64; 6],
}

const OUTCOMES: [&str; 3] = ["complete", "refused", "timed_out"];
const STAGES: [&str; 6] =
    ["charge_commit", "device_wait", "oprf_evaluation", "reset_commit", "server", "client"];

impl Sample {
    /// The report's input.
    pub(crate) fn input(&self) -> ReportInput {
        let ended = self.run();
        let terms = Terms {
            shape: self.shape(),
            rules: self.rules.iter().map(|rule| Rule::parse(rule).expect("a rule")).collect(),
            validity: Validity {
                unsent_share_max: 0.001,
                lateness_floor_ns: 1_000_000,
                lateness_share_max: 0.05,
                throttled_share_max: 0.05,
                goes_on_without_lost_workers: false,
            },
        };
        let mut totals = Totals::new(terms);
        let mut series = Vec::new();
        for second in 0..self.phases.iter().sum::<u64>() + 1 {
            self.second(second, &ended, &mut totals, &mut series);
        }
        let mut run = self.blank();
        totals.summarise(&mut run);
        ReportInput::new(run, Some(&totals), &series)
    }

    fn shape(&self) -> Shape {
        Shape {
            operations: self.operations.iter().map(|(name, _)| (*name).to_owned()).collect(),
            outcomes: OUTCOMES.map(str::to_owned).to_vec(),
            stages: STAGES.map(str::to_owned).to_vec(),
            expected: self
                .operations
                .iter()
                .map(|(name, _)| {
                    if *name == "recover-wrong" {
                        vec![false, true, false]
                    } else {
                        vec![true, false, false]
                    }
                })
                .collect(),
        }
    }

    /// A queue with two servers.
    fn run(&self) -> Vec<Ended> {
        let mut chance = Chance(42);
        let mut arrivals = Vec::new();
        let end = self.phases.iter().sum::<u64>() * S;
        for (operation, (_, rate)) in self.operations.iter().enumerate() {
            let mut at = 0;
            loop {
                at += chance.ns(1e9 / f64::from(u32::try_from(*rate).expect("small")));
                if at >= end {
                    break;
                }
                arrivals.push((at, operation));
            }
        }
        arrivals.sort_unstable();
        let stall =
            self.stall_s.map(|(from, to)| ((self.phases[0] + from) * S, (self.phases[0] + to) * S));
        let mut free = [0_u64; 2];
        let mut ended = Vec::new();
        for (n, (intended, operation)) in arrivals.into_iter().enumerate() {
            let name = self.operations[operation].0;
            let sent = intended + 2_000 + chance.ns(8_000.0);
            let server = usize::from(free[1] < free[0]);
            let mut starts = sent.max(free[server]);
            if let Some((from, to)) = stall
                && (from..to).contains(&starts)
            {
                starts = to;
            }
            let oprf = 260_000 + chance.ns(60_000.0);
            let other = 180_000 + chance.ns(90_000.0);
            free[server] = starts + oprf + other + 3_000_000;
            let fsync = 1_500_000 + chance.ns(900_000.0);
            let reset = if name == "recover" { 1_400_000 + chance.ns(800_000.0) } else { 0 };
            let client = 300_000 + chance.ns(50_000.0);
            let stages = [fsync, starts - sent, oprf, reset, other, client];
            let fails = name == "recover"
                && self.one_in_fails > 0
                && u64::try_from(n).expect("small") % self.one_in_fails == 0;
            let done = sent + stages.iter().sum::<u64>();
            let outcome = match name {
                _ if fails => 2,
                "recover-wrong" => 1,
                _ => 0,
            };
            ended.push(Ended { operation, outcome, intended, sent, done, stages });
        }
        ended
    }

    fn phase(&self, at: u64) -> Phase {
        let [warm_up, measure, _] = self.phases;
        match at / S {
            s if s < warm_up => Phase::WarmUp,
            s if s < warm_up + measure => Phase::Measure,
            _ => Phase::CoolDown,
        }
    }

    fn second(&self, second: u64, all: &[Ended], totals: &mut Totals, series: &mut Vec<Second>) {
        // The last interval takes what is left, as a drain does.
        let last = second == self.phases.iter().sum::<u64>();
        let span = second * S..if last { u64::MAX } else { (second + 1) * S };
        let mut cells = BTreeMap::new();
        let mut stages: BTreeMap<usize, StageBins> = BTreeMap::new();
        let mut counts: BTreeMap<(usize, usize), u64> = BTreeMap::new();
        let mut lateness = new_histogram();
        let mut window = Window::default();
        for one in all.iter().filter(|one| span.contains(&one.done)) {
            let phase = self.phase(one.intended);
            let cell = cells
                .entry((one.operation, phase.index(), one.outcome))
                .or_insert_with(|| [new_histogram(), new_histogram(), new_histogram()]);
            assert!(!record(&mut cell[0], one.done - one.intended));
            assert!(!record(&mut cell[1], one.done - one.sent));
            assert!(!record(&mut cell[2], one.sent - one.intended));
            if self.phase(one.done) == Phase::Measure {
                window.ended += 1;
                window.good += u64::from(one.outcome != 2);
            }
            if phase == Phase::Measure {
                assert!(!record(&mut lateness, self.lateness_ns + one.sent % 10_000));
                if one.outcome != 2 {
                    let bins = stages.entry(one.operation).or_insert_with(|| StageBins::new(6));
                    bins.record(one.done - one.sent, &one.stages);
                }
            }
        }
        for one in all.iter().filter(|one| span.contains(&one.intended)) {
            *counts.entry((one.operation, self.phase(one.intended).index())).or_default() += 1;
        }
        let open = |one: &&Ended| one.intended < span.end && one.done >= span.end;
        let phase = self.phase(span.start);
        let length = Duration::from_millis(if last { 300 } else { 1_000 });
        let timed_out = all.iter().filter(|one| span.contains(&one.done) && one.outcome == 2);
        let error = ErrorText {
            operation: self.operations.iter().position(|(name, _)| *name == "recover").unwrap_or(0),
            outcome: 2,
            error: "no reply within 5 s",
            count: u64::try_from(timed_out.count()).expect("small"),
        };
        let interval = Interval {
            start: Duration::from_secs(second),
            length,
            phase,
            measured: if phase == Phase::Measure { length } else { Duration::ZERO },
            cells: cells
                .iter()
                .map(|((operation, phase, outcome), [response, service, dispatch_delay])| Cell {
                    operation: *operation,
                    phase: Phase::ALL[*phase],
                    outcome: *outcome,
                    response,
                    service,
                    dispatch_delay,
                })
                .collect(),
            stages: stages
                .iter()
                .map(|(operation, bins)| OperationStages {
                    operation: *operation,
                    bins,
                    histograms: &[],
                })
                .collect(),
            lateness: &lateness,
            counts: counts
                .into_iter()
                .map(|((operation, phase), intended)| Counts {
                    operation,
                    phase: Phase::ALL[phase],
                    intended,
                    unsent_no_room: 0,
                    unsent_instrument: 0,
                    waited_for_room: 0,
                })
                .collect(),
            window,
            in_flight: u64::try_from(all.iter().filter(open).count()).expect("small"),
            backlog: 0,
            clipped: 0,
            errors: if error.count > 0 { vec![error] } else { Vec::new() },
        };
        totals.add(&interval);
        series.push(Second::of(&interval, &self.shape()));
    }

    fn blank(&self) -> Run {
        let text = str::to_owned;
        Run {
            schema_version: SCHEMA_VERSION,
            run_id: text("20261121T031502Z-sample-7f3a"),
            bundle: text("results/runs/20261121T031502Z-sample-7f3a"),
            scenario: text("sample"),
            question: text("How fast are recoveries when people come at random?"),
            seed: 42,
            target: text("embedded vault, 3 replicas, durable"),
            loads: Vec::new(),
            hsm: Some(Hsm {
                device: text("softhsm"),
                description: text("SoftHSM project SoftHSM v2, 2.6"),
                provision: text("KeyInsideTweaked"),
                suite: text("p256-sha256"),
                sessions: 2,
                caveat: Some(text("SoftHSM is software: it says nothing about a device's speed.")),
                modelled: None,
            }),
            fidelity: text("cached"),
            stretching: Some(text("owasp (Argon2id 19 MiB, t = 2, p = 1)")),
            connections: None,
            started_at: text("2026-11-21T03:15:02Z"),
            state: State::Finished,
            cut_short: self.cut_short,
            verdict: None,
            reasons: Vec::new(),
            warnings: Vec::new(),
            slos: Vec::new(),
            measured_s: 0.0,
            offered_per_s: 0.0,
            achieved_per_s: 0.0,
            goodput_per_s: 0.0,
            unsent: 0,
            operations: BTreeMap::new(),
            workers: Vec::new(),
            instrument: Instrument {
                workers: 1,
                cpu_share: Some(0.0342),
                process_cpu_share: Some(0.871),
                spin_share: Some(0.0121),
                throttled_share: Some(0.0017),
                null_cost_ns: Some(412),
                stall_truth: Some(StallTruth {
                    truth_p90_ns: 812_000_000,
                    response_p90_ns: 812_650_000,
                    service_p90_ns: 1_204_000,
                }),
                crypto_share: Some(1.31),
                ..Instrument::default()
            },
            device: Some(DeviceResult {
                evaluations: 7_802,
                device_calls: 62_416,
                failures: 3,
                sessions_reopened: 1,
                wrong_answers: 0,
            }),
            quorum: Some(QuorumResult {
                replicas: 3,
                durable: true,
                commits: 14_201,
                fsyncs: 30_117,
                fsync_ns: Quantiles {
                    p50: Some(612_351),
                    p90: Some(1_004_543),
                    p99: Some(2_889_727),
                    p99_9: Some(6_111_231),
                    max: Some(11_337_727),
                },
                file_system: text("ext4"),
            }),
            faults: self.faults(),
            violations: Vec::new(),
            violations_count: 0,
            errors: Vec::new(),
            provenance: provenance(),
        }
    }

    fn faults(&self) -> Vec<FaultMark> {
        self.stall_s
            .map(|(from, to)| FaultMark {
                what: "pause replica:1".to_owned(),
                at_s: f64::from(u32::try_from(from).expect("small")),
                until_s: Some(f64::from(u32::try_from(to).expect("small"))),
                recovery: Some(Recovery {
                    time_to_recover_ns: Some(2_041_000_000),
                    longest_gap_ns: 2_003_000_000,
                    failed: 12,
                }),
            })
            .into_iter()
            .collect()
    }
}

fn provenance() -> Provenance {
    let text = str::to_owned;
    Provenance {
        version: text("0.1.0"),
        revision: text("4f1c2aa9d3b0"),
        build: text("release"),
        cpu: text("Sample processor, 2.6 GHz"),
        cores: 2,
        cpu_flags: text("aes avx2 bmi2 sha_ni"),
        vector_backend: text("avx2"),
        memory_mib: 7_953,
        kernel: text("Linux 6.1.0"),
        governor: text("unknown"),
        clock: text("tsc"),
        command: text("vaultmark run scenarios/sample.toml --hsm softhsm --seed 42"),
    }
}
