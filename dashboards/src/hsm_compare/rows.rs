//! One row a card, the fastest first: the same figures on the page and on the terminal.

use vaultmark_results::Card;
use vaultmark_results::card::{Basis, Publication, TailVerdict, cost_per_million_evaluations};
use vaultmark_results::units::{format_count, format_rate, format_share};

use crate::words::{self, INFINITE, NONE, nearest};

/// The load at which tails are compared, percent of the capacity.
pub(super) const TAIL_PERCENT: u64 = 70;

/// A card and its place.
pub(super) struct Row<'a> {
    pub(super) card: &'a Card,
    /// From 1; charts name it.
    pub(super) number: usize,
    /// Evaluations per second; `None` for a device that failed before it could be told.
    pub(super) rate: Option<f64>,
    /// Over the fastest of all rows.
    pub(super) share: Option<f64>,
}

/// The rows of these cards: by capacity, then by name and date, so that equal ones keep an order.
pub(super) fn rows<'a>(cards: &[&'a Card]) -> Vec<Row<'a>> {
    let rate = |card: &Card| card.capacity.as_ref().map(|capacity| capacity.evaluations_per_s);
    let mut cards = cards.to_vec();
    cards.sort_by(|a, b| {
        let (fast_a, fast_b) = (rate(a).unwrap_or(-1.0), rate(b).unwrap_or(-1.0));
        let name = |card: &Card| (card.device.name.clone(), card.measured_at.clone());
        fast_b.total_cmp(&fast_a).then_with(|| name(a).cmp(&name(b)))
    });
    let best = cards.iter().filter_map(|card| rate(card)).fold(0.0, f64::max);
    cards
        .into_iter()
        .zip(1..)
        .map(|(card, number)| {
            let rate = rate(card);
            let share = rate.filter(|_| best > 0.0).map(|rate| rate / best);
            Row { card, number, rate, share }
        })
        .collect()
}

impl Row<'_> {
    pub(super) fn rate_words(&self) -> String {
        self.rate.map_or_else(|| NONE.to_owned(), words::rate)
    }

    pub(super) fn share_words(&self) -> String {
        words::share(self.share)
    }

    /// Response p99 at [`TAIL_PERCENT`], and what to know of it.
    pub(super) fn tail_words(&self) -> (String, String) {
        let Some(tail) = self.card.tail(TAIL_PERCENT) else {
            return (NONE.to_owned(), "not measured".to_owned());
        };
        match tail.verdict {
            TailVerdict::Pass => (words::duration(tail.response_ns.p99), String::new()),
            TailVerdict::Fail => {
                let p99 = tail
                    .response_ns
                    .p99
                    .map_or_else(|| INFINITE.to_owned(), |ns| words::duration(Some(ns)));
                (p99, "did not keep up".to_owned())
            }
            // The instrument was at fault: there is no figure to show.
            TailVerdict::Invalid => (NONE.to_owned(), "invalid measurement".to_owned()),
        }
    }

    pub(super) fn calls_words(&self) -> String {
        let capacity = self.card.capacity.as_ref();
        capacity.map_or_else(|| NONE.to_owned(), |one| calls(one.device_calls_per_evaluation))
    }

    /// The cost of a million evaluations, and on what basis; two empty texts without a price.
    pub(super) fn cost_words(&self) -> (String, String) {
        let Some(price) = &self.card.price else { return (String::new(), String::new()) };
        let Some(cost) = cost_per_million_evaluations(self.card) else {
            return (NONE.to_owned(), "no capacity to spread it over".to_owned());
        };
        let basis = match price.basis {
            Basis::MillionCalls => "by calls".to_owned(),
            Basis::Month => "at full load, by the month".to_owned(),
            Basis::Purchase => {
                let months = price.amortise_months.unwrap_or(0);
                format!("at full load, over {}", words::counted(months, "month", "months"))
            }
        };
        (money(cost, &price.currency), basis)
    }

    /// Short: `p256`, `ristretto255`.
    pub(super) fn suite_short(&self) -> &str {
        let suite = &self.card.device.suite;
        suite.split('-').next().unwrap_or(suite)
    }

    pub(super) fn firmware_words(&self) -> String {
        self.card.device.firmware.clone().unwrap_or_else(|| NONE.to_owned())
    }

    pub(super) const fn is_modelled(&self) -> bool {
        self.card.device.modelled.is_some()
    }

    pub(super) fn is_internal(&self) -> bool {
        self.card.publication == Publication::Internal
    }
}

/// Device calls an evaluation: `2`, `4.50`.
pub(super) fn calls(calls: f64) -> String {
    if !calls.is_finite() {
        return NONE.to_owned();
    }
    let whole = calls.round();
    if (calls - whole).abs() < 0.005 { format_count(nearest(whole)) } else { format!("{calls:.2}") }
}

/// An amount of money with three digits that say something: `30.00 USD`, `0.00123 EUR`, `1,234 CHF`.
pub(super) fn money(amount: f64, currency: &str) -> String {
    let digits = match amount {
        amount if amount >= 999.5 => format_count(nearest(amount)),
        amount if amount >= 1.0 => format!("{amount:.2}"),
        amount if amount <= 0.0 => "0".to_owned(),
        amount if amount < 0.000_001 => return format!("less than 0.000001 {currency}"),
        amount => {
            let mut decimals = 2;
            let mut least = 1.0;
            while amount < least {
                least /= 10.0;
                decimals += 1;
            }
            format!("{amount:.*}", decimals)
        }
    };
    format!("{digits} {currency}")
}

/// A change in words: `+2.00 %`, `−5.00 %`, `unchanged`.
pub(super) fn change(change: Option<f64>) -> String {
    match change {
        None => NONE.to_owned(),
        Some(change) if change > 0.0 => format!("+{}", format_share(change)),
        Some(change) if change < 0.0 => format!("−{}", format_share(-change)),
        Some(_) => "unchanged".to_owned(),
    }
}

/// A published figure's rate.
pub(super) fn published_rate(per_s: f64) -> String {
    format_rate(per_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_calls_and_changes_read_well() {
        for (amount, text) in [
            (0.0, "0 USD"),
            (30.0, "30.00 USD"),
            (1.005, "1.00 USD"),
            (999.4, "999.40 USD"),
            (1_234.6, "1,235 USD"),
            (0.123_4, "0.123 USD"),
            (0.001_234, "0.00123 USD"),
            (1e-9, "less than 0.000001 USD"),
        ] {
            assert_eq!(money(amount, "USD"), text, "{amount}");
        }
        for (n, text) in [(2.0, "2"), (4.5, "4.50"), (2.003, "2"), (10.0, "10")] {
            assert_eq!(calls(n), text);
        }
        for (n, text) in [
            (Some(0.02), "+2.00 %"),
            (Some(-0.05), "−5.00 %"),
            (Some(0.0), "unchanged"),
            (None, "—"),
        ] {
            assert_eq!(change(n), text);
        }
    }
}
