//! What delivery takes is given back, and a player gets its first packet soon. In a process of its
//! own, so that no other test's threads are counted.

#![allow(
    clippy::unwrap_used,
    reason = "a test that unwraps says where it failed"
)]

mod support;

use iceflix_core::api::StreamId;
use std::{net::UdpSocket, time::Instant};
use streaming_svc::delivery::{Delivery, DeliveryConfig, FilmSource};
use support::{
    LOCALHOST,
    clips::{Clip, folder},
    rtsp::Player,
    wait_for,
};

fn count(folder: &str) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

/// Plays so many sessions at once, half of them over UDP, and ends them by removing the streams.
async fn sessions(delivery: &Delivery, film: &FilmSource, many: usize) {
    let mut streams = Vec::new();
    let mut players = Vec::new();
    for turn in 0..many {
        let stream = StreamId::random();
        support::add(delivery, stream, film.clone());
        let mut player = Player::connect(&delivery.url(&stream, LOCALHOST));
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        if turn % 2 == 0 {
            player.set_up();
        } else {
            player.set_up_udp(udp.local_addr().unwrap().port());
        }
        assert_eq!(player.request("PLAY", &[]).status, 200);
        if turn % 2 == 0 {
            player.read_packets(3);
        }
        streams.push(stream);
        players.push((player, udp));
    }
    for stream in &streams {
        assert_eq!(delivery.players(stream), 1);
        delivery.remove_stream(stream).await;
    }
    for (mut player, _) in players {
        player.read_to_end();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn threads_and_descriptors_are_given_back() {
    let folder = folder();
    let film = Clip::mp4(3).make(&folder);
    let delivery = Delivery::start(DeliveryConfig::default()).unwrap();
    // The first sessions make what stays: GStreamer's and GLib's shared threads.
    sessions(&delivery, &film, 2).await;
    let before = (count("/proc/self/task"), count("/proc/self/fd"));
    sessions(&delivery, &film, 20).await;
    // GLib keeps a few idle threads for its pools.
    wait_for("threads and descriptors to be given back", || {
        count("/proc/self/task") <= before.0 + 4 && count("/proc/self/fd") <= before.1 + 4
    });
    first_packets(&delivery, &film);
    delivery.shutdown().await;
    wait_for("all threads to end", || {
        count("/proc/self/task") <= before.0
    });
}

/// How long a player waits for its first packet over TCP; printed, for people.
fn first_packets(delivery: &Delivery, film: &FilmSource) {
    let mut waits = Vec::new();
    for _ in 0..21 {
        let stream = StreamId::random();
        support::add(delivery, stream, film.clone());
        let began = Instant::now();
        let mut player = Player::connect(&delivery.url(&stream, LOCALHOST));
        let described = player.request("DESCRIBE", &[]);
        assert_eq!(described.status, 200);
        let describing = began.elapsed();
        player.set_up_undescribed();
        let setting_up = began.elapsed();
        player.request("PLAY", &[]);
        let answered = began.elapsed();
        player.read_packets(1);
        let first = player.first_packet.unwrap() - began;
        waits.push((first, describing, setting_up, answered));
    }
    waits.sort();
    let (first, describing, setting_up, answered) = waits[waits.len() / 2];
    println!(
        "first packet after {first:?} (described {describing:?}, set up {setting_up:?}, \
         PLAY answered {answered:?}); slowest {:?}",
        waits[waits.len() - 1].0
    );
}
