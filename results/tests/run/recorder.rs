//! A recorder for tests: samples in, intervals out, as the engine lends them.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use vaultmark_results::hist::{new_histogram, record};
use vaultmark_results::interval::Window;
use vaultmark_results::model::{Instrument, Provenance, SCHEMA_VERSION, State};
use vaultmark_results::{
    Cell, Counts, ErrorText, Interval, OperationStages, Phase, Rule, Run, Shape, StageBins, Terms,
    Validity,
};

/// Two operations, three outcomes, two stages.
pub(crate) fn shape() -> Shape {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Shape {
        operations: names(&["recover", "recover-wrong"]),
        outcomes: names(&["complete", "refused", "timed_out"]),
        stages: names(&["server", "client"]),
        expected: vec![vec![true, false, false], vec![false, true, false]],
    }
}

/// Terms with these rules and the limits of a scenario that names none.
pub(crate) fn terms(rules: &[&str]) -> Terms {
    Terms {
        shape: shape(),
        rules: rules.iter().map(|rule| Rule::parse(rule).expect("a rule")).collect(),
        validity: Validity {
            unsent_share_max: 0.001,
            lateness_floor_ns: 1_000_000,
            lateness_share_max: 0.05,
            throttled_share_max: 0.05,
            goes_on_without_lost_workers: false,
        },
    }
}

/// A run that has not begun.
pub(crate) fn run() -> Run {
    Run {
        schema_version: SCHEMA_VERSION,
        run_id: "20261121T000000Z-test-0001".to_owned(),
        bundle: "results/runs/20261121T000000Z-test-0001".to_owned(),
        scenario: "test".to_owned(),
        question: "Does it add up?".to_owned(),
        seed: 42,
        target: "stalled target".to_owned(),
        loads: Vec::new(),
        hsm: None,
        fidelity: "none".to_owned(),
        stretching: None,
        connections: None,
        started_at: "2026-11-21T00:00:00Z".to_owned(),
        state: State::Running,
        cut_short: false,
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
        instrument: Instrument { workers: 1, ..Instrument::default() },
        workers: Vec::new(),
        device: None,
        quorum: None,
        faults: Vec::new(),
        violations: Vec::new(),
        violations_count: 0,
        errors: Vec::new(),
        provenance: Provenance::default(),
    }
}

/// One operation that ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) operation: usize,
    pub(crate) outcome: usize,
    pub(crate) phase: Phase,
    pub(crate) dispatch_ns: u64,
    pub(crate) service_ns: u64,
    /// Whether it waited for room in flight: then its dispatch delay is not lateness.
    pub(crate) waited: bool,
}

/// What was counted in one interval.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) start: Duration,
    pub(crate) length: Duration,
    pub(crate) measured: Duration,
    pub(crate) phase: Phase,
    pub(crate) clipped: u64,
    pub(crate) window: Window,
    pub(crate) lateness: Histogram<u64>,
    pub(crate) counts: Vec<Counts>,
    pub(crate) errors: Vec<(usize, usize, String, u64)>,
    cells: Vec<(usize, Phase, usize, [Histogram<u64>; 3])>,
    stages: Vec<(usize, StageBins, Vec<Histogram<u64>>)>,
}

impl Recorded {
    /// Second number n (from 0) of a run without warm-up; each sample is also counted as intended.
    pub(crate) fn second(n: u64, samples: &[Sample]) -> Self {
        let mut recorded = Self {
            start: Duration::from_secs(n),
            length: Duration::from_secs(1),
            measured: Duration::from_secs(1),
            phase: Phase::Measure,
            clipped: 0,
            window: Window::default(),
            lateness: new_histogram(),
            counts: Vec::new(),
            errors: Vec::new(),
            cells: Vec::new(),
            stages: Vec::new(),
        };
        for sample in samples {
            recorded.add(sample);
        }
        recorded
    }

    fn add(&mut self, sample: &Sample) {
        let shape = shape();
        let Sample { operation, outcome, phase, dispatch_ns, service_ns, waited } = *sample;
        let counts = self.counts_of(operation, phase);
        counts.intended += 1;
        counts.waited_for_room += u64::from(waited);
        let key = |cell: &(usize, Phase, usize, _)| (cell.0, cell.1, cell.2);
        let wanted = (operation, phase, outcome);
        if !self.cells.iter().any(|cell| key(cell) == wanted) {
            let empty = [new_histogram(), new_histogram(), new_histogram()];
            self.cells.push((operation, phase, outcome, empty));
        }
        let cell = self.cells.iter_mut().find(|cell| key(cell) == wanted).expect("pushed above");
        let times = [dispatch_ns + service_ns, service_ns, dispatch_ns];
        for (histogram, ns) in cell.3.iter_mut().zip(times) {
            self.clipped += u64::from(record(histogram, ns));
        }
        if phase != Phase::Measure {
            return;
        }
        // As if every measured operation ended before its phase did.
        self.window.ended += 1;
        self.window.good += u64::from(shape.expected[operation][outcome]);
        if !waited {
            self.clipped += u64::from(record(&mut self.lateness, dispatch_ns));
        }
        if shape.expected[operation][outcome] {
            if !self.stages.iter().any(|stages| stages.0 == operation) {
                let histograms = vec![new_histogram(), new_histogram()];
                self.stages.push((operation, StageBins::new(2), histograms));
            }
            let stages =
                self.stages.iter_mut().find(|stages| stages.0 == operation).expect("pushed above");
            let parts = [service_ns / 3, service_ns - service_ns / 3];
            stages.1.record(service_ns, &parts);
            for (histogram, ns) in stages.2.iter_mut().zip(parts) {
                self.clipped += u64::from(record(histogram, ns));
            }
        }
    }

    /// The counts of an operation and phase, made if there are none.
    pub(crate) fn counts_of(&mut self, operation: usize, phase: Phase) -> &mut Counts {
        let wanted = (operation, phase);
        let found =
            self.counts.iter().position(|counts| (counts.operation, counts.phase) == wanted);
        let index = found.unwrap_or_else(|| {
            self.counts.push(Counts {
                operation,
                phase,
                intended: 0,
                unsent_no_room: 0,
                unsent_instrument: 0,
                waited_for_room: 0,
            });
            self.counts.len() - 1
        });
        &mut self.counts[index]
    }

    /// As the engine lends it.
    pub(crate) fn lend(&self) -> Interval<'_> {
        let cells = self.cells.iter().map(|(operation, phase, outcome, times)| {
            let [response, service, dispatch_delay] = times;
            let (operation, phase, outcome) = (*operation, *phase, *outcome);
            Cell { operation, phase, outcome, response, service, dispatch_delay }
        });
        let stages = self.stages.iter().map(|(operation, bins, histograms)| OperationStages {
            operation: *operation,
            bins,
            histograms,
        });
        let errors = self.errors.iter().map(|(operation, outcome, error, count)| ErrorText {
            operation: *operation,
            outcome: *outcome,
            error,
            count: *count,
        });
        Interval {
            start: self.start,
            length: self.length,
            phase: self.phase,
            measured: self.measured,
            cells: cells.collect(),
            stages: stages.collect(),
            lateness: &self.lateness,
            counts: self.counts.clone(),
            window: self.window,
            in_flight: 3,
            backlog: 0,
            clipped: self.clipped,
            errors: errors.collect(),
        }
    }
}
