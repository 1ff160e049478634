//! What a million evaluations cost.

use vaultmark_results::card::{Basis, Card, Price, cost_per_million_evaluations};

use crate::sample::card;

fn priced(amount: f64, basis: Basis, amortise_months: Option<u64>) -> Card {
    let currency = "USD".to_owned();
    Card { price: Some(Price { amount, currency, basis, amortise_months, source: None }), ..card() }
}

fn check(card: &Card, expected: f64) {
    let cost = cost_per_million_evaluations(card).expect("it has a price and a capacity");
    assert!((cost / expected - 1.0).abs() < 1e-9, "{cost} is not {expected}");
}

#[test]
fn every_basis_comes_to_a_million_evaluations() {
    // AWS KMS: 15 USD a million asymmetric requests; two of them an evaluation.
    let mut kms = priced(15.0, Basis::MillionCalls, None);
    kms.capacity.as_mut().expect("a capacity").device_calls_per_evaluation = 2.0;
    check(&kms, 30.0);
    // A month has 2,629,746 seconds: at 100 evaluations a second 262.9746 millions.
    let mut month = priced(262.9746, Basis::Month, None);
    month.capacity.as_mut().expect("a capacity").evaluations_per_s = 100.0;
    check(&month, 1.0);
    let mut bought = priced(262.9746 * 36.0, Basis::Purchase, Some(36));
    bought.capacity.as_mut().expect("a capacity").evaluations_per_s = 100.0;
    check(&bought, 1.0);
}

#[test]
fn what_has_no_price_or_no_capacity_has_no_cost() {
    let mut unpriced = card();
    unpriced.price = None;
    let mut failed = card();
    failed.capacity = None;
    // No card that is read says this.
    let unspread = priced(1.0, Basis::Purchase, None);
    // Somebody held it back: it could do more for the same money.
    let mut limited = priced(1.0, Basis::Month, None);
    let by = Some("--max-rate 100/s".to_owned());
    limited.capacity.as_mut().expect("a capacity").limited_by = by;
    for card in [unpriced, failed, unspread, limited] {
        assert_eq!(cost_per_million_evaluations(&card), None);
    }
}
