//! What the pictures of a search and of a sweep show.

use std::collections::BTreeSet;

use vaultmark_results::model::{Quantiles, Verdict};
use vaultmark_results::search::{
    AnswerKind, ProbeOutcome, ProbeResult, SearchResult, SweepPoint, SweepResult,
};
use vaultmark_results::slo::{Rule, Statistic, Time};
use vaultmark_results::units::{format_rate, parse_duration, parse_percent, parse_rate};

use crate::chart::{LoadChart, LoadLine, LoadMark, SweepChart, SweepLine};
use crate::words;

/// The statistic that is judged, and its limit.
pub(super) fn judged(search: &SearchResult) -> (Statistic, Option<(f64, String)>) {
    let named = |statistic: &Statistic| statistic.name() == search.statistic;
    let judged = Statistic::ALL.into_iter().find(named).unwrap_or(Statistic::P99);
    let slos = search.probes.iter().flat_map(|probe| &probe.slos);
    let limits = slos.filter_map(|slo| Rule::parse(&slo.rule).ok()).filter_map(|rule| match rule {
        Rule::Quantile { operation, outcome: None, time: Time::Response, statistic, limit }
            if operation == search.operation && statistic == judged =>
        {
            Some(limit.as_secs_f64() * 1e9)
        }
        _ => None,
    });
    // Of several the tightest decides.
    let limit = limits.min_by(f64::total_cmp);
    let words = |ns| (ns, format!("{} < {}", judged.name(), words::mean(ns)));
    (judged, limit.map(words))
}

/// A quantile as it can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shown {
    /// Nanoseconds.
    Value(u64),
    /// It falls among those that did not end as expected.
    Infinite,
    /// There were too few operations, or none.
    Few,
}

impl Shown {
    /// A quantile of one operation.
    pub(super) fn of(quantiles: Option<&Quantiles>, statistic: Statistic) -> Self {
        let Some(quantiles) = quantiles else { return Self::Few };
        match (pick(quantiles, statistic), quantiles.max) {
            (Some(ns), _) => Self::Value(ns),
            // With too few above it, it is the slowest: which ended as expected, or did not.
            (None, Some(_)) => Self::Few,
            (None, None) => Self::Infinite,
        }
    }

    /// For a picture: infinite is above all.
    fn point(self) -> Option<Option<f64>> {
        match self {
            Self::Value(ns) => Some(Some(words::float(ns))),
            Self::Infinite => Some(None),
            Self::Few => None,
        }
    }
}

/// A quantile of the operation that is shown, in one run.
pub(super) fn time(probe: &ProbeResult, operation: &str, statistic: Statistic) -> Shown {
    Shown::of(probe.response_ns.get(operation), statistic)
}

const fn pick(quantiles: &Quantiles, statistic: Statistic) -> Option<u64> {
    match statistic {
        Statistic::P50 => quantiles.p50,
        Statistic::P90 => quantiles.p90,
        Statistic::P99 => quantiles.p99,
        Statistic::P99_9 => quantiles.p99_9,
        Statistic::Max => quantiles.max,
    }
}

/// Response time against rate.
pub(super) fn load(search: &SearchResult) -> LoadChart {
    let (judged, limit) = judged(search);
    let told = |probe: &&ProbeResult| {
        !matches!(probe.outcome, ProbeOutcome::CutShort | ProbeOutcome::Settling)
    };
    let near = focus(search);
    let all: Vec<&ProbeResult> = search.probes.iter().filter(told).collect();
    let probes: Vec<&ProbeResult> =
        all.iter().copied().filter(|probe| near.contains(&probe.rate_per_s)).collect();
    let mut statistics = vec![Statistic::P50, Statistic::P99, Statistic::P99_9];
    if !statistics.contains(&judged) {
        statistics.push(judged);
        statistics.sort_by(|a, b| a.q().total_cmp(&b.q()));
    }
    // Where several runs were made at a rate, the longest says most, and of those the last.
    let mut by_rate: Vec<&ProbeResult> = Vec::new();
    for probe in probes.iter().filter(|probe| probe.outcome != ProbeOutcome::Invalid) {
        match by_rate.iter_mut().find(|known| known.rate_per_s.total_cmp(&probe.rate_per_s).is_eq())
        {
            Some(known) if probe.window_s >= known.window_s - 0.5 => *known = probe,
            Some(_) => {}
            None => by_rate.push(probe),
        }
    }
    by_rate.sort_by(|a, b| a.rate_per_s.total_cmp(&b.rate_per_s));
    let lines = statistics.into_iter().map(|statistic| {
        let points = by_rate.iter().filter_map(|probe| {
            let point = time(probe, &search.operation, statistic).point()?;
            Some((probe.rate_per_s, point))
        });
        LoadLine { name: statistic.name().to_owned(), points: points.collect() }
    });
    let answer = search.answer.as_ref();
    let held = answer.and_then(|answer| {
        let words = match answer.kind {
            AnswerKind::Found | AnswerKind::AtLeast | AnswerKind::Instrument => "holds, confirmed",
            _ => "held, not confirmed",
        };
        let rate = answer.rate_per_s?;
        Some((rate, format!("{} {words}", format_rate(rate))))
    });
    let runs = probes.iter().filter_map(|probe| {
        let mark = match probe.outcome {
            ProbeOutcome::Holds => LoadMark::Held,
            ProbeOutcome::Invalid => LoadMark::Invalid,
            _ => LoadMark::Failed,
        };
        let point = time(probe, &search.operation, judged).point()?;
        Some((probe.rate_per_s, point, mark))
    });
    let runs: Vec<(f64, Option<f64>, LoadMark)> = runs.collect();
    let mut caption = format!(
        "Response time of {} over every intended operation. Each run is a mark at its {}: a dot holds, a \
         cross fails, an open triangle is invalid; ∞ at the upper edge is infinite. The dashed line is the \
         rate that holds, the band beside it the gap in which the boundary lies. Lines go through the \
         longest valid run at each rate.",
        search.operation,
        judged.name()
    );
    let below = |limit: &(f64, String)| {
        runs.iter().any(|run| run.2 == LoadMark::Failed && run.1.is_some_and(|ns| ns < limit.0))
    };
    if limit.as_ref().is_some_and(below) {
        caption.push_str(
            " A cross below the limit failed by its upper bound or by something else: the table says by what.",
        );
    }
    match all.len() - probes.len() {
        0 => {}
        1 => caption.push_str(" One run far from the boundary is in the table only."),
        far => {
            caption.push_str(&format!(" {far} runs far from the boundary are in the table only."))
        }
    }
    LoadChart {
        operation: search.operation.clone(),
        lines: lines.collect(),
        runs,
        limit,
        held,
        above: answer.and_then(|answer| answer.above_per_s),
        caption,
    }
}

/// The rates that are worth a picture: one that was begun far off would squeeze the boundary to nothing.
fn focus(search: &SearchResult) -> std::ops::RangeInclusive<f64> {
    let answer = search.answer.as_ref();
    match answer.map(|answer| (answer.rate_per_s, answer.above_per_s)) {
        Some((Some(held), above)) => held / 25.0..=above.unwrap_or(held).max(held) * 2.2,
        _ => 0.0..=f64::INFINITY,
    }
}

/// A parameter's value as a number: a rate, a duration in seconds, a share, or a plain one.
fn number(value: &str) -> Option<f64> {
    let value = value.trim().trim_matches('"');
    parse_rate(value)
        .ok()
        .or_else(|| parse_duration(value).ok().map(|time| time.as_secs_f64()))
        .or_else(|| parse_percent(value).ok())
        .or_else(|| value.replace('_', "").parse().ok())
        .filter(|x: &f64| x.is_finite())
}

/// The middle of what the runs of a point gave; `None` if one of them has none.
pub(super) fn median<T: Copy>(
    point: &SweepPoint,
    of: impl Fn(&vaultmark_results::search::SweepRun) -> Option<T>,
    order: impl Fn(&T, &T) -> std::cmp::Ordering,
) -> Option<T> {
    let mut values = point.runs.iter().map(of).collect::<Option<Vec<T>>>()?;
    values.sort_by(order);
    // Of an even number the upper of the two in the middle: no figure that nobody measured.
    values.get(values.len() / 2).copied()
}

/// The pictures of a sweep: the tail, and what was achieved.
pub(super) fn sweep(sweep: &SweepResult) -> [SweepChart; 2] {
    let varying = |index: &usize| sweep.parameters[*index].values.len() > 1;
    let numeric =
        |index: &usize| sweep.parameters[*index].values.iter().all(|v| number(v).is_some());
    let all = || (0..sweep.parameters.len()).filter(varying);
    // The number with the most values runs along; the rest make the lines.
    let count = |index: &usize| sweep.parameters[*index].values.len();
    let along = all().filter(numeric).max_by_key(|index| (count(index), usize::MAX - index));
    let along = along.or_else(|| all().next()).unwrap_or(0);
    let is_numeric = numeric(&along);
    let field = sweep.parameters.get(along).map_or_else(String::new, |p| p.field.clone());
    let values = sweep.parameters.get(along).map_or(&[][..], |p| &p.values);
    let mut ticks: Vec<(f64, String)> = (0_u32..)
        .zip(values)
        .map(|(n, value)| {
            (number(value).filter(|_| is_numeric).unwrap_or_else(|| n.into()), value.clone())
        })
        .collect();
    ticks.sort_by(|a, b| a.0.total_cmp(&b.0));
    let place = |value: &String| ticks.iter().find(|tick| tick.1 == *value).map(|tick| tick.0);
    let others = |point: &SweepPoint| {
        let parts = all().filter(|index| *index != along).map(|index| point.values[index].clone());
        parts.collect::<Vec<_>>().join(", ")
    };
    let names: BTreeSet<String> = sweep.points.iter().map(others).collect();
    let chart = |id,
                 title: String,
                 y_name: String,
                 durations,
                 of: &dyn Fn(&SweepPoint) -> Option<f64>| {
        let line = |name: &String| {
            let mut points: Vec<(f64, f64, bool)> = sweep
                .points
                .iter()
                .filter(|point| others(point) == *name)
                .filter_map(|point| {
                    let passed = point.runs.iter().all(|run| run.verdict == Some(Verdict::Pass));
                    Some((place(point.values.get(along)?)?, of(point)?, passed))
                })
                .collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            SweepLine { name: name.clone(), points }
        };
        let several = if sweep.repeat > 1 {
            format!(" Each mark is the median of {} runs.", sweep.repeat)
        } else {
            String::new()
        };
        SweepChart {
            id,
            title,
            x_name: field.clone(),
            y_name,
            ticks: ticks.clone(),
            numeric: is_numeric,
            durations,
            lines: names.iter().map(line).collect(),
            caption: format!(
                "A mark with a hole: not every run there passed. What is infinite has no mark.{several}"
            ),
        }
    };
    let operation = &sweep.operation;
    [
        chart(
            "tail",
            format!("Response p99 of {operation}"),
            format!("response p99 of {operation}, logarithmic"),
            true,
            &|point| {
                median(point, |run| run.response_ns.get(operation)?.p99, u64::cmp).map(words::float)
            },
        ),
        chart(
            "achieved",
            "Achieved rate".to_owned(),
            "achieved, operations per second".to_owned(),
            false,
            &|point| median(point, |run| Some(run.achieved_per_s), f64::total_cmp),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_is_not_infinite() {
        let of = |p50, p99, max| Quantiles { p50, p99, max, ..Quantiles::default() };
        for (quantiles, expected) in [
            (of(Some(1), Some(5), Some(9)), Shown::Value(5)),
            // Of 50 operations the 99th of a hundred is the slowest.
            (of(Some(1), None, Some(9)), Shown::Few),
            (of(Some(1), None, None), Shown::Infinite),
            (of(None, None, None), Shown::Infinite),
        ] {
            assert_eq!(Shown::of(Some(&quantiles), Statistic::P99), expected, "{quantiles:?}");
        }
        assert_eq!(Shown::of(None, Statistic::P99), Shown::Few);
    }

    #[test]
    fn numbers_are_told_from_names() {
        for (value, expected) in [
            ("3", Some(3.0)),
            ("1_000", Some(1_000.0)),
            ("200/s", Some(200.0)),
            ("250ms", Some(0.25)),
            ("\"2m\"", Some(120.0)),
            ("5%", Some(0.05)),
            ("softhsm", None),
            ("inf", None),
            ("", None),
        ] {
            assert_eq!(number(value), expected, "{value}");
        }
    }
}
