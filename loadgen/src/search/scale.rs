//! Which of a scenario's rates a search changes, and to what.

use vaultmark_results::units::format_rate;

use crate::scenario::{Arrival, Load, Scenario};

/// What a search changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaling {
    /// Places of the loads in the scenario, each with its share of the rate.
    shares: Vec<(usize, f64)>,
    /// Their rates together, as the scenario has them.
    pub rate: f64,
    /// What that is, in words.
    pub words: String,
}

impl Scaling {
    /// Of one load by its name, or of all together.
    ///
    /// # Errors
    /// Every mistake, in words: there is no such load, or a law has no rate.
    pub fn of(scenario: &Scenario, name: Option<&str>) -> Result<Self, Vec<String>> {
        let loads = &scenario.loads;
        let chosen: Vec<usize> = (0..loads.len())
            .filter(|index| name.is_none_or(|name| loads[*index].name == name))
            .collect();
        let names = || loads.iter().map(|load| load.name.as_str()).collect::<Vec<_>>().join(", ");
        if let (Some(name), true) = (name, chosen.is_empty()) {
            return Err(vec![format!("--load: there is no load {name:?}; there are: {}", names())]);
        }
        let wrong = chosen.iter().filter(|index| rate_of(&loads[**index]).is_none());
        let wrong: Vec<String> = wrong.map(|index| no_rate(&loads[*index], loads)).collect();
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let rates = chosen.iter().filter_map(|index| Some((*index, rate_of(&loads[*index])?)));
        let rates: Vec<(usize, f64)> = rates.collect();
        let rate: f64 = rates.iter().map(|(_, rate)| rate).sum();
        let kind = |index: usize| loads[index].arrival.kind();
        let words = match (&rates[..], loads.len()) {
            ([(index, _)], 1) => {
                format!("the rate of load {:?} ({})", loads[*index].name, kind(*index))
            }
            ([(index, _)], _) => format!(
                "the rate of load {:?} ({}); the other loads stay as they are",
                loads[*index].name,
                kind(*index)
            ),
            (all, _) => {
                let part = |(index, of): &(usize, f64)| {
                    format!(
                        "{:?} {} of {}",
                        loads[*index].name,
                        format_rate(*of),
                        format_rate(rate)
                    )
                };
                let parts: Vec<String> = all.iter().map(part).collect();
                format!(
                    "the rates of {} loads together, in proportion: {}",
                    all.len(),
                    parts.join(", ")
                )
            }
        };
        let shares = rates.into_iter().map(|(index, of)| (index, of / rate)).collect();
        Ok(Self { shares, rate, words })
    }

    /// The scenario at a rate.
    #[must_use]
    pub fn at(&self, scenario: &Scenario, rate: f64) -> Scenario {
        let mut scenario = scenario.clone();
        for (index, share) in &self.shares {
            match &mut scenario.loads[*index].arrival {
                Arrival::Constant { rate: of } | Arrival::Poisson { rate: of } => {
                    *of = rate * share
                }
                _ => unreachable!("only laws with a rate are chosen"),
            }
        }
        scenario
    }
}

const fn rate_of(load: &Load) -> Option<f64> {
    match load.arrival {
        Arrival::Constant { rate } | Arrival::Poisson { rate } => Some(rate),
        _ => None,
    }
}

fn no_rate(load: &Load, all: &[Load]) -> String {
    let others: Vec<&str> =
        all.iter().filter(|load| rate_of(load).is_some()).map(|load| load.name.as_str()).collect();
    let instead = if others.is_empty() {
        "give it arrival = { kind = \"poisson\", rate = … }".to_owned()
    } else {
        format!("give it one of those, or choose with --load: {}", others.join(", "))
    };
    format!(
        "load.{}.arrival: {:?} has no one rate that a search could change (constant and poisson have); {instead}",
        load.name,
        load.arrival.kind()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::ScenarioFile;

    fn scenario(loads: &str) -> Scenario {
        let text = format!(
            "version = 1\nname = \"x\"\n[target]\nkind = \"null\"\n[population]\naccounts = 9\n[phases]\nmeasure = \"10s\"\n{loads}"
        );
        let file = ScenarioFile::parse("x.toml", &text).expect("it is TOML");
        file.resolve().unwrap_or_else(|mistakes| panic!("{mistakes}"))
    }

    const POISSON: &str = "[[load]]\nname = \"a\"\narrival = { kind = \"poisson\", rate = \"30/s\" }\nmix = { recover = 1 }\n";
    const CONSTANT: &str = "[[load]]\nname = \"b\"\narrival = { kind = \"constant\", rate = \"10/s\" }\nmix = { recover = 1 }\n";
    const RAMP: &str = "[[load]]\nname = \"c\"\narrival = { kind = \"ramp\", from = \"1/s\", to = \"9/s\" }\nmix = { recover = 1 }\n";

    #[test]
    fn what_is_scaled_is_said() {
        let check = |loads: String, name, at: &[f64], words: &str| {
            let scenario = scenario(&loads);
            let scaling = Scaling::of(&scenario, name).unwrap();
            assert!(scaling.words.contains(words), "{}", scaling.words);
            let rates: Vec<f64> =
                scaling.at(&scenario, 200.0).loads.iter().filter_map(rate_of).collect();
            assert_eq!(rates, at);
        };
        check(POISSON.to_owned(), None, &[200.0], "the rate of load \"a\" (poisson)");
        check(
            format!("{POISSON}{CONSTANT}"),
            None,
            &[150.0, 50.0],
            "in proportion: \"a\" 30.0/s of 40.0/s",
        );
        check(format!("{POISSON}{CONSTANT}"), Some("b"), &[30.0, 200.0], "the other loads stay");
        check(format!("{POISSON}{RAMP}"), Some("a"), &[200.0], "the other loads stay");
    }

    #[test]
    fn what_cannot_be_scaled_is_refused() {
        let check = |loads: String, name, words: &[&str]| {
            let mistakes = Scaling::of(&scenario(&loads), name).unwrap_err().join("\n");
            for word in words {
                assert!(mistakes.contains(word), "{mistakes}");
            }
        };
        check(POISSON.to_owned(), Some("z"), &["no load \"z\"", "there are: a"]);
        check(
            RAMP.to_owned(),
            None,
            &["load.c.arrival", "\"ramp\" has no one rate", "give it arrival"],
        );
        check(format!("{POISSON}{RAMP}"), None, &["choose with --load: a"]);
        check(format!("{POISSON}{RAMP}"), Some("c"), &["\"ramp\""]);
    }
}
