//! Figures that vendors and others publish. Nobody here measured them, and nearly all are of another
//! operation: they are never mixed with cards.

use std::fmt;

use serde::Deserialize;

/// What is built in; its head says what it is worth.
const BUILT_IN: &str = include_str!("../../data/hsm-published.toml");

/// One published figure.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedFigure {
    /// The device, and how many of it.
    pub device: String,
    /// Of what.
    pub operation: String,
    /// How many a second.
    pub per_s: f64,
    /// What else to know.
    #[serde(default)]
    pub note: String,
    /// How far to trust it.
    pub confidence: Confidence,
    /// Who says so: an address without its scheme, or in words.
    pub source: String,
}

/// How far a published figure is to be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Confidence {
    /// The vendor's own document says it.
    Primary,
    /// Others quote it.
    Secondary,
    /// It could not be traced.
    Low,
}

impl Confidence {
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Primary => "the vendor's own document",
            Self::Secondary => "quoted by others",
            Self::Low => "not traced to a document",
        }
    }
}

/// A file of published figures does not say what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedError(String);

impl fmt::Display for PublishedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PublishedError {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    figure: Vec<PublishedFigure>,
}

/// The figures that are built in.
#[must_use]
pub fn built_in() -> Vec<PublishedFigure> {
    parse(BUILT_IN).expect("a test reads the file that is built in")
}

/// Reads figures as `dashboards/data/hsm-published.toml` has them.
///
/// # Errors
/// It is not such a file, or a figure is no positive number; with line and column.
pub fn parse(text: &str) -> Result<Vec<PublishedFigure>, PublishedError> {
    let file: File = toml::from_str(text).map_err(|error| PublishedError(error.to_string()))?;
    match file.figure.iter().find(|figure| !figure.per_s.is_finite() || figure.per_s <= 0.0) {
        Some(figure) => {
            let (device, per_s) = (&figure.device, figure.per_s);
            Err(PublishedError(format!("per_s of \"{device}\" must be above 0, found {per_s}")))
        }
        None => Ok(file.figure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_in_is_sound_and_names_its_sources() {
        let figures = built_in();
        assert!(figures.len() > 10);
        for figure in &figures {
            let vendors_own = figure.confidence == Confidence::Primary;
            assert_eq!(figure.source.contains('/'), vendors_own, "{}", figure.device);
            assert!(!figure.source.contains("://"), "an address is shown, not linked");
        }
    }

    #[test]
    fn other_files_are_refused() {
        for (text, words) in [
            ("[[figure]]\ndevice = \"x\"", "missing field"),
            ("colour = 1", "unknown field"),
            (
                "[[figure]]\ndevice = \"x\"\noperation = \"y\"\nper_s = 0\nconfidence = \
                 \"low\"\nsource = \"z\"",
                "must be above 0, found 0",
            ),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(words), "{error}");
        }
        assert_eq!(parse(""), Ok(Vec::new()));
    }
}
