//! Films go on at another node when their own dies, hangs or leaves: real nodes, the real client,
//! mpv without a screen.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

use iceflix_core::{
    api::{
        Kind, MediaId,
        streaming::{StreamError, StreamEvent},
    },
    service::Server,
};
use iceflix_tests::{
    cluster::{ADMIN_PASSWORD, Cluster, film, until_listed, wait_for},
    person::{Home, Staying, told},
    players::{
        Transport, ffmpeg,
        viewer::{Viewer, Watched},
    },
    process::{Process, flags},
};
use nix::sys::signal::Signal;
use std::{
    fs,
    io::Read as _,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Child,
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

/// Two nodes that have the same film, as processes; the rest of the cluster is here.
struct Scene {
    cluster: Cluster,
    /// Each with its name and how it is started.
    nodes: Vec<(String, Vec<String>, Process)>,
    id: MediaId,
}

impl Scene {
    async fn new(seconds: u32, grace: &str) -> Self {
        let mut cluster = Cluster::start(1, 1, 1, &[]).await;
        let original = film(&cluster.dir.path().join("film.mp4"), seconds, 440);
        let mut nodes = Vec::new();
        for _ in 0..2 {
            let common = cluster.common(Kind::Streaming);
            let media = common.state_dir.join("films");
            fs::create_dir_all(&media).unwrap();
            fs::copy(&original, media.join("film.mp4")).unwrap();
            let mut words = flags(&common);
            words.push(format!("--media={}", media.display()));
            words.push(format!("--drain-grace={grace}"));
            let name = common.instance.unwrap().to_string();
            let log = cluster.dir.path().join(format!("{name}.log"));
            let node = Process::service("iceflix-streaming", &words, &log);
            nodes.push((name, words, node));
        }
        let id = cluster.until_films(1).await[0].id;
        let scene = Self { cluster, nodes, id };
        scene.until_both_have_it().await;
        scene
    }

    /// Somebody who is logged in.
    fn home(&self) -> Home {
        let home = self.cluster.home();
        home.login("admin", ADMIN_PASSWORD).with_code(0);
        home
    }

    /// The node that answers players at the address in this URL.
    fn node_of(&self, url: &str) -> usize {
        let authority = url.split('/').nth(2).unwrap();
        let here = format!("rtsp={authority}");
        let mut nodes = self.nodes.iter();
        let at =
            nodes.position(|(.., node)| node.said().split_whitespace().any(|word| word == here));
        at.unwrap_or_else(|| panic!("{url} is no node's"))
    }

    /// Starts a node again that was killed.
    fn again(&mut self, node: usize) {
        let (_, words, process) = &mut self.nodes[node];
        let log = process.log().to_owned();
        *process = Process::service("iceflix-streaming", words, &log);
    }

    async fn until_both_have_it(&self) {
        wait_for("both nodes have it", async || {
            let films = self.cluster.films().await.unwrap();
            films.first().is_some_and(|film| film.providers == 2)
        })
        .await;
    }

    async fn stop(self) {
        drop(self.nodes);
        self.cluster.stop().await;
    }
}

/// What a player showed from one start on.
#[derive(Debug, Clone)]
struct Run {
    url: String,
    pictures: Vec<Picture>,
}

#[derive(Debug, Clone, Copy)]
struct Picture {
    /// Where in the film it is, in seconds.
    place: f64,
    when: Instant,
}

/// mpv without a screen, which writes down what it plays.
struct Screen {
    dir: tempfile::TempDir,
    /// Each time that it was started.
    shown: Arc<Mutex<Vec<Run>>>,
}

impl Screen {
    fn new() -> Self {
        let screen = Self {
            dir: tempfile::tempdir().unwrap(),
            shown: Arc::default(),
        };
        let (written, shown) = (screen.written(), Arc::downgrade(&screen.shown));
        // A thread of its own: whatever the test does, each picture has the time at which it came.
        std::thread::spawn(move || look_at(&written, &shown));
        let script = format!(
            "local file = io.open('{}', 'a')
             file:setvbuf('line')
             mp.register_event('start-file', function()
                 file:write('begin ', mp.get_property('path'), '\\n')
             end)
             mp.observe_property('time-pos', 'number', function(_, at)
                 if at then file:write(string.format('%.3f\\n', at)) end
             end)",
            screen.written().display()
        );
        let tell = screen.dir.path().join("tell.lua");
        fs::write(&tell, script).unwrap();
        let program = format!(
            "#!/bin/sh\nexec mpv --no-config --vo=null --ao=null --script={} \"$@\" >>'{}' 2>&1\n",
            tell.display(),
            screen.dir.path().join("said").display()
        );
        fs::write(screen.program(), program).unwrap();
        fs::set_permissions(screen.program(), fs::Permissions::from_mode(0o755)).unwrap();
        screen
    }

    fn program(&self) -> PathBuf {
        self.dir.path().join("mpv")
    }

    fn written(&self) -> PathBuf {
        self.dir.path().join("written")
    }

    /// What it has shown so far, each time that it was started.
    fn shown(&self) -> Vec<Run> {
        self.shown.lock().unwrap().clone()
    }

    /// Waits until it plays for the so-manieth time, and has shown this much.
    async fn until_it_shows(&self, time: usize, seconds: f64) -> Run {
        let mut run = None;
        wait_for("the film plays", async || {
            run = self.shown().into_iter().nth(time - 1);
            run.as_ref().is_some_and(|run| {
                let ends = run.pictures.first().zip(run.pictures.last());
                ends.is_some_and(|(first, last)| last.place - first.place >= seconds)
            })
        })
        .await;
        run.unwrap()
    }

    fn plays(&self, home: &Home, id: MediaId) -> Child {
        let program = self.program();
        let words = [
            "play",
            &id.to_string(),
            "--player",
            program.to_str().unwrap(),
        ];
        home.command(&words).spawn().unwrap()
    }
}

/// Reads what players write, as they write it, until nobody wants to know.
fn look_at(written: &Path, shown: &Weak<Mutex<Vec<Run>>>) {
    let (mut file, mut text) = (None, String::new());
    while let Some(shown) = shown.upgrade() {
        file = file.or_else(|| fs::File::open(written).ok());
        if let Some(file) = &mut file {
            file.read_to_string(&mut text).unwrap();
        }
        let when = Instant::now();
        // The last line may not be whole yet.
        let rest = text.split_off(text.rfind('\n').map_or(0, |end| end + 1));
        let mut shown = shown.lock().unwrap();
        for line in text.lines() {
            match (line.strip_prefix("begin "), shown.last_mut()) {
                (Some(url), _) => shown.push(Run {
                    url: url.to_owned(),
                    pictures: Vec::new(),
                }),
                (None, Some(run)) => run.pictures.push(Picture {
                    place: line.parse().unwrap(),
                    when,
                }),
                (None, None) => panic!("{line}"),
            }
        }
        drop(shown);
        text = rest;
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn interrupt(child: &Child) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, Signal::SIGINT).unwrap();
}

/// Does this to the node that plays, twice; `mend` makes it well again. The film goes on at the
/// other within 3 s, where it was.
async fn goes_on(fault: impl Fn(&mut Scene, usize), mend: impl Fn(&mut Scene, usize), why: &str) {
    let mut scene = Scene::new(60, "5s").await;
    let (home, screen) = (scene.home(), Screen::new());
    let playing = screen.plays(&home, scene.id);
    let (mut stood_still, mut took) = (Vec::new(), Vec::new());
    for time in 1..=2 {
        let url = screen.until_it_shows(time, 2.5).await.url;
        let node = scene.node_of(&url);
        let begun = Instant::now();
        fault(&mut scene, node);
        let before = screen.shown()[time - 1].pictures.last().unwrap().place;
        let next = screen.until_it_shows(time + 1, 0.0).await;
        assert_ne!(scene.node_of(&next.url), node);
        // The one before has ended; what it had received it may have shown after the fault.
        let last = *screen.shown()[time - 1].pictures.last().unwrap();
        let first = next.pictures[0];
        stood_still.push(first.when - last.when);
        took.push(first.when - begun);
        // It shows a little again, and skips nothing.
        let after = first.place;
        println!(
            "{before} s, then {after} s; no picture for {:?}, {:?} after the fault",
            stood_still[time - 1],
            took[time - 1]
        );
        assert!(
            (before - 2.5..last.place.max(before) + 0.2).contains(&after),
            "{before} {after}"
        );
        mend(&mut scene, node);
        scene.until_both_have_it().await;
    }
    interrupt(&playing);
    let ended = told(playing);
    assert_eq!(ended.code, 0, "{ended:?}");
    let said = ended.stderr.matches(why).count();
    assert_eq!(said, 2, "{ended:?}");
    // From the last picture there to the first here. `make faults` holds each gap to that; here other
    // tests run meanwhile.
    let most = Duration::from_secs(3);
    assert!(
        stood_still.iter().all(|gap| *gap < most * 2),
        "{stood_still:?}"
    );
    for times in [stood_still, took] {
        let best = times.iter().min().unwrap();
        assert!(*best < most, "{times:?}");
    }
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_film_goes_on_elsewhere_when_its_node_dies() {
    goes_on(
        |scene, node| scene.nodes[node].2.signal(Signal::SIGKILL),
        Scene::again,
        "its node went away; it goes on at",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_film_goes_on_elsewhere_when_its_node_hangs() {
    goes_on(
        |scene, node| scene.nodes[node].2.signal(Signal::SIGSTOP),
        |scene, node| scene.nodes[node].2.signal(Signal::SIGCONT),
        "its node went away; it goes on at",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_film_goes_on_elsewhere_when_its_node_leaves_and_the_node_goes_at_once() {
    goes_on(
        |scene, node| scene.nodes[node].2.signal(Signal::SIGTERM),
        |scene, node| {
            let ended = scene.nodes[node].2.ends();
            assert!(ended.success(), "{ended}");
            scene.again(node);
        },
        "its node is leaving; it goes on at",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_is_printed_anew_when_its_node_dies() {
    let scene = Scene::new(20, "0s").await;
    let home = scene.home();
    let mut url = Staying::start(home.command(&["url", &scene.id.to_string()]));
    let first = url.line().trim().to_owned();
    let node = scene.node_of(&first);
    scene.nodes[node].2.signal(Signal::SIGKILL);
    let second = url.line().trim().to_owned();
    let other = scene.node_of(&second);
    assert_ne!(other, node);
    // It is said before the URL is printed, and to people: standard output has URLs only.
    let name = &scene.nodes[other].0;
    let why = format!("its node went away; it goes on at {name}, there:");
    let said = url.said();
    assert_eq!(said.matches(&why).count(), 1, "{said}");
    let probed = ffmpeg::probe(&second, Transport::Tcp).await.unwrap();
    assert!((probed.duration_s - 20.0).abs() < 0.5, "{probed:?}");
    assert_eq!(url.interrupt(), 0);
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_asked_of_the_next_node_when_one_is_dead_or_hangs() {
    let scene = Scene::new(20, "0s").await;
    let home = scene.home();
    for fault in [Signal::SIGSTOP, Signal::SIGKILL] {
        scene.nodes[0].2.signal(fault);
        // At once, before anybody knows; several times, since either node may be the first.
        for _ in 0..3 {
            let mut url = Staying::start(home.command(&["url", &scene.id.to_string()]));
            assert_eq!(scene.node_of(url.line().trim()), 1);
            assert_eq!(url.interrupt(), 0);
        }
        scene.nodes[0].2.signal(Signal::SIGCONT);
        if fault == Signal::SIGSTOP {
            scene.until_both_have_it().await;
        }
    }
    scene.stop().await;
}

/// Nobody who plays is cut off before the grace is over, and nothing new begins.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_leaves_says_so_and_lets_its_films_end() {
    let mut scene = Scene::new(6, "50s").await;
    let cluster = &scene.cluster;
    let viewer = Viewer::admin(cluster).await;
    let watched: Watched = viewer.watch(scene.id).await.unwrap();
    let node = scene.node_of(watched.url());
    let url = watched.url().to_owned();
    let playing = tokio::spawn(async move { ffmpeg::play(&url, Transport::Tcp, None).await });
    wait_for("it plays", async || {
        viewer.status(&watched).await.unwrap().position_ms > Some(1000)
    })
    .await;
    scene.nodes[node].2.signal(Signal::SIGTERM);
    let event = viewer.next_event(&watched).await;
    assert_eq!(event, Ok(StreamEvent::Leaving));
    let token = viewer.token().await;
    let refused = viewer.watch_at(watched.node, token, scene.id).await;
    assert_eq!(refused.unwrap_err(), StreamError::Draining);
    let name = scene.nodes[node].0.clone();
    until_listed(cluster.name(), cluster.mains[0].address(), |all| {
        let mut leaving = all.iter().filter(|it| it.draining);
        leaving.any(|it| it.instance.as_str() == name)
    })
    .await;
    // The client takes the other node's, without a word.
    let home = scene.home();
    let mut other = Staying::start(home.command(&["url", &scene.id.to_string()]));
    assert_ne!(scene.node_of(other.line().trim()), node);
    assert_eq!(other.interrupt(), 0);

    let decoded = playing.await.unwrap().unwrap();
    let whole = ffmpeg::decode_file(cluster.dir.path().join("film.mp4")).await;
    assert_eq!(decoded.frames, whole.unwrap().frames);
    // Its controller is done with it; the node goes long before its grace is over.
    viewer.stop(&watched).await.unwrap();
    let before = Instant::now();
    assert!(scene.nodes[node].2.ends().success());
    assert!(before.elapsed() < Duration::from_secs(30));
    scene.stop().await;
}
