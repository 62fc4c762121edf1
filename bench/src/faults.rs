//! How soon faults are noticed, and what they cost those who use the cluster meanwhile. The program
//! of `make faults`, which stands beside this one, makes them: machines that die, hang or are cut off
//! need a network that can be taken apart, and programs of their own.

use crate::{
    Options,
    report::{Asked, Figure},
};
use anyhow::{Context as _, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Deserialize;
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::{Duration, Instant},
};
use tokio::process::{Child, Command};

/// Within how many milliseconds who hangs or is cut off must be missed, each time.
///
/// That a killed process is missed within 100 ms is asked of 99 of 100: one kill of each kind cannot
/// tell, and `detection.kill.p99` does.
const SILENT: f64 = 1200.0;

/// Faults that must be noticed within that time.
const HANG_OR_CUT_OFF: [&str; 10] = [
    "stop-auth-2s",
    "stop-auth-15s",
    "stop-catalog-2s",
    "stop-catalog-15s",
    "stop-main-2s",
    "stop-main-15s",
    "stop-streaming-15s",
    "cable",
    "silence",
    "split",
];

/// The one that is not made here: it takes ten minutes.
const STORM: &str = "storm";

/// Those of `--quick`: one that is killed, one that hangs, one that is cut off.
const QUICK: [&str; 3] = ["kill-auth", "stop-auth-2s", "cable"];

/// How long the program may take to remove its machines when it is told to end.
const ENDING: Duration = Duration::from_secs(20);

/// Where the program is that makes the faults.
///
/// # Errors
/// When it is not there.
pub fn program() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name("iceflix-faults");
    ensure!(
        program.is_file(),
        "the program that makes the faults is not beside this one; build all of them (make bench \
         does): cargo build --release --locked --workspace"
    );
    Ok(program)
}

/// Makes the faults; nothing is measured, and that is said, where there are no network namespaces.
///
/// # Errors
/// When they could not be made for another reason. One of which something came out as it should not
/// is said, and measured all the same.
pub async fn run(options: &Options, program: &Path) -> anyhow::Result<Vec<Figure>> {
    let listed = Command::new(program).arg("list").output().await?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let all = names(&listed);
    for known in HANG_OR_CUT_OFF.iter().chain(&QUICK) {
        ensure!(all.contains(known), "iceflix-faults lists no {known}");
    }
    let names = match options.quick {
        true => QUICK.to_vec(),
        false => all,
    };
    let dir = tempfile::tempdir()?;
    let (results, words) = (dir.path().join("faults.json"), dir.path().join("words"));
    let mut command = Command::new(program);
    command
        .arg("run")
        .args(&names)
        .arg("--json")
        .arg(&results)
        // Its table is not this program's.
        .stdout(File::create(&words)?);
    let status = Harness::start(&mut command)?.ended().await?;
    let words = std::fs::read_to_string(&words)?;
    if skipped(&words) {
        eprintln!(
            "faults: SKIPPED, there are no network namespaces here (they take root): the table has no \
             faults.*"
        );
        return Ok(Vec::new());
    }
    if !status.success() {
        eprint!("{words}");
    }
    let text = std::fs::read_to_string(&results)
        .with_context(|| format!("iceflix-faults left no results: {status}"))?;
    let lines = parse(&text)?;
    for said in shortfalls(&names, &lines) {
        eprintln!("faults: {said}");
    }
    Ok(lines.iter().flat_map(figures).collect())
}

/// The faults that `iceflix-faults list` names, but the storm: a line each, indented or marked with a
/// star; what is said of the star is not.
fn names(listed: &str) -> Vec<&str> {
    let lines = listed.lines().filter_map(|line| {
        let line = line
            .strip_prefix("* ")
            .or_else(|| line.strip_prefix("  "))?;
        line.split_whitespace().next()
    });
    lines.filter(|name| *name != STORM).collect()
}

/// The program that makes the faults, while it runs.
struct Harness(Child);

impl Harness {
    fn start(command: &mut Command) -> anyhow::Result<Self> {
        let child = command.spawn().context("starting iceflix-faults")?;
        Ok(Self(child))
    }

    async fn ended(mut self) -> std::io::Result<ExitStatus> {
        self.0.wait().await
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        // Killed it would leave its machines behind, and all that runs there.
        let Some(pid) = self.0.id().and_then(|pid| i32::try_from(pid).ok()) else {
            return;
        };
        // It may have ended meanwhile.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        let end = Instant::now() + ENDING;
        while Instant::now() < end && matches!(self.0.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// What became of a fault, as `iceflix-faults` writes it; times in seconds. A field that is missing
/// is not the same as `null`: it was written by another version.
#[derive(Debug, Deserialize)]
struct Line {
    fault: String,
    errors: u32,
    #[serde(deserialize_with = "Option::deserialize")]
    detected: Option<f64>,
    #[serde(deserialize_with = "Option::deserialize")]
    latency: Option<Latency>,
    failures: Vec<String>,
    #[serde(default)]
    late: Vec<String>,
}

impl Line {
    /// All that is not as it should be.
    fn wrong(&self) -> String {
        [&self.failures[..], &self.late[..]].concat().join("; ")
    }
}

/// How long commands took.
#[derive(Debug, Deserialize)]
struct Latency {
    #[serde(deserialize_with = "Option::deserialize")]
    during: Option<Spread>,
    #[serde(deserialize_with = "Option::deserialize")]
    added_p99: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Spread {
    p50: f64,
    p99: f64,
    longest: f64,
}

fn parse(text: &str) -> anyhow::Result<Vec<Line>> {
    serde_json::from_str(text).context(
        "the results of iceflix-faults are not as this program knows them; build both anew: cargo \
         build --release --locked --workspace",
    )
}

/// Whether the program said that it could not make machines.
fn skipped(words: &str) -> bool {
    words.lines().any(|line| line.starts_with("SKIPPED"))
}

/// What is not as it should be, a line each.
fn shortfalls(names: &[&str], lines: &[Line]) -> Vec<String> {
    let mut said = Vec::new();
    for name in names {
        match lines.iter().find(|line| line.fault == *name) {
            None => said.push(format!("{name} was not got to: not measured")),
            Some(line) if line.latency.is_none() => said.push(format!(
                "{name} was not made: not measured: {}",
                line.wrong()
            )),
            Some(line) if !line.wrong().is_empty() => {
                said.push(format!("{name} was measured, and FAILED: {}", line.wrong()))
            }
            Some(_) => {}
        }
    }
    said
}

/// The figures of a fault; none when it was not made.
fn figures(line: &Line) -> Vec<Figure> {
    let Some(latency) = &line.latency else {
        return Vec::new();
    };
    let name = |what: &str| format!("faults.{}.{what}", line.fault);
    let milliseconds = |what: &str, seconds: f64| Figure::new(name(what), "ms", seconds * 1e3);
    let mut figures = Vec::new();
    if let Some(detected) = line.detected {
        let noticed = milliseconds("noticed", detected);
        figures.push(match HANG_OR_CUT_OFF.contains(&line.fault.as_str()) {
            true => noticed.asked(Asked::AtMost(SILENT)),
            false => noticed,
        });
    }
    if let Some(during) = &latency.during {
        figures.push(milliseconds("calls.p50", during.p50));
        figures.push(milliseconds("calls.p99", during.p99));
        figures.push(milliseconds("calls.longest", during.longest));
    }
    if let Some(added) = latency.added_p99 {
        figures.push(milliseconds("calls.added", added));
    }
    let failed = Figure::new(name("calls.failed"), "calls", line.errors.into());
    figures.push(failed.asked(Asked::AtMost(0.0)));
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `iceflix-faults` writes it, with one that failed and one that could not be made.
    const RESULTS: &str = r#"[
      {"fault": "cable", "commands": 321, "errors": 0, "hidden": 0, "acknowledged": 131, "lost": 0,
       "whole": 0.8, "equal": true, "detected": 0.937, "longest": 2.043,
       "latency": {"calm": {"count": 140, "p50": 0.004, "p99": 0.09, "longest": 0.1},
                   "during": {"count": 260, "p50": 0.005, "p99": 1.5, "longest": 2.043},
                   "added_p50": 0.001, "added_p99": 1.43,
                   "by_command": {"search": {"calm": null, "during": null}}},
       "stalled": 0.1, "stalled_hit": 2.1, "moves": 1, "took": 17.0, "failures": [], "notes": []},
      {"fault": "flapping", "errors": 2, "detected": null,
       "latency": {"calm": null, "during": {"count": 1, "p50": 1, "p99": 1, "longest": 1},
                   "added_p50": null, "added_p99": null, "by_command": {}},
       "failures": ["login at 3.0 s: no", "missed"]},
      {"fault": "clock+5s", "errors": 0, "detected": null, "latency": null,
       "failures": ["the fault could not be made: no library"]}
    ]"#;

    #[test]
    fn results_become_figures_in_milliseconds() {
        let lines = parse(RESULTS).unwrap();
        let cable = figures(&lines[0]);
        let names: Vec<&str> = cable.iter().map(|figure| figure.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "faults.cable.noticed",
                "faults.cable.calls.p50",
                "faults.cable.calls.p99",
                "faults.cable.calls.longest",
                "faults.cable.calls.added",
                "faults.cable.calls.failed",
            ]
        );
        let values: Vec<f64> = cable.iter().map(|figure| figure.value.round()).collect();
        assert_eq!(values, [937.0, 5.0, 1500.0, 2043.0, 1430.0, 0.0]);
        assert!(matches!(cable[0].asked, Some(Asked::AtMost(limit)) if limit == 1200.0));
        // What was not noticed, or has nothing to be compared with, is no zero.
        let flapping = figures(&lines[1]);
        assert!(!flapping.iter().any(|it| it.name.ends_with("noticed")));
        assert!(!flapping.iter().any(|it| it.name.ends_with("added")));
        let failed = flapping.last().unwrap();
        assert_eq!(
            (failed.name.as_str(), failed.value),
            ("faults.flapping.calls.failed", 2.0)
        );
        assert!(figures(&lines[2]).is_empty());
    }

    #[test]
    fn what_failed_or_is_missing_is_said() {
        let lines = parse(RESULTS).unwrap();
        let said = shortfalls(&["cable", "flapping", "clock+5s", "split"], &lines);
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(said[0].starts_with("flapping ") && said[0].contains("login at 3.0 s: no; missed"));
        assert!(said[1].starts_with("clock+5s was not made") && said[1].contains("no library"));
        assert!(said[2].starts_with("split was not got to"));
    }

    #[test]
    fn results_of_another_version_are_not_taken_for_nothing() {
        let older = r#"[{"fault": "cable", "errors": 0, "detected": 0.9, "failures": []}]"#;
        let error = parse(older).unwrap_err().to_string();
        assert!(error.contains("--workspace"), "{error}");
        let without = RESULTS.replace("\"added_p99\": 1.43,", "");
        assert!(parse(&without).is_err());
    }

    #[test]
    fn only_what_it_says_itself_counts_as_skipped() {
        assert!(skipped("SKIPPED: there are no network namespaces here\n"));
        assert!(!skipped("| cable | ok |\nFAILED: cable: SKIPPED\n"));
    }

    #[test]
    fn all_that_are_listed_are_made_but_the_storm() {
        let listed = "  kill-main            kill -9 of a Main\n\
                      * cable                a machine's cable out for 8 s, and in\n\
                      * storm                instances of all kinds killed at random\n\
                      (* also in `make test`)\n";
        assert_eq!(names(listed), ["kill-main", "cable"]);
    }
}
