//! The program's streams and players, against services that answer as the contracts say.

use crate::fake::home::{DEADLINE, Home, interrupt, told};
use iceflix_core::api::streaming::{EndReason, StreamEvent};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::Child;
use std::time::{Duration, Instant};

/// Starts `url` and reads what it prints.
fn url(home: &Home) -> (Child, String) {
    let mut child = home.command(&["url", "ab", "--json"]).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    (child, line)
}

#[test]
fn a_url_is_printed_at_once_kept_alive_and_stopped() {
    let home = Home::logged_in();
    home.cluster.film([0xab; 32], "film");
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let (child, line) = url(&home);
        let document: Value = serde_json::from_str(&line).unwrap();
        let stream = document["stream"].as_str().unwrap();
        assert_eq!(document["url"], format!("rtsp://127.0.0.1:1/{stream}"));
        home.cluster
            .state(|state| state.news.push(StreamEvent::RenewalWanted));
        let before = home.cluster.state(|state| state.renewals);
        home.wait_for("a renewal", |state| {
            state.renewals > before || state.news.is_empty()
        });
        home.wait_for("a renewal", |state| state.renewals > 0);
        interrupt(&child, signal);
        let told = told(child);
        assert_eq!(told.code, 0, "{signal}: {}", told.stderr);
        assert!(
            home.cluster.state(|state| state.streams.is_empty()),
            "{signal}"
        );
    }
}

#[test]
fn a_node_that_answers_too_late_is_asked_again_and_makes_no_second_stream() {
    let home = Home::logged_in();
    home.cluster.film([0xab; 32], "film");
    home.cluster.state(|state| state.late = 1);
    let (child, line) = url(&home);
    let document: Value = serde_json::from_str(&line).unwrap();
    home.cluster.state(|state| {
        assert_eq!(state.asked_for, 2);
        let made: Vec<String> = state.streams.keys().map(ToString::to_string).collect();
        assert_eq!(made, [document["stream"].as_str().unwrap()]);
    });
    interrupt(&child, Signal::SIGINT);
    assert_eq!(told(child).code, 0);
}

#[test]
fn a_stream_that_ends_says_why() {
    let home = Home::logged_in();
    home.cluster.film([0xab; 32], "film");
    for (reason, code) in [
        (EndReason::Revoked, 4),
        (EndReason::Unsupervised, 1),
        (EndReason::Stopped, 0),
    ] {
        let (child, _) = url(&home);
        home.cluster
            .state(|state| state.news.push(StreamEvent::Ended(reason)));
        let told = told(child);
        assert_eq!(told.code, code, "{reason:?}: {}", told.stderr);
    }
    let (child, _) = url(&home);
    home.cluster.state(|state| {
        state.sessions.clear();
        state.news.push(StreamEvent::RenewalWanted);
    });
    assert_eq!(told(child).code, 4);
}

#[test]
fn a_stream_that_is_lost_goes_on_where_it_can_be_had() {
    let home = Home::logged_in();
    let id = home.cluster.film([0xab; 32], "film");
    let mut child = home.command(&["url", "ab", "--json"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> Value {
        let Some(line) = lines.next() else {
            let said = std::io::read_to_string(child.stderr.as_mut().unwrap());
            panic!("it does not go on: {}", said.unwrap());
        };
        serde_json::from_str(&line.unwrap()).unwrap()
    };
    let mut known = vec![next()];
    for end in [
        EndReason::Shutdown,
        EndReason::MediaRemoved,
        EndReason::Expired,
    ] {
        let news = StreamEvent::Ended(end);
        home.cluster.state(|state| state.news.push(news));
        let moved = next();
        assert!(!known.contains(&moved), "{moved}");
        known.push(moved);
    }
    // Then nobody has the film any more.
    home.cluster.state(|state| {
        let tile = state.films.get_mut(&id).unwrap();
        (tile.available, tile.providers) = (false, 0);
        state.news.push(StreamEvent::Ended(EndReason::Shutdown));
    });
    let told = told(child);
    assert_eq!(told.code, 1, "{}", told.stderr);
    for words in ["its node is shutting down", "no live node has this film"] {
        assert!(told.stderr.contains(words), "{}", told.stderr);
    }
}

#[test]
fn films_that_nobody_has_or_can_play_exit_with_the_reason() {
    let home = Home::logged_in();
    let id = home.cluster.film([0xab; 32], "film");
    let change = |unplayable: Option<&str>| {
        home.cluster.state(|state| {
            let tile = state.films.get_mut(&id).unwrap();
            tile.available = false;
            tile.providers = 0;
            tile.unplayable = unplayable.map(str::to_owned);
        });
    };
    change(None);
    for command in ["url", "sdp"] {
        assert_eq!(home.run(&[command, "ab"]).code, 5);
    }
    change(Some("no codec"));
    let told = home.run(&["url", "ab"]);
    assert_eq!((told.code, told.stdout.as_str()), (1, ""));
    assert!(told.stderr.contains("no codec"), "{}", told.stderr);
}

#[test]
fn the_sdp_is_printed_and_its_stream_stopped() {
    let home = Home::logged_in();
    home.cluster.film([0xab; 32], "film");
    let told = home.run(&["sdp", "ab"]);
    assert_eq!((told.code, told.stdout.as_str()), (0, "v=0\r\ns=film\r\n"));
    let told = home.run(&["sdp", "ab", "--json"]);
    assert_eq!(told.json(), json!({"sdp": "v=0\r\ns=film\r\n"}));
    assert_eq!(
        home.cluster
            .state(|state| (state.stopped, state.streams.len())),
        (2, 0)
    );
}

#[test]
fn a_player_gets_the_url_and_its_end_is_the_streams() {
    let home = Home::logged_in();
    home.cluster.film([0xab; 32], "film");
    let told = home.run(&["play", "ab"]);
    assert_eq!(told.code, 1);
    assert!(told.stderr.contains("install mpv"), "{}", told.stderr);
    assert_eq!(home.run(&["play", "ff"]).code, 3);

    home.program("vlc", "exit 0");
    let told = home.run(&["play", "ab"]);
    assert!(
        told.code == 1 && told.stderr.contains("live555"),
        "{}",
        told.stderr
    );

    home.program(
        "mpv",
        "echo noise; for word; do last=$word; done; echo \"$last\" >&2",
    );
    let told = home.run(&["play", "ab"]);
    assert_eq!(
        (told.code, told.stdout.as_str()),
        (0, ""),
        "{}",
        told.stderr
    );
    assert!(
        told.stderr.contains("rtsp://127.0.0.1:1/"),
        "{}",
        told.stderr
    );
    let json = home.run(&["play", "ab", "--json"]).json();
    assert_eq!(json["player"], "mpv");

    home.program("broken", "exit 3");
    let told = home.run(&["play", "ab", "--player", "broken"]);
    assert_eq!(told.code, 1, "{}", told.stderr);
    assert!(home.cluster.state(|state| state.streams.is_empty()));
}

#[test]
fn an_interrupt_closes_the_player_too() {
    let home = Home::logged_in();
    home.cluster.film([0xab; 32], "film");
    let pid_file = home.dir.path().join("pid");
    let script = format!("echo $$ > {}; exec /bin/sleep 600", pid_file.display());
    home.program("mpv", &script);
    let child = home.command(&["play", "ab"]).spawn().unwrap();
    let end = Instant::now() + DEADLINE;
    let pid = loop {
        let pid = std::fs::read_to_string(&pid_file).unwrap_or_default();
        if let Ok(pid) = pid.trim().parse() {
            break Pid::from_raw(pid);
        }
        assert!(Instant::now() < end, "the player was not started");
        std::thread::sleep(Duration::from_millis(10));
    };
    interrupt(&child, Signal::SIGINT);
    let told = told(child);
    assert_eq!(told.code, 0, "{}", told.stderr);
    assert!(kill(pid, None).is_err(), "the player is gone");
    assert!(home.cluster.state(|state| state.streams.is_empty()));
}

#[test]
fn a_granted_url_is_printed_with_its_end_and_the_command_returns() {
    let home = Home::logged_in();
    home.cluster.film([0xab; 32], "film");
    let told = home.run(&["url", "ab", "--for", "1h", "--json"]);
    assert_eq!(told.code, 0, "{}", told.stderr);
    let document = told.json();
    let stream = document["stream"].as_str().unwrap();
    assert_eq!(document["url"], format!("rtsp://127.0.0.1:1/{stream}"));
    assert_eq!(document["until"], 1_800_000_000);
    assert!(home.cluster.state(|state| state.any_host));
    let told = home.run(&["url", "ab", "--for", "30m"]);
    assert!(told.stdout.starts_with("rtsp://127.0.0.1:1/"), "{told:?}");
    assert!(told.stderr.contains("2027-01-15 08:00 UTC"), "{told:?}");
    // They go on when the session is over.
    assert_eq!(home.run(&["logout"]).code, 0);
    assert_eq!(home.cluster.state(|state| state.streams.len()), 2);
}

#[test]
fn a_grant_that_lasts_too_long_is_refused_with_the_limit() {
    let home = Home::logged_in();
    home.cluster.film([0xab; 32], "film");
    let told = home.run(&["url", "ab", "--for", "2h"]);
    assert_eq!((told.code, told.stdout.as_str()), (2, ""));
    assert!(told.stderr.contains("at most 1h"), "{}", told.stderr);
    for nonsense in ["0s", "2", "long"] {
        assert_eq!(home.run(&["url", "ab", "--for", nonsense]).code, 2);
    }
}

#[test]
fn a_grant_that_no_node_takes_up_is_ended_again() {
    let home = Home::logged_in();
    let id = home.cluster.film([0xab; 32], "film");
    home.cluster.state(|state| {
        let tile = state.films.get_mut(&id).unwrap();
        tile.available = false;
    });
    let told = home.run(&["url", "ab", "--for", "1h"]);
    assert_eq!(told.code, 5, "{}", told.stderr);
    assert!(home.cluster.state(|state| state.grants.is_empty()));
}

#[test]
fn a_url_is_for_this_machine_unless_it_is_asked_for_any() {
    let home = Home::logged_in();
    home.cluster.film([0xab; 32], "film");
    for (words, any_host) in [
        (&["url", "ab", "--json"][..], false),
        (&["url", "ab", "--any-host", "--json"], true),
    ] {
        let mut child = home.command(words).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(home.cluster.state(|state| state.any_host), any_host);
        interrupt(&child, Signal::SIGINT);
        assert_eq!(told(child).code, 0);
    }
}

#[test]
fn streams_are_listed_and_stopped_although_a_node_is_dead() {
    let home = Home::logged_in();
    home.cluster.film([0xab; 32], "film");
    assert_eq!(home.run(&["stream", "list", "--json"]).json(), json!([]));
    let first = home.run(&["url", "ab", "--for", "1h", "--json"]).json();
    let second = home.run(&["url", "ab", "--for", "1h", "--json"]).json();
    let told = home.run(&["stream", "list", "--json"]);
    assert!(
        told.stderr.contains("streaming-2 did not answer"),
        "{told:?}"
    );
    let listed = told.json();
    let handles: Vec<&str> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|stream| stream["handle"].as_str().unwrap())
        .collect();
    for document in [&first, &second] {
        assert!(handles.contains(&document["handle"].as_str().unwrap()));
    }
    assert_eq!(listed[0]["name"], "film");
    assert_eq!(listed[0]["granted"], true);
    assert!(!told.stdout.contains(first["stream"].as_str().unwrap()));
    let table = home.run(&["stream", "list"]);
    assert!(table.stdout.contains(&handles[0][..10]), "{table:?}");

    let handle = first["handle"].as_str().unwrap();
    let told = home.run(&["stream", "stop", &handle[..10].to_uppercase(), "--json"]);
    assert_eq!(told.code, 0, "{}", told.stderr);
    assert_eq!(told.json(), json!({"handle": handle}));
    let left = home
        .cluster
        .state(|state| (state.streams.len(), state.grants.len()));
    assert_eq!(left, (1, 1), "its grant has ended, too");
    assert_eq!(home.run(&["stream", "stop", handle]).code, 3);
}
