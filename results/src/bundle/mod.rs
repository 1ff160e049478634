//! The folder a run leaves, and the only code that knows its format.
//!
//! | file | what |
//! |---|---|
//! | `run.json` | [`crate::Run`]; there from the start with `state: "running"` |
//! | `scenario.toml`, `env.json` | the scenario as resolved; the machine |
//! | `response.hlog`, `service.hlog`, `dispatch.hlog` | times by `operation.phase.outcome` |
//! | `stages.hlog` | times by `operation.stage`, and `lateness`; measurement phase only |
//! | `series.ndjson` | the run as it went, one [`Event`] a line |
//! | `errors.ndjson` | what went wrong, when and how often |
//! | `report.html`, `SHA256SUMS` | written when the run has finished |
//!
//! Every interval is written when it ends, its line of `series.ndjson` last, and that line tells how
//! long the logs were then. So a run that was killed keeps every interval up to its last whole
//! line, in all files alike, and the figures rebuilt from them are the figures it would have had.

mod events;
mod log;
mod reader;
mod sums;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};

pub use events::{CountsLine, ErrorLine, Event, LogEnds, Second, SecondTimes};
pub use reader::{Bundle, open};
pub use sums::histograms;
pub use writer::{BundleWriter, rewrite_report};

const RUN: &str = "run.json";
const SCENARIO: &str = "scenario.toml";
const ENVIRONMENT: &str = "env.json";
const RESPONSE: &str = "response.hlog";
const SERVICE: &str = "service.hlog";
const DISPATCH: &str = "dispatch.hlog";
const STAGES: &str = "stages.hlog";
const SERIES: &str = "series.ndjson";
const ERRORS: &str = "errors.ndjson";
const REPORT: &str = "report.html";
const SUMS: &str = "SHA256SUMS";

/// Tag of the instrument's own lateness in `stages.hlog`.
const LATENESS: &str = "lateness";

/// Every file but the sums themselves, in the order of the table above.
const FILES: [&str; 10] =
    [RUN, SCENARIO, ENVIRONMENT, RESPONSE, SERVICE, DISPATCH, STAGES, SERIES, ERRORS, REPORT];

/// Why a bundle cannot be written or opened.
#[derive(Debug)]
pub enum BundleError {
    /// A file or folder cannot be written.
    Write(PathBuf, std::io::Error),
    /// A file or folder cannot be read.
    Read(PathBuf, std::io::Error),
    /// The folder holds a run already.
    Occupied(PathBuf),
    /// The folder holds no run.
    NoRun(PathBuf),
    /// A newer vaultmark wrote it: its version.
    TooNew(PathBuf, u64),
    /// A file is not what it should be, in words.
    Damaged(PathBuf, String),
}

impl fmt::Display for BundleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(path, error) => write!(f, "cannot write {}: {error}", path.display()),
            Self::Read(path, error) => write!(f, "cannot read {}: {error}", path.display()),
            Self::Occupied(path) => {
                write!(f, "{} holds a run already; choose another folder", path.display())
            }
            Self::NoRun(path) => {
                write!(f, "{} holds no run: there is no {RUN} in it", path.display())
            }
            Self::TooNew(path, version) => write!(
                f,
                "{} was written by a newer vaultmark (schema version {version}; this one reads up \
                 to {})",
                path.display(),
                crate::model::SCHEMA_VERSION
            ),
            Self::Damaged(path, what) => write!(f, "{} is damaged: {what}", path.display()),
        }
    }
}

impl std::error::Error for BundleError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Write(_, error) | Self::Read(_, error) => Some(error),
            _ => None,
        }
    }
}

/// `path`: error, for `map_err`.
fn cannot_write(path: &Path) -> impl FnOnce(std::io::Error) -> BundleError + '_ {
    |error| BundleError::Write(path.to_owned(), error)
}
