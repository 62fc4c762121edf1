//! An authenticator whose clock is not the others': nobody finds it, and who knows where it is gets
//! no answer, until the others say that it is right.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

use auth_svc::{AuthServer, Config};
use iceflix_core::{
    api::{
        Kind, SessionId,
        auth::{AuthenticatorClient, Login},
    },
    bus::{AliveToken, Answering, Bus, BusConfig},
    config::Common,
    membership::Membership,
    rpc::{AttemptError, CallError, Caller, Security},
    service::Server as _,
    topics::Topics,
    trust::{Authority, SessionKey, authority::CERTIFICATE_LIFETIME, password::prehash},
};
use iceflix_tests::wrong_clock;
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tempfile::TempDir;

const CLUSTER: &str = "clock";
const PASSWORD: &str = "correct horse battery staple";

/// How long anything may take before a test gives up: much longer than it ever does.
const PATIENCE: Duration = Duration::from_secs(60);

/// Longer than it is between two questions what time it is.
const ASKED_AGAIN: Duration = Duration::from_secs(6);

const HOUR: Duration = Duration::from_secs(3600);

/// Another machine of the cluster, for as long as it is kept.
struct Machine {
    _answering: Answering,
    _alive: AliveToken,
}

/// Other machines of the cluster, as far as an authenticator asks them.
struct World {
    dir: TempDir,
    authority: Authority,
    bus: Bus,
    seen: Membership,
}

impl World {
    async fn new() -> Self {
        let authority = Authority::create(CLUSTER).unwrap();
        let name = "others".parse().unwrap();
        let config = BusConfig::new(
            CLUSTER,
            authority
                .issue(Kind::Main, &name, CERTIFICATE_LIFETIME)
                .unwrap(),
            vec!["tls/127.0.0.1:0".into()],
            Vec::new(),
        );
        let bus = Bus::open(&config).await.unwrap();
        let seen = Membership::follow(&bus, &Topics::new(CLUSTER)).await;
        Self {
            dir: tempfile::tempdir().unwrap(),
            authority,
            seen: seen.unwrap(),
            bus,
        }
    }

    /// What an authenticator is told.
    fn config(&self) -> Config {
        let password = self.dir.path().join("password");
        std::fs::write(&password, PASSWORD).unwrap();
        let common = Common {
            cluster: CLUSTER.parse().unwrap(),
            instance: Some("auth-1".parse().unwrap()),
            state_dir: self.dir.path().join("auth-1"),
            bus_listen: vec!["tls/127.0.0.1:0".into()],
            bus_connect: self.bus.listens_at(),
            bus_scouting: false,
            ..Common::default()
        };
        let name = common.instance.clone().unwrap();
        self.authority
            .equip(&common.identity(), Kind::Auth, &name, CERTIFICATE_LIFETIME)
            .unwrap();
        Config {
            common,
            admin_password_file: Some(password),
            ..Config::default()
        }
    }

    /// A machine whose clock is so far ahead.
    async fn machine(&self, machine: u8, ahead: Duration) -> Machine {
        let alive = wrong_clock::key(CLUSTER, machine);
        Machine {
            _answering: wrong_clock::answering(&self.bus, CLUSTER, machine, ahead).await,
            _alive: self.bus.declare_alive(&alive).await.unwrap(),
        }
    }

    /// Whether the authenticator comes to be listed, or not to be, within so long.
    async fn is_listed(&self, listed: bool, within: Duration) -> bool {
        let mut seen = self.seen.watch();
        let wanted = seen.wait_for(|view| {
            let mut instances = view.instances.iter();
            instances.any(|it| it.kind == Kind::Auth) == listed
        });
        tokio::time::timeout(within, wanted).await.is_ok()
    }

    async fn until_listed(&self, listed: bool) {
        let waited = self.is_listed(listed, PATIENCE).await;
        assert!(waited, "never listed: {listed}");
    }
}

async fn log_in(caller: &Caller, at: SocketAddr) -> Result<Login, CallError> {
    let key = SessionKey::generate().unwrap().public();
    let ask = |auth: AuthenticatorClient, context| {
        let (password, session) = (prehash("admin", PASSWORD), SessionId::random());
        async move {
            auth.login(context, "admin".into(), password, session, key)
                .await
        }
    };
    let answer = caller.call_at(at, Duration::from_secs(10), ask).await?;
    Ok(answer.unwrap())
}

/// No answer, at once: as from one that is gone, after which a caller with others to ask asks them.
async fn is_gone(caller: &Caller, auth: &AuthServer) {
    let begin = Instant::now();
    let refused = log_in(caller, auth.address()).await;
    let gone = matches!(
        &refused,
        Err(CallError::Unreachable {
            source: AttemptError::Call(_),
            ..
        })
    );
    assert!(gone, "{:?}", refused.err());
    assert!(begin.elapsed() < Duration::from_secs(5), "at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authenticator_with_a_wrong_clock_answers_nobody_until_others_say_that_it_is_right() {
    let world = World::new().await;
    let auth = AuthServer::bind(world.config()).await.unwrap();
    let security = Security::client(world.authority.fingerprint()).unwrap();
    let caller = Caller::by_address(security);
    world.until_listed(true).await;
    log_in(&caller, auth.address()).await.unwrap();

    // Two machines say that it is this one's clock which is wrong.
    let (one, other) = (world.machine(2, HOUR).await, world.machine(3, HOUR).await);
    world.until_listed(false).await;
    // Over the connection that there is, and over new ones.
    for _ in 0..3 {
        is_gone(&caller, &auth).await;
    }

    // One against one nobody could tell who is wrong, and alone there is nobody to say so: but it
    // is known.
    drop(one);
    assert!(!world.is_listed(true, ASKED_AGAIN).await, "one is down");
    drop(other);
    assert!(!world.is_listed(true, ASKED_AGAIN).await, "it is cut off");
    is_gone(&caller, &auth).await;

    // It has asked itself all the time and got answers: nothing else keeps it away afterwards. Who
    // comes is asked at once.
    let came = Instant::now();
    let _right = world.machine(2, Duration::ZERO).await;
    world.until_listed(true).await;
    assert!(
        came.elapsed() < Duration::from_millis(4500),
        "{:?}",
        came.elapsed()
    );
    log_in(&caller, auth.address()).await.unwrap();
    auth.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authenticator_that_starts_with_a_wrong_clock_is_never_found() {
    let world = World::new().await;
    let others = [world.machine(2, HOUR).await, world.machine(3, HOUR).await];
    let starting = AuthServer::bind(world.config());
    let (auth, listed) = tokio::join!(starting, world.is_listed(true, ASKED_AGAIN));
    let auth = auth.unwrap();
    assert!(!listed, "whose clock is wrong");
    let security = Security::client(world.authority.fingerprint()).unwrap();
    let caller = Caller::by_address(security);
    is_gone(&caller, &auth).await;
    drop(others);
    let _right = world.machine(4, Duration::ZERO).await;
    world.until_listed(true).await;
    log_in(&caller, auth.address()).await.unwrap();
    auth.shutdown().await;
}
