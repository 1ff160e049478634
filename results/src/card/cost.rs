//! What an evaluation costs: the one function.

use super::model::{Basis, Card};

/// Seconds of a mean month of the Gregorian calendar: 365.2425 days over twelve.
const MONTH_S: f64 = 365.2425 * 86_400.0 / 12.0;

/// What a million OPRF evaluations cost on this card's device, in its price's currency; `None` without a
/// price, without a capacity above zero, or where somebody limited the device.
///
/// - `million-calls`: the amount times device calls an evaluation. AWS KMS, which gives x only, takes two
///   calls for one evaluation, so that a million evaluations are two million calls.
/// - `month`: the amount over what the device evaluates in a month.
/// - `purchase`: the same, with the amount over `amortise_months`; power, rack, people and support
///   are not in it.
///
/// For the latter two the device is taken to evaluate at its measured capacity without a pause: a million
/// evaluations cost at least this, and twice as much if it is half idle.
#[must_use]
pub fn cost_per_million_evaluations(card: &Card) -> Option<f64> {
    let price = card.price.as_ref()?;
    let capacity = card.capacity.as_ref()?;
    if capacity.limited_by.is_some() && price.basis != Basis::MillionCalls {
        // What somebody held back could do more for the same money.
        return None;
    }
    let a_month = |amount: f64| amount / (capacity.evaluations_per_s * MONTH_S) * 1e6;
    let cost = match price.basis {
        Basis::MillionCalls => price.amount * capacity.device_calls_per_evaluation,
        Basis::Month => a_month(price.amount),
        Basis::Purchase => a_month(price.amount / crate::units::float(price.amortise_months?)),
    };
    cost.is_finite().then_some(cost)
}
