//! Writes the report of a made-up run, to look at: `sample_report PATH [pass|fail|invalid|empty]`.
//! On the terminal it prints the same run's summary.

#[path = "../tests/sample/mod.rs"]
mod sample;

use std::io::Write;
use std::process::ExitCode;

use sample::Sample;
use vaultmark_dashboards::{report_html, terminal_summary};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(path) = arguments.next() else { return ExitCode::from(2) };
    let input = match arguments.next().as_deref() {
        None | Some("pass") => Sample::default(),
        Some("fail") => Sample { stall_s: Some((10, 12)), one_in_fails: 400, ..Sample::default() },
        Some("invalid") => Sample {
            operations: vec![("recover", 40)],
            rules: vec!["recover.response.p99 < 250ms"],
            lateness_ns: 3_000_000,
            cut_short: true,
            ..Sample::default()
        },
        Some("empty") => Sample { operations: Vec::new(), rules: Vec::new(), ..Sample::default() },
        Some(_) => return ExitCode::from(2),
    }
    .input();
    let written = report_html(&input)
        .map_err(|error| error.to_string())
        .and_then(|html| std::fs::write(&path, html).map_err(|error| error.to_string()));
    let summary = match written {
        Ok(()) => terminal_summary(&input.run, 100, false),
        Err(error) => format!("{path}: {error}\n"),
    };
    if std::io::stdout().write_all(summary.as_bytes()).is_err() {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
