//! What a person reads: progress, and what to type next.

use super::{services::Service, settings::Settings};
use iceflix_core::api::Kind;
use std::{
    borrow::Cow,
    io::Write,
    path::{Path, PathBuf},
};

/// Says something to the person in front of the terminal. Nobody there is no error.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// How the person got here, which decides how commands and paths are written for them.
#[derive(Debug, Clone)]
pub struct Manner {
    /// Where they are.
    pub cwd: PathBuf,
    /// The client's program.
    pub program: PathBuf,
    /// They typed `make`.
    pub make: bool,
    /// The cluster runs behind their back and is not stopped by Ctrl-C.
    pub detached: bool,
}

impl Manner {
    /// As this process sees it.
    pub fn here(detached: bool) -> Self {
        Self {
            cwd: std::env::current_dir().unwrap_or_default(),
            program: std::env::current_exe().unwrap_or_else(|_| "iceflix".into()),
            make: std::env::var_os("MAKELEVEL").is_some(),
            detached,
        }
    }

    /// A path as a person would type it here.
    pub fn path(&self, path: &Path) -> String {
        let short = match path.strip_prefix(&self.cwd) {
            Ok(rest) if !rest.as_os_str().is_empty() => rest,
            _ => path,
        };
        quote(&short.display().to_string()).into_owned()
    }

    /// How to stop the cluster of that state directory.
    pub fn stop_command(&self, state: &Path) -> String {
        let usual = state == self.cwd.join(".iceflix");
        match (self.make, usual) {
            (true, true) => "make stop-cluster".to_owned(),
            (true, false) => format!("make stop-cluster STATE={}", self.path(state)),
            (false, true) => format!("{} cluster stop", self.path(&self.program)),
            (false, false) => format!(
                "{} cluster stop --state {}",
                self.path(&self.program),
                self.path(state)
            ),
        }
    }

    /// Everything a newcomer needs once the cluster is healthy.
    pub fn ready(&self, settings: &Settings, cluster: &str, services: &[Service]) -> String {
        let state = &settings.state;
        let count = |kind: Kind| services.iter().filter(|s| s.entry.kind == kind).count();
        let counts: Vec<String> = Kind::ALL
            .iter()
            .map(|kind| format!("{} {kind}", count(*kind)))
            .collect();
        let mut text = format!("\nThe cluster {cluster} is up: {}.\n", counts.join(", "));
        for service in services {
            if let Some(dir) = &service.entry.media {
                let dir_text = self.path(dir);
                text += &match dir.is_dir() {
                    true => format!("  {} serves {dir_text}\n", service.name),
                    false => format!(
                        "  {} waits for {dir_text}, which is not there yet\n",
                        service.name
                    ),
                };
            }
        }
        let program = self.path(&self.program);
        let mut steps = Vec::new();
        if state.dir() != self.cwd.join(".iceflix") {
            steps.push((
                "Tell the client where it is",
                format!(
                    "export ICEFLIX_CONFIG={}",
                    quote(&state.client_config().display().to_string())
                ),
            ));
        }
        // A machine that was let in has no first password; it knows of others' Mains.
        let login = match settings.known_mains.is_empty() {
            true => format!(
                "{program} login admin --password-stdin < {}",
                self.path(&state.password())
            ),
            false => format!("{program} login NAME"),
        };
        steps.push(("Log in", login));
        steps.push(("See what is there", format!("{program} search")));
        steps.push(("Play a film", format!("{program} play ID")));
        steps.push(("All that at a prompt", program));
        let stop = match self.detached {
            true => self.stop_command(state.dir()),
            false => "Ctrl-C here".to_owned(),
        };
        steps.push(("Stop the cluster", stop));
        text += "\nWhat to type next (in another terminal, if this one is taken):\n";
        for (what, command) in steps {
            text += &format!("  {what:<28} {command}\n");
        }
        text += &format!("\nLogs are in {}.", self.path(&state.file("log")));
        text
    }
}

/// A word as a shell takes it.
pub fn quote(word: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.into(),
        false => format!("'{}'", word.replace('\'', r"'\''")).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{plan::Entry, state::State};

    fn manner(make: bool) -> Manner {
        Manner {
            cwd: "/home/ann/iceflix".into(),
            program: "/home/ann/iceflix/target/release/iceflix".into(),
            make,
            detached: true,
        }
    }

    #[test]
    fn words_are_quoted_for_the_shell() {
        assert_eq!(quote("/a/b-1.toml"), "/a/b-1.toml");
        assert_eq!(quote("/a b/c"), "'/a b/c'");
        assert_eq!(quote("it's"), r"'it'\''s'");
        assert_eq!(quote(""), "''");
    }

    #[test]
    fn stopping_is_said_as_it_was_started() {
        let usual = Path::new("/home/ann/iceflix/.iceflix");
        assert_eq!(manner(true).stop_command(usual), "make stop-cluster");
        assert_eq!(
            manner(true).stop_command(Path::new("/tmp/my state")),
            "make stop-cluster STATE='/tmp/my state'"
        );
        assert_eq!(
            manner(false).stop_command(Path::new("/home/ann/iceflix/b")),
            "target/release/iceflix cluster stop --state b"
        );
    }

    #[test]
    fn a_newcomer_learns_what_to_type() {
        let mut settings = Settings {
            state: State::new("/home/ann/iceflix/.iceflix".into()),
            instances: 1,
            media: vec!["/not/there".into()],
            host: std::net::Ipv4Addr::LOCALHOST.into(),
            host_given: false,
            cluster: None,
            known_mains: Vec::new(),
            bin_dir: "/t".into(),
        };
        let service = Service {
            entry: Entry {
                kind: Kind::Streaming,
                number: 1,
                instance: "streaming-1-00000000".to_owned(),
                port: 1,
                bus_port: 2,
                rtsp_port: Some(3),
                media: Some("/not/there".into()),
            },
            name: "streaming-1".to_owned(),
            program: "/t/iceflix-streaming".into(),
            config: "/s/streaming-1.toml".into(),
            identity: "/i".into(),
            log: "/s/log/streaming-1.log".into(),
        };
        let services = [service];
        let text = manner(true).ready(&settings, "iceflix-12", &services);
        for part in [
            "iceflix-12",
            "1 streaming",
            "streaming-1 waits for /not/there",
            "target/release/iceflix login admin --password-stdin < .iceflix/admin.password",
            "make stop-cluster",
            ".iceflix/log",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("ICEFLIX_CONFIG"));
        settings.state = State::new("/tmp/other".into());
        let text = manner(true).ready(&settings, "iceflix-12", &services);
        assert!(text.contains("export ICEFLIX_CONFIG=/tmp/other/client.toml"));
    }
}
