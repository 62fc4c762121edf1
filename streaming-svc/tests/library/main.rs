//! The library on real directories with real clips, made here by ffmpeg.

mod coming;
mod formats;
mod node;
mod unstated;

use node::{Node, clip, has, probe_command};
use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::symlink, net::UnixListener},
    process::ExitCode,
    time::Duration,
};
use streaming_svc::{
    library::{LibraryConfig, LibraryEvent},
    probe::ProbeCommand,
};

/// Not a test: the probe worker, as which this program starts itself.
#[test]
#[ignore = "the probe worker, started by the tests"]
fn probe_worker() {
    if std::env::args().any(|arg| arg == "--test-threads=2") {
        assert_eq!(streaming_svc::probe::worker_main(), ExitCode::SUCCESS);
    }
}

#[tokio::test]
async fn odd_files_harm_no_other() {
    let node = Node::new();
    clip(&node.at("good.mp4"), &[]);
    fs::write(node.at("empty.mp4"), "").unwrap();
    nix::unistd::mkfifo(&node.at("fifo.mp4"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = UnixListener::bind(node.at("socket.mp4")).unwrap();
    symlink(node.at("."), node.at("loop")).unwrap();
    symlink("self.mp4", node.at("self.mp4")).unwrap();
    fs::write(node.state.path().join("secret.mp4"), "secret").unwrap();
    symlink(node.state.path().join("secret.mp4"), node.at("out.mp4")).unwrap();
    let raw = OsStr::from_bytes(b"caf\xe9 \x07.mp4");
    let odd = node.media.path().join(raw);
    clip(&node.at("tmp.mkv"), &[]);
    fs::rename(node.at("tmp.mkv"), &odd).unwrap();

    let running = node.start().await;
    running.library.scanned().await;
    assert_eq!(running.library.films().len(), 2);
    assert_eq!(running.film("good.mp4").unwrap().facts.unplayable, None);
    let film = running
        .library
        .films()
        .into_iter()
        .find(|f| f.path.file_name() == Some(raw));
    let film = film.unwrap();
    assert_eq!(film.facts.unplayable, None);
    assert_eq!(film.name, "caf\u{fffd}");
    let problems = running.library.problems();
    for (name, words) in [
        ("empty.mp4", "empty"),
        ("fifo.mp4", "FIFO"),
        ("socket.mp4", "socket"),
        ("self.mp4", "nowhere"),
        ("out.mp4", "link out of"),
    ] {
        let problem = problems
            .iter()
            .find(|p| p.path.ends_with(name))
            .expect(name);
        assert!(problem.reason.contains(words), "{problem:?}");
    }
    assert_eq!(problems.len(), 5);
    running.stop().await;
}

#[tokio::test]
async fn directories_may_come_later() {
    let mut node = Node::new();
    let missing = node.at("not/yet");
    let file = node.state.path().join("file");
    fs::write(&file, "").unwrap();
    node.roots = vec![missing.clone(), file.join("below")];
    let mut running = node.start().await;
    running.library.scanned().await;
    assert_eq!(running.library.films().len(), 0);
    let problems = running.library.problems();
    assert_eq!(problems.len(), 2);
    assert!(
        problems
            .iter()
            .any(|p| p.path == missing && p.reason.contains("does not exist"))
    );

    fs::create_dir_all(&missing).unwrap();
    clip(&missing.join("a.mp4"), &[]);
    assert!(matches!(running.event().await, LibraryEvent::Added(film) if film.name == "a"));
    has(|| running.library.problems().len() == 1).await;
    // The disk goes, and comes back: nothing is hashed again.
    let away = node.at("away");
    fs::rename(node.at("not"), &away).unwrap();
    assert!(matches!(running.event().await, LibraryEvent::Removed(_)));
    let hashed = running.library.hashed_files();
    fs::rename(&away, node.at("not")).unwrap();
    assert!(matches!(running.event().await, LibraryEvent::Added(film) if film.name == "a"));
    assert_eq!(running.library.hashed_files(), hashed);
    running.stop().await;
}

#[tokio::test]
async fn nothing_is_hashed_twice_over_a_restart() {
    let node = Node::new();
    clip(&node.at("a.mp4"), &[]);
    clip(&node.at("b.mkv"), &[]);
    fs::hard_link(node.at("a.mp4"), node.at("also a.mp4")).unwrap();
    symlink("b.mkv", node.at("also b.mkv")).unwrap();
    let running = node.start().await;
    running.library.scanned().await;
    let films = running.library.films();
    assert_eq!(films.len(), 2);
    assert_eq!(running.library.hashed_files(), 2);
    let sizes: u64 = films.iter().map(|film| film.size).sum();
    assert_eq!(running.library.hashed_bytes(), sizes);
    running.stop().await;

    fs::rename(node.at("a.mp4"), node.at("renamed.mp4")).unwrap();
    // Not even the examining is needed: this worker could not.
    let command = ProbeCommand {
        program: "/nonexistent".into(),
        ..probe_command()
    };
    let running = node.start_with(command).await;
    running.library.scanned().await;
    assert_eq!(running.library.hashed_bytes(), 0);
    let again = running.library.films();
    assert_eq!(again.len(), 2);
    for (before, after) in films.iter().zip(&again) {
        assert_eq!((before.id, &before.facts), (after.id, &after.facts));
    }
    running.stop().await;
}

#[tokio::test]
async fn a_damaged_cache_is_made_anew() {
    let node = Node::new();
    clip(&node.at("a.mp4"), &[]);
    fs::write(
        node.state.path().join("library.sqlite"),
        "rubbish ".repeat(2000),
    )
    .unwrap();
    let running = node.start().await;
    running.library.scanned().await;
    assert_eq!(running.library.films().len(), 1);
    running.stop().await;
    let running = node.start().await;
    running.library.scanned().await;
    assert_eq!(running.library.hashed_files(), 0);
    running.stop().await;
}

#[tokio::test]
async fn files_come_change_and_go() {
    let node = Node::new();
    let mut running = node.start().await;
    running.library.scanned().await;
    fs::create_dir_all(node.at("new/dir")).unwrap();
    clip(&node.at("new/dir/a.mp4"), &[]);
    let LibraryEvent::Added(film) = running.event().await else {
        panic!("not added");
    };
    assert_eq!(film.facts.unplayable, None);
    assert_eq!(running.library.get(&film.id), Some(film.clone()));

    // A second copy is no second film, and keeps it when the first goes.
    fs::copy(node.at("new/dir/a.mp4"), node.at("copy.mp4")).unwrap();
    has(|| running.library.hashed_files() == 2).await;
    assert_eq!(running.library.films().len(), 1);
    fs::remove_file(node.at("new/dir/a.mp4")).unwrap();
    let LibraryEvent::Changed(copy) = running.event().await else {
        panic!("not changed");
    };
    assert_eq!((copy.id, copy.name.as_str()), (film.id, "copy"));

    // A new name is not a new film, and takes no hashing.
    fs::rename(node.at("copy.mp4"), node.at("better name.mp4")).unwrap();
    let LibraryEvent::Changed(renamed) = running.event().await else {
        panic!("not changed");
    };
    assert_eq!(
        (renamed.id, renamed.name.as_str()),
        (film.id, "better name")
    );
    assert_eq!(running.library.hashed_files(), 2);

    fs::remove_file(node.at("better name.mp4")).unwrap();
    assert_eq!(running.event().await, LibraryEvent::Removed(film.id));
    assert_eq!(running.library.films(), []);
    running.stop().await;
}

#[tokio::test]
async fn a_crashing_reader_costs_only_its_file() {
    let node = Node::new();
    clip(&node.at("crash.mp4"), &["-t", "1"]);
    clip(&node.at("good.mp4"), &[]);
    // A double of a parser that crashes on one file: `crash` in hexadecimal.
    let script = r#"while read -r line; do case "$line" in
        *6372617368*) kill -9 $$;;
        *) echo '{"facts":{"container":"mp4","duration_ns":1,"tracks":[],"format":"X","unplayable":null}}';;
        esac; done"#;
    let command = ProbeCommand {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        arg0: None,
        limit: Duration::from_secs(10),
    };
    let running = node.start_with(command).await;
    running.library.scanned().await;
    let crashed = running.film("crash.mp4").unwrap();
    assert!(
        crashed
            .facts
            .unplayable
            .as_deref()
            .unwrap()
            .contains("crash")
    );
    assert_eq!(running.film("good.mp4").unwrap().facts.unplayable, None);
    running.stop().await;

    // It is examined again after a restart, without being hashed again.
    let running = node.start().await;
    running.library.scanned().await;
    assert_eq!(running.library.hashed_files(), 0);
    assert_eq!(running.film("crash.mp4").unwrap().facts.unplayable, None);
    running.stop().await;
}

#[tokio::test]
async fn without_a_place_for_its_state_it_says_so() {
    let node = Node::new();
    let file = node.at("file");
    fs::write(&file, "").unwrap();
    let config = LibraryConfig {
        state_dir: file.join("state"),
        ..node.config(probe_command())
    };
    let error = streaming_svc::library::Library::start(config, Default::default()).await;
    let error = error.err().expect("it must fail").to_string();
    assert!(error.contains("state directory"), "{error}");
}
