//! What was measured: a table for people, JSON for machines.

use anyhow::Context as _;
use serde::Serialize;
use std::path::Path;

/// What the project wants of a figure.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

/// One figure.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// Its name, for machines: `first_packet.tcp.p50`.
    pub name: String,
    /// What it is of.
    pub unit: &'static str,
    /// How much.
    pub value: f64,
    /// What is asked of it, in its unit. Most figures are there to be known only.
    pub asked: Option<Asked>,
    /// What the best of the original implementations reaches, in its unit.
    pub original: Option<f64>,
}

impl Figure {
    /// A figure of which nothing is asked.
    pub fn new(name: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self {
            name: name.into(),
            unit,
            value,
            asked: None,
            original: None,
        }
    }

    /// The same, with what is asked of it.
    pub fn asked(self, asked: Asked) -> Self {
        Self {
            asked: Some(asked),
            ..self
        }
    }

    /// The same, beside the best original.
    pub fn original(self, value: f64) -> Self {
        Self {
            original: Some(value),
            ..self
        }
    }

    fn row(&self) -> [String; 5] {
        let asked = match self.asked {
            Some(Asked::AtMost(limit)) => format!("≤ {}", short(limit)),
            Some(Asked::AtLeast(limit)) => format!("≥ {}", short(limit)),
            None => String::new(),
        };
        let original = self.original.map(short).unwrap_or_default();
        let value = short(self.value);
        [self.name.clone(), value, self.unit.into(), asked, original]
    }
}

/// A run of the benchmarks.
#[derive(Debug, Serialize)]
pub struct Report {
    /// When it began, in seconds since 1970.
    pub started: u64,
    /// How many processors there were.
    pub processors: usize,
    /// The load average over a minute when it began: what else the machine was doing.
    pub load_before: Option<f64>,
    /// The same at the end, with the run's own part in it.
    pub load_after: Option<f64>,
    /// Fewer repetitions were made than usual.
    pub quick: bool,
    /// What was measured.
    pub figures: Vec<Figure>,
}

impl Report {
    /// The table.
    pub fn table(&self) -> String {
        let head = ["figure", "value", "unit", "asked", "original"].map(str::to_owned);
        let rows: Vec<_> = std::iter::once(head)
            .chain(self.figures.iter().map(Figure::row))
            .collect();
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let [name, value, unit, asked, original] = [0, 1, 2, 3, 4].map(width);
        let mut text = String::new();
        for row in &rows {
            let line = format!(
                "{:name$}  {:>value$}  {:unit$}  {:>asked$}  {:>original$}",
                row[0], row[1], row[2], row[3], row[4]
            );
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }
}

/// A number with as many digits as mean something here.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 || v == v.trunc() => 0,
        v if v >= 10.0 => 1,
        v if v >= 0.995 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_for_each_figure() {
        let figures = vec![
            Figure::new("a.p50", "ms", 12.345)
                .asked(Asked::AtMost(50.0))
                .original(416.0),
            Figure::new("a.longer.name", "calls/s", 12345.6),
        ];
        let report = Report {
            started: 0,
            processors: 2,
            load_before: None,
            load_after: None,
            quick: false,
            figures,
        };
        let table = report.table();
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 3);
        let words: Vec<_> = lines[1].split_whitespace().collect();
        assert_eq!(words, ["a.p50", "12.3", "ms", "≤", "50", "416"]);
        assert!(lines[2].contains("12346"));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["figures"][0]["asked"]["at_most"], 50.0);
        assert!(json["figures"][1]["asked"].is_null());
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 0.1234, 0.9999, 1.234, 45.67, 416.4, 90.0].map(short);
        assert_eq!(shown, ["0", "0.123", "1.00", "1.23", "45.7", "416", "90"]);
    }
}
