//! A supervisor that outlives the command that started it.

use super::{
    Failure, RunArgs,
    settings::Settings,
    state::open_log,
    supervise::{READY, stop_signals},
    tell::say,
};
use anyhow::{Context, anyhow};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{ffi::OsString, fs, path::PathBuf, process::Stdio};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

/// Starts this program again as a supervisor in a session of its own, passes on what it says, and
/// returns when the cluster is healthy.
pub async fn start(args: &RunArgs, settings: &Settings) -> Result<(), Failure> {
    settings.state.create()?;
    settings.state.rotate_log("supervisor")?;
    let path = settings.state.log("supervisor");
    let log = open_log(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let mut child = supervisor(program, args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("cannot start the supervisor")?;
    let mut stops = stop_signals(false).context("cannot listen for signals")?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    let output = child.stdout.take().ok_or_else(|| anyhow!("no output"))?;
    let mut lines = BufReader::new(output).lines();
    loop {
        tokio::select! {
            line = lines.next_line() => match line.context("cannot hear the supervisor")? {
                Some(line) if line == READY => return Ok(()),
                Some(line) => say(&line),
                None => break,
            },
            Some(()) = stops.recv() => {
                if let Some(pid) = pid {
                    kill(Pid::from_raw(pid), Signal::SIGTERM).context("cannot stop the supervisor")?;
                }
            }
        }
    }
    // It said why.
    child.wait().await.context("lost the supervisor")?;
    Err(Failure::Said)
}

/// The command that runs the supervisor.
fn supervisor(program: PathBuf, args: &RunArgs) -> Command {
    let mut command = Command::new(program);
    command
        .args(["cluster", "supervise"])
        .args(again(args))
        // The invitation was taken up, and its secret is nobody else's business.
        .env_remove("ICEFLIX_JOIN");
    command
}

/// The command line that says the same again.
fn again(args: &RunArgs) -> Vec<OsString> {
    let mut line: Vec<OsString> = vec![
        "--state".into(),
        args.state.clone().into(),
        "--instances".into(),
        args.instances.to_string().into(),
    ];
    if let Some(host) = &args.host {
        line.extend(["--host".into(), host.into()]);
    }
    for media in &args.media {
        line.extend(["--media".into(), media.clone()]);
    }
    if let Some(cluster) = &args.cluster {
        line.extend(["--cluster".into(), cluster.into()]);
    }
    if let Some(dir) = &args.bin_dir {
        line.extend(["--bin-dir".into(), dir.clone().into()]);
    }
    line
}

/// In the new supervisor: leaves the terminal and everything else that the starter had open.
/// (Somebody may wait for the end of a pipe that our parents were given.)
pub fn leave_terminal() {
    // Fails only in a process that leads its group, which our starter made sure we do not.
    let _ = nix::unistd::setsid();
    close_inherited();
}

/// Closes the files that this process was started with, except for the standard three. What we
/// opened ourselves is marked close-on-exec (Rust's library does that), so the rest is inherited.
fn close_inherited() {
    const CLOSE_ON_EXEC: u32 = 0o2_000_000;
    let Ok(entries) = fs::read_dir("/proc/self/fdinfo") else {
        return;
    };
    for entry in entries.flatten() {
        let flags = fs::read_to_string(entry.path()).ok().and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("flags:"))?;
            u32::from_str_radix(line.trim(), 8).ok()
        });
        let number: Option<i32> = entry.file_name().to_str().and_then(|n| n.parse().ok());
        if let (Some(number), Some(flags)) = (number, flags)
            && number > 2
            && flags & CLOSE_ON_EXEC == 0
        {
            let _ = nix::unistd::close(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser, Debug)]
    struct Line {
        #[command(flatten)]
        args: RunArgs,
    }

    #[test]
    fn the_supervisor_gets_no_invitation() {
        let args = Line::try_parse_from(["x"]).unwrap().args;
        let command = supervisor("iceflix".into(), &args);
        let mut changed = command.as_std().get_envs();
        assert!(changed.any(|change| change == ("ICEFLIX_JOIN".as_ref(), None)));
    }

    #[test]
    fn the_supervisor_gets_the_same_arguments() {
        for typed in [
            &["x"][..],
            &[
                "x",
                "--state",
                "/s t",
                "--instances",
                "3",
                "--media",
                "/a b:/c",
                "--media",
                "~/d",
                "--host",
                "::1",
                "--cluster",
                "mine",
                "--bin-dir",
                "/bin",
            ],
        ] {
            let first = Line::try_parse_from(typed).unwrap().args;
            let words = again(&first);
            let line = std::iter::once(OsString::from("x")).chain(words);
            let second = Line::try_parse_from(line).unwrap().args;
            assert_eq!(format!("{first:?}"), format!("{second:?}"));
        }
    }
}
