//! The answer of a search in words.

use vaultmark_results::search::{Answer, AnswerKind, ProbeResult};
use vaultmark_results::units::{format_rate, format_share};

use super::machine::Found;

/// The answer; `probes` are all runs.
#[must_use]
pub(super) fn answer(found: Found, probes: &[ProbeResult]) -> Answer {
    let confirmed = |rate: f64| {
        let last = probes.iter().rev().find(|probe| probe.rate_per_s.total_cmp(&rate).is_eq());
        let length = last.map_or(0.0, |probe| probe.window_s);
        format!("{} holds, confirmed in a run of {length:.0} s", format_rate(rate))
    };
    match found {
        Found::Rate { rate, above } => Answer {
            kind: AnswerKind::Found,
            rate_per_s: Some(rate),
            above_per_s: Some(above),
            words: vec![format!(
                "{}; {}, which is {} more, failed at least twice",
                confirmed(rate),
                format_rate(above),
                format_share(above / rate - 1.0)
            )],
        },
        Found::AtLeast(rate) => Answer {
            kind: AnswerKind::AtLeast,
            rate_per_s: Some(rate),
            above_per_s: None,
            words: vec![
                format!("{}, and nothing above it may be tried", confirmed(rate)),
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
            let known = held.map_or_else(|| "no rate held".to_owned(), confirmed);
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
            let words = format!("{} runs were not enough: {}", probes.len(), so_far(held, failed));
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
