//! Reading typed fields out of a scenario as typed. Every reader either gives a value or notes a
//! mistake and gives nothing, so that one pass finds every mistake.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use vaultmark_results::units::{exact_duration, parse_duration, parse_percent, parse_rate};

use super::diagnostic::{Diagnostic, nearest};
use super::node::{Entry, Node, Origin, Value, quoted};

/// The mistakes found so far.
pub(super) type Mistakes = Vec<Diagnostic>;

/// Longest text read as a duration, a rate or a percentage: longer ones are not repeated whole.
const QUANTITY_BYTES_MAX: usize = 64;

/// A table whose fields are taken one after the other; what was never asked for is unknown.
pub(super) struct Section<'a> {
    path: String,
    entries: &'a [Entry],
    /// Where it was written; `None`: it is the whole file.
    origin: Option<Origin>,
    known: Vec<&'static str>,
}

/// A field that is there.
pub(super) struct Field<'a> {
    path: String,
    node: &'a Node,
}

/// Where a value was written, and what it was.
#[derive(Clone, Debug)]
pub(super) struct Place {
    path: String,
    origin: Option<Origin>,
    seen: Option<String>,
}

impl Place {
    /// Notes that what stands there is wrong.
    pub(super) fn wrong(&self, message: String, allowed: &str, mistakes: &mut Mistakes) {
        let mut mistake = Diagnostic::new(self.origin.clone(), &self.path, message);
        mistake.seen = self.seen.clone();
        mistake.allowed = (!allowed.is_empty()).then(|| allowed.to_owned());
        mistakes.push(mistake);
    }
}

impl<'a> Section<'a> {
    /// The table at the top.
    pub(super) fn root(root: &'a Node) -> Self {
        let section = Self::of(String::new(), root).expect("a document is a table");
        Self { origin: None, ..section }
    }

    fn of(path: String, node: &'a Node) -> Option<Self> {
        let Value::Table(entries) = &node.value else { return None };
        Some(Self { path, entries, origin: Some(node.origin.clone()), known: Vec::new() })
    }

    /// Where the table was written, for mistakes found later.
    pub(super) fn place(&self) -> Place {
        Place { path: self.path.clone(), origin: self.origin.clone(), seen: None }
    }

    /// The path of a field of this table.
    pub(super) fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// A field that may be missing.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Field<'a>> {
        self.known.push(key);
        self.peek(key)
    }

    /// A field that is left for somebody else to take.
    pub(super) fn peek(&self, key: &str) -> Option<Field<'a>> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(Field { path: self.path(key), node: &entry.node })
    }

    /// A field that must be there; `example` is one that would be right.
    pub(super) fn require(
        &mut self,
        key: &'static str,
        example: &str,
        mistakes: &mut Mistakes,
    ) -> Option<Field<'a>> {
        let field = self.take(key);
        if field.is_none() {
            let message = format!("missing field \"{key}\"");
            let mut mistake = Diagnostic::new(self.origin.clone(), &self.path(key), message);
            mistake.allowed = Some(example.to_owned());
            mistakes.push(mistake);
        }
        field
    }

    /// A table that may be missing: then each of its fields is.
    pub(super) fn section(&mut self, key: &'static str, mistakes: &mut Mistakes) -> Self {
        let section = self.take(key).and_then(|field| field.section(mistakes));
        section.unwrap_or_else(|| Self {
            path: self.path(key),
            entries: &[],
            origin: self.origin.clone(),
            known: Vec::new(),
        })
    }

    /// The names in this table, where any name may stand.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&'a Entry, Field<'a>)> {
        self.entries
            .iter()
            .map(|entry| (entry, Field { path: self.path(&entry.key), node: &entry.node }))
    }

    /// Notes every field that was never asked for. `what` names the table in words.
    pub(super) fn finish(self, what: &str, mistakes: &mut Mistakes) {
        for entry in self.entries {
            let key = entry.key.as_str();
            if self.known.contains(&key) {
                continue;
            }
            let message = format!("unknown field {}: {what} has no such field", quoted(key));
            let origin = Some(entry.origin.clone());
            let mut mistake = Diagnostic::new(origin, &self.path(key), message);
            // The flag, not the name of a field, is what was typed on the command line.
            mistake.seen = Some(quoted(key));
            mistake.suggestion = nearest(key, self.known.iter().copied());
            mistake.allowed = Some(self.known.join(", "));
            mistakes.push(mistake);
        }
    }
}

impl<'a> Field<'a> {
    /// Where the value was written, for mistakes found later.
    pub(super) fn place(&self) -> Place {
        let seen = Some(self.node.value.to_string());
        Place { path: self.path.clone(), origin: Some(self.node.origin.clone()), seen }
    }

    /// Notes that the value is wrong.
    pub(super) fn wrong(&self, message: String, allowed: &str, mistakes: &mut Mistakes) {
        self.place().wrong(message, allowed, mistakes);
    }

    /// The value in a message.
    pub(super) fn shown(&self) -> String {
        self.node.value.to_string()
    }

    /// Whether the value is a table.
    pub(super) fn is_table(&self) -> bool {
        matches!(self.node.value, Value::Table(_))
    }

    /// The value if it is true or false.
    pub(super) fn as_boolean(&self) -> Option<bool> {
        if let Value::Boolean(truth) = self.node.value { Some(truth) } else { None }
    }

    /// The items, if the value is a list.
    pub(super) fn items(&self) -> Option<&'a [Node]> {
        if let Value::List(items) = &self.node.value { Some(items) } else { None }
    }

    /// The items as fields, each named by its place from 1, if the value is a list.
    pub(super) fn each(&self) -> Option<Vec<Self>> {
        let items = self.items()?.iter().enumerate();
        let field = |(index, node)| Self { path: format!("{}.{}", self.path, index + 1), node };
        Some(items.map(field).collect())
    }

    /// The text below a key, if the value is a table and has one.
    pub(super) fn child_text(&self, key: &str) -> Option<&'a str> {
        match &self.node.child(key)?.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// How many items there are, if the value is a list.
    pub(super) fn list_len(&self) -> Option<usize> {
        if let Value::List(items) = &self.node.value { Some(items.len()) } else { None }
    }

    /// A text.
    pub(super) fn text(&self, allowed: &str, mistakes: &mut Mistakes) -> Option<&'a str> {
        let Value::Text(text) = &self.node.value else {
            let message = format!("{} is not a text in quotes", self.shown());
            self.wrong(message, allowed, mistakes);
            return None;
        };
        Some(text)
    }

    /// One of several names.
    pub(super) fn choice<T>(
        &self,
        what: &str,
        names: &[&'static str],
        parse: impl Fn(&str) -> Option<T>,
        mistakes: &mut Mistakes,
    ) -> Option<T> {
        let allowed = names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        let text = self.text(&allowed, mistakes)?;
        let value = parse(text);
        if value.is_none() {
            self.wrong(format!("{} is not {what}", quoted(text)), &allowed, mistakes);
            if let Some(mistake) = mistakes.last_mut() {
                mistake.suggestion = nearest(text, names.iter().copied());
            }
        }
        value
    }

    /// true or false.
    pub(super) fn boolean(&self, mistakes: &mut Mistakes) -> Option<bool> {
        if let Value::Boolean(truth) = self.node.value {
            return Some(truth);
        }
        self.wrong(format!("{} is neither true nor false", self.shown()), "true, false", mistakes);
        None
    }

    /// A whole number within limits.
    pub(super) fn integer<T>(&self, limits: RangeInclusive<T>, mistakes: &mut Mistakes) -> Option<T>
    where
        T: TryFrom<i128> + PartialOrd + Display,
    {
        let allowed = format!("a whole number from {} to {}", limits.start(), limits.end());
        let Value::Integer(number) = self.node.value else {
            let message = format!("{} is not a whole number", self.shown());
            self.wrong(message, &allowed, mistakes);
            return None;
        };
        let within = number.and_then(|number| T::try_from(number).ok());
        let within = within.filter(|number| limits.contains(number));
        if within.is_none() {
            self.wrong(format!("{} is out of range", self.shown()), &allowed, mistakes);
        }
        within
    }

    /// A number within limits, the lower of which does not belong to them when `above` is set.
    pub(super) fn number(
        &self,
        above: bool,
        limits: RangeInclusive<f64>,
        mistakes: &mut Mistakes,
    ) -> Option<f64> {
        let from = if above { "above" } else { "from" };
        let allowed = format!("a number {from} {} up to {}", limits.start(), limits.end());
        let number = match self.node.value {
            Value::Number(number) => Some(number),
            // Small whole numbers are exact as doubles, large ones are past every limit here.
            Value::Integer(number) => {
                Some(number.and_then(|n| i32::try_from(n).ok()).map_or(f64::NAN, f64::from))
            }
            _ => None,
        };
        let Some(number) = number else {
            self.wrong(format!("{} is not a number", self.shown()), &allowed, mistakes);
            return None;
        };
        if limits.contains(&number) && (!above || number > *limits.start()) {
            return Some(number);
        }
        self.wrong(format!("{} is out of range", self.shown()), &allowed, mistakes);
        None
    }

    /// A duration of `limits`, as `"250ms"`.
    pub(super) fn duration(
        &self,
        limits: RangeInclusive<Duration>,
        mistakes: &mut Mistakes,
    ) -> Option<Duration> {
        // Hours read better than 86400s; shorter limits are what they are.
        let hours = |end: &Duration| match (end.as_secs() / 3_600, end.as_nanos()) {
            (hours, ns) if hours > 0 && ns % 3_600_000_000_000 == 0 => format!("{hours}h"),
            _ => exact_duration(*end),
        };
        let ends = [limits.start(), limits.end()].map(hours);
        let allowed = format!("a duration from \"{}\" to \"{}\"", ends[0], ends[1]);
        self.quantity(&allowed, parse_duration, |value| limits.contains(value), mistakes)
    }

    /// A rate of `limits`, or none at all if `zero` is set, as `"200/s"`.
    pub(super) fn rate(
        &self,
        zero: bool,
        limits: RangeInclusive<f64>,
        mistakes: &mut Mistakes,
    ) -> Option<f64> {
        let none = if zero { "\"0/s\" or " } else { "" };
        let (least, most) = (limits.start(), limits.end());
        let allowed = format!("{none}a rate from \"{least}/s\" to \"{most}/s\"");
        let within = |rate: &f64| limits.contains(rate) || (zero && *rate <= 0.0);
        self.quantity(&allowed, parse_rate, within, mistakes)
    }

    /// A share of one, as `"0.1%"`.
    pub(super) fn percent(&self, mistakes: &mut Mistakes) -> Option<f64> {
        let allowed = "a percentage from \"0%\" to \"100%\"";
        self.quantity(allowed, parse_percent, |_| true, mistakes)
    }

    /// A table.
    pub(super) fn section(self, mistakes: &mut Mistakes) -> Option<Section<'a>> {
        self.as_section(mistakes)
    }

    /// The same of a field that is still needed.
    pub(super) fn as_section(&self, mistakes: &mut Mistakes) -> Option<Section<'a>> {
        let section = Section::of(self.path.clone(), self.node);
        if section.is_none() {
            self.wrong(format!("{} is not a table", self.shown()), "", mistakes);
        }
        section
    }

    /// A list of tables. `name_of` gives an item's name in paths; else its place, from 1, does.
    pub(super) fn sections(self, mistakes: &mut Mistakes) -> Vec<Section<'a>> {
        let Value::List(items) = &self.node.value else {
            let message = format!("{} is not a list of tables", self.shown());
            self.wrong(message, &format!("[[{}]]", self.path), mistakes);
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (index, node) in items.iter().enumerate() {
            let name = match node.child("name").map(|name| &name.value) {
                Some(Value::Text(name)) => name.clone(),
                _ => (index + 1).to_string(),
            };
            let item = Field { path: format!("{}.{name}", self.path), node };
            sections.extend(item.section(mistakes));
        }
        sections
    }

    fn quantity<T, E: Display>(
        &self,
        allowed: &str,
        parse: impl Fn(&str) -> Result<T, E>,
        within: impl Fn(&T) -> bool,
        mistakes: &mut Mistakes,
    ) -> Option<T> {
        let text = self.text(allowed, mistakes)?;
        if text.len() > QUANTITY_BYTES_MAX {
            self.wrong(format!("{} is too long", quoted(text)), allowed, mistakes);
            return None;
        }
        match parse(text) {
            Ok(value) if within(&value) => Some(value),
            Ok(_) => {
                self.wrong(format!("{} is out of range", quoted(text)), allowed, mistakes);
                None
            }
            Err(error) => {
                self.wrong(error.to_string(), allowed, mistakes);
                None
            }
        }
    }
}
