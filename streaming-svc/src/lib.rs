//! Streaming: shares the films in a machine's directories, and delivers them over RTSP.
//!
//! | part | what it is |
//! |---|---|
//! | [`library`] | which films there are: walk, hash, remember, watch |
//! | [`probe`] | what a file is, learned in a process of its own |
//! | [`delivery`] | the RTSP server, the only part that plays anything |
//! | [`streams`] | which streams were authorised, and until when |
//! | [`memory`] | what ended streams leave behind goes back to the system |

pub mod delivery;
pub mod facts;
pub mod library;
pub mod memory;
pub mod probe;
mod service;
pub mod streams;

use anyhow::Context;
use delivery::{Delivery, DeliveryConfig};
use iceflix_core::{
    api::{
        Kind, MediaId,
        streaming::{EndReason, Streaming, StreamingRequest},
    },
    bus::Bus,
    config::{Common, Key, ServiceConfig, Shape, key},
    feed::Speaker,
    rpc::serve,
    service::{Node, Running, Server},
    span::Span,
    topics::{Entries, MediaItem},
    trust::grant,
};
use library::{Film, Library, LibraryConfig, LibraryEvent};
use serde::{Deserialize, Deserializer, de::Error as _};
use service::StreamingService;
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};
use streams::Streams;
use tarpc::server::Channel;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// How many changes of the library go out in one announcement.
const BATCH: usize = 256;

/// How long a node looks through its directories before it announces itself all the same.
const FIRST_LOOK: Duration = Duration::from_secs(3);

/// A streaming node's configuration.
#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    /// What every service is told.
    #[serde(flatten)]
    pub common: Common,
    /// The directories with films.
    #[serde(default)]
    pub media: Vec<PathBuf>,
    /// Where players connect.
    #[serde(default = "any_port")]
    pub rtsp_listen: SocketAddr,
    /// For how long granted streams go on while no authenticator is alive: up to 7 days.
    #[serde(default = "grants_without_auth")]
    pub grants_without_auth: Span,
    /// How long a node that is told to stop lets its streams go on, for them to end or to be moved
    /// to another node: up to a day.
    #[serde(default = "drain_grace")]
    pub drain_grace: Span,
    /// How much memory films' packets may take, in MiB: they are made once for all who are at about the
    /// same place in a film. With 0 each player has the file read for itself.
    #[serde(default = "packet_memory", deserialize_with = "mebibytes")]
    pub packet_memory: u32,
}

fn packet_memory() -> u32 {
    256
}

/// A number of MiB: a file has it as a number, the environment and flags as a text.
fn mebibytes<'de, D: Deserializer<'de>>(given: D) -> Result<u32, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        Number(u32),
        Text(String),
    }
    let number = match Given::deserialize(given) {
        Ok(Given::Number(number)) => Some(number),
        Ok(Given::Text(text)) => text.parse().ok(),
        Err(_) => None,
    };
    number.ok_or_else(|| D::Error::custom("`packet_memory` is a whole number of MiB, such as 256"))
}

/// Clients take about a second to go on elsewhere (`tests/tests/moving.rs`); whoever stops a whole
/// cluster does not want to wait long.
fn drain_grace() -> Span {
    Span::from_secs(5)
}

/// The longest grace: streams that are not played live for as long as somebody renews them.
const LONGEST_GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// Long enough to restart the authenticators, too short to outlive that one was revoked meanwhile.
fn grants_without_auth() -> Span {
    Span::from_secs(10 * 60)
}

fn any_port() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

impl Default for Config {
    fn default() -> Self {
        Self {
            common: Common::default(),
            media: Vec::new(),
            rtsp_listen: any_port(),
            grants_without_auth: grants_without_auth(),
            drain_grace: drain_grace(),
            packet_memory: packet_memory(),
        }
    }
}

impl ServiceConfig for Config {
    const KIND: Kind = Kind::Streaming;
    const KEYS: &'static [Key] = &[
        key("media", Shape::List, "The directories with films"),
        key(
            "rtsp_listen",
            Shape::Text,
            "Where players connect: ADDRESS:PORT, port 0 for any",
        ),
        key(
            "grants_without_auth",
            Shape::Text,
            "How long granted streams go on while no authenticator is alive: 0s to 7d",
        ),
        key(
            "drain_grace",
            Shape::Text,
            "How long streams may go on when the node is told to stop: 0s to 1d",
        ),
        key(
            "packet_memory",
            Shape::Text,
            "How much memory films' packets may take, in MiB; with 0 each player has the file read for itself",
        ),
    ];

    fn common(&self) -> &Common {
        &self.common
    }

    fn check(&self) -> Result<(), String> {
        if self.grants_without_auth.as_duration() > grant::LONGEST {
            let longest = Span::from_secs(grant::LONGEST.as_secs());
            return Err(format!(
                "`grants_without_auth` = {} is longer than {longest}, which no grant lasts",
                self.grants_without_auth
            ));
        }
        if self.drain_grace.as_duration() > LONGEST_GRACE {
            return Err(format!(
                "`drain_grace` = {} is longer than a day",
                self.drain_grace
            ));
        }
        Ok(())
    }
}

/// A running streaming node.
pub struct StreamingServer {
    running: Running,
    library: Library,
    delivery: Delivery,
    streams: Streams,
    stop_library: CancellationToken,
    drain_grace: Duration,
    _speaker: Arc<Speaker>,
    _announcing: AbortOnDropHandle<()>,
}

/// The whole `main` of a streaming node: to be called first thing, and once.
pub fn run() -> ExitCode {
    memory::prepare();
    iceflix_core::service::run::<StreamingServer>()
}

impl StreamingServer {
    /// The films of this node.
    pub fn library(&self) -> &Library {
        &self.library
    }

    /// The RTSP server of this node.
    pub fn delivery(&self) -> &Delivery {
        &self.delivery
    }
}

impl Server for StreamingServer {
    type Config = Config;

    async fn bind(config: Config) -> anyhow::Result<Self> {
        let limits = LibraryConfig {
            media: config.media.clone(),
            state_dir: config.common.state_dir.clone(),
            ..LibraryConfig::default()
        };
        Self::bind_with(config, limits).await
    }

    fn address(&self) -> SocketAddr {
        self.running.address
    }

    async fn shutdown(self) {
        self.running.announcement().drain().await;
        self.streams.leave(self.drain_grace).await;
        self.streams.end_all(EndReason::Shutdown).await;
        let bus: Bus = self.running.drain().await;
        self.delivery.shutdown().await;
        self.stop_library.cancel();
        self.library.stopped().await;
        bus.close().await;
    }
}

impl StreamingServer {
    /// Starts a node whose library works in other ways than usual: with another program that looks
    /// at files, say.
    ///
    /// # Errors
    /// When an address is taken, or the state directory cannot be used.
    pub async fn bind_with(config: Config, limits: LibraryConfig) -> anyhow::Result<Self> {
        if let Err(error) = delivery::raise_nofile_limit() {
            tracing::warn!(%error, "the limit of open files could not be raised");
        }
        let node = Node::join(Kind::Streaming, &config.common).await?;
        let delivery = Delivery::start(DeliveryConfig {
            listen: config.rtsp_listen,
            packet_memory: usize::try_from(config.packet_memory)
                .unwrap_or(usize::MAX)
                .saturating_mul(1 << 20),
            ..DeliveryConfig::default()
        })?;
        tracing::info!(rtsp = %delivery.local_addr(), "players connect here");
        if config.media.is_empty() {
            tracing::warn!("no directory with films is configured (`media`)");
        }
        let stop_library = CancellationToken::new();
        let (library, events) = Library::start(limits, stop_library.clone())
            .await
            .context("the library")?;
        let topic = node.topics.media();
        let speaker = Speaker::start(&node.bus, &topic, &node.instance, Entries::new()).await?;
        let speaker = Arc::new(speaker);
        let unsupervised = config.grants_without_auth.as_duration();
        let drain_grace = config.drain_grace.as_duration();
        let (verifier, audit) = (node.verifier.clone(), node.audit.clone());
        let streams = Streams::new(delivery.clone(), verifier, audit, unsupervised);
        let announcing = tokio::spawn(announce(events, Arc::clone(&speaker), streams.clone()));
        let service = StreamingService::new(
            &node,
            library.clone(),
            delivery.clone(),
            streams.clone(),
            Arc::clone(&speaker),
        );
        // Whoever sees this node finds its films; a large library's come as they are hashed.
        let _ = tokio::time::timeout(FIRST_LOOK, library.scanned()).await;
        let running = node
            .serve(
                || StreamingRequest::IsAvailable {
                    id: MediaId::from_bytes([0; 32]),
                },
                move |peer, link| serve::channel(link).execute(service.facing(peer).serve()),
            )
            .await
            .context("announcing")?;
        Ok(Self {
            running,
            library,
            delivery,
            streams,
            stop_library,
            drain_grace,
            _speaker: speaker,
            _announcing: AbortOnDropHandle::new(announcing),
        })
    }
}

/// A film as it is announced.
fn item(film: &Film) -> MediaItem {
    MediaItem {
        id: film.id,
        name: film.name.clone(),
        size: film.size,
        // Nanoseconds of a film fit a double to the microsecond.
        #[allow(clippy::cast_precision_loss, reason = "see above")]
        duration_s: film.facts.duration_ns.map(|ns| ns as f64 / 1e9),
        format: film.facts.format.clone(),
        unplayable: film.facts.unplayable.clone(),
    }
}

/// Tells everyone what the library finds and loses.
async fn announce(
    mut events: mpsc::Receiver<LibraryEvent>,
    speaker: Arc<Speaker>,
    streams: Streams,
) {
    let mut batch = Vec::new();
    while events.recv_many(&mut batch, BATCH).await > 0 {
        let mut changes = Vec::new();
        for event in batch.drain(..) {
            match event {
                LibraryEvent::Added(film) | LibraryEvent::Changed(film) => {
                    // Texts and numbers: JSON holds them all.
                    let value = serde_json::to_value(item(&film)).ok();
                    changes.push((film.id.to_string(), value));
                }
                LibraryEvent::Removed(id) => {
                    changes.push((id.to_string(), None));
                    streams.end_film(&id).await;
                }
            }
        }
        speaker.change(changes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_a_number_wherever_it_is_given() {
        let of = |json: &str| serde_json::from_str::<Config>(json);
        for (given, memory) in [
            ("{}", 256),
            (r#"{"packet_memory": 0}"#, 0),
            (r#"{"packet_memory": "64"}"#, 64),
        ] {
            assert_eq!(of(given).unwrap().packet_memory, memory, "{given}");
        }
        for given in ["-1", "\"256MiB\"", "\"\"", "1.5", "[]"] {
            let error = of(&format!(r#"{{"packet_memory": {given}}}"#)).unwrap_err();
            assert!(error.to_string().contains("whole number of MiB"), "{error}");
        }
    }
}
