//! A machine with its part of a cluster, and what its owner types.

use crate::{
    lan::Lan,
    person::{Told, told},
    process::{clean, program},
};
use iceflix_core::trust::Credential;
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

/// A machine of the LAN (or, without one, a state of its own on this machine), and what its owner
/// types.
pub struct Machine {
    lan: Option<Arc<Lan>>,
    number: u32,
    /// The owner's home; commands run there.
    pub home: PathBuf,
}

impl Machine {
    /// The machine of that number, with a home below `dir`.
    pub fn new(lan: Option<Arc<Lan>>, number: u32, dir: &Path) -> Self {
        let home = dir.join(format!("machine-{number}"));
        std::fs::create_dir(&home).unwrap();
        Self { lan, number, home }
    }

    /// Its number, from 1.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Its address on the LAN.
    pub fn address(&self) -> String {
        format!("10.77.0.{}", self.number)
    }

    /// `iceflix` with these words, as typed there and not yet started.
    pub fn command(&self, words: &[&str]) -> Command {
        let program = program("iceflix");
        let mut command = match &self.lan {
            Some(lan) => lan.on(self.number, &program),
            None => clean(Command::new(program)),
        };
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

    /// Types `iceflix` with these words, and waits for its end.
    pub fn types(&self, words: &[&str]) -> Told {
        told(self.command(words).spawn().unwrap())
    }

    /// Starts its part of the cluster, with one instance of each kind, and returns when that is
    /// healthy.
    pub fn starts(&self, words: &[&str], invitation: Option<&str>) -> Told {
        let run = ["cluster", "run", "--detach", "--instances", "1"];
        let mut command = self.command(&[&run, words].concat());
        if let Some(line) = invitation {
            command.env("ICEFLIX_JOIN", line);
        }
        told(command.spawn().unwrap())
    }

    /// A line of `iceflix cluster invite`.
    pub fn invites(&self, words: &[&str]) -> String {
        let line = self.types(&[&["cluster", "invite"], words].concat());
        line.with_code(0).stdout.trim().to_owned()
    }

    /// Its state directory.
    pub fn state(&self) -> PathBuf {
        self.home.join(".iceflix")
    }

    /// What is kept about its instances.
    pub fn record(&self) -> String {
        std::fs::read_to_string(self.state().join("cluster.toml")).unwrap()
    }

    /// For whom its catalogue's certificate is.
    pub fn instance(&self) -> String {
        let identity = self.state().join("catalog-1/identity");
        let credential = Credential::load(&identity).unwrap();
        credential.name().instance.to_string()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Nothing may be left running, whatever became of the test.
        let told = self.types(&["cluster", "stop"]);
        if told.code != 0 {
            eprintln!("machine {}: {told:?}", self.number);
        }
    }
}
