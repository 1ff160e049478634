//! What a run says about the rate it was made at: whether everything that a search asks holds there, with
//! certainty enough.

use std::time::Duration;

use vaultmark_hsm::clock::nanos;
use vaultmark_results::model::{Run, SloResult, Verdict};
use vaultmark_results::search::ProbeOutcome;
use vaultmark_results::slo::{Rule, Statistic, Time};
use vaultmark_results::units::{exact_percent, format_duration, format_share, whole};

use super::machine::{ACHIEVED_LEAST, Outcome};
use super::steady::{Steadiness, steadiness};
use crate::run::Done;
use crate::scenario::Scenario;

/// Whose times a search looks at, beside the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// The operation.
    pub operation: String,
    /// The quantile that is judged, or shown where none is.
    pub statistic: Statistic,
    /// What its response times have to stay below.
    pub limit: Duration,
}

impl Watched {
    /// The operation of the first rule on a response time, with the tightest limit of those about it; without
    /// one the operation that comes most often, which has to end before it times out.
    #[must_use]
    pub fn of(scenario: &Scenario) -> Self {
        let limits = || {
            scenario.slos.iter().filter_map(|rule| match rule {
                Rule::Quantile {
                    operation,
                    outcome: None,
                    time: Time::Response,
                    statistic,
                    limit,
                } => Some((operation, *statistic, *limit)),
                _ => None,
            })
        };
        if let Some((operation, statistic, _)) = limits().next() {
            let own = limits().filter(|(other, ..)| *other == operation).map(|(.., limit)| limit);
            let limit = own.min().unwrap_or(scenario.client.timeout);
            return Self { operation: operation.clone(), statistic, limit };
        }
        let weights = scenario.loads.iter().flat_map(|load| &load.mix);
        let most = weights.max_by_key(|(_, weight)| *weight).map(|(operation, _)| operation.name());
        let operation = most.unwrap_or("recover").to_owned();
        Self { operation, statistic: Statistic::P99, limit: scenario.client.timeout }
    }
}

/// What a run says.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// To the search; `None`: it was cut short and says nothing.
    pub outcome: Option<Outcome>,
    /// To people.
    pub shown: ProbeOutcome,
    /// In words, the most important first.
    pub reasons: Vec<String>,
}

/// Judges a run. `may_repeat`: the warm-up can still be made longer.
#[must_use]
pub fn judge(done: &Done, watched: &Watched, may_repeat: bool) -> Judged {
    let run = &done.run;
    let achieved = run.achieved_per_s;
    if run.cut_short || run.verdict.is_none() {
        let reasons = run.reasons.clone();
        return Judged { outcome: None, shown: ProbeOutcome::CutShort, reasons };
    }
    if run.verdict == Some(Verdict::Invalid) {
        let reasons = run.reasons.clone();
        return Judged { outcome: Some(Outcome::Invalid), shown: ProbeOutcome::Invalid, reasons };
    }
    let mut reasons =
        if run.verdict == Some(Verdict::Pass) { Vec::new() } else { run.reasons.clone() };
    reasons.extend(run.slos.iter().filter_map(unsure));
    let saturated = achieved < ACHIEVED_LEAST * run.offered_per_s;
    if saturated && !run.slos.iter().any(|slo| slo.rule.starts_with("run.achieved")) {
        reasons.push(format!(
            "{} of what was offered was achieved; a search asks for {}",
            format_share(achieved / run.offered_per_s),
            exact_percent(ACHIEVED_LEAST).replace('%', " %")
        ));
    }
    match steadiness(&done.seconds, &watched.operation, watched.limit) {
        Steadiness::Growing(words) => reasons.push(format!("not steady at its end: {words}")),
        // Where the target is saturated, what it was at first does not matter.
        Steadiness::Settling(words) if may_repeat && !saturated => {
            let reasons = vec![format!("still settling when it was measured: {words}")];
            return Judged {
                outcome: Some(Outcome::Again),
                shown: ProbeOutcome::Settling,
                reasons,
            };
        }
        Steadiness::Settling(_) | Steadiness::Steady | Steadiness::TooShort => {}
    }
    if reasons.is_empty() {
        let reasons = vec![margin(run)];
        Judged { outcome: Some(Outcome::Holds), shown: ProbeOutcome::Holds, reasons }
    } else {
        Judged { outcome: Some(Outcome::Fails { achieved }), shown: ProbeOutcome::Fails, reasons }
    }
}

/// Why a quantile that holds is not certain to.
fn unsure(slo: &SloResult) -> Option<String> {
    let is_quantile = matches!(Rule::parse(&slo.rule), Ok(Rule::Quantile { .. }));
    if !is_quantile || slo.ok != Some(true) || slo.upper.is_some_and(|upper| upper < slo.limit) {
        return None;
    }
    let figure = figure(slo);
    let measured = slo.measured.map(|ns| format_duration(whole(ns))).unwrap_or_default();
    let limit = format_duration(whole(slo.limit));
    Some(match slo.upper {
        Some(upper) => {
            let upper = format_duration(whole(upper));
            format!(
                "{figure} is {measured}, but not surely: its upper 95 % bound is {upper}, the limit is {limit}"
            )
        }
        None => format!("{figure} is {measured}, but not surely: its upper 95 % bound is infinite"),
    })
}

/// How far the closest quantile's bound is from its limit.
fn margin(run: &Run) -> String {
    let bounds = run.slos.iter().filter_map(|slo| Some((slo, slo.upper?)));
    let closest = bounds.min_by(|a, b| (b.1 / b.0.limit).total_cmp(&(a.1 / a.0.limit)));
    closest.map_or_else(
        || "everything that is asked holds".to_owned(),
        |(slo, upper)| {
            let (figure, upper) = (figure(slo), format_duration(whole(upper)));
            let limit = format_duration(whole(slo.limit));
            format!("{figure} is at most {upper} (95 %), the limit is {limit}")
        },
    )
}

fn figure(slo: &SloResult) -> &str {
    slo.rule.split(' ').next().unwrap_or_default()
}

/// What has to hold at a rate, in words.
#[must_use]
pub fn in_words(scenario: &Scenario, watched: &Watched) -> Vec<String> {
    let rules = scenario.slos.iter().map(|rule| match rule {
        Rule::Quantile { .. } => format!("{rule}, with its upper 95 % bound"),
        _ => rule.to_string(),
    });
    let besides = [
        format!(
            "at least {} of the offered rate is achieved",
            exact_percent(ACHIEVED_LEAST).replace('%', " %")
        ),
        format!(
            "neither the median response of {} nor the number waiting grows to the end by more than a \
             fifth and a twentieth of {}",
            watched.operation,
            format_duration(nanos(watched.limit))
        ),
    ];
    rules.chain(besides).collect()
}
