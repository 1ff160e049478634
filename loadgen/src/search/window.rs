//! How long a run has to measure so that its quantiles have an upper bound at all: known before it begins,
//! from the rate and the rules.

use std::time::Duration;

use vaultmark_results::hist::samples_for_bound;
use vaultmark_results::slo::Rule;
use vaultmark_results::units::{float, format_count};

use crate::scenario::{Arrival, Load, Scenario};

/// No measurement phase of a search is made longer than this for its quantiles' sake: where one would have to
/// be, the rate is too low for the rule.
pub const WINDOW_MAX: Duration = Duration::from_secs(600);

/// Arrivals come by chance: so many standard deviations of a Poisson count more than are needed.
const SPARE: f64 = 3.0;

/// What a rule needs at a scenario's rates.
#[derive(Clone, Debug, PartialEq)]
pub struct Need {
    /// Length of the measurement phase.
    pub window: Duration,
    /// Why, in words.
    pub why: String,
}

/// The longest that any rule needs at the scenario's rates; `None`: no rule needs anything.
#[must_use]
pub fn needed(scenario: &Scenario) -> Option<Need> {
    let needs = scenario.slos.iter().filter_map(|rule| of_rule(rule, scenario));
    needs.max_by_key(|need| need.window)
}

fn of_rule(rule: &Rule, scenario: &Scenario) -> Option<Need> {
    let Rule::Quantile { operation, statistic, .. } = rule else { return None };
    let samples = samples_for_bound(statistic.q())?;
    let rate: f64 = scenario.loads.iter().map(|load| rate_of(load, operation)).sum();
    // m − s √m ≥ n.
    let root = f64::midpoint(SPARE, (SPARE * SPARE + 4.0 * float(samples)).sqrt());
    let seconds = (root * root / rate).ceil();
    // Nobody asks for it at all: `WINDOW_MAX` and more.
    let window = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    let figure = rule.to_string();
    let figure = figure.split(' ').next().unwrap_or_default();
    let why = format!("the upper bound of {figure} needs {} operations", format_count(samples));
    Some(Need { window, why })
}

/// Arrivals of an operation a second, where the law has a rate.
fn rate_of(load: &Load, operation: &str) -> f64 {
    let (Arrival::Constant { rate } | Arrival::Poisson { rate }) = load.arrival else { return 0.0 };
    let weights = || load.mix.iter().map(|(asked, weight)| (asked, f64::from(*weight)));
    let all: f64 = weights().map(|(_, weight)| weight).sum();
    let these = weights().filter(|(asked, _)| asked.name() == operation);
    rate * these.map(|(_, weight)| weight).sum::<f64>() / all
}
