//! A scenario file as typed: reading it, its syntax, its question. What its fields mean is in
//! `resolve.rs`; what the command line changes, in `overrides.rs`.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use toml::de::DeTable;

use super::Scenario;
use super::diagnostic::{Diagnostic, Diagnostics, position};
use super::node::{Node, Origin, Value, entries};
use super::overrides::Overrides;
use super::resolve::resolve;

/// A file that parses as TOML; nothing is known of its meaning.
#[derive(Clone, Debug)]
pub struct ScenarioFile {
    /// As messages name it.
    name: String,
    text: Arc<str>,
    question: String,
    root: Node,
    /// Mistakes of overrides, told together with those of the file.
    mistakes: Vec<Diagnostic>,
}

/// Largest file that is read, bytes: a scenario of a thousand loads is a tenth of it, and a disk
/// image given by mistake should not fill the memory.
const BYTES_MAX: u64 = 1 << 20;

impl ScenarioFile {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, is larger than 1 MiB, is not UTF-8, or is not TOML.
    pub fn read(path: &Path) -> Result<Self, Diagnostics> {
        let name = path.display().to_string();
        let fail = |message: String| {
            let text = Arc::from("");
            Err(Diagnostics::new(&name, text, vec![Diagnostic::new(None, "", message)]))
        };
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| {
            // One byte more than allowed tells a file that is too large from one that just fits.
            file.take(BYTES_MAX + 1).read_to_end(&mut bytes)
        });
        if let Err(error) = read {
            return fail(format!("cannot be read: {error}"));
        }
        if bytes.len() as u64 > BYTES_MAX {
            return fail(format!("larger than {BYTES_MAX} bytes: none of ours"));
        }
        Self::parse_bytes(&name, &bytes)
    }

    /// Parses the bytes of a file that messages call `name`.
    ///
    /// # Errors
    /// They are not UTF-8, or not TOML.
    pub fn parse_bytes(name: &str, bytes: &[u8]) -> Result<Self, Diagnostics> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::parse(name, text),
            Err(error) => {
                let at = error.valid_up_to();
                let good = std::str::from_utf8(&bytes[..at]).expect("valid up to there");
                let (line, column) = position(good, at);
                let message = format!(
                    "not UTF-8: byte 0x{:02x} at offset {at} (line {line}, column {column}); \
                     save the file as UTF-8",
                    bytes[at]
                );
                let list = vec![Diagnostic::new(None, "", message)];
                Err(Diagnostics::new(name, Arc::from(""), list))
            }
        }
    }

    /// Parses the text of a file that messages call `name`.
    ///
    /// # Errors
    /// It is not TOML: every place where it is not.
    pub fn parse(name: &str, text: &str) -> Result<Self, Diagnostics> {
        let (table, errors) = DeTable::parse_recoverable(text);
        let text: Arc<str> = Arc::from(text);
        if !errors.is_empty() {
            let mut list = Vec::new();
            for error in errors {
                let origin = Origin::File(error.span().unwrap_or(0..0));
                let message = format!("not TOML: {}", error.message());
                list.push(Diagnostic::new(Some(origin), "", message));
            }
            return Err(Diagnostics::new(name, text, list));
        }
        let value = Value::Table(entries(table.get_ref(), &Origin::File));
        let root = Node { value, origin: Origin::File(0..0) };
        let question = leading_question(&text);
        Ok(Self { name: name.to_owned(), text, question, root, mistakes: Vec::new() })
    }

    /// The question it asks: the first paragraph of the comment that leads it, on one line.
    #[must_use]
    pub fn question(&self) -> &str {
        &self.question
    }

    /// Changes what the file says to what the command line says.
    #[must_use]
    pub fn with(mut self, overrides: &Overrides) -> Self {
        overrides.apply(&mut self.root, &mut self.mistakes);
        self
    }

    /// Gives every field its value.
    ///
    /// # Errors
    /// Every mistake of the file and of the overrides.
    pub fn resolve(self) -> Result<Scenario, Diagnostics> {
        let mut mistakes = self.mistakes;
        match resolve(&self.root, self.question, &mut mistakes) {
            Some(scenario) if mistakes.is_empty() => Ok(scenario),
            _ => Err(Diagnostics::new(&self.name, self.text, mistakes)),
        }
    }
}

impl ScenarioFile {
    /// What a file means that is read as a scenario is and is something else.
    pub(super) fn resolve_as<T>(
        self,
        resolve: impl FnOnce(&Node, &mut Vec<Diagnostic>) -> Option<T>,
    ) -> Result<T, Diagnostics> {
        let mut mistakes = self.mistakes;
        match resolve(&self.root, &mut mistakes) {
            Some(meaning) if mistakes.is_empty() => Ok(meaning),
            _ => Err(Diagnostics::new(&self.name, self.text, mistakes)),
        }
    }
}

fn leading_question(text: &str) -> String {
    let comment = text.lines().map_while(|line| line.strip_prefix('#')).map(str::trim);
    let paragraph = comment.skip_while(|line| line.is_empty()).take_while(|line| !line.is_empty());
    paragraph.collect::<Vec<_>>().join(" ")
}
