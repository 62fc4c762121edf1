//! Keeping one service running.

use super::{backoff::Backoff, services::Service, state::open_log, tell::say};
use iceflix_core::api::Kind;
use nix::{
    sys::signal::{Signal, kill as send},
    unistd::Pid,
};
use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt, process::ExitStatus};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The services of one kind, which stop together.
pub struct Group {
    /// Of what kind they are.
    pub kind: Kind,
    /// Tells them to leave.
    pub stop: CancellationToken,
    /// Waits for them.
    pub tasks: TaskTracker,
}

impl Group {
    /// An empty group.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }
}

/// What services may inherit of our `ICEFLIX_…` variables. The others are also names of their
/// settings and would overrule, in every instance alike, what each one's file says.
const INHERITED: [&str; 5] = [
    "ICEFLIX_LOG",
    "ICEFLIX_LOG_FORMAT",
    "ICEFLIX_BUS_SCOUTING",
    "ICEFLIX_BUS_INTERFACE",
    "ICEFLIX_PLAINTEXT_NETNS",
];

/// Runs a service until `stop`, then asks it to leave and waits; `kill` ends the waiting. When it
/// ends by itself, `died` is told and it is started again after a while. When its configuration
/// is gone, the state directory was removed under us: `lost` tells.
pub async fn keep(
    service: Service,
    stop: CancellationToken,
    kill: CancellationToken,
    lost: CancellationToken,
    died: impl Fn(),
) {
    let name = &service.name;
    let mut backoff = Backoff::default();
    while !stop.is_cancelled() {
        let started = Instant::now();
        let end = match start(&service).await {
            Err(error) => format!("could not be started: {error}"),
            Ok(mut child) => tokio::select! {
                status = child.wait() => describe(status),
                () = stop.cancelled() => {
                    leave(name, &mut child, &kill).await;
                    return;
                }
            },
        };
        if stop.is_cancelled() {
            return;
        }
        died();
        if let Ok(false) = tokio::fs::try_exists(&service.config).await {
            lost.cancel();
        }
        let wait = backoff.after(started.elapsed());
        say(&format!(
            "{name} {end}; it is started again in {:.1} s",
            wait.as_secs_f64()
        ));
        tokio::select! {
            () = sleep(wait) => {}
            () = stop.cancelled() => {}
        }
    }
}

async fn start(service: &Service) -> io::Result<Child> {
    let path = service.log.clone();
    let opened = tokio::task::spawn_blocking(move || open_log(&path)).await;
    let log = opened.map_err(io::Error::other)??;
    let mut command = Command::new(&service.program);
    command
        .arg("--config")
        .arg(&service.config)
        .stdin(std::process::Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C at the terminal is for us; we then tell the services in their order.
        .process_group(0)
        // Should this program break down, its services do not stay behind.
        .kill_on_drop(true);
    for (key, _) in std::env::vars_os().filter(|(key, _)| overrules(key)) {
        command.env_remove(key);
    }
    command.spawn()
}

/// Whether a variable would overrule what the services' files say.
fn overrules(key: &OsStr) -> bool {
    key.as_bytes().starts_with(b"ICEFLIX_") && INHERITED.iter().all(|name| key != *name)
}

async fn leave(name: &str, child: &mut Child, kill: &CancellationToken) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    if let Some(pid) = pid
        && let Err(error) = send(Pid::from_raw(pid), Signal::SIGTERM)
    {
        say(&format!("{name} could not be told to leave: {error}"));
    }
    let gone = tokio::select! {
        status = child.wait() => status.map(drop),
        () = kill.cancelled() => child.kill().await,
    };
    if let Err(error) = gone {
        say(&format!("{name} could not be ended: {error}"));
    }
}

fn describe(status: io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => format!("ended ({status})"),
        Err(error) => format!("was lost: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_do_not_inherit_each_others_settings() {
        for key in [
            "ICEFLIX_LISTEN",
            "ICEFLIX_MEDIA",
            "ICEFLIX_CONFIG",
            "ICEFLIX_",
        ] {
            assert!(overrules(OsStr::new(key)), "{key}");
        }
        for key in ["ICEFLIX_LOG", "PATH", "ICEFLIX", "GST_DEBUG"] {
            assert!(!overrules(OsStr::new(key)), "{key}");
        }
    }
}
