//! Files and directories that cannot be used yet, and are found by themselves once they can.

use crate::node::{Node, Running, clip, has};
use nix::unistd::{Uid, geteuid, setfsuid};
use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::Write as _,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    time::{Duration, SystemTime},
};
use streaming_svc::library::LibraryEvent;

/// Starts a library that may not do what the superuser may: the threads it starts are somebody
/// else's, as far as files are concerned.
async fn start_as_somebody(node: &Node) -> Running {
    if !geteuid().is_root() {
        return node.start().await;
    }
    mode(node.media.path(), 0o755);
    mode(node.state.path(), 0o777);
    let nobody = Uid::from_raw(65534);
    let before = setfsuid(nobody);
    // It answers what was before, so a second time tells whether it was done.
    assert_eq!(setfsuid(nobody), nobody);
    let running = node.start().await;
    setfsuid(before);
    running
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode that can be set");
}

#[tokio::test]
async fn what_may_not_be_read_is_a_problem_until_it_may() {
    let node = Node::new();
    clip(&node.at("good.mp4"), &[]);
    clip(&node.at("locked.mp4"), &["-t", "1"]);
    clip(&node.state.path().join("inside.mp4"), &["-t", "1.5"]);
    clip(&node.state.path().join("other.mp4"), &["-t", "1.2"]);
    for name in ["closed", "a", "z"] {
        fs::create_dir(node.at(name)).unwrap();
        mode(&node.at(name), 0o755);
    }
    fs::copy(
        node.state.path().join("inside.mp4"),
        node.at("closed/inside.mp4"),
    )
    .unwrap();
    for name in ["locked.mp4", "closed"] {
        mode(&node.at(name), 0o000);
    }
    let mut running = start_as_somebody(&node).await;
    running.library.scanned().await;
    assert_eq!(running.library.films().len(), 1);
    let problems = running.library.problems();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems.iter().all(|p| p.reason.contains("permissions")));
    assert!(matches!(running.event().await, LibraryEvent::Added(film) if film.name == "good"));

    // What is beside it is told of nevertheless, wherever that is.
    for name in ["a/other.mp4", "z/other.mp4", "other.mp4"] {
        fs::copy(node.state.path().join("other.mp4"), node.at(name)).unwrap();
        assert!(matches!(running.event().await, LibraryEvent::Added(film) if film.name == "other"));
        fs::remove_file(node.at(name)).unwrap();
        assert!(matches!(running.event().await, LibraryEvent::Removed(_)));
    }
    for (name, film_name) in [("locked.mp4", "locked"), ("closed", "inside")] {
        mode(&node.at(name), 0o755);
        assert!(
            matches!(running.event().await, LibraryEvent::Added(film) if film.name == film_name)
        );
    }
    has(|| running.library.problems().is_empty()).await;
    fs::copy(
        node.state.path().join("other.mp4"),
        node.at("closed/other.mp4"),
    )
    .unwrap();
    assert!(matches!(running.event().await, LibraryEvent::Added(film) if film.name == "other"));
    running.stop().await;
}

#[tokio::test]
async fn a_media_directory_that_may_not_be_read_is_a_problem_until_it_may() {
    let mut node = Node::new();
    let closed = node.at("closed");
    fs::create_dir(&closed).unwrap();
    clip(&closed.join("good.mp4"), &[]);
    mode(&closed, 0o000);
    node.roots = vec![closed.clone()];
    let mut running = start_as_somebody(&node).await;
    running.library.scanned().await;
    assert!(running.library.films().is_empty());
    let problems = running.library.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].reason.contains("permissions"));
    mode(&closed, 0o755);
    assert!(matches!(running.event().await, LibraryEvent::Added(film) if film.name == "good"));
    has(|| running.library.problems().is_empty()).await;
    running.stop().await;
}

#[tokio::test]
async fn a_half_copied_file_is_looked_at_again() {
    let node = Node::new();
    clip(&node.state.path().join("whole.mp4"), &[]);
    let data = fs::read(node.state.path().join("whole.mp4")).unwrap();
    let mut running = node.start().await;
    fs::write(node.at("a.mp4"), &data[..data.len() / 2]).unwrap();
    let LibraryEvent::Added(half) = running.event().await else {
        panic!("not added");
    };
    assert!(
        half.facts
            .unplayable
            .as_deref()
            .unwrap()
            .contains("incomplete")
    );
    fs::write(node.at("a.mp4"), &data).unwrap();
    assert_eq!(running.event().await, LibraryEvent::Removed(half.id));
    let LibraryEvent::Added(whole) = running.event().await else {
        panic!("not added");
    };
    assert_eq!(whole.facts.unplayable, None);
    assert_ne!(whole.id, half.id);
    running.stop().await;
}

/// Some tools give a copy its original's time before it is whole.
#[tokio::test]
async fn a_half_copied_file_that_looks_old_is_looked_at_again() {
    let node = Node::new();
    clip(&node.state.path().join("whole.mkv"), &[]);
    let data = fs::read(node.state.path().join("whole.mkv")).unwrap();
    let long_ago = SystemTime::now() - Duration::from_secs(1_000_000);
    let (first, last) = data.split_at(data.len() / 2);
    let path = node.at("a.mkv");
    let copy = |part: &[u8]| {
        let mut file: File = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .unwrap();
        file.write_all(part).unwrap();
        file.set_modified(long_ago).unwrap();
    };
    let mut running = node.start().await;
    copy(first);
    let LibraryEvent::Added(half) = running.event().await else {
        panic!("not added");
    };
    assert!(half.facts.unplayable.is_some());
    copy(last);
    assert_eq!(running.event().await, LibraryEvent::Removed(half.id));
    let LibraryEvent::Added(whole) = running.event().await else {
        panic!("not added");
    };
    assert_eq!(whole.facts.unplayable, None);
    running.stop().await;
}

#[tokio::test]
async fn what_becomes_a_film_is_listed_by_itself() {
    let node = Node::new();
    let film = node.state.path().join("whole.mp4");
    clip(&film, &[]);
    let data = fs::read(&film).unwrap();
    fs::write(node.at("empty.mp4"), "").unwrap();
    symlink("later.mp4", node.at("dangling.mp4")).unwrap();
    nix::unistd::mkfifo(&node.at("fifo.mp4"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::write(node.at("being copied.mp4.part"), &data).unwrap();
    let mut running = node.start().await;
    running.library.scanned().await;
    assert!(running.library.films().is_empty());
    assert_eq!(running.library.problems().len(), 3 + 1);

    // Distinct contents: what follows an MP4's last part does not matter.
    let with = |more: &[u8]| [&data, more].concat();
    fs::write(node.at("empty.mp4"), with(b"1")).unwrap();
    assert!(matches!(running.event().await, LibraryEvent::Added(film) if film.name == "empty"));
    fs::write(node.at("later.mp4"), with(b"2")).unwrap();
    assert!(matches!(running.event().await, LibraryEvent::Added(film) if film.name == "later"));
    fs::write(node.at(".fifo"), with(b"3")).unwrap();
    fs::rename(node.at(".fifo"), node.at("fifo.mp4")).unwrap();
    assert!(matches!(running.event().await, LibraryEvent::Added(film) if film.name == "fifo"));
    let (part, whole) = (
        node.at("being copied.mp4.part"),
        node.at("being copied.mp4"),
    );
    fs::rename(part, whole).unwrap();
    assert!(
        matches!(running.event().await, LibraryEvent::Added(film) if film.name == "being copied")
    );
    has(|| running.library.problems().is_empty()).await;
    running.stop().await;
}
