//! The real programs, as processes that end with the test.

use crate::cluster::PATIENCE;
use iceflix_core::config::Common;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// Where a program of ours is: beside this one, or beside the directory of the test programs.
/// `cargo test --workspace` builds them all before any test runs.
///
/// # Panics
/// When it is not there.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a program knows itself");
    let dir = own.parent().expect("a program is in a directory");
    let dir = match dir.ends_with("deps") {
        true => dir.parent().expect("tests are two directories down"),
        false => dir,
    };
    let path = dir.join(name);
    assert!(
        path.is_file(),
        "{} is missing; build it with: cargo build --release --workspace",
        path.display()
    );
    path
}

/// A command in an environment without anything of this project's.
pub fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ICEFLIX_") {
            command.env_remove(name);
        }
    }
    command
}

/// The flags that say what a configuration says.
pub fn flags(common: &Common) -> Vec<String> {
    let mut flags: Vec<String> = vec![
        format!("--cluster={}", common.cluster),
        format!("--listen={}", common.listen),
        format!("--state-dir={}", common.state_dir.display()),
        format!("--bus-scouting={}", common.bus_scouting),
        format!("--bus-interface={}", common.bus_interface),
    ];
    flags.extend(
        common
            .identity_dir
            .iter()
            .map(|dir| format!("--identity-dir={}", dir.display())),
    );
    flags.extend(
        common
            .instance
            .iter()
            .map(|name| format!("--instance={name}")),
    );
    flags.extend(
        common
            .bus_listen
            .iter()
            .map(|at| format!("--bus-listen={at}")),
    );
    flags.extend(
        common
            .bus_connect
            .iter()
            .map(|at| format!("--bus-connect={at}")),
    );
    flags
}

/// A running program; killed when it is dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command whose words go to a file.
    pub fn start(mut command: Command, log: &Path) -> Self {
        let file = File::create(log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn();
        Self {
            child: child.unwrap(),
            log: log.to_owned(),
        }
    }

    /// Starts a service with these flags.
    pub fn service(name: &str, flags: &[String], log: &Path) -> Self {
        let mut command = clean(Command::new(program(name)));
        command.args(flags);
        Self::start(command, log)
    }

    /// Its id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its words go.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    /// Waits for its end.
    pub fn ends(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "it does not end: {}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
