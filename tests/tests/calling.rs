//! Callers and real servers over real connections: whose turn it is, and what becomes of a call
//! when an instance is dead, slow or broken.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

use futures::StreamExt as _;
use iceflix_core::{
    api::{
        Instance, Kind,
        main::{DirectoryVersion, DirectoryView, Main, MainClient, MainError},
    },
    rpc::{CallError, Caller, Effort, Listener, Security, serve},
    trust::{Authority, Credentials, authority::CERTIFICATE_LIFETIME},
};
use std::{
    net::SocketAddr,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tarpc::{context::Context, server::Channel as _};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// How long anything may take before a test gives up: much longer than it ever does.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a read's first attempt has.
const READ: Duration = Duration::from_millis(500);

static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| Authority::create("calling").unwrap());

fn client() -> Security {
    Security::client(AUTHORITY.fingerprint()).unwrap()
}

/// How a server answers.
#[derive(Debug, Clone, Copy)]
enum Mood {
    Well,
    /// After so long.
    Slow(Duration),
    /// Never.
    Hanging,
}

/// A server's work, and what it has seen of its callers.
#[derive(Clone)]
struct Desk {
    mood: Arc<Mutex<Mood>>,
    asked: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
}

impl Main for Desk {
    async fn authenticator(self, _: Context) -> Result<Instance, MainError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Well => {}
            Mood::Slow(time) => tokio::time::sleep(time).await,
            Mood::Hanging => std::future::pending().await,
        }
        Err(MainError::TemporarilyUnavailable)
    }

    async fn catalog(self, _: Context) -> Result<Instance, MainError> {
        Err(MainError::TemporarilyUnavailable)
    }

    async fn provider(self, _: Context) -> Result<Instance, MainError> {
        Err(MainError::TemporarilyUnavailable)
    }

    async fn directory(
        self,
        _: Context,
        _: Option<DirectoryVersion>,
    ) -> Result<DirectoryView, MainError> {
        Ok(DirectoryView::empty())
    }
}

/// An open connection, counted.
struct Connected(Arc<AtomicUsize>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A server that listens on a port of its own.
struct Server {
    address: SocketAddr,
    desk: Desk,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Server {
    async fn start() -> Self {
        Self::at(([127, 0, 0, 1], 0).into()).await
    }

    async fn at(address: SocketAddr) -> Self {
        let credential =
            AUTHORITY.issue(Kind::Main, &"main-1".parse().unwrap(), CERTIFICATE_LIFETIME);
        let security = Security::service(&Credentials::new(credential.unwrap())).unwrap();
        let listener = Listener::bind(address, security).await.unwrap();
        let desk = Desk {
            mood: Arc::new(Mutex::new(Mood::Well)),
            asked: Arc::default(),
            connections: Arc::default(),
        };
        let (address, shared) = (listener.address(), desk.clone());
        let stop = CancellationToken::new();
        let serving = listener.serve(stop.clone(), move |_, link| {
            shared.connections.fetch_add(1, Ordering::SeqCst);
            let connected = Connected(Arc::clone(&shared.connections));
            let requests = serve::channel(link).execute(shared.clone().serve());
            requests.inspect(move |_| {
                // Counted until its last request is handled.
                let _ = &connected;
            })
        });
        Self {
            address,
            desk,
            stop,
            task: AbortOnDropHandle::new(tokio::spawn(serving)),
        }
    }

    /// Ends it and all connections to it. Dropping it closes the door only.
    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    fn is(&self, mood: Mood) {
        *self.desk.mood.lock().unwrap() = mood;
    }

    /// How often it was asked.
    fn asked(&self) -> usize {
        self.desk.asked.load(Ordering::SeqCst)
    }

    fn connections(&self) -> usize {
        self.desk.connections.load(Ordering::SeqCst)
    }
}

async fn servers(count: usize) -> Vec<Server> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(Server::start().await);
    }
    all
}

/// A directory in which these are.
fn listed(number: u64, at: impl IntoIterator<Item = SocketAddr>) -> Arc<DirectoryView> {
    let mut view = DirectoryView::empty();
    view.version.number = number;
    view.instances = at
        .into_iter()
        .enumerate()
        .map(|(n, endpoint)| Instance {
            kind: Kind::Main,
            instance: format!("main-{n}").parse().unwrap(),
            endpoint,
            pid: 1,
            load: 0,
            draining: false,
        })
        .collect();
    Arc::new(view)
}

fn directory(servers: &[Server]) -> watch::Sender<Arc<DirectoryView>> {
    watch::channel(listed(1, servers.iter().map(|server| server.address))).0
}

/// Asks once, and says how long that took.
async fn ask(caller: &Caller, effort: Effort) -> Result<Duration, CallError> {
    let began = Instant::now();
    let question = |main: MainClient, context| async move { main.authenticator(context).await };
    let answer = caller.call_with(effort, question).await?;
    assert_eq!(answer, Err(MainError::TemporarilyUnavailable));
    Ok(began.elapsed())
}

async fn read(caller: &Caller) -> Duration {
    ask(caller, Effort::Read).await.unwrap()
}

async fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Each has its share of so many calls, within 2 %.
fn equal_shares(servers: &[Server], before: &[usize], calls: usize) {
    let shares: Vec<usize> = servers
        .iter()
        .zip(before)
        .map(|(server, before)| server.asked() - before)
        .collect();
    println!("{calls} calls: {shares:?}");
    assert_eq!(shares.iter().sum::<usize>(), calls, "each was asked once");
    let equal = calls as f64 / servers.len() as f64;
    for share in &shares {
        let off = (*share as f64 - equal).abs() / equal;
        assert!(off <= 0.02, "{:.1} % off: {shares:?}", off * 100.0);
    }
}

fn asked(servers: &[Server]) -> Vec<usize> {
    servers.iter().map(Server::asked).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_calls_are_shared_equally() {
    const CALLS: usize = 10_000;
    let servers = servers(3).await;
    let directory = directory(&servers);
    let caller = Caller::new(directory.subscribe(), client());
    // One after another …
    for _ in 0..CALLS {
        read(&caller).await;
    }
    equal_shares(&servers, &[0; 3], CALLS);
    // … 64 at a time …
    let before = asked(&servers);
    let calls = futures::stream::iter(0..CALLS).map(|_| read(&caller));
    calls.buffer_unordered(64).collect::<Vec<_>>().await;
    equal_shares(&servers, &before, CALLS);
    // … and of a thousand clients that ask ten times each. The tenth is one more for whoever the
    // client began with: at random, so the shares differ by 0.4 % or so.
    let before = asked(&servers);
    let clients = futures::stream::iter(0..CALLS / 10).map(|_| async {
        let caller = Caller::new(directory.subscribe(), client());
        for _ in 0..10 {
            read(&caller).await;
        }
    });
    clients.buffer_unordered(16).collect::<Vec<_>>().await;
    equal_shares(&servers, &before, CALLS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_client_begins_anywhere() {
    let servers = servers(3).await;
    let directory = directory(&servers);
    for _ in 0..120 {
        read(&Caller::new(directory.subscribe(), client())).await;
    }
    // Were it always the same one, two of these would be 0. (That one is below 20 of 120 by chance
    // happens once in 20,000 times.)
    assert!(
        asked(&servers).iter().all(|times| *times >= 20),
        "{:?}",
        asked(&servers)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_hangs_costs_a_read_half_a_second_three_times_and_comes_back() {
    let servers = servers(2).await;
    let directory = directory(&servers);
    let caller = Caller::new(directory.subscribe(), client());
    // Both are known, and connected to.
    for _ in 0..4 {
        read(&caller).await;
    }
    let (sick, well) = (&servers[0], &servers[1]);
    let before = sick.asked();
    sick.is(Mood::Hanging);
    let mut slow = 0;
    while sick.asked() < before + 3 {
        let (asked, answered) = (sick.asked(), well.asked());
        let took = read(&caller).await;
        if sick.asked() > asked {
            assert!(took >= READ, "{took:?}");
            slow += 1;
        }
        assert!(well.asked() > answered, "the other one answered");
    }
    let out = Instant::now();
    assert_eq!(slow, 3);
    // Now it is passed over …
    for _ in 0..20 {
        read(&caller).await;
    }
    if out.elapsed() < Duration::from_secs(1) {
        assert_eq!(sick.asked(), before + 3);
    }
    // … until it may try again.
    sick.is(Mood::Well);
    let until = Instant::now() + PATIENCE;
    while sick.asked() < before + 4 {
        assert!(Instant::now() < until, "it never came back");
        read(&caller).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let before = asked(&servers);
    for _ in 0..100 {
        read(&caller).await;
    }
    let shares = [0, 1].map(|n| servers[n].asked() - before[n]);
    assert_eq!(shares, [50, 50]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_has_two_seconds_and_a_read_half_a_one() {
    let servers = servers(2).await;
    let directory = directory(&servers);
    let second = Duration::from_secs(1);
    for server in &servers {
        server.is(Mood::Slow(second));
    }
    // Whoever is asked first has the time to answer.
    let caller = Caller::new(directory.subscribe(), client());
    let took = ask(&caller, Effort::Write).await.unwrap();
    assert!(took >= second, "{took:?}");
    assert_eq!(asked(&servers).iter().sum::<usize>(), 1);
    // A read turns to the other after half a second, and each further attempt has twice the time:
    // of 500 ms, 1 s and 2 s the third is enough for sure.
    let took = read(&caller).await;
    assert!(took >= READ + second, "{took:?}");
    let shares = asked(&servers);
    assert!(
        (3..=4).contains(&shares.iter().sum::<usize>()),
        "{shares:?}"
    );
    assert!(shares.iter().all(|times| *times > 0), "{shares:?}");
}

/// However many calls there are at a time, and whoever's turn it is meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn calls_at_the_same_time_all_get_past_a_dead_instance() {
    let servers = servers(2).await;
    let dead = Server::start().await.address;
    let at = [servers[0].address, dead, servers[1].address];
    let (_directory, receiver) = watch::channel(listed(1, at));
    for _ in 0..20 {
        let caller = Caller::new(receiver.clone(), client());
        let calls = (0..64).map(|_| read(&caller));
        futures::future::join_all(calls).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_instance_is_asked_again_and_again() {
    let address = Server::start().await.address;
    let (_directory, receiver) = watch::channel(listed(1, [address]));
    let caller = Caller::new(receiver, client());
    // Far more failures than would take it out.
    for _ in 0..3 {
        let began = Instant::now();
        let failed = ask(&caller, Effort::Read).await;
        assert!(
            matches!(failed, Err(CallError::Unreachable { endpoint, .. }) if endpoint == address),
            "{failed:?}"
        );
        // 0, 20, 40 and 80 ms between five attempts.
        assert!(began.elapsed() >= Duration::from_millis(140), "no pause");
    }
    let _server = Server::at(address).await;
    read(&caller).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_kept_of_an_instance_that_has_left() {
    let servers = servers(2).await;
    let directory = directory(&servers);
    let caller = Caller::new(directory.subscribe(), client());
    for _ in 0..4 {
        read(&caller).await;
    }
    assert_eq!([0, 1].map(|n| servers[n].connections()), [1, 1]);
    directory.send_replace(listed(2, [servers[0].address]));
    read(&caller).await;
    wait_for("it hangs up", || servers[1].connections() == 0).await;
    assert_eq!(servers[0].connections(), 1);
}

/// A connection that broke between two calls is no failure of the second.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_at_the_same_address_is_not_noticed() {
    let server = Server::start().await;
    let address = server.address;
    let (_directory, receiver) = watch::channel(listed(1, [address]));
    let caller = Caller::new(receiver, client());
    read(&caller).await;
    server.stop().await;
    let again = Server::at(address).await;
    let once = caller.call_at(address, PATIENCE, |main: MainClient, context| async move {
        main.authenticator(context).await
    });
    once.await.unwrap().unwrap_err();
    assert_eq!(again.asked(), 1);
}
