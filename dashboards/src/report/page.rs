//! What a report is made of: sections of text, tables and figures.

use crate::chart::Figure;

/// A part of the report under a heading.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) blocks: Vec<Block>,
}

impl Section {
    pub(crate) const fn new(id: &'static str, title: &'static str) -> Self {
        Self { id, title, blocks: Vec::new() }
    }

    pub(crate) fn with(mut self, block: Block) -> Self {
        self.blocks.push(block);
        self
    }

    pub(crate) fn text(self, text: impl Into<String>) -> Self {
        self.with(Block::Text(text.into()))
    }
}

/// One thing in a section.
#[derive(Debug)]
pub(crate) enum Block {
    Text(String),
    Heading(String),
    Table(Table),
    Figure(Figure),
    Command(String),
    /// A long table that is folded away on screens.
    Folded(String, Table),
}

/// A table. The first cell of each row is its heading.
#[derive(Debug)]
pub(crate) struct Table {
    /// Said to screen readers, and the name of the scrolling region.
    pub(crate) caption: String,
    pub(crate) head: Vec<Column>,
    pub(crate) rows: Vec<Row>,
    /// Tables of words are set differently from tables of figures.
    pub(crate) class: &'static str,
}

impl Table {
    pub(crate) fn new(
        caption: impl Into<String>,
        class: &'static str,
        head: &[&'static str],
    ) -> Self {
        let head = head
            .iter()
            .map(|text| match text.strip_prefix('#') {
                Some(text) => Column { text: text.to_owned(), is_number: true },
                None => Column { text: (*text).to_owned(), is_number: false },
            })
            .collect();
        Self { caption: caption.into(), head, rows: Vec::new(), class }
    }

    pub(crate) fn row(&mut self, class: &'static str, cells: Vec<Cell>) {
        self.rows.push(Row { class, cells });
    }

    /// Whether the column holds figures, which are set flush right.
    pub(crate) fn is_number(&self, column: usize) -> bool {
        self.head.get(column).is_some_and(|column| column.is_number)
    }
}

/// A column's heading. In [`Table::new`], a `#` in front says that it holds figures.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) text: String,
    pub(crate) is_number: bool,
}

#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) class: &'static str,
    pub(crate) cells: Vec<Cell>,
}

#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) text: String,
    /// Small print beneath.
    pub(crate) note: String,
    /// Style-sheet class of the cell.
    pub(crate) class: &'static str,
    /// Style-sheet class of a patch of colour in front; empty: none.
    pub(crate) patch: String,
    /// Where the text leads to, seen from the page; empty: nowhere.
    pub(crate) link: String,
}

impl Cell {
    pub(crate) fn noted(text: impl Into<String>, note: impl Into<String>) -> Self {
        Self { note: note.into(), ..Self::from(text.into()) }
    }

    pub(crate) fn classed(text: impl Into<String>, class: &'static str) -> Self {
        Self { class, ..Self::from(text.into()) }
    }

    pub(crate) fn linked(text: impl Into<String>, link: String) -> Self {
        Self { link, ..Self::from(text.into()) }
    }

    pub(crate) fn patched(text: impl Into<String>, patch: String) -> Self {
        Self { patch, ..Self::from(text.into()) }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, note: String::new(), class: "", patch: String::new(), link: String::new() }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::from(text.to_owned())
    }
}

/// A figure in large type.
#[derive(Debug)]
pub(crate) struct Tile {
    pub(crate) name: String,
    pub(crate) figure: String,
    pub(crate) detail: String,
}
