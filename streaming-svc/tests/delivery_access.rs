//! Streams that only players at one address may fetch: for all others there is no such stream.

#![allow(
    clippy::unwrap_used,
    reason = "a test that unwraps says where it failed"
)]

mod support;

use iceflix_core::api::StreamId;
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};
use streaming_svc::delivery::{Access, Delivery, DeliveryConfig, DeliveryError};
use support::{
    LOCALHOST,
    clips::{Clip, folder},
    mount,
    rtsp::{Player, Response},
    start, wait_for,
};
use tempfile::TempDir;

const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const INSIDE: &str = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1";
const OVER_UDP: &str = "Transport: RTP/AVP;unicast;client_port=40000-40001";

/// Mounts a film for one address.
fn mount_for(
    delivery: &Delivery,
    owner: IpAddr,
    seconds: u32,
    folder: &TempDir,
) -> (StreamId, String) {
    let stream = StreamId::random();
    let film = Clip::mp4(seconds).make(folder);
    delivery
        .add_stream(stream, film, Access::Only(owner))
        .unwrap();
    (stream, delivery.url(&stream, LOCALHOST))
}

/// What can be asked for in one request, a session's id among it or not.
fn requests() -> Vec<(&'static str, &'static str, Vec<&'static str>)> {
    let session = "Session: 0123456789abcdef";
    let mut all = vec![
        ("DESCRIBE", "", vec![]),
        ("DESCRIBE", "", vec!["Accept: application/sdp"]),
        ("DESCRIBE", "", vec!["Accept: text/nonsense"]),
        ("DESCRIBE", "/stream=0", vec![]),
        ("SETUP", "", vec![]),
        ("SETUP", "/stream=0", vec![]),
        ("SETUP", "/stream=0", vec![INSIDE]),
        ("SETUP", "/stream=0", vec![OVER_UDP]),
        ("SETUP", "", vec![INSIDE]),
        ("SETUP", "/stream=9", vec![INSIDE]),
        ("SETUP", "/stream=0", vec!["Transport: nonsense"]),
        ("SETUP", "/stream=0", vec![INSIDE, session]),
        ("OPTIONS", "", vec![]),
        ("ANNOUNCE", "", vec!["Content-Type: application/sdp"]),
        ("RECORD", "", vec![]),
    ];
    for method in [
        "PLAY",
        "PAUSE",
        "TEARDOWN",
        "GET_PARAMETER",
        "SET_PARAMETER",
    ] {
        all.push((method, "", vec![]));
        all.push((method, "", vec![session]));
        all.push((method, "/stream=0", vec!["Range: npt=0-"]));
    }
    all
}

/// The answer to a request on a connection of its own, without what differs every time.
fn answer(url: &str, from: IpAddr, request: &(&str, &str, Vec<&str>)) -> Response {
    let (method, part, headers) = request;
    let mut player = Player::connect_from(url, from);
    let mut answer = player.request_to(method, &format!("{url}{part}"), headers);
    answer.headers.remove("date");
    answer
}

#[test]
fn for_another_address_a_stream_is_as_unknown_as_one_that_never_was() {
    let (folder, delivery) = (folder(), start());
    let (_, url) = mount_for(&delivery, LOCALHOST, 3, &folder);
    let unknown = delivery.url(&StreamId::random(), LOCALHOST);
    for request in requests() {
        let refused = answer(&url, OTHER, &request);
        assert_eq!(refused, answer(&unknown, OTHER, &request), "{request:?}");
        let (method, _, headers) = &request;
        let fetches = *method == "DESCRIBE" || headers[..] == [INSIDE] || headers[..] == [OVER_UDP];
        assert!(
            !fetches || refused.status == 404,
            "{request:?}: {refused:?}"
        );
    }
    // Its owner gets it, over TCP and over UDP.
    let mut player = Player::connect_from(&url, LOCALHOST);
    player.set_up();
    assert_eq!(player.request("PLAY", &[]).status, 200);
    player.read_packets(20);
    let socket = UdpSocket::bind((LOCALHOST, 0)).unwrap();
    let timeout = Some(Duration::from_secs(20));
    socket.set_read_timeout(timeout).unwrap();
    let mut player = Player::connect(&url);
    player.set_up_udp(socket.local_addr().unwrap().port());
    assert_eq!(player.request("PLAY", &[]).status, 200);
    socket.recv(&mut [0; 2048]).unwrap();
}

/// What a stranger can ask for with a session's id: every method, of the film and of a part of it.
fn with_session(session: &str) -> Vec<(&'static str, &'static str, Vec<String>)> {
    let session = || format!("Session: {session}");
    let mut all = vec![
        ("SETUP", "", vec![INSIDE.to_owned(), session()]),
        ("SETUP", "/stream=1", vec![INSIDE.to_owned(), session()]),
        ("SETUP", "/stream=0", vec![OVER_UDP.to_owned(), session()]),
    ];
    for method in [
        "OPTIONS",
        "DESCRIBE",
        "PAUSE",
        "PLAY",
        "GET_PARAMETER",
        "SET_PARAMETER",
        "TEARDOWN",
    ] {
        all.push((method, "", vec![session()]));
        all.push((method, "/stream=0", vec![session()]));
    }
    all
}

/// A running session is its address's own: elsewhere its id is one that never was, and naming it
/// neither opens anything, nor shows that it runs, nor takes anything from the player.
#[test]
fn a_running_sessions_id_is_worth_nothing_at_another_address() {
    let (folder, delivery) = (folder(), start());
    let anyone = mount(&delivery, Clip::mp4(20).make(&folder)).1;
    for url in [mount_for(&delivery, LOCALHOST, 20, &folder).1, anyone] {
        let mut player = Player::connect(&url);
        player.set_up();
        assert_eq!(player.request("PLAY", &[]).status, 200);
        player.read_both_tracks(5);
        let socket = UdpSocket::bind((LOCALHOST, 0)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut over_udp = Player::connect(&url);
        over_udp.set_up_udp(socket.local_addr().unwrap().port());
        assert_eq!(over_udp.request("PLAY", &[]).status, 200);
        let sessions = [&player, &over_udp].map(|player| player.session.clone().unwrap());
        let known = sessions.iter().flat_map(|session| with_session(session));
        let made_up = "0123456789abcdef";
        let unknown = sessions.iter().flat_map(|_| with_session(made_up));
        for (known, unknown) in known.zip(unknown) {
            let ask = |(method, part, headers): &(&'static str, &'static str, Vec<String>)| {
                let headers = headers.iter().map(String::as_str).collect();
                answer(&url, OTHER, &(*method, *part, headers))
            };
            let refused = ask(&known);
            assert_eq!(refused, ask(&unknown), "{known:?}");
            assert_eq!(refused.status, 454, "{known:?}");
        }
        // A second of the film, for the server to have noticed that the strangers are gone.
        player.read_both_tracks(50);
        // What waited here came before.
        socket.set_nonblocking(true).unwrap();
        while socket.recv(&mut [0; 2048]).is_ok() {}
        socket.set_nonblocking(false).unwrap();
        for _ in 0..20 {
            socket.recv(&mut [0; 2048]).unwrap();
        }
        assert_eq!(player.request("PAUSE", &[]).status, 200);
        assert_eq!(player.request("TEARDOWN", &[]).status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_stream_does_not_show_at_another_address() {
    let (folder, delivery) = (folder(), start());
    let (stream, url) = mount_for(&delivery, LOCALHOST, 3, &folder);
    let mut stranger = Player::connect_from(&url, OTHER);
    assert_eq!(stranger.request("DESCRIBE", &[]).status, 404);
    delivery.remove_stream(&stream).await;
    // A connection that has to do with a stream is closed with it. This one has not.
    assert_eq!(stranger.request("DESCRIBE", &[]).status, 404);
    delivery.shutdown().await;
}

#[test]
fn a_stream_for_anyone_is_for_anyone() {
    let (folder, delivery) = (folder(), start());
    let (_, url) = mount(&delivery, Clip::mp4(3).make(&folder));
    for from in [LOCALHOST, OTHER] {
        let mut player = Player::connect_from(&url, from);
        player.set_up();
        assert_eq!(player.request("PLAY", &[]).status, 200);
        player.read_packets(5);
    }
}

#[test]
fn an_ipv4_player_is_known_by_a_socket_that_takes_both() {
    let listen = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    let config = DeliveryConfig {
        listen,
        ..DeliveryConfig::default()
    };
    let (folder, delivery) = (folder(), Delivery::start(config).unwrap());
    let mapped = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
    for owner in [LOCALHOST, mapped] {
        let (_, url) = mount_for(&delivery, owner, 3, &folder);
        let mut player = Player::connect_from(&url, LOCALHOST);
        player.set_up();
        assert_eq!(player.request("PLAY", &[]).status, 200);
        player.read_packets(5);
        let mut stranger = Player::connect_from(&url, OTHER);
        assert_eq!(stranger.request("DESCRIBE", &[]).status, 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_stream_is_described_to_whoever_the_node_describes_it_to() {
    let (folder, delivery) = (folder(), start());
    // The node's own address is not the owner's.
    let (stream, url) = mount_for(&delivery, OTHER, 3, &folder);
    let sdp = delivery.sdp(&stream, LOCALHOST, OTHER).await.unwrap();
    assert!(
        sdp.contains("m=video") && sdp.contains("127.0.0.2"),
        "{sdp}"
    );
    assert!(!sdp.contains(&stream.to_string()), "{sdp}");
    // That opened no door to anybody else, and left nothing behind.
    let mut other = Player::connect_from(&url, LOCALHOST);
    assert_eq!(other.request("DESCRIBE", &[]).status, 404);
    assert_eq!(delivery.players(&stream), 0);
    delivery.remove_stream(&stream).await;
    let gone = delivery.sdp(&stream, LOCALHOST, OTHER).await;
    assert!(
        matches!(gone, Err(DeliveryError::UnknownStream)),
        "{gone:?}"
    );
    delivery.shutdown().await;
}

#[test]
fn paths_that_mean_the_same_are_bound_as_well() {
    let (folder, delivery) = (folder(), start());
    let (stream, url) = mount_for(&delivery, LOCALHOST, 3, &folder);
    let base = url.rsplit_once('/').unwrap().0;
    let upper = stream.to_string().to_uppercase();
    for path in [
        format!("{stream}/"),
        format!("{stream}?query"),
        format!("/{stream}"),
        format!("./{stream}"),
        format!("-/{stream}"),
        format!("x/../{stream}"),
        format!("{stream}/../{stream}"),
        format!(
            "%{:02x}{}",
            stream.to_string().as_bytes()[0],
            &stream.to_string()[1..]
        ),
        upper,
    ] {
        for (method, header) in [("DESCRIBE", "Accept: application/sdp"), ("SETUP", INSIDE)] {
            let url = format!("{base}/{path}");
            let mut stranger = Player::connect_from(&url, OTHER);
            let status = stranger.request(method, &[header]).status;
            assert!(status >= 400, "{method} {url}: {status}");
        }
    }
}

#[test]
fn many_connections_are_still_taken_at_a_time_and_no_more() {
    let config = DeliveryConfig {
        max_connections: Some(8),
        ..DeliveryConfig::default()
    };
    let (folder, delivery) = (folder(), Delivery::start(config).unwrap());
    let (_, url) = mount_for(&delivery, LOCALHOST, 3, &folder);
    let mut players: Vec<Player> = (0..8).map(|_| Player::connect(&url)).collect();
    for player in &mut players {
        assert_eq!(player.request("OPTIONS", &[]).status, 200);
    }
    Player::connect(&url).read_to_end();
    drop(players.pop());
    wait_for("a place is free", || {
        let mut player = Player::connect(&url);
        player.send("OPTIONS", &[]);
        player.try_answer()
    });
}

#[test]
fn the_sessions_of_all_addresses_together_are_limited() {
    let config = DeliveryConfig {
        max_connections: Some(4),
        ..DeliveryConfig::default()
    };
    let (folder, delivery) = (folder(), Delivery::start(config).unwrap());
    let (stream, url) = mount(&delivery, Clip::mp4(3).make(&folder));
    let track = format!("{url}/stream=0");
    let mut players = [Player::connect(&url), Player::connect_from(&url, OTHER)];
    let set_up = |player: &mut Player| player.request_to("SETUP", &track, &[INSIDE]).status;
    let statuses = [0, 1, 0, 0, 0, 1].map(|at| set_up(&mut players[at]));
    assert_eq!(statuses, [200, 200, 200, 200, 455, 455]);
    assert_eq!(delivery.players(&stream), 4);
    let [here, mut elsewhere] = players;
    drop(here);
    wait_for("the sessions end with their player's connection", || {
        delivery.players(&stream) == 1
    });
    assert_eq!(set_up(&mut elsewhere), 200);
}

/// Who names a stream from elsewhere takes no place from those who may play it, and is seated and
/// sent away like anybody who made up an id.
#[test]
fn strangers_at_another_address_crowd_out_nobody_who_may_play() {
    let config = DeliveryConfig {
        max_connections: Some(24),
        ..DeliveryConfig::default()
    };
    let (folder, delivery) = (folder(), Delivery::start(config).unwrap());
    let (_, url) = mount_for(&delivery, LOCALHOST, 3, &folder);
    let unknown = delivery.url(&StreamId::random(), LOCALHOST);
    let mut owner = Player::connect(&url);
    assert_eq!(owner.request("OPTIONS", &[]).status, 200);
    for named in [&url, &unknown] {
        let mut strangers = Vec::new();
        for _ in 0..4 {
            let mut stranger = Player::connect_from(named, OTHER);
            assert_eq!(stranger.request("OPTIONS", &[]).status, 200);
            strangers.push(stranger);
        }
        // There is room for three (an eighth of all): the oldest had to go.
        strangers.remove(0).read_to_end();
    }
    owner.set_up();
    assert_eq!(owner.request("PLAY", &[]).status, 200);
    owner.read_packets(20);
}

/// Nor does it help to come back to a session of one's own that plays nothing any more.
#[test]
fn a_session_that_was_left_is_no_way_around_the_limit() {
    let config = DeliveryConfig {
        max_connections: Some(3),
        ..DeliveryConfig::default()
    };
    let (folder, delivery) = (folder(), Delivery::start(config).unwrap());
    let film = Clip::mp4(3).make(&folder);
    let (stream, url) = mount(&delivery, film);
    let track = format!("{url}/stream=0");
    let mut left = Player::connect(&url);
    let answer = left.request_to("SETUP", &track, &[INSIDE]);
    let session = format!(
        "Session: {}",
        answer.headers["session"].split(';').next().unwrap()
    );
    drop(left);
    wait_for("nobody plays", || delivery.players(&stream) == 0);
    let mut others = Player::connect_from(&url, OTHER);
    for _ in 0..3 {
        assert_eq!(others.request_to("SETUP", &track, &[INSIDE]).status, 200);
    }
    let mut back = Player::connect(&url);
    let status = back.request_to("SETUP", &track, &[INSIDE, &session]).status;
    assert!([454, 455].contains(&status), "{status}");
    assert_eq!(delivery.players(&stream), 3);
}

#[test]
fn a_session_that_plays_many_streams_takes_the_places_of_many() {
    let config = DeliveryConfig {
        max_connections: Some(2),
        ..DeliveryConfig::default()
    };
    let (folder, delivery) = (folder(), Delivery::start(config).unwrap());
    let film = Clip::mp4(3).make(&folder);
    let urls: Vec<String> = (0..3).map(|_| mount(&delivery, film.clone()).1).collect();
    let mut player = Player::connect(&urls[0]);
    let statuses = [0, 1, 2].map(|n| {
        let (channel, track) = (2 * n, format!("{}/stream=0", urls[n]));
        let transport = format!(
            "Transport: RTP/AVP/TCP;unicast;interleaved={channel}-{}",
            channel + 1
        );
        let answer = player.request_to("SETUP", &track, &[&transport]);
        if let Some(session) = answer.headers.get("session") {
            player.session = session.split(';').next().map(str::to_owned);
        }
        answer.status
    });
    assert_eq!(statuses, [200, 200, 455]);
}
