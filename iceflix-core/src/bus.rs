//! The bus: publish/subscribe, questions to many, and who is alive, over zenoh.
//!
//! This is the only file that touches zenoh. The rest of IceFlix sees plain keys and bytes.
//!
//! zenoh's pub/sub may drop messages and late joiners miss the past; nothing here hides that.
//! [`crate::feed`] builds on these parts what a topic needs to be right all the same.

use futures::future::BoxFuture;
use sha2::{Digest, Sha256};
use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};
use tokio::sync::mpsc;
use zenoh::{
    Config, Session,
    liveliness::LivelinessToken,
    pubsub::Subscriber,
    qos::CongestionControl,
    query::{ConsolidationMode, QueryTarget, Queryable},
    sample::SampleKind,
};

/// How long a silent link counts as alive, in milliseconds. Measured: a hang is noticed after
/// 0.8 s, a pulled cable after 1.0 s, and 32 busy loops on 2 cores raised no false alarm.
const LEASE_MS: u64 = 1000;

/// How many unread messages a subscription holds before it drops: a gap is noticed by its
/// numbers and mended with a snapshot.
const BACKLOG: usize = 16_384;

/// The largest question or message taken from the bus, in bytes. A snapshot comes in pieces of at
/// most 256 KiB, so anything larger is not ours.
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
    /// Where other nodes reach this one: `tcp/ADDRESS:PORT`, port 0 for any.
    pub listen: Vec<String>,
    /// Nodes to connect to besides those that are found.
    pub connect: Vec<String>,
    /// Whether nodes are found by multicast.
    pub scouting: bool,
    /// The network interface for multicast, or `auto`.
    pub interface: String,
}

/// A node's place on the bus. Cheap to clone.
#[derive(Clone)]
pub struct Bus {
    session: Session,
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
    _subscriber: Subscriber<()>,
}

impl<T> Subscription<T> {
    /// The next one; `None` when the bus was closed.
    pub async fn next(&mut self) -> Option<T> {
        self.receiver.recv().await
    }
}

/// Declares this node alive, until it is dropped or the node dies.
pub struct AliveToken(LivelinessToken);

impl AliveToken {
    /// Says goodbye now; the others hear it at once.
    pub async fn withdraw(self) {
        if let Err(error) = self.0.undeclare().await {
            tracing::debug!(%error, "withdrawing from a bus that is closed already");
        }
    }
}

/// Answers questions, until it is dropped.
pub struct Answering {
    _queryable: Queryable<()>,
}

impl Bus {
    /// Joins the bus. Returns once the node listens; others are found from then on.
    ///
    /// # Errors
    /// When a setting is not usable or an address to listen on is taken.
    pub async fn open(config: &BusConfig) -> Result<Self, BusError> {
        let session = zenoh::open(zenoh_config(config)?)
            .await
            .map_err(|error| BusError::Open {
                listen: config.listen.clone(),
                reason: error.to_string(),
            })?;
        Ok(Self { session })
    }

    /// Leaves the bus.
    pub async fn close(&self) {
        if let Err(error) = self.session.close().await {
            tracing::debug!(%error, "closing the bus");
        }
    }

    /// Publishes a message to all that subscribe to its key now.
    ///
    /// # Errors
    /// When the session is closed or the key is not one.
    pub async fn publish(&self, key: &str, payload: Vec<u8>) -> Result<(), BusError> {
        self.session
            .put(key, payload)
            .congestion_control(CongestionControl::Block)
            .await
            .map_err(operation("publish", key))
    }

    /// Hears the messages published on keys that match `key` (zenoh key expression) from now on.
    ///
    /// # Errors
    /// When the session is closed or the key is not one.
    pub async fn subscribe(&self, key: &str) -> Result<Subscription<Message>, BusError> {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let subscriber = self
            .session
            .declare_subscriber(key)
            .callback(move |sample| {
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
            })
            .await
            .map_err(operation("subscribe to", key))?;
        Ok(Subscription {
            receiver,
            _subscriber: subscriber,
        })
    }

    /// Declares `key` alive.
    ///
    /// # Errors
    /// When the session is closed or the key is not one.
    pub async fn declare_alive(&self, key: &str) -> Result<AliveToken, BusError> {
        let token = self.session.liveliness().declare_token(key).await;
        token
            .map(AliveToken)
            .map_err(operation("declare alive", key))
    }

    /// Hears which keys matching `key` are alive: those that are already, then every change.
    ///
    /// # Errors
    /// When the session is closed or the key is not one.
    pub async fn watch_alive(&self, key: &str) -> Result<Subscription<Alive>, BusError> {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let subscriber = self
            .session
            .liveliness()
            .declare_subscriber(key)
            .history(true)
            .callback(move |sample| {
                let alive = Alive {
                    key: sample.key_expr().to_string(),
                    alive: sample.kind() == SampleKind::Put,
                };
                if sender.try_send(alive).is_err() {
                    tracing::error!("a coming or going was dropped: its reader hangs");
                }
            })
            .await
            .map_err(operation("watch", key))?;
        Ok(Subscription {
            receiver,
            _subscriber: subscriber,
        })
    }

    /// Answers questions on `key` with the pieces that `answer` makes of a question's payload.
    /// Questions are answered side by side, never on zenoh's own threads.
    ///
    /// # Errors
    /// When the session is closed or the key is not one.
    pub async fn answer<F>(&self, key: &str, answer: F) -> Result<Answering, BusError>
    where
        F: Fn(Vec<u8>) -> BoxFuture<'static, Vec<Vec<u8>>> + Send + Sync + 'static,
    {
        let runtime = tokio::runtime::Handle::current();
        let answer = Arc::new(answer);
        let own_key = key.to_owned();
        let queryable = self
            .session
            .declare_queryable(key)
            .callback(move |query| {
                let question = query
                    .payload()
                    .map(|bytes| bytes.to_bytes().into_owned())
                    .unwrap_or_default();
                if question.len() > MAX_MESSAGE {
                    return;
                }
                let answer = Arc::clone(&answer);
                let key = own_key.clone();
                runtime.spawn(async move {
                    for piece in answer(question).await {
                        if let Err(error) = query.reply(&key, piece).await {
                            tracing::debug!(%key, %error, "an answer could not be sent");
                            return;
                        }
                    }
                });
            })
            .await
            .map_err(operation("answer on", key))?;
        Ok(Answering {
            _queryable: queryable,
        })
    }

    /// Asks everyone who answers on a key matching `key`, and collects what they say, until all
    /// have answered or `timeout` is over. Pieces of one answer keep their order.
    ///
    /// # Errors
    /// When the session is closed or the key is not one. Nobody answering is an empty list.
    pub async fn ask(
        &self,
        key: &str,
        question: Vec<u8>,
        timeout: Duration,
    ) -> Result<Vec<Message>, BusError> {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        self.session
            .get(key)
            .payload(question)
            .target(QueryTarget::All)
            .consolidation(ConsolidationMode::None)
            .timeout(timeout)
            // Answers travel with the question's own setting: a large one waits, none is dropped.
            .congestion_control(CongestionControl::Block)
            .callback(move |reply| {
                if let Ok(sample) = reply.result() {
                    // The receiver is gone only when the asker gave up.
                    let _ = sender.send(Message {
                        key: sample.key_expr().to_string(),
                        payload: sample.payload().to_bytes().into_owned(),
                    });
                }
            })
            .await
            .map_err(operation("ask on", key))?;
        let mut answers = Vec::new();
        // zenoh drops the callback, and with it the sender, when all have answered or time is up.
        while let Some(answer) = receiver.recv().await {
            answers.push(answer);
        }
        Ok(answers)
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

/// The multicast group in which a cluster's nodes find each other: one of the 65,536 of
/// 239.255.0.0/16 (local scope, RFC 2365) by the cluster's name, so that clusters that share a
/// network do not connect to one another.
fn multicast_group(cluster: &str) -> SocketAddrV4 {
    let hash = Sha256::digest(cluster.as_bytes());
    SocketAddrV4::new(Ipv4Addr::new(239, 255, hash[0], hash[1]), 7446)
}

fn zenoh_config(config: &BusConfig) -> Result<Config, BusError> {
    let mut zenoh = Config::default();
    let mut set = |key: &'static str, value: serde_json::Value| {
        let value = value.to_string();
        zenoh
            .insert_json5(key, &value)
            .map_err(|error| BusError::Setting {
                key,
                value,
                reason: error.to_string(),
            })
    };
    set("mode", "peer".into())?;
    set("listen/endpoints", config.listen.clone().into())?;
    set("listen/exit_on_failure", true.into())?;
    set("connect/endpoints", config.connect.clone().into())?;
    set("connect/exit_on_failure", false.into())?;
    // Never given up: a neighbour that starts later is met then.
    set("connect/timeout_ms", (-1).into())?;
    // One that is just starting is found soon, one that is gone costs little.
    set(
        "connect/retry",
        serde_json::json!({
            "period_init_ms": 100,
            "period_max_ms": 2000,
            "period_increase_factor": 1.5,
        }),
    )?;
    set("scouting/multicast/enabled", config.scouting.into())?;
    set(
        "scouting/multicast/interface",
        config.interface.clone().into(),
    )?;
    set(
        "scouting/multicast/address",
        multicast_group(&config.cluster).to_string().into(),
    )?;
    set("scouting/delay", 200.into())?;
    set("transport/link/tx/lease", LEASE_MS.into())?;
    Ok(zenoh)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alone() -> BusConfig {
        BusConfig {
            cluster: "test".into(),
            listen: vec!["tcp/127.0.0.1:0".into()],
            connect: vec![],
            scouting: false,
            interface: "auto".into(),
        }
    }

    #[test]
    fn clusters_use_groups_of_their_own() {
        assert_eq!(multicast_group("a"), multicast_group("a"));
        assert_ne!(multicast_group("a"), multicast_group("b"));
        assert!(multicast_group("a").ip().is_multicast());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nonsense_settings_are_refused_with_a_reason() {
        let mut config = alone();
        config.listen = vec!["nonsense".into()];
        let Err(error) = Bus::open(&config).await else {
            panic!("nonsense was taken as an address");
        };
        assert!(error.to_string().contains("nonsense"), "{error}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_port_in_use_is_named() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("tcp/{}", taken.local_addr().unwrap());
        let mut config = alone();
        config.listen = vec![address.clone()];
        let Err(error) = Bus::open(&config).await else {
            panic!("a port in use was taken");
        };
        assert!(error.to_string().contains(&address), "{error}");
    }
}
