//! Which containers and codecs are recognised, and what is said of the others.

use crate::node::{Node, clip, has};
use std::fs;
use streaming_svc::facts::{Codec, Container};

#[tokio::test]
async fn containers_and_codecs_are_recognised() {
    let node = Node::new();
    let cases = [
        (
            "h264-aac.mp4",
            "libx264",
            "aac",
            Container::Mp4,
            Codec::H264,
            Codec::Aac,
        ),
        (
            "h265-mp3.mp4",
            "libx265",
            "libmp3lame",
            Container::Mp4,
            Codec::H265,
            Codec::Mp3,
        ),
        (
            "h264-opus.mp4",
            "libx264",
            "libopus",
            Container::Mp4,
            Codec::H264,
            Codec::Opus,
        ),
        (
            "h264-aac.mov",
            "libx264",
            "aac",
            Container::Mp4,
            Codec::H264,
            Codec::Aac,
        ),
        (
            "h265-mp3.mov",
            "libx265",
            "libmp3lame",
            Container::Mp4,
            Codec::H265,
            Codec::Mp3,
        ),
        (
            "h264-aac.mkv",
            "libx264",
            "aac",
            Container::Matroska,
            Codec::H264,
            Codec::Aac,
        ),
        (
            "h265-opus.mkv",
            "libx265",
            "libopus",
            Container::Matroska,
            Codec::H265,
            Codec::Opus,
        ),
        (
            "h264-mp3.mkv",
            "libx264",
            "libmp3lame",
            Container::Matroska,
            Codec::H264,
            Codec::Mp3,
        ),
        (
            "vp8-opus.mkv",
            "libvpx",
            "libopus",
            Container::Matroska,
            Codec::Vp8,
            Codec::Opus,
        ),
        (
            "vp8-opus.webm",
            "libvpx",
            "libopus",
            Container::Matroska,
            Codec::Vp8,
            Codec::Opus,
        ),
        (
            "vp9-vorbis.webm",
            "libvpx-vp9",
            "libvorbis",
            Container::Matroska,
            Codec::Vp9,
            Codec::Vorbis,
        ),
        (
            "h264-ac3.mkv",
            "libx264",
            "ac3",
            Container::Matroska,
            Codec::H264,
            Codec::Ac3,
        ),
        (
            "mpeg4-mp2.mkv",
            "mpeg4",
            "mp2",
            Container::Matroska,
            Codec::Mpeg4,
            Codec::Mp3,
        ),
        (
            "mpeg4-aac.mp4",
            "mpeg4",
            "aac",
            Container::Mp4,
            Codec::Mpeg4,
            Codec::Aac,
        ),
        (
            "h264-flac.mkv",
            "libx264",
            "flac",
            Container::Matroska,
            Codec::H264,
            Codec::Flac,
        ),
        (
            "h264-pcm.mov",
            "libx264",
            "pcm_s16le",
            Container::Mp4,
            Codec::H264,
            Codec::Pcm,
        ),
        (
            "h264-pcm24.mkv",
            "libx264",
            "pcm_s24le",
            Container::Matroska,
            Codec::H264,
            Codec::Pcm24,
        ),
    ];
    for (name, video, audio, ..) in cases {
        clip(&node.at(name), &["-c:v", video, "-c:a", audio]);
    }
    let running = node.start().await;
    running.library.scanned().await;
    for (name, _, _, container, video, audio) in cases {
        let film = running
            .film(name)
            .unwrap_or_else(|| panic!("{name} is missing"));
        let facts = &film.facts;
        assert_eq!(facts.unplayable, None, "{name}");
        assert_eq!(facts.container, Some(container), "{name}");
        let codecs: Vec<_> = facts.tracks.iter().map(|track| track.codec).collect();
        assert_eq!(codecs, [video, audio], "{name}");
        assert_eq!(facts.tracks[0].pad, "video_0", "{name}");
        assert_eq!(facts.tracks[1].pad, "audio_0", "{name}");
        if matches!(video, Codec::H264 | Codec::H265) {
            assert!(
                facts.tracks[0].caps.contains("alignment=(string)au"),
                "{name}"
            );
            assert!(facts.tracks[0].caps.contains("codec_data"), "{name}");
        }
        let seconds = facts.duration_ns.expect(name) as f64 / 1e9;
        assert!((1.9..2.2).contains(&seconds), "{name} lasts {seconds} s");
        assert!(facts.format.contains("160×120"), "{}", facts.format);
        assert_eq!(film.name, name.rsplit_once('.').expect(name).0);
        assert_eq!(film.size, fs::metadata(&film.path).unwrap().len());
    }
    assert_eq!(running.library.problems(), []);
    running.stop().await;
}

#[tokio::test]
async fn what_cannot_be_played_is_listed_with_the_reason() {
    let node = Node::new();
    clip(
        &node.at("theora.mkv"),
        &["-c:v", "libtheora", "-c:a", "libopus"],
    );
    clip(
        &node.at("old.avi"),
        &["-c:v", "mpeg4", "-c:a", "libmp3lame"],
    );
    clip(&node.at("dvd.mpg"), &["-c:v", "mpeg2video", "-c:a", "mp2"]);
    clip(
        &node.at("mpeg2.mkv"),
        &["-c:v", "mpeg2video", "-c:a", "aac"],
    );
    clip(
        &node.at("surround.mkv"),
        &["-c:v", "libx264", "-c:a", "eac3"],
    );
    fs::write(
        node.at("letter.mp4"),
        "Dear reader, this is no film at all. ".repeat(50),
    )
    .unwrap();
    fs::write(node.at("zeroes.mkv"), [0; 5000]).unwrap();
    clip(&node.at("whole.mp4"), &["-movflags", "+faststart"]);
    clip(&node.at("late.mp4"), &[]);
    clip(&node.at("whole.mkv"), &[]);
    for (from, to) in [
        ("whole.mp4", "half.mp4"),
        ("late.mp4", "cut.mp4"),
        ("whole.mkv", "half.mkv"),
    ] {
        let data = fs::read(node.at(from)).unwrap();
        fs::write(node.at(to), &data[..data.len() * 2 / 3]).unwrap();
    }
    let mut data = fs::read(node.at("late.mp4")).unwrap();
    let index = data.windows(4).rposition(|four| four == b"moov").unwrap();
    data.truncate(index - 4);
    fs::write(node.at("noindex.mp4"), data).unwrap();
    let running = node.start().await;
    running.library.scanned().await;
    has(|| running.library.films().len() == 14).await;
    for (name, words) in [
        (
            "theora.mkv",
            "its video is Theora, which is not delivered yet",
        ),
        ("old.avi", "AVI files are not delivered yet"),
        ("dvd.mpg", "MPEG files are not delivered yet"),
        (
            "mpeg2.mkv",
            "its video is MPEG-2, which is not delivered yet",
        ),
        ("letter.mp4", "not a film's"),
        ("zeroes.mkv", "no known kind"),
        ("half.mp4", "bytes are missing at its end"),
        ("cut.mp4", "bytes are missing at its end"),
        ("noindex.mp4", "no index (moov)"),
        ("half.mkv", "bytes are missing at its end"),
    ] {
        let film = running
            .film(name)
            .unwrap_or_else(|| panic!("{name} is missing"));
        let reason = film.facts.unplayable.as_deref().expect(name);
        assert!(reason.contains(words), "{name}: {reason}");
        assert!(film.facts.tracks.is_empty(), "{name}");
    }
    let film = running.film("surround.mkv").unwrap();
    assert_eq!(film.facts.unplayable, None);
    assert!(
        film.facts.format.ends_with("E-AC-3 audio is left out"),
        "{}",
        film.facts.format
    );
    assert_eq!(film.facts.tracks.len(), 1);
    running.stop().await;
}
