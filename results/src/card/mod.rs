//! The card of a device: what `vaultmark hsm bench` found, one JSON file for each device and date.
//!
//! A card is read by its published schema, `results/schema/card.v1.json`, and then by what no schema can
//! say; every mistake of a file is told at once. What a comparison shows of cards is in `dashboards`.

mod check;
mod cost;
mod model;
mod rules;

use std::fmt;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

pub use cost::cost_per_million_evaluations;
pub use model::{
    BareCallResult, Basis, CARD_SCHEMA_VERSION, Capacity, Card, Device, Price, Publication,
    Reconnect, SessionLimit, SessionsPoint, Soak, SoakWindow, Tail, TailVerdict, VaultPrediction,
};

/// The JSON Schema of cards, as it is published.
pub const CARD_SCHEMA: &str = include_str!("../../schema/card.v1.json");

/// Largest file that is read as a card, bytes: a card with a day of soak is a tenth of it.
const FILE_MAX: u64 = 4 << 20;

/// Most mistakes of one file that are told; what is no card at all has more than anybody reads.
const MISTAKES_MAX: usize = 50;

/// One thing that is wrong with a card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Which field: `sessions[2].evaluations_per_s`; empty for the card as a whole.
    pub field: String,
    /// The value seen, as JSON, shortened; empty where there is none.
    pub value: String,
    /// What it should be, in words.
    pub expected: String,
}

/// A card could not be read or written.
#[derive(Debug)]
pub enum CardError {
    /// The file cannot be read.
    Read(PathBuf, std::io::Error),
    /// The file cannot be written.
    Write(PathBuf, std::io::Error),
    /// It is larger than any card.
    TooLarge(PathBuf),
    /// It is no JSON: the parser's words, with line and column.
    NotJson(PathBuf, String),
    /// It is of a version that this vaultmark does not know, or of none.
    UnknownVersion(PathBuf, String),
    /// Everything that is wrong with it.
    Mistakes(PathBuf, Vec<Mistake>),
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = if self.field.is_empty() { "the card" } else { &self.field };
        if self.value.is_empty() {
            write!(f, "{field}: {}", self.expected)
        } else {
            write!(f, "{field}: {}, found {}", self.expected, self.value)
        }
    }
}

impl fmt::Display for CardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path, error) => write!(f, "cannot read {}: {error}", path.display()),
            Self::Write(path, error) => write!(f, "cannot write {}: {error}", path.display()),
            Self::TooLarge(path) => {
                write!(f, "{} is larger than {} MiB: no card", path.display(), FILE_MAX >> 20)
            }
            Self::NotJson(path, why) => write!(f, "{} is not JSON: {why}", path.display()),
            Self::UnknownVersion(path, found) => write!(
                f,
                "{} has schema_version {found}; this vaultmark reads cards of version \
                 {CARD_SCHEMA_VERSION}",
                path.display()
            ),
            Self::Mistakes(path, mistakes) => {
                for (n, mistake) in mistakes.iter().take(MISTAKES_MAX).enumerate() {
                    let end = if n == 0 { "" } else { "\n" };
                    write!(f, "{end}{}: {mistake}", path.display())?;
                }
                match mistakes.len().saturating_sub(MISTAKES_MAX) {
                    0 => Ok(()),
                    more => write!(f, "\n{}: and {more} more mistakes", path.display()),
                }
            }
        }
    }
}

impl std::error::Error for CardError {}

/// Reads a card.
///
/// # Errors
/// See [`CardError`]; all mistakes of the file are told together.
pub fn read(path: &Path) -> Result<Card, CardError> {
    let cannot = |error| CardError::Read(path.to_owned(), error);
    let file = fs::File::open(path).map_err(cannot)?;
    let mut text = Vec::new();
    // One byte more than is allowed, to tell the difference, whatever the file says of its size.
    file.take(FILE_MAX + 1).read_to_end(&mut text).map_err(cannot)?;
    parse(path, &text)
}

/// Reads a card from its text; `path` is what errors call it.
///
/// # Errors
/// See [`CardError`].
pub fn parse(path: &Path, text: &[u8]) -> Result<Card, CardError> {
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > FILE_MAX {
        return Err(CardError::TooLarge(path.to_owned()));
    }
    let not_json =
        |error: serde_json::Error| CardError::NotJson(path.to_owned(), error.to_string());
    let json: Value = serde_json::from_slice(text).map_err(not_json)?;
    // Before anything else is looked at: another version may have changed everything else.
    match json.get("schema_version") {
        Some(version) if version.as_u64() == Some(u64::from(CARD_SCHEMA_VERSION)) => {}
        version => {
            let found = version.map_or_else(|| "missing".to_owned(), check::shown);
            return Err(CardError::UnknownVersion(path.to_owned(), found));
        }
    }
    let mistakes = check::against_schema(&json);
    if !mistakes.is_empty() {
        return Err(CardError::Mistakes(path.to_owned(), mistakes));
    }
    let card: Card = serde_json::from_value(json).map_err(not_json)?;
    match rules::mistakes(&card) {
        mistakes if mistakes.is_empty() => Ok(card),
        mistakes => Err(CardError::Mistakes(path.to_owned(), mistakes)),
    }
}

/// A card as its file has it: JSON, indented, with an end of line.
///
/// # Errors
/// [`CardError::Mistakes`]: what it says would not be read back.
pub fn text(path: &Path, card: &Card) -> Result<String, CardError> {
    // Numbers that JSON does not have become null there, which the schema then tells.
    let mut mistakes = check::against_schema(&serde_json::to_value(card).unwrap_or_default());
    mistakes.extend(rules::mistakes(card));
    if !mistakes.is_empty() {
        return Err(CardError::Mistakes(path.to_owned(), mistakes));
    }
    let mut text = serde_json::to_string_pretty(card).expect("a card has string keys only");
    text.push('\n');
    Ok(text)
}

/// Writes a card, whole or not at all, in place of what was there.
///
/// # Errors
/// [`CardError::Mistakes`] before anything is written, [`CardError::Write`].
pub fn write(path: &Path, card: &Card) -> Result<(), CardError> {
    let text = text(path, card)?;
    let cannot = |error| CardError::Write(path.to_owned(), error);
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    fs::write(&fresh, text).map_err(cannot)?;
    fs::rename(&fresh, path).map_err(cannot)
}
