//! The program, run against the fake cluster from a home of its own.

use super::{Cluster, PASSWORD, State};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long anything here may take.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub struct Home {
    pub cluster: Arc<Cluster>,
    pub dir: tempfile::TempDir,
    // Dropped last: the services run on it.
    pub runtime: Arc<tokio::runtime::Runtime>,
}

#[derive(Debug)]
pub struct Told {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Told {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

impl Home {
    pub fn new() -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let cluster = runtime.block_on(Cluster::start());
        let dir = tempfile::tempdir().unwrap();
        Self {
            cluster: Arc::new(cluster),
            dir,
            runtime: Arc::new(runtime),
        }
    }

    /// Another one, of the same cluster.
    pub fn beside(other: &Home) -> Self {
        Self {
            cluster: Arc::clone(&other.cluster),
            dir: tempfile::tempdir().unwrap(),
            runtime: Arc::clone(&other.runtime),
        }
    }

    pub fn logged_in() -> Self {
        let home = Self::new();
        let told = home.with_stdin(&["login", "admin", "--password-stdin"], PASSWORD);
        assert_eq!(told.code, 0, "{}", told.stderr);
        home
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_iceflix"));
        command
            .args(["--main", &self.cluster.main.to_string()])
            .args(["--ca", &self.cluster.ca()])
            .args(words)
            .current_dir(self.dir.path())
            .env_clear()
            .env("HOME", self.dir.path())
            .env("PATH", self.dir.path().join("bin"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub fn run(&self, words: &[&str]) -> Told {
        told(self.command(words).spawn().unwrap())
    }

    pub fn with_stdin(&self, words: &[&str], text: &str) -> Told {
        let mut child = self.command(words).stdin(Stdio::piped()).spawn().unwrap();
        // It may not want to read it all.
        let _ = child
            .stdin
            .take()
            .unwrap()
            .write_all(format!("{text}\n").as_bytes());
        told(child)
    }

    /// A program on `$PATH` that is a shell script.
    pub fn program(&self, name: &str, script: &str) {
        let bin = self.dir.path().join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        let file = bin.join(name);
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
    }

    pub fn wait_for(&self, what: &str, mut holds: impl FnMut(&mut State) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !self.cluster.state(&mut holds) {
            assert!(Instant::now() < end, "never: {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

pub fn told(child: Child) -> Told {
    let output = child.wait_with_output().unwrap();
    Told {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

pub fn interrupt(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}
