//! The comparison on the terminal: one line a device, the same figures as on the page.

use super::CompareInput;
use super::rows::{self, Row, TAIL_PERCENT, published_rate};
use crate::terminal::{FAINT, Page, plain};

/// Longest name that a column takes: the rest of the line needs its room.
const NAME_MAX: usize = 28;

/// The comparison as a table of text. `width` is in columns: sentences are wrapped to it, tables are not.
/// Colours only with `color`.
#[must_use]
pub fn compare_text(input: &CompareInput, width: usize, color: bool) -> String {
    let (cards, left_out) = input.visible();
    let rows = rows::rows(&cards);
    let mut page = Page::new(width, color);
    if rows.is_empty() {
        page.wrapped("  ", 2, "There is no card to show.");
    } else {
        table(&mut page, &rows);
        page.line("");
        page.wrapped(
            "  ",
            2,
            &format!(
                "Share: of the fastest row. p99: response time, open loop, at {TAIL_PERCENT} % of the \
                 device's own capacity. Cost: of a million evaluations."
            ),
        );
        if rows.iter().any(Row::is_modelled) {
            page.wrapped(
                "  ",
                2,
                "* modelled: service times are a model's; no such device was measured.",
            );
        }
        for row in &rows {
            if let Some(caveat) = &row.card.device.caveat {
                page.wrapped("  ", 4, &format!("{} {}: {}", row.number, name(row), plain(caveat)));
            }
        }
    }
    if let Some(words) = left_out.words() {
        page.wrapped("  ", 2, &words);
    }
    if !input.published.is_empty() {
        published(&mut page, input);
    }
    page.into_text()
}

fn table(page: &mut Page, rows: &[Row<'_>]) {
    let has_cost = rows.iter().any(|row| row.card.price.is_some());
    let mut head = vec!["", "device", "provision", "suite", "evaluations", "share", "p99", "calls"];
    if has_cost {
        head.push("cost");
    }
    head.extend(["measured", "firmware"]);
    let mut lines = vec![(FAINT, head.into_iter().map(str::to_owned).collect::<Vec<String>>())];
    for row in rows {
        let (tail, note) = row.tail_words();
        let tail =
            if note.is_empty() || tail == crate::words::NONE { tail } else { format!("{tail} !") };
        let mut cells = vec![
            row.number.to_string(),
            name(row),
            plain(&row.card.device.provision),
            plain(row.suite_short()),
            row.rate_words(),
            row.share_words(),
            tail,
            row.calls_words(),
        ];
        if has_cost {
            cells.push(plain(&row.cost_words().0));
        }
        cells.push(plain(row.card.date()));
        cells.push(short(&plain(&row.firmware_words())));
        lines.push(("", cells));
    }
    page.table(4, &lines);
}

fn published(page: &mut Page, input: &CompareInput) {
    page.line("");
    page.wrapped("  ", 2, "Published figures, not measured here and mostly of another operation:");
    let lines: Vec<(&str, Vec<String>)> = input
        .published
        .iter()
        .map(|figure| {
            let cells = vec![
                plain(&figure.device),
                plain(&figure.operation),
                figure.confidence.words().to_owned(),
                published_rate(figure.per_s),
            ];
            (FAINT, cells)
        })
        .collect();
    page.table(3, &lines);
}

fn name(row: &Row<'_>) -> String {
    let star = if row.is_modelled() { "*" } else { "" };
    format!("{}{star}", short(&plain(&row.card.device.name)))
}

fn short(text: &str) -> String {
    if text.chars().count() <= NAME_MAX {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(NAME_MAX - 1).collect();
    short.push('…');
    short
}
