//! The RTSP server on a thread of its own: ending streams, and the sweep of silent sessions.

use super::{
    Access, DeliveryConfig, DeliveryError,
    access::Doors,
    film::{FilmFactory, FilmSource},
    lobby::{self, Lobby},
    packets::Store,
    player::{Limits, PlayerClient, PlayerServer, mount_path, session_plays},
    sessions::{self, Sessions},
    usher::Usher,
};
use crate::memory;
use gst::glib;
use gst_rtsp_server::{RTSPMountPoints, RTSPThreadPool, prelude::*};
use iceflix_core::api::StreamId;
use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// How often silent sessions are looked for.
const SWEEP: Duration = Duration::from_secs(5);
/// How long a connection's thread may take to end a stream. The stream's packets have stopped
/// before; a thread takes longer only while a disk does not answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// The largest body of a request, in bytes.
const REQUEST_BODY: u32 = 64 << 10;
/// File descriptors that one UDP session can need: 29 were counted.
const DESCRIPTORS_PER_SESSION: u64 = 32;

/// The running server.
pub(super) struct Engine {
    local_addr: SocketAddr,
    server: PlayerServer,
    mounts: RTSPMountPoints,
    sessions: Sessions,
    /// Accepting, which holds the listening socket.
    lobby: Lobby,
    /// Sweeping, and looking at connections.
    sources: Mutex<Vec<glib::Source>>,
    main_loop: glib::MainLoop,
    thread: Mutex<Option<JoinHandle<()>>>,
    streams: Arc<Mutex<HashMap<StreamId, FilmFactory>>>,
    store: Option<Arc<Store>>,
    doors: Doors,
}

impl Engine {
    /// Binds and starts; players can connect when this returns.
    pub(super) fn start(config: &DeliveryConfig) -> Result<Self, DeliveryError> {
        let bind = |source| DeliveryError::Bind {
            address: config.listen,
            source,
        };
        let listener = TcpListener::bind(config.listen).map_err(bind)?;
        let local_addr = listener.local_addr().map_err(bind)?;
        lobby::prepare(&listener, config.backlog).map_err(DeliveryError::Socket)?;

        let limit = config.max_connections.unwrap_or_else(connections_possible);
        let context = glib::MainContext::new();
        let doors = Doors::default();
        let timeout = config.session_timeout;
        let sessions = Sessions::new(limit);
        let server = PlayerServer::new(Limits::new(
            limit,
            timeout,
            context.clone(),
            doors.clone(),
            sessions.clone(),
        ));
        let mounts = RTSPMountPoints::new();
        let threads = RTSPThreadPool::new();
        threads.set_max_threads(config.client_threads.map_or(-1, i32::from));
        server.set_mount_points(Some(&mounts));
        server.set_thread_pool(Some(&threads));
        server.set_content_length_limit(REQUEST_BODY);

        let main_loop = glib::MainLoop::new(Some(&context), false);
        let streams = Arc::<Mutex<HashMap<_, _>>>::default();
        let open = doors.clone();
        let usher = Usher::new(server.clone(), limit, move |stream, address| {
            open.is_open(stream, Some(address))
        });
        let store = (config.packet_memory > 0).then(|| Store::new(config.packet_memory));
        let sweeping = sweeping(server.clone(), sessions.clone(), store.clone());
        let sources = vec![usher.looking(), sweeping];
        for source in &sources {
            source.attach(Some(&context));
        }
        let thread = run(context.clone(), main_loop.clone())?;
        let lobby = Lobby::open(listener, move |arrived| {
            let usher = usher.clone();
            context.invoke_with_priority(glib::Priority::DEFAULT, move || usher.admit(arrived));
        })
        .map_err(DeliveryError::Thread)?;
        Ok(Self {
            local_addr,
            server,
            mounts,
            sessions,
            lobby,
            sources: Mutex::new(sources),
            main_loop,
            thread: Mutex::new(Some(thread)),
            streams,
            store,
            doors,
        })
    }

    /// Where it listens.
    pub(super) fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The film that is mounted under the stream's id.
    pub(super) fn film(&self, stream: &StreamId) -> Option<FilmSource> {
        lock(&self.streams).get(stream)?.film().cloned()
    }

    /// Mounts a film under the stream's id.
    pub(super) fn mount(&self, stream: StreamId, film: FilmSource, access: Access) {
        let factory = FilmFactory::new(film, self.store.clone());
        lock(&self.streams).insert(stream, factory.clone());
        self.doors.open(stream, access);
        self.mounts.add_factory(&mount_path(&stream), factory);
    }

    /// How many RTSP sessions use the stream.
    pub(super) fn players(&self, stream: &StreamId) -> u32 {
        u32::try_from(self.sessions.playing(stream)).unwrap_or(u32::MAX)
    }

    /// Where the stream's players are in the film: the one that is furthest.
    pub(super) fn position(&self, stream: &StreamId) -> Option<gst::ClockTime> {
        self.sessions.position(stream)
    }

    /// Unmounts the stream and ends every session and connection that uses it.
    pub(super) async fn unmount(&self, stream: StreamId) {
        let Some(factory) = lock(&self.streams).remove(&stream) else {
            return;
        };
        self.doors.close(&stream);
        self.mounts.remove_factory(&mount_path(&stream));
        factory.cut();
        let players = self.server.players();
        let ending = players
            .into_iter()
            .filter(|player| player.uses(&stream))
            .map(|player| self.end(player, stream));
        futures::future::join_all(ending.collect::<Vec<_>>()).await;
    }

    /// Ends the stream for one connection, in that connection's thread.
    fn end(&self, player: PlayerClient, stream: StreamId) -> impl Future<Output = ()> + use<> {
        let (done, ended) = oneshot::channel();
        // Whether anything else is still there for it was a question for now: what is mounted later
        // was not asked for before.
        let keep = {
            let streams = lock(&self.streams);
            player
                .asked()
                .iter()
                .any(|other| streams.contains_key(other))
        };
        if let Some(context) = player.context() {
            context.invoke(move || {
                let pool = player.session_pool();
                for session in player.session_filter(None) {
                    if let (Some(pool), true) = (&pool, session_plays(&session, &stream)) {
                        sessions::end(pool, &session);
                    }
                }
                if !keep {
                    player.close();
                }
                let _ = done.send(());
            });
        }
        async move {
            match tokio::time::timeout(PATIENCE, ended).await {
                Ok(_) => {}
                Err(_) => tracing::warn!(
                    "a player's thread is stuck; its stream was cut and will be taken down later"
                ),
            }
        }
    }

    /// Ends all streams and connections, then the thread.
    pub(super) async fn stop(&self) {
        self.lobby.close();
        for source in lock(&self.sources).drain(..) {
            source.destroy();
        }
        let streams: Vec<StreamId> = lock(&self.streams).keys().copied().collect();
        futures::future::join_all(streams.into_iter().map(|stream| self.unmount(stream))).await;
        if let Some(store) = &self.store {
            store.clear();
        }
        let closing = self.server.players().into_iter().filter_map(|player| {
            let (done, closed) = oneshot::channel::<()>();
            player.context()?.invoke(move || {
                player.close();
                drop(done);
            });
            Some(tokio::time::timeout(PATIENCE, closed))
        });
        futures::future::join_all(closing.collect::<Vec<_>>()).await;
        self.main_loop.quit();
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            // The loop was told to quit, so this takes a moment at most.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.lobby.close();
        for source in lock(&self.sources).drain(..) {
            source.destroy();
        }
        self.main_loop.quit();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many connections the process's file descriptors suffice for. A quarter of them is for
/// other things: callers' connections, the bus, files.
fn connections_possible() -> usize {
    let descriptors = iceflix_core::limits::nofile_limit() / 4 * 3;
    usize::try_from(descriptors / DESCRIPTORS_PER_SESSION)
        .unwrap_or(usize::MAX)
        .clamp(8, 1 << 16)
}

/// The source that ends sessions whose player has gone silent. Each is ended in the thread of its
/// connection: gst-rtsp-server 1.22.0 can crash when a session goes while PLAY is being handled.
fn sweeping(server: PlayerServer, sessions: Sessions, store: Option<Arc<Store>>) -> glib::Source {
    glib::timeout_source_new(
        SWEEP,
        Some("rtsp-sweep"),
        glib::Priority::DEFAULT,
        move || {
            sweep(&server, &sessions);
            let forgot = store.as_ref().map(|store| store.tidy(Instant::now()));
            if forgot == Some(true) {
                // Not here, where players wait for it. Without a thread it is given back later.
                let tidying = std::thread::Builder::new().name("tidy".to_owned());
                let _ = tidying.spawn(memory::give_back);
            }
            glib::ControlFlow::Continue
        },
    )
}

fn sweep(server: &PlayerServer, all: &Sessions) {
    let now = glib::monotonic_time();
    all.tidy();
    let mut silent = all.all();
    silent.retain(|(_, session)| sessions::is_over(session, now, SWEEP));
    if silent.is_empty() {
        return;
    }
    for player in server.players() {
        let held = player.session_filter(None);
        let (expired, others) = silent
            .into_iter()
            .partition::<Vec<_>, _>(|(_, session)| held.contains(session));
        silent = others;
        if let (false, Some(context)) = (expired.is_empty(), player.context()) {
            context.invoke(move || {
                for (pool, session) in expired {
                    if session.is_expired_usec(glib::monotonic_time()) {
                        tracing::info!("a silent player's session was ended");
                        sessions::end(&pool, &session);
                    }
                }
            });
        }
    }
    // What is left belongs to no connection any more.
    for (pool, session) in silent {
        sessions::end(&pool, &session);
    }
}

/// Runs the loop on a thread of its own, and returns once it runs.
fn run(
    context: glib::MainContext,
    main_loop: glib::MainLoop,
) -> Result<JoinHandle<()>, DeliveryError> {
    let (running, started) = mpsc::channel();
    glib::idle_source_new(None, glib::Priority::HIGH, move || {
        let _ = running.send(());
        glib::ControlFlow::Break
    })
    .attach(Some(&context));
    let thread = std::thread::Builder::new()
        .name("rtsp".to_owned())
        .spawn(move || {
            if context.with_thread_default(|| main_loop.run()).is_err() {
                tracing::error!("the RTSP thread could not take its context");
            }
        })
        .map_err(DeliveryError::Thread)?;
    // It fails only if the thread ended at once, which it logged.
    started
        .recv()
        .map_err(|_| DeliveryError::Thread(std::io::Error::other("the RTSP thread ended")))?;
    Ok(thread)
}
