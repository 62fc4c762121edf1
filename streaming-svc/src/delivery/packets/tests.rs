//! What a viewer gets is what GStreamer's payloaders make of the film, whoever else watches it, wherever
//! they are, and however little memory there is.

use super::{Store, TrackSource, build};
use crate::{
    delivery::{film::FilmSource, pipeline},
    facts::{Codec, Container, Facts, Track},
};
use gst::prelude::*;
use std::{
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// How long the film is, in seconds; there is a key frame every two.
const SECONDS: u64 = 12;

/// Room for all of it.
const ROOM: usize = 64 << 20;

/// Room for less than a second of it.
const LITTLE: usize = 64 << 10;

/// How long anything may take.
const PATIENCE: gst::ClockTime = gst::ClockTime::from_seconds(20);

/// A packet: its time in the pipeline in milliseconds, and its payload.
type Seen = (i64, Vec<u8>);

/// A film with frames that are sent in another order than they are shown.
fn film(folder: &Path, container: Container) -> FilmSource {
    gst::init().unwrap();
    let extension = match container {
        Container::Mp4 => "mp4",
        Container::Matroska => "mkv",
    };
    let path = folder.join("film").with_extension(extension);
    let length = format!("duration={SECONDS}");
    let made = Command::new("ffmpeg")
        .args(["-loglevel", "error", "-nostdin", "-f", "lavfi", "-i"])
        .arg(format!("testsrc2=size=320x180:rate=25:{length}"))
        .args(["-f", "lavfi", "-i"])
        .arg(format!("sine=frequency=440:sample_rate=48000:{length}"))
        .args(["-c:v", "libx264", "-preset", "veryfast", "-g", "50"])
        .args(["-bf", "2", "-pix_fmt", "yuv420p", "-c:a", "aac"])
        .arg(&path)
        .status();
    assert!(made.expect("ffmpeg is installed").success());
    let track = |pad: &str, codec| Track {
        pad: pad.to_owned(),
        codec,
        caps: String::new(),
        summary: String::new(),
        language: None,
    };
    let facts = Facts {
        container: Some(container),
        duration_ns: Some(SECONDS * 1_000_000_000),
        tracks: vec![track("video_0", Codec::H264), track("audio_0", Codec::Aac)],
        format: String::new(),
        unplayable: None,
    };
    FilmSource { path, facts }
}

/// Notes what comes out of a pad.
fn note(pad: &gst::Pad, pause: Duration) -> Arc<Mutex<Vec<Seen>>> {
    let seen = Arc::<Mutex<Vec<Seen>>>::default();
    let noted = Arc::clone(&seen);
    let data = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
    pad.add_probe(data, move |_, info| {
        std::thread::sleep(pause);
        let mut noted = noted.lock().unwrap();
        let mut add = |buffer: &gst::BufferRef| {
            let packet = buffer.map_readable().unwrap();
            let time = (buffer.pts().unwrap().useconds() + 500) / 1000;
            noted.push((time.try_into().unwrap(), packet[12..].to_vec()));
        };
        match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => add(buffer),
            Some(gst::PadProbeData::BufferList(list)) => list.iter().for_each(add),
            _ => {}
        }
        gst::PadProbeReturn::Ok
    });
    seen
}

fn run_to_the_end(pipeline: &gst::Pipeline) {
    pipeline.set_state(gst::State::Playing).unwrap();
    let wanted = [gst::MessageType::Eos, gst::MessageType::Error];
    let said = pipeline
        .bus()
        .unwrap()
        .timed_pop_filtered(PATIENCE, &wanted);
    pipeline.set_state(gst::State::Null).unwrap();
    let said = said.expect("it ends");
    assert_eq!(said.type_(), gst::MessageType::Eos, "{said:?}");
}

/// What GStreamer's payloaders make of a film, by track.
fn made(film: &FilmSource) -> Vec<Vec<Seen>> {
    let (pipeline, payloaders) = pipeline::making(film).unwrap();
    let outputs = payloaders.iter().map(|it| it.static_pad("src").unwrap());
    let seen: Vec<_> = outputs.map(|pad| note(&pad, Duration::ZERO)).collect();
    run_to_the_end(&pipeline);
    seen.iter().map(|it| it.lock().unwrap().clone()).collect()
}

/// A viewer who takes a film as fast as it comes, but for a pause with each burst.
struct Viewer {
    pipeline: gst::Pipeline,
    seen: Vec<Arc<Mutex<Vec<Seen>>>>,
}

impl Viewer {
    fn new(film: &FilmSource, store: &Arc<Store>, pause: Duration) -> Self {
        let bin = build(film, store).unwrap();
        let pipeline = gst::Pipeline::new();
        pipeline.add(&bin).unwrap();
        let mut seen = Vec::new();
        for track in 0..2 {
            let source = bin.by_name(&format!("pay{track}")).unwrap();
            assert!(source.is::<TrackSource>());
            let sink = gst::ElementFactory::make("fakesink")
                .property("sync", false)
                .build()
                .unwrap();
            bin.add(&sink).unwrap();
            source.link(&sink).unwrap();
            seen.push(note(&source.static_pad("src").unwrap(), pause));
        }
        Self { pipeline, seen }
    }

    /// Seeks, and forgets what came before.
    fn seek(&self, to: gst::ClockTime) {
        self.pipeline.set_state(gst::State::Paused).unwrap();
        let (paused, ..) = self.pipeline.state(PATIENCE);
        paused.unwrap();
        for seen in &self.seen {
            seen.lock().unwrap().clear();
        }
        let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::KEY_UNIT;
        self.pipeline.seek_simple(flags, to).unwrap();
    }

    /// What came up to the end, its times counted from the first packet's.
    fn watch(&self) -> Vec<Vec<Seen>> {
        run_to_the_end(&self.pipeline);
        let seen = self.seen.iter().map(|it| it.lock().unwrap().clone());
        seen.collect()
    }
}

/// Compares what was seen with what was made. Times are compared from the end: at the beginning of an
/// edit list GStreamer's are cut off.
fn is_the_same(seen: &[Vec<Seen>], made: &[Vec<Seen>], what: &str) {
    for (track, (seen, made)) in seen.iter().zip(made).enumerate() {
        let what = format!("{what}: track {track}");
        assert_eq!(seen.len(), made.len(), "{what}");
        let (end, zero) = (seen.last().unwrap().0, made.last().unwrap().0);
        for (at, (seen, made)) in seen.iter().zip(made).enumerate() {
            // The first packet of a key frame may have its parameters once more after a seek.
            assert!(at == 0 || seen.1 == made.1, "{what}: packet {at}");
            let (seen, made) = (seen.0 - end, made.0 - zero);
            let apart = seen.abs_diff(made);
            assert!(
                apart <= 1 || at < 3,
                "{what}: packet {at} at {seen} ms, not {made}"
            );
        }
    }
}

#[test]
fn viewers_get_what_the_payloaders_made_and_it_is_made_once() {
    for container in [Container::Mp4, Container::Matroska] {
        let folder = tempfile::tempdir().unwrap();
        let (film, store) = (film(folder.path(), container), Store::new(ROOM));
        let made = made(&film);
        assert!(made[0].len() > 300 && made[1].len() > 500, "a whole film");
        let viewers = (0..4).map(|_| Viewer::new(&film, &store, Duration::ZERO));
        let viewers: Vec<Viewer> = viewers.collect();
        for viewer in &viewers {
            is_the_same(&viewer.watch(), &made, "the film");
            assert_eq!(store.holds().1, 1, "reels");
        }
        // Kept for a while, and not for longer.
        drop(viewers);
        store.tidy(Instant::now());
        assert!(store.holds().0 > 0);
        store.tidy(Instant::now() + Duration::from_secs(60));
        assert_eq!(store.holds(), (0, 0));
    }
}

#[test]
fn who_seeks_gets_the_film_from_the_key_frame_before() {
    for container in [Container::Mp4, Container::Matroska] {
        let folder = tempfile::tempdir().unwrap();
        let (film, store) = (film(folder.path(), container), Store::new(ROOM));
        let made = made(&film);
        // 7.98 s is just before a key frame, which is better than one that is two seconds before.
        for (ms, key) in [
            (7000, 6),
            (7980, 8),
            (0, 0),
            (1000, 0),
            (8000, 8),
            (11_999, 10),
        ] {
            let viewer = Viewer::new(&film, &store, Duration::ZERO);
            viewer.seek(gst::ClockTime::from_mseconds(ms));
            let seen = viewer.watch();
            // An MP4's times begin where its edit lists do: its sound's with the second frame of AAC, as
            // Matroska's pictures do.
            let zero = made[0][0].0;
            let is_all = ms == 0 || key == 0 && container == Container::Mp4;
            let sound = if is_all { 0 } else { 21 };
            let begins = |packets: &Vec<Seen>, zero: i64| {
                let begins = |it: &Seen| it.0 >= key * 1000 + zero;
                let at = packets.iter().position(begins).unwrap();
                packets[at..].to_vec()
            };
            let expected = [begins(&made[0], zero), begins(&made[1], sound)];
            is_the_same(&seen, &expected, &format!("{container:?} at {ms} ms"));
        }
    }
}

#[test]
fn with_little_memory_those_behind_get_every_packet_all_the_same() {
    for container in [Container::Mp4, Container::Matroska] {
        let folder = tempfile::tempdir().unwrap();
        let (film, store) = (film(folder.path(), container), Store::new(LITTLE));
        let made = made(&film);
        std::thread::scope(|scope| {
            let viewers = [0, 20, 60].map(|pause| {
                let (film, store, made) = (&film, &store, &made);
                scope.spawn(move || {
                    let viewer = Viewer::new(film, store, Duration::from_millis(pause));
                    is_the_same(&viewer.watch(), made, &format!("{container:?}, {pause} ms"));
                    store.holds().1
                })
            });
            let reels = viewers.map(|viewer| viewer.join().unwrap());
            // What the first had read was gone when the others wanted it.
            assert!(reels.into_iter().max().unwrap() > 1, "{reels:?}");
        });
        store.clear();
        assert_eq!(store.holds(), (0, 0));
    }
}

#[test]
fn a_file_that_breaks_off_ends_for_its_viewers() {
    let folder = tempfile::tempdir().unwrap();
    let (film, store) = (film(folder.path(), Container::Matroska), Store::new(ROOM));
    let whole = made(&film);
    let bytes = std::fs::read(&film.path).unwrap();
    std::fs::write(&film.path, &bytes[..bytes.len() / 2]).unwrap();
    let seen = Viewer::new(&film, &store, Duration::ZERO).watch();
    assert!(!seen[0].is_empty() && seen[0].len() < whole[0].len());
    let whole_frames = seen[0].len() - 5;
    let same = |at: usize| seen[0][at].1 == whole[0][at].1;
    assert!((0..whole_frames).all(same));
    // And what was made of it is not taken for the film that is there later.
    std::fs::write(&film.path, &bytes).unwrap();
    is_the_same(
        &Viewer::new(&film, &store, Duration::ZERO).watch(),
        &whole,
        "whole again",
    );
}
