//! A node that lost the bus without knowing, on a real one.

use super::{doubts::Doubt, hearing::Seen, *};
use crate::{
    announcement::{Announcement, Guard},
    api::{InstanceId, Kind, SessionId, auth::Role},
    bus::{Bus, BusConfig},
    feed::{Change, Speaker},
    membership::Membership,
    topics::{AuthenticationFact, Entries, Topics},
    trust::{Authority, Credentials, Verifier, authority::CERTIFICATE_LIFETIME, token::Identity},
};
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

const CLUSTER: &str = "guards";

/// How long anything may take before a test gives up: much longer than it ever does.
const PATIENCE: Duration = Duration::from_secs(60);

fn id(name: &str) -> InstanceId {
    name.parse().unwrap()
}

async fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// An authenticator, as others see it, and a streaming node beside it that watches its hearing.
struct World {
    authority: Authority,
    topics: Topics,
    auth: Bus,
    speaker: Speaker,
    seen: Membership,
    bus: Bus,
    membership: Membership,
    verifier: Verifier,
    _announced: [Announcement; 2],
}

impl World {
    /// The node listens on the bus here.
    async fn new(listen: &str) -> Self {
        let authority = Authority::create(CLUSTER).unwrap();
        let topics = Topics::new(CLUSTER);
        let auth = open(&authority, Kind::Auth, "auth-1", "tls/127.0.0.1:0", &[]).await;
        let key = AuthenticationFact::Key("0".repeat(64));
        let entries = Entries::from([(key.name(), serde_json::to_value(&key).unwrap())]);
        let (topic, name) = (topics.authentication(), id("auth-1"));
        let speaker = Speaker::start(&auth, &topic, &name, entries).await.unwrap();
        let seen = Membership::follow(&auth, &topics).await.unwrap();
        let following = Verifier::follow(&auth, &topics, Some(name.clone())).await;
        let guard = hearing(
            &authority,
            &topics,
            Kind::Auth,
            &auth,
            &seen,
            &following.unwrap(),
        );
        let announced = announce(
            &auth,
            &topics,
            Kind::Auth,
            "auth-1",
            vec![Box::pin(guard.keep())],
        )
        .await;

        let place = auth.listens_at();
        let bus = open(&authority, Kind::Streaming, "node-1", listen, &place).await;
        let membership = Membership::follow(&bus, &topics).await.unwrap();
        let verifier = Verifier::follow(&bus, &topics, None).await.unwrap();
        let guard = hearing(
            &authority,
            &topics,
            Kind::Streaming,
            &bus,
            &membership,
            &verifier,
        );
        let node = announce(
            &bus,
            &topics,
            Kind::Streaming,
            "node-1",
            vec![Box::pin(guard.keep())],
        )
        .await;
        let world = Self {
            authority,
            topics,
            auth,
            speaker,
            seen,
            bus,
            membership,
            verifier,
            _announced: [announced, node],
        };
        wait_for("they meet", || {
            world.lists("node-1") && world.knows("auth-1") && world.verifier.is_ready()
        })
        .await;
        world
    }

    /// Whether the authenticator's directory has this instance.
    fn lists(&self, name: &str) -> bool {
        has(&self.seen, name)
    }

    /// Whether the node's has.
    fn knows(&self, name: &str) -> bool {
        has(&self.membership, name)
    }

    /// The authenticator says that a session was ended; how long it takes until the node knows.
    async fn revoke(&self) -> Duration {
        let session = SessionId::random();
        let fact = AuthenticationFact::SessionEnded { session };
        let said: Change = (fact.name(), serde_json::to_value(&fact).ok());
        let (identity, began) = (identity(session), Instant::now());
        self.speaker.change(vec![said]);
        wait_for("it is heard what was revoked", || {
            self.verifier.is_revoked(&identity)
        })
        .await;
        began.elapsed()
    }

    /// Everything is as it was: each hears the other, and whoever comes.
    async fn is_whole(&self) {
        self.revoke().await;
        let place = self.auth.listens_at();
        let (kind, listen) = (Kind::Catalog, "tls/127.0.0.1:0");
        let late = open(&self.authority, kind, "late-1", listen, &place).await;
        let announced = announce(&late, &self.topics, kind, "late-1", Vec::new()).await;
        wait_for("whoever comes is seen", || {
            self.lists("late-1") && self.knows("late-1")
        })
        .await;
        drop(announced);
        wait_for("whoever goes is gone", || {
            !self.lists("late-1") && !self.knows("late-1")
        })
        .await;
        late.close().await;
        assert!(self.lists("node-1") && self.knows("auth-1") && self.knows("node-1"));
    }

    async fn stop(self) {
        self.bus.close().await;
        self.auth.close().await;
    }
}

fn has(membership: &Membership, name: &str) -> bool {
    let view = membership.now();
    view.instances.iter().any(|it| it.instance.as_str() == name)
}

fn identity(session: SessionId) -> Identity {
    Identity {
        user: "ada".into(),
        session,
        role: Role::User,
        epoch: 0,
        expires: Duration::ZERO,
    }
}

async fn open(
    authority: &Authority,
    kind: Kind,
    name: &str,
    listen: &str,
    connect: &[String],
) -> Bus {
    let credential = authority.issue(kind, &id(name), CERTIFICATE_LIFETIME);
    let config = BusConfig::new(
        CLUSTER,
        credential.unwrap(),
        vec![listen.to_owned()],
        connect.to_vec(),
    );
    Bus::open(&config).await.unwrap()
}

/// What looks after a node's hearing.
fn hearing(
    authority: &Authority,
    topics: &Topics,
    kind: Kind,
    bus: &Bus,
    membership: &Membership,
    verifier: &Verifier,
) -> Hearing {
    let name = match kind {
        Kind::Auth => id("auth-1"),
        _ => id("node-1"),
    };
    let credential = authority.issue(kind, &name, CERTIFICATE_LIFETIME);
    Hearing {
        bus: bus.clone(),
        topics: topics.clone(),
        membership: membership.clone(),
        verifier: verifier.clone(),
        credentials: Credentials::new(credential.unwrap()),
        own: (kind, name),
        ears: verifier.ears().into_iter().collect(),
    }
}

async fn announce(
    bus: &Bus,
    topics: &Topics,
    kind: Kind,
    name: &str,
    guards: Vec<Guard>,
) -> Announcement {
    let endpoint = SocketAddr::from(([127, 0, 0, 1], 1));
    let (name, absences) = (id(name), Absences::default());
    let announced =
        Announcement::guarded(bus, topics, kind, &name, endpoint, absences, guards).await;
    announced.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hears_nothing_joins_the_bus_anew() {
    let world = World::new("tls/127.0.0.1:0").await;
    world.is_whole().await;
    world.bus.deafen();
    // Far longer than its words are ever on their way: it was deaf, and is no longer.
    let took = world.revoke().await;
    assert!(took > Duration::from_secs(4), "it was never deaf: {took:?}");
    world.is_whole().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_see_whom_others_see_joins_the_bus_anew() {
    let world = World::new("tls/127.0.0.1:0").await;
    world.is_whole().await;
    world.bus.blind();
    let place = world.auth.listens_at();
    let (kind, listen) = (Kind::Catalog, "tls/127.0.0.1:0");
    let late = open(&world.authority, kind, "late-2", listen, &place).await;
    let announced = announce(&late, &world.topics, kind, "late-2", Vec::new()).await;
    wait_for("others see who came", || world.lists("late-2")).await;
    assert!(!world.knows("late-2"), "it was never blind");
    wait_for("it sees who came", || world.knows("late-2")).await;
    drop(announced);
    late.close().await;
    world.is_whole().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_seen_for_a_moment_is_not_one_that_is_never_seen() {
    let world = World::new("tls/127.0.0.1:0").await;
    let (place, kind) = (world.auth.listens_at(), Kind::Catalog);
    let late = open(&world.authority, kind, "late-3", "tls/127.0.0.1:0", &place).await;
    let guard = hearing(
        &world.authority,
        &world.topics,
        Kind::Streaming,
        &world.bus,
        &world.membership,
        &world.verifier,
    );
    let coming_and_going = async {
        let announced = announce(&late, &world.topics, kind, "late-3", Vec::new()).await;
        wait_for("it is seen", || world.knows("late-3")).await;
        drop(announced);
        wait_for("it is gone", || !world.knows("late-3")).await;
    };
    let met = guard.meet(coming_and_going).await;
    let names: Vec<&str> = met.iter().map(|(_, it)| it.as_str()).collect();
    assert_eq!(names, ["auth-1", "late-3", "node-1"]);
    let met = guard.meet(std::future::ready(())).await;
    assert_eq!(met.len(), 2, "now it is not there any more");
    // Somebody else has said that they see it: then it is in doubt, unless it was met since.
    let it = (kind, id("late-3"));
    let doubted = Doubt::Unseen(kind, id("late-3"));
    for (met, doubts) in [(met, true), (BTreeSet::from([it.clone()]), false)] {
        let mut seen = Seen::default();
        seen.unseen.insert(it.clone());
        let now = guard.look(&mut seen, &met).await;
        assert_eq!(now.contains(&doubted), doubts);
        assert_eq!(!seen.unseen.is_empty(), doubts);
    }
    late.close().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_session_is_over_joins_the_bus_anew() {
    // Below those that the system gives to whoever asks for any (32768 and up).
    let start = 20_000 + u16::try_from(std::process::id() % 8_000).unwrap();
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let fixed = (start..).find(free).unwrap();
    let fixed = format!("tls/127.0.0.1:{fixed}");
    for listen in ["tls/127.0.0.1:0", &fixed] {
        let world = World::new(listen).await;
        world.bus.break_off().await;
        wait_for("nobody sees it", || !world.lists("node-1")).await;
        wait_for("it is seen again", || world.lists("node-1")).await;
        world.is_whole().await;
        if listen == fixed {
            wait_for("it listens where it did", || {
                world.bus.listens_at().concat() == fixed
            })
            .await;
            world.is_whole().await;
        }
        world.stop().await;
    }
}
