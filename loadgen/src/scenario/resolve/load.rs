//! `[[load]]` and `[[slo]]`: what is offered, and what the verdict rests on.

use vaultmark_results::slo::Rule;
use vaultmark_targets::Operation;

use super::{ACCOUNTS_MAX, IN_FLIGHT_MAX, TypedLoad, TypedSlo, arrival, items, name, popularity};
use crate::scenario::diagnostic::{Diagnostic, nearest};
use crate::scenario::node::quoted;
use crate::scenario::reader::{Field, Mistakes, Section};
use crate::scenario::{Arrival, Load, LoadPopulation, Retry};

/// An arrival that waits holds some tens of bytes.
const BACKLOG_MAX: u32 = 10_000_000;
/// Weights are relative: six digits tell every mix that a run could tell apart.
const WEIGHT_MAX: u32 = 1_000_000;
/// A person who is asked a hundred times is a script. An account has ten attempts anyway.
const TRIES_MAX: u8 = 100;
/// Used where a load sets no limits: a second's worth of the rates a laptop's vault keeps up with.
const IN_FLIGHT_DEFAULT: u32 = 1_000;
/// Ten seconds' worth of the same.
const BACKLOG_DEFAULT: u32 = 10_000;

pub(super) fn loads(root: &mut Section<'_>, mistakes: &mut Mistakes) -> Vec<TypedLoad> {
    let example = "[[load]] with name, arrival and mix";
    let Some(field) = root.require("load", example, mistakes) else { return Vec::new() };
    if field.list_len() == Some(0) {
        field.wrong("there is no load in the list".to_owned(), example, mistakes);
    }
    items(field, mistakes, load)
}

fn load(mut section: Section<'_>, mistakes: &mut Mistakes) -> Option<TypedLoad> {
    let at = section.place();
    let name = name(&mut section, "people", mistakes);
    let arrival = section
        .require("arrival", "arrival = { kind = \"poisson\", rate = \"200/s\" }", mistakes)
        .and_then(|field| field.section(mistakes))
        .map(|section| (section.place(), arrival::arrival(section, mistakes)));
    let (arrival_at, arrival) = arrival.map_or((None, None), |(at, it)| (Some(at), it));
    let recording = match &arrival {
        Some(Arrival::Replay { recording, .. }) => Some(recording.mix()),
        _ => None,
    };
    let (mix_at, mix) = if let Some(mix) = recording {
        if let Some(field) = section.take("mix") {
            let message = "the log says what is asked: it has no mix".to_owned();
            field.wrong(message, "no mix beside an arrival of kind \"replay\"", mistakes);
        }
        (arrival_at.clone(), Some(mix))
    } else {
        // Of a log that cannot be read, nobody knows what it asks.
        let unread = arrival.is_none() && section.peek("mix").is_none();
        let field = if unread && is_replay(&section) {
            None
        } else {
            section.require("mix", "mix = { recover = 90, register = 10 }", mistakes)
        };
        (field.as_ref().map(Field::place), field.and_then(|field| mix(field, mistakes)))
    };
    let retry_field = section.take("retry");
    let retry_at = retry_field.as_ref().map(Field::place);
    let retry = retry_field.map(|field| retry(field, mistakes));
    let population = section.section("population", mistakes);
    let population_at = population.place();
    let population = load_population(population, mistakes);
    let mut limits = section.section("limits", mistakes);
    let in_flight = limits.take("in_flight");
    let in_flight = in_flight.map(|field| field.integer(1..=IN_FLIGHT_MAX, mistakes));
    let backlog = limits.take("backlog");
    let backlog = backlog.map(|field| field.integer(0..=BACKLOG_MAX, mistakes));
    limits.finish("limits", mistakes);
    section.finish("a load", mistakes);
    let arrival = arrival?;
    let (in_flight_default, backlog_default) = match &arrival {
        // Each has one operation at most: whoever thinks is in neither.
        Arrival::Closed(closed) => (closed.users.clamp(1, IN_FLIGHT_MAX), closed.users),
        _ => (IN_FLIGHT_DEFAULT, BACKLOG_DEFAULT),
    };
    let load = Load {
        name: name?,
        arrival,
        mix: mix?,
        retry: retry.map_or(Some(None), |retry| retry.map(Some))?,
        population: population?,
        in_flight: in_flight.unwrap_or(Some(in_flight_default))?,
        backlog: backlog.unwrap_or(Some(backlog_default))?,
    };
    Some(TypedLoad { at, arrival_at: arrival_at?, mix_at: mix_at?, retry_at, population_at, load })
}

fn is_replay(load: &Section<'_>) -> bool {
    let kind = load.peek("arrival").and_then(|arrival| arrival.child_text("kind"));
    kind == Some("replay")
}

fn retry(field: Field<'_>, mistakes: &mut Mistakes) -> Option<Retry> {
    let mut section = field.section(mistakes)?;
    let tries = section
        .require("tries", "tries = 4", mistakes)
        .and_then(|field| field.integer(2..=TRIES_MAX, mistakes));
    let right = section
        .require("right", "right = \"60%\"", mistakes)
        .and_then(|field| field.percent(mistakes));
    let after = section
        .require("after", "after = \"3s\"", mistakes)
        .and_then(|field| arrival::think(field, mistakes));
    section.finish("a retry", mistakes);
    Some(Retry { tries: tries?, right: right?, after: after? })
}

fn load_population(mut section: Section<'_>, mistakes: &mut Mistakes) -> Option<LoadPopulation> {
    let accounts = section.take("accounts").map(|field| field.integer(1..=ACCOUNTS_MAX, mistakes));
    let popularity = section.take("popularity").map(|field| popularity(field, mistakes));
    section.finish("the population of a load", mistakes);
    Some(LoadPopulation {
        accounts: accounts.map_or(Some(None), |accounts| accounts.map(Some))?,
        popularity: popularity.map_or(Some(None), |popularity| popularity.map(Some))?,
    })
}

fn mix(field: Field<'_>, mistakes: &mut Mistakes) -> Option<Vec<(Operation, u32)>> {
    let example = Operation::ALL.map(Operation::name).join(", ");
    let whole = field.place();
    let section = field.section(mistakes)?;
    let before = mistakes.len();
    let mut mix = Vec::new();
    for (entry, field) in section.fields() {
        let weight = field.integer(0..=WEIGHT_MAX, mistakes);
        match (entry.key.parse::<Operation>(), weight) {
            // A weight of zero takes an operation out of the mix.
            (Ok(operation), Some(weight)) if weight > 0 => mix.push((operation, weight)),
            (Ok(_), _) => {}
            (Err(()), _) => {
                let key = &entry.key;
                let message = format!("{} is not an operation", quoted(key));
                let origin = Some(entry.origin.clone());
                let mut mistake = Diagnostic::new(origin, &section.path(key), message);
                mistake.seen = Some(quoted(key));
                mistake.suggestion = nearest(key, Operation::ALL.map(Operation::name));
                mistake.allowed = Some(example.clone());
                mistakes.push(mistake);
            }
        }
    }
    if mix.is_empty() && mistakes.len() == before {
        whole.wrong("a mix without a weight above zero".to_owned(), &example, mistakes);
    }
    mix.sort_by_key(|(operation, _)| operation.index());
    (mistakes.len() == before && !mix.is_empty()).then_some(mix)
}

pub(super) fn slo(mut section: Section<'_>, mistakes: &mut Mistakes) -> Option<TypedSlo> {
    let example = "rule = \"recover.response.p99 < 250ms\"";
    let field = section.require("rule", example, mistakes);
    section.finish("an SLO", mistakes);
    let field = field?;
    let text = field.text(example, mistakes)?;
    match Rule::parse(text) {
        Ok(rule) => Some(TypedSlo { at: field.place(), rule }),
        Err(error) => {
            field.wrong(format!("{}: {}", quoted(text), error.message), "", mistakes);
            None
        }
    }
}
