//! The answer of a search in words.

use vaultmark_results::search::{Answer, AnswerKind};
use vaultmark_results::units::{exact_duration, format_rate, format_share};

use super::machine::{Found, Goal};

/// The answer.
#[must_use]
pub(super) fn answer(found: Found, goal: &Goal) -> Answer {
    let confirmed = exact_duration(goal.confirmation);
    match found {
        Found::Rate { rate, above } => Answer {
            kind: AnswerKind::Found,
            rate_per_s: Some(rate),
            above_per_s: Some(above),
            words: vec![format!(
                "{} holds, confirmed in a run of {confirmed}; {}, which is {} more, failed whenever it was \
                 tried last, twice at least",
                format_rate(rate),
                format_rate(above),
                format_share(above / rate - 1.0)
            )],
        },
        Found::AtLeast(rate) => Answer {
            kind: AnswerKind::AtLeast,
            rate_per_s: Some(rate),
            above_per_s: None,
            words: vec![
                format!(
                    "{} holds, confirmed in a run of {confirmed}, and nothing above it may be tried",
                    format_rate(rate)
                ),
                "--most with a higher rate looks further".to_owned(),
            ],
        },
        Found::None { least } => Answer {
            kind: AnswerKind::None,
            rate_per_s: None,
            above_per_s: Some(least),
            words: vec![format!(
                "not even {} holds, the lowest rate that may be tried",
                format_rate(least)
            )],
        },
        Found::Instrument { rate, held } => {
            let known = held.map_or_else(
                || "no rate held".to_owned(),
                |held| format!("{} holds, confirmed in a run of {confirmed}", format_rate(held)),
            );
            Answer {
                kind: AnswerKind::Instrument,
                rate_per_s: held,
                above_per_s: Some(rate),
                words: vec![format!(
                    "the instrument is the limit: at {} the runs were invalid however often they were made; \
                     {known}, and what the target would do beyond is not known",
                    format_rate(rate)
                )],
            }
        }
        Found::Unfinished { held, failed } => {
            let words = format!("{} runs were not enough: {}", goal.runs_max, so_far(held, failed));
            unfinished(held, failed, words)
        }
    }
}

/// The answer of a search that was ended.
#[must_use]
pub(super) fn stopped(held: Option<f64>, failed: Option<f64>, why: &str) -> Answer {
    unfinished(held, failed, format!("{why}: {}", so_far(held, failed)))
}

fn unfinished(held: Option<f64>, failed: Option<f64>, words: String) -> Answer {
    let kind = AnswerKind::Unfinished;
    Answer { kind, rate_per_s: held, above_per_s: failed, words: vec![words] }
}

fn so_far(held: Option<f64>, failed: Option<f64>) -> String {
    match (held.map(format_rate), failed.map(format_rate)) {
        (Some(held), Some(failed)) => {
            format!("{held} held and {failed} failed when they were tried last, not confirmed")
        }
        (Some(held), None) => {
            format!("{held} held when it was tried last, not confirmed, and none failed")
        }
        (None, Some(failed)) => format!("{failed} failed, and none below it is known to hold"),
        (None, None) => "nothing is known".to_owned(),
    }
}
