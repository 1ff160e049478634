//! `[[load]]` and `[[slo]]`: what is offered, and what the verdict rests on.

use std::ops::RangeInclusive;

use vaultmark_results::slo::Rule;
use vaultmark_targets::Operation;

use super::{IN_FLIGHT_MAX, TypedLoad, TypedSlo, items, name};
use crate::scenario::diagnostic::{Diagnostic, nearest};
use crate::scenario::node::quoted;
use crate::scenario::reader::{Field, Mistakes, Section};
use crate::scenario::{Arrival, Load};

/// A million a second is what one machine can lay out and account for; what comes less often than
/// once in eleven days never comes, since no run is longer than one.
const RATES: RangeInclusive<f64> = 1e-6..=1e6;
/// An arrival that waits holds some tens of bytes.
const BACKLOG_MAX: u32 = 10_000_000;
/// Weights are relative: six digits tell every mix that a run could tell apart.
const WEIGHT_MAX: u32 = 1_000_000;
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
        .and_then(|section| arrival(section, mistakes));
    let field = section.require("mix", "mix = { recover = 90, register = 10 }", mistakes);
    let mix_at = field.as_ref().map(Field::place);
    let mix = field.and_then(|field| mix(field, mistakes));
    let mut limits = section.section("limits", mistakes);
    let in_flight = limits.take("in_flight");
    let in_flight = in_flight.map(|field| field.integer(1..=IN_FLIGHT_MAX, mistakes));
    let backlog = limits.take("backlog");
    let backlog = backlog.map(|field| field.integer(0..=BACKLOG_MAX, mistakes));
    limits.finish("limits", mistakes);
    section.finish("a load", mistakes);
    let load = Load {
        name: name?,
        arrival: arrival?,
        mix: mix?,
        in_flight: in_flight.unwrap_or(Some(IN_FLIGHT_DEFAULT))?,
        backlog: backlog.unwrap_or(Some(BACKLOG_DEFAULT))?,
    };
    Some(TypedLoad { at, mix_at: mix_at?, load })
}

fn arrival(mut section: Section<'_>, mistakes: &mut Mistakes) -> Option<Arrival> {
    let kinds = ["constant", "poisson", "ramp"];
    let known = |text: &str| kinds.into_iter().find(|kind| *kind == text);
    let kind = section.require("kind", "kind = \"poisson\"", mistakes)?.choice(
        "a kind of arrival",
        &kinds,
        known,
        mistakes,
    )?;
    let arrival = if kind == "ramp" {
        ramp(&mut section, mistakes)
    } else {
        let rate = section
            .require("rate", "rate = \"200/s\"", mistakes)
            .and_then(|field| field.rate(false, RATES, mistakes));
        let law = if kind == "poisson" {
            |rate| Arrival::Poisson { rate }
        } else {
            |rate| Arrival::Constant { rate }
        };
        rate.map(law)
    };
    section.finish(&format!("an arrival of kind \"{kind}\""), mistakes);
    arrival
}

fn ramp(section: &mut Section<'_>, mistakes: &mut Mistakes) -> Option<Arrival> {
    let from = section.require("from", "from = \"10/s\"", mistakes);
    let from = from.and_then(|field| field.rate(true, RATES, mistakes));
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
