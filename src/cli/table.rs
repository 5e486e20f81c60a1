//! Columns that line up. If the terminal is too narrow, the columns that can be spared go, the last of them first.

use unicode_width::UnicodeWidthStr;

use super::terminal::printable;

/// Between two columns.
const GAP: &str = "  ";

/// How a column is set.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    title: &'static str,
    to_the_right: bool,
    can_be_spared: bool,
}

impl Column {
    /// Text.
    pub fn text(title: &'static str) -> Column {
        Column { title, to_the_right: false, can_be_spared: false }
    }

    /// Numbers.
    pub fn number(title: &'static str) -> Column {
        Column { title, to_the_right: true, can_be_spared: false }
    }

    /// Left out where there is no room.
    pub fn spare(self) -> Column {
        Column { can_be_spared: true, ..self }
    }
}

/// Rows under titles.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(columns: impl IntoIterator<Item = Column>) -> Table {
        Table { columns: columns.into_iter().collect(), rows: Vec::new() }
    }

    /// Adds a row; it has a cell for each column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().map(|cell| printable(&cell)).collect();
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as lines, each ended, at most `columns` wide if that can be done.
    pub fn to_text(&self, columns: Option<usize>) -> String {
        let widths: Vec<usize> = (0..self.columns.len()).map(|number| self.width_of(number)).collect();
        let mut shown: Vec<usize> = (0..self.columns.len()).collect();
        let total = |shown: &[usize]| {
            shown.iter().map(|number| widths[*number]).sum::<usize>() + GAP.len() * shown.len().saturating_sub(1)
        };
        while columns.is_some_and(|columns| total(&shown) > columns) {
            let Some(spared) = shown.iter().rposition(|number| self.columns[*number].can_be_spared) else { break };
            shown.remove(spared);
        }
        let titles: Vec<String> = self.columns.iter().map(|column| column.title.to_owned()).collect();
        let mut text = String::new();
        for cells in std::iter::once(&titles).chain(&self.rows) {
            let line: Vec<String> = shown
                .iter()
                .map(|number| {
                    let cell = &cells[*number];
                    let padding = " ".repeat(widths[*number].saturating_sub(cell.width()));
                    if self.columns[*number].to_the_right { padding + cell } else { cell.clone() + &padding }
                })
                .collect();
            text.push_str(line.join(GAP).trim_end());
            text.push('\n');
        }
        text
    }

    fn width_of(&self, number: usize) -> usize {
        let cells = self.rows.iter().map(|row| row[number].width());
        cells.chain([self.columns[number].title.width()]).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table =
            Table::new([Column::text("NAME"), Column::text("LEVEL").spare(), Column::number("SIZE").spare()]);
        table.row(["bücher".into(), "current".into(), "1.0 GiB".into()]);
        table.row(["a".into(), "日本".into(), "9 B".into()]);
        table
    }

    #[test]
    fn columns_line_up_by_what_is_seen() {
        let expected = "NAME    LEVEL       SIZE\nbücher  current  1.0 GiB\na       日本         9 B\n";
        assert_eq!(table().to_text(None), expected);
        assert_eq!(table().to_text(Some(24)), expected);
    }

    #[test]
    fn what_can_be_spared_goes_last_first_and_the_rest_stays() {
        assert_eq!(table().to_text(Some(23)), "NAME    LEVEL\nbücher  current\na       日本\n");
        assert_eq!(table().to_text(Some(3)), "NAME\nbücher\na\n");
    }
}
