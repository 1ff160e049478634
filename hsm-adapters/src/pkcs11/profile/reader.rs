//! Reading typed fields out of a TOML document. Every reader either gives a value or notes a mistake and
//! gives nothing, so that one pass finds every mistake.

use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Mistake;

/// Longest text a message repeats: the rest of a line stays readable.
const SHOWN_CHARS_MAX: usize = 60;

/// Mistakes that are told at most: whoever has made more has another file in hand.
const MISTAKES_MAX: usize = 100;

/// The mistakes found so far.
pub(super) struct Mistakes {
    /// Where each line begins.
    lines: Vec<usize>,
    list: Vec<(usize, Mistake)>,
}

/// A table whose fields are taken one after the other; what was never asked for is unknown.
pub(super) struct Section<'a> {
    path: String,
    table: &'a DeTable<'a>,
    span: Range<usize>,
    known: RefCell<Vec<&'static str>>,
}

/// A field that is there.
pub(super) struct Field<'a> {
    path: String,
    value: &'a Spanned<DeValue<'a>>,
}

impl Mistakes {
    pub(super) fn new(text: &str) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0).chain(newlines.map(|(at, _)| at + 1)).collect();
        Self { lines, list: Vec::new() }
    }

    pub(super) fn any(&self) -> bool {
        !self.list.is_empty()
    }

    fn note(&mut self, at: usize, field: &str, seen: Option<String>, message: String) {
        // Messages go into logs.
        let seen = seen.map(|seen| if is_secret(field, &seen) { "…".to_owned() } else { seen });
        if self.list.len() < MISTAKES_MAX {
            let line = self.lines.partition_point(|start| *start <= at);
            let field = field.to_owned();
            self.list.push((at, Mistake { line: Some(line), field, seen, message }));
        }
    }

    /// All of them in the order of the file, if there are any.
    pub(super) fn finish(mut self) -> Option<Vec<Mistake>> {
        self.list.sort_by_key(|(at, _)| *at);
        (!self.list.is_empty()).then(|| self.list.into_iter().map(|(_, one)| one).collect())
    }
}

/// The document, if it is TOML.
pub(super) fn document<'a>(text: &'a str, mistakes: &mut Mistakes) -> Option<Document<'a>> {
    match DeTable::parse(text) {
        Ok(table) => Some(Document(table)),
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            mistakes.note(at, "", None, format!("not TOML: {}", error.message()));
            None
        }
    }
}

/// A parsed document, which its sections borrow.
pub(super) struct Document<'a>(Spanned<DeTable<'a>>);

impl Document<'_> {
    pub(super) fn root(&self) -> Section<'_> {
        Section {
            path: String::new(),
            table: self.0.get_ref(),
            span: 0..0,
            known: RefCell::default(),
        }
    }
}

impl<'a> Section<'a> {
    fn path(&self, key: &str) -> String {
        match (self.path.as_str(), key) {
            ("", key) => key.to_owned(),
            (path, "") => path.to_owned(),
            (path, key) => format!("{path}.{key}"),
        }
    }

    /// Whether a field is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// A field that may be missing.
    pub(super) fn take(&self, key: &'static str) -> Option<Field<'a>> {
        self.known.borrow_mut().push(key);
        let value = self.table.get(key)?;
        Some(Field { path: self.path(key), value })
    }

    /// A field that must be there.
    pub(super) fn require(&self, key: &'static str, mistakes: &mut Mistakes) -> Option<Field<'a>> {
        let field = self.take(key);
        if field.is_none() {
            self.wrong(key, "missing", mistakes);
        }
        field
    }

    /// A table that may be missing.
    pub(super) fn section(
        &self,
        key: &'static str,
        mistakes: &mut Mistakes,
    ) -> Option<Section<'a>> {
        self.take(key)?.section(mistakes)
    }

    /// A list of tables, empty if it is missing; nothing if one of them is wrong.
    pub(super) fn list<T>(
        &self,
        key: &'static str,
        mistakes: &mut Mistakes,
        read: impl Fn(&Section<'a>, &mut Mistakes) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Some(field) = self.take(key) else { return Some(Vec::new()) };
        let DeValue::Array(items) = field.value.get_ref() else {
            field.wrong(&format!("is no list of tables; allowed: [[{key}]]"), mistakes);
            return None;
        };
        let mut all = Some(Vec::new());
        for (n, value) in items.iter().enumerate() {
            let item = Field { path: format!("{}.{}", field.path, n + 1), value };
            let read = item.section(mistakes).and_then(|section| read(&section, mistakes));
            match (read, &mut all) {
                (Some(read), Some(all)) => all.push(read),
                _ => all = None,
            }
        }
        all
    }

    /// Notes that a field of this table is wrong or missing; an empty key is the table itself.
    pub(super) fn wrong(&self, key: &str, message: &str, mistakes: &mut Mistakes) {
        mistakes.note(self.span.start, &self.path(key), None, message.to_owned());
    }

    /// Notes every field that was never asked for.
    pub(super) fn finish(&self, mistakes: &mut Mistakes) {
        let known = self.known.borrow();
        for (key, value) in self.table {
            if known.iter().all(|known| known != key.get_ref()) {
                let message = format!("unknown; known here: {}", known.join(", "));
                let path = self.path(&shortened(key.get_ref()));
                mistakes.note(key.span().start, &path, Some(shown(value.get_ref())), message);
            }
        }
    }
}

impl<'a> Field<'a> {
    /// Notes that the value is wrong.
    pub(super) fn wrong(&self, message: &str, mistakes: &mut Mistakes) {
        let seen = Some(shown(self.value.get_ref()));
        mistakes.note(self.value.span().start, &self.path, seen, message.to_owned());
    }

    /// A text, not empty.
    pub(super) fn text(&self, mistakes: &mut Mistakes) -> Option<&'a str> {
        match self.value.get_ref() {
            DeValue::String(text) if !text.is_empty() => Some(text),
            DeValue::String(_) => {
                self.wrong("is empty", mistakes);
                None
            }
            _ => {
                self.wrong("is no text in quotes", mistakes);
                None
            }
        }
    }

    /// A text or a list of texts.
    pub(super) fn texts(&self, mistakes: &mut Mistakes) -> Option<Vec<&'a str>> {
        let DeValue::Array(items) = self.value.get_ref() else {
            return self.text(mistakes).map(|text| vec![text]);
        };
        if items.is_empty() {
            self.wrong("is an empty list", mistakes);
            return None;
        }
        let item = |value| Field { path: self.path.clone(), value };
        let texts: Vec<_> = items.iter().map(|value| item(value).text(mistakes)).collect();
        texts.into_iter().collect()
    }

    /// true or false.
    pub(super) fn boolean(&self, mistakes: &mut Mistakes) -> Option<bool> {
        match self.value.get_ref() {
            DeValue::Boolean(truth) => Some(*truth),
            _ => {
                self.wrong("is neither true nor false", mistakes);
                None
            }
        }
    }

    /// A whole number within limits.
    pub(super) fn integer(
        &self,
        limits: RangeInclusive<i64>,
        mistakes: &mut Mistakes,
    ) -> Option<i64> {
        let number = self.number();
        match number {
            Some(number) if limits.contains(&number) => Some(number),
            _ => {
                let (from, to) = (limits.start(), limits.end());
                self.wrong(&format!("is no whole number from {from} to {to}"), mistakes);
                None
            }
        }
    }

    fn number(&self) -> Option<i64> {
        let DeValue::Integer(number) = self.value.get_ref() else { return None };
        i64::from_str_radix(number.as_str(), number.radix()).ok()
    }

    /// One of several names.
    pub(super) fn choice<T: Clone>(
        &self,
        names: &[(&'static str, T)],
        mistakes: &mut Mistakes,
    ) -> Option<T> {
        let named = match self.value.get_ref() {
            DeValue::String(text) => names.iter().find(|(name, _)| name == text),
            _ => None,
        };
        if named.is_none() {
            self.wrong(&format!("is none of {}", quoted(names)), mistakes);
        }
        named.map(|(_, value)| value.clone())
    }

    /// One of several names, or a vendor's number.
    pub(super) fn choice_or_number(
        &self,
        names: &[(&'static str, u64)],
        mistakes: &mut Mistakes,
    ) -> Option<u64> {
        let number = self.number().and_then(|number| u64::try_from(number).ok());
        let named = match self.value.get_ref() {
            DeValue::String(text) => names.iter().find(|(name, _)| name == text),
            _ => None,
        };
        let found = named.map(|(_, value)| *value).or(number);
        if found.is_none() {
            let message = match names {
                [] => "is no number".to_owned(),
                names => format!("is none of {} and no vendor's number", quoted(names)),
            };
            self.wrong(&message, mistakes);
        }
        found
    }

    fn section(self, mistakes: &mut Mistakes) -> Option<Section<'a>> {
        let DeValue::Table(table) = self.value.get_ref() else {
            self.wrong("is no table", mistakes);
            return None;
        };
        Some(Section { path: self.path, table, span: self.value.span(), known: RefCell::default() })
    }
}

fn quoted<T>(names: &[(&'static str, T)]) -> String {
    names.iter().map(|(name, _)| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

/// A value as a message repeats it: short, on one line, without anything a terminal would obey.
fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("\"{}\"", shortened(text)),
        DeValue::Integer(number) => shortened(number.as_str()),
        DeValue::Float(number) => shortened(number.as_str()),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(date) => date.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short.escape_debug().to_string()
}

/// Whether what stands in a field may be somebody's PIN.
fn is_secret(field: &str, seen: &str) -> bool {
    let name = field.rsplit('.').next().unwrap_or(field);
    let says_where = ["file", "env", "prompt"].contains(&name);
    let named = ["pin", "password", "secret"].iter().any(|word| field.contains(word));
    named && !says_where || seen.contains("pin-value")
}
