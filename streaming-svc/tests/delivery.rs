//! Delivery, seen by players: ffmpeg, GStreamer's `rtspsrc`, and a bare RTSP client.

mod support;

use iceflix_core::api::StreamId;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};
use streaming_svc::{
    delivery::{Delivery, DeliveryConfig, DeliveryError, FilmSource},
    facts::Codec::{Aac, H264, H265, Mp3, Opus, Vp8},
};
use support::{
    clips::{self, Clip, FPS, folder},
    rtsp::Player,
    wait_for,
};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn start() -> Delivery {
    Delivery::start(DeliveryConfig::default()).unwrap()
}

/// Mounts a film on a new stream and gives the stream's id and URL.
fn mount(delivery: &Delivery, film: FilmSource) -> (StreamId, String) {
    let stream = StreamId::random();
    delivery.add_stream(stream, film).unwrap();
    let url = delivery.url(&stream, LOCALHOST);
    (stream, url)
}

/// Every container and codec plays to its end, over TCP and UDP, with the right duration.
fn plays(clip: Clip) {
    let folder = folder();
    let delivery = start();
    let (_, url) = mount(&delivery, clip.make(&folder));

    let (duration, mut codecs) = clips::probe(&url);
    assert!(
        (duration - f64::from(clip.seconds)).abs() < 0.2,
        "{duration}"
    );
    codecs.sort();
    let mut expected = vec![clips::name(clip.video), clips::name(clip.audio)];
    expected.sort_unstable();
    assert_eq!(codecs, expected);

    let frames = (clip.seconds * FPS) as usize;
    for transport in ["tcp", "udp"] {
        let played = clips::play(&url, transport, None);
        assert!(played.ok, "{transport}: {played:?}");
        assert!(transport == "udp" || played.errors.is_empty(), "{played:?}");
        // A busy machine may lose a datagram.
        let lost = if transport == "udp" { frames / 10 } else { 1 };
        assert!(
            played.frames.abs_diff(frames) <= lost,
            "{transport}: {played:?}"
        );
    }
    let played = clips::play(&url, "tcp", Some(1));
    assert!(played.ok, "{played:?}");
    let left = frames - FPS as usize;
    assert!(
        played.frames.abs_diff(left) <= 2,
        "{left} wanted: {played:?}"
    );
}

#[test]
fn plays_h264_aac_mp4() {
    plays(Clip::mp4(3));
}

#[test]
fn plays_h264_mp3_mov() {
    plays(Clip::new("mov", H264, Mp3, 3));
}

#[test]
fn plays_h265_aac_mp4() {
    plays(Clip::new("mp4", H265, Aac, 3));
}

#[test]
fn plays_h264_opus_mkv() {
    plays(Clip::new("mkv", H264, Opus, 3));
}

#[test]
fn plays_h265_mp3_mkv() {
    plays(Clip::new("mkv", H265, Mp3, 3));
}

#[test]
fn plays_h264_aac_mkv() {
    plays(Clip::new("mkv", H264, Aac, 3));
}

#[test]
fn plays_vp8_opus_webm() {
    plays(Clip::new("webm", Vp8, Opus, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_and_ended_streams_are_not_found() {
    let folder = folder();
    let delivery = start();
    let (stream, url) = mount(&delivery, Clip::mp4(2).make(&folder));
    let unknown = delivery.url(&StreamId::random(), LOCALHOST);
    for method in ["DESCRIBE", "SETUP"] {
        let transport = ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1"];
        let answer = Player::connect(&unknown).request(method, &transport);
        assert_eq!(answer.status, 404, "{method}");
    }
    assert_eq!(Player::connect(&url).request("DESCRIBE", &[]).status, 200);
    delivery.remove_stream(&stream).await;
    assert_eq!(Player::connect(&url).request("DESCRIBE", &[]).status, 404);
    let sdp = delivery.sdp(&stream, LOCALHOST).await;
    assert!(matches!(sdp, Err(DeliveryError::UnknownStream)), "{sdp:?}");
    delivery.shutdown().await;
}

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
    assert!(played.headers["range"].starts_with("npt=0-4"), "{played:?}");
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
    assert_eq!(player.request("TEARDOWN", &[]).status, 200);
    wait_for("the session to end", || delivery.players(&stream) == 0);
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

/// GStreamer's own player pauses, resumes, and is told the end.
#[test]
fn rtspsrc_pauses_resumes_and_ends() {
    use gst::prelude::*;
    let folder = folder();
    let delivery = start();
    let (_, url) = mount(&delivery, Clip::mp4(3).make(&folder));
    for protocol in ["tcp", "udp"] {
        let launch = format!(
            "rtspsrc name=s location={url} protocols={protocol} latency=50 \
             s. ! rtph264depay ! h264parse ! avdec_h264 ! fakesink sync=true \
             s. ! rtpmp4gdepay ! aacparse ! fakesink sync=true"
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
        let bus = player.bus().unwrap();
        let wanted = [gst::MessageType::Eos, gst::MessageType::Error];
        let last = bus.timed_pop_filtered(gst::ClockTime::from_seconds(20), &wanted);
        let last = last.unwrap_or_else(|| panic!("{protocol}: no end, at {:?}", position()));
        assert_eq!(last.type_(), gst::MessageType::Eos, "{protocol}: {last:?}");
        player.set_state(gst::State::Null).unwrap();
    }
}

#[test]
fn serves_several_sessions_at_the_same_time() {
    let folder = folder();
    let delivery = start();
    let (_, url) = mount(&delivery, Clip::mp4(2).make(&folder));
    std::thread::scope(|scope| {
        let players = ["tcp", "udp", "tcp", "udp"].map(|transport| {
            (
                transport,
                scope.spawn(|| clips::play(&url, transport, None)),
            )
        });
        for (transport, player) in players {
            let played = player.join().unwrap();
            assert!(played.ok, "{transport}: {played:?}");
            assert!(
                played.frames.abs_diff(2 * FPS as usize) <= 5,
                "{transport}: {played:?}"
            );
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_a_stream_closes_its_connections_and_no_others() {
    let folder = folder();
    let delivery = start();
    let film = Clip::mp4(4).make(&folder);
    let (stream, url) = mount(&delivery, film.clone());
    let (other, other_url) = mount(&delivery, film);
    let mut playing = Player::connect(&url);
    playing.set_up();
    playing.request("PLAY", &[]);
    playing.read_packets(3);
    let mut described = Player::connect(&url);
    assert_eq!(described.request("DESCRIBE", &[]).status, 200);
    let mut bystander = Player::connect(&other_url);
    bystander.set_up();
    bystander.request("PLAY", &[]);
    bystander.read_packets(3);

    delivery.remove_stream(&stream).await;
    assert_eq!(delivery.players(&stream), 0);
    playing.read_to_end();
    described.read_to_end();
    assert_eq!(delivery.players(&other), 1);
    bystander.read_packets(5);
    delivery.remove_stream(&stream).await;
    delivery.shutdown().await;
    bystander.read_to_end();
    delivery.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_a_stream_ends_its_packets_over_udp() {
    let folder = folder();
    let delivery = start();
    let (stream, url) = mount(&delivery, Clip::mp4(4).make(&folder));
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let mut player = Player::connect(&url);
    player.set_up_udp(udp.local_addr().unwrap().port());
    player.request("PLAY", &[]);
    let mut packet = [0; 2048];
    for _ in 0..5 {
        udp.recv(&mut packet).expect("packets");
    }
    delivery.remove_stream(&stream).await;
    // What had arrived before is in the socket's buffer; after that there is nothing.
    while udp.recv(&mut packet).is_ok() {}
    player.read_to_end();
}

#[test]
fn silent_sessions_expire() {
    let folder = folder();
    let delivery = Delivery::start(DeliveryConfig {
        session_timeout: Duration::from_secs(1),
        ..DeliveryConfig::default()
    })
    .unwrap();
    let (stream, url) = mount(&delivery, Clip::mp4(2).make(&folder));
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut player = Player::connect(&url);
    player.set_up_udp(udp.local_addr().unwrap().port());
    player.request("PLAY", &[]);
    assert_eq!(delivery.players(&stream), 1);
    wait_for("the session to expire", || delivery.players(&stream) == 0);
    assert_eq!(player.request("PLAY", &[]).status, 454);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_names_the_host() {
    let folder = folder();
    let delivery = start();
    let (stream, _) = mount(&delivery, Clip::mp4(3).make(&folder));
    let sdp = delivery.sdp(&stream, LOCALHOST).await.unwrap();
    assert!(sdp.contains("IN IP4 127.0.0.1"), "{sdp}");
    assert!(sdp.contains("a=range:npt=0-3"), "{sdp}");
    assert!(
        sdp.contains("H264/90000") && sdp.contains("m=audio"),
        "{sdp}"
    );
    let v6 = delivery.url(&stream, "2001:db8::1".parse().unwrap());
    assert_eq!(
        v6,
        format!(
            "rtsp://[2001:db8::1]:{}/{stream}",
            delivery.local_addr().port()
        )
    );
}

#[test]
fn a_film_with_an_edit_list_has_its_duration() {
    let folder = folder();
    let delivery = start();
    // B-frames make the encoder begin before zero, which MP4 mends by an edit list.
    let clip = Clip {
        extra: &["-bf", "3", "-output_ts_offset", "0.5"],
        ..Clip::mp4(3)
    };
    let (_, url) = mount(&delivery, clip.make(&folder));
    let (duration, _) = clips::probe(&url);
    assert!((duration - 3.0).abs() < 0.6, "{duration}");
    assert!(clips::play(&url, "tcp", None).ok);
}

#[test]
fn tracks_that_are_not_delivered_stall_nothing() {
    use std::os::unix::ffi::OsStrExt as _;
    let folder = folder();
    let delivery = start();
    let subtitles = folder.path().join("s.srt");
    std::fs::write(&subtitles, "1\n00:00:00,500 --> 00:00:02,000\nHello\n").unwrap();
    let plain = Clip::new("mkv", H264, Aac, 3).make(&folder);
    // A name that is not UTF-8, with quotes and blanks, needs no escaping anywhere.
    let name = std::ffi::OsStr::from_bytes(b"a 'film\" ! \xff.mkv");
    let path = folder.path().join(name);
    let made = std::process::Command::new("ffmpeg")
        .args(["-loglevel", "error", "-nostdin", "-i"])
        .arg(&plain.path)
        .arg("-i")
        .arg(&subtitles)
        .args([
            "-map", "0:v", "-map", "0:a", "-map", "0:a", "-map", "1:s", "-c", "copy",
        ])
        .arg(&path)
        .status();
    assert!(made.unwrap().success());
    let (_, url) = mount(&delivery, FilmSource { path, ..plain });
    let played = clips::play(&url, "tcp", None);
    assert!(played.ok && played.errors.is_empty(), "{played:?}");
    assert!(played.frames.abs_diff(3 * FPS as usize) <= 1, "{played:?}");
}

#[test]
fn a_film_whose_file_is_gone_is_not_found() {
    let folder = folder();
    let delivery = start();
    let film = Clip::mp4(2).make(&folder);
    std::fs::remove_file(&film.path).unwrap();
    let (_, url) = mount(&delivery, film);
    assert_eq!(Player::connect(&url).request("DESCRIBE", &[]).status, 404);
}

#[test]
fn recording_is_refused() {
    let folder = folder();
    let delivery = start();
    let (_, url) = mount(&delivery, Clip::mp4(2).make(&folder));
    let sdp = ["Content-Type: application/sdp", "Content-Length: 0"];
    let answer = Player::connect(&url).request("ANNOUNCE", &sdp);
    assert!(answer.status >= 400 && answer.status != 503, "{answer:?}");
}

#[test]
fn films_that_cannot_be_delivered_are_refused() {
    let delivery = start();
    let mut facts = Clip::mp4(2).facts();
    facts.unplayable = Some("its video is MPEG-2".to_owned());
    let path = "/nowhere.mp4".into();
    let refused = delivery.add_stream(StreamId::random(), FilmSource { path, facts });
    assert!(
        matches!(refused, Err(DeliveryError::Unplayable(_))),
        "{refused:?}"
    );
}

#[test]
fn a_port_in_use_is_named() {
    let delivery = start();
    let listen: SocketAddr = delivery.local_addr();
    let config = DeliveryConfig {
        listen,
        ..DeliveryConfig::default()
    };
    let Err(error) = Delivery::start(config) else {
        panic!("two servers on one port");
    };
    assert!(error.to_string().contains(&listen.to_string()), "{error}");
}
