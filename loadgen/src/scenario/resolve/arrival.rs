//! `arrival` of a `[[load]]`: the law of intended starts. Each kind has its own fields.
//!
//! | kind | fields |
//! |---|---|
//! | `constant`, `poisson` | `rate` |
//! | `ramp` | `from`, `to` |
//! | `steps` | `rates`, `each` |
//! | `diurnal` | `mean`, `peak`, `day`, `from`, `hours` |
//! | `burst` | `base`, `peak`, `at`, `rise`, `half_life` |
//! | `replay` | `file`, `speed`, `fingerprint` |
//! | `closed` | `users`, `think`, `iterations`, and `ramp_up` and `ramp_down`, or `stages` |

use std::ops::RangeInclusive;
use std::time::Duration;

use super::{DAY, LIST_MAX, MILLISECOND};
use crate::arrival::{BadLog, HOURS, Recording, peak_max};
use crate::scenario::diagnostic::Diagnostic;
use crate::scenario::node::{Origin, quoted};
use crate::scenario::reader::{Field, Mistakes, Section};
use crate::scenario::{Arrival, Closed, Ramping, Think};

/// A million a second is what one machine can lay out and account for; what comes less often than
/// once in eleven days never comes, since no run is longer than one.
const RATES: RangeInclusive<f64> = 1e-6..=1e6;
/// A day in a second has hours of 42 ms, which no second of a chart can tell apart.
const DAY_MIN: Duration = Duration::from_secs(1);
/// A thousand times as fast a log of a day is played in a minute and a half; as slow, a second in a quarter
/// of an hour.
const SPEEDS: RangeInclusive<f64> = 0.001..=1_000.0;
/// A thinking user takes 16 bytes and a place in the backlog.
const USERS_MAX: u32 = 10_000_000;
/// Hours are weighed against one another: a millionth part of the busiest is nobody.
const HOURS_WEIGHTS: RangeInclusive<f64> = 0.0..=1e6;

pub(super) fn arrival(mut section: Section<'_>, mistakes: &mut Mistakes) -> Option<Arrival> {
    let kinds = Arrival::KINDS;
    let known = |text: &str| kinds.into_iter().find(|kind| *kind == text);
    let kind = section.require("kind", "kind = \"poisson\"", mistakes)?.choice(
        "a kind of arrival",
        &kinds,
        known,
        mistakes,
    )?;
    let arrival = match kind {
        "constant" => {
            let rate = rate(&mut section, "rate", false, mistakes);
            rate.map(|rate| Arrival::Constant { rate })
        }
        "poisson" => {
            let rate = rate(&mut section, "rate", false, mistakes);
            rate.map(|rate| Arrival::Poisson { rate })
        }
        "ramp" => ramp(&mut section, mistakes),
        "steps" => steps(&mut section, mistakes),
        "diurnal" => diurnal(&mut section, mistakes),
        "burst" => burst(&mut section, mistakes),
        "replay" => replay(&mut section, mistakes),
        _ => closed(&mut section, mistakes).map(Arrival::Closed),
    };
    section.finish(&format!("an arrival of kind \"{kind}\""), mistakes);
    arrival
}

fn rate(
    section: &mut Section<'_>,
    key: &'static str,
    zero: bool,
    mistakes: &mut Mistakes,
) -> Option<f64> {
    let field = section.require(key, &format!("{key} = \"200/s\""), mistakes)?;
    field.rate(zero, RATES, mistakes)
}

fn ramp(section: &mut Section<'_>, mistakes: &mut Mistakes) -> Option<Arrival> {
    let from = rate(section, "from", true, mistakes);
    let end = section.require("to", "to = \"200/s\"", mistakes);
    let to = end.as_ref().and_then(|field| field.rate(true, RATES, mistakes));
    let (from, to) = (from?, to?);
    if from + to <= 0.0 {
        let message = "a ramp from nothing to nothing offers nothing".to_owned();
        end?.wrong(message, "one end above \"0/s\"", mistakes);
        return None;
    }
    Some(Arrival::Ramp { from, to })
}

fn steps(section: &mut Section<'_>, mistakes: &mut Mistakes) -> Option<Arrival> {
    const EXAMPLE: &str = "rates = [\"50/s\", \"100/s\", \"200/s\"]";
    let field = section.require("rates", EXAMPLE, mistakes);
    let rates = field.as_ref().and_then(|field| {
        let items = list(field, EXAMPLE, mistakes)?;
        let rates: Vec<Option<f64>> =
            items.iter().map(|item| item.rate(true, RATES, mistakes)).collect();
        rates.into_iter().collect::<Option<Vec<f64>>>()
    });
    let each = section.take("each").map(|field| field.duration(MILLISECOND..=DAY, mistakes));
    let rates = rates?;
    if rates.iter().all(|rate| *rate <= 0.0) {
        let message = "steps of nothing offer nothing".to_owned();
        field?.wrong(message, "one rate above \"0/s\"", mistakes);
        return None;
    }
    Some(Arrival::Steps { rates, each: each.map_or(Some(None), |each| each.map(Some))? })
}

fn diurnal(section: &mut Section<'_>, mistakes: &mut Mistakes) -> Option<Arrival> {
    let mean = rate(section, "mean", false, mistakes);
    let hours = section.take("hours").map(|field| hours(&field, mistakes));
    let most = peak_max(hours.as_ref().and_then(Option::as_deref).unwrap_or(&HOURS));
    let peak_field = section.require("peak", "peak = 2.5", mistakes);
    let peak = peak_field.as_ref().and_then(|field| {
        let peak = field.number(false, 1.0..=24.0, mistakes)?;
        if peak > most * 0.99 {
            // A peak as high as that would leave nobody to the other hours.
            let message =
                format!("{} times the mean is more than one hour of 24 can have", field.shown());
            field.wrong(message, &format!("a number from 1 to {:.2}", most * 0.99), mistakes);
            return None;
        }
        Some(peak)
    });
    let day = section.take("day").map(|field| field.duration(DAY_MIN..=DAY, mistakes));
    let from = section.take("from").map(|field| time_of_day(&field, mistakes));
    let (mean, peak) = (mean?, peak?);
    if mean * peak > *RATES.end() {
        let message = "the peak is more than a million a second".to_owned();
        peak_field?.wrong(message, "mean · peak of at most \"1000000/s\"", mistakes);
        return None;
    }
    Some(Arrival::Diurnal {
        mean,
        peak,
        day: day.map_or(Some(None), |day| day.map(Some))?,
        from_hour: from.unwrap_or(Some(0.0))?,
        hours: hours.map_or(Some(None), |hours| hours.map(Some))?,
    })
}

fn hours(field: &Field<'_>, mistakes: &mut Mistakes) -> Option<Box<[f64; 24]>> {
    const EXAMPLE: &str = "24 numbers, the first for 0:00";
    let items = list(field, EXAMPLE, mistakes)?;
    let numbers: Vec<Option<f64>> =
        items.iter().map(|item| item.number(false, HOURS_WEIGHTS, mistakes)).collect();
    let numbers = numbers.into_iter().collect::<Option<Vec<f64>>>()?;
    let len = numbers.len();
    let Ok(hours) = Box::<[f64; 24]>::try_from(numbers) else {
        field.wrong(format!("{len} hours are no day"), EXAMPLE, mistakes);
        return None;
    };
    if hours.iter().all(|hour| *hour <= 0.0) {
        field.wrong("a day on which nobody comes".to_owned(), EXAMPLE, mistakes);
        return None;
    }
    Some(hours)
}

/// `"18:30"`, in hours.
fn time_of_day(field: &Field<'_>, mistakes: &mut Mistakes) -> Option<f64> {
    const EXAMPLE: &str = "a time of day, \"18:30\"";
    let text = field.text(EXAMPLE, mistakes)?;
    let parsed = text.split_once(':').and_then(|(hour, minute)| {
        let number = |digits: &str| {
            let plain =
                (1..=2).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| digits.parse::<u8>().ok())?
        };
        let (hour, minute) = (number(hour)?, number(minute).filter(|_| minute.len() == 2)?);
        (hour < 24 && minute < 60).then(|| f64::from(hour) + f64::from(minute) / 60.0)
    });
    if parsed.is_none() {
        field.wrong(format!("{} is not a time of day", quoted(text)), EXAMPLE, mistakes);
    }
    parsed
}

fn burst(section: &mut Section<'_>, mistakes: &mut Mistakes) -> Option<Arrival> {
    let base = rate(section, "base", true, mistakes);
    let peak_field = section.require("peak", "peak = \"400/s\"", mistakes);
    let peak = peak_field.as_ref().and_then(|field| field.rate(false, RATES, mistakes));
    let at = section
        .require("at", "at = \"20s\"", mistakes)
        .and_then(|field| field.duration(Duration::ZERO..=DAY, mistakes));
    let rise = section.take("rise").map(|field| field.duration(Duration::ZERO..=DAY, mistakes));
    let half_life = section
        .require("half_life", "half_life = \"10s\"", mistakes)
        .and_then(|field| field.duration(MILLISECOND..=DAY, mistakes));
    let (base, peak) = (base?, peak?);
    if peak <= base {
        let message = "the peak of a burst is above its base".to_owned();
        peak_field?.wrong(message, &format!("a rate above \"{base}/s\""), mistakes);
        return None;
    }
    let rise = rise.unwrap_or(Some(Duration::ZERO))?;
    Some(Arrival::Burst { base, peak, at: at?, rise, half_life: half_life? })
}

fn replay(section: &mut Section<'_>, mistakes: &mut Mistakes) -> Option<Arrival> {
    let field = section.require("file", "file = \"log.csv\"", mistakes);
    let speed = section.take("speed").map(|field| field.number(false, SPEEDS, mistakes));
    let print = section.take("fingerprint");
    let wanted = print.as_ref().map(|field| field.text("16 hexadecimal digits", mistakes));
    let field = field?;
    let path = field.text("file = \"log.csv\"", mistakes)?;
    let recording = match Recording::read(path) {
        Ok(recording) => recording,
        Err(BadLog::File(why)) => {
            let allowed = "a log whose name ends in .csv, .ndjson or .jsonl (docs/ARRIVALS.md)";
            field.wrong(why, allowed, mistakes);
            return None;
        }
        Err(BadLog::Lines(lines)) => {
            for bad in lines {
                let origin = Origin::Other { file: path.to_owned(), line: bad.line };
                let mut mistake = Diagnostic::new(Some(origin), bad.field, bad.message);
                mistake.seen = bad.seen.as_deref().map(quoted);
                mistake.allowed = bad.allowed;
                mistakes.push(mistake);
            }
            return None;
        }
    };
    let wanted = wanted.map_or(Some(None), |wanted| wanted.map(Some))?;
    if let (Some(place), Some(wanted)) = (print, wanted)
        && wanted != recording.fingerprint_text()
    {
        let message = "the log is not the one that was replayed".to_owned();
        place.wrong(message, &format!("\"{}\", or none", recording.fingerprint_text()), mistakes);
        return None;
    }
    Some(Arrival::Replay { recording, speed: speed.unwrap_or(Some(1.0))? })
}

fn closed(section: &mut Section<'_>, mistakes: &mut Mistakes) -> Option<Closed> {
    let think = section
        .require("think", "think = \"5s\"", mistakes)
        .and_then(|field| think(field, mistakes));
    let iterations = section.take("iterations");
    let iterations = iterations.map(|field| field.integer(1..=u64::from(u32::MAX), mistakes));
    let users = section.peek("users");
    let (users, ramping) = if let Some(stages) = section.take("stages") {
        for key in ["users", "ramp_up", "ramp_down"] {
            if let Some(field) = section.take(key) {
                let message = format!("{key} beside stages, which say how many users there are");
                field.wrong(message, "one or the other", mistakes);
            }
        }
        let stages = self::stages(&stages, mistakes)?;
        let most = stages.iter().map(|(users, _)| *users).max().unwrap_or(0);
        if users.is_some() {
            return None;
        }
        (Some(most), Ramping::Stages(stages))
    } else {
        let users = section.require("users", "users = 1_000", mistakes);
        let users = users.and_then(|field| field.integer(1..=USERS_MAX, mistakes));
        let mut ramp = |key| {
            let field = section.take(key);
            let length = field.map(|field| field.duration(Duration::ZERO..=DAY, mistakes));
            length.map_or(Some(None), |length| length.map(Some))
        };
        let (up, down) = (ramp("ramp_up"), ramp("ramp_down"));
        (users, Ramping::UpDown { up: up?, down: down?.unwrap_or(Duration::ZERO) })
    };
    Some(Closed {
        users: users?,
        think: think?,
        iterations: iterations.map_or(Some(None), |iterations| iterations.map(Some))?,
        ramping,
    })
}

fn stages(field: &Field<'_>, mistakes: &mut Mistakes) -> Option<Vec<(u32, Duration)>> {
    const EXAMPLE: &str = "stages = [{ users = 100, for = \"30s\" }]";
    let items = list(field, EXAMPLE, mistakes)?;
    let mut stages = Vec::new();
    for item in &items {
        let Some(mut section) = item.as_section(mistakes) else { continue };
        let users = section.require("users", "users = 100", mistakes);
        let users = users.and_then(|field| field.integer(0..=USERS_MAX, mistakes));
        let length = section.require("for", "for = \"30s\"", mistakes);
        let length = length.and_then(|field| field.duration(Duration::ZERO..=DAY, mistakes));
        section.finish("a stage", mistakes);
        stages.push(users.zip(length));
    }
    let stages = stages.into_iter().collect::<Option<Vec<_>>>()?;
    if stages.iter().all(|(users, _)| *users == 0) {
        field.wrong("stages without a user".to_owned(), EXAMPLE, mistakes);
        return None;
    }
    Some(stages)
}

/// `"5s"`, `{ mean = "5s" }` or `{ from = "2s", to = "8s" }`.
pub(super) fn think(field: Field<'_>, mistakes: &mut Mistakes) -> Option<Think> {
    const EXAMPLE: &str = "\"5s\", { mean = \"5s\" }, { from = \"2s\", to = \"8s\" }";
    if !field.is_table() {
        let before = mistakes.len();
        let fixed = field.duration(Duration::ZERO..=DAY, mistakes).map(Think::Fixed);
        for mistake in &mut mistakes[before..] {
            mistake.allowed = Some(EXAMPLE.to_owned());
        }
        return fixed;
    }
    let mut section = field.section(mistakes)?;
    let mut take = |key: &'static str, mistakes: &mut Mistakes| {
        section.take(key).map(|field| field.duration(Duration::ZERO..=DAY, mistakes))
    };
    let mean = take("mean", mistakes);
    let (from, to) = (take("from", mistakes), take("to", mistakes));
    let place = section.place();
    section.finish("a time to think", mistakes);
    match (mean, from, to) {
        (Some(mean), None, None) => mean.map(Think::Mean),
        (None, Some(from), Some(to)) => {
            let (from, to) = (from?, to?);
            if from > to {
                place.wrong("it ends before it begins".to_owned(), EXAMPLE, mistakes);
                return None;
            }
            Some(Think::Between(from, to))
        }
        _ => {
            place.wrong("this does not say how long".to_owned(), EXAMPLE, mistakes);
            None
        }
    }
}

/// The items of a list that has at least one.
fn list<'a>(field: &Field<'a>, example: &str, mistakes: &mut Mistakes) -> Option<Vec<Field<'a>>> {
    let Some(items) = field.each() else {
        field.wrong(format!("{} is not a list", field.shown()), example, mistakes);
        return None;
    };
    if items.is_empty() {
        field.wrong("there is nothing in the list".to_owned(), example, mistakes);
        return None;
    }
    if items.len() > LIST_MAX {
        let message = format!("{} are too many", items.len());
        field.wrong(message, &format!("at most {LIST_MAX}"), mistakes);
        return None;
    }
    Some(items)
}
