//! Guessing passwords, and what it does to everybody else.

use crate::{WRONG, authenticators, desk::Desk, login_fails};
use iceflix_core::api::auth::{AuthError, Role};
use iceflix_tests::cluster::Cluster;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// How many wrong passwords come in a second.
const FLOOD: u32 = 100;

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_waits_ever_longer_and_nobody_else_does() {
    let cluster = authenticators(1).await;
    cluster.new_user("ada", "engine", Role::User).await;
    cluster.new_user("bob", "builder", Role::User).await;
    // People mistype.
    for _ in 0..4 {
        assert_eq!(login_fails(&cluster, "ada", "guess").await, WRONG);
    }
    cluster.login("ada", "engine").await.unwrap();
    for user in ["ada", "nobody"] {
        for _ in 0..5 {
            assert_eq!(login_fails(&cluster, user, "guess").await, WRONG, "{user}");
        }
        for least in [1, 2] {
            let refused = login_fails(&cluster, user, "engine").await;
            let Err(AuthError::TooManyAttempts { retry_after_s }) = refused else {
                panic!("{user}: {refused:?}");
            };
            assert!(
                (1..=least).contains(&retry_after_s),
                "{user}: {retry_after_s} s"
            );
            cluster.login("bob", "builder").await.unwrap();
            // Who waits as told is heard.
            tokio::time::sleep(Duration::from_secs(retry_after_s.into())).await;
            assert_eq!(login_fails(&cluster, user, "guess").await, WRONG, "{user}");
        }
    }
    while let Err(refused) = login_fails(&cluster, "ada", "engine").await {
        let AuthError::TooManyAttempts { retry_after_s } = refused else {
            panic!("ada: {refused}");
        };
        tokio::time::sleep(Duration::from_secs(retry_after_s.into())).await;
    }
    // That was the right one: it begins anew.
    assert_eq!(login_fails(&cluster, "ada", "guess").await, WRONG);
    cluster.login("ada", "engine").await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_an_old_password_with_a_stolen_token_is_guessing() {
    let cluster = authenticators(1).await;
    let ada = cluster.new_user("ada", "engine", Role::User).await;
    let desk = Desk::with(&cluster, 0, &ada.token());
    // Each compares the old one and, as the request may be a repeated one, the new one.
    for _ in 0..3 {
        let wrong = desk.change_password("ada", Some("guess"), "mine").await;
        assert_eq!(wrong, WRONG);
    }
    for old in ["guess", "engine"] {
        let early = desk.change_password("ada", Some(old), "mine").await;
        assert!(
            matches!(early, Err(AuthError::TooManyAttempts { .. })),
            "{early:?}"
        );
    }
    cluster.stop().await;
}

/// How long it takes until it is said that user or password is wrong.
async fn refused_after(cluster: &Cluster, user: &str) -> Duration {
    let asked = Instant::now();
    assert_eq!(login_fails(cluster, user, "guess").await, WRONG);
    asked.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn time_does_not_tell_an_unknown_user_from_a_wrong_password() {
    const OF_EACH: usize = 9;
    let cluster = authenticators(2).await;
    let desk = Desk::at(&cluster, 0).await;
    let mut rounds = Vec::new();
    // A busy machine may have kept one or the other waiting: the best of three rounds counts.
    for round in 0..3 {
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for n in 0..OF_EACH {
            let name = format!("user-{round}-{n}");
            desk.add_user(&name, "secret", Role::User).await.unwrap();
            known.push(refused_after(&cluster, &name).await);
            unknown.push(refused_after(&cluster, &format!("no-{name}")).await);
        }
        known.sort_unstable();
        unknown.sort_unstable();
        let (known, unknown) = (known[OF_EACH / 2], unknown[OF_EACH / 2]);
        rounds.push(known.abs_diff(unknown));
        if known.abs_diff(unknown) < Duration::from_millis(20) {
            break;
        }
    }
    let best = rounds.iter().min().unwrap();
    assert!(*best < Duration::from_millis(20), "{rounds:?}");
    cluster.stop().await;
}

/// Floods an authenticator with wrong passwords for the names that `name` gives, and times right
/// logins of `bob` meanwhile; the slowest of all but one in a hundred.
async fn right_ones_under(cluster: &Arc<Cluster>, name: fn(u32) -> String) -> Duration {
    let flood = {
        let cluster = Arc::clone(cluster);
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / FLOOD);
            let mut asked = JoinSet::new();
            for n in 0.. {
                ticks.tick().await;
                let (cluster, name) = (Arc::clone(&cluster), name(n));
                asked.spawn(async move { cluster.login(&name, "guess").await.map(drop) });
                while let Some(answer) = asked.try_join_next() {
                    let answer = answer.unwrap();
                    let early = matches!(answer, Err(AuthError::TooManyAttempts { .. }));
                    assert!(early || answer == WRONG, "{answer:?}");
                }
            }
        })
    };
    let mut took = Vec::new();
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let asked = Instant::now();
        cluster.login("bob", "builder").await.unwrap();
        took.push(asked.elapsed());
    }
    assert!(!flood.is_finished(), "the flood ended");
    flood.abort();
    let _ = flood.await;
    took.into_iter().max().unwrap()
}

/// Whom the n-th guess is about.
type Named = (&'static str, fn(u32) -> String);

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_wrong_logins_leaves_right_ones_quick() {
    let cluster = authenticators(1).await;
    let desk = Desk::at(&cluster, 0).await;
    desk.add_user("bob", "builder", Role::User).await.unwrap();
    for n in 0..20 {
        let name = format!("user-{n}");
        desk.add_user(&name, "secret", Role::User).await.unwrap();
    }
    drop(desk);
    let cluster = Arc::new(cluster);
    let floods: [Named; 3] = [
        ("of names that do not exist", |n| format!("made-up-{n}")),
        ("of one user", |_| "admin".to_owned()),
        ("of many users", |n| format!("user-{}", n % 20)),
    ];
    for (what, name) in floods {
        // The best of three rounds, on a machine that may be busy with something else.
        let mut slowest = Vec::new();
        while slowest.len() < 3 {
            slowest.push(right_ones_under(&cluster, name).await);
            if slowest.last().is_some_and(|slow| slow.as_secs() < 1) {
                break;
            }
        }
        println!("{what}: {slowest:?}");
        let best = slowest.iter().min().unwrap();
        assert!(*best <= Duration::from_secs(1), "{what}: {slowest:?}");
    }
    // The flood's last requests may hold the cluster for a moment.
    let mut cluster = Some(cluster);
    loop {
        match Arc::try_unwrap(cluster.take().unwrap()) {
            Ok(cluster) => return cluster.stop().await,
            Err(held) => cluster = Some(held),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
