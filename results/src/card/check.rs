//! A JSON value against the published schema of cards: every mistake, with its place. Only the words that
//! our own schema uses (a test holds the two together); what a schema cannot say is in `rules.rs`.

use std::sync::OnceLock;

use serde_json::{Map, Value};

use super::{CARD_SCHEMA, Mistake};

/// Longest value that is shown, characters.
const SHOWN_MAX: usize = 60;

/// Schemas within schemas; ours are six deep.
const DEPTH_MAX: usize = 32;

/// What is wrong with a value, by the schema of cards.
pub(super) fn against_schema(json: &Value) -> Vec<Mistake> {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    let root = SCHEMA.get_or_init(|| {
        serde_json::from_str(CARD_SCHEMA).expect("a test reads the schema that is built in")
    });
    let mut mistakes = Vec::new();
    Checker { root, mistakes: &mut mistakes }.check(root, json, "", 0);
    mistakes
}

/// A value as JSON, shortened.
pub(super) fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= SHOWN_MAX {
        return text;
    }
    let short: String = text.chars().take(SHOWN_MAX - 1).collect();
    format!("{short}…")
}

struct Checker<'a> {
    root: &'a Value,
    mistakes: &'a mut Vec<Mistake>,
}

impl<'a> Checker<'a> {
    fn check(&mut self, schema: &'a Value, value: &Value, at: &str, depth: usize) {
        let Some(schema) = self.resolved(schema).and_then(Value::as_object) else { return };
        if depth > DEPTH_MAX {
            return;
        }
        if let Some(parts) = schema.get("anyOf").and_then(Value::as_array) {
            // Ours are something or null.
            if value.is_null() {
                return;
            }
            let something = parts.iter().find(|part| part.get("type") != Some(&"null".into()));
            if let Some(part) = something {
                self.check(part, value, at, depth + 1);
            }
            return;
        }
        if let Some(expected) = mismatch(schema, value) {
            self.tell(at, Some(value), expected);
            return;
        }
        match value {
            Value::Object(fields) => self.fields(schema, fields, at, depth),
            Value::Array(items) => {
                if let Some(schema) = schema.get("items") {
                    for (n, item) in items.iter().enumerate() {
                        self.check(schema, item, &format!("{at}[{n}]"), depth + 1);
                    }
                }
            }
            _ => {}
        }
    }

    fn fields(
        &mut self,
        schema: &'a Map<String, Value>,
        fields: &Map<String, Value>,
        at: &str,
        depth: usize,
    ) {
        let within =
            |name: &str| if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
        let required = schema.get("required").and_then(Value::as_array);
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                self.tell(&within(name), None, "is missing".to_owned());
            }
        }
        let properties = schema.get("properties").and_then(Value::as_object);
        for (name, value) in fields {
            if let Some(schema) = properties.and_then(|properties| properties.get(name)) {
                self.check(schema, value, &within(name), depth + 1);
            }
        }
    }

    fn tell(&mut self, at: &str, value: Option<&Value>, expected: String) {
        let value = value.map(shown).unwrap_or_default();
        self.mistakes.push(Mistake { field: at.to_owned(), value, expected });
    }

    fn resolved(&self, schema: &'a Value) -> Option<&'a Value> {
        match schema.get("$ref").and_then(Value::as_str) {
            Some(reference) => self.root.pointer(reference.strip_prefix('#')?),
            None => Some(schema),
        }
    }
}

/// What a value should be, if it is not.
fn mismatch(schema: &Map<String, Value>, value: &Value) -> Option<String> {
    if let Some(only) = schema.get("const") {
        return (value != only).then(|| format!("must be {only}"));
    }
    if let Some(words) = schema.get("enum").and_then(Value::as_array) {
        let list: Vec<String> = words.iter().map(Value::to_string).collect();
        return (!words.contains(value)).then(|| format!("must be one of {}", list.join(", ")));
    }
    let types: Vec<&str> = match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => return None,
    };
    if !types.iter().any(|kind| is_a(kind, value)) {
        let named: Vec<&str> = types.iter().map(|kind| words_for(kind)).collect();
        return Some(format!("must be {}", named.join(" or ")));
    }
    let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
    let size = match value {
        Value::String(text) => text.chars().count(),
        Value::Array(items) => items.len(),
        _ => 0,
    };
    let length = |name: &str| schema.get(name).and_then(Value::as_u64).unwrap_or(u64::MAX);
    let size = u64::try_from(size).unwrap_or(u64::MAX);
    match value {
        Value::Number(number) => {
            let number = number.as_f64()?;
            if let Some(least) = bound("minimum").filter(|least| number < *least) {
                return Some(format!("must be at least {least}"));
            }
            if let Some(least) = bound("exclusiveMinimum").filter(|least| number <= *least) {
                return Some(format!("must be above {least}"));
            }
            let most = bound("maximum").filter(|most| number > *most)?;
            Some(format!("must be at most {most}"))
        }
        Value::String(_) if schema.contains_key("minLength") && size < length("minLength") => {
            Some("must not be empty".to_owned())
        }
        Value::String(_) if size > length("maxLength") => {
            Some(format!("must have at most {} characters", length("maxLength")))
        }
        Value::Array(_) if size > length("maxItems") => {
            Some(format!("must have at most {} entries", length("maxItems")))
        }
        _ => None,
    }
}

fn is_a(kind: &str, value: &Value) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        // A whole number as this crate writes it: 3, not 3.0.
        "integer" => value.is_u64() || value.is_i64(),
        _ => false,
    }
}

fn words_for(kind: &str) -> &'static str {
    match kind {
        "object" => "an object",
        "array" => "a list",
        "string" => "a text",
        "boolean" => "true or false",
        "null" => "null",
        "number" => "a number",
        "integer" => "a whole number",
        _ => "something else",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A word of JSON Schema that nobody here looks at would be a rule that is not kept.
    #[test]
    fn the_schema_uses_no_word_that_is_not_checked() {
        // `pattern` is checked by `rules.rs`, which can say what is wrong.
        const KNOWN: [&str; 20] = [
            "$schema",
            "$id",
            "title",
            "description",
            "default",
            "type",
            "const",
            "enum",
            "minimum",
            "exclusiveMinimum",
            "maximum",
            "minLength",
            "maxLength",
            "maxItems",
            "items",
            "required",
            "anyOf",
            "$ref",
            "pattern",
            "$defs",
        ];
        fn words(schema: &Value, unknown: &mut Vec<String>) {
            for (word, value) in schema.as_object().expect("a schema is an object") {
                match (word.as_str(), value) {
                    ("properties" | "$defs", Value::Object(named)) => {
                        named.values().for_each(|schema| words(schema, unknown));
                    }
                    ("items", schema) => words(schema, unknown),
                    ("anyOf", Value::Array(parts)) => {
                        assert_eq!(parts.len(), 2, "something or null");
                        parts.iter().for_each(|schema| words(schema, unknown));
                    }
                    (word, _) if KNOWN.contains(&word) => {}
                    (word, _) => unknown.push(word.to_owned()),
                }
            }
        }
        let mut unknown = Vec::new();
        words(&serde_json::from_str(CARD_SCHEMA).expect("JSON"), &mut unknown);
        assert_eq!(unknown, [""; 0]);
    }

    #[test]
    fn long_values_are_shortened() {
        assert_eq!(shown(&"x".repeat(58).into()), format!("\"{}\"", "x".repeat(58)));
        assert_eq!(shown(&"x".repeat(99).into()).chars().count(), SHOWN_MAX);
    }
}
