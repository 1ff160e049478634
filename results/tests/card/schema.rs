//! The published schema and the code that writes cards say the same.

use serde_json::{Value, json};
use vaultmark_results::Card;
use vaultmark_results::card::{CARD_SCHEMA, CARD_SCHEMA_VERSION};

use crate::sample::card;

pub(crate) fn validator() -> jsonschema::Validator {
    let schema: Value = serde_json::from_str(CARD_SCHEMA).expect("the schema is JSON");
    assert!(jsonschema::meta::is_valid(&schema), "the schema is a JSON Schema");
    assert_eq!(schema["properties"]["schema_version"]["const"], json!(CARD_SCHEMA_VERSION));
    jsonschema::validator_for(&schema).expect("the schema compiles")
}

/// A card with nothing that may be missing.
pub(crate) fn bare() -> Card {
    let mut card = card();
    card.device.firmware = None;
    card.device.sessions_max = None;
    card.device.modelled = None;
    card.device.caveat = None;
    card.sessions.clear();
    card.capacity = None;
    card.tails.clear();
    card.bare_calls.clear();
    card.reconnect = None;
    card.session_limit = None;
    card.soak = None;
    card.vault = None;
    card.price = None;
    card.warnings.clear();
    card
}

#[test]
fn a_card_is_what_the_schema_says() {
    let validator = validator();
    for card in [card(), bare()] {
        let json = serde_json::to_value(card).expect("a card is JSON");
        let errors: Vec<String> = validator
            .iter_errors(&json)
            .map(|error| format!("{error} at {}", error.instance_path()))
            .collect();
        assert_eq!(errors, [""; 0]);
    }
}

/// Whoever adds a field to the model describes it in the schema, with its type.
#[test]
fn every_field_that_is_written_is_described() {
    let schema: Value = serde_json::from_str(CARD_SCHEMA).expect("JSON");
    let mut missing = Vec::new();
    let json = serde_json::to_value(card()).expect("a card is JSON");
    undescribed(&schema, &schema, &json, "", &mut missing);
    assert_eq!(missing, [""; 0]);
}

fn undescribed(root: &Value, schema: &Value, json: &Value, at: &str, missing: &mut Vec<String>) {
    let schema = resolved(root, schema);
    match json {
        Value::Object(fields) => {
            for (key, value) in fields {
                let at = format!("{at}/{key}");
                match schema["properties"].get(key) {
                    Some(field) => {
                        if field.get("description").is_none() {
                            missing.push(format!("{at} has no description"));
                        }
                        undescribed(root, field, value, &at, missing);
                    }
                    None => missing.push(format!("{at} is not in the schema")),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                undescribed(root, &schema["items"], item, &format!("{at}/0"), missing);
            }
        }
        _ => {}
    }
}

/// Follows `$ref`, and of `anyOf` the part that is not null.
fn resolved<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let pointer = reference.trim_start_matches('#');
        return resolved(root, root.pointer(pointer).expect(reference));
    }
    let parts = schema.get("anyOf").and_then(Value::as_array);
    match parts.and_then(|parts| parts.iter().find(|part| part["type"] != json!("null"))) {
        Some(part) => resolved(root, part),
        None => schema,
    }
}
