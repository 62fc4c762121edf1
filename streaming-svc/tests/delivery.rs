//! Delivery, seen by players: ffmpeg and a bare RTSP client.

#![allow(
    clippy::unwrap_used,
    reason = "a test that unwraps says where it failed"
)]

mod support;

use iceflix_core::api::StreamId;
use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};
use streaming_svc::{
    delivery::{Access, Delivery, DeliveryConfig, DeliveryError, FilmSource},
    facts::Codec::{Aac, H264, H265, Mp3, Opus, Vp8},
};
use support::{
    LOCALHOST,
    clips::{self, Clip, FPS, folder},
    mount,
    rtsp::Player,
    start, wait_for,
};

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
    let sdp = delivery.sdp(&stream, LOCALHOST, LOCALHOST).await;
    assert!(matches!(sdp, Err(DeliveryError::UnknownStream)), "{sdp:?}");
    delivery.shutdown().await;
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
async fn the_description_names_the_film_and_the_host() {
    let folder = folder();
    let delivery = start();
    let (stream, _) = mount(&delivery, Clip::mp4(3).make(&folder));
    let sdp = delivery.sdp(&stream, LOCALHOST, LOCALHOST).await.unwrap();
    assert!(sdp.contains("IN IP4 127.0.0.1"), "{sdp}");
    assert!(sdp.contains("\r\ns=clip\r\n"), "its title: {sdp}");
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
    let refused = delivery.add_stream(
        StreamId::random(),
        FilmSource { path, facts },
        Access::Anyone,
    );
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
