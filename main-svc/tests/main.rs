//! A real Main on a real bus, called over real connections.

#![allow(
    clippy::unwrap_used,
    reason = "a test that unwraps says where it failed"
)]

use iceflix_core::{
    api::{Kind, main::MainClient, main::MainError},
    bus::{Bus, BusConfig},
    membership::Announcement,
    rpc::{Caller, Cluster, Security},
    service::Server,
    topics::Topics,
};
use main_svc::{Config, MainServer};
use std::{collections::BTreeSet, net::SocketAddr, time::Duration};
use tokio::sync::watch;

/// How long anything may take before a test gives up: much longer than it ever does.
const PATIENCE: Duration = Duration::from_secs(30);

/// Ports that were free a moment ago, below the range from which the kernel picks by itself.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

fn config(cluster: &str, bus: u16, peers: &[u16]) -> Config {
    let mut config = Config::default();
    config.common.cluster = cluster.parse().unwrap();
    config.common.state_dir = std::env::temp_dir().join(format!("iceflix-{cluster}-{bus}"));
    config.common.bus_listen = vec![format!("tcp/127.0.0.1:{bus}")];
    config.common.bus_connect = peers.iter().map(|p| format!("tcp/127.0.0.1:{p}")).collect();
    config.common.bus_scouting = false;
    config
}

async fn peer(cluster: &str, main: u16) -> (Bus, Topics) {
    let bus = Bus::open(&BusConfig {
        cluster: cluster.into(),
        listen: vec!["tcp/127.0.0.1:0".into()],
        connect: vec![format!("tcp/127.0.0.1:{main}")],
        scouting: false,
        interface: "auto".into(),
    })
    .await
    .unwrap();
    (bus, Topics::new(cluster))
}

async fn announce(bus: &Bus, topics: &Topics, kind: Kind, name: &str, port: u16) -> Announcement {
    let endpoint = SocketAddr::from(([127, 0, 0, 1], port));
    Announcement::start(bus, topics, kind, &name.parse().unwrap(), endpoint)
        .await
        .unwrap()
}

async fn ask<F, Fut>(main: SocketAddr, question: F) -> Result<u16, MainError>
where
    F: Fn(MainClient, tarpc::context::Context) -> Fut,
    Fut: Future<
        Output = Result<Result<iceflix_core::api::Instance, MainError>, tarpc::client::RpcError>,
    >,
{
    let cluster = Cluster::connect(vec![main]).await.unwrap();
    let answer = cluster.caller().call_at(main, PATIENCE, question).await;
    answer.unwrap().map(|instance| instance.endpoint.port())
}

async fn seen(main: SocketAddr, wanted: impl Fn(&BTreeSet<String>) -> bool) {
    let cluster = Cluster::connect(vec![main]).await.unwrap();
    let mut directory = cluster.directory();
    let seen = directory.wait_for(|view| {
        wanted(
            &view
                .instances
                .iter()
                .map(|i| i.instance.to_string())
                .collect(),
        )
    });
    tokio::time::timeout(PATIENCE, seen)
        .await
        .expect("in time")
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn hands_out_what_is_alive_in_turn_and_says_when_there_is_none() {
    let bus_port = free_port();
    let main = MainServer::bind(config("turns", bus_port, &[]))
        .await
        .unwrap();
    let address = main.address();
    for none in [
        ask(address, |main, context| async move {
            main.authenticator(context).await
        })
        .await,
        ask(address, |main, context| async move {
            main.catalog(context).await
        })
        .await,
        ask(address, |main, context| async move {
            main.provider(context).await
        })
        .await,
    ] {
        assert_eq!(none, Err(MainError::TemporarilyUnavailable));
    }

    let (bus, topics) = peer("turns", bus_port).await;
    let first = announce(&bus, &topics, Kind::Auth, "auth-1", 1001).await;
    let second = announce(&bus, &topics, Kind::Auth, "auth-2", 1002).await;
    let _catalog = announce(&bus, &topics, Kind::Catalog, "catalog-1", 1003).await;
    let _streaming = announce(&bus, &topics, Kind::Streaming, "streaming-1", 1004).await;
    seen(address, |names| names.len() == 5).await;

    let mut last = 0;
    for _ in 0..10 {
        let next = ask(address, |main, context| async move {
            main.authenticator(context).await
        })
        .await
        .unwrap();
        assert_ne!(next, last, "never the same twice in a row");
        last = next;
    }
    assert_eq!(
        ask(address, |main, context| async move {
            main.catalog(context).await
        })
        .await,
        Ok(1003)
    );
    assert_eq!(
        ask(address, |main, context| async move {
            main.provider(context).await
        })
        .await,
        Ok(1004)
    );

    // One that left is never handed out again, until it returns.
    first.withdraw().await;
    seen(address, |names| !names.contains("auth-1")).await;
    for _ in 0..4 {
        assert_eq!(
            ask(address, |main, context| async move {
                main.authenticator(context).await
            })
            .await,
            Ok(1002)
        );
    }
    let _returned = announce(&bus, &topics, Kind::Auth, "auth-1", 1009).await;
    seen(address, |names| names.contains("auth-1")).await;
    second.drain().await;
    let cluster = Cluster::connect(vec![address]).await.unwrap();
    let mut directory = cluster.directory();
    let drained = directory.wait_for(|view| view.instances.iter().any(|i| i.draining));
    tokio::time::timeout(PATIENCE, drained)
        .await
        .expect("in time")
        .unwrap();
    assert_eq!(
        ask(address, |main, context| async move {
            main.authenticator(context).await
        })
        .await,
        Ok(1009)
    );
    main.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_instance_is_removed() {
    let bus_port = free_port();
    let main = MainServer::bind(config("dead", bus_port, &[]))
        .await
        .unwrap();
    let (bus, topics) = peer("dead", bus_port).await;
    let _announcement = announce(&bus, &topics, Kind::Auth, "auth-1", 1001).await;
    seen(main.address(), |names| names.contains("auth-1")).await;
    bus.close().await;
    seen(main.address(), |names| !names.contains("auth-1")).await;
    main.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn announcements_that_are_malformed_are_ignored() {
    let bus_port = free_port();
    let main = MainServer::bind(config("malformed", bus_port, &[]))
        .await
        .unwrap();
    let (bus, topics) = peer("malformed", bus_port).await;
    let good = topics.availability(Kind::Auth, &"auth-1".parse().unwrap());
    let mut tokens = Vec::new();
    for bad in [
        "iceflix/malformed/service-availability/chief/x",
        "iceflix/malformed/service-availability/auth/UPPER",
        "iceflix/other/service-availability/auth/auth-9",
    ] {
        tokens.push(bus.declare_alive(bad).await.unwrap());
        bus.publish(bad, b"{}".to_vec()).await.unwrap();
    }
    bus.publish(&good, b"not a description".to_vec())
        .await
        .unwrap();
    let _right = announce(&bus, &topics, Kind::Catalog, "catalog-1", 1003).await;
    seen(main.address(), |names| names.contains("catalog-1")).await;
    seen(main.address(), |names| names.len() == 2).await;
    main.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_main_knows_everyone_and_two_agree() {
    let (first_port, second_port) = (free_port(), free_port());
    let first = MainServer::bind(config("late", first_port, &[]))
        .await
        .unwrap();
    let (bus, topics) = peer("late", first_port).await;
    let _auth = announce(&bus, &topics, Kind::Auth, "auth-1", 1001).await;
    seen(first.address(), |names| names.contains("auth-1")).await;
    let late = MainServer::bind(config("late", second_port, &[first_port]))
        .await
        .unwrap();
    let everyone = |names: &BTreeSet<String>| names.contains("auth-1") && names.len() == 3;
    seen(late.address(), everyone).await;
    seen(first.address(), everyone).await;

    // A client of the first goes on with the second when the first is gone.
    let mains = vec![first.address()];
    let cluster = Cluster::connect(mains).await.unwrap();
    let mut directory = cluster.directory();
    let known = directory.wait_for(|view| view.instances.len() == 3);
    tokio::time::timeout(PATIENCE, known)
        .await
        .expect("in time")
        .unwrap();
    first.shutdown().await;
    let gone = directory.wait_for(|view| view.instances.len() == 2);
    let gone = tokio::time::timeout(PATIENCE, gone).await.map(drop);
    assert!(gone.is_ok(), "{:?}", directory.borrow().instances);
    late.shutdown().await;
    let mut reachable = cluster.reachable();
    let lost = reachable.wait_for(|reachable| !reachable);
    tokio::time::timeout(PATIENCE, lost)
        .await
        .expect("in time")
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_before_the_stop_is_still_answered() {
    let main = MainServer::bind(config("drain", free_port(), &[]))
        .await
        .unwrap();
    let address = main.address();
    let cluster = Cluster::connect(vec![address]).await.unwrap();
    let version = cluster.directory().borrow().version;
    let (_keep, nothing) = watch::channel(cluster.directory().borrow().clone());
    let caller = Caller::new(nothing, Security::default());
    let asked = (0..50).map(|_| {
        let caller = caller.clone();
        tokio::spawn(async move {
            caller
                .call_at(address, PATIENCE, |main: MainClient, context| async move {
                    main.directory(context, Some(version)).await
                })
                .await
        })
    });
    let asked: Vec<_> = asked.collect();
    // All of them wait inside Main, for a change that never comes.
    tokio::time::sleep(Duration::from_millis(300)).await;
    main.shutdown().await;
    for answer in asked {
        assert!(answer.await.unwrap().is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_that_starts_later_is_met() {
    let (first_port, second_port) = (free_port(), free_port());
    // Only the first names the second, which is not there yet.
    let first = MainServer::bind(config("later", first_port, &[second_port]))
        .await
        .unwrap();
    let second = MainServer::bind(config("later", second_port, &[]))
        .await
        .unwrap();
    seen(first.address(), |names| names.len() == 2).await;
    seen(second.address(), |names| names.len() == 2).await;
    second.shutdown().await;
    first.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_left_politely_returns_with_nothing_left_of_its_earlier_life() {
    let bus_port = free_port();
    let main = MainServer::bind(config("returns", bus_port, &[]))
        .await
        .unwrap();
    let (bus, topics) = peer("returns", bus_port).await;
    let cluster = Cluster::connect(vec![main.address()]).await.unwrap();
    let mut directory = cluster.directory();
    for port in 1001..1011 {
        let announcement = announce(&bus, &topics, Kind::Auth, "auth-1", port).await;
        let fresh = directory.wait_for(|view| {
            let auth = view.instances.iter().find(|i| i.kind == Kind::Auth);
            auth.is_some_and(|auth| auth.endpoint.port() == port && !auth.draining)
        });
        tokio::time::timeout(PATIENCE, fresh)
            .await
            .expect("in time")
            .unwrap();
        announcement.drain().await;
        announcement.withdraw().await;
    }
    main.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_requests_than_are_handled_at_once_are_all_answered() {
    let bus = free_port();
    let main = MainServer::bind(config("many", bus, &[])).await.unwrap();
    let address = main.address();
    let cluster = Cluster::connect(vec![address]).await.unwrap();
    let version = cluster.directory().borrow().version;
    let caller = cluster.caller().clone();
    // 300 that wait inside Main, for a change that comes later, then one more.
    let asked = (0..300).map(|_| {
        let caller = caller.clone();
        tokio::spawn(async move {
            caller
                .call_at(address, PATIENCE, |main: MainClient, context| async move {
                    main.directory(context, Some(version)).await
                })
                .await
        })
    });
    let asked: Vec<_> = asked.collect();
    let second = MainServer::bind(config("many", free_port(), &[bus]))
        .await
        .unwrap();
    for answer in asked {
        assert!(answer.await.unwrap().is_ok());
    }
    second.shutdown().await;
    main.shutdown().await;
}
