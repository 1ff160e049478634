//! A run in words: what its target is, how its last second went, what it could not look at.

use vaultmark_hsm::clock::nanos;
use vaultmark_results::bundle::Second;
use vaultmark_results::model::LoadResult;
use vaultmark_results::units;
use vaultmark_targets::Operation;

use super::measure;
use crate::engine::Plan;
use crate::scenario::{Load, TargetSpec};

/// What could not be looked at, in words.
pub(super) fn blind_spots(effort: &measure::Effort) -> Vec<String> {
    let mut warnings = Vec::new();
    if effort.found.unchecked > 0 {
        warnings.push(format!(
            "the guess bound of {} accounts was not checked to the end: too much was outstanding on \
             them, or too many operations timed out",
            units::format_count(effort.found.unchecked)
        ));
    }
    if effort.unretried > 0 {
        warnings.push(format!(
            "{} people who were refused gave up because too many others were about to try again",
            units::format_count(effort.unretried)
        ));
    }
    if effort.trace.lost() > 0 {
        warnings.push(format!(
            "{} operations near faults were not kept: the time to recover from the last faults rests \
             on those before",
            units::format_count(effort.trace.lost())
        ));
    }
    warnings
}

/// A load as it is offered.
pub(super) fn words_for_load(load: &Load) -> LoadResult {
    let asked = Operation::ALL.into_iter().filter(|operation| load.asks(*operation));
    LoadResult {
        name: load.name.clone(),
        kind: load.arrival.kind().to_owned(),
        arrival: load.arrival.to_string(),
        open_loop: load.arrival.is_open_loop(),
        operations: asked.map(|operation| operation.name().to_owned()).collect(),
        retry: load.retry.map(|retry| retry.to_string()),
    }
}

/// What a target is, in words.
pub(super) fn words_for(target: &TargetSpec) -> String {
    match target {
        TargetSpec::Null => "null target: completes everything at once".to_owned(),
        TargetSpec::Stalled { stall, .. } => {
            format!(
                "stalled target: answers at once, but for stalls of {}",
                units::format_duration(nanos(*stall))
            )
        }
        TargetSpec::Simulated { servers, mean, .. } => {
            format!(
                "simulated target: {servers} servers, {} each (modelled)",
                units::format_duration(nanos(*mean))
            )
        }
        TargetSpec::Remote(spec) => {
            format!("fleet at {}", spec.url.as_deref().unwrap_or("the address in its client file"))
        }
        TargetSpec::Embedded { replicas, durable, .. } => {
            let disk = if *durable { "durable" } else { "not durable (--ephemeral)" };
            let plural = if *replicas == 1 { "" } else { "s" };
            format!("embedded vault, {replicas} replica{plural}, {disk}")
        }
    }
}

/// One second, for the progress line.
pub(super) fn second_in_words(second: &Second, plan: &Plan) -> String {
    let at = in_seconds(second.t_s);
    let whole = plan.end().since(plan.start).as_secs_f64();
    let slowest = second
        .operations
        .get(Operation::Recover.name())
        .and_then(|outcomes| outcomes.get("complete").and_then(|times| times.response_ns.p99));
    let slowest = slowest.map(|ns| format!(", recover p99 {}", units::format_duration(ns)));
    format!(
        "{} {at} of {}: {} offered, {} ended, {} as expected{}{}",
        second.phase.replace('_', "-"),
        in_seconds(whole),
        second.offered,
        second.achieved,
        second.good,
        slowest.unwrap_or_default(),
        if second.backlog > 0 { format!(", {} waiting", second.backlog) } else { String::new() },
    )
}

pub(super) fn in_seconds(seconds: f64) -> String {
    format!("{seconds:.0} s")
}
