//! What is wrong with a card is told, all of it, with its place and the value seen.

use std::path::Path;

use serde_json::{Value, json};
use vaultmark_results::CardError;
use vaultmark_results::card::{Basis, parse, read, text};

use crate::sample::card;
use crate::schema::validator;

/// Changes the sample and returns what is said of it, a line each.
fn told(changes: &[(&str, Value)]) -> Vec<String> {
    let mut json = serde_json::to_value(card()).expect("a card is JSON");
    for (pointer, value) in changes {
        *json.pointer_mut(pointer).expect(pointer) = value.clone();
    }
    said(&json)
}

fn said(json: &Value) -> Vec<String> {
    match parse(Path::new("x.json"), json.to_string().as_bytes()) {
        Ok(_) => Vec::new(),
        Err(error) => error.to_string().lines().map(str::to_owned).collect(),
    }
}

/// A place, what is put there, and what is said of it.
type Case = (&'static str, Value, &'static str);

fn single_fields() -> Vec<Case> {
    vec![
        (
            "/publication",
            json!("open"),
            r#"publication: must be one of "public", "internal", "withheld", found "open""#,
        ),
        (
            "/device/provision",
            json!("KeyInside"),
            r#"device.provision: must be one of "firmware", "key-inside", "key-inside-tweaked", "seed-inside", found "KeyInside""#,
        ),
        ("/device/name", json!(""), r#"device.name: must not be empty, found """#),
        ("/device/name", json!(null), r#"device.name: must be a text, found null"#),
        ("/seed", json!(1.5), "seed: must be a whole number, found 1.5"),
        ("/seed", json!(-1), "seed: must be at least 0, found -1"),
        (
            "/capacity/evaluations_per_s",
            json!(0.0),
            "capacity.evaluations_per_s: must be above 0, found 0.0",
        ),
        (
            "/capacity/evaluations_per_s",
            json!("fast"),
            r#"capacity.evaluations_per_s: must be a number, found "fast""#,
        ),
        (
            "/capacity/knee_sessions",
            json!(3),
            "capacity.knee_sessions: must be one of the numbers of HSM sessions that were measured, found 3",
        ),
        (
            "/capacity",
            json!(null),
            "capacity: must be there where tails at shares of it are, found null",
        ),
        (
            "/sessions/2/sessions",
            json!(2),
            "sessions[2].sessions: must be more than that of the entry before it, found 2",
        ),
    ]
}

fn parts_that_do_not_fit() -> Vec<Case> {
    vec![
        (
            "/sessions/1/service_ns/p99",
            json!(5),
            "sessions[1].service_ns: must not fall from one quantile to the next, found [400000, 800000, 5, 1600000, 3600000]",
        ),
        (
            "/sessions/1/service_ns/p99",
            json!("4 ms"),
            r#"sessions[1].service_ns.p99: must be a whole number or null, found "4 ms""#,
        ),
        (
            "/tails/0/verdict",
            json!("violated"),
            r#"tails[0].verdict: must be one of "pass", "fail", "invalid", found "violated""#,
        ),
        (
            "/tails/1/load_percent",
            json!(2000),
            "tails[1].load_percent: must be at most 1000, found 2000",
        ),
        (
            "/tails/2/unexpected",
            json!(8001),
            "tails[2].unexpected: must be at most as many as were intended, found 8001",
        ),
        (
            "/bare_calls/0/refused",
            json!("no"),
            "bare_calls[0]: must have a rate or say why it is not offered, found both",
        ),
        (
            "/bare_calls/1/refused",
            json!(null),
            "bare_calls[1]: must have a rate or say why it is not offered, found neither",
        ),
        (
            "/session_limit/error",
            json!(null),
            "session_limit.granted: must be what was asked for, or less and an error, found 256",
        ),
        (
            "/price/currency",
            json!("eur"),
            r#"price.currency: must be three capital letters (ISO 4217), such as "EUR", found "eur""#,
        ),
        (
            "/price/amortise_months",
            json!(null),
            "price.amortise_months: must say over how many months a purchase is spread, found null",
        ),
        ("/price/basis", json!("month"), "price.amortise_months: is for purchases only, found 60"),
    ]
}

#[test]
fn every_kind_of_mistake_names_file_field_and_value() {
    for (pointer, value, expected) in single_fields().into_iter().chain(parts_that_do_not_fit()) {
        assert_eq!(told(&[(pointer, value)]), [format!("x.json: {expected}")]);
    }
}

#[test]
fn long_and_odd_values_are_told_too() {
    for (pointer, value, expected) in [
        (
            "/measured_at",
            json!("2026-13-21T03:15:02Z"),
            r#"measured_at: must be a time such as "2026-11-21T03:15:02Z", found "2026-13-21T03:15:02Z""#,
        ),
        (
            "/measured_at",
            json!("x".repeat(41)),
            &format!("measured_at: must have at most 40 characters, found \"{}\"", "x".repeat(41)),
        ),
        (
            "/warnings",
            json!(vec!["w"; 51]),
            "warnings: must have at most 50 entries, found [\"w\",\"w\",\"w\",\"w\",\"w\",\"w\",\"w\",\"w\",\"w\",\"w\",\"w\",\"w\",\"w\",\"w\",\"w…",
        ),
    ] {
        assert_eq!(told(&[(pointer, value)]), [format!("x.json: {expected}")]);
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let lines = told(&[
        ("/device/suite", json!("p-256")),
        ("/sessions/0", json!([])),
        ("/price/amount", json!(-3)),
    ]);
    assert_eq!(lines.len(), 3, "{lines:#?}");
    let mut json = serde_json::to_value(card()).expect("a card is JSON");
    let fields = json.as_object_mut().expect("an object");
    fields.remove("provenance");
    fields.remove("seed");
    assert_eq!(said(&json), ["x.json: seed: is missing", "x.json: provenance: is missing"]);
    json["sessions"] = json!(vec![Value::Null; 200]);
    let lines = said(&json);
    assert_eq!(lines.len(), 51, "and no more");
    assert_eq!(lines[50], "x.json: and 152 more mistakes");
}

#[test]
fn other_versions_are_refused_before_anything_else() {
    for (version, found) in [(json!(2), "2"), (json!(0), "0"), (json!("1"), "\"1\"")] {
        let lines = told(&[("/schema_version", version), ("/device", json!(null))]);
        let expected =
            format!("x.json has schema_version {found}; this vaultmark reads cards of version 1");
        assert_eq!(lines, [expected]);
    }
    assert!(said(&json!({}))[0].contains("schema_version missing"));
    assert!(said(&json!([]))[0].contains("schema_version missing"));
}

#[test]
fn what_is_no_card_is_told_and_not_read_to_its_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("card.json");
    assert!(matches!(read(&path), Err(CardError::Read(..))));
    std::fs::write(&path, "{").expect("written");
    assert!(matches!(read(&path), Err(CardError::NotJson(..))));
    std::fs::write(&path, vec![b' '; (4 << 20) + 1]).expect("written");
    assert!(matches!(read(&path), Err(CardError::TooLarge(_))));
    let deep = "[".repeat(100_000);
    assert!(matches!(parse(&path, deep.as_bytes()), Err(CardError::NotJson(..))));
}

#[test]
fn a_card_that_could_not_be_read_is_not_written() {
    let mut wrong = card();
    wrong.sessions[0].evaluations_per_s = f64::NAN;
    let error = text(Path::new("x.json"), &wrong).expect_err("JSON has no such number");
    assert_eq!(
        error.to_string(),
        "x.json: sessions[0].evaluations_per_s: must be a number, found null"
    );
    wrong = card();
    wrong.price.as_mut().expect("a price").basis = Basis::Month;
    assert!(text(Path::new("x.json"), &wrong).is_err());
}

/// The checker that is built in and a whole implementation of JSON Schema agree, whatever value stands
/// wherever.
#[test]
fn the_built_in_checker_finds_what_a_real_one_finds() {
    let validator = validator();
    let sample = serde_json::to_value(card()).expect("a card is JSON");
    let mut places = Vec::new();
    collect("", &sample, &mut places);
    assert!(places.len() > 200);
    let values = [
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(1),
        json!(7.5),
        json!(0.25),
        json!(""),
        json!("word"),
        json!("public"),
        json!("x".repeat(3_000)),
        json!([]),
        json!([1]),
        json!({}),
    ];
    for place in &places {
        for value in &values {
            let mut json = sample.clone();
            *json.pointer_mut(place).expect("it was found there") = value.clone();
            let outcome = parse(Path::new("x.json"), json.to_string().as_bytes());
            let by_schema = match &outcome {
                Ok(_) => true,
                Err(CardError::Mistakes(_, mistakes)) => {
                    // Beyond the schema: the parts do not fit each other.
                    let beyond = [
                        "must not fall",
                        "must be more than",
                        "one of the numbers of",
                        "must be there where",
                        "at most as many",
                        "must have a rate",
                        "what was asked for",
                        "is for purchases",
                        "must say over",
                        "must be three",
                        "must be a time",
                    ];
                    mistakes
                        .iter()
                        .all(|one| beyond.iter().any(|words| one.expected.contains(words)))
                }
                Err(_) => false,
            };
            // A real one has patterns as well, which are among what is checked beyond the schema here.
            let pattern = place == "/measured_at" || place == "/price/currency";
            assert!(
                pattern || by_schema == validator.is_valid(&json),
                "{place} = {value}: {:?}",
                outcome.err().map(|error| error.to_string())
            );
            if pattern && outcome.is_ok() {
                assert!(validator.is_valid(&json), "{place} = {value}");
            }
        }
    }
}

fn collect(at: &str, value: &Value, places: &mut Vec<String>) {
    places.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(key, value)| collect(&format!("{at}/{key}"), value, places));
        }
        Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(n, item)| collect(&format!("{at}/{n}"), item, places));
        }
        _ => {}
    }
}
