//! Grants: streams that outlive the client, for as long as nobody takes them back.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

mod scene;

use iceflix_core::{
    api::{
        Kind, Page, PageRequest, SessionId, StreamId, TokenError,
        auth::{AuthError, AuthenticatorClient, Grant, PreHash, Role, Token},
        streaming::{EndReason, ListedStream, StreamError, StreamEvent, StreamingClient},
    },
    service::Server,
    trust::{grant::TAKE_UP, now, password::prehash},
};
use iceflix_tests::{
    cluster::{Cluster, film, node, node_config, node_of, wait_for},
    players::rtsp::Client,
    tokens::log_out,
};
use scene::{ASKED, HOUR, PASSWORD, Scene, play};
use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};
use streaming_svc::StreamingServer;
use tempfile::TempDir;

#[tokio::test(flavor = "multi_thread")]
async fn a_granted_stream_outlives_the_logout_and_its_token_at_any_address() {
    let scene = Scene::new().await;
    let stream = scene.granted(HOUR).await;
    assert!((HOUR - 10..=HOUR).contains(&u64::from(stream.expires_s)));
    let mut player = play(&stream).await;
    log_out(&scene.cluster, &scene.ada).await;
    // Longer than the grace after a revocation.
    assert!(player.read_for(ASKED + Duration::from_secs(1)).await);
    let again = play(&stream).await;
    // Who holds a token cannot make it their own, nor needs to renew it.
    let ada = scene.cluster.login("ada", PASSWORD).await.unwrap().token();
    let id = stream.stream;
    let ask = |node: StreamingClient, context| {
        let token = ada.clone();
        async move { node.refresh_authentication(context, token, id).await }
    };
    let renewed = scene.cluster.at(scene.node(), ask).await;
    assert_eq!(renewed, Err(StreamError::UnknownStream));
    let listed = &scene.listed(&ada).await[0];
    assert_eq!((listed.players, listed.any_host), (2, true));
    drop(again);
    scene.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_of_taking_a_grant_back_stops_its_stream() {
    let scene = Scene::new().await;
    let new: PreHash = prehash("ada", PASSWORD);
    for way in [
        "end_grant",
        "revoke_user",
        "change_password",
        "disable_user",
        "set_role",
        "remove_user",
    ] {
        let admin = scene.cluster.admin().await.token();
        // The way before ended all sessions of hers, too.
        let ada = scene.cluster.login("ada", PASSWORD).await.unwrap();
        let (id, token) = (SessionId::random(), ada.token());
        let media = scene.films[0];
        let ask = |auth: AuthenticatorClient, context| {
            let token = token.clone();
            async move { auth.grant(context, token, id, media, HOUR).await }
        };
        let granted = scene.cluster.at(scene.auth(), ask).await.unwrap();
        let stream = scene.take_up(&granted.grant, media).await.unwrap();
        let mut player = play(&stream).await;

        let ask = |auth: AuthenticatorClient, context| {
            let (admin, user) = (admin.clone(), "ada".to_owned());
            async move {
                match way {
                    "end_grant" => auth.end_grant(context, admin, id).await,
                    "revoke_user" => auth.revoke_user(context, admin, user).await,
                    "change_password" => {
                        auth.change_password(context, admin, user, None, new).await
                    }
                    "disable_user" => auth.disable_user(context, admin, user).await,
                    "set_role" => auth.set_role(context, admin, user, Role::Admin).await,
                    _ => auth.remove_user(context, admin, user).await,
                }
            }
        };
        scene.cluster.at(scene.auth(), ask).await.unwrap();
        let ended = Instant::now();
        let reason = scene.next_event(&stream).await;
        assert_eq!(reason, Ok(StreamEvent::Ended(EndReason::Revoked)), "{way}");
        let (heard, packets) = (ended.elapsed(), player.packets);
        let open = player.read_for(ASKED * 2).await;
        let more = player.packets - packets;
        assert!(!open, "{way}: heard after {heard:?}, then {more} packets");
        assert!(ended.elapsed() < ASKED, "{way}: {:?}", ended.elapsed());
        let mut late = Client::connect(&stream.url).await.unwrap();
        assert_eq!(late.request("DESCRIBE", "", &[]).await.unwrap().status, 404);
        let again = scene.take_up(&granted.grant, media).await;
        let refused = StreamError::Unauthorized(TokenError::Revoked);
        assert_eq!(again, Err(refused), "{way}");
        if way == "disable_user" {
            let admin = scene.cluster.admin().await.token();
            let ask = |auth: AuthenticatorClient, context| {
                let (admin, user) = (admin.clone(), "ada".to_owned());
                async move { auth.enable_user(context, admin, user).await }
            };
            scene.cluster.at(scene.auth(), ask).await.unwrap();
        }
    }
    scene.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_is_for_one_film_for_its_time_and_is_one_stream() {
    let scene = Scene::new().await;
    let (film, other) = (scene.films[0], scene.films[1]);
    let granted = scene.grant(SessionId::random(), HOUR).await.unwrap();
    let refused = scene.take_up(&granted.grant, other).await;
    assert_eq!(refused, Err(StreamError::OtherFilm));
    let first = scene.take_up(&granted.grant, film).await.unwrap();
    let second = scene.take_up(&granted.grant, film).await.unwrap();
    assert_eq!(first.stream, second.stream);

    // Longer than the cluster allows (12 h), and no time.
    for seconds in [12 * HOUR + 1, 0] {
        let refused = scene.grant(SessionId::random(), seconds).await;
        assert_eq!(refused, Err(AuthError::GrantTooLong(12 * HOUR)));
    }
    assert!(scene.grant(SessionId::random(), 12 * HOUR).await.is_ok());

    // Not taken up in time; over; damaged; no grant at all.
    let long = now() + Duration::from_secs(HOUR);
    let late = scene.sign(film, long, now() - TAKE_UP);
    let over = scene.sign(film, now(), now() - Duration::from_secs(5));
    for expired in [late, over] {
        let refused = StreamError::Unauthorized(TokenError::Expired);
        assert_eq!(scene.take_up(&expired, film).await, Err(refused));
    }
    let mut damaged = granted.grant.0.clone();
    damaged.replace_range(60..61, if &damaged[60..61] == "A" { "B" } else { "A" });
    let token = scene.token(&scene.ada).await;
    for text in [damaged, token.0] {
        let refused = StreamError::Unauthorized(TokenError::Invalid);
        assert_eq!(scene.take_up(&Grant(text), film).await, Err(refused));
    }
    // And a grant is no token.
    let as_token = Token(granted.grant.0);
    assert!(!scene.cluster.authorised_at(scene.auth(), &as_token).await);

    // What is short ends by itself, at its end.
    let short = scene.granted(3).await;
    let made = Instant::now();
    let mut player = play(&short).await;
    assert!(!player.read_for(ASKED * 2).await, "it is over");
    assert!(made.elapsed() < ASKED, "{:?}", made.elapsed());
    let reason = scene.next_event(&short).await;
    assert_eq!(reason, Ok(StreamEvent::Ended(EndReason::Expired)));
    scene.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_listed_and_stopped_by_their_owners_and_admins() {
    let scene = Scene::new().await;
    let granted = scene.granted(HOUR).await;
    let ada = scene.token(&scene.ada).await;
    let bob = scene
        .cluster
        .new_user("bob", "a password of his", Role::User);
    let bob = bob.await.token();
    let admin = scene.cluster.admin().await.token();
    let media = scene.films[1];
    let ask = |node: StreamingClient, context| {
        let token = bob.clone();
        async move {
            node.get_stream(context, token, StreamId::random(), media, false)
                .await
        }
    };
    let bobs = scene.cluster.at(scene.node(), ask).await.unwrap();

    let of_ada = scene.listed(&ada).await;
    assert_eq!(of_ada.len(), 1);
    let entry = &of_ada[0];
    assert_eq!((entry.user.as_str(), entry.media), ("ada", scene.films[0]));
    assert_eq!(entry.handle, granted.stream.handle());
    assert!(entry.any_host && entry.grant.is_some());
    let lasts = entry.until.unwrap() - entry.since;
    assert!((HOUR - 10..=HOUR).contains(&lasts), "{lasts}");
    let of_bob = scene.listed(&bob).await;
    assert_eq!(of_bob.len(), 1);
    assert_eq!(of_bob[0].from, IpAddr::V4(Ipv4Addr::LOCALHOST));
    assert_eq!((of_bob[0].any_host, of_bob[0].until), (false, None));
    let all = scene.listed(&admin).await;
    assert_eq!(all.len(), 2);
    let shown = format!("{all:?}");
    for secret in [granted.stream, bobs.stream] {
        assert!(!shown.contains(&secret.to_string()[..12]), "{shown}");
    }
    // One at a time, too.
    let mut paged = Vec::new();
    let mut request = PageRequest {
        after: None,
        limit: 1,
    };
    loop {
        let ask = |node: StreamingClient, context| {
            let (token, page) = (admin.clone(), request.clone());
            async move { node.streams(context, token, page).await }
        };
        let page: Page<ListedStream> = scene.cluster.at(scene.node(), ask).await.unwrap();
        paged.extend(page.items);
        match page.next {
            Some(next) => request.after = Some(next),
            None => break,
        }
    }
    assert_eq!(paged, all);

    // Nobody stops what is another's, and learns nothing of it.
    let handle = granted.stream.handle();
    assert_eq!(scene.stop_listed(&bob, handle).await, Ok(()));
    assert_eq!(scene.listed(&ada).await.len(), 1);
    assert_eq!(scene.stop_listed(&ada, handle).await, Ok(()));
    assert_eq!(scene.stop_listed(&ada, handle).await, Ok(()), "again");
    let reason = scene.next_event(&granted).await;
    assert_eq!(reason, Ok(StreamEvent::Ended(EndReason::Stopped)));
    assert!(scene.listed(&ada).await.is_empty());
    let stopped = scene.stop_listed(&admin, bobs.stream.handle()).await;
    assert_eq!(stopped, Ok(()));
    assert!(scene.listed(&admin).await.is_empty());
    scene.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_stream_is_not_taken_up_again_with_the_same_grant() {
    let scene = Scene::new().await;
    let granted = scene.grant(SessionId::random(), HOUR).await.unwrap();
    let stream = scene.take_up(&granted.grant, scene.films[0]).await.unwrap();
    let ada = scene.token(&scene.ada).await;
    scene
        .stop_listed(&ada, stream.stream.handle())
        .await
        .unwrap();
    let again = scene.take_up(&granted.grant, scene.films[0]).await;
    assert_eq!(again, Err(StreamError::UnknownStream));
    scene.cluster.stop().await;
}

/// A node on which granted streams go on for two seconds without an authenticator.
async fn impatient_node(cluster: &mut Cluster, media: &TempDir) -> StreamingServer {
    let common = cluster.common(Kind::Streaming);
    node_of(streaming_svc::Config {
        grants_without_auth: "2s".parse().unwrap(),
        ..node_config(common, media.path())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_authenticator_granted_streams_stop_after_a_while() {
    let media = tempfile::tempdir().unwrap();
    film(&media.path().join("long.mp4"), 60, 440);
    let mut cluster = Cluster::start(1, 2, 1, &[]).await;
    let hasty = impatient_node(&mut cluster, &media).await;
    let common = cluster.common(Kind::Streaming);
    let patient = node(common, media.path()).await;
    let film = cluster.until_films(1).await[0].id;
    let token = cluster.admin().await.token();
    let id = SessionId::random();
    let ask = |auth: AuthenticatorClient, context| {
        let token = token.clone();
        async move { auth.grant(context, token, id, film, HOUR).await }
    };
    let auth = cluster.auths[0].address();
    let grant = cluster.at(auth, ask).await.unwrap().grant;
    let mut streams = Vec::new();
    for node in [hasty.address(), patient.address()] {
        let ask = |node: StreamingClient, context| {
            let grant = grant.clone();
            async move { node.get_granted_stream(context, grant, film, true).await }
        };
        let mut stream = None;
        wait_for("the grant is taken up", async || {
            stream = cluster.at(node, ask).await.ok();
            stream.is_some()
        })
        .await;
        streams.push(stream.unwrap());
    }
    let (mut stops, mut goes_on) = (play(&streams[0]).await, play(&streams[1]).await);
    // One authenticator is enough.
    cluster.auths.pop().unwrap().shutdown().await;
    let open = stops.read_for(Duration::from_secs(4)).await;
    let stream = streams[0].stream;
    let ask =
        |node: StreamingClient, context| async move { node.next_event(context, stream).await };
    if !open {
        let reason = cluster.at(hasty.address(), ask).await;
        panic!("it ended with an authenticator there: {reason:?}");
    }
    cluster.auths.pop().unwrap().shutdown().await;
    let gone = Instant::now();
    assert!(!stops.read_for(ASKED * 2).await, "it has ended");
    let took = gone.elapsed();
    assert!(took > Duration::from_millis(1500), "too early: {took:?}");
    let reason = cluster.at(hasty.address(), ask).await;
    assert_eq!(reason, Ok(StreamEvent::Ended(EndReason::Unsupervised)));
    // Elsewhere, where ten minutes are allowed, it plays.
    goes_on.read_packets(20).await.unwrap();
    // Nothing new begins once the last token is over: nobody makes another.
    let expired = StreamError::Unauthorized(TokenError::Expired);
    wait_for("the token is over", async || {
        let ask = |node: StreamingClient, context| {
            let token = token.clone();
            async move { node.streams(context, token, PageRequest::first()).await }
        };
        cluster.at(patient.address(), ask).await.err() == Some(expired.clone())
    })
    .await;
    let ask = |node: StreamingClient, context| {
        let token = token.clone();
        async move {
            node.get_stream(context, token, StreamId::random(), film, true)
                .await
        }
    };
    let begun = cluster.at(patient.address(), ask).await;
    assert_eq!(begun.map(drop), Err(expired));
    for node in [hasty, patient] {
        node.shutdown().await;
    }
    cluster.stop().await;
}
