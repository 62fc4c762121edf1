//! A LAN within this machine: network namespaces as machines, on one switch.

use crate::process::clean;
use std::{
    io::Write as _,
    net::{Ipv4Addr, UdpSocket},
    path::Path,
    process::{Command, Output},
};

/// Says that something was not tested, also where the words of tests that pass are not shown.
pub fn skipped(why: &str) {
    // What cannot be said is not worth failing for.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// Whether there is multicast on this machine's loopback, where a cluster of one machine stays.
///
/// # Errors
/// What stands in the way.
pub fn multicast_works() -> std::io::Result<()> {
    let listener = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    listener.join_multicast_v4(&Ipv4Addr::new(239, 255, 255, 250), &Ipv4Addr::LOCALHOST)
}

/// Network namespaces on one switch; removed when what made them is dropped.
#[derive(Debug)]
pub struct Lan {
    name: String,
    made: bool,
}

impl Lan {
    fn script(words: &[&str]) -> Output {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let script = root.join("scripts/netns");
        Command::new(script).args(words).output().unwrap()
    }

    /// So many machines, or `None` where they cannot be made.
    ///
    /// # Panics
    /// When the script is not there.
    pub fn new(name: &str, machines: u32) -> Option<Self> {
        let lan = Self {
            name: format!("{name}{}", std::process::id()),
            made: true,
        };
        let made = Self::script(&["make", &lan.name, &machines.to_string()]);
        if !made.status.success() {
            let why = String::from_utf8_lossy(&made.stderr);
            skipped(&format!("no network namespaces here: {why}"));
            return None;
        }
        Some(lan)
    }

    /// One that another process made, and removes.
    pub fn existing(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            made: false,
        }
    }

    /// What its namespaces' names begin with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Pulls a machine's cable (`there`: puts it back). Both ends notice.
    ///
    /// # Panics
    /// As all that changes it: when that cannot be done.
    pub fn cable(&self, machine: u32, there: bool) {
        let way = if there { "in" } else { "out" };
        self.change(&["cable", &self.name, &machine.to_string(), way]);
    }

    /// Parts a machine from the others (`there`: joins them again), without a cable that is seen to
    /// go.
    pub fn port(&self, machine: u32, there: bool) {
        let way = if there { "on" } else { "off" };
        self.change(&["port", &self.name, &machine.to_string(), way]);
    }

    /// Loses, silently, what one machine sends to another. What comes back from there arrives.
    pub fn silence(&self, from: u32, to: u32, silent: bool) {
        let way = if silent { "on" } else { "off" };
        let [from, to] = [from, to].map(|machine| machine.to_string());
        self.change(&["silence", &self.name, &from, &to, way]);
    }

    fn change(&self, words: &[&str]) {
        let changed = Self::script(words);
        let said = String::from_utf8_lossy(&changed.stderr);
        assert!(changed.status.success(), "{words:?}: {said}");
    }

    /// A command on one of the machines, which are this project's own network.
    pub fn on(&self, machine: u32, program: &Path) -> Command {
        let mut command = clean(Command::new("ip"));
        command
            .args(["netns", "exec", &format!("{}-{machine}", self.name)])
            .arg(program);
        command
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        if !self.made {
            return;
        }
        let removed = Self::script(&["remove", &self.name]);
        if !removed.status.success() {
            eprintln!("{}", String::from_utf8_lossy(&removed.stderr));
        }
    }
}
