//! `vaultmark hsm compare`: devices beside each other, by their cards.

use vaultmark_dashboards::hsm_compare::{CompareInput, built_in, compare_html, compare_text};
use vaultmark_results::card;

use super::CompareArgs;
use crate::cli::ui::{colourful, columns};
use crate::cli::{Exit, GlobalArgs, Ui};

/// Columns of a table that goes to a file or a pipe.
const WIDTH_DEFAULT: usize = 120;

/// Compares.
pub(super) fn compare(args: &CompareArgs, global: &GlobalArgs, ui: &mut Ui) -> Exit {
    let (mut cards, mut wrong) = (Vec::new(), false);
    for path in &args.cards {
        match card::read(path) {
            Ok(card) => cards.push(card),
            Err(error) => {
                ui.error(&error.to_string());
                wrong = true;
            }
        }
    }
    if wrong {
        return Exit::Usage;
    }
    // The terminal is whose cards they are; the page may go anywhere.
    let mut input = CompareInput {
        cards,
        published: built_in(),
        internal: true,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    if args.json {
        match serde_json::to_value(&input.cards) {
            Ok(cards) => ui.json(&serde_json::json!({ "cards": cards })),
            Err(error) => ui.error(&format!("the cards cannot be written as JSON: {error}")),
        }
    } else {
        let width = columns().unwrap_or(WIDTH_DEFAULT);
        ui.out(&compare_text(&input, width, colourful(global.color)));
    }
    let Some(path) = &args.html else { return Exit::Pass };
    input.internal = args.internal;
    let page = match compare_html(&input) {
        Ok(page) => page,
        Err(error) => {
            ui.error(&format!("the page cannot be drawn: {error}"));
            return Exit::Error;
        }
    };
    if let Err(error) = std::fs::write(path, page) {
        ui.error(&format!("cannot write {}: {error}", path.display()));
        return Exit::Error;
    }
    if !args.json {
        ui.line(&path.display().to_string());
    }
    Exit::Pass
}
