//! Pausing, seeking, reaching the end and playing again, seen by players.

#![allow(
    clippy::unwrap_used,
    reason = "a test that unwraps says where it failed"
)]

mod support;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use streaming_svc::{
    delivery::FilmSource,
    facts::Codec::{H264, Opus},
};
use support::{
    clips::{Clip, folder},
    mount,
    rtsp::Player,
    start, wait_for,
};
use tempfile::TempDir;

#[test]
fn pause_seek_and_play_again() {
    let folder = folder();
    let delivery = start();
    let (stream, url) = mount(&delivery, Clip::mp4(4).make(&folder));
    let mut player = Player::connect(&url);
    let options = player.request("OPTIONS", &[]);
    assert!(options.headers["public"].contains("GET_PARAMETER"));
    player.set_up();
    assert_eq!(player.request("GET_PARAMETER", &[]).status, 200);
    let played = player.request("PLAY", &["Range: npt=0-"]);
    assert_eq!(played.status, 200, "{played:?}");
    // Where it begins; where it ends is in the SDP. See `FilmMedia::answer_play`.
    assert_eq!(played.headers["range"], "npt=0-", "{played:?}");
    assert!(played.headers["session"].ends_with(";timeout=90"));
    assert_eq!(delivery.players(&stream), 1);
    player.read_packets(5);
    for range in ["", "npt=2-", "npt=0-", "npt=3-", "npt=1-"] {
        assert_eq!(player.request("PAUSE", &[]).status, 200);
        let header = format!("Range: {range}");
        let headers: &[&str] = if range.is_empty() { &[] } else { &[&header] };
        let played = player.request("PLAY", headers);
        assert_eq!(played.status, 200, "{range}: {played:?}");
        if !range.is_empty() {
            let seconds = |range: &str| -> f64 {
                let start = range.trim_start_matches("npt=").split('-').next();
                start.unwrap().parse().unwrap()
            };
            let got = &played.headers["range"];
            assert!(
                (seconds(got) - seconds(range)).abs() < 0.1,
                "{range}: {played:?}"
            );
        }
        player.read_packets(5);
    }
    assert_eq!(player.request("PAUSE", &[]).status, 200);
    let played = player.request("PLAY", &["Range: npt=1-2"]);
    assert!(played.headers["range"].ends_with("-2"), "{played:?}");
    player.read_to_bye();
    assert_eq!(player.request("TEARDOWN", &[]).status, 200);
    wait_for("the session to end", || delivery.players(&stream) == 0);
}

/// Within half a second of what the packets say: what was made is at most that far ahead.
#[test]
fn where_a_player_is_in_the_film_is_known() {
    let folder = folder();
    let delivery = start();
    let (stream, url) = mount(&delivery, Clip::mp4(20).make(&folder));
    assert_eq!(delivery.position(&stream), None);
    let mut player = Player::connect(&url);
    player.set_up();
    for place in [0, 10, 4] {
        let range = format!("Range: npt={place}-");
        assert_eq!(player.request("PLAY", &[&range]).status, 200);
        let begun = Instant::now();
        for _ in 0..3 {
            player.read_packets(20);
            let at = delivery.position(&stream).unwrap().as_secs_f64();
            let ahead = at - f64::from(place) - begun.elapsed().as_secs_f64();
            // Where it seeks to is the key frame before, up to a second.
            assert!((-1.5..0.5).contains(&ahead), "{at}, {ahead} ahead");
        }
        assert_eq!(player.request("PAUSE", &[]).status, 200);
        let at = delivery.position(&stream);
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(delivery.position(&stream), at, "it pauses");
    }
    assert_eq!(player.request("TEARDOWN", &[]).status, 200);
    wait_for("the session to end", || {
        delivery.position(&stream).is_none()
    });
}

/// Without an index, GStreamer looks through a fragmented film for the place, which takes its time;
/// the server must not take that for a PLAY that stands still.
#[test]
fn a_seek_far_into_a_film_without_an_index_is_waited_for() {
    let folder = folder();
    let delivery = start();
    let (path, facts) = (endless(&folder), Clip::mp4(6000).facts());
    let (_, url) = mount(&delivery, FilmSource { path, facts });
    let mut player = Player::connect(&url);
    player.set_up();
    assert_eq!(player.request("PLAY", &[]).status, 200);
    player.read_packets(5);
    for place in [5500, 2500, 5000, 4000] {
        assert_eq!(player.request("PAUSE", &[]).status, 200);
        let header = format!("Range: npt={place}-");
        assert_eq!(player.request("PLAY", &[&header]).status, 200);
        player.read_packets(5);
    }
}

/// An hour and forty minutes in 10-second fragments.
fn endless(folder: &TempDir) -> PathBuf {
    let (short, long) = (
        folder.path().join("short.mp4"),
        folder.path().join("long.mp4"),
    );
    let ffmpeg = |words: &[&str], path: &Path| {
        let mut command = Command::new("ffmpeg");
        let made = command
            .args(["-v", "error", "-nostdin"])
            .args(words)
            .arg(path)
            .status();
        assert!(made.unwrap().success());
    };
    let video = "testsrc2=size=64x64:rate=5:duration=10";
    let sound = "sine=sample_rate=48000:duration=10";
    ffmpeg(
        &[
            "-f", "lavfi", "-i", video, "-f", "lavfi", "-i", sound, "-g", "50", "-b:a", "16k",
        ],
        &short,
    );
    let again = [
        "-stream_loop",
        "599",
        "-i",
        short.to_str().unwrap(),
        "-c",
        "copy",
    ];
    let fragmented = ["-movflags", "+frag_keyframe+empty_moov+skip_trailer"];
    ffmpeg(&[&again[..], &fragmented].concat(), &long);
    long
}

/// Sound has its frames elsewhere than pictures: a place at a picture's key frame lies within one,
/// and `qtdemux` begins where that begins, which for the pictures is a key frame earlier.
#[test]
fn a_seek_to_a_key_frame_begins_there() {
    let folder = folder();
    let delivery = start();
    let (_, url) = mount(&delivery, Clip::mp4(6).make(&folder));
    let mut player = Player::connect(&url);
    player.set_up();
    for place in [2.0, 4.0, 1.0] {
        let header = format!("Range: npt={place}-");
        let played = player.request("PLAY", &[&header]);
        let from = played.headers["range"].trim_start_matches("npt=");
        let from: f64 = from.trim_end_matches('-').parse().unwrap();
        assert!((from - place).abs() < 0.001, "{place}: {played:?}");
        player.read_packets(5);
    }
}

#[test]
fn past_the_end_is_answered_cleanly() {
    let folder = folder();
    let delivery = start();
    let (_, url) = mount(&delivery, Clip::mp4(2).make(&folder));
    let mut player = Player::connect(&url);
    player.set_up();
    // What there is beyond the last key frame is played.
    let answer = player.request("PLAY", &["Range: npt=100-"]);
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = player.request("PLAY", &["Range: npt=0-"]);
    assert_eq!(answer.status, 200, "{answer:?}");
    player.read_packets(5);
    assert_eq!(player.request("PLAY", &["Range: nonsense"]).status, 400);
}

/// A film whose audio ends a good while before its video.
fn with_short_audio() -> Clip {
    Clip {
        extra: &["-af", "atrim=0:1"],
        ..Clip::new("mkv", H264, Opus, 3)
    }
}

/// Seeks to and fro in four sessions at once: to the end and past it, and to where one track has
/// ended. Players pause before they seek.
#[test]
fn scrubbing_is_answered_and_plays_on() {
    let folder = folder();
    let delivery = start();
    for clip in [with_short_audio(), Clip::mp4(3)] {
        let (_, url) = mount(&delivery, clip.make(&folder));
        let scrub = || {
            let mut player = Player::connect(&url);
            player.set_up();
            assert_eq!(player.request("PLAY", &["Range: npt=0-"]).status, 200);
            for round in 0..25 {
                assert_eq!(player.request("PAUSE", &[]).status, 200, "{round}");
                let range = format!("Range: npt={}-", [100, 0, 2, 1, 2][round % 5]);
                let answer = player.request("PLAY", &[&range]);
                assert_eq!(answer.status, 200, "{round}: {answer:?}");
            }
            player.request("PAUSE", &[]);
            assert_eq!(player.request("PLAY", &["Range: npt=0-"]).status, 200);
            player.read_packets(10);
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(scrub);
            }
        });
    }
}

/// gst-rtsp-server 1.22.0 aborts the whole process when seeks come faster than their answers. Who
/// does that may fare badly, but nobody else does.
#[tokio::test(flavor = "multi_thread")]
async fn seeks_without_waiting_harm_nobody_else() {
    let folder = folder();
    let delivery = start();
    let film = with_short_audio().make(&folder);
    let (hasty, url) = mount(&delivery, film.clone());
    let mut players: Vec<Player> = (0..4).map(|_| Player::connect(&url)).collect();
    for player in &mut players {
        player.set_up();
    }
    for round in 0..40 {
        let range = format!("Range: npt={}-", [100, 0, 2, 1, 2][round % 5]);
        for player in &mut players {
            player.send("PLAY", &[&range]);
        }
    }
    let (other, url) = mount(&delivery, film);
    let mut player = Player::connect(&url);
    player.set_up();
    assert_eq!(player.request("PLAY", &[]).status, 200);
    player.read_packets(10);
    // Not even what is stuck outlives its stream.
    delivery.remove_stream(&hasty).await;
    wait_for("the hasty sessions to end", || {
        delivery.players(&hasty) == 0
    });
    assert_eq!(delivery.players(&other), 1);
}

#[test]
fn plays_again_after_the_end() {
    let folder = folder();
    let delivery = start();
    let (stream, url) = mount(&delivery, Clip::mp4(2).make(&folder));
    let mut player = Player::connect(&url);
    player.set_up();
    assert_eq!(player.request("PLAY", &[]).status, 200);
    player.read_to_bye();
    // The old session may or may not be able to go on; it is told so in a way that VLC bears.
    let answer = player.request("PLAY", &["Range: npt=0-"]);
    assert!(matches!(answer.status, 200 | 455), "{answer:?}");
    assert_eq!(player.request("TEARDOWN", &[]).status, 200);
    player.session = None;
    player.set_up();
    assert_eq!(player.request("PLAY", &[]).status, 200);
    player.read_packets(5);
    assert_eq!(delivery.players(&stream), 1);
}

/// Players leave at the RTCP BYE; it has to come after a seek too.
#[test]
fn the_end_is_told_after_a_seek() {
    let folder = folder();
    let delivery = start();
    for clip in [Clip::mp4(3), with_short_audio()] {
        let (_, url) = mount(&delivery, clip.make(&folder));
        let mut player = Player::connect(&url);
        player.set_up();
        assert_eq!(player.request("PLAY", &["Range: npt=0-"]).status, 200);
        player.read_packets(5);
        assert_eq!(player.request("PAUSE", &[]).status, 200);
        let answer = player.request("PLAY", &["Range: npt=2-"]);
        assert_eq!(answer.status, 200);
        player.read_to_bye();
    }
}

/// GStreamer's own player pauses, resumes, seeks, and is told the end.
#[test]
fn rtspsrc_pauses_resumes_seeks_and_ends() {
    use gst::prelude::*;
    let folder = folder();
    let delivery = start();
    let (_, url) = mount(&delivery, Clip::mp4(3).make(&folder));
    for protocol in ["tcp", "udp"] {
        let launch = format!(
            "rtspsrc name=s location={url} protocols={protocol} latency=50 \
             s. ! queue ! rtph264depay ! h264parse ! avdec_h264 ! fakesink sync=true \
             s. ! queue ! rtpmp4gdepay ! aacparse ! fakesink sync=true"
        );
        let player = gst::parse::launch(&launch).unwrap();
        let position = || {
            player
                .query_position::<gst::ClockTime>()
                .unwrap_or_default()
        };
        player.set_state(gst::State::Playing).unwrap();
        wait_for("the film to play", || {
            position() > gst::ClockTime::from_mseconds(300)
        });
        player.set_state(gst::State::Paused).unwrap();
        player.state(gst::ClockTime::from_seconds(10)).0.unwrap();
        let paused_at = position();
        player.set_state(gst::State::Playing).unwrap();
        wait_for("the film to play on", || {
            position() > paused_at + gst::ClockTime::from_mseconds(300)
        });
        let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::KEY_UNIT;
        let place = gst::ClockTime::from_seconds(2);
        player.seek_simple(flags, place).unwrap();
        let bus = player.bus().unwrap();
        let wanted = [gst::MessageType::Eos, gst::MessageType::Error];
        let last = bus.timed_pop_filtered(gst::ClockTime::from_seconds(20), &wanted);
        let last = last.unwrap_or_else(|| panic!("{protocol}: no end, at {:?}", position()));
        assert_eq!(last.type_(), gst::MessageType::Eos, "{protocol}: {last:?}");
        player.set_state(gst::State::Null).unwrap();
    }
}
