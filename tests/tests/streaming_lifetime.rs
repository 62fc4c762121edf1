//! How long streams live: while somebody with a token renews them, five seconds more, and not
//! after they were stopped.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

use iceflix_core::{
    api::{
        Kind, MediaId, SessionId, StreamId,
        auth::{AuthenticatorClient, Role, Token},
        streaming::{EndReason, StreamError, StreamEvent, StreamingClient},
    },
    service::Server,
    trust::{now, token},
};
use iceflix_tests::{
    cluster::{Cluster, Person, film, wait_for},
    identity,
    players::{
        rtsp::{self, Client},
        viewer::{Viewer, Watched},
    },
    tokens::{log_out, signing_key},
    wrong_clock,
};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::{net::UdpSocket, time::timeout};

/// Within which the packets are to stop once the token is gone.
const ASKED: Duration = Duration::from_secs(6);

/// A cluster with a film that is long enough, and a user.
async fn cluster() -> (Cluster, TempDir, MediaId, Person) {
    let media = tempfile::tempdir().unwrap();
    let path = media.path().join("long.mp4");
    tokio::task::spawn_blocking(move || film(&path, 60, 440))
        .await
        .unwrap();
    let cluster = Cluster::start(1, 1, 1, &[media.path()]).await;
    let id = cluster.until_films(1).await[0].id;
    let ada = cluster
        .new_user("ada", "a password of hers", Role::User)
        .await;
    (cluster, media, id, ada)
}

async fn revoke(cluster: &Cluster, user: &str) {
    let admin = cluster.admin().await.token();
    let ask = |auth: AuthenticatorClient, context| {
        let (admin, user) = (admin.clone(), user.to_owned());
        async move { auth.revoke_user(context, admin, user).await }
    };
    cluster.at(cluster.auths[0].address(), ask).await.unwrap();
}

/// A token of `admin` that has only so long left.
fn token_with(cluster: &Cluster, left: Duration) -> Token {
    let key = signing_key(cluster);
    let made = now() + left - iceflix_core::trust::TOKEN_LIFETIME;
    token::issue(
        &key,
        cluster.name(),
        "admin",
        SessionId::random(),
        Role::Admin,
        0,
        made,
    )
    .unwrap()
}

/// A player over UDP: its connection, and where its video arrives.
async fn play_over_udp(watched: &Watched) -> (Client, UdpSocket) {
    let mut client = Client::connect(watched.url()).await.unwrap();
    client.describe().await.unwrap();
    let host = rtsp::server_of(watched.url()).unwrap().ip();
    let [rtp, _] = rtsp::udp_pair(host).await.unwrap();
    let port = rtp.local_addr().unwrap().port();
    let transport = format!("RTP/AVP;unicast;client_port={port}-{}", port + 1);
    client.set_up(0, &transport).await.unwrap();
    client.play().await.unwrap();
    (client, rtp)
}

/// When the last packet came to a port at which they end: there is none for a second.
async fn last_packet(socket: &UdpSocket) -> Instant {
    let mut last = Instant::now();
    let mut packet = [0; 2048];
    while timeout(Duration::from_secs(1), socket.recv(&mut packet))
        .await
        .is_ok()
    {
        last = Instant::now();
        assert!(last.elapsed() < ASKED * 5);
    }
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_stop_within_six_seconds_of_a_revocation() {
    let (cluster, _media, id, ada) = cluster().await;
    let viewer = Viewer::new(&cluster, ada);
    let watched = viewer.watch(id).await.unwrap();
    let (mut over_udp, port) = play_over_udp(&watched).await;
    let mut over_tcp = Client::connect(watched.url()).await.unwrap();
    over_tcp.play_interleaved().await.unwrap();
    over_tcp.read_packets(20).await.unwrap();
    // Somebody else's goes on.
    let other = Viewer::admin(&cluster).await;
    let others = other.watch(id).await.unwrap();
    let mut others_player = Client::connect(others.url()).await.unwrap();
    others_player.play_interleaved().await.unwrap();

    revoke(&cluster, "ada").await;
    let revoked = Instant::now();
    let events = async {
        let wanted = viewer.next_event(&watched).await.unwrap();
        assert_eq!(wanted, StreamEvent::RenewalWanted);
        loop {
            match viewer.next_event(&watched).await.unwrap() {
                StreamEvent::Ended(reason) => break reason,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let closed = async {
        assert!(!over_tcp.read_for(ASKED).await, "the connection is closed");
        Instant::now()
    };
    let others = others_player.read_for(ASKED + Duration::from_secs(1));
    let (reason, last, closed, others) = tokio::join!(events, last_packet(&port), closed, others);
    assert_eq!(reason, EndReason::Revoked);
    for end in [last, closed] {
        let took = end - revoked;
        assert!(took < ASKED, "{took:?}");
        assert!(took > Duration::from_secs(4), "no grace: {took:?}");
    }
    assert!(others, "somebody else's stream goes on");
    assert!(!over_udp.read_for(ASKED).await, "the connection is closed");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_stream_goes_on_after_a_renewal_and_ends_after_a_logout() {
    let (cluster, _media, id, ada) = cluster().await;
    let viewer = Viewer::new(&cluster, ada);
    let watched = viewer.watch(id).await.unwrap();
    let mut player = Client::connect(watched.url()).await.unwrap();
    player.play_interleaved().await.unwrap();
    revoke(&cluster, "ada").await;
    let wanted = viewer.next_event(&watched).await;
    assert_eq!(wanted, Ok(StreamEvent::RenewalWanted));
    // She logs in again and goes on with what she watches.
    let again = cluster.login("ada", "a password of hers").await.unwrap();
    let viewer = Viewer::new(&cluster, again);
    viewer.renew(&watched).await.unwrap();
    let after = player.packets;
    assert!(
        player.read_for(ASKED + Duration::from_secs(2)).await,
        "it goes on"
    );
    assert!(
        player.packets > after + 100,
        "{after}, then {}",
        player.packets
    );
    assert_eq!(viewer.status(&watched).await.unwrap().players, 1);

    log_out(&cluster, viewer.person()).await;
    let out = Instant::now();
    assert!(
        !player.read_for(ASKED * 2).await,
        "the connection is closed"
    );
    assert!(out.elapsed() < ASKED, "{:?}", out.elapsed());
    let end = viewer.next_event(&watched).await;
    assert_eq!(end, Ok(StreamEvent::Ended(EndReason::Revoked)));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_runs_out_ends_its_stream_unless_it_is_renewed() {
    let (cluster, _media, id, _ada) = cluster().await;
    let viewer = Viewer::admin(&cluster).await;
    let node = cluster.nodes[0].address();
    let left = Duration::from_secs(3);
    let start = Instant::now();
    let lost = viewer
        .watch_at(node, token_with(&cluster, left), id)
        .await
        .unwrap();
    let kept = viewer
        .watch_at(node, token_with(&cluster, left), id)
        .await
        .unwrap();
    assert!(lost.stream.expires_s <= 3);
    let mut players = Vec::new();
    for watched in [&lost, &kept] {
        let mut player = Client::connect(watched.url()).await.unwrap();
        player.play_interleaved().await.unwrap();
        players.push(player);
    }
    for watched in [&lost, &kept] {
        let wanted = viewer.next_event(watched).await;
        assert_eq!(wanted, Ok(StreamEvent::RenewalWanted));
    }
    viewer.renew(&kept).await.unwrap();
    assert!(viewer.status(&kept).await.unwrap().expires_s > 5);
    let [lost_player, kept_player] = &mut players[..] else {
        unreachable!()
    };
    let (lost_goes_on, kept_goes_on) = tokio::join!(
        lost_player.read_for(ASKED * 2),
        kept_player.read_for(ASKED * 2)
    );
    assert!(!lost_goes_on && kept_goes_on);
    let end = viewer.next_event(&lost).await;
    assert_eq!(end, Ok(StreamEvent::Ended(EndReason::Expired)));
    assert_eq!(viewer.renew(&lost).await, Err(StreamError::UnknownStream));
    assert!(start.elapsed() < left + ASKED * 3);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_streams_id_is_dead_and_only_its_owner_stops_it() {
    let (cluster, _media, id, ada) = cluster().await;
    let viewer = Viewer::new(&cluster, ada);
    let bob = cluster
        .new_user("bob", "a password of his", Role::User)
        .await;
    let stranger = Viewer::new(&cluster, bob);
    let watched = viewer.watch(id).await.unwrap();
    let mut player = Client::connect(watched.url()).await.unwrap();
    player.play_interleaved().await.unwrap();

    // Others learn nothing of it and change nothing.
    assert_eq!(stranger.stop(&watched).await, Ok(()));
    let unknown = StreamError::UnknownStream;
    assert_eq!(stranger.renew(&watched).await, Err(unknown.clone()));
    assert_eq!(stranger.status(&watched).await, Err(unknown.clone()));
    assert_eq!(stranger.sdp(&watched).await, Err(unknown.clone()));
    player.read_packets(50).await.unwrap();
    assert_eq!(viewer.status(&watched).await.unwrap().players, 1);

    viewer.stop(&watched).await.unwrap();
    assert!(!player.read_for(ASKED).await, "the connection is closed");
    let end = viewer.next_event(&watched).await;
    assert_eq!(end, Ok(StreamEvent::Ended(EndReason::Stopped)));
    assert_eq!(viewer.status(&watched).await, Err(unknown.clone()));
    assert_eq!(viewer.sdp(&watched).await, Err(unknown.clone()));
    assert_eq!(viewer.renew(&watched).await, Err(unknown));
    assert_eq!(viewer.stop(&watched).await, Ok(()), "again is no error");
    for method in ["DESCRIBE", "SETUP"] {
        let mut late = Client::connect(watched.url()).await.unwrap();
        let transport = ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1"];
        let answer = late.request(method, "", &transport).await.unwrap();
        assert_eq!(answer.status, 404, "{method}");
    }

    // An admin may stop anybody's.
    let watched = viewer.watch(id).await.unwrap();
    Viewer::admin(&cluster).await.stop(&watched).await.unwrap();
    let end = viewer.next_event(&watched).await;
    assert_eq!(end, Ok(StreamEvent::Ended(EndReason::Stopped)));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_again_for_a_stream_has_the_same_one_and_nobody_else_has() {
    let media = tempfile::tempdir().unwrap();
    for (name, tone) in [("one.mp4", 440), ("two.mp4", 880)] {
        film(&media.path().join(name), 30, tone);
    }
    let cluster = Cluster::start(1, 1, 1, &[media.path()]).await;
    let films = cluster.until_films(2).await;
    let (film, other) = (films[0].id, films[1].id);
    let node = cluster.nodes[0].address();
    let ada = cluster
        .new_user("ada", "a password of hers", Role::User)
        .await;
    let (ada, admin) = (Viewer::new(&cluster, ada), Viewer::admin(&cluster).await);
    let id = StreamId::random();

    // At the same time, and again while it plays, also when the token of the first time is no longer
    // the last.
    let token = ada.token().await;
    let asked = (0..8).map(|_| ada.stream_at(node, token.clone(), id, film, false));
    let first = futures::future::join_all(asked).await;
    let first: Vec<Watched> = first.into_iter().map(Result::unwrap).collect();
    assert_eq!(first[0].stream.stream, id);
    let mut player = Client::connect(first[0].url()).await.unwrap();
    player.play_interleaved().await.unwrap();
    player.read_packets(5).await.unwrap();
    let again = ada
        .stream_at(node, ada.token().await, id, film, false)
        .await;
    assert_eq!(again.unwrap().url(), first[0].url());

    let taken = |asked: Result<Watched, StreamError>| assert_eq!(asked, Err(StreamError::IdTaken));
    taken(ada.stream_at(node, token.clone(), id, other, false).await);
    taken(ada.stream_at(node, token.clone(), id, film, true).await);
    taken(
        admin
            .stream_at(node, admin.token().await, id, film, false)
            .await,
    );
    // None of which disturbed it: more than what may have been on its way.
    assert_eq!(ada.status(&first[0]).await.unwrap().players, 1);
    player.read_packets(200).await.unwrap();
    assert_eq!(ada.status(&first[0]).await.unwrap().media, film);

    // What was stopped is not begun anew by a request that comes late.
    ada.stop(&first[0]).await.unwrap();
    let late = ada.stream_at(node, token, id, film, false).await;
    assert_eq!(late, Err(StreamError::UnknownStream));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_again_for_a_stream_renews_it() {
    let (cluster, _media, film, _ada) = cluster().await;
    let (admin, node) = (Viewer::admin(&cluster).await, cluster.nodes[0].address());
    let (id, brief) = (StreamId::random(), Duration::from_secs(8));
    let short = token_with(&cluster, brief);
    let made = admin.stream_at(node, short.clone(), id, film, false).await;
    assert!(made.unwrap().stream.expires_s <= 8);
    let again = admin.stream_at(node, admin.token().await, id, film, false);
    let again = again.await.unwrap();
    assert!(again.stream.expires_s > 20, "{again:?}");
    // A late copy of the first request does not take that back.
    let copy = admin.stream_at(node, short, id, film, false).await;
    assert!(copy.unwrap().stream.expires_s > 20);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_only_so_many_streams_at_a_node_and_others_have_theirs() {
    let (cluster, _media, film, ada) = cluster().await;
    let bob = cluster.new_user("bob", "his password", Role::User).await;
    let (ada, bob) = (Viewer::new(&cluster, ada), Viewer::new(&cluster, bob));
    let mut opened = 0;
    let refused = loop {
        match ada.watch(film).await {
            // What is stopped is remembered for a minute, and counts for as long.
            Ok(watched) if opened % 2 == 0 => ada.stop(&watched).await.unwrap(),
            Ok(_) => {}
            Err(error) => break error,
        }
        opened += 1;
        assert!(opened <= 1000, "there is no end to it");
    };
    assert_eq!(refused, StreamError::TooMany);
    bob.watch(film).await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_what_happens_waits_for_it_as_long_as_they_say() {
    let (cluster, _media, film, ada) = cluster().await;
    let watched = Viewer::new(&cluster, ada).watch(film).await.unwrap();
    // Longer than any other call may take; it is answered in time all the same.
    for patience in [Duration::from_millis(700), Duration::from_secs(3)] {
        let began = Instant::now();
        let ask = |node: StreamingClient, context| {
            let stream = watched.stream.stream;
            async move { node.next_event(context, stream).await }
        };
        let event = cluster.caller().call_at(watched.node, patience, ask).await;
        assert_eq!(event.unwrap(), Ok(StreamEvent::None));
        assert!(began.elapsed() >= patience / 2, "{:?}", began.elapsed());
    }
    cluster.stop().await;
}

const HOUR: Duration = Duration::from_secs(3600);

/// Whoever knows its address is sent elsewhere, also who has a token that is over for this clock
/// alone; and who watches a film is not disturbed.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_wrong_clock_begins_no_stream_and_ends_none() {
    let (cluster, _media, id, ada) = cluster().await;
    let viewer = Viewer::new(&cluster, ada);
    let (node, token) = (cluster.nodes[0].address(), viewer.token().await);
    let watched = viewer.watch_at(node, token.clone(), id).await.unwrap();
    let connect = cluster.bus_addresses().into_iter();
    let connect: Vec<_> = connect.map(|place| format!("tls/{place}")).collect();
    let place = "tls/127.0.0.1:0";
    let bus = identity::on_the_bus(cluster.name(), Kind::Main, place, &connect).await;
    let _others = [
        wrong_clock::answering(&bus, cluster.name(), 2, HOUR).await,
        wrong_clock::answering(&bus, cluster.name(), 3, HOUR).await,
    ];
    // One that it does not have: no stream is made before its clock is compared.
    let unknown = MediaId::from_bytes([7; 32]);
    wait_for("it begins nothing", async || {
        let refused = viewer.watch_at(node, token.clone(), unknown).await;
        refused == Err(StreamError::Draining)
    })
    .await;
    for token in [token.clone(), Token("over".into())] {
        let refused = viewer.watch_at(node, token, id).await;
        assert_eq!(refused, Err(StreamError::Draining));
    }
    let ask = |node: StreamingClient, context| async move { node.is_available(context, id).await };
    assert!(!cluster.at(node, ask).await, "it would not play it");
    let stream = watched.stream.stream;
    let status = |node: StreamingClient, context| {
        let token = token.clone();
        async move { node.status(context, token, stream).await }
    };
    assert_eq!(cluster.at(node, status).await.unwrap().media, id);
    cluster.stop().await;
}
