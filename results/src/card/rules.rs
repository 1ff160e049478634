//! What must hold for a card beside its schema: that its parts fit each other, and that figures and
//! words are ones that a comparison can show.

use super::Mistake;
use super::model::{Basis, Card, Price};
use crate::model::Quantiles;

/// What is wrong with a card.
pub(super) fn mistakes(card: &Card) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    let mut tell = |field: String, value: String, expected: &str| {
        mistakes.push(Mistake { field, value, expected: expected.to_owned() });
    };
    if !is_rfc3339(&card.measured_at) {
        let value = format!("{:?}", card.measured_at);
        tell("measured_at".to_owned(), value, "must be a time such as \"2026-11-21T03:15:02Z\"");
    }
    let sessions = card.sessions.iter().map(|point| point.sessions);
    ascending("sessions", "sessions", sessions.clone(), &mut tell);
    ascending("tails", "load_percent", card.tails.iter().map(|tail| tail.load_percent), &mut tell);
    if let Some(capacity) = &card.capacity {
        let knee = capacity.knee_sessions;
        if !sessions.clone().any(|sessions| sessions == knee) {
            let expected = "must be one of the numbers of HSM sessions that were measured";
            tell("capacity.knee_sessions".to_owned(), knee.to_string(), expected);
        }
    } else if !card.tails.is_empty() {
        let expected = "must be there where tails at shares of it are";
        tell("capacity".to_owned(), "null".to_owned(), expected);
    }
    for (n, tail) in card.tails.iter().enumerate() {
        if tail.unexpected > tail.intended {
            let field = format!("tails[{n}].unexpected");
            tell(field, tail.unexpected.to_string(), "must be at most as many as were intended");
        }
    }
    for (n, call) in card.bare_calls.iter().enumerate() {
        if call.refused.is_some() == call.per_s.is_some() {
            let value = if call.refused.is_some() { "both" } else { "neither" };
            let expected = "must have a rate or say why it is not offered";
            tell(format!("bare_calls[{n}]"), value.to_owned(), expected);
        }
    }
    if let Some(limit) = &card.session_limit
        && (limit.granted > limit.asked || (limit.error.is_none() && limit.granted < limit.asked))
    {
        let expected = "must be what was asked for, or less and an error";
        tell("session_limit.granted".to_owned(), limit.granted.to_string(), expected);
    }
    if let Some(price) = &card.price {
        priced(price, &mut tell);
    }
    for (field, quantiles) in quantiles(card) {
        if !known(quantiles).is_sorted() {
            let value = format!("{:?}", known(quantiles).collect::<Vec<_>>());
            tell(field, value, "must not fall from one quantile to the next");
        }
    }
    mistakes
}

fn known(quantiles: &Quantiles) -> impl Iterator<Item = u64> {
    let Quantiles { p50, p90, p99, p99_9, max } = *quantiles;
    [p50, p90, p99, p99_9, max].into_iter().flatten()
}

fn quantiles(card: &Card) -> Vec<(String, &Quantiles)> {
    let mut all = Vec::new();
    for (n, point) in card.sessions.iter().enumerate() {
        all.push((format!("sessions[{n}].service_ns"), &point.service_ns));
    }
    for (n, tail) in card.tails.iter().enumerate() {
        all.push((format!("tails[{n}].response_ns"), &tail.response_ns));
        all.push((format!("tails[{n}].service_ns"), &tail.service_ns));
    }
    for (n, call) in card.bare_calls.iter().enumerate() {
        all.push((format!("bare_calls[{n}].time_ns"), &call.time_ns));
    }
    if let Some(reconnect) = &card.reconnect {
        all.push(("reconnect.time_ns".to_owned(), &reconnect.time_ns));
    }
    for (n, window) in card.soak.iter().flat_map(|soak| &soak.windows).enumerate() {
        all.push((format!("soak.windows[{n}].response_ns"), &window.response_ns));
    }
    all
}

fn ascending(
    list: &str,
    field: &str,
    values: impl Iterator<Item = u64> + Clone,
    tell: &mut impl FnMut(String, String, &str),
) {
    for (n, (one, next)) in values.clone().zip(values.skip(1)).enumerate() {
        if next <= one {
            let field = format!("{list}[{}].{field}", n + 1);
            tell(field, next.to_string(), "must be more than that of the entry before it");
        }
    }
}

fn priced(price: &Price, tell: &mut impl FnMut(String, String, &str)) {
    let currency = &price.currency;
    if currency.len() != 3 || !currency.bytes().all(|byte| byte.is_ascii_uppercase()) {
        let expected = "must be three capital letters (ISO 4217), such as \"EUR\"";
        tell("price.currency".to_owned(), format!("{currency:?}"), expected);
    }
    let months = price.amortise_months;
    let shown = months.map_or_else(|| "null".to_owned(), |months| months.to_string());
    if price.basis == Basis::Purchase && months.is_none() {
        let expected = "must say over how many months a purchase is spread";
        tell("price.amortise_months".to_owned(), shown, expected);
    } else if price.basis != Basis::Purchase && months.is_some() {
        let expected = "is for purchases only";
        tell("price.amortise_months".to_owned(), shown, expected);
    }
}

/// `2026-11-21T03:15:02Z`, with a month, a day and a time that there are.
fn is_rfc3339(text: &str) -> bool {
    const SHAPE: &[u8] = b"0000-00-00T00:00:00Z";
    let shaped = text.len() == SHAPE.len()
        && text.bytes().zip(SHAPE).all(|(byte, shape)| match shape {
            b'0' => byte.is_ascii_digit(),
            shape => byte == *shape,
        });
    let part = |from: usize, to: usize| text[from..to].parse::<u32>().unwrap_or(u32::MAX);
    shaped
        && (1..=12).contains(&part(5, 7))
        && (1..=31).contains(&part(8, 10))
        && part(11, 13) <= 23
        && part(14, 16) <= 59
        && part(17, 19) <= 60
}
