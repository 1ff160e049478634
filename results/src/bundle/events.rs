//! The event stream of a run: what `series.ndjson` keeps, a live page shows and a replay sends
//! again. Counts and sums, so that what is added up later is exact; the quantiles beside them are
//! for looking at and are never added.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::hist;
use crate::interval::{Counts, Interval, Shape, Window};
use crate::model::{FaultMark, Quantiles};
use crate::stages::SparseStageBins;
use crate::totals::Terms;
use crate::units::nanos;

/// One line of `series.ndjson`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// The first line: which run, and what it is judged by.
    Start {
        /// Version of the bundle's format.
        schema_version: u32,
        /// Id of the run.
        run_id: String,
        /// RFC 3339 UTC.
        started_at: String,
        /// What it is judged by.
        terms: Terms,
    },
    /// An interval, some second long.
    Interval(Box<Second>),
    /// A fault that was injected; once more, with `until_s`, when it was undone.
    Fault(FaultMark),
    /// The run has finished.
    End {
        /// Whether it ended before its scenario said.
        cut_short: bool,
    },
    /// Something a newer vaultmark tells; readers pass over it.
    #[serde(other)]
    Unknown,
}

/// One interval as every view of the run over time needs it. Counts are of this interval alone,
/// and over all phases where they don't say which.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// Start, seconds from the start of warm-up.
    pub t_s: f64,
    /// The same, exactly, nanoseconds.
    pub start_ns: u64,
    /// Length, nanoseconds.
    pub length_ns: u64,
    /// How much of it lies in the measurement phase, nanoseconds.
    pub measured_ns: u64,
    /// Name of the [`crate::Phase`] it starts in.
    pub phase: String,
    /// Arrivals whose intended start lies in it.
    pub offered: u64,
    /// Operations that ended in it, however they did.
    pub achieved: u64,
    /// Those that ended as expected.
    pub good: u64,
    /// What ended in it while the measurement phase lasted.
    pub window: Window,
    /// Arrivals given up in it, for want of room or by the instrument's fault.
    pub unsent: u64,
    /// Operations in flight at its end.
    pub in_flight: u64,
    /// Arrivals waiting at its end.
    pub backlog: u64,
    /// Samples above the histograms' bound.
    pub clipped: u64,
    /// Arrivals by operation and phase.
    pub counts: Vec<CountsLine>,
    /// What ended in it, by operation and outcome, all phases.
    pub operations: BTreeMap<String, BTreeMap<String, SecondTimes>>,
    /// Stage sums by operation: measured operations that ended as expected.
    pub stages: BTreeMap<String, SparseStageBins>,
    /// Lengths of the logs once this interval was in them.
    pub logs: LogEnds,
}

/// Arrivals of one operation and phase: [`Counts`] by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountsLine {
    /// Operation.
    pub operation: String,
    /// Phase of the intended starts.
    pub phase: String,
    /// Intended.
    pub intended: u64,
    /// Never sent for want of room.
    pub unsent_no_room: u64,
    /// Never sent though there was room.
    pub unsent_instrument: u64,
    /// Sent after waiting for room.
    pub waited_for_room: u64,
}

/// What ended in one way in one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecondTimes {
    /// How many.
    pub count: u64,
    /// Whether the operation is supposed to end so.
    pub expected: bool,
    /// Completion − intended start.
    pub response_ns: Quantiles,
    /// Completion − send.
    pub service_ns: Quantiles,
}

/// Lengths of the logs, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEnds {
    /// `response.hlog`.
    pub response: u64,
    /// `service.hlog`.
    pub service: u64,
    /// `dispatch.hlog`.
    pub dispatch: u64,
    /// `stages.hlog`.
    pub stages: u64,
    /// `errors.ndjson`.
    pub errors: u64,
}

/// One line of `errors.ndjson`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorLine {
    /// Start of the interval, seconds from the start of warm-up.
    pub t_s: f64,
    /// Operation.
    pub operation: String,
    /// Outcome.
    pub outcome: String,
    /// The text.
    pub error: String,
    /// How often in the interval.
    pub count: u64,
}

impl Second {
    /// What an interval comes to.
    #[must_use]
    pub fn of(interval: &Interval<'_>, shape: &Shape) -> Self {
        let mut second = Self {
            t_s: interval.start.as_secs_f64(),
            start_ns: nanos(interval.start),
            length_ns: nanos(interval.length),
            measured_ns: nanos(interval.measured),
            phase: interval.phase.name().to_owned(),
            window: interval.window,
            in_flight: interval.in_flight,
            backlog: interval.backlog,
            clipped: interval.clipped,
            ..Self::default()
        };
        for counts in interval.counts.iter().filter(|counts| !counts.is_empty()) {
            second.offered += counts.intended;
            second.unsent += counts.unsent_no_room + counts.unsent_instrument;
            second.counts.push(CountsLine::of(counts, shape));
        }
        second.operations = operations(interval, shape);
        for times in second.operations.values().flat_map(BTreeMap::values) {
            second.achieved += times.count;
            second.good += if times.expected { times.count } else { 0 };
        }
        second.stages = interval
            .stages
            .iter()
            .filter(|stages| !stages.bins.is_empty())
            .map(|stages| (shape.operations[stages.operation].clone(), stages.bins.into()))
            .collect();
        second
    }

    /// How much of it lies in the measurement phase.
    #[must_use]
    pub const fn measured(&self) -> Duration {
        Duration::from_nanos(self.measured_ns)
    }
}

impl CountsLine {
    fn of(counts: &Counts, shape: &Shape) -> Self {
        Self {
            operation: shape.operations[counts.operation].clone(),
            phase: counts.phase.name().to_owned(),
            intended: counts.intended,
            unsent_no_room: counts.unsent_no_room,
            unsent_instrument: counts.unsent_instrument,
            waited_for_room: counts.waited_for_room,
        }
    }

    /// The counts by index; `None` if the shape doesn't have the name.
    pub(super) fn counts(&self, shape: &Shape) -> Option<Counts> {
        Some(Counts {
            operation: shape.operations.iter().position(|name| *name == self.operation)?,
            phase: self.phase.parse().ok()?,
            intended: self.intended,
            unsent_no_room: self.unsent_no_room,
            unsent_instrument: self.unsent_instrument,
            waited_for_room: self.waited_for_room,
        })
    }
}

/// What ended, phases together: at the edge of two phases a second holds both.
fn operations(
    interval: &Interval<'_>,
    shape: &Shape,
) -> BTreeMap<String, BTreeMap<String, SecondTimes>> {
    let mut operations: BTreeMap<String, BTreeMap<String, SecondTimes>> = BTreeMap::new();
    for (operation, name) in shape.operations.iter().enumerate() {
        for (outcome, outcome_name) in shape.outcomes.iter().enumerate() {
            let mut cells = interval.cells.iter().filter(|cell| {
                (cell.operation, cell.outcome) == (operation, outcome) && !cell.response.is_empty()
            });
            let Some(first) = cells.next() else { continue };
            let rest: Vec<_> = cells.collect();
            let times = if rest.is_empty() {
                (Quantiles::of(first.response), Quantiles::of(first.service), first.response.len())
            } else {
                let (mut response, mut service) = (first.response.clone(), first.service.clone());
                for cell in rest {
                    hist::add(&mut response, cell.response);
                    hist::add(&mut service, cell.service);
                }
                (Quantiles::of(&response), Quantiles::of(&service), response.len())
            };
            let (response_ns, service_ns, count) = times;
            let expected = shape.expected[operation][outcome];
            let times = SecondTimes { count, expected, response_ns, service_ns };
            operations.entry(name.clone()).or_default().insert(outcome_name.clone(), times);
        }
    }
    operations
}
