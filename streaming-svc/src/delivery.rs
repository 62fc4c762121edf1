//! Delivery: the RTSP server of a streaming node.
//!
//! Each authorised stream is a mount point of its own, named by its id. Every RTSP session that a
//! player sets up on it gets its own media, that is its own pipeline, built from what the probe
//! learned of the film. Removing a stream ends its sessions and closes their connections.
//!
//! | part | what it is |
//! |---|---|
//! | `lobby` | accepting; connections wait there until their first request has come |
//! | `usher` | hands them to the server, and closes those that say too much or want nothing |
//! | `engine` | the server's thread, ending streams, the sweep of silent sessions |
//! | `player` | one connection: answers, and which streams it has to do with |
//! | `access` | who may fetch which stream |
//! | `film` | a film's media factory and its pipeline |
//! | `packets` | a film's packets, made once for all who watch it |
//! | `pipeline` | the elements that make packets of a file |
//! | `seek_guard` | what keeps the server well when players seek |
//! | `elements` | the GStreamer elements needed, and their packages |
//! | `sdp` | asking for a stream's description |

mod access;
mod elements;
mod engine;
mod film;
mod lobby;
mod packets;
mod pipeline;
mod player;
mod request;
mod sdp;
mod seek_guard;
mod sessions;
mod usher;

pub use access::Access;
pub use elements::{MissingElement, missing_elements};
pub use film::FilmSource;
pub use iceflix_core::limits::raise_nofile_limit;
pub use request::{FirstRequest, LONGEST_HEAD, first_request};
pub use sdp::DescribeError;

use engine::Engine;
use iceflix_core::api::StreamId;
use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

/// How a [`Delivery`] is run.
#[derive(Debug, Clone)]
pub struct DeliveryConfig {
    /// The address to listen on. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// How long an RTSP session may be silent before it is ended, at least one second. Players keep
    /// alive at half of it; VLC every 60 seconds at the latest, so it should be well above that.
    pub session_timeout: Duration,
    /// Threads that handle requests. `None` gives each connection its own, so that one whose film's
    /// disk is slow keeps nobody waiting.
    pub client_threads: Option<u16>,
    /// Connections that may wait to be accepted.
    pub backlog: u16,
    /// The most connections, and the most sessions, at a time. `None` takes as many as the
    /// process's file descriptors suffice for (see [`raise_nofile_limit`]).
    pub max_connections: Option<usize>,
    /// How much memory films' packets may take, in bytes: they are made once for all who are at about
    /// the same place in a film, and kept for others while there is room. With 0 each player has the
    /// file read for itself.
    pub packet_memory: usize,
}

impl Default for DeliveryConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            session_timeout: Duration::from_secs(90),
            client_threads: None,
            backlog: 4096,
            max_connections: None,
            packet_memory: 256 << 20,
        }
    }
}

/// What can go wrong with delivery.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// GStreamer itself does not start.
    #[error("GStreamer does not start")]
    Init(#[source] gst::glib::Error),
    /// The address cannot be listened on.
    #[error("cannot listen for players on {address}: {source}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// Why not: most often another process has the port.
        source: io::Error,
    },
    /// The listening socket could not be set up.
    #[error("the RTSP socket cannot be set up")]
    Socket(#[source] io::Error),
    /// The server's thread could not be started.
    #[error("the RTSP thread cannot be started")]
    Thread(#[source] io::Error),
    /// Elements that the film needs are not installed.
    #[error("GStreamer lacks {}; install the packages named", list(.0))]
    MissingElements(Vec<MissingElement>),
    /// The film has nothing that can be delivered.
    #[error("the film cannot be delivered: {0}")]
    Unplayable(String),
    /// No such stream is mounted.
    #[error("there is no such stream")]
    UnknownStream,
    /// The description could not be had.
    #[error("the stream could not be described")]
    Describe(#[from] DescribeError),
}

fn list(missing: &[MissingElement]) -> String {
    let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
    names.join(", ")
}

/// The RTSP server. Clones are handles to the same one.
#[derive(Clone)]
pub struct Delivery {
    engine: Arc<Engine>,
}

impl Delivery {
    /// Binds and starts. Players can connect when this returns, after a few milliseconds.
    ///
    /// # Errors
    /// When GStreamer does not start, or the address cannot be listened on.
    pub fn start(config: DeliveryConfig) -> Result<Self, DeliveryError> {
        gst::init().map_err(DeliveryError::Init)?;
        let missing = missing_elements();
        if !missing.is_empty() {
            // Films that do not need them can still be delivered.
            tracing::error!(elements = %list(&missing), "GStreamer elements are not installed");
        }
        let engine = Arc::new(Engine::start(&config)?);
        Ok(Self { engine })
    }

    /// Where it listens, with the port that was taken.
    pub fn local_addr(&self) -> SocketAddr {
        self.engine.local_addr()
    }

    /// Mounts a film under the stream's id, for those who have access; whoever else asks is told that
    /// there is no such stream. Mounting an id again changes what new sessions get.
    ///
    /// # Errors
    /// When the film cannot be delivered, or elements it needs are not installed.
    pub fn add_stream(
        &self,
        stream: StreamId,
        film: FilmSource,
        access: Access,
    ) -> Result<(), DeliveryError> {
        if let Some(reason) = &film.facts.unplayable {
            return Err(DeliveryError::Unplayable(reason.clone()));
        }
        if film.facts.container.is_none() || film.facts.tracks.is_empty() {
            let reason = "it has no track that can be delivered".to_owned();
            return Err(DeliveryError::Unplayable(reason));
        }
        let missing = elements::missing_for(&film.facts);
        if !missing.is_empty() {
            return Err(DeliveryError::MissingElements(missing));
        }
        self.engine.mount(stream, film, access);
        Ok(())
    }

    /// Ends the stream: its URL is dead, its packets stop, its sessions are gone and their
    /// connections closed when this returns. A connection that also has to do with another stream
    /// stays. Ending an unknown stream is no error.
    pub async fn remove_stream(&self, stream: &StreamId) {
        self.engine.unmount(*stream).await;
    }

    /// How many RTSP sessions are using the stream now.
    pub fn players(&self, stream: &StreamId) -> u32 {
        self.engine.players(stream)
    }

    /// Where in the film the stream's player is; of several the one that is furthest. `None` while
    /// nobody plays it.
    pub fn position(&self, stream: &StreamId) -> Option<Duration> {
        self.engine.position(stream).map(Duration::from)
    }

    /// The stream's URL for whoever reaches this node by the address `host`.
    pub fn url(&self, stream: &StreamId, host: IpAddr) -> String {
        let authority = SocketAddr::new(host.to_canonical(), self.local_addr().port());
        format!("rtsp://{authority}/{stream}")
    }

    /// The stream's session description, as a player gets it, but naming the address `client` to
    /// which the media go, and the address `host` by which it reaches this node.
    ///
    /// # Errors
    /// When there is no such stream, or its file cannot be read any more.
    pub async fn sdp(
        &self,
        stream: &StreamId,
        host: IpAddr,
        client: IpAddr,
    ) -> Result<String, DeliveryError> {
        let film = self.engine.film(stream);
        let film = film.ok_or(DeliveryError::UnknownStream)?;
        let bound = self.local_addr();
        let reachable = if bound.ip().is_unspecified() {
            let loopback = match bound.ip() {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
            };
            vec![
                SocketAddr::new(host, bound.port()),
                SocketAddr::new(loopback, bound.port()),
            ]
        } else {
            vec![bound]
        };
        match self.describe_once(film, host, reachable).await {
            Ok(text) => Ok(sdp::between(
                &text,
                host.to_canonical(),
                client.to_canonical(),
            )),
            // It was ended in between.
            Err(DescribeError::Refused(404)) if self.engine.film(stream).is_none() => {
                Err(DeliveryError::UnknownStream)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Asks the own server to describe a film. The stream may be another address's, so it is asked
    /// for under an id that is good for this once, and that nobody else knows.
    async fn describe_once(
        &self,
        film: FilmSource,
        host: IpAddr,
        reachable: Vec<SocketAddr>,
    ) -> Result<String, DescribeError> {
        let once = StreamId::random();
        let url = self.url(&once, host);
        let engine = Arc::clone(&self.engine);
        // In a task of its own: a caller who loses patience shall not leave it mounted.
        let described = tokio::spawn(async move {
            engine.mount(once, film, Access::Anyone);
            let described = sdp::describe(&reachable, &url).await;
            engine.unmount(once).await;
            described
        });
        described
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error).into()))
    }

    /// Ends all streams and connections, and the server's thread. Safe to call twice.
    pub async fn shutdown(&self) {
        self.engine.stop().await;
    }
}
