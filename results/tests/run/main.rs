//! Whole runs: recorded, judged, written, opened again.

mod bundle;
mod recorder;
mod schema;
mod verdict;
