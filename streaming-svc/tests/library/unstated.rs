//! Films that do not say how long they are, or whose own account is not the film's.

use crate::node::{Node, clip};
use std::fs;

const H264: [&str; 4] = ["-c:v", "libx264", "-c:a", "aac"];

#[tokio::test]
async fn how_long_a_film_is_need_not_be_stated() {
    let node = Node::new();
    let vp8 = ["-c:v", "libvpx", "-deadline", "realtime", "-c:a", "libopus"];
    let cases: [(&str, &[&str]); 8] = [
        ("recorded.mp4", &["-movflags", "+frag_keyframe+empty_moov"]),
        (
            "based.mp4",
            &["-movflags", "+frag_keyframe+empty_moov+default_base_moof"],
        ),
        ("begun.mp4", &["-movflags", "+frag_keyframe"]),
        ("halves.mp4", &["-frag_duration", "500000"]),
        ("dash.mp4", &["-movflags", "+dash"]),
        (
            "no end.mp4",
            &["-movflags", "+cmaf+frag_keyframe+empty_moov+skip_trailer"],
        ),
        (
            "sound.m4a",
            &[
                "-vn",
                "-movflags",
                "+empty_moov",
                "-frag_duration",
                "300000",
            ],
        ),
        ("live.mkv", &["-live", "1"]),
    ];
    for (name, options) in cases {
        clip(&node.at(name), &[&H264[..], options].concat());
    }
    clip(
        &node.at("browser.webm"),
        &[&vp8[..], &["-live", "1"]].concat(),
    );
    // Cut out of something longer, by its clock.
    let late = ["-output_ts_offset", "100", "-live", "1"];
    clip(&node.at("late.mkv"), &[&H264[..], &late].concat());

    let running = node.start().await;
    running.library.scanned().await;
    let films = running.library.films();
    assert_eq!(films.len(), cases.len() + 2);
    for film in films {
        assert_eq!(film.facts.unplayable, None, "{}", film.name);
        let seconds = film.facts.duration_ns.expect(&film.name) as f64 / 1e9;
        let name = &film.name;
        assert!((1.9..2.15).contains(&seconds), "{name} lasts {seconds} s");
    }
    running.stop().await;
}

#[tokio::test]
async fn the_longer_track_counts() {
    let node = Node::new();
    let fragmented = ["-movflags", "+frag_keyframe+empty_moov"];
    let longer = ["-af", "apad=pad_dur=1.5"];
    clip(
        &node.at("a.mp4"),
        &[&longer[..], &H264, &fragmented].concat(),
    );
    let running = node.start().await;
    running.library.scanned().await;
    let facts = running.film("a.mp4").unwrap().facts.clone();
    let seconds = facts.duration_ns.unwrap() as f64 / 1e9;
    assert!((3.4..3.65).contains(&seconds), "{seconds} s");
    running.stop().await;
}

#[tokio::test]
async fn fragmented_films_that_cannot_be_played_say_what_helps() {
    let node = Node::new();
    let flags = ["-movflags", "+cmaf+frag_keyframe+empty_moov"];
    clip(&node.at("whole.mp4"), &[&H264[..], &flags].concat());
    let mut data = fs::read(node.at("whole.mp4")).unwrap();
    // A recording that was interrupted.
    fs::write(node.at("interrupted.mp4"), &data[..data.len() * 3 / 4]).unwrap();
    // One cut out of a broadcast: every fragment's time (eight bytes, after a version and flags) is
    // billions of ticks later.
    let times: Vec<_> = data
        .windows(4)
        .enumerate()
        .filter(|(_, it)| *it == b"tfdt")
        .collect();
    let times: Vec<usize> = times.into_iter().map(|(at, _)| at + 4).collect();
    assert!(times.len() > 2);
    for at in times {
        assert_eq!(data[at], 1);
        data[at + 7] = 1;
    }
    fs::write(node.at("broadcast.mp4"), data).unwrap();

    let running = node.start().await;
    running.library.scanned().await;
    assert_eq!(running.film("whole.mp4").unwrap().facts.unplayable, None);
    for (name, words) in [
        ("interrupted.mp4", "recording was interrupted"),
        ("broadcast.mp4", "its first frame comes only"),
    ] {
        let reason = running.film(name).unwrap().facts.unplayable.clone();
        let reason = reason.expect(name);
        assert!(
            reason.contains(words) && reason.contains("ffmpeg -i"),
            "{name}: {reason}"
        );
    }
    running.stop().await;
}
