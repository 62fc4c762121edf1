//! Thousands of connections that say nothing, half of something, or nonsense, on every port of
//! every service: whoever does something meanwhile, from the same address, notices nothing.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

use iceflix_core::{limits::raise_nofile_limit, service::Server};
use iceflix_tests::{
    cluster::{ADMIN_PASSWORD, Cluster, film, until_listed},
    lan::{multicast_works, skipped},
};
use std::{
    io::Write as _,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::sync::Mutex;

/// How long the system may take to let a connection in.
const CONNECTING: Duration = Duration::from_secs(20);

/// Descriptors are the process's, and each test wants most of them.
static ALONE: Mutex<()> = Mutex::const_new(());

/// As many as the issue states, if this system lets a process have so many.
fn many() -> usize {
    let limit = usize::try_from(raise_nofile_limit().unwrap()).unwrap();
    // Their other ends are this process's, too: of those that say nothing useful, at most 1,024 and
    // 512 on their way out at each of the five services' ports, and 1,024 at each one's on the bus.
    // And the services need some themselves.
    (limit / 3).min(10_000)
}

/// What is said on the connections, one after the other.
const SAID: [&[u8]; 4] = [
    b"",
    // Half a TLS record, half a frame.
    &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01],
    // A length of 4 GiB and some.
    &[0xff; 64],
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
];

/// Opens many connections, and goes on opening others in place of those that were closed, until
/// it is told to stop.
struct Flood {
    stop: Arc<AtomicBool>,
    running: Arc<AtomicBool>,
    attacker: JoinHandle<usize>,
}

impl Flood {
    /// Against these addresses in turn, with so many connections at a time.
    fn start(targets: Vec<SocketAddr>, many: usize) -> Self {
        let (stop, running) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let (stopped, full) = (Arc::clone(&stop), Arc::clone(&running));
        let attacker = std::thread::spawn(move || {
            let mut held = std::collections::VecDeque::new();
            let mut opened = 0;
            while !stopped.load(Ordering::Relaxed) {
                let target = targets[opened % targets.len()];
                if let Ok(mut connection) = TcpStream::connect_timeout(&target, CONNECTING) {
                    // It may be closed already.
                    let _ = connection.write_all(SAID[opened / targets.len() % SAID.len()]);
                    held.push_back(connection);
                    opened += 1;
                }
                if held.len() > many {
                    full.store(true, Ordering::Relaxed);
                    held.pop_front();
                    // No more than 2,000 a second from here on: there are only so many ports.
                    std::thread::sleep(Duration::from_micros(500));
                }
            }
            opened
        });
        Self {
            stop,
            running,
            attacker,
        }
    }

    /// Whether as many as wanted were opened.
    fn is_full(&self) -> bool {
        self.running.load(Ordering::Relaxed)
    }

    /// Ends it, and says how many there were.
    fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.attacker.join().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_succeed_while_every_service_is_flooded() {
    let _alone = ALONE.lock().await;
    let media = tempfile::tempdir().unwrap();
    film(&media.path().join("film.mp4"), 1, 440);
    let cluster = Cluster::start(1, 1, 1, &[media.path()]).await;
    cluster.until_films(1).await;
    let home = cluster.home();
    let targets = [
        cluster.mains[0].address(),
        cluster.auths[0].address(),
        cluster.catalogs[0].address(),
        cluster.nodes[0].address(),
    ];
    let admin = cluster.admin().await;
    for target in targets {
        let flood = Flood::start(vec![target], many());
        let mut rounds = 0;
        while !flood.is_full() || rounds < 3 {
            // Somebody who was there before …
            let films = cluster.films().await.unwrap();
            assert_eq!(films.len(), 1);
            let authenticator = cluster.auths[0].address();
            let token = cluster.renew_at(authenticator, &admin).await.unwrap();
            assert!(cluster.authorised_at(authenticator, &token).await);
            // … and somebody who comes now, and connects to everybody.
            home.login("admin", ADMIN_PASSWORD).with_code(0);
            home.run(&["search", "film"]).with_code(0);
            rounds += 1;
        }
        let opened = flood.end();
        assert!(opened >= many(), "{opened} connections");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_find_each_other_join_while_the_bus_is_flooded() {
    let _alone = ALONE.lock().await;
    if let Err(error) = multicast_works() {
        skipped(&format!("this machine has no multicast: {error}"));
        return;
    }
    let mut cluster = Cluster::empty();
    cluster.find_by_multicast();
    nodes_join(cluster).await;
}

/// Nobody comes out to meet these: they have to get through to a flooded node.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_know_an_address_join_while_the_bus_is_flooded() {
    let _alone = ALONE.lock().await;
    nodes_join(Cluster::empty()).await;
}

async fn nodes_join(mut cluster: Cluster) {
    cluster.add_main().await;
    cluster.add_auth().await;
    cluster.add_catalog().await;
    let targets: Vec<SocketAddr> = cluster.bus_addresses();
    cluster.until_complete().await;
    let main = cluster.mains[0].address();

    let flood = Flood::start(targets, many());
    let mut joined = 0;
    let mut longest = Duration::ZERO;
    while !flood.is_full() || joined < 3 {
        let begun = Instant::now();
        cluster.add_catalog().await;
        joined += 1;
        // Nobody who was there is taken for gone, and the newcomer is found.
        until_listed(cluster.name(), main, |all| all.len() == 3 + joined).await;
        longest = longest.max(begun.elapsed());
    }
    println!("the longest of {joined} took {longest:?} to join");
    assert!(longest < Duration::from_secs(15), "{longest:?} to join");
    let opened = flood.end();
    assert!(opened >= many(), "{opened} connections");
    cluster.stop().await;
}
