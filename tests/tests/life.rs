//! The life of a service's program: where its configuration comes from, how it logs, how it ends.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

use iceflix_core::{
    api::{
        SessionId,
        auth::{AuthError, AuthenticatorClient},
        main::{DirectoryVersion, DirectoryView},
    },
    config::Common,
    rpc::Caller,
    trust::{SessionKey, password::prehash},
};
use iceflix_tests::{
    cluster::{PATIENCE, free_port, wait_for},
    identity,
    process::{Process, clean, program},
};
use nix::sys::{
    signal::Signal,
    stat::{Mode, umask},
};
use serde_json::Value;
use std::{
    fs::{File, Permissions},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};
use tempfile::TempDir;
use tokio::sync::watch;

/// The cluster of these services.
const CLUSTER: &str = "life";

/// A service's program with a state directory and a certificate of its own, told nothing else.
fn bare(kind: &str, dir: &Path) -> Command {
    let common = Common {
        cluster: CLUSTER.parse().unwrap(),
        state_dir: dir.join("state"),
        ..Common::default()
    };
    identity::equip(kind.parse().unwrap(), &common);
    let mut command = clean(Command::new(program(&format!("iceflix-{kind}"))));
    command
        .arg(format!("--state-dir={}", dir.join("state").display()))
        .env_remove("RUST_LOG");
    command
}

fn at(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn answers(port: u16) -> bool {
    TcpStream::connect(at(port)).is_ok()
}

/// Starts it, and waits until it is ready.
async fn started(command: Command, dir: &TempDir) -> Process {
    let process = Process::start(command, &dir.path().join("log"));
    wait_for("it is ready", async || process.said().contains("is ready")).await;
    process
}

fn stop(mut process: Process) {
    process.signal(Signal::SIGTERM);
    assert!(process.ends().success(), "{}", process.said());
}

/// Its words go nowhere, as on a full disk, and none of its tasks ends over them.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_log_cannot_be_written_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    for format in ["text", "json"] {
        let port = free_port();
        let mut command = bare("main", dir.path());
        command
            .arg(format!("--listen={}", at(port)))
            .arg(format!("--cluster={CLUSTER}"))
            .args(["--bus-scouting=false", "--log=debug"])
            .arg(format!("--log-format={format}"));
        let mut process = Process::start(command, Path::new("/dev/full"));
        wait_for("it answers", async || answers(port)).await;
        process.signal(Signal::SIGTERM);
        let ended = process.ends();
        assert!(ended.success(), "{format}: {ended}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flag_wins_over_the_environment_which_wins_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let [file, env, flag]: [u16; 3] = std::array::from_fn(|_| free_port());
    let path = dir.path().join("main.toml");
    let lines = format!(
        "cluster = \"life\"\nbus_scouting = false\nlisten = \"{}\"\nlog = \"error,main_svc=info\"",
        at(file)
    );
    std::fs::write(&path, lines).unwrap();
    let command = || {
        let mut command = bare("main", dir.path());
        command
            .arg(format!("--config={}", path.display()))
            // The file's would keep it from saying that it is ready.
            .env("ICEFLIX_LOG", "info");
        command
    };
    let with_env = || {
        let mut command = command();
        command.env("ICEFLIX_LISTEN", at(env));
        command
    };
    let mut with_flag = with_env();
    with_flag.arg(format!("--listen={}", at(flag)));
    for (command, port) in [(command(), file), (with_env(), env), (with_flag, flag)] {
        let process = started(command, &dir).await;
        for other in [file, env, flag] {
            assert_eq!(answers(other), other == port, "{}", process.said());
        }
        stop(process);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_separated_by_commas_in_the_environment_and_repeated_as_flags() {
    let dir = tempfile::tempdir().unwrap();
    let ports: [u16; 5] = std::array::from_fn(|_| free_port());
    let bus = ports.map(|port| format!("tls/{}", at(port)));
    let path = dir.path().join("main.toml");
    let lines = format!(
        "cluster = \"life\"\nbus_scouting = false\nbus_listen = [{:?}]",
        bus[0]
    );
    std::fs::write(&path, lines).unwrap();
    let command = || {
        let mut command = bare("main", dir.path());
        command.arg(format!("--config={}", path.display()));
        command
    };
    let with_env = || {
        let mut command = command();
        command.env("ICEFLIX_BUS_LISTEN", format!("{}, {},", bus[1], bus[2]));
        command
    };
    let mut with_flags = with_env();
    with_flags.args(["--bus-listen", &bus[3], "--bus-listen", &bus[4]]);
    let mut with_none = command();
    with_none.env("ICEFLIX_BUS_LISTEN", "");
    // A list replaces the other; nothing of both is mixed.
    for (command, wanted) in [
        (command(), &[0][..]),
        (with_env(), &[1, 2]),
        (with_flags, &[3, 4]),
        (with_none, &[]),
    ] {
        let process = started(command, &dir).await;
        for (n, port) in ports.iter().enumerate() {
            assert_eq!(answers(*port), wanted.contains(&n), "{n}: {wanted:?}");
        }
        stop(process);
    }
    // In a flag a comma is a part of the text.
    let mut one = command();
    one.args(["--bus-listen", &format!("{},{}", bus[1], bus[2])]);
    let mut process = Process::start(one, &dir.path().join("log"));
    assert_eq!(process.ends().code(), Some(2));
    assert!(
        process.said().contains("tls/ADDRESS:PORT"),
        "{}",
        process.said()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_environment_says_wrongly_is_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    for (variable, value, said) in [
        (
            "ICEFLIX_BUS_SCOUTING",
            "perhaps",
            "`bus_scouting` is true or false",
        ),
        ("ICEFLIX_LISTEN", "somewhere", "socket address"),
        (
            "ICEFLIX_BUS_CONNECT",
            "tls/127.0.0.1:1,nonsense",
            "nonsense",
        ),
        ("ICEFLIX_LOG_FORMAT", "xml", "xml"),
    ] {
        let mut command = bare("main", dir.path());
        command.env(variable, value);
        let mut process = Process::start(command, &dir.path().join("log"));
        assert_eq!(process.ends().code(), Some(2), "{variable}");
        assert!(process.said().contains(said), "{}", process.said());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn json_logs_are_one_object_a_line_on_stderr() {
    for kind in ["main", "auth", "catalog", "streaming"] {
        let dir = tempfile::tempdir().unwrap();
        let [out, err] = ["out", "err"].map(|name| dir.path().join(name));
        let mut command = bare(kind, dir.path());
        command
            .args(["--cluster=life", "--bus-scouting=false"])
            .args(["--log-format=json", "--log=debug"]);
        if kind == "streaming" {
            command.arg(format!("--media={}", dir.path().display()));
        }
        // Nobody is there, which is worth a word.
        command.arg("--bus-connect=tls/127.0.0.1:1");
        let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&err).unwrap())
            .spawn()
            .map(Child)
            .unwrap();
        wait_for("it is ready", async || read(&err).contains("is ready")).await;
        child.signal(Signal::SIGINT);
        assert!(child.0.wait().unwrap().success(), "{kind}: {}", read(&err));
        let mut messages = Vec::new();
        for line in read(&err).lines() {
            let object: Value = serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("{kind}: {error}: {line}"));
            assert!(object.is_object(), "{kind}: {line}");
            let level = object["level"].as_str().unwrap();
            assert!(
                ["ERROR", "WARN", "INFO", "DEBUG"].contains(&level),
                "{line}"
            );
            assert!(object["timestamp"].is_string(), "{kind}: {line}");
            if let Some(message) = object["fields"]["message"].as_str() {
                messages.push(format!("{level} {message}"));
            }
        }
        for said in [&*format!("INFO {kind} is ready"), "INFO stopped"] {
            assert!(
                messages.iter().any(|message| message == said),
                "{messages:?}"
            );
        }
        assert_eq!(read(&out), "", "{kind}: nothing is for the standard output");
    }
}

/// A child that does not outlive the test.
struct Child(std::process::Child);

impl Child {
    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Calls whom it is told to; it has no directory.
fn caller() -> (Caller, watch::Sender<Arc<DirectoryView>>) {
    let (sender, nobody) = watch::channel(Arc::new(DirectoryView {
        version: DirectoryVersion {
            counter: 0,
            number: 0,
        },
        instances: Vec::new(),
    }));
    (Caller::new(nobody, identity::security(CLUSTER)), sender)
}

/// Logs in as nobody, which takes as long as logging somebody in.
async fn log_in(caller: &Caller, address: SocketAddr) -> Option<Result<(), AuthError>> {
    let public = SessionKey::generate().unwrap().public();
    let (id, hash) = (SessionId::random(), prehash("nobody", "secret"));
    let ask = |auth: AuthenticatorClient, context| async move {
        auth.login(context, "nobody".to_owned(), hash, id, public)
            .await
    };
    let answer = caller.call_at(address, PATIENCE, ask).await;
    Some(answer.ok()?.map(drop))
}

/// An authenticator that is being stopped while it has seconds of work to answer.
async fn stopping(
    dir: &TempDir,
) -> (
    Process,
    Vec<tokio::task::JoinHandle<Option<Result<(), AuthError>>>>,
) {
    let port = free_port();
    let mut command = bare("auth", dir.path());
    command
        .args(["--cluster=life", "--bus-scouting=false", "--log=info"])
        .arg(format!("--listen={}", at(port)));
    let process = started(command, dir).await;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    // Once one was answered, the others wait behind each other for a core to hash on.
    let first = log_in(&caller().0, address).await;
    assert_eq!(first, Some(Err(AuthError::WrongCredentials)));
    let mut asked = Vec::new();
    for _ in 0..6 {
        let (caller, directory) = caller();
        let directory = Arc::new(directory);
        for _ in 0..200 {
            let (caller, directory) = (caller.clone(), Arc::clone(&directory));
            asked.push(tokio::spawn(async move {
                let answer = log_in(&caller, address).await;
                drop(directory);
                answer
            }));
        }
    }
    wait_for("some are answered", async || {
        asked.iter().any(tokio::task::JoinHandle::is_finished)
    })
    .await;
    process.signal(Signal::SIGTERM);
    wait_for("it is stopping", async || {
        process.said().contains("stopping")
    })
    .await;
    (process, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_service_at_once() {
    for second in [Signal::SIGTERM, Signal::SIGINT] {
        let dir = tempfile::tempdir().unwrap();
        let (mut process, asked) = stopping(&dir).await;
        process.signal(second);
        assert_eq!(process.ends().code(), Some(130), "{}", process.said());
        assert!(!process.said().contains("stopped"), "{}", process.said());
        // What was in its hands was not waited for.
        let mut unanswered = 0;
        for task in asked {
            unanswered += u32::from(task.await.unwrap().is_none());
        }
        assert!(unanswered > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_service_keeps_is_its_own_even_in_a_directory_that_others_can_read() {
    // What most people have; the service inherits it.
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::set_permissions(&state, Permissions::from_mode(0o755)).unwrap();
    let mut command = bare("auth", dir.path());
    command.args([
        "--cluster=life",
        "--bus-scouting=false",
        "--listen=127.0.0.1:0",
    ]);
    let process = started(command, &dir).await;
    let mut files = 0;
    for file in std::fs::read_dir(&state).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file:?} has mode {mode:o}");
        files += 1;
    }
    assert!(files >= 2, "users and a key");
    stop(process);
}
