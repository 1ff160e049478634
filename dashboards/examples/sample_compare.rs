//! Writes the comparison of made-up cards, to look at: `sample_compare PATH [internal|empty]`. On the
//! terminal it prints the same as a table.

#[path = "../tests/cards/mod.rs"]
mod cards;

use std::io::Write;
use std::process::ExitCode;

use vaultmark_dashboards::hsm_compare::built_in;
use vaultmark_dashboards::{CompareInput, compare_html, compare_text};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(path) = arguments.next() else { return ExitCode::from(2) };
    let (cards, internal) = match arguments.next().as_deref() {
        None => (cards::line_up(), false),
        Some("internal") => (cards::line_up(), true),
        Some("empty") => (Vec::new(), false),
        Some(_) => return ExitCode::from(2),
    };
    let input =
        CompareInput { cards, published: built_in(), internal, version: "0.1.0".to_owned() };
    let written = compare_html(&input)
        .map_err(|error| error.to_string())
        .and_then(|html| std::fs::write(&path, html).map_err(|error| error.to_string()));
    let text = match written {
        Ok(()) => compare_text(&input, 120, false),
        Err(error) => format!("{path}: {error}\n"),
    };
    if std::io::stdout().write_all(text.as_bytes()).is_err() {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
