//! Rules a verdict rests on: their grammar, the same in TOML, on the command line and in a gate.
//! Whether a rule holds is judged in `judge.rs`; whether its names exist, by whoever knows them.
//!
//! `OP[.OUTCOME].(response|service|dispatch_delay).(p50|p90|p99|p99.9|max) < DURATION` ·
//! `OP.unexpected < PERCENT` · `run.achieved >= PERCENT` · `run.time_to_recover < DURATION`

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::hist::HIGHEST_NS;
use crate::units::{
    exact_duration, exact_percent, format_duration, nanos, parse_duration, parse_percent,
};

/// One rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Rule {
    /// A quantile of a time stays below a limit.
    Quantile {
        /// Operation.
        operation: String,
        /// `None`: over every intended operation, where an unexpected end is infinitely slow.
        outcome: Option<String>,
        /// Which time.
        time: Time,
        /// Which quantile.
        statistic: Statistic,
        /// It must be shorter than this.
        limit: Duration,
    },
    /// The share of an operation's arrivals that did not end as expected stays below a limit.
    Unexpected {
        /// Operation.
        operation: String,
        /// Share of one.
        limit: f64,
    },
    /// The achieved rate as a share of the offered one reaches a limit.
    Achieved {
        /// Share of one.
        limit: f64,
    },
    /// After every fault that disrupts, operations succeed again within a limit.
    TimeToRecover {
        /// It must be shorter than this.
        limit: Duration,
    },
}

/// A time of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Time {
    /// Completion − intended start.
    Response,
    /// Completion − send.
    Service,
    /// Send − intended start.
    DispatchDelay,
}

impl Time {
    /// Every time, as the grammar lists them.
    pub const ALL: [Self; 3] = [Self::Response, Self::Service, Self::DispatchDelay];

    /// The name in rules.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Response => "response",
            Self::Service => "service",
            Self::DispatchDelay => "dispatch_delay",
        }
    }
}

/// A quantile that a rule can limit: those of [`crate::model::Quantiles`], and no other, so that
/// every rule's figure stands in every table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Statistic {
    /// Half are faster.
    P50,
    /// 90 of 100.
    P90,
    /// 99 of 100.
    P99,
    /// 999 of 1,000.
    P99_9,
    /// The slowest.
    Max,
}

impl Statistic {
    /// Every statistic, as the grammar lists them.
    pub const ALL: [Self; 5] = [Self::P50, Self::P90, Self::P99, Self::P99_9, Self::Max];

    /// The name in rules.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::P50 => "p50",
            Self::P90 => "p90",
            Self::P99 => "p99",
            Self::P99_9 => "p99.9",
            Self::Max => "max",
        }
    }

    /// The quantile, from 0 to 1.
    #[must_use]
    pub const fn q(self) -> f64 {
        match self {
            Self::P50 => 0.5,
            Self::P90 => 0.9,
            Self::P99 => 0.99,
            Self::P99_9 => 0.999,
            Self::Max => 1.0,
        }
    }
}

/// Why some text is no rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError {
    /// In words, without the rule itself.
    pub message: String,
    /// The text as it was given.
    pub rule: String,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {:?}: {}", self.rule, self.message)
    }
}

impl std::error::Error for RuleError {}

impl Rule {
    /// Reads a rule. Spaces around the comparison are free.
    ///
    /// # Errors
    /// It doesn't follow the grammar, or can never hold, or needs times longer than are measured.
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        parse(text.trim()).map_err(|message| RuleError { message, rule: text.to_owned() })
    }

    /// The operation it names; `None` if it is about the whole run.
    #[must_use]
    pub fn operation(&self) -> Option<&str> {
        match self {
            Self::Quantile { operation, .. } | Self::Unexpected { operation, .. } => {
                Some(operation)
            }
            Self::Achieved { .. } | Self::TimeToRecover { .. } => None,
        }
    }

    /// The outcome it names, if any.
    #[must_use]
    pub fn outcome(&self) -> Option<&str> {
        match self {
            Self::Quantile { outcome, .. } => outcome.as_deref(),
            Self::Unexpected { .. } | Self::Achieved { .. } | Self::TimeToRecover { .. } => None,
        }
    }

    /// The limit as `run.json` has it: nanoseconds for durations, a fraction of one for shares.
    #[must_use]
    pub fn limit(&self) -> f64 {
        match self {
            Self::Quantile { limit, .. } | Self::TimeToRecover { limit } => {
                crate::units::float(nanos(*limit))
            }
            Self::Unexpected { limit, .. } | Self::Achieved { limit } => *limit,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quantile { operation, outcome, time, statistic, limit } => {
                write!(f, "{operation}.")?;
                if let Some(outcome) = outcome {
                    write!(f, "{outcome}.")?;
                }
                write!(f, "{}.{} < {}", time.name(), statistic.name(), exact_duration(*limit))
            }
            Self::Unexpected { operation, limit } => {
                write!(f, "{operation}.unexpected < {}", exact_percent(*limit))
            }
            Self::Achieved { limit } => write!(f, "run.achieved >= {}", exact_percent(*limit)),
            Self::TimeToRecover { limit } => {
                write!(f, "run.time_to_recover < {}", exact_duration(*limit))
            }
        }
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> Self {
        rule.to_string()
    }
}

impl TryFrom<String> for Rule {
    type Error = RuleError;

    fn try_from(text: String) -> Result<Self, RuleError> {
        Self::parse(&text)
    }
}

impl std::str::FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        Self::parse(text)
    }
}

const GRAMMAR: &str = "write for example \"recover.response.p99 < 250ms\", \
                       \"recover.unexpected < 0.1%\" or \"run.achieved >= 98%\"";

fn parse(text: &str) -> Result<Rule, String> {
    let Some(at) = text.find(['<', '>', '=']) else {
        return Err(format!("it has no comparison; {GRAMMAR}"));
    };
    let (subject, rest) = text.split_at(at);
    let value = rest.trim_start_matches(['<', '>', '=']);
    let comparison = &rest[..rest.len() - value.len()];
    let (subject, value) = (subject.trim(), value.trim());

    let Some((operation, rest)) = subject.split_once('.') else {
        return Err(format!("{subject:?} names no figure; {GRAMMAR}"));
    };
    let rule = if operation == "run" {
        of_the_run(rest, comparison, value)?
    } else if rest == "unexpected" {
        let limit = upper_share(comparison, value)?;
        Rule::Unexpected { operation: name(operation, "an operation")?, limit }
    } else {
        quantile(operation, rest, comparison, value)?
    };
    Ok(rule)
}

fn of_the_run(figure: &str, comparison: &str, value: &str) -> Result<Rule, String> {
    match figure {
        "achieved" if comparison == ">=" => {
            let limit = parse_percent(value).map_err(|error| error.message)?;
            Ok(Rule::Achieved { limit })
        }
        "achieved" => Err(format!("\"run.achieved\" takes \">=\", not {comparison:?}")),
        "time_to_recover" => Ok(Rule::TimeToRecover { limit: upper_time(comparison, value)? }),
        _ => Err(format!("unknown figure {figure:?} of the run; known: achieved, time_to_recover")),
    }
}

fn quantile(operation: &str, rest: &str, comparison: &str, value: &str) -> Result<Rule, String> {
    // The figure is OUTCOME.TIME.STATISTIC or TIME.STATISTIC, and a statistic may hold a dot.
    let (first, behind) = rest.split_once('.').unwrap_or((rest, ""));
    let (outcome, time, statistic) = match time_named(first) {
        Some(time) => (None, time, behind),
        None => {
            let (second, statistic) = behind.split_once('.').unwrap_or((behind, ""));
            match time_named(second) {
                Some(time) => (Some(name(first, "an outcome")?), time, statistic),
                None => {
                    // With fewer parts the first one was meant as a figure, else the second.
                    let meant =
                        if second.is_empty() || !behind.contains('.') { first } else { second };
                    return Err(format!(
                        "unknown figure {meant:?}; known: response, service, dispatch_delay, \
                         unexpected"
                    ));
                }
            }
        }
    };
    let Some(statistic) = Statistic::ALL.into_iter().find(|known| known.name() == statistic) else {
        let known = Statistic::ALL.map(Statistic::name).join(", ");
        return Err(if statistic.is_empty() {
            format!("no statistic behind {:?}; known: {known}", time.name())
        } else {
            format!("unknown statistic {statistic:?}; known: {known}")
        });
    };
    let limit = upper_time(comparison, value)?;
    Ok(Rule::Quantile {
        operation: name(operation, "an operation")?,
        outcome,
        time,
        statistic,
        limit,
    })
}

fn upper_time(comparison: &str, value: &str) -> Result<Duration, String> {
    if comparison != "<" {
        return Err(format!("a time takes \"<\", not {comparison:?}"));
    }
    let limit = parse_duration(value).map_err(|error| error.message)?;
    if limit.is_zero() {
        return Err(format!("nothing takes less than {value}: it could never hold"));
    }
    if nanos(limit) > HIGHEST_NS {
        let longest = format_duration(HIGHEST_NS);
        return Err(format!("{value} is longer than what is measured (at most {longest})"));
    }
    Ok(limit)
}

fn upper_share(comparison: &str, value: &str) -> Result<f64, String> {
    if comparison != "<" {
        return Err(format!("\"unexpected\" takes \"<\", not {comparison:?}"));
    }
    let limit = parse_percent(value).map_err(|error| error.message)?;
    if limit > 0.0 {
        Ok(limit)
    } else {
        Err(format!("no share is less than {value}: it could never hold"))
    }
}

fn time_named(name: &str) -> Option<Time> {
    Time::ALL.into_iter().find(|time| time.name() == name)
}

/// A name as operations and outcomes have them; whether it exists is the caller's to check.
fn name(text: &str, what: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if text.is_empty() || !text.chars().all(fits) {
        return Err(format!("{text:?} is not the name of {what}"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_and_written_back() {
        let check = |text: &str, canonical: &str| {
            let rule = Rule::parse(text).unwrap();
            assert_eq!(rule.to_string(), canonical);
            assert_eq!(Rule::parse(canonical), Ok(rule));
        };
        for text in [
            "recover.response.p99 < 250ms",
            "recover.response.p99.9 < 1500ms",
            "recover.complete.service.max < 20us",
            "recover-wrong.refused.dispatch_delay.p99.9 < 3s",
            "register.timed_out.response.p50 < 7ns",
            "recover-wrong.unexpected < 0.1%",
            "run.achieved >= 98%",
            "run.achieved >= 99.95%",
            "run.time_to_recover < 500ms",
        ] {
            check(text, text);
        }
        check("recover.response.p99<250ms", "recover.response.p99 < 250ms");
        check("  recover.service.p90  <  0.5s ", "recover.service.p90 < 500ms");
        check("run.achieved>=100%", "run.achieved >= 100%");
    }

    #[test]
    fn a_rule_tells_what_it_names() {
        let rule = Rule::parse("recover.complete.response.p99.9 < 250ms").unwrap();
        assert_eq!((rule.operation(), rule.outcome()), (Some("recover"), Some("complete")));
        assert!((rule.limit() - 250_000_000.0).abs() < 0.5);
        let rule = Rule::parse("run.achieved >= 98%").unwrap();
        assert_eq!((rule.operation(), rule.outcome(), rule.limit()), (None, None, 0.98));
    }

    #[test]
    fn mistakes_are_told_in_words() {
        let check = |text: &str, message: &str| {
            let error = Rule::parse(text).expect_err(text);
            assert!(error.message.contains(message), "{text}: {}", error.message);
            assert_eq!(error.rule, text);
        };
        check(
            "recover.response.p95 < 250ms",
            "unknown statistic \"p95\"; known: p50, p90, p99, p99.9, max",
        );
        check("recover.complete.response.mean < 1s", "unknown statistic \"mean\"");
        check("recover.response < 1s", "no statistic behind \"response\"");
        check("recover.latency.p99 < 1s", "unknown figure \"latency\"");
        check("recover.complete.latency.p99 < 1s", "unknown figure \"latency\"");
        check("recover.failed < 1%", "unknown figure \"failed\"");
        check("recover.response.p99", "no comparison");
        check("recover < 1s", "names no figure");
        check("recover.response.p99 <= 250ms", "takes \"<\", not \"<=\"");
        check("recover.response.p99 > 250ms", "takes \"<\", not \">\"");
        check("recover.response.p99 < 250", "\"250\" is not a duration");
        check("recover.response.p99 < 0ms", "could never hold");
        check("recover.response.p99 < 10m", "longer than what is measured (at most 137 s)");
        check("recover.unexpected < 0%", "could never hold");
        check("recover.unexpected < 2", "\"2\" is not a percentage");
        check("recover.unexpected >= 2%", "takes \"<\"");
        check("run.achieved > 98%", "takes \">=\"");
        check("run.achieved >= 198%", "at most 100%");
        check("run.time_to_recover >= 1s", "takes \"<\"");
        check("run.time_to_recover < 0s", "could never hold");
        check("run.goodput >= 98%", "unknown figure \"goodput\" of the run");
        check(".response.p99 < 1s", "\"\" is not the name of an operation");
        check("Recover.response.p99 < 1s", "\"Recover\" is not the name");
        check("", "no comparison");
    }
}
