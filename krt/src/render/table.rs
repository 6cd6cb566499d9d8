//! Columns as kubectl prints them: padded, three spaces apart, no lines.

use anstyle::Style;
use jiff::Timestamp;
use kube::ResourceExt;

use crate::term::{Palette, style};

/// One cell.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// In a style.
    pub fn styled(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::styled(text, style::PLAIN)
    }
}

/// A kind that is listed in tables.
pub trait Listed: ResourceExt {
    /// Its columns, after the name.
    const HEADER: &'static [&'static str];
    /// Its further columns of a wide table.
    const WIDE: &'static [&'static str];

    /// Below [`Self::HEADER`].
    fn cells(&self, now: Timestamp) -> Vec<Cell>;
    /// Below [`Self::WIDE`].
    fn wide_cells(&self, now: Timestamp) -> Vec<Cell>;
}

/// What a listing shows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Columns {
    /// With the namespace.
    pub namespace: bool,
    /// With everything.
    pub wide: bool,
}

impl Columns {
    /// An empty table.
    pub fn table<K: Listed>(self) -> Table {
        let namespace: &[_] = if self.namespace { &["NAMESPACE"] } else { &[] };
        let wide = if self.wide { K::WIDE } else { &[] };
        Table::new(&[&["NAME"], namespace, K::HEADER, wide].concat())
    }

    /// One row.
    pub fn row<K: Listed>(self, object: &K, now: Timestamp) -> Vec<Cell> {
        let namespace = self.namespace.then(|| object.namespace().unwrap_or_default().into());
        let wide = if self.wide { object.wide_cells(now) } else { Vec::new() };
        [object.name_any().into()].into_iter().chain(namespace).chain(object.cells(now)).chain(wide).collect()
    }
}

/// Rows below a header. The widths only grow, so that rows added while watching stay aligned.
#[derive(Debug, Clone)]
pub struct Table {
    header: Vec<&'static str>,
    widths: Vec<usize>,
    rows: Vec<Vec<Cell>>,
    indent: usize,
}

const GAP: usize = 3;

impl Table {
    /// A table with these columns.
    pub fn new(header: &[&'static str]) -> Self {
        let widths = header.iter().map(|name| name.chars().count()).collect();
        Self { header: header.to_vec(), widths, rows: Vec::new(), indent: 0 }
    }

    /// Indents every line.
    #[must_use]
    pub fn indented(mut self, by: usize) -> Self {
        self.indent = by;
        self
    }

    /// Adds a row.
    pub fn push(&mut self, row: Vec<Cell>) {
        for (width, cell) in self.widths.iter_mut().zip(&row) {
            *width = (*width).max(cell.text.chars().count());
        }
        self.rows.push(row);
    }

    /// Whether there is nothing but the header.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The header and all rows.
    pub fn render(&mut self, palette: Palette) -> String {
        let header: Vec<Cell> = self.header.iter().map(|name| Cell::styled(*name, style::HEAD)).collect();
        let mut text = self.line(&header, palette);
        text.push_str(&self.render_rows(palette));
        text
    }

    /// The rows since the last call, without the header.
    pub fn render_rows(&mut self, palette: Palette) -> String {
        let rows = std::mem::take(&mut self.rows);
        rows.iter().map(|row| self.line(row, palette)).collect()
    }

    fn line(&self, row: &[Cell], palette: Palette) -> String {
        let mut line = " ".repeat(self.indent);
        for (at, (cell, width)) in row.iter().zip(&self.widths).enumerate() {
            line.push_str(&palette.paint(cell.style, &cell.text));
            if at + 1 < row.len() {
                line.push_str(&" ".repeat(width - cell.text.chars().count() + GAP));
            }
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    }
}

/// Names and values below each other, as in `describe`.
pub fn pairs(pairs: &[(&str, String)], palette: Palette) -> String {
    let width = pairs.iter().map(|(name, _)| name.chars().count() + 1).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in pairs {
        let pad = " ".repeat(width - name.chars().count() - 1 + GAP);
        // Further lines of a value stand below its first.
        let value = value.replace('\n', &format!("\n{}", " ".repeat(width + GAP)));
        // A pair without a name goes on with the one above.
        let label =
            if name.is_empty() { " ".to_owned() } else { palette.paint(style::HEAD, &format!("{name}:")) };
        text.push_str(&format!("{label}{pad}{value}\n"));
    }
    text
}
