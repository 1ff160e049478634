//! How mistakes in a scenario are told: where, in which field, what was seen, what is allowed. As a
//! snippet of the file with a caret for people, as JSON for programs.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::node::Origin;

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Where it was written; `None`: the file itself could not be read.
    pub origin: Option<Origin>,
    /// The field, as `--set` takes it (`load.people.arrival.rate`); empty: the whole file.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// The value as it was seen; `None` where there is none (a missing field).
    pub seen: Option<String>,
    /// What would be right.
    pub allowed: Option<String>,
    /// The nearest name there is.
    pub suggestion: Option<String>,
}

/// Every mistake of one scenario, in the order of the file; those of the command line come last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics {
    file: String,
    text: Arc<str>,
    list: Vec<Diagnostic>,
}

/// Longest part of a line that a snippet shows: a terminal of 100 columns holds it and its margin.
const SNIPPET_CHARS_MAX: usize = 88;
/// So much of a longer line is shown before the mistake.
const SNIPPET_CHARS_BEFORE: usize = 40;

const RED: &str = "\x1b[1;31m";
const BLUE: &str = "\x1b[1;34m";
const BOLD: &str = "\x1b[1m";
const RESET: &str = "\x1b[0m";

impl Diagnostic {
    /// A mistake of which only place and message are known.
    #[must_use]
    pub fn new(origin: Option<Origin>, field: &str, message: String) -> Self {
        let (field, seen) = (field.to_owned(), None);
        Self { origin, field, message, seen, allowed: None, suggestion: None }
    }
}

impl Diagnostics {
    /// The mistakes of `file`, whose text is `text`.
    #[must_use]
    pub fn new(file: &str, text: Arc<str>, mut list: Vec<Diagnostic>) -> Self {
        list.sort_by_key(|diagnostic| match &diagnostic.origin {
            Some(Origin::File(span)) => (0, span.start, span.end),
            None => (0, 0, 0),
            Some(Origin::Other { line, .. }) => (1, *line, 0),
            Some(Origin::Flag(_)) => (2, 0, 0),
        });
        Self { file: file.to_owned(), text, list }
    }

    /// The mistakes of several readings of one file, each once; `None` without any.
    #[must_use]
    pub fn joined(several: impl IntoIterator<Item = Self>) -> Option<Self> {
        several.into_iter().reduce(|mut all, more| {
            for mistake in more.list {
                if !all.list.contains(&mistake) {
                    all.list.push(mistake);
                }
            }
            all
        })
    }

    /// The mistakes.
    #[must_use]
    pub fn list(&self) -> &[Diagnostic] {
        &self.list
    }

    /// The mistakes on one line, each with its place.
    #[must_use]
    pub fn in_brief(&self) -> String {
        let each = self.list.iter().map(|one| format!("{}: {}", self.place(one), one.message));
        each.collect::<Vec<_>>().join("; ")
    }

    /// The mistakes as people read them, each with its snippet, a blank line between two.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let paint = |code| if colour { code } else { "" };
        let (red, blue, bold, reset) = (paint(RED), paint(BLUE), paint(BOLD), paint(RESET));
        let mut out = String::new();
        for diagnostic in &self.list {
            if !out.is_empty() {
                out.push('\n');
            }
            out += &format!("{red}error{reset}{bold}: {}{reset}\n", diagnostic.message);
            let snippet = match &diagnostic.origin {
                Some(Origin::File(span)) => Some(Snippet::of(&self.text, span)),
                Some(Origin::Flag(_) | Origin::Other { .. }) | None => None,
            };
            let margin = snippet.as_ref().map_or(1, |snippet| snippet.line.to_string().len());
            let place = self.place(diagnostic);
            let field = match diagnostic.field.as_str() {
                "" => String::new(),
                field => format!("  {}", field.escape_debug()),
            };
            out += &format!("{:margin$}{blue}-->{reset} {place}{field}\n", "");
            let suggestion = diagnostic
                .suggestion
                .as_ref()
                .map_or_else(String::new, |name| format!("did you mean \"{name}\"?"));
            if let Some(snippet) = snippet {
                let bar = format!("{:margin$} {blue}|{reset}", "");
                let (line, shown) = (snippet.line, &snippet.shown);
                let (indent, carets) = (&snippet.indent, "^".repeat(snippet.carets));
                out += &format!("{bar}\n{blue}{line} |{reset} {shown}\n");
                let marked = format!("{bar} {indent}{red}{carets}{reset} {suggestion}");
                out += marked.trim_end();
                out.push('\n');
            } else if !suggestion.is_empty() {
                out += &format!("{:margin$} {blue}={reset} {suggestion}\n", "");
            }
            if let Some(allowed) = &diagnostic.allowed {
                out += &format!("{:margin$} {blue}={reset} allowed: {allowed}\n", "");
            }
        }
        out
    }

    /// The mistakes as `--json` shows them.
    #[must_use]
    pub fn to_json(&self) -> Json {
        self.list
            .iter()
            .map(|diagnostic| {
                let (mut line, mut column, mut flag) = (None, None, None);
                let mut file = &self.file;
                match &diagnostic.origin {
                    Some(Origin::File(span)) => {
                        let (l, c) = position(&self.text, span.start);
                        (line, column) = (Some(l), Some(c));
                    }
                    Some(Origin::Flag(typed)) => flag = Some(typed),
                    Some(Origin::Other { file: other, line: at }) => {
                        (file, line) = (other, Some(*at));
                    }
                    None => {}
                }
                json!({
                    "file": file,
                    "line": line,
                    "column": column,
                    "flag": flag,
                    "field": diagnostic.field,
                    "message": diagnostic.message,
                    "seen": diagnostic.seen.as_ref().filter(|_| {
                        !is_secret(diagnostic.field.rsplit('.').next().unwrap_or_default())
                    }),
                    "allowed": diagnostic.allowed,
                    "suggestion": diagnostic.suggestion,
                })
            })
            .collect()
    }

    fn place(&self, diagnostic: &Diagnostic) -> String {
        match &diagnostic.origin {
            Some(Origin::File(span)) => {
                let (line, column) = position(&self.text, span.start);
                format!("{}:{line}:{column}", self.file)
            }
            Some(Origin::Flag(typed)) => format!("command line: {}", typed.escape_debug()),
            Some(Origin::Other { file, line }) => format!("{}:{line}", file.escape_debug()),
            None => self.file.clone(),
        }
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

/// The nearest of `names`, if one is near enough to be what was meant: the only one that begins so
/// (`p256`), else one of which at most a third of the letters are wrong, which lets `replcas` find
/// `replicas` and keeps `kill` from finding `rule`.
#[must_use]
pub fn nearest<'a>(typed: &str, names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    // A key may be as long as a file, and the distance takes time in proportion to it.
    if typed.len() > 64 {
        return None;
    }
    let names: Vec<&str> = names.into_iter().collect();
    let mut begun = names.iter().filter(|name| !typed.is_empty() && name.starts_with(typed));
    if let (Some(name), None) = (begun.next(), begun.next()) {
        return Some((*name).to_owned());
    }
    names
        .into_iter()
        .map(|name| (strsim::osa_distance(typed, name), name))
        .filter(|(distance, name)| *distance <= name.chars().count().div_ceil(3))
        .min()
        .map(|(_, name)| name.to_owned())
}

/// Line and column of a byte, both from 1; columns count characters.
pub(super) fn position(text: &str, at: usize) -> (usize, usize) {
    let at = floor_boundary(text, at);
    let before = &text[..at];
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[start..].chars().count() + 1)
}

/// One line of the file, with what a caret needs.
struct Snippet {
    line: usize,
    shown: String,
    indent: String,
    carets: usize,
}

impl Snippet {
    fn of(text: &str, span: &Range<usize>) -> Self {
        let at = floor_boundary(text, span.start);
        let (line, column) = position(text, at);
        let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
        let marked_end = floor_boundary(text, span.end).clamp(at, end);
        let from = if text[start..end].chars().count() > SNIPPET_CHARS_MAX {
            (column - 1).saturating_sub(SNIPPET_CHARS_BEFORE)
        } else {
            0
        };
        let shown = text[start..end].chars().skip(from).take(SNIPPET_CHARS_MAX);
        let shown: String = shown.map(harmless).collect::<String>().trim_end().to_owned();
        let shown = without_secret(&shown);
        // A tab before the caret stays a tab, so that both lines have the same width.
        let indent = text[start..at].chars().skip(from);
        let indent = indent.map(|c| if c == '\t' { '\t' } else { ' ' }).collect::<String>();
        let room = SNIPPET_CHARS_MAX.saturating_sub(indent.chars().count());
        let carets = text[at..marked_end].chars().count().clamp(1, room.max(1));
        Self { line, shown, indent, carets }
    }
}

/// What stands behind the name of a secret does not go into logs.
fn without_secret(line: &str) -> String {
    let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == '-' || c == '"';
    for (at, _) in line.match_indices('=') {
        let before = line[..at].trim_end();
        let name = &before[before.trim_end_matches(is_name).len()..];
        if is_secret(name) {
            return format!("{}= …", &line[..at]);
        }
    }
    line.to_owned()
}

/// Whether a field of this name holds a secret, and not the place where one is.
fn is_secret(name: &str) -> bool {
    let name = name.trim_matches('"').to_lowercase();
    let says_where = ["_file", "_env"].iter().any(|end| name.ends_with(end));
    let named = ["password", "secret", "pin", "auth"].iter().any(|word| {
        name == *word || name.starts_with(&format!("{word}_")) || name.contains(&format!("_{word}"))
    });
    named && !says_where
}

/// Characters that would move a terminal's cursor or change its colours are shown as a box.
fn harmless(c: char) -> char {
    if c.is_control() && c != '\t' { '\u{FFFD}' } else { c }
}

/// The start of the character that byte `at` belongs to.
fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
