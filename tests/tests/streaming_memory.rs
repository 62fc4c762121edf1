//! The memory that viewers take is given back to the system when they have gone: of the real
//! program, since it is there that the allocators are as they will be.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

use iceflix_core::api::Kind;
use iceflix_tests::{
    clips::Clip,
    cluster::{Cluster, wait_for},
    players::{rtsp::Client, viewer::Viewer},
    process::{Process, flags},
};

/// What 24 viewers may leave behind, in kilobytes. Measured: they take 11 MB, and leave 2 to 3.
const LEFT: u64 = 6 << 10;

/// The memory of a process that is its alone and not a file's, in kilobytes.
fn anonymous(process: &Process) -> u64 {
    let smaps = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid())).unwrap();
    let line = smaps.lines().find(|line| line.starts_with("Anonymous:"));
    let amount = line.and_then(|line| line.split_ascii_whitespace().nth(1));
    amount.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_given_back_when_streams_end() {
    let media = tempfile::tempdir().unwrap();
    Clip::usual().put_into(media.path()).unwrap();
    let mut cluster = Cluster::start(1, 1, 1, &[]).await;
    let mut words = flags(&cluster.common(Kind::Streaming));
    words.push(format!("--media={}", media.path().display()));
    let log = cluster.dir.path().join("streaming.log");
    let node = Process::service("iceflix-streaming", &words, &log);
    let id = cluster.until_films(1).await[0].id;
    let person = Viewer::admin(&cluster).await;
    let before = anonymous(&node);
    for _ in 0..3 {
        let mut watched = Vec::new();
        let mut players = Vec::new();
        for _ in 0..24 {
            let stream = person.watch(id).await.unwrap();
            let mut player = Client::connect(stream.url()).await.unwrap();
            player.play_interleaved().await.unwrap();
            players.push(player);
            watched.push(stream);
        }
        for player in &mut players {
            player.read_packets(50).await.unwrap();
        }
        let during = anonymous(&node);
        assert!(during > before + LEFT, "{before} kB, then {during} kB");
        for stream in &watched {
            person.stop(stream).await.unwrap();
        }
        let took = wait_for("memory is given back", async || {
            anonymous(&node) <= before + LEFT
        })
        .await;
        let after = anonymous(&node);
        println!("{before} kB, {during} kB with 24 viewers, {after} kB {took:?} after their end");
    }
    drop(node);
    cluster.stop().await;
}
