//! What the report is made of: the run's summary, and what only pictures need.

use std::collections::BTreeMap;

use vaultmark_results::bundle::{self, Bundle};
use vaultmark_results::hist::{self, CurvePoint};
use vaultmark_results::model::{Quantiles, Run};
use vaultmark_results::phase::Phase;
use vaultmark_results::slo::Time;
use vaultmark_results::totals::Totals;

use crate::words::float;

/// One run, as the report shows it.
#[derive(Clone, Debug)]
pub struct ReportInput {
    /// Everything that has a number.
    pub run: Run,
    /// One percentile curve an operation, in the order of the report. May be empty.
    pub curves: Vec<Curve>,
    /// The run from warm-up to cool-down, one entry an interval, in the order of time. May be empty.
    pub seconds: Vec<Second>,
}

/// Response time by percentile over every intended operation of the measurement phase.
#[derive(Clone, Debug)]
pub struct Curve {
    /// Operation.
    pub operation: String,
    /// From `hist::curve`: it ends where fewer than ten samples lie above, or where the infinitely
    /// slow begin.
    pub points: Vec<CurvePoint>,
}

/// One interval of the run, about a second long.
#[derive(Clone, Debug)]
pub struct Second {
    /// Its start, seconds from the start of the measurement phase: negative in warm-up.
    pub from_s: f64,
    /// Its end, on the same scale.
    pub to_s: f64,
    /// The phase it started in.
    pub phase: Phase,
    /// Arrivals intended in it.
    pub offered: u64,
    /// Operations that ended in it, however they did.
    pub achieved: u64,
    /// Arrivals given up in it.
    pub unsent: u64,
    /// Operations sent and unanswered at its end.
    pub in_flight: u64,
    /// Arrivals waiting at its end.
    pub backlog: u64,
    /// What ended in it, by operation.
    pub operations: BTreeMap<String, OperationSecond>,
}

/// The operations of one kind that ended as expected within one interval. Where several outcomes
/// are expected, those of the one that is most frequent in the whole run: quantiles of two outcomes
/// cannot be made into one.
#[derive(Clone, Copy, Debug, Default)]
pub struct OperationSecond {
    /// How many.
    pub count: u64,
    /// Completion − intended start.
    pub response_ns: Quantiles,
    /// Completion − send.
    pub service_ns: Quantiles,
}

impl ReportInput {
    /// The report's input from a run, its sums and its intervals.
    #[must_use]
    pub fn new(run: Run, totals: Option<&Totals>, series: &[bundle::Second]) -> Self {
        let curves = totals.map_or_else(Vec::new, |totals| {
            let operations = run.operations.keys();
            operations
                .filter_map(|operation| {
                    let (histogram, intended) = totals.intended(operation, Time::Response)?;
                    let points = hist::curve(&histogram, intended);
                    Some(Curve { operation: operation.clone(), points })
                })
                .collect()
        });
        let start_s = measurement_starts_s(series);
        let outcomes = frequent_outcomes(series);
        let seconds = series.iter().map(|second| Second::of(second, start_s, &outcomes)).collect();
        Self { run, curves, seconds }
    }
}

impl From<&Bundle> for ReportInput {
    fn from(bundle: &Bundle) -> Self {
        Self::new(bundle.run.clone(), bundle.totals.as_ref(), &bundle.series)
    }
}

impl Second {
    fn of(second: &bundle::Second, start_s: f64, outcomes: &BTreeMap<&str, &str>) -> Self {
        let from_s = float(second.start_ns) / 1e9 - start_s;
        let operations = second
            .operations
            .iter()
            .filter_map(|(operation, ended)| {
                let times = ended.get(*outcomes.get(operation.as_str())?)?;
                let of = OperationSecond {
                    count: times.count,
                    response_ns: times.response_ns,
                    service_ns: times.service_ns,
                };
                Some((operation.clone(), of))
            })
            .collect();
        Self {
            from_s,
            to_s: from_s + float(second.length_ns) / 1e9,
            // A phase this version doesn't know was not measured.
            phase: second.phase.parse().unwrap_or(Phase::CoolDown),
            offered: second.offered,
            achieved: second.achieved,
            unsent: second.unsent,
            in_flight: second.in_flight,
            backlog: second.backlog,
            operations,
        }
    }
}

/// When the measurement phase starts, seconds from the start of warm-up; the end of a run that
/// never got there.
fn measurement_starts_s(series: &[bundle::Second]) -> f64 {
    let measured = Phase::Measure.name();
    if let Some(first) = series.iter().find(|second| second.measured_ns > 0) {
        // An interval that begins in warm-up is measured from somewhere within it.
        let before = if first.phase == measured {
            0
        } else {
            first.length_ns - first.measured_ns.min(first.length_ns)
        };
        return float(first.start_ns.saturating_add(before)) / 1e9;
    }
    series.last().map_or(0.0, |last| float(last.start_ns.saturating_add(last.length_ns)) / 1e9)
}

/// The most frequent expected outcome of each operation.
fn frequent_outcomes(series: &[bundle::Second]) -> BTreeMap<&str, &str> {
    let mut counts: BTreeMap<&str, BTreeMap<&str, u64>> = BTreeMap::new();
    for (operation, ended) in series.iter().flat_map(|second| &second.operations) {
        for (outcome, times) in ended.iter().filter(|(_, times)| times.expected) {
            *counts.entry(operation).or_default().entry(outcome).or_default() += times.count;
        }
    }
    counts
        .into_iter()
        .filter_map(|(operation, outcomes)| {
            let (outcome, _) = outcomes.into_iter().max_by_key(|(_, count)| *count)?;
            Some((operation, outcome))
        })
        .collect()
}
