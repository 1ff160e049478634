//! What people look at: the report, the summary on the terminal, the comparison of HSMs.
//!
//! Nothing is measured or judged here, and no quantile is computed: every figure comes from
//! `results`, so that all views of a run say the same.

mod chart;
pub mod hsm_compare;
mod input;
mod report;
mod search;
mod terminal;
mod words;

pub use hsm_compare::{CompareInput, compare_html, compare_text};
pub use input::{Curve, OperationSecond, ReportInput, Second};
pub use report::{ReportError, crosscheck_html, crosscheck_text, report_html};
pub use search::{
    probe_head, probe_line, search_html, sweep_html, sweep_text, word as search_word,
};
pub use terminal::terminal_summary;
