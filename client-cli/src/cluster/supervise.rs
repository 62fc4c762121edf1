//! Running the services of a cluster: start, health, restart, stop.

use super::{
    Failure,
    health::Health,
    keep::{Group, keep},
    process,
    services::Service,
    settings::Settings,
    state::Lock,
    tell::{Manner, say},
};
use anyhow::{Context, anyhow};
use iceflix_core::api::Kind;
use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long a start may take before it counts as failed.
const START_LIMIT: Duration = Duration::from_secs(60);

/// An instance that ended so often without the cluster ever being healthy will not get better.
const DEATHS_LIMIT: u32 = 5;

/// How often health is looked at during a start.
const LOOK: Duration = Duration::from_millis(100);

/// How long all services together have to leave before they are killed.
pub const STOP_LIMIT: Duration = Duration::from_secs(10);

/// How long one kind of service is waited for before the next is told to leave, too.
const KIND_LIMIT: Duration = Duration::from_secs(3);

/// The kinds in the order in which they leave: what uses others goes before what it uses.
const LEAVING: [Kind; 4] = [Kind::Streaming, Kind::Catalog, Kind::Auth, Kind::Main];

/// The line by which a detached supervisor tells its parent that the cluster is healthy.
pub const READY: &str = "\u{6}";

/// To whom a starting supervisor speaks.
#[derive(Debug, Clone, Copy)]
pub enum Voice {
    /// To the person at the terminal.
    Terminal,
    /// To the process that waits for a detached start, which passes it on; and to the log.
    Parent,
}

impl Voice {
    /// Says something.
    pub fn say(self, text: &str) {
        say(text);
        if let Voice::Parent = self {
            self.tell_parent(text);
        }
    }

    /// Says that the cluster is healthy.
    pub fn ready(self) {
        if let Voice::Parent = self {
            self.tell_parent(READY);
        }
    }

    fn tell_parent(self, text: &str) {
        // A parent that is gone was killed while it waited; the cluster starts all the same.
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }
}

/// Signals that come so soon after one another are one wish to stop: `make` and `timeout` pass on
/// what their whole group gets anyway.
const ONE_WISH: Duration = Duration::from_millis(400);

/// Tells wishes to stop from the echoes of a signal.
#[derive(Debug, Default)]
struct Wishes {
    last: Option<Instant>,
}

impl Wishes {
    /// Whether a signal at that moment is a wish of its own.
    fn is_new(&mut self, now: Instant) -> bool {
        let echo = self.last.is_some_and(|last| now < last + ONE_WISH);
        if !echo {
            self.last = Some(now);
        }
        !echo
    }
}

/// The signals that end a cluster, one message each wish. A closed terminal ends one that runs in
/// front.
pub fn stop_signals(detached: bool) -> std::io::Result<mpsc::UnboundedReceiver<()>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        let mut wishes = Wishes::default();
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => if detached { continue },
            }
            if wishes.is_new(Instant::now()) && sender.send(()).is_err() {
                break;
            }
        }
    });
    Ok(receiver)
}

/// How a start ended.
enum Start {
    Healthy,
    StopWanted,
    /// The state directory is gone.
    Lost,
    Failed(String),
}

/// Starts the cluster, keeps it running and stops it when a message comes (a second one: at once).
pub async fn run(
    settings: Settings,
    manner: Manner,
    voice: Voice,
    mut stops: mpsc::UnboundedReceiver<()>,
    health: impl Health,
) -> Result<(), Failure> {
    let prepared = settings.clone();
    let stop_command = manner.stop_command(settings.state.dir());
    let preparation = tokio::task::spawn_blocking(move || prepare(&prepared, voice, &stop_command));
    let (_lock, cluster, services) = preparation.await.context("the preparation broke off")??;

    voice.say(&format!("Starting {} services …", services.len()));
    let lost = CancellationToken::new();
    let kill = CancellationToken::new();
    let deaths: Arc<Vec<AtomicU32>> = Arc::new(services.iter().map(|_| 0.into()).collect());
    let groups: Vec<Group> = LEAVING.iter().map(|kind| Group::new(*kind)).collect();
    for (index, service) in services.iter().enumerate() {
        for group in groups.iter().filter(|g| g.kind == service.entry.kind) {
            let deaths = deaths.clone();
            let died = move || {
                deaths[index].fetch_add(1, Ordering::Relaxed);
            };
            group.tasks.spawn(keep(
                service.clone(),
                group.stop.clone(),
                kill.clone(),
                lost.clone(),
                died,
            ));
        }
    }

    let start = tokio::select! {
        start = healthy(&settings, &services, &deaths, health) => start,
        _ = stops.recv() => Start::StopWanted,
        () = lost.cancelled() => Start::Lost,
    };
    let removed = || Err(anyhow!("{} was removed", settings.state.dir().display()).into());
    let result = match start {
        Start::Healthy => {
            let text = manner.ready(&settings, &cluster, &services);
            voice.say(&text);
            voice.ready();
            tokio::select! {
                _ = stops.recv() => Ok(()),
                () = lost.cancelled() => removed(),
            }
        }
        Start::Lost => removed(),
        Start::StopWanted => Ok(()),
        Start::Failed(why) => Err(anyhow!(why).into()),
    };
    say("Stopping …");
    stop(&groups, &kill, &mut stops).await;
    say("Stopped.");
    result
}

/// Everything before the first service starts. It reads and writes files and may wait.
fn prepare(
    settings: &Settings,
    voice: Voice,
    stop_command: &str,
) -> Result<(Lock, String, Vec<Service>), Failure> {
    let state = &settings.state;
    state.create()?;
    let Some(lock) = state.lock()? else {
        return Err(anyhow!(
            "the cluster of {} is already running; stop it with: {stop_command}",
            state.dir().display()
        )
        .into());
    };
    let left = process::services_of(state.dir()).context("cannot read /proc")?;
    if !left.is_empty() {
        voice.say(&format!(
            "Ending {} services that an earlier run left behind …",
            left.len()
        ));
        if !process::end(&left, STOP_LIMIT).context("cannot end a service left behind")? {
            return Err(anyhow!("services of an earlier run do not end").into());
        }
    }
    let (record, services) = settings.prepare()?;
    Ok((lock, record.cluster, services))
}

/// Waits until every instance is known to every Main, or the start has failed.
async fn healthy(
    settings: &Settings,
    services: &[Service],
    deaths: &[AtomicU32],
    mut health: impl Health,
) -> Start {
    let end = Instant::now() + START_LIMIT;
    let mains = settings.mains(services);
    let name = |service: &Service| service.name.clone();
    let mut missing: Vec<String> = services.iter().map(name).collect();
    loop {
        let dying = services
            .iter()
            .zip(deaths)
            .find(|(_, deaths)| deaths.load(Ordering::Relaxed) >= DEATHS_LIMIT);
        if let Some((service, _)) = dying {
            let text = format!("{} ends again and again", service.name);
            return Start::Failed(with_logs(settings, text, &[service]));
        }
        // A look that the deadline cuts short leaves what the last one saw.
        if let Ok(seen) = timeout_at(end, health.missing(&mains, services)).await {
            if seen.is_empty() {
                return Start::Healthy;
            }
            missing = seen;
        }
        if Instant::now() >= end {
            let missing: Vec<&Service> = services
                .iter()
                .filter(|service| missing.contains(&service.name))
                .collect();
            let names: Vec<&str> = missing
                .iter()
                .map(|service| service.name.as_str())
                .collect();
            let text = format!(
                "after {} s these are still not in every Main's directory: {}",
                START_LIMIT.as_secs(),
                names.join(", ")
            );
            return Start::Failed(with_logs(settings, text, &missing));
        }
        sleep(LOOK).await;
    }
}

/// Adds the last lines of the services' logs to what is said about them.
fn with_logs(settings: &Settings, mut text: String, services: &[&Service]) -> String {
    for service in services {
        text += &format!("\nThe last lines of {}:", service.log.display());
        for line in settings.state.log_end(&service.name, 10) {
            text += &format!("\n  {line}");
        }
    }
    text
}

/// Ends all services, kind by kind; at once when another message comes.
async fn stop(groups: &[Group], kill: &CancellationToken, stops: &mut mpsc::UnboundedReceiver<()>) {
    let end = Instant::now() + STOP_LIMIT;
    let gently = async {
        for group in groups {
            group.tasks.close();
            group.stop.cancel();
            let patience = (Instant::now() + KIND_LIMIT).min(end);
            let _ = timeout_at(patience, group.tasks.wait()).await;
        }
        for group in groups {
            if timeout_at(end, group.tasks.wait()).await.is_err() {
                say(&format!("{} does not leave and is killed", group.kind));
            }
        }
    };
    tokio::select! {
        () = gently => {}
        Some(()) = stops.recv() => say("Killing what is left"),
    }
    kill.cancel();
    for group in groups {
        group.tasks.close();
        group.stop.cancel();
    }
    futures::future::join_all(groups.iter().map(|group| TaskTracker::wait(&group.tasks))).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echoes_of_a_signal_are_no_second_wish() {
        let mut wishes = Wishes::default();
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let heard: Vec<bool> = [0, 1, 399, 400, 500, 900]
            .map(|moment| wishes.is_new(at(moment)))
            .into();
        assert_eq!(heard, [true, false, false, true, false, true]);
    }
}
