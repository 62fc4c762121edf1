//! Seeks that do not wait for the answers of those before, on a machine that is busy. Alone in its
//! program, since it keeps the machine busy.

#![allow(
    clippy::unwrap_used,
    reason = "a test that unwraps says where it failed"
)]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};
use streaming_svc::facts::Codec::{H264, Opus};
use support::{
    clips::{Clip, folder},
    mount,
    rtsp::Player,
    start,
};

/// A thread a core that only counts, until this is dropped.
struct Busy(Arc<AtomicBool>);

impl Busy {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        for _ in 0..thread::available_parallelism().unwrap().get() {
            let stop = Arc::clone(&stop);
            thread::spawn(move || while !stop.load(Ordering::Relaxed) {});
        }
        Self(stop)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// gst-rtsp-server 1.22.0 locks up when a seek's flush meets packets that it is about to fetch for
/// TCP. Without the right help, a session of the first few runs gets no answers any more.
#[tokio::test(flavor = "multi_thread")]
async fn every_hasty_seek_is_answered_and_plays() {
    let folder = folder();
    let delivery = start();
    let film = Clip::new("mkv", H264, Opus, 30).make(&folder);
    let _busy = Busy::start();
    for _ in 0..6 {
        let (stream, url) = mount(&delivery, film.clone());
        let mut players: Vec<Player> = (0..4).map(|_| Player::connect(&url)).collect();
        for player in &mut players {
            player.set_up();
        }
        let places = [3, 0, 2, 1, 2].repeat(12);
        for place in &places {
            let range = format!("Range: npt={place}-");
            for player in &mut players {
                player.send("PLAY", &[&range]);
            }
        }
        for player in &mut players {
            match player.read_answers(places.len()) {
                200 => {}
                // Once in a while it is too much for the session: it is told so, and sets up anew.
                status => {
                    assert_eq!(status, 455);
                    assert_eq!(player.request("TEARDOWN", &[]).status, 200);
                    player.session = None;
                    player.set_up();
                    assert_eq!(player.request("PLAY", &[]).status, 200);
                }
            }
            player.read_both_tracks(20);
        }
        drop(players);
        delivery.remove_stream(&stream).await;
    }
}
