//! What the engine hands over each second: what it counted since the last time, lent, not copied.
//!
//! Operations, outcomes and stages are indices into the run's [`Shape`]: only their names, never
//! their meaning, are known here.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::phase::Phase;
use crate::stages::StageBins;

/// What there is to count in a run. The order of the names is the order of every view.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Operations. Those that a run never offers may stand here: they are left out of its results.
    pub operations: Vec<String>,
    /// Outcomes.
    pub outcomes: Vec<String>,
    /// Stages of an operation; empty for targets that have none.
    pub stages: Vec<String>,
    /// `expected[operation][outcome]`: whether the operation is supposed to end so.
    pub expected: Vec<Vec<bool>>,
}

impl Shape {
    /// Whether the lists fit each other and every name can stand in a log's tag.
    pub(crate) fn is_sound(&self) -> bool {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        let sound = |name: &String| !name.is_empty() && name.chars().all(fits);
        let names = [&self.operations, &self.outcomes, &self.stages];
        names.into_iter().flatten().all(sound)
            && self.expected.len() == self.operations.len()
            && self.expected.iter().all(|row| row.len() == self.outcomes.len())
    }
}

/// One interval of a run, some second long. Every figure is of this interval alone.
#[derive(Clone, Debug)]
pub struct Interval<'a> {
    /// Its start, from the start of the run (of warm-up).
    pub start: Duration,
    /// Its length.
    pub length: Duration,
    /// The phase that it starts in.
    pub phase: Phase,
    /// How much of it lies in the measurement phase: rates are over the sum of these.
    pub measured: Duration,
    /// Times of the operations that ended in this interval, whatever phase they belong to. Empty
    /// cells may be left out.
    pub cells: Vec<Cell<'a>>,
    /// Stages of measured operations that ended as expected; empty ones may be left out.
    pub stages: Vec<OperationStages<'a>>,
    /// Send − intended start of the measured operations that found in-flight room free.
    pub lateness: &'a Histogram<u64>,
    /// Arrivals whose intended start lies in this interval, or which were given up in it.
    pub counts: Vec<Counts>,
    /// What ended, and what ended as expected, while the measurement phase lasted.
    pub window: Window,
    /// Operations sent and unanswered at the end of the interval.
    pub in_flight: u64,
    /// Arrivals waiting at the end of the interval.
    pub backlog: u64,
    /// Samples above the histograms' bound, of all histograms lent here.
    pub clipped: u64,
    /// What went wrong, all phases.
    pub errors: Vec<ErrorText<'a>>,
}

/// Operations of every kind that ended, by the clock, within the measurement phase, whenever they
/// were intended: achieved rate and goodput are sums of these over the measured time. Counting what
/// was *intended* in the phase instead, however late it ended, would let a saturated target that
/// finishes its backlog during the drain look as if it had kept up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// However they ended; one that timed out has not.
    pub ended: u64,
    /// As expected.
    pub good: u64,
}

/// The operations of one kind and phase that ended in one way.
#[derive(Clone, Copy, Debug)]
pub struct Cell<'a> {
    /// Index into [`Shape::operations`].
    pub operation: usize,
    /// Phase of their intended starts.
    pub phase: Phase,
    /// Index into [`Shape::outcomes`].
    pub outcome: usize,
    /// Completion − intended start.
    pub response: &'a Histogram<u64>,
    /// Completion − send; as many as `response`.
    pub service: &'a Histogram<u64>,
    /// Send − intended start; as many as `response`.
    pub dispatch_delay: &'a Histogram<u64>,
}

impl<'a> Cell<'a> {
    /// The three, in the order of [`crate::slo::Time::ALL`].
    pub(crate) const fn times(&self) -> [&'a Histogram<u64>; 3] {
        [self.response, self.service, self.dispatch_delay]
    }
}

/// Where the time of one operation went.
#[derive(Clone, Copy, Debug)]
pub struct OperationStages<'a> {
    /// Index into [`Shape::operations`].
    pub operation: usize,
    /// Sums by service time, from which the means come.
    pub bins: &'a StageBins,
    /// One histogram a stage, in the order of [`Shape::stages`]; for the log alone.
    pub histograms: &'a [Histogram<u64>],
}

/// Arrivals of one operation and phase (of their intended start).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Index into [`Shape::operations`].
    pub operation: usize,
    /// Phase of their intended starts.
    pub phase: Phase,
    /// Intended: sent, waiting and unsent alike, each counted once, when its start comes.
    pub intended: u64,
    /// Never sent because the target left no room in flight and none in the backlog.
    pub unsent_no_room: u64,
    /// Never sent though there was room.
    pub unsent_instrument: u64,
    /// Sent, but only after waiting for room in flight.
    pub waited_for_room: u64,
}

impl Counts {
    /// Whether nothing was counted.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.intended == 0
            && self.unsent_no_room == 0
            && self.unsent_instrument == 0
            && self.waited_for_room == 0
    }
}

/// One kind of error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorText<'a> {
    /// Index into [`Shape::operations`].
    pub operation: usize,
    /// Index into [`Shape::outcomes`].
    pub outcome: usize,
    /// The text.
    pub error: &'a str,
    /// How often.
    pub count: u64,
}
