//! What streams take is given back when they end. Alone in its program: it counts what the whole
//! process has.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

use iceflix_tests::{
    clips::Clip,
    cluster::{Cluster, wait_for},
    players::{
        rtsp::{self, Client},
        viewer::{Viewer, Watched},
    },
};
use std::fs;

/// What may differ without being lost: a thread of a pool that has not gone yet, a connection
/// between services.
const SLACK: usize = 4;

/// Open files and threads of this process.
fn taken() -> (usize, usize) {
    let count = |path| fs::read_dir(path).unwrap().count();
    (count("/proc/self/fd"), count("/proc/self/task"))
}

/// Half of the viewers play over TCP, half over UDP; every third is only there to be told of it.
async fn viewer(watched: &Watched, number: usize) -> Client {
    let mut client = Client::connect(watched.url()).await.unwrap();
    match number % 3 {
        0 => client.play_interleaved().await.unwrap(),
        1 => {
            client.describe().await.unwrap();
            let host = rtsp::server_of(watched.url()).unwrap().ip();
            let [rtp, _rtcp] = rtsp::udp_pair(host).await.unwrap();
            let port = rtp.local_addr().unwrap().port();
            let transport = format!("RTP/AVP;unicast;client_port={port}-{}", port + 1);
            client.set_up(0, &transport).await.unwrap();
            client.play().await.unwrap();
        }
        _ => drop(client.describe().await.unwrap()),
    }
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_and_threads_are_given_back_when_streams_end() {
    let media = tempfile::tempdir().unwrap();
    Clip::usual().put_into(media.path()).unwrap();
    let cluster = Cluster::start(1, 1, 1, &[media.path()]).await;
    let id = cluster.until_films(1).await[0].id;
    let person = Viewer::admin(&cluster).await;

    let mut baseline = None;
    // The first round fills pools that stay.
    for round in 0..5 {
        let before = taken();
        let mut watched = Vec::new();
        let mut players = Vec::new();
        for number in 0..12 {
            let stream = person.watch(id).await.unwrap();
            players.push(viewer(&stream, number).await);
            watched.push(stream);
        }
        let during = taken();
        assert!(
            during.0 > before.0 + 12 && during.1 > before.1 + 12,
            "{during:?}"
        );
        // Some leave by themselves, some are sent away.
        players.truncate(8);
        for stream in &watched {
            person.stop(stream).await.unwrap();
        }
        for mut player in players {
            assert!(!player.read_for(iceflix_tests::cluster::PATIENCE).await);
        }
        if round == 0 {
            // Its threads linger for a moment; what is there after that is the measure.
            wait_for("most of it is given back", async || {
                taken().0 < before.0 + 12 && taken().1 < before.1 + 40
            })
            .await;
            tokio::time::sleep(std::time::Duration::from_secs(3)).await;
            baseline = Some(taken());
            continue;
        }
        let (files, threads) = baseline.unwrap();
        wait_for("everything is given back", async || {
            let now = taken();
            now.0 <= files + SLACK && now.1 <= threads + SLACK
        })
        .await;
    }
    cluster.stop().await;
}
