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

/// Network namespaces on one switch; removed when dropped.
pub struct Lan(String);

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
        let lan = Self(format!("{name}{}", std::process::id()));
        let made = Self::script(&["make", &lan.0, &machines.to_string()]);
        if !made.status.success() {
            let why = String::from_utf8_lossy(&made.stderr);
            skipped(&format!("no network namespaces here: {why}"));
            return None;
        }
        Some(lan)
    }

    /// What its namespaces' names begin with.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// A command on one of the machines, which are this project's own network.
    pub fn on(&self, machine: u32, program: &Path) -> Command {
        let mut command = clean(Command::new("ip"));
        command
            .args(["netns", "exec", &format!("{}-{machine}", self.0)])
            .arg(program);
        command
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        let removed = Self::script(&["remove", &self.0]);
        if !removed.status.success() {
            eprintln!("{}", String::from_utf8_lossy(&removed.stderr));
        }
    }
}
