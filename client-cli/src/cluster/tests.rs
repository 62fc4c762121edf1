//! The supervisor with stand-ins for the services: shell scripts that write down their starts.

use super::{
    Failure,
    health::Health,
    plan::Entry,
    process::{Process, Signal, services_of},
    services::Service,
    settings::Settings,
    state::State,
    stop,
    supervise::{self, Voice},
    tell::Manner,
};
use iceflix_core::api::Kind;
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};

/// Healthy once every stand-in has written down a start.
struct Started;

impl Health for Started {
    async fn missing(&mut self, _mains: &[SocketAddr], services: &[Service]) -> Vec<String> {
        let late = services.iter().filter(|service| starts(service) == 0);
        late.map(|service| service.name.clone()).collect()
    }
}

/// Never healthy.
struct Never;

impl Health for Never {
    async fn missing(&mut self, _mains: &[SocketAddr], services: &[Service]) -> Vec<String> {
        services
            .iter()
            .map(|service| service.name.clone())
            .collect()
    }
}

fn log_of(service: &Service) -> String {
    fs::read_to_string(&service.log).unwrap_or_default()
}

fn starts(service: &Service) -> usize {
    log_of(service).matches("started").count()
}

/// Waits for a condition, at most half a minute.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < end, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

const WELL_BEHAVED: &str = "trap 'echo left; exit 0' TERM\n\
    echo started\n\
    while :; do sleep 0.05; done\n";

const STUBBORN: &str = "trap '' TERM\necho started\nwhile :; do sleep 0.05; done\n";

struct Bench {
    dir: tempfile::TempDir,
    settings: Settings,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings {
            state: State::new(dir.path().join("state dir")),
            instances: 1,
            media: vec![dir.path().join("films")],
            host: Ipv4Addr::LOCALHOST.into(),
            host_given: false,
            cluster: None,
            known_mains: Vec::new(),
            bin_dir: dir.path().to_owned(),
        };
        let bench = Self { dir, settings };
        for kind in Kind::ALL {
            bench.script(kind, WELL_BEHAVED);
        }
        bench
    }

    fn script(&self, kind: Kind, body: &str) {
        let path = self.dir.path().join(format!("iceflix-{kind}"));
        // Written elsewhere first: a program that is open for writing cannot be started.
        let new = path.with_extension("new");
        fs::write(&new, format!("#!/bin/sh\n{body}")).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, path).unwrap();
    }

    fn manner() -> Manner {
        Manner {
            cwd: PathBuf::from("/"),
            program: "/iceflix".into(),
            make: false,
            detached: true,
        }
    }

    fn start(&self, health: impl Health + 'static) -> Running {
        let (stop, stops) = mpsc::unbounded_channel();
        let running = supervise::run(
            self.settings.clone(),
            Self::manner(),
            Voice::Terminal,
            stops,
            health,
        );
        Running {
            stop,
            task: tokio::spawn(running),
        }
    }

    fn state(&self) -> &Path {
        self.settings.state.dir()
    }

    fn alive(&self) -> Vec<Process> {
        services_of(self.state()).unwrap()
    }

    fn service(&self, name: &str) -> Service {
        let record = self.settings.state.record(None).unwrap();
        let found = record.instances.into_iter().find(|e| e.name() == name);
        let entry: Entry = found.unwrap();
        Service {
            program: "/none".into(),
            config: self.settings.state.file(&format!("{name}.toml")),
            identity: "/i".into(),
            log: self.settings.state.log(name),
            name: name.to_owned(),
            entry,
        }
    }

    /// The process of an instance.
    fn process(&self, name: &str) -> Option<Process> {
        let config = self.settings.state.file(&format!("{name}.toml"));
        self.alive().into_iter().find(|process| {
            let line = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(config.to_str().unwrap())
        })
    }
}

struct Running {
    stop: mpsc::UnboundedSender<()>,
    task: JoinHandle<Result<(), Failure>>,
}

impl Running {
    async fn finish(self) -> Result<(), Failure> {
        self.stop.send(()).unwrap();
        self.task.await.unwrap()
    }
}

fn reason(result: Result<(), Failure>) -> String {
    match result {
        Err(Failure::Failed(error)) => format!("{error:#}"),
        other => panic!("no failure: {other:?}"),
    }
}

#[tokio::test]
async fn a_killed_instance_comes_back_as_itself_and_all_stop_in_order() {
    let bench = Bench::new();
    let running = bench.start(Started);
    until("the start", || bench.alive().len() == 4).await;
    let auth = bench.service("auth-1");
    until("a started auth", || starts(&auth) == 1).await;
    let before = fs::read_to_string(&auth.config).unwrap();

    for round in 1..=2 {
        let process = bench.process("auth-1").unwrap();
        process.signal(Signal::SIGKILL).unwrap();
        until("the restart", || starts(&auth) == round + 1).await;
    }
    assert_eq!(fs::read_to_string(&auth.config).unwrap(), before);
    // A script's child looks like the script itself until it runs its own program.
    until("all four", || bench.alive().len() == 4).await;

    running.finish().await.unwrap();
    assert!(bench.alive().is_empty());
    let left = |name: &str| {
        let log = bench.settings.state.log(name);
        assert!(fs::read_to_string(&log).unwrap().contains("left"), "{name}");
        fs::metadata(log).unwrap().modified().unwrap()
    };
    let order = ["streaming-1", "catalog-1", "auth-1", "main-1"].map(left);
    assert!(order.is_sorted(), "{order:?}");
}

#[tokio::test]
async fn a_second_supervisor_is_refused_and_a_second_message_kills() {
    let bench = Bench::new();
    bench.script(Kind::Main, STUBBORN);
    let running = bench.start(Started);
    until("the start", || bench.alive().len() == 4).await;
    let text = reason(bench.start(Started).task.await.unwrap());
    assert!(text.contains("already running"), "{text}");
    assert!(text.contains("cluster stop"), "{text}");
    // A script's child looks like the script itself until it runs its own program.
    until("all four", || bench.alive().len() == 4).await;

    running.stop.send(()).unwrap();
    until("the others' leaving", || bench.alive().len() == 1).await;
    running.finish().await.unwrap();
    assert!(bench.alive().is_empty());
}

#[tokio::test]
async fn an_instance_that_cannot_start_is_named_with_its_log() {
    let bench = Bench::new();
    bench.script(Kind::Catalog, "echo 'unknown key colour' >&2; exit 1\n");
    let text = reason(bench.start(Never).task.await.unwrap());
    assert!(text.contains("catalog-1 ends again and again"), "{text}");
    assert!(text.contains("unknown key colour"), "{text}");
    assert!(bench.alive().is_empty());
}

#[tokio::test]
async fn a_stop_during_the_start_is_obeyed() {
    let bench = Bench::new();
    let running = bench.start(Never);
    until("the start", || bench.alive().len() == 4).await;
    running.finish().await.unwrap();
    assert!(bench.alive().is_empty());
}

#[tokio::test]
async fn what_a_killed_supervisor_left_is_ended_by_start_and_by_stop() {
    let bench = Bench::new();
    let config = bench.settings.state.file("main-1.toml");
    bench.settings.state.create().unwrap();
    let leftover = || {
        tokio::process::Command::new(bench.dir.path().join("iceflix-main"))
            .arg("--config")
            .arg(&config)
            .stdout(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    };
    let mut left = leftover();
    until("the leftover", || bench.alive().len() == 1).await;
    let running = bench.start(Started);
    left.wait().await.unwrap();
    until("the start", || bench.alive().len() == 4).await;
    running.finish().await.unwrap();

    let mut left = leftover();
    until("the leftover", || bench.alive().len() == 1).await;
    let state = bench.settings.state.clone();
    let stopping = tokio::task::spawn_blocking(move || stop::stop(&state));
    left.wait().await.unwrap();
    stopping.await.unwrap().unwrap();
    assert!(bench.alive().is_empty());
    // Nothing to stop is no error, not even without a state directory.
    stop::stop(&bench.settings.state).unwrap();
    stop::stop(&State::new(bench.dir.path().join("never"))).unwrap();
}

#[tokio::test]
async fn a_removed_state_ends_the_cluster() {
    let bench = Bench::new();
    let running = bench.start(Started);
    until("the start", || bench.alive().len() == 4).await;
    let main = bench.service("main-1");
    until("health", || starts(&main) == 1).await;
    let process = bench.process("main-1").unwrap();
    fs::remove_dir_all(bench.state()).unwrap();
    process.signal(Signal::SIGKILL).unwrap();
    let text = reason(running.task.await.unwrap());
    assert!(text.contains("was removed"), "{text}");
    assert!(bench.alive().is_empty());
}
