//! Streams, authorised through the front door and seen on the wire: whose they are, where their
//! packets go, and what becomes of them when nodes and films come and go.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

use iceflix_core::{
    api::{
        Kind, MediaId, TokenError,
        auth::{Role, Token},
        streaming::{EndReason, StreamError, StreamEvent, StreamingClient},
    },
    feed::{Heard, Hearer},
    service::Server,
    topics::Topics,
};
use iceflix_tests::{
    clips::{Clip, Make},
    cluster::{Cluster, PATIENCE, wait_for},
    identity,
    players::{
        Transport, ffmpeg,
        rtsp::{self, Client},
        viewer::Viewer,
    },
    process::program,
};
use sha2::{Digest as _, Sha256};
use std::{
    collections::HashSet,
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    pin::pin,
    time::Duration,
};
use streaming_svc::{StreamingServer, library::LibraryConfig, probe::ProbeCommand};
use tempfile::TempDir;
use tokio::{net::UdpSocket, time::timeout};

/// A directory with one usual film of four seconds, and the film's id.
fn media() -> (TempDir, MediaId) {
    let media = tempfile::tempdir().unwrap();
    let path = Clip::usual().put_into(media.path()).unwrap();
    let id = id_of(&path);
    (media, id)
}

fn id_of(path: &Path) -> MediaId {
    MediaId::from_bytes(Sha256::digest(fs::read(path).unwrap()).into())
}

async fn is_available(cluster: &Cluster, node: SocketAddr, id: MediaId) -> bool {
    let ask = |node: StreamingClient, context| async move { node.is_available(context, id).await };
    cluster.at(node, ask).await
}

/// What arrives at a UDP port next: who sent it, and the RTP header's SSRC.
async fn packet(socket: &UdpSocket) -> (SocketAddr, u32) {
    let mut packet = [0; 2048];
    let received = timeout(PATIENCE, socket.recv_from(&mut packet)).await;
    let (length, from) = received.expect("a packet").unwrap();
    assert!(length > 12 && packet[0] >> 6 == 2, "RTP, version 2");
    let ssrc = packet[8..12].try_into().unwrap();
    (from, u32::from_be_bytes(ssrc))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_film_on_two_nodes_is_one_title_until_both_are_gone() {
    let (first, id) = media();
    let second = tempfile::tempdir().unwrap();
    let path = Clip::usual().put_into(second.path()).unwrap();
    fs::rename(path, second.path().join("another name.mp4")).unwrap();
    let mut cluster = Cluster::start(1, 1, 1, &[first.path(), second.path()]).await;
    let person = cluster.admin().await;
    let viewer = Viewer::new(&cluster, person.clone());
    wait_for("both nodes announced it", async || {
        viewer
            .tile(id)
            .await
            .is_ok_and(|tile| tile.tile.providers == 2)
    })
    .await;
    assert_eq!(cluster.films().await.unwrap().len(), 1, "one title");
    for node in &cluster.nodes {
        let node = node.address();
        assert!(is_available(&cluster, node, id).await);
        let other = MediaId::from_bytes([7; 32]);
        assert!(!is_available(&cluster, node, other).await);
        let watched = viewer
            .watch_at(node, viewer.token().await, id)
            .await
            .unwrap();
        assert_eq!(viewer.status(&watched).await.unwrap().media, id);
    }

    // A node that leaves ends its streams, and the film stays as long as another has it.
    for left in [1, 0] {
        let node = cluster.nodes.pop().unwrap();
        let viewer = Viewer::new(&cluster, person.clone());
        let token = viewer.token().await;
        let watched = viewer.watch_at(node.address(), token, id).await.unwrap();
        let mut end = pin!(viewer.next_event(&watched));
        let nothing_yet = timeout(Duration::from_millis(300), &mut end).await;
        assert!(nothing_yet.is_err(), "{nothing_yet:?}");
        let (end, ()) = tokio::join!(end, node.shutdown());
        assert_eq!(end, Ok(StreamEvent::Ended(EndReason::Shutdown)));
        wait_for("the catalogue noticed", async || {
            let tile = viewer.tile(id).await.unwrap().tile;
            tile.providers == left && tile.available == (left > 0)
        })
        .await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_given_to_whoever_may_have_them_each_with_its_own_id() {
    let (media, id) = media();
    let odd = Clip {
        container: "mkv",
        ..Clip::usual()
    }
    .made(Make::Unplayable);
    let odd = id_of(&odd.put_into(media.path()).unwrap());
    let cluster = Cluster::start(1, 1, 1, &[media.path()]).await;
    cluster.until_films(1).await;
    let viewer = Viewer::admin(&cluster).await;
    let node = cluster.nodes[0].address();
    let token = viewer.token().await;

    let unknown = MediaId::from_bytes([7; 32]);
    let refused = viewer.watch_at(node, token.clone(), unknown).await;
    assert_eq!(refused, Err(StreamError::UnknownMedia));
    // Whether there is such a film is not told to strangers.
    for id in [id, unknown] {
        let refused = viewer.watch_at(node, Token("nobody's".into()), id).await;
        assert_eq!(refused, Err(StreamError::Unauthorized(TokenError::Invalid)));
    }

    // What cannot be played is listed, with the reason.
    wait_for("the odd film is listed", async || {
        viewer.tile(odd).await.is_ok()
    })
    .await;
    let tile = viewer.tile(odd).await.unwrap();
    let reason = tile.tile.unplayable.expect("a reason");
    assert!(reason.contains("MPEG"), "{reason}");
    assert!(!tile.tile.available && tile.providers.is_empty());
    assert!(!is_available(&cluster, node, odd).await);
    let refused = viewer.watch_at(node, token.clone(), odd).await;
    assert_eq!(refused, Err(StreamError::Unplayable(reason)));

    let mut urls = HashSet::new();
    for _ in 0..20 {
        let watched = viewer.watch_at(node, token.clone(), id).await.unwrap();
        let suffix = format!("/{}", watched.stream.stream);
        assert!(watched.url().ends_with(&suffix), "{}", watched.url());
        assert!((1..=30).contains(&watched.stream.expires_s));
        assert!(urls.insert(watched.stream.url));
    }

    // A film that goes away takes its streams with it.
    let watched = viewer.watch(id).await.unwrap();
    fs::remove_file(media.path().join("mp4 H264 Aac.mp4")).unwrap();
    let end = viewer.next_event(&watched).await;
    assert_eq!(end, Ok(StreamEvent::Ended(EndReason::MediaRemoved)));
    wait_for("the catalogue noticed", async || {
        !viewer.tile(id).await.unwrap().tile.available
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ports_asked_for_are_those_used_and_every_viewer_gets_their_own_stream() {
    let (media, id) = media();
    let cluster = Cluster::start(1, 1, 1, &[media.path()]).await;
    cluster.until_films(1).await;
    let viewer = Viewer::admin(&cluster).await;
    let shared = viewer.watch_anywhere(id).await.unwrap();
    let mut players = Vec::new();
    let mut sources = HashSet::new();
    // Two viewers on one host, with a stream each; two on other hosts, who share one's URL.
    for (from, url) in [
        ("127.0.0.1", viewer.watch(id).await.unwrap().stream.url),
        ("127.0.0.1", shared.stream.url.clone()),
        ("127.0.0.2", shared.stream.url.clone()),
        ("127.0.0.3", shared.stream.url.clone()),
    ] {
        let from: IpAddr = from.parse().unwrap();
        let mut client = Client::connect_from(&url, from).await.unwrap();
        client.describe().await.unwrap();
        let mut tracks = Vec::new();
        for track in 0..2 {
            let sockets = rtsp::udp_pair(from).await.unwrap();
            let port = sockets[0].local_addr().unwrap().port();
            let asked = format!("{port}-{}", port + 1);
            let transport = format!("RTP/AVP;unicast;client_port={asked}");
            let answer = client.set_up(track, &transport).await.unwrap();
            assert_eq!(answer.transport("client_port"), Some(&*asked), "{answer:?}");
            let server = answer.transport("server_port").unwrap();
            let server: u16 = server.split('-').next().unwrap().parse().unwrap();
            let ssrc = answer.transport("ssrc").unwrap();
            let ssrc = u32::from_str_radix(ssrc, 16).unwrap();
            assert!(sources.insert(ssrc), "a source of its own");
            tracks.push((sockets, server, ssrc));
        }
        client.play().await.unwrap();
        players.push((client, tracks));
    }
    for (_, tracks) in &players {
        for (sockets, server, ssrc) in tracks {
            for _ in 0..5 {
                let (from, source) = packet(&sockets[0]).await;
                let wanted = SocketAddr::new("127.0.0.1".parse().unwrap(), *server);
                assert_eq!((from, source), (wanted, *ssrc), "nobody else's packets");
            }
        }
    }
    assert_eq!(viewer.status(&shared).await.unwrap().players, 3);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_by_which_the_node_was_reached_is_the_one_it_names() {
    let (media, id) = media();
    let mut cluster = Cluster::start(1, 1, 1, &[]).await;
    let all: SocketAddr = "[::]:0".parse().unwrap();
    let mut config = streaming_svc::Config {
        common: cluster.common(Kind::Streaming),
        media: vec![media.path().to_owned()],
        rtsp_listen: all,
        ..streaming_svc::Config::default()
    };
    config.common.listen = all;
    let library = LibraryConfig {
        media: config.media.clone(),
        state_dir: config.common.state_dir.clone(),
        probe_command: ProbeCommand {
            program: program("iceflix-streaming"),
            ..ProbeCommand::default()
        },
        ..LibraryConfig::default()
    };
    let node = StreamingServer::bind_with(config, library).await.unwrap();
    let port = node.address().port();
    let viewer = Viewer::admin(&cluster).await;
    // By whichever address of the loopback the node is reached, the caller's own is the first.
    for (host, origin, client) in [
        ("127.0.0.1", "IN IP4 127.0.0.1", "IN IP4 127.0.0.1"),
        ("127.0.0.2", "IN IP4 127.0.0.2", "IN IP4 127.0.0.1"),
        ("::1", "IN IP6 ::1", "IN IP6 ::1"),
    ] {
        let address: IpAddr = host.parse().unwrap();
        let reached = SocketAddr::new(address, port);
        wait_for("the film is found", async || {
            is_available(&cluster, reached, id).await
        })
        .await;
        let token = viewer.token().await;
        let watched = viewer.watch_at(reached, token, id).await.unwrap();
        assert_eq!(rtsp::server_of(watched.url()).unwrap().ip(), address);
        let sdp = viewer.sdp(&watched).await.unwrap();
        let named = |field| sdp.lines().filter_map(move |line| line.strip_prefix(field));
        assert!(named("o=").all(|line| line.ends_with(origin)), "{sdp}");
        assert!(
            named("c=").count() > 0 && named("c=").all(|line| line == client),
            "{sdp}"
        );
        let played = ffmpeg::play(watched.url(), Transport::Udp, Some(3))
            .await
            .unwrap();
        assert!(!played.frames.is_empty(), "{host}: {played:?}");
    }
    node.shutdown().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_serves_several_players_together_and_again_after_the_end() {
    let (media, id) = media();
    let cluster = Cluster::start(1, 1, 1, &[media.path()]).await;
    cluster.until_films(1).await;
    let viewer = Viewer::admin(&cluster).await;
    let watched = viewer.watch(id).await.unwrap();
    let film = ffmpeg::decode_file(media.path().join("mp4 H264 Aac.mp4"))
        .await
        .unwrap();
    for _ in 0..2 {
        let (first, second) = tokio::join!(
            ffmpeg::play(watched.url(), Transport::Tcp, None),
            ffmpeg::play(watched.url(), Transport::Udp, None),
        );
        for played in [first.unwrap(), second.unwrap()] {
            assert_eq!(played.frames, film.frames, "{}", played.complaints);
        }
    }
    viewer.stop(&watched).await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_announces_its_films_again_when_it_is_asked_to() {
    let (media, id) = media();
    let mut cluster = Cluster::start(1, 1, 0, &[]).await;
    let admin = cluster.admin().await.token();
    let ada = cluster
        .new_user("ada", "a password of hers", Role::User)
        .await
        .token();
    let port = iceflix_tests::cluster::free_port();
    let place = format!("tls/127.0.0.1:{port}");
    let bus = identity::on_the_bus(cluster.name(), Kind::Catalog, &place, &[]).await;
    let mut common = cluster.common(Kind::Streaming);
    common.bus_connect.push(place);
    let node = iceflix_tests::cluster::node(common, media.path()).await;
    let topics = Topics::new(cluster.name());
    let (_hearer, mut heard) = Hearer::follow(&bus, &topics, topics.media(), None)
        .await
        .unwrap();
    let mut everything = async || loop {
        let heard = heard.recv().await.unwrap();
        if let Heard::Everything(_, films) = heard
            && films.contains_key(&id.to_string())
        {
            break;
        }
    };
    timeout(PATIENCE, everything()).await.expect("in time");
    let ask = async |token: Option<Token>| {
        let ask = |node: StreamingClient, context| {
            let token = token.clone();
            async move { node.reannounce_media(context, token).await }
        };
        cluster.at(node.address(), ask).await
    };
    wait_for("the node knows the authenticator", async || {
        ask(Some(ada.clone())).await == Err(StreamError::NotAdmin)
    })
    .await;
    assert_eq!(ask(None).await, Err(StreamError::NotAdmin));
    // Somebody who missed it asks, as often as they like; it is done now and then.
    for _ in 0..2 {
        wait_for("everything is said again", async || {
            ask(Some(admin.clone())).await.unwrap();
            let again = timeout(Duration::from_millis(300), everything()).await;
            again.is_ok()
        })
        .await;
    }
    node.shutdown().await;
    bus.close().await;
    cluster.stop().await;
}
