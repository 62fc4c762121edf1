//! A cluster of three machines, as people make one: the first starts it, the second is let in with a
//! line, the third only watches.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

use iceflix_tests::{
    cluster::{film, wait_for},
    lan::Lan,
    person::{Staying, Told, told},
    process::program,
};
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A machine of the LAN, and what its owner types.
struct Machine<'a> {
    lan: &'a Lan,
    number: u32,
    home: PathBuf,
}

impl<'a> Machine<'a> {
    fn new(lan: &'a Lan, number: u32, dir: &Path) -> Self {
        let home = dir.join(format!("machine-{number}"));
        std::fs::create_dir(&home).unwrap();
        Self { lan, number, home }
    }

    fn address(&self) -> String {
        format!("10.77.0.{}", self.number)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.lan.on(self.number, &program("iceflix"));
        command
            .args(words)
            .current_dir(&self.home)
            .env("HOME", &self.home)
            .env("XDG_STATE_HOME", self.home.join("xdg"))
            .env("XDG_CONFIG_HOME", self.home.join("config"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn types(&self, words: &[&str]) -> Told {
        told(self.command(words).spawn().unwrap())
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        // Nothing may be left running, whatever became of the test.
        let told = self.types(&["cluster", "stop"]);
        if told.code != 0 {
            eprintln!("machine {}: {told:?}", self.number);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_film_on_one_machine_is_found_and_played_from_another() {
    let Some(lan) = Lan::new("ifl", 3) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let [first, second, third] = [1, 2, 3].map(|number| Machine::new(&lan, number, dir.path()));
    let films = second.home.join("films");
    film(&films.join("Blue Ice.mp4"), 3, 440);

    // The first machine has no films. It answers where others reach it.
    let started = first.types(&[
        "cluster",
        "run",
        "--detach",
        "--instances",
        "1",
        "--host",
        &first.address(),
    ]);
    started.with_code(0);
    let line = |told: Told| told.with_code(0).stdout.trim().to_owned();
    let invitation = line(first.types(&["cluster", "invite", "--role", "streaming,catalog"]));
    assert!(invitation.starts_with("iceflix1/"), "{invitation}");

    // A line that was tampered with shows its secret to nobody.
    let fingerprint = invitation.split('/').nth(4).unwrap();
    let forged = invitation.replace(fingerprint, &"00".repeat(32));
    let refused = second.types(&["cluster", "join", &forged]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(
        refused.stderr.contains("secret was not sent"),
        "{refused:?}"
    );

    let media = films.to_str().unwrap();
    let mut join = second.command(&[
        "cluster",
        "run",
        "--detach",
        "--instances",
        "1",
        "--media",
        media,
    ]);
    let joined = told(join.env("ICEFLIX_JOIN", &invitation).spawn().unwrap());
    let said = joined.with_code(0).stderr;
    assert!(said.contains("has joined"), "{said}");
    // It is good once.
    let again = third.types(&["cluster", "join", &invitation, "--media", media]);
    assert_eq!(again.code, 1, "{again:?}");
    assert!(again.stderr.contains("not good"), "{again:?}");

    // The third machine gets to know the cluster, and has no certificate.
    let known = line(first.types(&["cluster", "invite", "--client"]));
    third.types(&["cluster", "join", &known]).with_code(0);
    let mut login = third.command(&["login", "admin", "--password-stdin"]);
    let password = first.home.join(".iceflix/admin.password");
    let login = login.stdin(File::open(password).unwrap()).spawn();
    told(login.unwrap()).with_code(0);
    let status = third.types(&["status", "--json"]).with_code(0).json();
    let on = |machine: &Machine<'_>| {
        let all = status.as_array().unwrap().iter();
        let endpoints = all.map(|live| live["endpoint"].as_str().unwrap().to_owned());
        endpoints
            .filter(|at| at.starts_with(&machine.address()))
            .count()
    };
    assert_eq!((on(&first), on(&second)), (3, 2), "{status}");
    let mut id = String::new();
    wait_for("the film is found", async || {
        let found = third
            .types(&["search", "blue", "--json"])
            .with_code(0)
            .json();
        id = found[0]["id"].as_str().unwrap_or_default().to_owned();
        found[0]["available"] == true
    })
    .await;
    let mut url = Staying::start(third.command(&["url", &id]));
    let rtsp = url.line().trim().to_owned();
    assert!(rtsp.starts_with("rtsp://10.77.0.2:"), "{rtsp}");
    let play = |machine: &Machine<'_>| {
        let mut ffmpeg = lan.on(machine.number, Path::new("ffmpeg"));
        ffmpeg
            .args([
                "-nostdin",
                "-v",
                "error",
                "-rtsp_transport",
                "tcp",
                "-i",
                &rtsp,
            ])
            .args(["-f", "null", "-progress", "-", "-"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        told(ffmpeg.spawn().unwrap())
    };
    let played = play(&third).with_code(0);
    let mut frames = played
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix("frame="));
    assert_eq!(frames.next_back(), Some("75"), "{played:?}");
    // It was made for the third machine.
    let elsewhere = play(&first);
    assert_ne!(elsewhere.code, 0);
    assert!(elsewhere.stderr.contains("404"), "{elsewhere:?}");
    assert_eq!(url.interrupt(), 0);

    // The second machine starts again without any line, and is expelled.
    second.types(&["cluster", "stop"]).with_code(0);
    second
        .types(&[
            "cluster",
            "run",
            "--detach",
            "--instances",
            "1",
            "--media",
            media,
        ])
        .with_code(0);
    let status = third.types(&["status", "--json"]).with_code(0).json();
    let all = status.as_array().unwrap().iter();
    let node = all
        .clone()
        .find(|live| live["kind"] == "streaming")
        .unwrap();
    let name = node["instance"].as_str().unwrap().to_owned();
    first.types(&["cluster", "expel", &name]).with_code(0);
    wait_for("it is gone", async || {
        let told = third.types(&["status", "--json"]);
        told.code == 0 && !told.stdout.contains(&name)
    })
    .await;
    let gone = third.types(&["play", &id]);
    assert_eq!(gone.code, 5, "{gone:?}");
}
