//! What a run leaves: bundle format, statistics, verdict.
//!
//! Everything is keyed by names that are handed in: what an operation or an outcome means is not
//! known here. Only this crate knows the bundle format and merges histograms.

pub mod bundle;
pub mod card;
pub mod crosscheck;
pub mod folder;
pub mod hist;
pub mod interval;
mod judge;
pub mod model;
pub mod phase;
pub mod search;
pub mod slo;
pub mod stages;
pub mod totals;
pub mod units;
pub mod wire;

pub use bundle::{Bundle, BundleError, BundleWriter, Second};
pub use card::{Card, CardError};
pub use interval::{Cell, Counts, ErrorText, Interval, OperationStages, Shape, Window};
pub use model::Run;
pub use phase::Phase;
pub use slo::Rule;
pub use stages::{SparseStageBins, StageBins, StageMeans};
pub use totals::{Terms, Times, Totals, Validity};
pub use wire::OwnInterval;
