//! `[[faults]]`: what is broken on purpose. One key says what and whom, in the words of
//! `targets::fault`; beside it stand how much and how long.
//!
//! | key | beside it | ends |
//! |---|---|---|
//! | `kill = "replica:2"`, `"leader"` | | `restart_after` |
//! | `kill = "hsm-session:1"` | | by itself |
//! | `replace = "replica:2"` | | never |
//! | `pause = "replica:2"` | | `for` |
//! | `cut = "replica:1"`, `"replica:1->replica:2"` | | `for` |
//! | `degrade = "replica:1"` | `delay`, `loss` | `for` |
//! | `slow_disk`, `slow_hsm = "replica:1"` | `by` | `for` |
//! | `clock_jump = "replica:1"` | `by` | `for`: it jumps back |

use std::time::Duration;

use vaultmark_targets::Fault;

use super::{DAY, MILLISECOND, TypedFault};
use crate::scenario::TimedFault;
use crate::scenario::reader::{Field, Mistakes, Section};

/// What a fault may be, as keys, with a value that would be right.
const KEYS: [(&str, &str); 8] = [
    ("kill", "replica:2"),
    ("replace", "replica:2"),
    ("pause", "replica:2"),
    ("cut", "replica:1->replica:2"),
    ("degrade", "replica:1"),
    ("slow_disk", "replica:1"),
    ("slow_hsm", "replica:1"),
    ("clock_jump", "replica:1"),
];

pub(super) fn fault(mut section: Section<'_>, mistakes: &mut Mistakes) -> Option<TypedFault> {
    let place = section.place();
    let instant = section.require("at", "at = \"30s\"", mistakes);
    let at = instant.as_ref().and_then(|it| it.duration(Duration::ZERO..=DAY, mistakes));
    let mut named = Vec::new();
    for (key, _) in KEYS {
        named.extend(section.take(key).map(|field| (key, field)));
    }
    let examples = KEYS.map(|(key, value)| format!("{key} = \"{value}\"")).join(", ");
    let Some((key, what)) = named.pop() else {
        place.wrong("nothing says what happens".to_owned(), &examples, mistakes);
        section.finish("a fault", mistakes);
        return None;
    };
    if let Some((other, field)) = named.pop() {
        let message = format!("{other} and {key} in one fault");
        field.wrong(message, "a [[faults]] for each", mistakes);
        return None;
    }
    let fault = amount(key, &mut section, mistakes)
        .and_then(|amount| parsed(key, &what, amount.as_deref(), mistakes));
    let end = if key == "kill" { "restart_after" } else { "for" };
    let end = section.take(end);
    let lasts = end.as_ref().map(|field| field.duration(MILLISECOND..=DAY, mistakes));
    section.finish(&format!("a fault of kind \"{key}\""), mistakes);
    let fault = fault?;
    if let (Some(field), false) = (&end, ends(fault)) {
        let message = match fault {
            Fault::KillHsmSession(_) => "an HSM session that dies is reopened by itself",
            _ => "a replica that was replaced is not put back",
        };
        field.wrong(message.to_owned(), "no end for this fault", mistakes);
    }
    let lasts = lasts.map_or(Some(None), |after| after.map(Some))?;
    Some(TypedFault {
        at: place,
        instant_at: instant?.place(),
        what_at: what.place(),
        fault: TimedFault { at: at?, fault, lasts },
    })
}

/// Whether something can end it.
const fn ends(fault: Fault) -> bool {
    matches!(fault, Fault::KillLeader) || fault.undo().is_some()
}

/// What stands behind the object in the words of a fault; `None` if it is wrong.
#[expect(clippy::option_option, reason = "wrong, none needed, or this")]
fn amount(key: &str, section: &mut Section<'_>, mistakes: &mut Mistakes) -> Option<Option<String>> {
    match key {
        "degrade" => {
            let delay = section.take("delay");
            let loss = section.take("loss");
            if delay.is_none() && loss.is_none() {
                let place = section.place();
                let example = "delay = \"50ms\", loss = \"1%\", or both";
                place.wrong("degraded by how much?".to_owned(), example, mistakes);
                return None;
            }
            let word = |key: &str, field: Option<Field<'_>>, mistakes: &mut Mistakes| match field {
                None => Some(String::new()),
                Some(field) => Some(format!(" {key}={}", field.text("", mistakes)?)),
            };
            let delay = word("delay", delay, mistakes);
            let loss = word("loss", loss, mistakes);
            Some(Some(format!("{}{}", delay?, loss?)))
        }
        "slow_disk" | "slow_hsm" => {
            let by = section.require("by", "by = \"20ms\"", mistakes)?;
            let text = by.text("a duration, \"20ms\"", mistakes)?;
            Some(Some(format!(" {text}")))
        }
        "clock_jump" => {
            let by = section.require("by", "by = \"1h\"", mistakes)?;
            let text = by.text("a duration, \"1h\" or \"-1h\"", mistakes)?;
            let sign = if text.starts_with(['+', '-']) { "" } else { "+" };
            Some(Some(format!(" {sign}{text}")))
        }
        _ => Some(None),
    }
}

fn parsed(
    key: &str,
    what: &Field<'_>,
    amount: Option<&str>,
    mistakes: &mut Mistakes,
) -> Option<Fault> {
    let example = KEYS.iter().find(|(known, _)| *known == key).map_or("", |(_, value)| *value);
    let text = what.text(&format!("{key} = \"{example}\""), mistakes)?;
    let words = format!("{} {text}{}", key.replace('_', "-"), amount.unwrap_or_default());
    match words.parse() {
        Ok(fault) => Some(fault),
        Err(why) => {
            let allowed = match key {
                "kill" => "\"replica:N\", \"leader\", \"hsm-session:N\", N from 1".to_owned(),
                _ => format!("{key} = \"{example}\""),
            };
            what.wrong(why, &allowed, mistakes);
            None
        }
    }
}
