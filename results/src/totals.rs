//! What a run came to: every interval added up, and from that the figures of `run.json`. What they
//! are worth is `judge.rs`.
//!
//! The same sums come from the engine's intervals while a run goes on and from its logs when it is
//! opened again; both add through here, so both give the same figures.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::hist::{self, new_histogram};
use crate::interval::{Counts, Interval, Shape, Window};
use crate::judge;
use crate::model::{ErrorCount, OperationResult, OutcomeResult, Quantiles, Run};
use crate::phase::Phase;
use crate::slo::{Rule, Time};
use crate::stages::{StageBins, StageMeans};
use crate::units::float;

/// Distinct errors that are kept apart; the rest are counted together. An error text with a number
/// in it would otherwise grow the bundle without end.
const ERRORS_MAX: usize = 200;

/// What the errors beyond [`ERRORS_MAX`] are called.
const OTHER_ERRORS: &str = "(other errors)";

/// The share of operations whose stages are told apart as the slowest.
const SLOWEST: f64 = 0.01;

/// What a run is judged by. Fixed before it starts, and kept in its bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// What there is to count.
    pub shape: Shape,
    /// Rules of the scenario and the command line.
    pub rules: Vec<Rule>,
    /// When the run itself is worth nothing.
    pub validity: Validity,
}

/// When the run itself is worth nothing: the instrument was at fault.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Validity {
    /// Largest share of arrivals that the instrument failed to send though there was room.
    pub unsent_share_max: f64,
    /// Lateness p99 may always be this, nanoseconds.
    pub lateness_floor_ns: u64,
    /// Or this share of response p99, if that is more.
    pub lateness_share_max: f64,
    /// Largest share of the run that sending threads may be runnable but not run.
    pub throttled_share_max: f64,
    /// Whether a run is worth something that lost a worker: its figures are of the others then.
    #[serde(default)]
    pub goes_on_without_lost_workers: bool,
}

/// The three times of the operations that ended in one way.
#[derive(Clone, Debug)]
pub struct Times {
    /// Completion − intended start.
    pub response: Histogram<u64>,
    /// Completion − send.
    pub service: Histogram<u64>,
    /// Send − intended start.
    pub dispatch_delay: Histogram<u64>,
}

impl Times {
    fn empty() -> Self {
        let empty = new_histogram;
        Self { response: empty(), service: empty(), dispatch_delay: empty() }
    }

    /// One of the three.
    #[must_use]
    pub const fn of(&self, time: Time) -> &Histogram<u64> {
        match time {
            Time::Response => &self.response,
            Time::Service => &self.service,
            Time::DispatchDelay => &self.dispatch_delay,
        }
    }

    const fn of_mut(&mut self, time: Time) -> &mut Histogram<u64> {
        match time {
            Time::Response => &mut self.response,
            Time::Service => &mut self.service,
            Time::DispatchDelay => &mut self.dispatch_delay,
        }
    }
}

/// The measurement phase of a run, added up.
#[derive(Clone, Debug)]
pub struct Totals {
    terms: Terms,
    measured: Duration,
    window: Window,
    operations: Vec<OperationTotals>,
    lateness: Histogram<u64>,
    clipped: u64,
    /// By operation, outcome and text; all phases.
    errors: BTreeMap<(usize, usize, String), u64>,
}

#[derive(Clone, Debug)]
struct OperationTotals {
    counts: Arrivals,
    /// By outcome; made when the first operation ends so, for most never do.
    outcomes: Vec<Option<Box<Times>>>,
    stages: StageBins,
}

/// Arrivals of the measurement phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Arrivals {
    pub(crate) intended: u64,
    pub(crate) unsent_no_room: u64,
    pub(crate) unsent_instrument: u64,
    pub(crate) waited_for_room: u64,
    /// Ended, however they did.
    pub(crate) completed: u64,
    /// Ended as expected.
    pub(crate) expected: u64,
}

impl Arrivals {
    pub(crate) const fn unsent(&self) -> u64 {
        self.unsent_no_room + self.unsent_instrument
    }

    /// Intended, and not ended as expected: otherwise, never sent, or unanswered to the last.
    pub(crate) const fn unexpected(&self) -> u64 {
        self.intended.saturating_sub(self.expected)
    }

    const fn add(&mut self, more: &Self) {
        self.intended += more.intended;
        self.unsent_no_room += more.unsent_no_room;
        self.unsent_instrument += more.unsent_instrument;
        self.waited_for_room += more.waited_for_room;
        self.completed += more.completed;
        self.expected += more.expected;
    }
}

impl Totals {
    /// Nothing yet.
    ///
    /// # Panics
    /// The lists of the shape don't fit each other, or a name is not of `[a-z0-9_-]`.
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        assert!(terms.shape.is_sound(), "the shape's lists fit each other: {:?}", terms.shape);
        let operation = OperationTotals {
            counts: Arrivals::default(),
            outcomes: vec![None; terms.shape.outcomes.len()],
            stages: StageBins::new(terms.shape.stages.len()),
        };
        Self {
            operations: vec![operation; terms.shape.operations.len()],
            terms,
            measured: Duration::ZERO,
            window: Window::default(),
            lateness: new_histogram(),
            clipped: 0,
            errors: BTreeMap::new(),
        }
    }

    /// Adds an interval.
    ///
    /// # Panics
    /// An index lies outside the shape, or the three times of a cell differ in number.
    pub fn add(&mut self, interval: &Interval<'_>) {
        self.add_measured(interval.measured, interval.window, interval.clipped);
        for cell in &interval.cells {
            let lens = [cell.response.len(), cell.service.len(), cell.dispatch_delay.len()];
            assert!(lens == [lens[0]; 3], "an operation has all three times: {lens:?}");
            for (time, histogram) in Time::ALL.into_iter().zip(cell.times()) {
                self.add_times(cell.operation, cell.phase, cell.outcome, time, histogram);
            }
        }
        for stages in &interval.stages {
            self.stage_bins(stages.operation).add(stages.bins);
        }
        self.add_lateness(interval.lateness);
        for counts in &interval.counts {
            self.add_counts(counts);
        }
        for error in &interval.errors {
            self.add_error(error.operation, error.outcome, error.error, error.count);
        }
    }

    /// What the run is judged by.
    #[must_use]
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// How long the measurement phase has been going on.
    #[must_use]
    pub const fn measured(&self) -> Duration {
        self.measured
    }

    /// Times of the measured operations that ended in one way, by name; `None` if none did.
    #[must_use]
    pub fn times(&self, operation: &str, outcome: &str) -> Option<&Times> {
        let position = |names: &[String], name| names.iter().position(|known| known == name);
        let operation = position(&self.terms.shape.operations, operation)?;
        let outcome = position(&self.terms.shape.outcomes, outcome)?;
        self.operations[operation].outcomes[outcome].as_deref()
    }

    /// One time of the measured operations of a kind that ended as expected, and how many were
    /// intended: what [`hist::quantile_over`] and [`hist::curve`] take. `None` if none was.
    #[must_use]
    pub fn intended(&self, operation: &str, time: Time) -> Option<(Histogram<u64>, u64)> {
        let index = self.terms.shape.operations.iter().position(|known| known == operation)?;
        let intended = self.arrivals(index).intended;
        (intended > 0).then(|| (self.sum(Some(index), time, true), intended))
    }

    /// Lateness of the measured operations.
    #[must_use]
    pub const fn lateness(&self) -> &Histogram<u64> {
        &self.lateness
    }

    /// Stage sums of the measured operations of a kind.
    #[must_use]
    pub fn stages(&self, operation: &str) -> Option<&StageBins> {
        let index = self.terms.shape.operations.iter().position(|known| known == operation)?;
        Some(&self.operations[index].stages)
    }

    /// Fills in what follows from the sums: rates, operations, rules, errors, the counted part of
    /// the instrument, verdict and reasons; warnings are added to those already there. Everything
    /// else must be filled in before, `cut_short` and the rest of `instrument`, `device` and
    /// `quorum` above all: the verdict looks at them. Takes a run that was not summarised yet.
    pub fn summarise(&self, run: &mut Run) {
        let all = self.all_arrivals();
        let seconds = self.measured.as_secs_f64();
        let rate = |n: u64| if seconds > 0.0 { float(n) / seconds } else { 0.0 };
        run.measured_s = seconds;
        run.offered_per_s = rate(all.intended);
        run.achieved_per_s = rate(self.window.ended);
        run.goodput_per_s = rate(self.window.good);
        run.unsent = all.unsent();
        run.operations = self.operation_results();
        run.instrument.lateness_ns = Quantiles::of(&self.lateness);
        run.instrument.waited_for_room = all.waited_for_room;
        run.instrument.unsent_no_room = all.unsent_no_room;
        run.instrument.unsent_instrument = all.unsent_instrument;
        run.instrument.clipped = self.clipped;
        run.errors = self.error_counts();
        judge::judge(self, run);
    }

    /// Arrivals of one operation.
    pub(crate) fn arrivals(&self, operation: usize) -> Arrivals {
        let totals = &self.operations[operation];
        let mut arrivals = totals.counts;
        let expected = &self.terms.shape.expected[operation];
        for (times, expected) in totals.outcomes.iter().zip(expected) {
            let count = times.as_ref().map_or(0, |times| times.response.len());
            arrivals.completed += count;
            arrivals.expected += if *expected { count } else { 0 };
        }
        arrivals
    }

    /// Arrivals of all operations.
    pub(crate) fn all_arrivals(&self) -> Arrivals {
        (0..self.operations.len()).fold(Arrivals::default(), |mut sum, operation| {
            sum.add(&self.arrivals(operation));
            sum
        })
    }

    /// One time of one operation, or of all, over the outcomes that are expected, or over all.
    pub(crate) fn sum(
        &self,
        operation: Option<usize>,
        time: Time,
        expected_only: bool,
    ) -> Histogram<u64> {
        let mut sum = new_histogram();
        for (index, totals) in self.operations.iter().enumerate() {
            if operation.is_some_and(|wanted| wanted != index) {
                continue;
            }
            for (times, expected) in totals.outcomes.iter().zip(&self.terms.shape.expected[index]) {
                if let Some(times) = times.as_ref().filter(|_| *expected || !expected_only) {
                    hist::add(&mut sum, times.of(time));
                }
            }
        }
        sum
    }

    /// What ended while the measurement phase lasted.
    pub(crate) const fn window(&self) -> Window {
        self.window
    }

    pub(crate) const fn clipped(&self) -> u64 {
        self.clipped
    }

    pub(crate) fn add_measured(&mut self, measured: Duration, window: Window, clipped: u64) {
        self.measured += measured;
        self.window.ended += window.ended;
        self.window.good += window.good;
        self.clipped += clipped;
    }

    pub(crate) fn add_times(
        &mut self,
        operation: usize,
        phase: Phase,
        outcome: usize,
        time: Time,
        histogram: &Histogram<u64>,
    ) {
        if phase == Phase::Measure && !histogram.is_empty() {
            let times = self.operations[operation].outcomes[outcome]
                .get_or_insert_with(|| Box::new(Times::empty()));
            hist::add(times.of_mut(time), histogram);
        }
    }

    pub(crate) fn stage_bins(&mut self, operation: usize) -> &mut StageBins {
        &mut self.operations[operation].stages
    }

    pub(crate) fn add_lateness(&mut self, lateness: &Histogram<u64>) {
        hist::add(&mut self.lateness, lateness);
    }

    pub(crate) fn add_counts(&mut self, counts: &Counts) {
        if counts.phase == Phase::Measure {
            self.operations[counts.operation].counts.add(&Arrivals {
                intended: counts.intended,
                unsent_no_room: counts.unsent_no_room,
                unsent_instrument: counts.unsent_instrument,
                waited_for_room: counts.waited_for_room,
                ..Arrivals::default()
            });
        }
    }

    pub(crate) fn add_error(&mut self, operation: usize, outcome: usize, error: &str, count: u64) {
        let mut key = (operation, outcome, error.to_owned());
        if !self.errors.contains_key(&key) && self.errors.len() >= ERRORS_MAX {
            OTHER_ERRORS.clone_into(&mut key.2);
        }
        *self.errors.entry(key).or_default() += count;
    }

    fn operation_results(&self) -> BTreeMap<String, OperationResult> {
        let names = &self.terms.shape.operations;
        (0..names.len())
            .filter(|index| self.arrivals(*index).intended > 0)
            .map(|index| (names[index].clone(), self.operation_result(index)))
            .collect()
    }

    fn operation_result(&self, index: usize) -> OperationResult {
        let shape = &self.terms.shape;
        let totals = &self.operations[index];
        let arrivals = self.arrivals(index);
        let outcome = |(outcome, times): (usize, &Option<Box<Times>>)| {
            let times = times.as_deref()?;
            let result = OutcomeResult {
                count: times.response.len(),
                expected: shape.expected[index][outcome],
                response_ns: Quantiles::of(&times.response),
                service_ns: Quantiles::of(&times.service),
                dispatch_delay_ns: Quantiles::of(&times.dispatch_delay),
            };
            Some((shape.outcomes[outcome].clone(), result))
        };
        let named = |means: &Option<StageMeans>| {
            let means = means.iter().flat_map(|means| means.stages_ns.iter().copied());
            shape.stages.iter().cloned().zip(means).collect()
        };
        let slowest = totals.stages.slowest(SLOWEST);
        let response = self.sum(Some(index), Time::Response, true);
        OperationResult {
            intended: arrivals.intended,
            unexpected: arrivals.unexpected(),
            response_intended_ns: Quantiles::over(&response, arrivals.intended),
            stages_mean_ns: named(&totals.stages.means()),
            stages_mean_slowest_ns: named(&slowest),
            slowest_count: slowest.map_or(0, |means| means.count),
            outcomes: totals.outcomes.iter().enumerate().filter_map(outcome).collect(),
        }
    }

    fn error_counts(&self) -> Vec<ErrorCount> {
        let shape = &self.terms.shape;
        let mut errors: Vec<ErrorCount> = self
            .errors
            .iter()
            .map(|((operation, outcome, error), count)| ErrorCount {
                operation: shape.operations[*operation].clone(),
                outcome: shape.outcomes[*outcome].clone(),
                error: error.clone(),
                count: *count,
            })
            .collect();
        // Stable, so that equally frequent ones keep the order of operations, outcomes and texts.
        errors.sort_by_key(|error| std::cmp::Reverse(error.count));
        errors
    }
}
