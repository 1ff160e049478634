//! Why two instruments say different things of the same users.

use vaultmark_results::bundle::Bundle;
use vaultmark_results::crosscheck::{Milliseconds, OfRequest, Side, as_goose_keeps, quantiles};
use vaultmark_results::model::Quantiles;
use vaultmark_results::slo::Time;
use vaultmark_results::units::{float, format_count, format_duration, format_rate, format_share};

use super::goose::Seen;

/// Rates that differ by less are the same.
const SAME: f64 = 0.02;

/// In sentences, the closed loop, the open loop and goose's in this order.
pub(super) fn differences(
    ours: &Bundle,
    [closed, open, goose]: [&Side; 3],
    requests: &[OfRequest],
    seen: &Seen,
) -> Vec<String> {
    let mut all = vec![rates(closed, goose)];
    all.push(rounding(ours, closed, goose));
    all.push(omission(closed, open));
    all.extend(correction(requests));
    all.push(
        "goose's users have a connection each and its own client (HTTP/1.1 in plaintext, HTTP/2 where TLS agrees on \
         it); ours reach the relay as the scenario says. goose looks at its clock inside the process that does all \
         its clients' cryptography, and a time there includes waiting for a processor; so does ours"
            .to_owned(),
    );
    if seen.without_account > 0 {
        all.push(format!(
            "{} of goose's operations found every account with an attempt outstanding and were not made: the \
             population is too small for so many users",
            format_count(seen.without_account)
        ));
    }
    all
}

fn rates(closed: &Side, goose: &Side) -> String {
    let off = (goose.per_s - closed.per_s).abs() / closed.per_s.max(f64::MIN_POSITIVE);
    let (ours, theirs) = (format_rate(closed.per_s), format_rate(goose.per_s));
    if off <= SAME {
        return format!(
            "Both closed loops got through the same work: {ours} here, {theirs} by goose ({} apart)",
            format_share(off)
        );
    }
    format!(
        "The closed loops got through different work: {ours} here, {theirs} by goose. A closed loop asks less of a \
         target that answers more slowly, or when it is slow itself"
    )
}

fn rounding(ours: &Bundle, closed: &Side, goose: &Side) -> String {
    let mut kept = Milliseconds::new();
    for (operation, outcome) in super::pairs() {
        let totals = ours.totals.as_ref();
        let Some(times) = totals.and_then(|totals| totals.times(operation.name(), outcome.name()))
        else {
            continue;
        };
        for step in times.of(Time::Service).iter_recorded() {
            let ms = usize::try_from(as_goose_keeps(step.value_iterated_to()));
            let ms = ms.unwrap_or(usize::MAX);
            let count = usize::try_from(step.count_at_value()).unwrap_or(usize::MAX);
            *kept.entry(ms).or_default() += count;
        }
    }
    let rounded = quantiles(&kept);
    format!(
        "Rounding: goose keeps whole milliseconds, from 100 ms on tens of them, from 500 ms on hundreds, from a second on \
         seconds. Kept so, our own p50 and p99 would be {} and {} instead of {} and {}; goose says {} and {}",
        told(rounded.p50),
        told(rounded.p99),
        told(closed.ns.p50),
        told(closed.ns.p99),
        told(goose.ns.p50),
        told(goose.ns.p99),
    )
}

fn omission(closed: &Side, open: &Side) -> String {
    let Quantiles { p99: waited, .. } = closed.ns;
    let Quantiles { p99: felt, .. } = open.ns;
    let times = match (waited, felt) {
        (Some(waited), Some(felt)) if waited > 0 => {
            format!(" ({:.2} times)", float(felt) / float(waited))
        }
        _ => String::new(),
    };
    format!(
        "Coordinated omission: users who wait ask nothing, so that a closed loop, whoever's it is, leaves out what slow \
         answers kept them from asking; the p99 here is {}. Asked at the same rate by people who come by themselves, the \
         same fleet answered within {} by p99{times}",
        told(waited),
        told(felt),
    )
}

/// What goose's own correction came to.
fn correction(requests: &[OfRequest]) -> Option<String> {
    let slowest = requests.iter().max_by_key(|one| one.corrected_ns.p99)?;
    let made_up: u64 = requests.iter().map(|one| one.made_up).sum();
    if made_up == 0 {
        return Some(
            "goose's correction for coordinated omission made up no requests: none took longer than its users' usual \
             round, thinking included, so that what it looks for it did not see"
                .to_owned(),
        );
    }
    Some(format!(
        "goose's correction for coordinated omission made up {} requests; with them the p99 of \"{}\" is {} instead of \
         {}. It takes its users' usual round, thinking included, for the rate at which they would have asked, which is a \
         guess; the open loop is a measurement",
        format_count(made_up),
        slowest.name,
        told(slowest.corrected_ns.p99),
        told(slowest.ns.p99)
    ))
}

fn told(ns: Option<u64>) -> String {
    ns.map_or_else(|| "too few".to_owned(), format_duration)
}
