//! Thousands of connections that say nothing, or nonsense, against a listener: whoever asks
//! something is answered all the same, from the same address.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

use iceflix_core::{
    api::{
        Instance, Kind,
        main::{DirectoryVersion, DirectoryView, Main, MainClient, MainError},
    },
    limits::raise_nofile_limit,
    rpc::{Caller, Listener, Security, serve},
    trust::{Authority, Credentials, authority::CERTIFICATE_LIFETIME},
};
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tarpc::{context::Context, server::Channel as _};
use tokio_util::sync::CancellationToken;

/// As many as the issue states, if this system lets a process have so many.
const CONNECTIONS: usize = 10_000;
const PATIENCE: Duration = Duration::from_secs(30);

/// Descriptors are the process's, and each test wants most of them.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| Authority::create("hostile").unwrap());

#[derive(Clone)]
struct Desk;

impl Main for Desk {
    async fn authenticator(self, _: Context) -> Result<Instance, MainError> {
        Err(MainError::TemporarilyUnavailable)
    }

    async fn catalog(self, _: Context) -> Result<Instance, MainError> {
        panic!("a handler that breaks");
    }

    async fn provider(self, context: Context) -> Result<Instance, MainError> {
        let left = context.deadline.saturating_duration_since(Instant::now());
        tokio::time::sleep(left / 2).await;
        Err(MainError::TemporarilyUnavailable)
    }

    async fn directory(
        self,
        _: Context,
        _: Option<DirectoryVersion>,
    ) -> Result<DirectoryView, MainError> {
        Err(MainError::Internal)
    }
}

struct World {
    address: SocketAddr,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
    caller: Caller,
}

/// A client that has heard of the service there.
fn caller(address: SocketAddr) -> Caller {
    let view = DirectoryView {
        version: DirectoryVersion {
            counter: 0,
            number: 0,
        },
        instances: vec![Instance {
            kind: Kind::Main,
            instance: "main-1".parse().unwrap(),
            endpoint: address,
            pid: 1,
            load: 0,
            draining: false,
        }],
    };
    let (_, directory) = tokio::sync::watch::channel(Arc::new(view));
    Caller::new(
        directory,
        Security::client(AUTHORITY.fingerprint()).unwrap(),
    )
}

impl World {
    async fn start() -> Self {
        let name = "main-1".parse().unwrap();
        let credential = AUTHORITY.issue(Kind::Main, &name, CERTIFICATE_LIFETIME);
        let security = Security::service(&Credentials::new(credential.unwrap())).unwrap();
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), security)
            .await
            .unwrap();
        let address = listener.address();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(listener.serve(stop.clone(), |_, link| {
            serve::channel(link).execute(Desk.serve())
        }));
        let caller = caller(address);
        Self {
            address,
            stop,
            serving,
            caller,
        }
    }

    /// Asks as every client does, on a connection of its own or on the one there is.
    async fn ask(&self, caller: &Caller) {
        let asked = caller
            .call(|client: MainClient, context| async move { client.authenticator(context).await });
        let answer = asked.await.expect("an answer");
        assert_eq!(answer, Err(MainError::TemporarilyUnavailable));
    }

    fn newcomer(&self) -> Caller {
        caller(self.address)
    }

    async fn stop(self) {
        self.stop.cancel();
        drop(self.caller);
        tokio::time::timeout(PATIENCE, self.serving)
            .await
            .unwrap()
            .unwrap();
    }
}

/// Opens connections one after another and says `what` on each, while `world` is asked by a client
/// that was there before and by new ones. Gives the connections back.
async fn flood(world: &World, what: &'static [u8]) -> Vec<TcpStream> {
    let many = usize::try_from(raise_nofile_limit().unwrap() / 2)
        .unwrap()
        .min(CONNECTIONS);
    world.ask(&world.caller).await;
    let (address, done) = (world.address, Arc::new(AtomicBool::new(false)));
    let opened = Arc::new(AtomicUsize::new(0));
    let (finished, count) = (Arc::clone(&done), Arc::clone(&opened));
    let attacker = std::thread::spawn(move || {
        let mut held = Vec::new();
        for _ in 0..many {
            // Once the backlog is full the system lets it wait.
            if let Ok(mut connection) = TcpStream::connect_timeout(&address, PATIENCE) {
                let _ = connection.write_all(what);
                held.push(connection);
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        finished.store(true, Ordering::Release);
        held
    });
    let mut asked = 0;
    while !done.load(Ordering::Acquire) {
        world.ask(&world.caller).await;
        world.ask(&world.newcomer()).await;
        asked += 1;
    }
    for _ in 0..20 {
        world.ask(&world.caller).await;
        world.ask(&world.newcomer()).await;
    }
    assert!(asked > 0, "nothing was asked meanwhile");
    let held = attacker.join().unwrap();
    assert!(held.len() > many / 2, "{} of {many} connected", held.len());
    held
}

/// Waits until the other end of each was closed.
async fn until_closed(held: Vec<TcpStream>) {
    let reading = tokio::task::spawn_blocking(move || {
        for mut connection in held {
            connection.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut rest = [0; 1024];
            loop {
                match connection.read(&mut rest) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
                    Err(error) => panic!("it was not closed: {error}"),
                }
            }
        }
    });
    reading.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_harm_nobody_and_are_closed() {
    let _alone = ALONE.lock().await;
    let world = World::start().await;
    let held = flood(&world, b"").await;
    until_closed(held).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_frame_harms_nobody_and_is_closed() {
    let _alone = ALONE.lock().await;
    let world = World::start().await;
    // As much of a TLS record as of a frame.
    let held = flood(&world, &[0x16, 0x03, 0x01]).await;
    until_closed(held).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_and_absurd_lengths_harm_nobody_and_are_closed() {
    let _alone = ALONE.lock().await;
    let world = World::start().await;
    let held = flood(&world, &[0xff; 512]).await;
    until_closed(held).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_in_flight_outlives_a_flood() {
    let _alone = ALONE.lock().await;
    let world = World::start().await;
    let caller = world.newcomer();
    world.ask(&caller).await;
    let address = world.address;
    let waiting = tokio::spawn(async move {
        let deadline = Duration::from_secs(20);
        caller
            .call_at(
                address,
                deadline,
                |client: MainClient, context| async move { client.provider(context).await },
            )
            .await
    });
    drop(flood(&world, b"").await);
    let answer = waiting.await.unwrap().expect("an answer");
    assert_eq!(answer, Err(MainError::TemporarilyUnavailable));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_panics_takes_nothing_with_it() {
    let _alone = ALONE.lock().await;
    let world = World::start().await;
    let broken = world.caller.call_at(
        world.address,
        Duration::from_millis(500),
        |client: MainClient, context| async move { client.catalog(context).await },
    );
    assert!(broken.await.is_err());
    world.ask(&world.caller).await;
    world.ask(&world.newcomer()).await;
    world.stop().await;
}
