//! What people look at: the report and the summary on the terminal.
//!
//! Nothing is measured or judged here, and no quantile is computed: every figure comes from
//! `results`, so that all views of a run say the same.

mod chart;
mod input;
mod report;
mod terminal;
mod words;

pub use input::{Curve, OperationSecond, ReportInput, Second};
pub use report::{ReportError, report_html};
pub use terminal::terminal_summary;
