//! What a process uses, as the kernel counts it.

use anyhow::{Context as _, anyhow};
use std::fs;

/// Ticks a second in `/proc/PID/stat`: a constant of Linux's interface, whatever the kernel uses.
const TICKS: f64 = 100.0;

/// What a process uses at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Memory in MiB; what is shared with other processes counts in proportion.
    pub memory_mib: f64,
    /// Threads.
    pub threads: u32,
    /// Processor time since its start, in seconds.
    pub cpu_s: f64,
}

/// What the process uses now.
///
/// # Errors
/// When there is no such process, or it is not ours to look at.
pub fn usage(pid: u32) -> anyhow::Result<Usage> {
    let read = |name: &str| {
        let path = format!("/proc/{pid}/{name}");
        fs::read_to_string(&path).with_context(|| format!("reading {path}"))
    };
    Ok(Usage {
        memory_mib: field(&read("smaps_rollup")?, "Pss:")? / 1024.0,
        // A count, far below 2^32.
        threads: field(&read("status")?, "Threads:")? as u32,
        cpu_s: cpu_ticks(&read("stat")?)? / TICKS,
    })
}

/// The number behind a label at the beginning of a line.
fn field(text: &str, label: &str) -> anyhow::Result<f64> {
    text.lines()
        .find_map(|line| {
            line.strip_prefix(label)?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .ok_or_else(|| anyhow!("the kernel tells no `{label}`"))
}

/// User and system time together.
fn cpu_ticks(stat: &str) -> anyhow::Result<f64> {
    // The name, in parentheses, may hold anything; the numbers begin behind it, with field 3.
    let numbers = stat.rsplit_once(')').map(|(_, rest)| rest);
    let mut times = numbers
        .into_iter()
        .flat_map(str::split_whitespace)
        .skip(11)
        .map(str::parse::<f64>);
    match (times.next(), times.next()) {
        (Some(Ok(user)), Some(Ok(system))) => Ok(user + system),
        _ => Err(anyhow!("the kernel tells no processor time")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let stat = "7 (a) (b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 9 0";
        assert_eq!(cpu_ticks(stat).unwrap(), 300.0);
        assert!(cpu_ticks("7 (a) S 1").is_err());
        let status = "Name:\tx\nThreads:\t12\n";
        assert_eq!(field(status, "Threads:").unwrap(), 12.0);
        assert!(field(status, "Pss:").is_err());
        let own = usage(std::process::id()).unwrap();
        assert!(own.memory_mib > 0.0 && own.threads > 0);
    }
}
