//! Processes, by their ids: they are the same on all machines of the LAN.

use crate::machine::Machine;
use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::path::Path;

/// Whether there is such a process, or its remains.
pub fn runs(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Sends a process a signal.
///
/// # Errors
/// When there is no such process.
pub fn signal(pid: u32, signal: Signal) -> anyhow::Result<()> {
    Ok(kill(Pid::from_raw(i32::try_from(pid)?), signal)?)
}

/// The process that keeps a machine's services running.
///
/// # Errors
/// When there is none.
pub fn supervisor(machine: &Machine) -> anyhow::Result<u32> {
    let text = std::fs::read_to_string(machine.state().join("supervisor.lock"))?;
    let pid = text.split_whitespace().next();
    pid.and_then(|pid| pid.parse().ok())
        .context("nobody keeps its services")
}
