//! What became of the faults: a table for people, JSON for programs.

use super::latency::{Latency, Spread};
use serde::Serialize;
use std::{fmt::Write as _, time::Duration};

/// What became of one fault.
#[derive(Debug, Serialize)]
pub struct Line {
    /// Which.
    pub fault: String,
    /// How many commands people gave meanwhile.
    pub commands: usize,
    /// How many of them failed.
    pub errors: usize,
    /// How many searches showed a film as not available that live nodes have.
    pub hidden: usize,
    /// How many writes were acknowledged.
    pub acknowledged: usize,
    /// How many of those some instance does not know of afterwards.
    pub lost: usize,
    /// How long the cluster took to be whole once the fault was over; `None`: it did not become so.
    #[serde(serialize_with = "seconds")]
    pub whole: Option<Duration>,
    /// All instances of a kind had the very same rows at the end.
    pub equal: bool,
    /// How long the last Main elsewhere took to miss what was gone, if that was missed.
    #[serde(serialize_with = "seconds")]
    pub detected: Option<Duration>,
    /// The longest that a command took.
    #[serde(serialize_with = "second")]
    pub longest: Duration,
    /// How long commands took before the fault and during it; `None`: it was not made.
    pub latency: Option<Latency>,
    /// The longest that a film stood still whose node the fault does not touch, if there is one.
    #[serde(serialize_with = "seconds")]
    pub stalled: Option<Duration>,
    /// The longest that one stood still whose node it hits, going on at another included.
    #[serde(serialize_with = "seconds")]
    pub stalled_hit: Option<Duration>,
    /// How often a film went on at another node.
    pub moves: usize,
    /// How long all of it took.
    #[serde(serialize_with = "second")]
    pub took: Duration,
    /// What is not as it should be.
    pub failures: Vec<String>,
    /// What took longer than it should, or was shown late: it may be the machine that was busy.
    pub late: Vec<String>,
    /// What else is worth saying.
    pub notes: Vec<String>,
}

/// A time in seconds.
pub(super) fn second<S: serde::Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(time.as_secs_f64())
}

fn seconds<S: serde::Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs_f64()).serialize(to)
}

impl Line {
    /// Whether everything was as it should be.
    pub fn passed(&self) -> bool {
        self.failures.is_empty() && self.late.is_empty()
    }
}

const HEAD: [&str; 14] = [
    "fault",
    "",
    "commands",
    "errors",
    "hidden",
    "written",
    "lost",
    "whole s",
    "rows",
    "noticed ms",
    "longest ms",
    "film ms",
    "hit film ms",
    "p99 ms / calm",
];

/// The table, in Markdown, and below it what is not as it should be.
pub fn table(lines: &[Line]) -> String {
    let mut rows = vec![HEAD.map(str::to_owned).to_vec()];
    rows.extend(lines.iter().map(cells));
    let widths: Vec<usize> = (0..HEAD.len())
        .map(|column| {
            rows.iter()
                .map(|row: &Vec<String>| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths).enumerate();
        let cells: Vec<String> = cells
            .map(|(column, (cell, width))| match column {
                0 | 1 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
        if number == 0 {
            let rule = |(column, width): (usize, &usize)| match column {
                0 | 1 => "-".repeat(width + 2),
                _ => format!("{}:", "-".repeat(width + 1)),
            };
            let rules: Vec<String> = widths.iter().enumerate().map(rule).collect();
            let _ = writeln!(text, "|{}|", rules.join("|"));
        }
    }
    for line in lines {
        for (mark, what) in [
            ("FAILED", &line.failures),
            ("FAILED", &line.late),
            ("note", &line.notes),
        ] {
            for what in what {
                let _ = writeln!(text, "{mark}: {}: {what}", line.fault);
            }
        }
    }
    text
}

fn cells(line: &Line) -> Vec<String> {
    let ms = |time: Option<Duration>| {
        time.map_or("-".to_owned(), |t| format!("{:.0}", t.as_secs_f64() * 1e3))
    };
    vec![
        line.fault.clone(),
        if line.passed() { "ok" } else { "FAILED" }.to_owned(),
        line.commands.to_string(),
        line.errors.to_string(),
        line.hidden.to_string(),
        line.acknowledged.to_string(),
        line.lost.to_string(),
        line.whole
            .map_or("never".to_owned(), |t| format!("{:.1}", t.as_secs_f64())),
        if line.equal { "equal" } else { "differ" }.to_owned(),
        ms(line.detected),
        ms(Some(line.longest)),
        ms(line.stalled),
        ms(line.stalled_hit),
        line.latency.as_ref().map_or("-".to_owned(), |latency| {
            let [during, calm] = [&latency.during, &latency.calm];
            let p99 = |of: &Option<Spread>| ms(of.as_ref().map(|spread| spread.p99));
            format!("{} / {}", p99(during), p99(calm))
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_failed() {
        let spread = |ms| Spread {
            count: 3,
            p50: Duration::from_millis(2),
            p99: Duration::from_millis(ms),
            longest: Duration::from_millis(ms),
        };
        let latency = Latency {
            calm: Some(spread(29)),
            during: Some(spread(37)),
            added_p99: Some(-0.25),
            ..Latency::default()
        };
        let line = |fault: &str, failures: Vec<String>| Line {
            fault: fault.to_owned(),
            commands: 100,
            errors: failures.len(),
            hidden: 0,
            acknowledged: 10,
            lost: 0,
            whole: failures.is_empty().then_some(Duration::from_millis(1234)),
            equal: true,
            detected: Some(Duration::from_micros(2500)),
            longest: Duration::from_millis(41),
            latency: failures.is_empty().then(|| latency.clone()),
            stalled: None,
            stalled_hit: Some(Duration::from_millis(2345)),
            moves: 1,
            took: Duration::from_secs(9),
            failures,
            late: Vec::new(),
            notes: Vec::new(),
        };
        let lines = [
            line("kill-auth", Vec::new()),
            line("cable", vec!["login: no".to_owned()]),
        ];
        let text = table(&lines);
        let rows: Vec<&str> = text.lines().collect();
        assert!(
            rows[2].starts_with("| kill-auth | ok ")
                && rows[2].contains(" 1.2 ")
                && rows[2].contains(" 2345 ")
                && rows[2].ends_with("       37 / 29 |"),
            "{text}"
        );
        assert!(
            rows[3].starts_with("| cable     | FAILED ")
                && rows[3].contains("never")
                && rows[3].ends_with(" - |"),
            "{text}"
        );
        assert_eq!(rows[4], "FAILED: cable: login: no");
        assert!(
            rows[..4]
                .iter()
                .all(|row| row.chars().count() == rows[0].chars().count()),
            "{text}"
        );
        let json = serde_json::to_value(&lines).unwrap();
        assert_eq!(json[0]["whole"], 1.234);
        assert!(json[1]["whole"].is_null() && json[1]["latency"].is_null());
        let latency = &json[0]["latency"];
        assert_eq!(latency["during"]["p99"], 0.037);
        assert_eq!(latency["calm"]["count"], 3);
        assert_eq!(latency["added_p99"], -0.25);
        assert!(latency["added_p50"].is_null());
    }
}
