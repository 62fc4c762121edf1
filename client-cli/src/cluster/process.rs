//! Other processes, as `/proc` shows them: which belong to a state directory, and ending those.

use iceflix_core::api::Kind;
use nix::{errno::Errno, sys::signal, unistd::Pid};
use std::{
    ffi::OsStr,
    fs, io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

pub use nix::sys::signal::Signal;

/// How often a wait looks again.
const LOOK: Duration = Duration::from_millis(20);

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since the system did.
    pub started: u64,
}

impl Process {
    /// The process of that number; `None` when there is none, or only its remains (a zombie).
    pub fn find(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let started = start_time(&stat)?;
        Some(Self { pid, started })
    }

    /// This very process.
    pub fn own() -> io::Result<Self> {
        let pid = Pid::this().as_raw();
        Self::find(pid).ok_or_else(|| io::Error::other("/proc does not show this process"))
    }

    /// Whether it still runs.
    pub fn runs(self) -> bool {
        Self::find(self.pid) == Some(self)
    }

    /// Sends a signal, if it still runs.
    pub fn signal(self, which: Signal) -> io::Result<()> {
        if !self.runs() {
            return Ok(());
        }
        match signal::kill(Pid::from_raw(self.pid), which) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The form in which the supervisor writes itself down.
    pub fn to_text(self) -> String {
        format!("{} {}\n", self.pid, self.started)
    }

    /// Reads [`Process::to_text`].
    pub fn from_text(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let pid = words.next()?.parse().ok().filter(|pid| *pid > 1)?;
        let started = words.next()?.parse().ok()?;
        Some(Self { pid, started })
    }
}

/// The start time in a line of `/proc/PID/stat`: field 22. The second field is the program's name
/// in parentheses and may hold anything, so what counts begins after the last parenthesis.
fn start_time(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// The configuration of the service whose command line this is (arguments end with NUL), when it is
/// `iceflix-KIND --config FILE` with a FILE called `KIND-N.toml`. An interpreter may stand before.
fn service_config(cmdline: &[u8]) -> Option<PathBuf> {
    let mut arguments = cmdline.strip_suffix(b"\0")?.rsplit(|byte| *byte == 0);
    let config = Path::new(OsStr::from_bytes(arguments.next()?));
    if arguments.next()? != b"--config" {
        return None;
    }
    let program = Path::new(OsStr::from_bytes(arguments.next()?));
    let kind: Kind = program
        .file_name()?
        .to_str()?
        .strip_prefix("iceflix-")?
        .parse()
        .ok()?;
    let number = config
        .file_name()?
        .to_str()?
        .strip_prefix(kind.as_str())?
        .strip_prefix('-')?
        .strip_suffix(".toml")?;
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| config.to_owned())
}

/// This user's services that run from the state directory, whoever started them.
pub fn services_of(state: &Path) -> io::Result<Vec<Process>> {
    let real = state.canonicalize().ok();
    let uid = nix::unistd::geteuid().as_raw();
    let belongs = |pid: i32| {
        let dir = PathBuf::from(format!("/proc/{pid}"));
        let config = service_config(&fs::read(dir.join("cmdline")).ok()?)?;
        let parent = config.parent()?;
        let same = parent == state || (real.is_some() && parent.canonicalize().ok() == real);
        let mine = fs::metadata(&dir).ok()?.uid() == uid;
        (same && mine).then(|| Process::find(pid)).flatten()
    };
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        // A process may end while we look; then it is simply not there.
        let pid = name.to_str().and_then(|name| name.parse().ok());
        found.extend(pid.and_then(belongs));
    }
    Ok(found)
}

/// Waits until none of the processes runs any more; `false` when `limit` passes first.
pub fn wait_gone(processes: &[Process], limit: Duration) -> bool {
    let end = Instant::now() + limit;
    while processes.iter().any(|process| process.runs()) {
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(LOOK);
    }
    true
}

/// Ends the processes: asks, waits up to `patience`, then kills. `false` when some survive that.
pub fn end(processes: &[Process], patience: Duration) -> io::Result<bool> {
    for process in processes {
        process.signal(Signal::SIGTERM)?;
    }
    if wait_gone(processes, patience) {
        return Ok(true);
    }
    for process in processes {
        process.signal(Signal::SIGKILL)?;
    }
    Ok(wait_gone(processes, Duration::from_secs(5)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(arguments: &[&str]) -> Option<String> {
        let line: String = arguments.iter().map(|a| format!("{a}\0")).collect();
        service_config(line.as_bytes()).map(|path| path.to_str().unwrap().to_owned())
    }

    #[test]
    fn only_services_are_recognised() {
        let found = config(&["/t/iceflix-auth", "--config", "/s t/auth-12.toml"]);
        assert_eq!(found.as_deref(), Some("/s t/auth-12.toml"));
        let script = ["/bin/sh", "/t/iceflix-main", "--config", "/s/main-1.toml"];
        assert_eq!(config(&script).as_deref(), Some("/s/main-1.toml"));
        for other in [
            &["/t/iceflix-auth", "--config", "/s/main-1.toml"][..],
            &["/t/iceflix-auth", "--config", "/s/auth-.toml"],
            &["/t/iceflix-auth", "--config", "/s/auth-1a.toml"],
            &["/t/iceflix-auth", "--config", "/s/auth-1.toml", "-v"],
            &["/t/iceflix-auth", "/s/auth-1.toml"],
            &["/t/iceflix", "--config", "/s/client.toml"],
            &["vi", "--config", "/s/auth-1.toml"],
            &["pgrep", "-f", "iceflix-auth --config /s/auth-1.toml"],
            &[],
        ] {
            assert_eq!(config(other), None, "{other:?}");
        }
    }

    #[test]
    fn start_times_are_read_past_odd_names() {
        let fields: Vec<String> = (4..=52).map(|n| n.to_string()).collect();
        let rest = fields.join(" ");
        assert_eq!(start_time(&format!("7 (a) S 1) S {rest}\n")), Some(22));
        assert_eq!(start_time(&format!("7 (a) Z {rest}\n")), None);
        assert_eq!(start_time("7 (a"), None);
    }

    #[test]
    fn a_process_is_found_written_down_and_recognised() {
        let own = Process::own().unwrap();
        assert!(own.runs());
        assert_eq!(Process::from_text(&own.to_text()), Some(own));
        let earlier = Process {
            started: own.started - 1,
            ..own
        };
        assert!(!earlier.runs());
        for bad in ["", "x y", "12", "1 5", "-1 5"] {
            assert_eq!(Process::from_text(bad), None, "{bad}");
        }
    }
}
