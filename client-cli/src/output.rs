//! What the terminal shows: results on standard output, words to people on standard error.

use crate::error::Error;
use serde::Serialize;
use std::io::Write;
use std::sync::Arc;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// How results are to be shown.
#[derive(Debug, Clone, Default)]
pub struct Output {
    /// One JSON document instead of text.
    pub json: bool,
    /// The terminal's width in columns, when standard output is one.
    pub width: Option<usize>,
}

impl Output {
    /// As this process's standard output wants it.
    pub fn of_process(json: bool) -> Self {
        Self {
            json,
            width: terminal_width(),
        }
    }

    /// Writes a result for a script or a person: `document` with `--json`, otherwise `text`.
    pub fn result<T: Serialize>(
        &self,
        document: &T,
        text: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        if self.json {
            let line = serde_json::to_string(document)
                .map_err(|error| Error::Failed(format!("cannot write JSON: {error}")))?;
            print_line(&line)
        } else {
            print(&text())
        }
    }

    /// Confirms what was done: to people in words, to scripts as a document.
    pub fn confirm<T: Serialize>(&self, document: &T, words: &str) -> Result<(), Error> {
        say(words);
        match self.json {
            true => self.result(document, String::new),
            false => Ok(()),
        }
    }
}

/// Writes a line to standard output at once.
pub fn print_line(line: &str) -> Result<(), Error> {
    print(&format!("{line}\n"))
}

/// Writes text to standard output at once.
pub fn print(text: &str) -> Result<(), Error> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(Error::io("write to standard output"))
}

/// Says something to people, on standard error. That nobody listens is no error.
pub fn say(words: &str) {
    let _ = writeln!(std::io::stderr(), "{words}");
}

/// Says things to the person at the prompt while a line is being typed.
#[derive(Clone)]
pub struct Notifier(Arc<dyn Fn(&str) + Send + Sync>);

impl Notifier {
    /// One that says things so.
    pub fn new(how: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(how))
    }

    /// Says something.
    pub fn tell(&self, words: &str) {
        (self.0)(words);
    }
}

impl Default for Notifier {
    fn default() -> Self {
        Self::new(say)
    }
}

/// How many columns the terminal has, when standard output is one.
pub fn terminal_width() -> Option<usize> {
    let (columns, _) = terminal_size::terminal_size_of(std::io::stdout())?;
    (columns.0 > 0).then_some(usize::from(columns.0))
}

/// Text that came from elsewhere, made safe to show: a file's name must not move the cursor.
pub fn plain(text: &str) -> String {
    let safe = |c: char| match c {
        '\t' | '\n' | '\r' => ' ',
        // Marks that reorder text could make one name look like another.
        c if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
            '\u{fffd}'
        }
        c => c,
    };
    text.chars().map(safe).collect()
}

/// A length in seconds as h:mm:ss.
pub fn length(seconds: Option<f64>) -> String {
    match seconds {
        Some(seconds) if seconds.is_finite() && seconds >= 0.0 => {
            let whole = seconds.round() as u64;
            format!("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60)
        }
        _ => "-".to_owned(),
    }
}

/// A size in bytes for people: "1.4 GB", "700 B".
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

/// The blank columns between two of a table's.
const GAP: usize = 2;

/// How many columns a table's flexible column keeps at least.
const FLEXIBLE_MIN: usize = 12;

/// An aligned table. Where it is wider than `width` columns, first the cells of the `flexible`
/// column are cut, so that the others can be seen whole, and then the lines.
pub fn table(
    header: &[&str],
    rows: &[Vec<String>],
    flexible: usize,
    width: Option<usize>,
) -> String {
    let header: Vec<String> = header.iter().map(|cell| (*cell).to_owned()).collect();
    let all = || std::iter::once(&header).chain(rows);
    let mut columns: Vec<usize> = (0..header.len())
        .map(|column| {
            let widths = all()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.width());
            widths.max().unwrap_or(0)
        })
        .collect();
    if let Some(width) = width {
        let room = room(&columns, flexible, width);
        if let Some(column) = columns.get_mut(flexible) {
            *column = room.min(*column);
        }
    }
    let mut text = String::new();
    for row in all() {
        let mut line = String::new();
        for (cell, column) in row.iter().zip(&columns) {
            let cell = cut(cell, Some(*column));
            line.push_str(&cell);
            let padding = column.saturating_sub(cell.width()) + GAP;
            line.extend(std::iter::repeat_n(' ', padding));
        }
        text.push_str(&cut(line.trim_end(), width));
        text.push('\n');
    }
    text
}

/// What the other columns leave to the flexible one. The last column has remarks of any length:
/// it may be cut before a name is cut to nothing.
fn room(columns: &[usize], flexible: usize, width: usize) -> usize {
    let last = columns.len().saturating_sub(1);
    let others = columns.iter().enumerate();
    let taken: usize = others
        .filter(|(column, _)| *column != flexible)
        .map(|(column, wide)| match column == last {
            true => GAP + wide.min(&(width / 4)),
            false => GAP + wide,
        })
        .sum();
    width.saturating_sub(taken).max(FLEXIBLE_MIN)
}

/// A line cut to so many columns, with a mark where something is missing.
pub fn cut(line: &str, width: Option<usize>) -> String {
    let Some(width) = width.filter(|width| line.width() > *width) else {
        return line.to_owned();
    };
    let mut kept = String::new();
    let mut used = 0;
    for c in line.chars() {
        used += c.width().unwrap_or(0);
        if used >= width {
            break;
        }
        kept.push(c);
    }
    kept.push('…');
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_and_sizes_read_well() {
        assert_eq!(length(Some(0.4)), "0:00:00");
        assert_eq!(length(Some(59.6)), "0:01:00");
        assert_eq!(length(Some(3725.0)), "1:02:05");
        assert_eq!(length(None), "-");
        assert_eq!(length(Some(f64::NAN)), "-");
        assert_eq!(size(0), "0 B");
        assert_eq!(size(999), "999 B");
        assert_eq!(size(1_000), "1.0 kB");
        assert_eq!(size(999_999), "1.0 MB");
        assert_eq!(size(4_700_000_000), "4.7 GB");
    }

    #[test]
    fn tables_are_aligned_whatever_the_script() {
        let rows = [["映画", "x"], ["é", "y"], ["long name", "z"]];
        let rows: Vec<Vec<String>> = rows
            .iter()
            .map(|row| row.iter().map(|cell| (*cell).to_owned()).collect())
            .collect();
        let text = table(&["NAME", "C"], &rows, 0, None);
        let at: Vec<usize> = text
            .lines()
            .map(|line| line.rsplit_once(' ').unwrap().0.width())
            .collect();
        assert_eq!(at, [10; 4], "{text}");
    }

    #[test]
    fn a_long_name_does_not_hide_the_other_columns() {
        let name = "A film whose name is longer than anyone reads 映画";
        let row = |tags: &str| vec!["ab12".into(), name.into(), "1:02:03".into(), tags.into()];
        let header = ["ID", "NAME", "LENGTH", "TAGS"];
        for (width, tags) in [
            (80, "drama"),
            (50, "drama"),
            (40, "a, b, c, d, e, f, g, h, i, j"),
        ] {
            let text = table(&header, &[row(tags)], 1, Some(width));
            for line in text.lines() {
                assert!(line.width() <= width, "{line}");
            }
            let line = text.lines().nth(1).unwrap();
            assert!(line.starts_with("ab12  A film whos"), "{line}");
            assert!(
                line.contains("  1:02:03  ") && line.contains(&tags[..1]),
                "{line}"
            );
        }
        let whole = table(&header, &[row("drama")], 1, Some(200));
        assert_eq!(whole, table(&header, &[row("drama")], 1, None));
    }

    #[test]
    fn foreign_text_cannot_move_the_cursor() {
        assert_eq!(plain("a\u{1b}[2Jb\nc\u{202e}d"), "a\u{fffd}[2Jb c\u{fffd}d");
        assert_eq!(plain("Amélie 映画"), "Amélie 映画");
    }

    proptest! {
        #[test]
        fn a_cut_line_fits(line in "\\PC{0,60}", width in 1usize..40) {
            let short = cut(&line, Some(width));
            prop_assert!(short.width() <= width.max(1));
            prop_assert_eq!(cut(&line, None), line);
        }
    }
}
