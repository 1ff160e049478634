//! Figures and names in words, the same in the report and on the terminal. The digits themselves
//! are written by `results::units`.

use vaultmark_results::model::{
    FaultMark, Instrument, OperationResult, Quantiles, Recovery, Run, SloResult, State,
};
use vaultmark_results::slo::{Rule, Statistic};
use vaultmark_results::units::{
    exact_percent, format_count, format_duration, format_rate, format_share,
};

/// Stands where there is no figure: too few samples, or none.
pub(crate) const NONE: &str = "—";

/// Stands where a quantile falls among operations that did not end as expected.
pub(crate) const INFINITE: &str = "∞";

/// Stages in the order of an operation's road. What is not listed comes after, by name.
const STAGES: [(&str, &str); 9] = [
    ("charge_commit", "charge commit"),
    ("device_wait", "device wait"),
    ("oprf_evaluation", "OPRF evaluation"),
    ("reset_commit", "reset commit"),
    ("server", "rest of the server"),
    ("connect", "connecting"),
    ("relay", "relay"),
    ("network", "network"),
    ("client", "client"),
];

/// How operations came to connections, and what became of these; `None` where there are none.
pub(crate) fn connections(run: &Run) -> Option<String> {
    let told = run.connections.as_ref()?;
    let over = format!("over HTTP/{}, {}", told.http, told.tls.as_deref().unwrap_or("plaintext"));
    let way = match told.way.as_str() {
        "kept" => "one for each account, kept",
        "fresh" => "a fresh one for each operation",
        "multiplexed" => "shared by all operations",
        other => other,
    };
    let mut words =
        format!("{way} ({}), {over}; {} at a time", told.way, format_count(told.connections));
    let mut add = |count: Option<u64>, what: &str| {
        if let Some(count) = count {
            words.push_str(&format!(", {} {what}", format_count(count)));
        }
    };
    add(told.opened_before, "opened beforehand");
    add(told.opened, "during the load");
    if told.tls.is_some() {
        add(told.handshakes, "TLS handshakes");
        add(told.resumed.filter(|count| *count > 0), "of them resumed");
    }
    add(told.reconnects.filter(|count| *count > 0), "in the place of one that had ended");
    add(told.failed.filter(|count| *count > 0), "not opened");
    Some(words)
}

/// How a run ended, and the word for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Pass,
    Fail,
    Invalid,
    Violated,
    CutShort,
    Running,
}

impl Ending {
    pub(crate) const fn of(run: &Run) -> Self {
        use vaultmark_results::model::Verdict;
        match run.verdict {
            Some(Verdict::Pass) => Self::Pass,
            Some(Verdict::Fail) => Self::Fail,
            Some(Verdict::Invalid) => Self::Invalid,
            Some(Verdict::Violated) => Self::Violated,
            None if !run.cut_short && matches!(run.state, State::Running) => Self::Running,
            None => Self::CutShort,
        }
    }

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Invalid => "INVALID",
            Self::Violated => "VIOLATED",
            Self::CutShort => "NO VERDICT",
            Self::Running => "RUNNING",
        }
    }

    /// What the word means, for who sees it for the first time.
    pub(crate) const fn meaning(self) -> &'static str {
        match self {
            Self::Pass => "Every rule holds.",
            Self::Fail => "The target broke a rule.",
            Self::Invalid => {
                "The instrument was at fault: the figures below say nothing certain about the target."
            }
            Self::Violated => "The vault did what it must never do.",
            Self::CutShort => "The run ended before anything could be judged.",
            Self::Running => "The run has not ended: these are its figures so far.",
        }
    }
}

/// The run's warnings; that it was cut short is one even if nobody wrote it down.
pub(crate) fn warnings(run: &Run) -> Vec<String> {
    let mut warnings = run.warnings.clone();
    let told = run.reasons.iter().chain(&warnings).any(|text| text.contains("cut short"));
    if run.cut_short && !told {
        warnings.insert(0, "The run was cut short: it ended before its scenario said.".to_owned());
    }
    warnings
}

pub(crate) fn duration(ns: Option<u64>) -> String {
    ns.map_or_else(|| NONE.to_owned(), format_duration)
}

/// A mean, nanoseconds.
pub(crate) fn mean(ns: f64) -> String {
    if ns.is_finite() && ns >= 0.0 { format_duration(nearest(ns)) } else { NONE.to_owned() }
}

pub(crate) fn share(share: Option<f64>) -> String {
    share.filter(|share| share.is_finite()).map_or_else(|| NONE.to_owned(), format_share)
}

/// Per second.
pub(crate) fn rate(per_s: f64) -> String {
    if per_s.is_finite() { format_rate(per_s) } else { NONE.to_owned() }
}

/// "3 of 2,004 (0.150 %)".
pub(crate) fn part(part: u64, whole: u64) -> String {
    if whole == 0 {
        return format!("{} of 0", format_count(part));
    }
    let share = format_share(float(part) / float(whole));
    format!("{} of {} ({share})", format_count(part), format_count(whole))
}

/// Seconds, as phases and faults have them.
pub(crate) fn seconds(s: f64) -> String {
    if s.is_finite() { format!("{s:.1} s") } else { NONE.to_owned() }
}

/// The quantiles of every view, in order, with their names.
pub(crate) const fn quantiles(quantiles: &Quantiles) -> [(Statistic, Option<u64>); 5] {
    [
        (Statistic::P50, quantiles.p50),
        (Statistic::P90, quantiles.p90),
        (Statistic::P99, quantiles.p99),
        (Statistic::P99_9, quantiles.p99_9),
        (Statistic::Max, quantiles.max),
    ]
}

/// The response quantiles over every intended operation. A null is told apart: infinitely slow,
/// or too few samples.
pub(crate) fn intended_quantiles(operation: &OperationResult) -> [String; 5] {
    let ended_well = operation.intended.saturating_sub(operation.unexpected);
    quantiles(&operation.response_intended_ns).map(|(statistic, ns)| {
        let permille: u128 = match statistic {
            Statistic::P50 => 500,
            Statistic::P90 => 900,
            Statistic::P99 => 990,
            Statistic::P99_9 => 999,
            Statistic::Max => 1_000,
        };
        let rank = (u128::from(operation.intended) * permille).div_ceil(1_000);
        match ns {
            Some(ns) => format_duration(ns),
            None if rank > u128::from(ended_well) => INFINITE.to_owned(),
            None => NONE.to_owned(),
        }
    })
}

/// A stage's name for people.
pub(crate) fn stage_name(stage: &str) -> String {
    let known = STAGES.iter().find(|(key, _)| *key == stage);
    known.map_or_else(|| stage.replace('_', " "), |(_, name)| (*name).to_owned())
}

/// An operation's stages: key, mean over all, mean over the slowest 1 %.
pub(crate) fn stages(operation: &OperationResult) -> Vec<(String, f64, Option<f64>)> {
    let place = |key: &str| STAGES.iter().position(|(known, _)| *known == key);
    let mut stages: Vec<(String, f64, Option<f64>)> = operation
        .stages_mean_ns
        .iter()
        // A stage that this target does not have took no time: it is not shown.
        .filter(|(_, ns)| ns.is_finite() && **ns > 0.0)
        .map(|(key, ns)| {
            let slowest = operation.stages_mean_slowest_ns.get(key).copied();
            (key.clone(), *ns, slowest.filter(|ns| ns.is_finite() && *ns >= 0.0))
        })
        .collect();
    stages.sort_by_key(|(key, ..)| place(key).unwrap_or(STAGES.len()));
    stages
}

/// A rule's row in words.
pub(crate) struct SloWords {
    pub(crate) limit: String,
    pub(crate) measured: String,
    /// How large it may be, chance allowed for; empty where that is not known.
    pub(crate) upper: String,
    pub(crate) margin: String,
    pub(crate) holds: &'static str,
    pub(crate) note: &'static str,
}

impl SloWords {
    pub(crate) fn of(slo: &SloResult) -> Self {
        // A rule that cannot be read (a newer grammar) is shown with plain numbers.
        let rule = Rule::parse(&slo.rule).ok();
        let is_duration = matches!(rule, Some(Rule::Quantile { .. } | Rule::TimeToRecover { .. }));
        let is_share = matches!(rule, Some(Rule::Unexpected { .. } | Rule::Achieved { .. }));
        let is_least = matches!(rule, Some(Rule::Achieved { .. }));
        let write = |x: f64| match x {
            x if !x.is_finite() => NONE.to_owned(),
            x if is_duration => mean(x),
            x if is_share => format_share(x),
            x => format!("{x}"),
        };
        let measured = match slo.measured {
            _ if slo.infinite => INFINITE.to_owned(),
            Some(measured) => write(measured),
            None => "no samples".to_owned(),
        };
        let of_faults = matches!(rule, Some(Rule::TimeToRecover { .. }));
        let margin = match slo.margin.filter(|margin| margin.is_finite()) {
            Some(margin) if margin > 0.0 => format!("{} to spare", format_share(margin)),
            Some(margin) if margin < 0.0 && is_least => {
                format!("{} short", format_share(-margin))
            }
            Some(margin) if margin < 0.0 => format!("{} over", format_share(-margin)),
            Some(_) => "at the limit".to_owned(),
            None if slo.infinite => "without bound".to_owned(),
            None => NONE.to_owned(),
        };
        let limit = if is_share && slo.limit.is_finite() {
            exact_percent(slo.limit).replace('%', " %")
        } else {
            write(slo.limit)
        };
        let upper = slo.upper.filter(|upper| upper.is_finite());
        let upper = upper
            .map_or_else(String::new, |upper| format!("at most {}, 95 % certain", write(upper)));
        Self {
            limit,
            measured,
            upper,
            margin,
            holds: match slo.ok {
                Some(true) => "holds",
                Some(false) => "broken",
                None => "cannot be told",
            },
            note: match (slo.infinite, slo.under_sampled) {
                (true, _) if of_faults => "operations did not succeed steadily again",
                (true, _) => "falls among operations that did not end as expected",
                (false, true) => "fewer than ten samples lie above this quantile",
                (false, false) if slo.closed_loop => {
                    "closed loop: users who wait ask nothing, so this is no open loop's figure"
                }
                (false, false) => "",
            },
        }
    }
}

/// A fault and what became of it, in words: "kill leader at 10.0 s, undone at 20.0 s: recovered in
/// 412 ms, longest gap 400 ms, 3 failed".
pub(crate) fn fault(fault: &FaultMark) -> String {
    let until = fault.until_s.map_or_else(String::new, |s| format!(", undone at {}", seconds(s)));
    let begun = format!("{} at {}{until}", fault.what, seconds(fault.at_s));
    let Some(recovery) = &fault.recovery else { return begun };
    let failed = match recovery.failed {
        0 => String::new(),
        failed => format!(", {} failed", format_count(failed)),
    };
    let gap = format_duration(recovery.longest_gap_ns);
    match recovery.time_to_recover_ns {
        Some(0) => format!("{begun}: not felt"),
        Some(_) => {
            let time = time_to_recover(recovery);
            format!("{begun}: recovered in {time}, longest gap {gap}{failed}")
        }
        None => format!("{begun}: never recovered, longest gap {gap}{failed}"),
    }
}

/// A time to recover, in words.
pub(crate) fn time_to_recover(recovery: &Recovery) -> String {
    match recovery.time_to_recover_ns {
        Some(0) => "not felt".to_owned(),
        Some(ns) => format_duration(ns),
        None => INFINITE.to_owned(),
    }
}

/// The longest time to recover of all faults that have one; `None` if none has.
pub(crate) fn longest_recovery(run: &Run) -> Option<Recovery> {
    let recoveries = run.faults.iter().filter_map(|fault| fault.recovery);
    recoveries.max_by_key(|one| one.time_to_recover_ns.unwrap_or(u64::MAX))
}

/// The operation people ask for first: `recover`, else the one with the most arrivals.
pub(crate) fn main_operation(run: &Run) -> Option<(&String, &OperationResult)> {
    run.operations
        .get_key_value("recover")
        .or_else(|| run.operations.iter().max_by_key(|(_, operation)| operation.intended))
}

/// Operations in the order of every view: the main one first.
pub(crate) fn operations(run: &Run) -> Vec<(&String, &OperationResult)> {
    let main = main_operation(run).map(|(name, _)| name);
    let mut operations: Vec<_> = run.operations.iter().collect();
    operations.sort_by_key(|(name, _)| Some(*name) != main);
    operations
}

/// Arrivals of the measurement phase that ended otherwise than expected or never, and all of them.
pub(crate) fn unexpected(run: &Run) -> (u64, u64) {
    run.operations.values().fold((0, 0), |(unexpected, intended), operation| {
        (
            unexpected.saturating_add(operation.unexpected),
            intended.saturating_add(operation.intended),
        )
    })
}

/// How many of an operation's arrivals have no outcome: never sent, or unanswered at the end.
pub(crate) fn without_outcome(operation: &OperationResult) -> u64 {
    let counts = operation.outcomes.values().map(|outcome| outcome.count);
    operation.intended.saturating_sub(counts.fold(0, u64::saturating_add))
}

/// How far the reported response time was from the truth of the stalled target.
pub(crate) fn stall_error(instrument: &Instrument) -> Option<f64> {
    let truth = instrument.stall_truth?;
    (truth.truth_p90_ns > 0).then(|| float(truth.response_p90_ns) / float(truth.truth_p90_ns) - 1.0)
}

/// "1 worker", "2 workers".
pub(crate) fn counted(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", format_count(n), if n == 1 { one } else { many })
}

/// A count as a floating-point number.
#[expect(
    clippy::cast_precision_loss,
    reason = "for shares and pictures: 53 bits are more than seen"
)]
pub(crate) const fn float(n: u64) -> f64 {
    n as f64
}

/// The nearest whole number of nanoseconds.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rounded first; `as` saturates at both ends, as documented"
)]
pub(crate) fn nearest(x: f64) -> u64 {
    x.round() as u64
}

/// A length as a count.
pub(crate) fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
