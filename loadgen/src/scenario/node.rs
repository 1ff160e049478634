//! A scenario as typed: a tree of values, each of which knows where it was written, in the file or
//! on the command line. What the values mean is not here but in `resolve.rs`.

use std::fmt;
use std::ops::Range;

use toml::de::{DeInteger, DeTable, DeValue};

/// Where something was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the file, at these bytes.
    File(Range<usize>),
    /// On the command line: the flag as it was typed, with its value.
    Flag(String),
    /// In another file that the scenario names.
    Other {
        /// As the scenario names it.
        file: String,
        /// The line, from 1.
        line: usize,
    },
}

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// What was written.
    pub(super) value: Value,
    /// Where.
    pub(super) origin: Origin,
}

/// A value as typed.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    /// Every integer that TOML can write, and larger ones: what is too large for a field is told
    /// with that field's limits. `None`: too large even for 128 bits.
    Integer(Option<i128>),
    Number(f64),
    Boolean(bool),
    Date(String),
    List(Vec<Node>),
    Table(Vec<Entry>),
}

/// A key of a table, with its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The key, unquoted.
    pub(super) key: String,
    /// Where the key was written.
    pub(super) origin: Origin,
    /// Its value.
    pub(super) node: Node,
}

/// Longest text a message repeats: the rest of a line stays readable.
const SHOWN_CHARS_MAX: usize = 60;

impl Node {
    /// Takes over what the TOML parser found; `origin_of` turns its byte ranges into origins.
    pub(super) fn from_toml(
        value: &DeValue<'_>,
        span: Range<usize>,
        origin_of: &dyn Fn(Range<usize>) -> Origin,
    ) -> Self {
        let value = match value {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(number) => Value::Integer(integer(number)),
            DeValue::Float(number) => Value::Number(number.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(truth) => Value::Boolean(*truth),
            DeValue::Datetime(date) => Value::Date(date.to_string()),
            DeValue::Array(list) => Value::List(
                list.iter()
                    .map(|item| Self::from_toml(item.get_ref(), item.span(), origin_of))
                    .collect(),
            ),
            DeValue::Table(table) => Value::Table(entries(table, origin_of)),
        };
        Self { value, origin: origin_of(span) }
    }

    /// The value below `key`, made empty if it isn't there. A scalar in the way is replaced: who
    /// sets `population.popularity.zipf` means to replace "uniform".
    pub(super) fn child_mut(&mut self, key: &str, origin: &Origin) -> &mut Self {
        if !matches!(self.value, Value::Table(_)) {
            *self = Self { value: Value::Table(Vec::new()), origin: origin.clone() };
        }
        let Value::Table(entries) = &mut self.value else { unreachable!("it was made a table") };
        let at = entries.iter().position(|entry| entry.key == key).unwrap_or_else(|| {
            let node = Self { value: Value::Table(Vec::new()), origin: origin.clone() };
            entries.push(Entry { key: key.to_owned(), origin: origin.clone(), node });
            entries.len() - 1
        });
        &mut entries[at].node
    }

    /// The value below `key`, if this is a table and has one.
    pub(super) fn child(&self, key: &str) -> Option<&Self> {
        let Value::Table(entries) = &self.value else { return None };
        entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node)
    }
}

impl fmt::Display for Value {
    /// As a message repeats it: short, on one line, without anything a terminal would obey.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(&quoted(text)),
            Self::Integer(Some(number)) => write!(f, "{number}"),
            Self::Integer(None) => f.write_str("an integer of more than 128 bits"),
            Self::Number(number) => write!(f, "{number:?}"),
            Self::Boolean(truth) => write!(f, "{truth}"),
            Self::Date(date) => f.write_str(date),
            Self::List(_) => f.write_str("a list"),
            Self::Table(_) => f.write_str("a table"),
        }
    }
}

/// The entries of a table, in the parser's order.
pub(super) fn entries(
    table: &DeTable<'_>,
    origin_of: &dyn Fn(Range<usize>) -> Origin,
) -> Vec<Entry> {
    table
        .iter()
        .map(|(key, value)| Entry {
            key: key.get_ref().to_string(),
            origin: origin_of(key.span()),
            node: Node::from_toml(value.get_ref(), value.span(), origin_of),
        })
        .collect()
}

/// A text in quotes, cut where it would be too long to read, control characters escaped.
pub(super) fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("\"{}\"", shown.escape_debug())
}

fn integer(number: &DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(number.as_str(), number.radix()).ok()
}
