//! What a worker saw, second by second.
//!
//! Everything is made before the run; recording allocates nothing and shares nothing. Once a second
//! the worker hands its [`IntervalSet`] over and gets a cleared one back. Only this file fills
//! histograms; what is merged from them, and how it is judged, belongs to `results`.

use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use vaultmark_hsm::{Moment, clock::nanos};
use vaultmark_results::hist;
use vaultmark_results::interval::Window;
use vaultmark_results::phase::Phase;
use vaultmark_results::stages::StageBins;
use vaultmark_results::{Interval, Shape, interval};
use vaultmark_targets::{Operation, Outcome, Reply, Stage};

/// Length of an interval: what views over time are drawn from.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// Distinct error texts kept a second; a target that invents more has them counted together.
const ERRORS_MAX: usize = 64;

const PHASES: usize = Phase::ALL.len();
const OPERATIONS: usize = Operation::ALL.len();
const OUTCOMES: usize = Outcome::ALL.len();
const STAGES: usize = Stage::ALL.len();

/// One operation's end.
#[derive(Debug)]
pub struct Sample<'a> {
    /// By intended start.
    pub phase: Phase,
    /// What it was.
    pub operation: Operation,
    /// When it was supposed to start.
    pub intended: Moment,
    /// When it was sent.
    pub sent: Moment,
    /// When its reply was taken in.
    pub completed: Moment,
    /// How it ended.
    pub reply: &'a Reply,
}

/// The three histograms of one (phase, operation, outcome).
#[derive(Debug)]
pub struct Cell {
    /// Completion − intended start.
    pub response: Histogram<u64>,
    /// Completion − send.
    pub service: Histogram<u64>,
    /// Send − intended start.
    pub dispatch_delay: Histogram<u64>,
}

/// Arrivals of one (phase, operation) by what became of them before they were sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Intended starts that have passed.
    pub intended: u64,
    /// Never sent: no room in flight nor in the backlog.
    pub unsent_no_room: u64,
    /// Never sent though there was room.
    pub unsent_instrument: u64,
    /// Waited in the backlog for room in flight.
    pub waited_for_room: u64,
}

/// An error's text and how often it was met.
#[derive(Clone, Debug)]
pub struct ErrorTally {
    /// Operation.
    pub operation: Operation,
    /// Outcome.
    pub outcome: Outcome,
    /// The text.
    pub error: Arc<str>,
    /// How often.
    pub count: u64,
}

/// Everything one worker saw in one interval.
#[derive(Debug)]
pub struct IntervalSet {
    /// Start of the interval.
    pub from: Moment,
    /// End of the interval.
    pub to: Moment,
    cells: Vec<Cell>,
    /// One histogram a stage and operation; measured operations that ended as expected.
    pub stages: [[Histogram<u64>; STAGES]; OPERATIONS],
    /// Stage sums by service time; the same operations.
    pub bins: [StageBins; OPERATIONS],
    /// Our own lateness, measurement phase.
    pub lateness: Histogram<u64>,
    counts: [[Counts; OPERATIONS]; PHASES],
    /// What ended while the measurement phase lasted.
    pub window: Window,
    /// Error texts.
    pub errors: Vec<ErrorTally>,
    /// Samples above the histograms' bound, counted at the bound.
    pub clipped: u64,
    /// Operations in flight at the end of the interval.
    pub in_flight: usize,
    /// Arrivals in the backlog at the end of the interval.
    pub backlog: usize,
}

/// Takes a full interval and gives an empty one back.
pub trait Exchange {
    /// `full` is whole seconds of one worker. If no empty set is at hand, `full` comes back as it
    /// was and goes on being filled: nothing is lost, the interval only becomes longer.
    fn exchange(&mut self, full: Box<IntervalSet>) -> Box<IntervalSet>;

    /// The run is over: takes the last set.
    fn last(&mut self, full: Box<IntervalSet>);
}

/// Fills interval sets.
#[derive(Debug)]
pub struct Recorder<E> {
    /// Taken out only within [`Recorder::close_interval`].
    set: Option<Box<IntervalSet>>,
    exchange: E,
    measure_from: Moment,
    measure_to: Moment,
}

impl<E: Exchange> Recorder<E> {
    /// A recorder for a run that starts at `start` and measures from `measure_from` to `measure_to`.
    #[must_use]
    pub fn new(exchange: E, start: Moment, measure_from: Moment, measure_to: Moment) -> Self {
        let mut set = Box::new(IntervalSet::new());
        set.from = start;
        Self { set: Some(set), exchange, measure_from, measure_to }
    }

    fn set(&mut self) -> &mut IntervalSet {
        self.set.as_mut().expect("a set is only ever away inside close_interval")
    }

    fn counts(&mut self, phase: Phase, operation: Operation) -> &mut Counts {
        &mut self.set().counts[phase.index()][operation.index()]
    }

    /// An arrival's intended start has passed.
    pub fn intended(&mut self, phase: Phase, operation: Operation) {
        self.counts(phase, operation).intended += 1;
    }

    /// An arrival is not sent for want of room in flight and in the backlog.
    pub fn unsent_no_room(&mut self, phase: Phase, operation: Operation) {
        self.counts(phase, operation).unsent_no_room += 1;
    }

    /// An arrival is not sent though there was room.
    pub fn unsent_instrument(&mut self, phase: Phase, operation: Operation) {
        self.counts(phase, operation).unsent_instrument += 1;
    }

    /// An arrival waits for room in flight.
    pub fn waited_for_room(&mut self, phase: Phase, operation: Operation) {
        self.counts(phase, operation).waited_for_room += 1;
    }

    /// An arrival is sent so much later than it could have been.
    pub fn lateness(&mut self, phase: Phase, late: Duration) {
        if phase == Phase::Measure {
            let set = self.set();
            set.clipped += u64::from(hist::record(&mut set.lateness, nanos(late)));
        }
    }

    /// An operation has ended.
    pub fn ended(&mut self, sample: &Sample<'_>) {
        let (from, to) = (self.measure_from, self.measure_to);
        let Sample { phase, operation, intended, sent, completed, reply } = *sample;
        let outcome = reply.outcome;
        let expected = operation.expects(outcome);
        let service_ns = nanos(completed.since(sent));
        let set = self.set();
        let cell = &mut set.cells[place(phase, operation, outcome)];
        let mut clipped = hist::record(&mut cell.response, nanos(completed.since(intended)));
        clipped |= hist::record(&mut cell.service, service_ns);
        clipped |= hist::record(&mut cell.dispatch_delay, nanos(sent.since(intended)));
        set.clipped += u64::from(clipped);
        // Giving up on an operation is no completion: a target that is gone achieves nothing.
        if outcome != Outcome::TimedOut && completed >= from && completed < to {
            set.window.ended += 1;
            set.window.good += u64::from(expected);
        }
        if phase == Phase::Measure && expected && reply.stages.total_ns() > 0 {
            let times = Stage::ALL.map(|stage| reply.stages.ns(stage));
            for (histogram, ns) in set.stages[operation.index()].iter_mut().zip(times) {
                hist::record(histogram, ns);
            }
            set.bins[operation.index()].record(service_ns, &times);
        }
        if let Some(error) = &reply.error {
            set.tally(operation, outcome, error);
        }
    }

    /// Ends the interval at `now` and begins the next.
    pub fn close_interval(&mut self, now: Moment, in_flight: usize, backlog: usize) {
        let Some(full) = self.full(now, in_flight, backlog) else { return };
        let mut next = self.exchange.exchange(full);
        if next.is_empty() {
            next.from = now;
        }
        self.set = Some(next);
    }

    /// Ends the last interval at `now`.
    pub fn finish(mut self, now: Moment) {
        if let Some(full) = self.full(now, 0, 0) {
            self.exchange.last(full);
        }
    }

    fn full(&mut self, now: Moment, in_flight: usize, backlog: usize) -> Option<Box<IntervalSet>> {
        let mut full = self.set.take()?;
        full.to = now;
        (full.in_flight, full.backlog) = (in_flight, backlog);
        Some(full)
    }
}

impl IntervalSet {
    /// An empty set. Its pages are only touched once something is recorded.
    #[must_use]
    pub fn new() -> Self {
        let histogram = hist::new_histogram;
        let cell =
            || Cell { response: histogram(), service: histogram(), dispatch_delay: histogram() };
        Self {
            from: Moment::ZERO,
            to: Moment::ZERO,
            cells: std::iter::repeat_with(cell).take(PHASES * OPERATIONS * OUTCOMES).collect(),
            stages: std::array::from_fn(|_| std::array::from_fn(|_| histogram())),
            bins: std::array::from_fn(|_| StageBins::new(STAGES)),
            lateness: histogram(),
            counts: <[[Counts; OPERATIONS]; PHASES]>::default(),
            window: Window::default(),
            errors: Vec::with_capacity(ERRORS_MAX),
            clipped: 0,
            in_flight: 0,
            backlog: 0,
        }
    }

    /// Whether nothing was recorded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.to == Moment::ZERO
    }

    /// The histograms of what occurred.
    pub fn cells(&self) -> impl Iterator<Item = (Phase, Operation, Outcome, &Cell)> {
        each().filter_map(|(phase, operation, outcome)| {
            let cell = &self.cells[place(phase, operation, outcome)];
            (!cell.response.is_empty()).then_some((phase, operation, outcome, cell))
        })
    }

    /// What became of the arrivals of one phase and operation.
    #[must_use]
    pub const fn counts(&self, phase: Phase, operation: Operation) -> Counts {
        self.counts[phase.index()][operation.index()]
    }

    /// Lends everything to `results`. `start` is the start of the run, `measure` the ends of its
    /// measurement phase.
    #[must_use]
    pub fn lend(&self, start: Moment, measure: (Moment, Moment)) -> Interval<'_> {
        let (from, to) = measure;
        let phase = if self.from < from {
            Phase::WarmUp
        } else if self.from < to {
            Phase::Measure
        } else {
            Phase::CoolDown
        };
        let cells = self.cells().map(|(phase, operation, outcome, cell)| interval::Cell {
            operation: operation.index(),
            phase,
            outcome: outcome.index(),
            response: &cell.response,
            service: &cell.service,
            dispatch_delay: &cell.dispatch_delay,
        });
        let stages = Operation::ALL.map(Operation::index).into_iter();
        let stages = stages.map(|operation| interval::OperationStages {
            operation,
            bins: &self.bins[operation],
            histograms: &self.stages[operation],
        });
        let counts = Phase::ALL
            .into_iter()
            .flat_map(|phase| Operation::ALL.into_iter().map(move |operation| (phase, operation)));
        let counts = counts.map(|(phase, operation)| {
            let own = self.counts(phase, operation);
            interval::Counts {
                operation: operation.index(),
                phase,
                intended: own.intended,
                unsent_no_room: own.unsent_no_room,
                unsent_instrument: own.unsent_instrument,
                waited_for_room: own.waited_for_room,
            }
        });
        let errors = self.errors.iter().map(|tally| interval::ErrorText {
            operation: tally.operation.index(),
            outcome: tally.outcome.index(),
            error: &tally.error,
            count: tally.count,
        });
        Interval {
            start: self.from.since(start),
            length: self.to.since(self.from),
            phase,
            measured: self.to.min(to).since(self.from.max(from)),
            cells: cells.collect(),
            stages: stages.filter(|one| !one.bins.is_empty()).collect(),
            lateness: &self.lateness,
            counts: counts.filter(|one| !one.is_empty()).collect(),
            window: self.window,
            in_flight: self.in_flight as u64,
            backlog: self.backlog as u64,
            clipped: self.clipped,
            errors: errors.collect(),
        }
    }

    /// Adds what another worker saw in the same interval.
    pub fn add(&mut self, other: &Self) {
        let merge = |into: &mut Histogram<u64>, from: &Histogram<u64>| {
            if !from.is_empty() {
                into.add(from).expect("all histograms have one shape");
            }
        };
        for (into, from) in self.cells.iter_mut().zip(&other.cells) {
            merge(&mut into.response, &from.response);
            merge(&mut into.service, &from.service);
            merge(&mut into.dispatch_delay, &from.dispatch_delay);
        }
        for (into, from) in self.stages.iter_mut().flatten().zip(other.stages.iter().flatten()) {
            merge(into, from);
        }
        for (into, from) in self.bins.iter_mut().zip(&other.bins) {
            into.add(from);
        }
        merge(&mut self.lateness, &other.lateness);
        for (into, from) in self.counts.iter_mut().flatten().zip(other.counts.iter().flatten()) {
            into.intended += from.intended;
            into.unsent_no_room += from.unsent_no_room;
            into.unsent_instrument += from.unsent_instrument;
            into.waited_for_room += from.waited_for_room;
        }
        self.window.ended += other.window.ended;
        self.window.good += other.window.good;
        for error in &other.errors {
            self.tally_many(error.operation, error.outcome, &error.error, error.count);
        }
        self.clipped += other.clipped;
        self.in_flight += other.in_flight;
        self.backlog += other.backlog;
        self.to = self.to.max(other.to);
    }

    /// Forgets everything and keeps the room.
    pub fn clear(&mut self) {
        let clear = |histogram: &mut Histogram<u64>| {
            if !histogram.is_empty() {
                histogram.reset();
            }
        };
        for cell in &mut self.cells {
            clear(&mut cell.response);
            clear(&mut cell.service);
            clear(&mut cell.dispatch_delay);
        }
        self.stages.iter_mut().flatten().for_each(clear);
        self.bins.iter_mut().for_each(StageBins::clear);
        clear(&mut self.lateness);
        self.counts = <[[Counts; OPERATIONS]; PHASES]>::default();
        self.window = Window::default();
        self.errors.clear();
        self.clipped = 0;
        (self.in_flight, self.backlog) = (0, 0);
        (self.from, self.to) = (Moment::ZERO, Moment::ZERO);
    }

    fn tally(&mut self, operation: Operation, outcome: Outcome, error: &Arc<str>) {
        self.tally_many(operation, outcome, error, 1);
    }

    fn tally_many(&mut self, operation: Operation, outcome: Outcome, error: &Arc<str>, more: u64) {
        let same = |one: &&mut ErrorTally| {
            one.operation == operation && one.outcome == outcome && one.error == *error
        };
        if let Some(known) = self.errors.iter_mut().find(same) {
            known.count += more;
        } else if self.errors.len() + 1 < ERRORS_MAX {
            let error = Arc::clone(error);
            self.errors.push(ErrorTally { operation, outcome, error, count: more });
        } else if let Some(rest) = self.errors.get_mut(ERRORS_MAX - 1) {
            rest.count += more;
        } else {
            let error = Arc::from(OTHER_ERRORS);
            self.errors.push(ErrorTally { operation, outcome, error, count: more });
        }
    }
}

/// The text under which errors beyond the limit are counted together, as the first of them.
const OTHER_ERRORS: &str = "errors of further kinds";

/// What there is to count; without stages for targets that have none.
#[must_use]
pub fn shape(has_stages: bool) -> Shape {
    let stages = if has_stages { Stage::ALL.map(Stage::name).to_vec() } else { Vec::new() };
    let expects = |operation: Operation| Outcome::ALL.map(|outcome| operation.expects(outcome));
    Shape {
        operations: Operation::ALL.map(|operation| operation.name().to_owned()).to_vec(),
        outcomes: Outcome::ALL.map(|outcome| outcome.name().to_owned()).to_vec(),
        stages: stages.into_iter().map(str::to_owned).collect(),
        expected: Operation::ALL.map(|operation| expects(operation).to_vec()).to_vec(),
    }
}

impl Default for IntervalSet {
    fn default() -> Self {
        Self::new()
    }
}

const fn place(phase: Phase, operation: Operation, outcome: Outcome) -> usize {
    (phase.index() * OPERATIONS + operation.index()) * OUTCOMES + outcome.index()
}

fn each() -> impl Iterator<Item = (Phase, Operation, Outcome)> {
    Phase::ALL.into_iter().flat_map(|phase| {
        Operation::ALL.into_iter().flat_map(move |operation| {
            Outcome::ALL.into_iter().map(move |outcome| (phase, operation, outcome))
        })
    })
}
