//! Nodes on a real bus, a cable that can be cut, and a speaker that is led by hand.

use futures::FutureExt;
use iceflix_core::{
    api::{InstanceId, Kind},
    bus::{AliveToken, Answering, Bus, BusConfig},
    feed::{Change, Changes, split},
    topics::{Entries, FeedTopic, Topics},
    trust::{Authority, authority::CERTIFICATE_LIFETIME},
};
use serde_json::Value;
use std::{
    net::SocketAddr,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU16, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

/// How long anything may take before a test gives up: much longer than it ever does.
const PATIENCE: Duration = Duration::from_secs(60);

/// A port that is free, below those that the system gives to whoever asks for any (32768 and up):
/// nobody gets it before it is used.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 8_000).unwrap();
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + (start + step) % 8_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Waits until something is so.
pub async fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn id(name: &str) -> InstanceId {
    name.parse().unwrap()
}

static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| Authority::create("losses").unwrap());

/// A node that listens, and connects to these ports. Where it listens comes with it.
pub async fn node(kind: Kind, connect: &[u16]) -> (Bus, u16) {
    let port = free_port();
    let name = id(&format!("{kind}-{port}"));
    let config = BusConfig::new(
        "losses",
        AUTHORITY.issue(kind, &name, CERTIFICATE_LIFETIME).unwrap(),
        vec![format!("tls/127.0.0.1:{port}")],
        connect
            .iter()
            .map(|port| format!("tls/127.0.0.1:{port}"))
            .collect(),
    );
    (Bus::open(&config).await.unwrap(), port)
}

/// A connection between two nodes that can be cut and mended.
pub struct Cable {
    /// Where it begins.
    pub port: u16,
    whole: watch::Sender<bool>,
    _task: AbortOnDropHandle<()>,
}

impl Cable {
    /// One that ends at this port.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let begins = listener.local_addr().unwrap().port();
        let (whole, state) = watch::channel(true);
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let mut state = state.clone();
                if *state.borrow() {
                    tokio::spawn(async move {
                        tokio::select! {
                            () = carry(near, port) => {}
                            _ = state.wait_for(|whole| !whole) => {}
                        }
                    });
                }
            }
        });
        Self {
            port: begins,
            whole,
            _task: AbortOnDropHandle::new(task),
        }
    }

    pub fn cut(&self) {
        self.whole.send_replace(false);
    }

    pub fn mend(&self) {
        self.whole.send_replace(true);
    }
}

async fn carry(mut near: TcpStream, port: u16) {
    let far = SocketAddr::from(([127, 0, 0, 1], port));
    if let Ok(mut far) = TcpStream::connect(far).await {
        // It ends when either side hangs up; how does not matter.
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    }
}

/// What a hand-led speaker has.
#[derive(Clone, Default)]
struct Has {
    incarnation: u64,
    number: u64,
    entries: Entries,
    /// Which piece of its next answer gets lost.
    lost_piece: Option<usize>,
}

/// A speaker of a topic that says what the test makes it say, and loses what it makes it lose.
pub struct Hand {
    bus: Bus,
    key: String,
    has: Arc<Mutex<Has>>,
    asked: Arc<AtomicUsize>,
    _answering: Answering,
    _alive: AliveToken,
}

impl Hand {
    pub async fn start(bus: &Bus, topics: &Topics, topic: &FeedTopic, name: &str) -> Self {
        let key = topic.of(&id(name));
        let has = Arc::new(Mutex::new(Has::default()));
        let asked = Arc::new(AtomicUsize::new(0));
        let (shared, count) = (Arc::clone(&has), Arc::clone(&asked));
        let answer = move |_question| {
            count.fetch_add(1, Ordering::SeqCst);
            let mut has = shared.lock().unwrap();
            let mut pieces = split(has.incarnation, has.number, has.entries.clone());
            if let Some(lost) = has.lost_piece.take() {
                pieces.remove(lost);
            }
            futures::future::ready(pieces).boxed()
        };
        let alive = topics.availability(topic.speaker(), &id(name));
        Self {
            bus: bus.clone(),
            _answering: bus.answer(&key, answer).await.unwrap(),
            _alive: bus.declare_alive(&alive).await.unwrap(),
            key,
            has,
            asked,
        }
    }

    /// Changes an entry without a word: the message about it gets lost.
    pub fn lose(&self, name: &str, value: Option<Value>) -> Vec<Change> {
        let mut has = self.has.lock().unwrap();
        has.number += 1;
        match &value {
            Some(value) => has.entries.insert(name.to_owned(), value.clone()),
            None => has.entries.remove(name),
        };
        vec![(name.to_owned(), value)]
    }

    /// Changes an entry and says so.
    pub async fn say(&self, name: &str, value: Option<Value>) {
        let changes = self.lose(name, value);
        self.tell(self.now(changes)).await;
    }

    /// Says where it is, as it does every two seconds.
    pub async fn heartbeat(&self) {
        self.tell(self.now(Vec::new())).await;
    }

    /// Says something that is not so, or no longer.
    pub async fn tell(&self, said: Changes) {
        let bytes = serde_json::to_vec(&said).unwrap();
        self.bus.publish(&self.key, bytes).await.unwrap();
    }

    /// Starts anew, with these entries.
    pub fn start_anew(&self, entries: Entries) {
        let mut has = self.has.lock().unwrap();
        has.incarnation += 1;
        has.number = 0;
        has.entries = entries;
    }

    /// Loses a piece of the next answer.
    pub fn lose_piece(&self, which: usize) {
        self.has.lock().unwrap().lost_piece = Some(which);
    }

    /// A message of this moment.
    pub fn now(&self, changes: Vec<Change>) -> Changes {
        let has = self.has.lock().unwrap();
        Changes {
            incarnation: has.incarnation,
            number: has.number,
            changes,
        }
    }

    pub fn entries(&self) -> Entries {
        self.has.lock().unwrap().entries.clone()
    }

    /// How often it was asked for a snapshot.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// The rows that authenticators share.
pub fn rows(topics: &Topics) -> FeedTopic {
    topics.rows(Kind::Auth)
}
