//! Every kind of film, in the players that people have: authorised through the front door, and
//! played to the last frame.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, stream};
use iceflix_core::api::MediaId;
use iceflix_tests::{
    clips::{self, Audio, Clip, FPS, FRAMES, LONG_SECONDS, Make, SECONDS, Video},
    cluster::{ADMIN_PASSWORD, Cluster},
    person::told,
    players::{
        Transport,
        ffmpeg::{self, Decoded},
        gstreamer, retina, rtsp,
        viewer::Viewer,
    },
};
use std::{
    collections::HashMap, fs, future::Future, os::unix::fs::PermissionsExt as _, path::PathBuf,
};
use tempfile::TempDir;

/// How many films play at a time. They play in real time, so it is mostly waiting.
const AT_ONCE: usize = 8;

/// A cluster with clips in one directory.
struct Cinema {
    cluster: Cluster,
    clips: HashMap<String, (MediaId, PathBuf)>,
    _media: TempDir,
}

impl Cinema {
    async fn open(clips: &[Clip]) -> Self {
        let media = tempfile::tempdir().unwrap();
        let made = clips.iter().map(|clip| {
            let (clip, directory) = (*clip, media.path().to_owned());
            async move {
                let made = tokio::task::spawn_blocking(move || clip.put_into(&directory));
                (clip.name(), made.await.unwrap().unwrap())
            }
        });
        let files: HashMap<String, PathBuf> = stream::iter(made).buffered(2).collect().await;
        let cluster = Cluster::start(1, 1, 1, &[media.path()]).await;
        let films = cluster.until_films(clips.len()).await;
        let clips = films.into_iter().map(|film| {
            let path = files[&film.name].clone();
            (film.name, (film.id, path))
        });
        Self {
            clips: clips.collect(),
            cluster,
            _media: media,
        }
    }

    /// A fresh stream of a clip, by way of the catalogue.
    async fn stream(&self, viewer: &Viewer<'_>, clip: &Clip) -> String {
        let (id, _) = &self.clips[&clip.name()];
        viewer.watch(*id).await.unwrap().stream.url
    }

    fn file(&self, clip: &Clip) -> PathBuf {
        self.clips[&clip.name()].1.clone()
    }

    /// Does something for each clip, several at a time, and fails naming all that failed.
    async fn each<F>(&self, clips: &[Clip], what: impl Fn(Clip) -> F)
    where
        F: Future<Output = Result<()>>,
    {
        let done = stream::iter(clips).map(|clip| {
            let done = what(*clip);
            async move { done.await.with_context(|| clip.name()) }
        });
        let done: Vec<Result<()>> = done.buffer_unordered(AT_ONCE).collect().await;
        let failed: Vec<String> = done
            .into_iter()
            .filter_map(|done| Some(format!("{:#}", done.err()?)))
            .collect();
        assert!(failed.is_empty(), "{}", failed.join("\n"));
    }
}

/// What a player showed is the film, frame by frame, and all its sound.
fn is_the_film(played: &Decoded, film: &Decoded) -> Result<()> {
    ensure!(
        played.frames.len() == film.frames.len(),
        "{} of {} frames; {}",
        played.frames.len(),
        film.frames.len(),
        played.complaints
    );
    ensure!(played.frames == film.frames, "other pictures");
    // The codecs' own beginnings and ends are not part of the film, and not said over RTP.
    ensure!(
        (played.audio_s - film.audio_s).abs() < 0.15,
        "{} s of {} s of sound",
        played.audio_s,
        film.audio_s
    );
    ensure!(played.complaints.is_empty(), "{}", played.complaints);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_film_is_decoded_to_the_last_frame_over_tcp_and_udp() {
    let clips = clips::every_kind();
    let cinema = Cinema::open(&clips).await;
    let viewer = Viewer::admin(&cinema.cluster).await;
    cinema
        .each(&clips, async |clip| {
            let film = ffmpeg::decode_file(cinema.file(&clip)).await?;
            ensure!(film.frames.len() == FRAMES, "{}", film.frames.len());
            for transport in Transport::BOTH {
                let url = cinema.stream(&viewer, &clip).await;
                let played = ffmpeg::play(&url, transport, None).await?;
                is_the_film(&played, &film).context(transport.name())?;
            }
            Ok(())
        })
        .await;
    cinema.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_film_has_its_duration_and_codecs_and_can_be_begun_in_the_middle() {
    let clips = clips::every_kind();
    let cinema = Cinema::open(&clips).await;
    let viewer = Viewer::admin(&cinema.cluster).await;
    cinema
        .each(&clips, async |clip| {
            let url = cinema.stream(&viewer, &clip).await;
            let probed = ffmpeg::probe(&url, Transport::Tcp).await?;
            ensure!((probed.duration_s - SECONDS).abs() < 0.2, "{probed:?}");
            let mut codecs = vec![clip.video.map(Video::name), clip.audio.map(Audio::name)];
            codecs.sort_unstable();
            ensure!(
                probed.codecs.iter().map(|codec| Some(&**codec)).eq(codecs),
                "{probed:?}"
            );

            let film = ffmpeg::decode_file(cinema.file(&clip)).await?;
            let played = ffmpeg::play(&url, Transport::Tcp, Some(2)).await?;
            // With B frames, ffmpeg asks for an earlier key frame; which of the first pictures it
            // then shows depends on how it places them in time.
            let left = film.frames.len() - 2 * FPS;
            let count = played.frames.len();
            ensure!(count.abs_diff(left) <= 2, "{count} pictures, {left} wanted");
            ensure!(film.frames.ends_with(&played.frames[3..]), "other pictures");
            Ok(())
        })
        .await;
    cinema.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn films_made_in_unusual_ways_play() {
    let usual = Clip::usual();
    let mute = Clip {
        audio: None,
        ..usual
    };
    let sound = |container, audio| Clip {
        container,
        video: None,
        audio: Some(audio),
        make: Make::Usual,
    };
    let clips = [
        mute,
        Clip {
            container: "mkv",
            ..mute
        },
        sound("m4a", Audio::Aac),
        sound("mka", Audio::Opus),
        usual.made(Make::FastStart),
        usual.made(Make::Fragmented),
        usual.made(Make::Cut),
        Clip::new("mkv", Video::H264, Audio::Aac).made(Make::Live),
        Clip::new("webm", Video::Vp8, Audio::Opus).made(Make::Live),
    ];
    let cinema = Cinema::open(&clips).await;
    let viewer = Viewer::admin(&cinema.cluster).await;
    cinema
        .each(&clips, async |clip| {
            let url = cinema.stream(&viewer, &clip).await;
            let duration = ffmpeg::probe(&url, Transport::Tcp).await?.duration_s;
            let film = ffmpeg::decode_file(cinema.file(&clip)).await?;
            let played = ffmpeg::play(&url, Transport::Tcp, None).await?;
            if clip.make == Make::Cut {
                // What an edit list leaves out is sent, as the decoder needs it; it may be shown.
                ensure!((duration - (SECONDS - 0.5)).abs() < 0.6, "{duration}");
                ensure!(played.frames.ends_with(&film.frames), "other pictures");
                ensure!(played.complaints.is_empty(), "{}", played.complaints);
                return Ok(());
            }
            ensure!((duration - SECONDS).abs() < 0.2, "{duration}");
            is_the_film(&played, &film)
        })
        .await;
    cinema.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gstreamers_player_pauses_goes_on_seeks_and_notices_the_end() {
    use Audio::{Aac, Mp3, Opus, Vorbis};
    use Video::{H264, H265, Vp8, Vp9};
    let clips = [
        Clip::new("mp4", H264, Aac),
        Clip::new("mkv", H265, Mp3),
        Clip::new("mov", H265, Aac),
        Clip::new("webm", Vp8, Opus),
        Clip::new("webm", Vp9, Vorbis),
    ]
    .map(|clip| clip.made(Make::Long));
    let cinema = Cinema::open(&clips).await;
    let viewer = Viewer::admin(&cinema.cluster).await;
    cinema
        .each(&clips, async |clip| {
            for transport in Transport::BOTH {
                let url = cinema.stream(&viewer, &clip).await;
                let played = tokio::task::spawn_blocking(move || in_gstreamer(&url, transport));
                played.await?.context(transport.name())?;
            }
            Ok(())
        })
        .await;
    cinema.cluster.stop().await;
}

/// How long after a seek GStreamer may be told of the end of the three seconds that are left. It
/// buffers for two; the rest is for eight films at once on two cores.
const END: std::time::Duration = std::time::Duration::from_secs(20);

fn in_gstreamer(url: &str, transport: Transport) -> Result<()> {
    let player = gstreamer::Player::play(url, transport)?;
    player.wait_for(10)?;
    let duration = player.duration_s()?;
    ensure!((duration - LONG_SECONDS).abs() < 0.2, "{duration} s long");
    player.pause()?;
    let paused = player.shown();
    std::thread::sleep(std::time::Duration::from_millis(700));
    let later = player.shown();
    ensure!(later == paused, "{paused:?} when paused, then {later:?}");
    player.resume()?;
    player.wait_for(later.pictures + 10)?;
    // Also back, and then close to the end. It is two seconds behind what it was sent, and it must
    // not have been sent the film's end before the next seek: it takes that for good (see
    // docs/guide/players.md).
    for to in [5, 2, 7] {
        player.seek(to)?;
        player.wait_for(1)?;
        let at = player.shown().at_s - f64::from(to);
        ensure!((-0.1..0.9).contains(&at), "{at} s after a seek to {to}");
    }
    let sought = std::time::Instant::now();
    let end = player.to_the_end()?;
    let took = sought.elapsed();
    ensure!(took < END, "told of the end {took:?} after the seek");
    // From the key frame at the place sought to the last one. When that is, GStreamer does not know
    // exactly: it begins to count time anew once it has buffered, up to its latency of two seconds.
    ensure!(end.pictures == 3 * FPS, "it ended so: {end:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn retina_receives_every_frame_over_tcp_and_udp() {
    let clips: Vec<Clip> = ["mp4", "mkv", "mov"]
        .into_iter()
        .flat_map(|container| {
            [Video::H264, Video::H265].map(|video| Clip::new(container, video, Audio::Aac))
        })
        .collect();
    let cinema = Cinema::open(&clips).await;
    let viewer = Viewer::admin(&cinema.cluster).await;
    cinema
        .each(&clips, async |clip| {
            for transport in Transport::BOTH {
                let url = cinema.stream(&viewer, &clip).await;
                let received = retina::play(&url, transport).await?;
                // x265's later key frames are open: frames before them, in order, need others.
                let key_frames = if clip.video == Some(Video::H265) {
                    1
                } else {
                    4
                };
                ensure!(
                    received.frames == FRAMES
                        && received.key_frames >= key_frames
                        && received.lost == 0,
                    "{}: {received:?}",
                    transport.name()
                );
                ensure!(
                    (received.last_s - (SECONDS - 0.04)).abs() < 0.1,
                    "{received:?}"
                );
                // 48,000 samples a second, 1,024 a frame.
                ensure!(received.audio >= 187, "{received:?}");
            }
            Ok(())
        })
        .await;
    cinema.cluster.stop().await;
}

/// `iceflix play` in mpv, without a screen: it plays to the end, and leaves no stream behind.
#[tokio::test(flavor = "multi_thread")]
async fn mpv_plays_a_film_for_the_client_to_its_end() {
    let clip = Clip::usual();
    let cinema = Cinema::open(&[clip]).await;
    let home = cinema.cluster.home();
    let programs = tempfile::tempdir().unwrap();
    let mpv = programs.path().join("mpv");
    let log = programs.path().join("said");
    let script = format!(
        "#!/bin/sh\nexec mpv --no-config --vo=null --ao=null --msg-level=all=info \"$@\" >'{}' 2>&1\n",
        log.display()
    );
    fs::write(&mpv, script).unwrap();
    fs::set_permissions(&mpv, fs::Permissions::from_mode(0o755)).unwrap();

    let id = cinema.clips[&clip.name()].0.to_string();
    home.login("admin", ADMIN_PASSWORD).with_code(0);
    let words = [
        "--json",
        "play",
        &id[..8],
        "--player",
        mpv.to_str().unwrap(),
    ];
    let mut playing = home.command(&words);
    let ended = tokio::task::spawn_blocking(move || told(playing.spawn().unwrap()));
    let ended = ended.await.unwrap();
    let said = fs::read_to_string(&log).unwrap_or_default();
    assert_eq!(ended.code, 0, "{ended:?}\n{said}");
    assert!(said.contains("Exiting... (End of file)"), "{said}");
    assert!(said.contains("h264") && said.contains("aac"), "{said}");
    let url = ended.json()["url"].as_str().unwrap().to_owned();
    let mut late = rtsp::Client::connect(&url).await.unwrap();
    let answer = late.request("DESCRIBE", "", &[]).await.unwrap();
    assert_eq!(answer.status, 404, "the stream was stopped");
    cinema.cluster.stop().await;
}
