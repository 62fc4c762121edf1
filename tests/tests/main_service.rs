//! Main, before real services: what it hands out, and when it stops to.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

use iceflix_core::{
    api::{
        Instance, Kind,
        auth::AuthenticatorClient,
        catalog::CatalogClient,
        main::{MainClient, MainError},
        streaming::StreamingClient,
    },
    rpc,
    service::Server,
};
use iceflix_tests::{
    cluster::{Cluster, PATIENCE, film, until_listed, wait_for},
    process::{Process, flags},
    waiting::within_a_second,
};
use nix::sys::signal::Signal;
use std::{net::SocketAddr, time::Instant};

/// Asks one Main for an instance of a kind.
async fn ask(view: &rpc::Cluster, main: SocketAddr, kind: Kind) -> Result<Instance, MainError> {
    let question = |main: MainClient, context| async move {
        match kind {
            Kind::Auth => main.authenticator(context).await,
            Kind::Catalog => main.catalog(context).await,
            Kind::Streaming => main.provider(context).await,
            Kind::Main => unreachable!("a Main is not asked for Mains"),
        }
    };
    let asked = view.caller().call_at(main, PATIENCE, question).await;
    asked.unwrap()
}

const ASKED_FOR: [Kind; 3] = [Kind::Auth, Kind::Catalog, Kind::Streaming];

#[tokio::test(flavor = "multi_thread")]
async fn what_it_hands_out_answers_and_is_of_the_right_kind() {
    let media = tempfile::tempdir().unwrap();
    film(&media.path().join("film.mp4"), 1, 440);
    let cluster = Cluster::start(2, 2, 2, &[media.path()]).await;
    let film = cluster.until_films(1).await[0].id;
    let token = cluster.admin().await.token();
    for main in cluster.main_addresses() {
        for _ in 0..4 {
            let auth = ask(cluster.view(), main, Kind::Auth).await.unwrap();
            assert_eq!(auth.kind, Kind::Auth);
            assert!(cluster.authorised_at(auth.endpoint, &token).await);
            let catalog = ask(cluster.view(), main, Kind::Catalog).await.unwrap();
            assert_eq!(catalog.kind, Kind::Catalog);
            let found = cluster
                .at(
                    catalog.endpoint,
                    |catalog: CatalogClient, context| async move {
                        catalog.ids_by_prefix(context, film.to_string()).await
                    },
                )
                .await;
            assert_eq!(found, Ok(vec![film]));
            let node = ask(cluster.view(), main, Kind::Streaming).await.unwrap();
            assert_eq!(node.kind, Kind::Streaming);
            let has = cluster
                .at(node.endpoint, |node: StreamingClient, context| async move {
                    node.is_available(context, film).await
                })
                .await;
            assert!(has);
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn temporarily_unavailable_when_there_is_none_of_each_kind() {
    let media = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(1, 0, 0, &[]).await;
    let main = cluster.main_addresses()[0];
    for alive in 0..=3 {
        for (number, kind) in ASKED_FOR.into_iter().enumerate() {
            let answer = ask(cluster.view(), main, kind).await;
            match number < alive {
                true => assert_eq!(answer.unwrap().kind, kind),
                false => assert_eq!(answer, Err(MainError::TemporarilyUnavailable), "{kind}"),
            }
        }
        match alive {
            0 => drop(cluster.add_auth().await),
            1 => cluster.add_catalog().await,
            2 => cluster.add_node(media.path()).await,
            _ => break,
        }
        cluster.until_complete().await;
    }
    // And again, when the last one has left.
    cluster.auths.remove(0).shutdown().await;
    wait_for("the authenticator has left", async || {
        let answer = ask(cluster.view(), main, Kind::Auth).await;
        answer == Err(MainError::TemporarilyUnavailable)
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn never_the_same_reference_twice_in_a_row_while_two_are_alive() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cluster = Cluster::start(2, 2, 2, &[one.path(), two.path()]).await;
    for main in cluster.main_addresses() {
        let mut last: [Option<Instance>; 3] = [const { None }; 3];
        // Questions for several kinds, in no order, do not disturb one another's turns.
        for step in 0..60_usize {
            let which = step * step % 7 % 3;
            let next = ask(cluster.view(), main, ASKED_FOR[which]).await.unwrap();
            let before = last[which].replace(next.clone());
            assert_ne!(before, Some(next), "step {step}");
        }
        // Nor do questions at the same time: of two instances each is handed out as often.
        let asked = (0..40).map(|_| ask(cluster.view(), main, Kind::Auth));
        let answers = futures::future::join_all(asked).await;
        let first = answers
            .iter()
            .filter(|answer| answer.as_ref().unwrap().instance.as_str() == "auth-1");
        assert_eq!(first.count(), 20);
    }
    cluster.stop().await;
}

/// What becomes of an authenticator that is a process of its own, at two Mains, when `end` is done
/// to it; it must be gone then, and back after `again`.
async fn comes_and_goes(end: impl Fn(&mut Process), again: impl Fn(Process, &[String]) -> Process) {
    let mut cluster = Cluster::start(2, 1, 0, &[]).await;
    let mut config = cluster.auth_config();
    config.common.listen = SocketAddr::from(([127, 0, 0, 1], iceflix_tests::cluster::free_port()));
    let (words, endpoint) = (flags(&config.common), config.common.listen);
    let log = cluster.dir.path().join("auth-2.log");
    let mut process = Process::service("iceflix-auth", &words, &log);
    for main in cluster.main_addresses() {
        until_listed(cluster.name(), main, |all| {
            all.iter().any(|i| i.endpoint == endpoint)
        })
        .await;
    }

    end(&mut process);
    let ended = Instant::now();
    for main in cluster.main_addresses() {
        until_listed(cluster.name(), main, |all| {
            all.iter().all(|i| i.endpoint != endpoint)
        })
        .await;
        println!("{main} removed it after {:?}", ended.elapsed());
        for _ in 0..10 {
            let handed = ask(cluster.view(), main, Kind::Auth).await.unwrap();
            assert_ne!(handed.endpoint, endpoint);
        }
    }

    let process = again(process, &words);
    let returned = Instant::now();
    for main in cluster.main_addresses() {
        until_listed(cluster.name(), main, |all| {
            all.iter().any(|i| i.endpoint == endpoint)
        })
        .await;
        println!("{main} listed it {:?} after its return", returned.elapsed());
        let mut handed = Vec::new();
        for _ in 0..4 {
            handed.push(
                ask(cluster.view(), main, Kind::Auth)
                    .await
                    .unwrap()
                    .endpoint,
            );
        }
        let own = handed.iter().filter(|at| **at == endpoint);
        assert_eq!(own.count(), 2, "it is handed out again");
    }
    // It is what it was: it answers, and has the users.
    cluster
        .at(endpoint, |auth: AuthenticatorClient, context| async move {
            auth.is_authorized(context, iceflix_core::api::auth::Token(String::new()))
                .await
        })
        .await;
    cluster
        .login_at(endpoint, "admin", iceflix_tests::cluster::ADMIN_PASSWORD)
        .await
        .unwrap();
    drop(process);
    cluster.stop().await;
}

/// Another process in the place of one that has ended.
fn started_anew(ended: Process, words: &[String]) -> Process {
    let log = ended.log().to_owned();
    drop(ended);
    Process::service("iceflix-auth", words, &log)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_instance_is_never_handed_out_until_it_returns() {
    comes_and_goes(
        |process| {
            process.signal(Signal::SIGKILL);
            process.ends();
        },
        started_anew,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_instance_is_never_handed_out_until_it_answers_again() {
    comes_and_goes(
        |process| process.signal(Signal::SIGSTOP),
        |process, _| {
            process.signal(Signal::SIGCONT);
            process
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_leaves_politely_is_gone_at_once() {
    comes_and_goes(
        |process| {
            process.signal(Signal::SIGTERM);
            assert!(process.ends().success(), "{}", process.said());
        },
        started_anew,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_main_knows_everyone_within_a_second() {
    let media = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(1, 2, 2, &[media.path()]).await;
    let mut took = Vec::new();
    for mains in 2..5 {
        let start = Instant::now();
        cluster.add_main().await;
        let late = cluster.main_addresses()[mains - 1];
        until_listed(cluster.name(), late, |all| all.len() == mains + 5).await;
        took.push(start.elapsed());
        for kind in ASKED_FOR {
            ask(cluster.view(), late, kind).await.unwrap();
        }
    }
    within_a_second("a late Main knows everyone", &took);
    cluster.stop().await;
}
