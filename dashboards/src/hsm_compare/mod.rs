//! HSMs beside each other: a page and a table on the terminal, made of cards.
//!
//! Results come first and filters after. A row says what was measured and nothing made of it: there is no
//! composite score. What a card may not show is left out here, and how much that was is told.

mod charts;
mod details;
mod page;
mod published;
mod rows;
mod terminal;

use vaultmark_results::Card;
use vaultmark_results::card::Publication;

pub use page::compare_html;
pub use published::{Confidence, PublishedError, PublishedFigure, built_in, parse};
pub use terminal::compare_text;

/// What a comparison is made of.
#[derive(Clone, Debug)]
pub struct CompareInput {
    /// The cards, in any order.
    pub cards: Vec<Card>,
    /// What vendors and others say, shown apart; [`built_in`] or nothing.
    pub published: Vec<PublishedFigure>,
    /// Whether internal cards are shown. Withheld ones never are.
    pub internal: bool,
    /// The version of vaultmark that writes it.
    pub version: String,
}

/// How many cards are not shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeftOut {
    internal: u64,
    withheld: u64,
}

impl CompareInput {
    /// The cards that may be shown, and how many others there are.
    fn visible(&self) -> (Vec<&Card>, LeftOut) {
        let mut left_out = LeftOut::default();
        let visible = self
            .cards
            .iter()
            .filter(|card| match card.publication {
                Publication::Public => true,
                Publication::Internal if self.internal => true,
                Publication::Internal => {
                    left_out.internal += 1;
                    false
                }
                Publication::Withheld => {
                    left_out.withheld += 1;
                    false
                }
            })
            .collect();
        (visible, left_out)
    }
}

impl LeftOut {
    /// In words; `None` if nothing is left out.
    fn words(self) -> Option<String> {
        let part = |n: u64, word: &str| match n {
            0 => None,
            1 => Some(format!("1 {word} card")),
            n => Some(format!("{n} {word} cards")),
        };
        let parts: Vec<String> = [part(self.internal, "internal"), part(self.withheld, "withheld")]
            .into_iter()
            .flatten()
            .collect();
        (!parts.is_empty()).then(|| format!("Left out: {}.", parts.join(" and ")))
    }
}
