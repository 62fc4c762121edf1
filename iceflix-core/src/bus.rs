//! The bus: publish/subscribe, questions to many, and who is alive, over zenoh.
//!
//! This is the only module that touches zenoh. The rest of IceFlix sees plain keys and bytes. Every
//! link is TLS with certificates at both ends, and each node holds the others to what their role
//! may say and hear (`bus/access.rs`).
//!
//! zenoh's pub/sub may drop messages and late joiners miss the past; nothing here hides that.
//! [`crate::feed`] builds on these parts what a topic needs to be right all the same.

mod access;
mod aside;
mod declared;
mod moving;
mod questions;
mod seen;
mod settings;
mod size;

pub use questions::{Answer, Answering};
pub use size::{BATCH, Size};

use crate::trust::Credential;
use aside::Aside;
use declared::{Declared, Seen, What};
use seen::SeenBy;
use settings::Place;
use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::mpsc;
use zenoh::{
    Session, Wait,
    sample::{Sample, SampleKind},
    session::ZenohId,
};

/// How many unread messages a subscription holds before it drops: a gap is noticed by its
/// numbers and mended with a snapshot.
const BACKLOG: usize = 16_384;

/// How long a neighbour's link may take nothing of what is large. Meanwhile it may be that nobody is
/// sent anything (see `bus/aside.rs`), so it is less than the lease of a second by two signs of life, of
/// which there are four in that time. What is small goes first: a link on which 0.5 MiB of it may wait
/// needs 9 Mbit/s.
const LINK_PATIENCE: Duration = Duration::from_millis(500);

/// The largest question or message taken from the bus, in bytes: whoever of ours has more to say says
/// it in pieces.
const MAX_MESSAGE: usize = 4 << 20;

/// What went wrong on the bus.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The session could not be opened; most often a `bus_listen` address that is in use.
    #[error("the bus could not be opened (bus_listen {listen:?}): {reason}")]
    Open {
        /// The addresses it was to listen on.
        listen: Vec<String>,
        /// What zenoh said.
        reason: String,
    },
    /// A setting that zenoh does not take.
    #[error("bus setting {key} = {value} is not usable: {reason}")]
    Setting {
        /// The setting in zenoh's terms.
        key: &'static str,
        /// The value.
        value: String,
        /// What zenoh said.
        reason: String,
    },
    /// An operation on an open session failed.
    #[error("bus: {operation} {key}: {reason}")]
    Operation {
        /// What was being done.
        operation: &'static str,
        /// On which key.
        key: String,
        /// What zenoh said.
        reason: String,
    },
}

/// How a node joins the bus.
#[derive(Debug, Clone)]
pub struct BusConfig {
    /// The cluster: nodes of different clusters use different multicast groups and keys.
    pub cluster: String,
    /// What makes it one of the cluster's. Its role says what the others let it say and hear.
    pub credential: Credential,
    /// Where other nodes reach this one: `tls/ADDRESS:PORT`, port 0 for any.
    pub listen: Vec<String>,
    /// Nodes to connect to besides those that are found.
    pub connect: Vec<String>,
    /// Whether nodes are found by multicast.
    pub scouting: bool,
    /// The network interface for multicast, or `auto`.
    pub interface: String,
    /// How long a neighbour's link may take nothing of what is [large](Size::Large) before it is given
    /// up and made anew; usually 500 ms.
    pub link_patience: Duration,
}

impl BusConfig {
    /// A node that listens there, and at first knows only those it is told to connect to: nobody is
    /// looked for by multicast.
    pub fn new(
        cluster: &str,
        credential: Credential,
        listen: Vec<String>,
        connect: Vec<String>,
    ) -> Self {
        Self {
            cluster: cluster.to_owned(),
            credential,
            listen,
            connect,
            scouting: false,
            interface: "auto".to_owned(),
            link_patience: LINK_PATIENCE,
        }
    }
}

/// How many ports are tried where any will do.
const PORTS: u32 = 8;

/// A node's place on the bus. Cheap to clone.
#[derive(Clone)]
pub struct Bus {
    inner: Arc<Inner>,
}

struct Inner {
    config: BusConfig,
    present: RwLock<Present>,
    declared: Mutex<Vec<Weak<Declared>>>,
    /// Held while one session takes another's place.
    renewing: tokio::sync::Mutex<()>,
    left: AtomicBool,
    aside: Aside,
}

impl Inner {
    fn declared(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Declared>>> {
        // A list of handles: a panic elsewhere cannot have left it unusable.
        self.declared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all_declared(&self) -> Vec<Arc<Declared>> {
        let mut all = self.declared();
        all.retain(|declared| declared.strong_count() > 0);
        all.iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether this node declares a key alive.
    fn is_alive(&self, key: &str) -> bool {
        let mut all = self.all_declared().into_iter();
        all.any(|declared| declared.is_alive(key))
    }
}

impl Drop for Inner {
    /// A bus that was not closed is closed now, where zenoh can: it cannot on a runtime of a single
    /// thread, on which the last handle may be.
    fn drop(&mut self) {
        let present = self
            .present
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let session = present.session.clone();
        self.aside.runtime.spawn(close(session));
    }
}

#[derive(Clone)]
struct Present {
    session: Session,
    place: Place,
}

/// A message from the bus.
#[derive(Debug, Clone)]
pub struct Message {
    /// The key it was published on, or answered with.
    pub key: String,
    /// What it says.
    pub payload: Vec<u8>,
}

/// An instance came or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alive {
    /// The key that it declared.
    pub key: String,
    /// It is alive, or no longer.
    pub alive: bool,
}

/// Messages of one subscription, until it is dropped.
pub struct Subscription<T> {
    receiver: mpsc::Receiver<T>,
    _declared: Arc<Declared>,
}

impl<T> Subscription<T> {
    /// The next one; `None` when the bus was closed.
    pub async fn next(&mut self) -> Option<T> {
        self.receiver.recv().await
    }
}

/// Declares this node alive, until it is dropped or the node dies.
pub struct AliveToken(Arc<Declared>);

impl AliveToken {
    /// Says goodbye now; the others hear it at once.
    pub async fn withdraw(self) {
        self.0.end().await;
    }
}

impl Bus {
    /// Joins the bus. Returns once the node listens; others are found from then on.
    ///
    /// # Errors
    /// When a setting is not usable or an address to listen on is taken.
    pub async fn open(config: &BusConfig) -> Result<Self, BusError> {
        let present = open_at(config, Place::first, &[]).await?;
        Ok(Self {
            inner: Arc::new(Inner {
                config: config.clone(),
                present: RwLock::new(present),
                declared: Mutex::default(),
                renewing: tokio::sync::Mutex::default(),
                left: AtomicBool::new(false),
                aside: Aside::here(),
            }),
        })
    }

    /// Leaves the bus.
    pub async fn close(&self) {
        let _renewing = self.inner.renewing.lock().await;
        self.inner.left.store(true, Ordering::Release);
        for declared in self.inner.all_declared() {
            declared.end().await;
        }
        close(self.present().session).await;
    }

    /// Ends the session behind the back of all who use it.
    #[cfg(test)]
    pub(crate) async fn break_off(&self) {
        close(self.session()).await;
    }

    /// Takes back all subscriptions behind the back of those who wait for what they bring.
    #[cfg(test)]
    pub(crate) fn deafen(&self) {
        for declared in self.inner.all_declared() {
            declared.deafen();
        }
    }

    /// The same for those who watch who comes and goes.
    #[cfg(test)]
    pub(crate) fn blind(&self) {
        for declared in self.inner.all_declared() {
            declared.blind();
        }
    }

    /// Where other nodes reach this one now: `tls/ADDRESS:PORT`.
    pub fn listens_at(&self) -> Vec<String> {
        self.present().place.endpoints().to_vec()
    }

    /// Whether it was left.
    pub fn is_closed(&self) -> bool {
        self.inner.left.load(Ordering::Acquire)
    }

    /// Whether the session ended though the bus was not left: nothing is said or heard until it is
    /// [renewed](Self::renew).
    pub fn is_broken(&self) -> bool {
        !self.is_closed() && self.session().is_closed()
    }

    fn present(&self) -> Present {
        self.inner
            .present
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn session(&self) -> Session {
        self.present().session
    }

    async fn declare(&self, what: What) -> Result<Arc<Declared>, BusError> {
        let declared = Arc::new(Declared::new(what, self.inner.aside.clone()));
        // Known first: should a renewal come in between, it declares this one, too.
        self.inner.declared().push(Arc::downgrade(&declared));
        declared.also_on(&self.session()).await?;
        Ok(declared)
    }

    /// Publishes a message to all that subscribe to its key now. One of more than a [batch](BATCH) is
    /// [large](Size::Large), any other [small](Size::Small). Begun is begun: it is published also when
    /// this is not waited for.
    ///
    /// # Errors
    /// When the session is closed or the key is not one.
    pub async fn publish(&self, key: &str, payload: Vec<u8>) -> Result<(), BusError> {
        let (session, own_key) = (self.session(), key.to_owned());
        let size = Size::of(payload.len());
        let put = move || {
            session
                .put(own_key, payload)
                .congestion_control(size.congestion_control())
                .priority(size.priority())
                .wait()
        };
        let sent = self.inner.aside.send(size, put);
        sent.await.map_err(operation("publish", key))
    }

    /// Hears the messages published on keys that match `key` (zenoh key expression) from now on.
    /// While this node or a speaker renews its certificate a message may come twice.
    ///
    /// # Errors
    /// When the session is closed or the key is not one.
    pub async fn subscribe(&self, key: &str) -> Result<Subscription<Message>, BusError> {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let heard = move |sample: Sample| {
            if sample.payload().len() > MAX_MESSAGE {
                tracing::warn!(key = %sample.key_expr(), "a message over the size limit was ignored");
                return;
            }
            let message = Message {
                key: sample.key_expr().to_string(),
                payload: sample.payload().to_bytes().into_owned(),
            };
            if sender.try_send(message).is_err() {
                tracing::debug!("a message was dropped: its reader is behind");
            }
        };
        let what = What::Subscriber(key.to_owned(), Arc::new(heard));
        Ok(Subscription {
            receiver,
            _declared: self.declare(what).await?,
        })
    }

    /// Declares `key` alive.
    ///
    /// # Errors
    /// When the session is closed or the key is not one.
    pub async fn declare_alive(&self, key: &str) -> Result<AliveToken, BusError> {
        self.declare(What::Token(key.to_owned()))
            .await
            .map(AliveToken)
    }

    /// Hears which keys matching `key` are alive: those that are already, then every change.
    ///
    /// # Errors
    /// When the session is closed or the key is not one.
    pub async fn watch_alive(&self, key: &str) -> Result<Subscription<Alive>, BusError> {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let seen = Mutex::new(SeenBy::default());
        let this = Arc::downgrade(&self.inner);
        let heard = move |session: ZenohId, what: Seen| {
            let news = {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                match what {
                    Seen::Sample(sample) => {
                        let key = sample.key_expr().to_string();
                        let alive = sample.kind() == SampleKind::Put;
                        // When the last other session that declared a key leaves, zenoh tells this
                        // one that nobody declares it, though it does so itself.
                        if !alive && this.upgrade().is_some_and(|this| this.is_alive(&key)) {
                            return;
                        }
                        seen.sample(session, key, alive)
                    }
                    Seen::Nothing => seen.nothing(session),
                }
            };
            for alive in news {
                // One that is closed is being dropped.
                if let Err(mpsc::error::TrySendError::Full(_)) = sender.try_send(alive) {
                    tracing::error!("a coming or going was dropped: its reader hangs");
                }
            }
        };
        let what = What::Watcher(key.to_owned(), Arc::new(heard));
        Ok(Subscription {
            receiver,
            _declared: self.declare(what).await?,
        })
    }
}

fn operation(
    operation: &'static str,
    key: &str,
) -> impl FnOnce(Box<dyn std::error::Error + Send + Sync>) -> BusError {
    let key = key.to_owned();
    move |error| BusError::Operation {
        operation,
        key,
        reason: error.to_string(),
    }
}

/// Opens a session at a place that is chosen for it. Where a port was open to choice, somebody else
/// may have taken it before the session has: then another one is chosen.
async fn open_at(
    config: &BusConfig,
    place: fn(&BusConfig) -> Result<Place, BusError>,
    also: &[String],
) -> Result<Present, BusError> {
    let mut tries = PORTS;
    loop {
        let place = place(config)?;
        tries -= 1;
        let again = tries > 0 && place.is_chosen();
        match open(config, place, also).await {
            Err(BusError::Open { listen, reason }) if again => {
                tracing::debug!(?listen, reason, "trying other ports");
            }
            opened => return opened,
        }
    }
}

async fn open(config: &BusConfig, place: Place, also: &[String]) -> Result<Present, BusError> {
    let settings = settings::zenoh(config, &place, also)?;
    let session = zenoh::open(settings)
        .await
        .map_err(|error| BusError::Open {
            listen: place.endpoints().to_vec(),
            reason: error.to_string(),
        })?;
    Ok(Present { session, place })
}

async fn close(session: Session) {
    if let Err(error) = session.close().await {
        tracing::debug!(%error, "closing the bus");
    }
}

#[cfg(test)]
mod tests;
