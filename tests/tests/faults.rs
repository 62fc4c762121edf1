//! The quick part of `make faults`: no fault costs a user an error, and none loses what was
//! acknowledged.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::process::Command;

/// What is run, and within how many seconds the last Main must have missed what is gone. Asked for are
/// 0.1 s for one that is killed and 1.2 s for one that hangs or is cut off; the rest is for a machine
/// that has other things to do. Who cannot write withdraws, which may not be needed.
const QUICK: [(&str, Option<f64>); 9] = [
    ("kill-auth", Some(1.0)),
    ("kill-catalog-of-two", Some(1.0)),
    ("kill-streaming", Some(1.0)),
    ("stop-catalog-2s", Some(2.0)),
    ("cable", Some(2.0)),
    ("split", Some(2.0)),
    ("clock+5s", Some(12.0)),
    ("torn-catalog", Some(1.0)),
    ("disk-full", None),
];

/// Of these a streaming node is hit, where a film plays.
const HIT: [&str; 5] = ["kill-streaming", "cable", "split", "clock+5s", "disk-full"];

fn faults(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iceflix-faults"));
    command.args(words);
    command
}

#[test]
fn single_faults_cost_nobody_an_error_and_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let results = dir.path().join("faults.json");
    // What it prints is for people; where nothing can be made it says so there.
    let status = faults(&["run", "--quick", "--json"])
        .arg(&results)
        .status()
        .unwrap();
    let Ok(text) = std::fs::read(&results) else {
        assert!(status.success(), "{status}");
        return;
    };
    let lines: Value = serde_json::from_slice(&text).unwrap();
    let lines = lines.as_array().unwrap();
    let names: Vec<&str> = lines
        .iter()
        .map(|line| line["fault"].as_str().unwrap())
        .collect();
    assert_eq!(names, QUICK.map(|(name, _)| name));
    for (line, (name, within)) in lines.iter().zip(QUICK) {
        // Nothing is shown where nothing happened.
        for counted in ["commands", "acknowledged"] {
            assert!(line[counted].as_u64() > Some(10), "{counted}: {line:#}");
        }
        for none in ["errors", "hidden", "lost"] {
            assert_eq!(line[none], 0, "{none}: {line:#}");
        }
        assert!(line["equal"] == true && line["whole"].is_f64(), "{line:#}");
        if let Some(within) = within {
            let detected = line["detected"].as_f64();
            assert!(detected.is_some_and(|time| time <= within), "{line:#}");
        }
        let stalled = |which: &str| line[which].as_f64();
        assert!(
            stalled("stalled").is_some_and(|time| time < 2.0),
            "{line:#}"
        );
        assert_eq!(
            stalled("stalled_hit").is_some(),
            HIT.contains(&name),
            "{line:#}"
        );
        assert!(
            stalled("stalled_hit").is_none_or(|time| time < 3.0),
            "{line:#}"
        );
        assert_eq!(line["failures"], Value::Array(Vec::new()), "{line:#}");
    }
    let moves =
        |name: &str| lines.iter().find(|line| line["fault"] == name).unwrap()["moves"].as_u64();
    for name in ["kill-streaming", "cable", "split"] {
        assert!(moves(name) > Some(0), "{name}: no film went on elsewhere");
    }
}

#[test]
fn faults_are_listed_and_unknown_ones_named() {
    let listed = faults(&["list"]).output().unwrap();
    let text = String::from_utf8(listed.stdout).unwrap();
    for fault in ["kill-machine", "split", "clock+1h", "storm"] {
        assert!(text.contains(fault), "{text}");
    }
    let unknown = faults(&["run", "kill-everybody"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(2));
    let said = String::from_utf8(unknown.stderr).unwrap();
    assert!(said.contains("kill-everybody"), "{said}");
}
