//! The bus alone: who may join it, say and hear what, and how a renewed certificate is taken up.

use super::{settings::multicast_group, *};
use crate::{
    api::{InstanceId, Kind},
    topics::Topics,
    trust::{Authority, authority::CERTIFICATE_LIFETIME},
};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

mod stuck;

const CLUSTER: &str = "test";

/// Where a node listens whose port does not matter.
const ANYWHERE: &str = "tls/127.0.0.1:0";

fn id(name: &str) -> InstanceId {
    name.parse().unwrap()
}

fn config(authority: &Authority, kind: Kind, listen: &str, connect: &[String]) -> BusConfig {
    let instance = id(&format!("{kind}-1"));
    BusConfig::new(
        CLUSTER,
        authority
            .issue(kind, &instance, CERTIFICATE_LIFETIME)
            .unwrap(),
        vec![listen.into()],
        connect.to_vec(),
    )
}

async fn node(authority: &Authority, kind: Kind, connect: &[String]) -> Bus {
    let config = config(authority, kind, ANYWHERE, connect);
    Bus::open(&config).await.unwrap()
}

fn place(bus: &Bus) -> Vec<String> {
    bus.present().place.endpoints().to_vec()
}

/// Waits until something holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn knows(bus: &Bus, peers: usize) {
    until("everyone is met", async || {
        bus.session().info().peers_zid().await.count() >= peers
    })
    .await;
}

fn drain<T>(subscription: &mut Subscription<T>) -> Vec<T> {
    std::iter::from_fn(|| subscription.receiver.try_recv().ok()).collect()
}

#[test]
fn clusters_use_groups_of_their_own() {
    assert_eq!(multicast_group("a"), multicast_group("a"));
    assert_ne!(multicast_group("a"), multicast_group("b"));
    assert!(multicast_group("a").ip().is_multicast());
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_settings_are_refused_with_a_reason() {
    let authority = Authority::create(CLUSTER).unwrap();
    for listen in ["nonsense", "tcp/127.0.0.1:0", "tls/localhost"] {
        let Err(error) = Bus::open(&config(&authority, Kind::Main, listen, &[])).await else {
            panic!("{listen} was taken as an address");
        };
        assert!(error.to_string().contains(listen), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named() {
    let authority = Authority::create(CLUSTER).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tls/{}", taken.local_addr().unwrap());
    let Err(error) = Bus::open(&config(&authority, Kind::Main, &address, &[])).await else {
        panic!("a port in use was taken");
    };
    assert!(error.to_string().contains(&address), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_error_shows_a_private_key() {
    let authority = Authority::create(CLUSTER).unwrap();
    let mut config = config(&authority, Kind::Main, ANYWHERE, &[]);
    let key = base64::Engine::encode(
        &base64::prelude::BASE64_STANDARD,
        config.credential.key_pem(),
    );
    let place = Place::first(&config).unwrap();
    // It is in the settings, so it could.
    let settings = settings::zenoh(&config, &place, &[]).unwrap();
    let shown = settings.get_json("transport/link/tls").unwrap_or_default();
    assert!(!shown.contains(&key), "{shown}");
    assert!(!format!("{settings:?}").contains(&key));
    config.interface = "no-such-interface".into();
    config.scouting = true;
    config.connect = vec!["tls/127.0.0.1:1#x=y".into()];
    let text = match Bus::open(&config).await {
        Ok(bus) => {
            bus.close().await;
            String::new()
        }
        Err(error) => format!("{error} {error:?}"),
    };
    assert!(!text.contains(&key), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_connections_are_not_spoken() {
    let authority = Authority::create(CLUSTER).unwrap();
    let neighbour = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    neighbour.set_nonblocking(true).unwrap();
    let mut config = config(&authority, Kind::Main, ANYWHERE, &[]);
    config.connect = vec![format!("tcp/{}", neighbour.local_addr().unwrap())];
    let settings = settings::zenoh(&config, &Place::first(&config).unwrap(), &[]).unwrap();
    match zenoh::open(settings).await {
        Ok(session) => session.close().await.unwrap(),
        Err(error) => assert!(error.to_string().contains("tcp"), "{error}"),
    }
    let tried = neighbour.accept();
    assert!(tried.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_renewed_is_heard_no_more() {
    let authority = Authority::create(CLUSTER).unwrap();
    let key = Topics::new(CLUSTER).availability(Kind::Auth, &id("auth-1"));
    let watching = node(&authority, Kind::Main, &[]).await;
    let mut seen = watching.watch_alive(&key).await.unwrap();
    let mut config = config(&authority, Kind::Auth, ANYWHERE, &place(&watching));
    config.credential = authority
        .issue(Kind::Auth, &id("auth-1"), Duration::from_secs(3))
        .unwrap();
    let expiring = Bus::open(&config).await.unwrap();
    let _token = expiring.declare_alive(&key).await.unwrap();
    assert!(seen.next().await.unwrap().alive);
    let gone = tokio::time::timeout(Duration::from_secs(20), seen.next()).await;
    assert!(!gone.unwrap().unwrap().alive);
    // Nor does it get in again, though it tries every second.
    let session = watching.session();
    let until = Instant::now() + Duration::from_secs(3);
    while session.info().peers_zid().await.count() > 0 {
        assert!(Instant::now() < until, "the link stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    while Instant::now() < until {
        assert_eq!(session.info().peers_zid().await.count(), 0);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    watching.close().await;
    expiring.close().await;
}

/// Every key on which something is said, with whoever may say it and hear it.
fn topics() -> Vec<(String, Kind, Vec<Kind>)> {
    let topics = Topics::new(CLUSTER);
    let one = |key: &str, kind: Kind| key.replace('*', &format!("{kind}-1"));
    topics
        .access()
        .into_iter()
        .map(|access| {
            let key = one(&access.says, access.speaker);
            (key, access.speaker, access.hearers)
        })
        .collect()
}

/// What comes out of trying everything with a node on a bus on which everybody speaks.
struct Tried {
    /// Topics on which it heard something, by message, by answer or by who is alive.
    heard: BTreeSet<String>,
    /// Topics on which it was heard by somebody who listens there.
    said: BTreeSet<String>,
}

/// One member of each role, all connected, each speaking and hearing what it may.
struct Members {
    authority: Authority,
    buses: Vec<(Kind, Bus)>,
    _kept: Vec<(AliveToken, Answering)>,
}

impl Members {
    async fn new() -> Self {
        let authority = Authority::create(CLUSTER).unwrap();
        let (mut buses, mut places) = (Vec::new(), Vec::new());
        for kind in Kind::ALL {
            let bus = node(&authority, kind, &places).await;
            places.extend(place(&bus));
            buses.push((kind, bus));
        }
        for (_, bus) in &buses {
            knows(bus, 3).await;
        }
        let mut kept = Vec::new();
        for (key, speaker, _) in topics() {
            let (_, bus) = buses.iter().find(|(kind, _)| *kind == speaker).unwrap();
            let answer = |_| Box::pin(std::future::ready(vec![b"secret".to_vec()])) as _;
            kept.push((
                bus.declare_alive(&key).await.unwrap(),
                bus.answer(&key, answer).await.unwrap(),
            ));
        }
        Self {
            authority,
            buses,
            _kept: kept,
        }
    }

    fn bus(&self, kind: Kind) -> &Bus {
        &self
            .buses
            .iter()
            .find(|(known, _)| *known == kind)
            .unwrap()
            .1
    }

    fn places(&self) -> Vec<String> {
        self.buses.iter().flat_map(|(_, bus)| place(bus)).collect()
    }

    /// Lets a node try to hear and to say everything, while everybody speaks.
    async fn tried_by(&self, intruder: &Bus) -> Tried {
        let mut listening = Vec::new();
        let mut watching = Vec::new();
        let mut members = Vec::new();
        for (key, _, hearers) in topics() {
            listening.push(intruder.subscribe(&key).await.unwrap());
            watching.push((key.clone(), intruder.watch_alive(&key).await.unwrap()));
            for hearer in hearers {
                let bus = self.bus(hearer);
                let heard = bus.subscribe(&key).await.unwrap();
                let alive = bus.watch_alive(&key).await.unwrap();
                members.push((key.clone(), heard, alive));
            }
        }
        listening.push(intruder.subscribe("**").await.unwrap());
        let mut answering = Vec::new();
        for (key, _, _) in topics() {
            // Under a name of its own: what is there already is no proof.
            let key = format!("{key}x");
            let answer = |_| Box::pin(std::future::ready(vec![b"forged".to_vec()])) as _;
            answering.push((
                intruder.declare_alive(&key).await.unwrap(),
                intruder.answer(&key, answer).await.unwrap(),
            ));
        }
        // What a member hears from a member comes after whatever came before it: once the marks
        // have arrived, so has everything else that was going to.
        let mut heard = BTreeSet::new();
        let mut said = BTreeSet::new();
        for round in 0..20 {
            for (key, speaker, _) in topics() {
                let mark = format!("mark {round}").into_bytes();
                self.bus(speaker).publish(&key, mark).await.unwrap();
                intruder.publish(&key, b"forged".to_vec()).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for (key, _, hearers) in topics() {
            let wait = Duration::from_millis(500);
            if !intruder
                .ask(&key, vec![], Size::Small, wait)
                .await
                .unwrap()
                .is_empty()
            {
                heard.insert(key.clone());
            }
            for hearer in hearers {
                let forged = format!("{key}x");
                let answers = self
                    .bus(hearer)
                    .ask(&forged, vec![], Size::Small, wait)
                    .await
                    .unwrap();
                if !answers.is_empty() {
                    said.insert(key.clone());
                }
            }
        }
        for mut messages in listening {
            let all = drain(&mut messages).into_iter();
            // Its own come back to itself.
            let others = all.filter(|message| message.payload != b"forged");
            heard.extend(others.map(|message| message.key));
        }
        for (key, mut alive) in watching {
            if !drain(&mut alive).is_empty() {
                heard.insert(key);
            }
        }
        let mut marked = BTreeSet::new();
        for (key, mut messages, mut alive) in members {
            for message in drain(&mut messages) {
                match message.payload == b"forged" {
                    true => said.insert(key.clone()),
                    false => marked.insert(key.clone()),
                };
            }
            let own = |alive: &Alive| alive.key.ends_with('x');
            if drain(&mut alive).iter().any(own) {
                said.insert(key.clone());
            }
        }
        let all: BTreeSet<String> = topics().into_iter().map(|(key, ..)| key).collect();
        assert_eq!(marked, all, "the cluster goes on");
        Tried { heard, said }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_says_and_hears_what_it_may_and_nothing_else() {
    let members = Members::new().await;
    for role in Kind::ALL {
        let intruder = node(&members.authority, role, &members.places()).await;
        knows(&intruder, 4).await;
        let tried = members.tried_by(&intruder).await;
        let may = |allowed: fn(&(String, Kind, Vec<Kind>), Kind) -> bool| -> BTreeSet<String> {
            let topics = topics().into_iter();
            topics
                .filter(|topic| allowed(topic, role))
                .map(|(key, ..)| key)
                .collect()
        };
        let says = may(|(_, speaker, _), role| *speaker == role);
        let hears = may(|(_, _, hearers), role| hearers.contains(&role));
        assert_eq!(tried.said, says, "{role} is heard");
        assert_eq!(tried.heard, hears, "{role} hears");
        intruder.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_cluster_gets_nowhere() {
    let members = Members::new().await;
    let elsewhere = Authority::create(CLUSTER).unwrap();
    for role in Kind::ALL {
        let intruder = node(&elsewhere, role, &members.places()).await;
        let tried = members.tried_by(&intruder).await;
        assert_eq!(tried.said, BTreeSet::new());
        assert_eq!(tried.heard, BTreeSet::new());
        assert_eq!(intruder.session().info().peers_zid().await.count(), 0);
        intruder.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_certificate_gets_nowhere() {
    let members = Members::new().await;
    let known = config(&members.authority, Kind::Auth, ANYWHERE, &members.places());
    let place = Place::first(&known).unwrap();
    // It knows the authority, which is public, and trusts whoever it meets.
    let mut settings = settings::zenoh(&known, &place, &[]).unwrap();
    let authority = base64::Engine::encode(
        &base64::prelude::BASE64_STANDARD,
        known.credential.authority_pem(),
    );
    let tls = serde_json::json!({
        "root_ca_certificate_base64": authority,
        "enable_mtls": false,
        "verify_name_on_connect": false,
    });
    settings
        .insert_json5("transport/link/tls", &tls.to_string())
        .unwrap();
    settings.insert_json5("listen/endpoints", "[]").unwrap();
    settings
        .insert_json5("access_control", r#"{"enabled": false}"#)
        .unwrap();
    let session = zenoh::open(settings).await.unwrap();
    let intruder = Bus {
        inner: Arc::new(Inner {
            config: known,
            present: RwLock::new(Present { session, place }),
            declared: Mutex::default(),
            renewing: tokio::sync::Mutex::default(),
            left: AtomicBool::new(false),
            aside: Aside::here(),
        }),
    };
    let tried = members.tried_by(&intruder).await;
    assert_eq!(tried.said, BTreeSet::new());
    assert_eq!(tried.heard, BTreeSet::new());
    assert_eq!(intruder.session().info().peers_zid().await.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_sees_a_departure_when_a_certificate_is_renewed() {
    let authority = Authority::create(CLUSTER).unwrap();
    let topics = Topics::new(CLUSTER);
    let key = topics.availability(Kind::Auth, &id("auth-1"));
    let fixed = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("tls/{}", free.local_addr().unwrap())
    };
    for listen in [ANYWHERE, &fixed] {
        let config = config(&authority, Kind::Auth, listen, &[]);
        let renewing = Bus::open(&config).await.unwrap();
        let first = place(&renewing);
        let watching = node(&authority, Kind::Main, &first).await;
        let joined_later = node(&authority, Kind::Catalog, &place(&watching)).await;
        for bus in [&renewing, &watching, &joined_later] {
            knows(bus, 2).await;
        }
        let token = renewing.declare_alive(&key).await.unwrap();
        let answer = |_| Box::pin(std::future::ready(vec![b"here".to_vec()])) as _;
        let _answering = renewing.answer(&key, answer).await.unwrap();
        let mut seen = Vec::new();
        // It sees itself, too.
        for bus in [&watching, &joined_later, &renewing] {
            seen.push(bus.watch_alive(&key).await.unwrap());
        }
        for alive in &mut seen {
            assert!(alive.next().await.unwrap().alive);
        }
        let before = renewing.session().zid();
        for round in 0..3 {
            let renewed = authority
                .issue(Kind::Auth, &id("auth-1"), CERTIFICATE_LIFETIME)
                .unwrap();
            renewing.renew(renewed).await.unwrap();
            for bus in [&watching, &joined_later] {
                let wait = Duration::from_secs(5);
                let answers = bus.ask(&key, vec![], Size::Small, wait).await.unwrap();
                assert_eq!(answers.len(), 1, "round {round}");
            }
        }
        assert_ne!(renewing.session().zid(), before);
        if listen == fixed {
            assert_eq!(place(&renewing), first);
        }
        for alive in &mut seen {
            let departures = drain(alive).into_iter().filter(|event| !event.alive);
            assert_eq!(departures.count(), 0, "listening at {listen}");
        }
        // A real departure is still one.
        token.withdraw().await;
        for alive in &mut seen {
            until("it has left", async || {
                drain(alive).iter().any(|event| !event.alive)
            })
            .await;
        }
        for bus in [renewing, watching, joined_later] {
            bus.close().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_ends_with_the_bus() {
    let authority = Authority::create(CLUSTER).unwrap();
    let bus = node(&authority, Kind::Main, &[]).await;
    let mut heard = bus.subscribe("iceflix/test/x").await.unwrap();
    bus.close().await;
    assert!(heard.next().await.is_none());
}
