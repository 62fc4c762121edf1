//! The real client program, run from a home of its own.

use crate::{
    cluster::PATIENCE,
    identity,
    process::{clean, program},
};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::{NamedTempFile, TempDir};

/// Somebody at a terminal: a home directory, and the Mains they know.
pub struct Home {
    /// The home directory.
    pub dir: TempDir,
    cluster: String,
    mains: Vec<SocketAddr>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Told {
    /// Its exit code; -1 when a signal ended it.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it said to people.
    pub stderr: String,
}

impl Told {
    /// What it printed, as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Itself, when it ended so.
    pub fn with_code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}

impl Home {
    /// One who knows these Mains of a cluster.
    pub fn new(cluster: &str, mains: &[SocketAddr]) -> Self {
        Self {
            cluster: cluster.to_owned(),
            dir: tempfile::tempdir().unwrap(),
            mains: mains.to_vec(),
        }
    }

    /// The program with these words, not yet started.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = clean(Command::new(program("iceflix")));
        for main in &self.mains {
            command.args(["--main", &main.to_string()]);
        }
        if !self.mains.is_empty() {
            let authority = identity::authority(&self.cluster);
            command.args(["--ca", &authority.fingerprint().to_string()]);
        }
        command
            .args(words)
            .current_dir(self.dir.path())
            .env("HOME", self.dir.path())
            .env("XDG_STATE_HOME", self.dir.path().join("state"))
            .env("XDG_CONFIG_HOME", self.dir.path().join("config"))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, words: &[&str]) -> Told {
        told(self.command(words).spawn().unwrap())
    }

    /// Runs a command with something on its standard input.
    pub fn with_stdin(&self, words: &[&str], text: &str) -> Told {
        let mut child = self.command(words).stdin(Stdio::piped()).spawn().unwrap();
        // It may not want to read it all.
        let _ = child.stdin.take().unwrap().write_all(text.as_bytes());
        told(child)
    }

    /// Logs in.
    pub fn login(&self, user: &str, password: &str) -> Told {
        self.with_stdin(
            &["login", user, "--password-stdin"],
            &format!("{password}\n"),
        )
    }

    /// The session's file.
    pub fn session_file(&self) -> PathBuf {
        let all = files(&self.dir.path().join("state")).into_iter();
        let mut sessions = all.filter(|path| path.extension().is_some_and(|name| name == "json"));
        sessions.next().expect("a session is kept")
    }
}

/// Waits for a command's end.
pub fn told(child: Child) -> Told {
    let output = child.wait_with_output().unwrap();
    Told {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A command that keeps running, such as `url`; killed when dropped.
pub struct Staying {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
    /// What it says to people: a file, since nobody may read it.
    said: NamedTempFile,
}

impl Staying {
    /// Starts it.
    pub fn start(mut command: Command) -> Self {
        let said = NamedTempFile::new().unwrap();
        let file = said.reopen().unwrap();
        let mut child = command.stderr(file).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out, said }
    }

    /// What it has said to people so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.said.path()).unwrap()
    }

    /// Its next line.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Asks it to end as Ctrl-C does, and gives its exit code.
    pub fn interrupt(mut self) -> i32 {
        let pid = i32::try_from(self.child.id()).unwrap();
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < until, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Staying {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All files below a directory.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .flat_map(|entry| {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => files(&path),
                false => vec![path],
            }
        })
        .collect()
}

/// Whether these bytes occur in those.
pub fn contains(all: &[u8], part: &[u8]) -> bool {
    all.windows(part.len()).any(|window| window == part)
}

/// The files below a directory that hold these bytes.
pub fn holding(dir: &Path, part: &[u8]) -> Vec<PathBuf> {
    let mut found = files(dir);
    found.retain(|path| contains(&std::fs::read(path).unwrap_or_default(), part));
    found
}
