//! A real Main on a real bus, called over real connections.

#![allow(
    clippy::unwrap_used,
    reason = "a test that unwraps says where it failed"
)]

use iceflix_core::{
    announcement::Announcement,
    api::{Kind, main::MainClient, main::MainError},
    bus::{Bus, BusConfig},
    rpc::{CallError, Caller, Cluster, Security},
    service::Server,
    topics::Topics,
    trust::{Authority, authority::CERTIFICATE_LIFETIME},
};
use main_svc::{Config, MainServer};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinSet};

/// How long anything may take before a test gives up: much longer than it ever does.
const PATIENCE: Duration = Duration::from_secs(30);

/// A port that is free, below those that the system gives to whoever asks for any (32768 and up):
/// nobody gets it before it is used.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 8_000).unwrap();
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 12_000 + (start + step) % 8_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The authority of the cluster of that name.
fn authority(cluster: &str) -> Authority {
    static KNOWN: Mutex<BTreeMap<String, Authority>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap();
    let made = || Authority::create(cluster).unwrap();
    known.entry(cluster.to_owned()).or_insert_with(made).clone()
}

fn security(cluster: &str) -> Security {
    Security::client(authority(cluster).fingerprint()).unwrap()
}

fn config(cluster: &str, state: &TempDir, bus: u16, peers: &[u16]) -> Config {
    let mut config = Config::default();
    config.common.cluster = cluster.parse().unwrap();
    config.common.state_dir = state.path().to_owned();
    config.common.bus_listen = vec![format!("tls/127.0.0.1:{bus}")];
    config.common.bus_connect = peers.iter().map(|p| format!("tls/127.0.0.1:{p}")).collect();
    config.common.bus_scouting = false;
    let (place, name) = (config.common.identity(), format!("main-{bus}"));
    authority(cluster)
        .equip(
            &place,
            Kind::Main,
            &name.parse().unwrap(),
            CERTIFICATE_LIFETIME,
        )
        .unwrap();
    config
}

async fn peer(cluster: &str, kind: Kind, main: u16) -> (Bus, Topics) {
    let name = "beside".parse().unwrap();
    let bus = Bus::open(&BusConfig::new(
        cluster,
        authority(cluster)
            .issue(kind, &name, CERTIFICATE_LIFETIME)
            .unwrap(),
        vec!["tls/127.0.0.1:0".into()],
        vec![format!("tls/127.0.0.1:{main}")],
    ))
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

/// A Main, with a directory that goes with it.
struct Main {
    cluster: &'static str,
    bus: u16,
    server: MainServer,
    _state: TempDir,
}

impl Main {
    /// One with its bus on this port.
    async fn start(cluster: &'static str, bus: u16, peers: &[u16]) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), cluster, bus, peers).await
    }

    /// The same, answering at this address.
    async fn start_at(listen: SocketAddr, cluster: &'static str, bus: u16, peers: &[u16]) -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut config = config(cluster, &state, bus, peers);
        config.common.listen = listen;
        Self {
            cluster,
            bus,
            server: MainServer::bind(config).await.unwrap(),
            _state: state,
        }
    }

    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    async fn shutdown(self) {
        self.server.shutdown().await;
    }
}

/// A Main, and an authenticator on its bus.
async fn main_and_peer(cluster: &'static str) -> (Main, Bus, Topics) {
    let port = free_port();
    let main = Main::start(cluster, port, &[]).await;
    let (bus, topics) = peer(cluster, Kind::Auth, port).await;
    (main, bus, topics)
}

/// A client's view, by one Main.
async fn view(main: &Main) -> Cluster {
    let mains = vec![main.address()];
    Cluster::connect(mains, security(main.cluster))
        .await
        .unwrap()
}

/// The port of what a Main hands out.
async fn ask(main: &Main, kind: Kind) -> Result<u16, MainError> {
    let question = |main: MainClient, context| async move {
        match kind {
            Kind::Auth => main.authenticator(context).await,
            Kind::Catalog => main.catalog(context).await,
            Kind::Streaming => main.provider(context).await,
            Kind::Main => unreachable!("a Main is not asked for Mains"),
        }
    };
    let caller = view(main).await.caller().clone();
    let answer = caller.call_at(main.address(), PATIENCE, question).await;
    answer.unwrap().map(|instance| instance.endpoint.port())
}

/// Waits until something followed is so.
async fn until<T>(what: &mut watch::Receiver<T>, wanted: impl FnMut(&T) -> bool) {
    let seen = tokio::time::timeout(PATIENCE, what.wait_for(wanted)).await;
    seen.expect("in time").unwrap();
}

/// Waits until a Main lists these instances.
async fn seen(main: &Main, wanted: impl Fn(&BTreeSet<String>) -> bool) {
    until(&mut view(main).await.directory(), |view| {
        let instances = view.instances.iter();
        wanted(&instances.map(|i| i.instance.to_string()).collect())
    })
    .await;
}

/// Many requests that wait inside a Main for a change.
async fn asked(main: &Main, caller: &Caller, many: usize) -> JoinSet<bool> {
    let (address, version) = (
        main.address(),
        view(main).await.directory().borrow().version,
    );
    let mut asked = JoinSet::new();
    for _ in 0..many {
        let caller = caller.clone();
        asked.spawn(async move {
            let question = |main: MainClient, context| async move {
                main.directory(context, Some(version)).await
            };
            caller.call_at(address, PATIENCE, question).await.is_ok()
        });
    }
    asked
}

#[tokio::test(flavor = "multi_thread")]
async fn hands_out_what_is_alive_in_turn_and_says_when_there_is_none() {
    let (main, bus, topics) = main_and_peer("turns").await;
    for kind in [Kind::Auth, Kind::Catalog, Kind::Streaming] {
        let none = Err(MainError::TemporarilyUnavailable);
        assert_eq!(ask(&main, kind).await, none, "{kind}");
    }

    let first = announce(&bus, &topics, Kind::Auth, "auth-1", 1001).await;
    let second = announce(&bus, &topics, Kind::Auth, "auth-2", 1002).await;
    let (beside, _) = peer(main.cluster, Kind::Catalog, main.bus).await;
    let _catalog = announce(&beside, &topics, Kind::Catalog, "catalog-1", 1003).await;
    let (node, _) = peer(main.cluster, Kind::Streaming, main.bus).await;
    let _streaming = announce(&node, &topics, Kind::Streaming, "streaming-1", 1004).await;
    seen(&main, |names| names.len() == 5).await;

    let mut last = 0;
    for _ in 0..10 {
        let next = ask(&main, Kind::Auth).await.unwrap();
        assert_ne!(next, last, "never the same twice in a row");
        last = next;
    }
    assert_eq!(ask(&main, Kind::Catalog).await, Ok(1003));
    assert_eq!(ask(&main, Kind::Streaming).await, Ok(1004));

    // One that left is never handed out again, until it returns.
    first.withdraw().await;
    seen(&main, |names| !names.contains("auth-1")).await;
    for _ in 0..4 {
        assert_eq!(ask(&main, Kind::Auth).await, Ok(1002));
    }
    let _returned = announce(&bus, &topics, Kind::Auth, "auth-1", 1009).await;
    seen(&main, |names| names.contains("auth-1")).await;
    second.drain().await;
    until(&mut view(&main).await.directory(), |view| {
        view.instances.iter().any(|i| i.draining)
    })
    .await;
    assert_eq!(ask(&main, Kind::Auth).await, Ok(1009));
    main.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_instance_is_removed() {
    let (main, bus, topics) = main_and_peer("dead").await;
    let _announcement = announce(&bus, &topics, Kind::Auth, "auth-1", 1001).await;
    seen(&main, |names| names.contains("auth-1")).await;
    bus.close().await;
    seen(&main, |names| !names.contains("auth-1")).await;
    main.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn announcements_that_are_malformed_are_ignored() {
    let (main, bus, topics) = main_and_peer("malformed").await;
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
    // Of the wrong kind, well-formed: it is never heard.
    let _wrong = announce(&bus, &topics, Kind::Catalog, "catalog-9", 1009).await;
    let (beside, _) = peer(main.cluster, Kind::Catalog, main.bus).await;
    let _right = announce(&beside, &topics, Kind::Catalog, "catalog-1", 1003).await;
    seen(&main, |names| names.contains("catalog-1")).await;
    assert!(
        !view(&main)
            .await
            .directory()
            .borrow()
            .instances
            .iter()
            .any(|i| i.instance.as_str() == "catalog-9")
    );
    seen(&main, |names| names.len() == 2).await;
    main.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_main_knows_everyone_and_two_agree() {
    let first_port = free_port();
    let first = Main::start("late", first_port, &[]).await;
    let (bus, topics) = peer("late", Kind::Auth, first_port).await;
    let _auth = announce(&bus, &topics, Kind::Auth, "auth-1", 1001).await;
    seen(&first, |names| names.contains("auth-1")).await;
    let late = Main::start("late", free_port(), &[first_port]).await;
    let everyone = |names: &BTreeSet<String>| names.contains("auth-1") && names.len() == 3;
    seen(&late, everyone).await;
    seen(&first, everyone).await;

    // A client of the first goes on with the second when the first is gone.
    let cluster = view(&first).await;
    let mut directory = cluster.directory();
    until(&mut directory, |view| view.instances.len() == 3).await;
    first.shutdown().await;
    until(&mut directory, |view| view.instances.len() == 2).await;
    late.shutdown().await;
    until(&mut cluster.reachable(), |reachable| !reachable).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_before_the_stop_is_still_answered() {
    let main = Main::start("drain", free_port(), &[]).await;
    let instances = view(&main).await.directory().borrow().clone();
    let (_keep, nothing) = watch::channel(instances);
    let caller = Caller::new(nothing, security("drain"));
    // All of them wait inside Main, for a change that never comes.
    let asked = asked(&main, &caller, 50).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    main.shutdown().await;
    assert!(asked.join_all().await.into_iter().all(|answered| answered));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_that_starts_later_is_met() {
    let (first_port, second_port) = (free_port(), free_port());
    // Only the first names the second, which is not there yet.
    let first = Main::start("later", first_port, &[second_port]).await;
    let second = Main::start("later", second_port, &[]).await;
    seen(&first, |names| names.len() == 2).await;
    seen(&second, |names| names.len() == 2).await;
    second.shutdown().await;
    first.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_left_politely_returns_with_nothing_left_of_its_earlier_life() {
    let (main, bus, topics) = main_and_peer("returns").await;
    let cluster = view(&main).await;
    let mut directory = cluster.directory();
    for port in 1001..1011 {
        let announcement = announce(&bus, &topics, Kind::Auth, "auth-1", port).await;
        until(&mut directory, |view| {
            let auth = view.instances.iter().find(|i| i.kind == Kind::Auth);
            auth.is_some_and(|auth| auth.endpoint.port() == port && !auth.draining)
        })
        .await;
        announcement.drain().await;
        announcement.withdraw().await;
    }
    main.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_requests_than_are_handled_at_once_are_all_answered() {
    let bus = free_port();
    let main = Main::start("many", bus, &[]).await;
    let cluster = view(&main).await;
    // They wait inside Main, for a change that comes later.
    let asked = asked(&main, cluster.caller(), 300).await;
    let second = Main::start("many", free_port(), &[bus]).await;
    assert!(asked.join_all().await.into_iter().all(|answered| answered));
    second.shutdown().await;
    main.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_news_waits_for_it_as_long_as_they_say() {
    let (main, bus, topics) = main_and_peer("news").await;
    seen(&main, |names| names.len() == 1).await;
    let cluster = view(&main).await;
    let (caller, since) = (cluster.caller(), cluster.directory().borrow().version);
    let ask = |patience| {
        let news =
            |main: MainClient, context| async move { main.directory(context, Some(since)).await };
        caller.call_at(main.address(), patience, news)
    };
    // Longer than any other call may take; without news it is answered in time all the same.
    for patience in [Duration::from_millis(700), Duration::from_secs(3)] {
        let began = Instant::now();
        let same = ask(patience).await.unwrap().unwrap();
        assert_eq!(same.version, since);
        assert!(began.elapsed() >= patience / 2, "{:?}", began.elapsed());
    }
    let (_announcement, news) = tokio::join!(
        announce(&bus, &topics, Kind::Auth, "auth-1", 1001),
        ask(PATIENCE)
    );
    assert_eq!(news.unwrap().unwrap().instances.len(), 2);
    main.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_waits_a_moment_for_a_main_that_is_being_restarted() {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let connect = || Cluster::connect(vec![address], security("restart"));
    let began = Instant::now();
    let nobody = connect().await.err();
    assert!(matches!(nobody, Some(CallError::NoMain(_))), "{nobody:?}");
    assert!(began.elapsed() >= Duration::from_secs(2));
    let connecting = tokio::spawn(connect());
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!connecting.is_finished());
    let main = Main::start_at(address, "restart", free_port(), &[]).await;
    connecting.await.unwrap().unwrap();
    main.shutdown().await;
}
