//! How many runs a search makes where the answer is known: pure, the same on every machine.

use std::time::Duration;

use vaultmark::search::machine::{Found, Goal, Outcome, Probe, Search};
use vaultmark_results::units::float;

use super::{Bound, Figure, Lab, Measured};

/// The aim, and what a whole search of ten-second runs may take before somebody gives up waiting: five minutes.
const AIM: f64 = 12.0;

pub(super) const RUNS: Figure = Figure {
    name: "search-runs",
    what: "most runs of a search at 5 % precision, knee ten times below to ten times above the start, four kinds of target",
    unit: "runs",
    bound: Bound::AtMost(AIM),
    measure: runs,
};

/// A kind of target: whether a rate holds, and what is achieved where it does not.
type Achieves = fn(rate: f64, knee: f64) -> f64;

fn runs(_: &Lab) -> Result<Measured, String> {
    let kinds: [(&str, Achieves); 4] = [
        ("saturates at its knee", |_, knee| knee),
        ("saturates 15 % above its knee", |rate, knee| rate.min(knee * 1.15)),
        ("breaks its limit, not saturated", |rate, _| rate),
        ("collapses", |_, knee| knee * 0.05),
    ];
    let mut besides = Vec::new();
    let mut most_of_all = Vec::new();
    for (name, achieves) in kinds {
        let mut most = 0;
        for n in 0..200_u32 {
            let knee = 100.0 * 10_f64.powf(f64::from(n) / 100.0 - 1.0);
            most = most.max(made(knee, achieves)?);
        }
        besides.push((format!("{name}: at most {most} runs"), float(most.into()) <= AIM));
        most_of_all.push(float(most.into()));
    }
    // One value a run is what a figure has; the worst kind is what was promised.
    let worst = most_of_all.iter().copied().fold(0.0, f64::max);
    Ok(Measured { runs: vec![worst; super::RUNS], besides })
}

/// Runs until the answer, which has to be right.
fn made(knee: f64, achieves: Achieves) -> Result<u32, String> {
    let goal = Goal {
        from: 100.0,
        least: 1.0,
        most: 1e6,
        precision: 1.05,
        window: Duration::from_secs(10),
        confirmation: Duration::from_secs(30),
        runs_max: 100,
    };
    let mut search = Search::new(goal);
    while let Some(Probe { rate, .. }) = search.next() {
        let achieved = achieves(rate, knee);
        search.took(if rate <= knee { Outcome::Holds } else { Outcome::Fails { achieved } });
    }
    match search.found() {
        Some(Found::Rate { rate, above }) if rate <= knee && knee < above => Ok(search.runs()),
        found => Err(format!("the knee is {knee}, found was {found:?}")),
    }
}
