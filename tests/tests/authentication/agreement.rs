//! What several authenticators agree on.

use crate::{WRONG, authenticators, desk::Desk};
use iceflix_core::{
    api::{
        Kind,
        auth::{AuthError, Role},
    },
    bus::{Bus, Size},
    config::Common,
    feed::assemble,
    service::Server,
    topics::{Entries, Topics},
};
use iceflix_tests::{
    cluster::{Cluster, PATIENCE, wait_for},
    identity,
    tokens::log_out,
    waiting::within_a_second,
};
use std::collections::BTreeMap;

#[tokio::test(flavor = "multi_thread")]
async fn two_authenticators_agree_within_a_second_whichever_was_asked() {
    let cluster = authenticators(2).await;
    let mut took = [const { Vec::new() }; 3];
    for (asked, other) in [(0, 1), (1, 0)] {
        let name = format!("user-{asked}");
        let (here, there) = (
            Desk::at(&cluster, asked).await,
            Desk::at(&cluster, other).await,
        );
        here.add_user(&name, "secret", Role::User).await.unwrap();
        let address = cluster.auths[other].address();
        let listed = wait_for("the other lists the user", async || {
            there.users().await.unwrap().contains(&name)
        });
        took[0].push(listed.await);
        let user = cluster.login_at(address, &name, "secret").await.unwrap();
        // A session that one opened is the other's too.
        cluster
            .renew_at(cluster.auths[asked].address(), &user)
            .await
            .unwrap();

        here.change_password(&name, None, "changed").await.unwrap();
        let changed = wait_for("the other knows the new password", async || {
            cluster.login_at(address, &name, "changed").await.is_ok()
        });
        took[1].push(changed.await);
        let old = cluster.login_at(address, &name, "secret").await;
        assert_eq!(old.map(drop), WRONG);

        here.remove_user(&name).await.unwrap();
        let gone = wait_for("the other has no such user", async || {
            !there.users().await.unwrap().contains(&name)
        });
        took[2].push(gone.await);
        let gone = cluster.login_at(address, &name, "changed").await;
        assert_eq!(gone.map(drop), WRONG);
    }
    within_a_second("the other lists a user", &took[0]);
    within_a_second("the other knows a new password", &took[1]);
    within_a_second("the other lists a user no more", &took[2]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authenticator_that_joins_late_learns_all() {
    let mut cluster = authenticators(1).await;
    let ada = cluster.new_user("ada", "engine", Role::User).await;
    let ended = cluster.login("ada", "engine").await.unwrap();
    log_out(&cluster, &ended).await;
    let bob = cluster.new_user("bob", "builder", Role::User).await;
    Desk::at(&cluster, 0)
        .await
        .revoke_user("bob")
        .await
        .unwrap();

    cluster.add_auth().await;
    let late = cluster.auths[1].address();
    // It is reachable: it must know everything already, and above all what was revoked.
    assert!(!cluster.authorised_at(late, &bob.token()).await);
    assert!(!cluster.authorised_at(late, &ended.token()).await);
    assert!(cluster.authorised_at(late, &ada.token()).await);
    let renewed = cluster.renew_at(late, &ada).await.unwrap();
    assert!(
        cluster
            .authorised_at(cluster.auths[0].address(), &renewed)
            .await
    );
    for session in [&ended, &bob] {
        let refused = cluster.renew_at(late, session).await;
        assert_eq!(refused, Err(AuthError::SessionEnded));
    }
    cluster.login_at(late, "bob", "builder").await.unwrap();

    // And it goes on without the one it learned from.
    cluster.auths.remove(0).shutdown().await;
    let desk = Desk::at(&cluster, 0).await;
    assert_eq!(desk.users().await.unwrap(), ["ada", "admin", "bob"]);
    cluster.renew_at(late, &ada).await.unwrap();
    cluster.stop().await;
}

/// A place on the bus beside these authenticators.
async fn beside(auths: &[&auth_svc::Config]) -> Bus {
    let listen = auths.iter().flat_map(|auth| &auth.common.bus_listen);
    let connect: Vec<String> = listen.cloned().collect();
    let cluster = auths[0].common.cluster.as_str();
    identity::on_the_bus(cluster, Kind::Auth, "tls/127.0.0.1:0", &connect).await
}

/// All rows of an authenticator, tombstones too, as it tells them to one that joins.
async fn rows_of(bus: &Bus, auth: &Common) -> Option<Entries> {
    let topic = Topics::new(auth.cluster.as_str()).rows(Kind::Auth);
    let key = topic.of(auth.instance.as_ref().unwrap());
    let answers = bus
        .ask(&key, Vec::new(), Size::Large, PATIENCE)
        .await
        .unwrap();
    let pieces = answers.iter();
    let pieces = pieces.map(|answer| serde_json::from_slice(&answer.payload).unwrap());
    Some(assemble(pieces.collect())?.entries)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_changed_at_two_authenticators_at_once_ends_the_same_at_both() {
    const NAMES: [&str; 3] = ["ada", "bob", "eve"];
    let mut cluster = Cluster::start(1, 0, 0, &[]).await;
    let configs = [cluster.add_auth().await, cluster.add_auth().await];
    cluster.until_complete().await;
    let desks = [Desk::at(&cluster, 0).await, Desk::at(&cluster, 1).await];
    for name in NAMES {
        desks[0].add_user(name, "first", Role::User).await.unwrap();
    }
    // Twelve rounds of three requests for each of three users at each of two authenticators.
    for round in 0..12 {
        let all = desks.iter().zip(["here", "there"]).flat_map(|(desk, at)| {
            NAMES.map(|name| async move {
                let password = format!("{at} {round}");
                // Each may find the user gone, or there again: what counts is that both agree.
                let _ = match (round + name.len()) % 3 {
                    0 => desk.remove_user(name).await,
                    1 => desk.change_password(name, None, &password).await,
                    _ => desk.revoke_user(name).await,
                };
                let _ = desk.add_user(name, &password, Role::User).await;
                let _ = desk.change_password(name, None, &password).await;
            })
        });
        futures::future::join_all(all).await;
    }

    let bus = beside(&configs.each_ref()).await;
    let mut agreed = Entries::new();
    wait_for("both have the same rows", async || {
        let here = rows_of(&bus, &configs[0].common).await;
        let there = rows_of(&bus, &configs[1].common).await;
        agreed = here.clone().unwrap_or_default();
        here.is_some() && here == there
    })
    .await;
    bus.close().await;
    assert_eq!(desks[0].users().await, desks[1].users().await);
    // One of the two last passwords is right, and it is the same at both.
    for name in NAMES {
        let mut right = BTreeMap::new();
        for at in ["here", "there"] {
            let password = format!("{at} 11");
            for auth in &cluster.auths {
                let login = cluster.login_at(auth.address(), name, &password).await;
                *right.entry(password.clone()).or_insert(0) += u32::from(login.is_ok());
            }
        }
        let mut counts: Vec<u32> = right.into_values().collect();
        counts.sort_unstable();
        assert_eq!(counts, [0, 2], "{name}");
    }

    // Those logins are rows, too.
    let sessions = |rows: &Entries| {
        rows.keys()
            .filter(|key| key.starts_with("session/"))
            .count()
    };
    let bus = beside(&configs.each_ref()).await;
    let before = sessions(&agreed);
    wait_for("both have the new sessions", async || {
        let here = rows_of(&bus, &configs[0].common).await;
        let there = rows_of(&bus, &configs[1].common).await;
        agreed = here.clone().unwrap_or_default();
        here == there && sessions(&agreed) == before + 2 * NAMES.len()
    })
    .await;
    bus.close().await;
    drop(desks);
    for auth in cluster.auths.drain(..) {
        auth.shutdown().await;
    }
    // It is what each has on its disk.
    for mut config in configs {
        config.common.bus_connect.clear();
        let alone = auth_svc::AuthServer::bind(config.clone()).await.unwrap();
        let bus = beside(&[&config]).await;
        let mut kept = None;
        wait_for("it answers", async || {
            kept = rows_of(&bus, &config.common).await;
            kept.is_some()
        })
        .await;
        assert_eq!(kept.as_ref(), Some(&agreed));
        bus.close().await;
        alone.shutdown().await;
    }
    cluster.stop().await;
}
