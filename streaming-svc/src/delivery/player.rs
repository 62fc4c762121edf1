//! The server's own kinds of RTSP server and client: what is answered to whom, and which stream a
//! connection has to do with, so that ending the stream ends the connection.

mod limits;

use super::{
    request::{path_of, stream_of},
    sessions::Sessions,
};
use gst::{glib, prelude::*, subclass::prelude::ObjectSubclassIsExt as _};
use gst_rtsp_server::{RTSPContext, RTSPSession, gio, prelude::*};
use iceflix_core::api::StreamId;
pub(super) use limits::Limits;
use std::net::SocketAddr;

/// The most sessions of one stream. A player has one, and perhaps one over UDP that it gave up.
const SESSIONS_OF_ONE_STREAM: usize = 16;

glib::wrapper! {
    /// An RTSP server that makes [`PlayerClient`]s.
    pub struct PlayerServer(ObjectSubclass<imp::PlayerServer>)
        @extends gst_rtsp_server::RTSPServer;
}

glib::wrapper! {
    /// One player's connection.
    pub struct PlayerClient(ObjectSubclass<imp::PlayerClient>)
        @extends gst_rtsp_server::RTSPClient;
}

impl PlayerServer {
    /// A server that keeps to these limits.
    pub(super) fn new(limits: Limits) -> Self {
        let server: Self = glib::Object::new();
        // Cannot be set already: it was made just now.
        let _ = server.imp().limits.set(limits);
        server
    }

    /// Takes a connection over, and what was read from it. Called by the server's own thread only.
    ///
    /// # Errors
    /// When there are too many; that was logged.
    pub(super) fn take(
        &self,
        connection: &gio::Socket,
        peer: SocketAddr,
        said: &str,
    ) -> Result<(), glib::BoolError> {
        let address = peer.ip().to_canonical();
        *self.imp().arriving() = Some(address);
        let (host, port) = (address.to_string(), i32::from(peer.port()));
        let taken = self.transfer_connection(connection.clone(), &host, port, Some(said));
        *self.imp().arriving() = None;
        taken
    }

    /// The connections there are.
    pub(super) fn players(&self) -> Vec<PlayerClient> {
        self.client_filter(None)
            .into_iter()
            .filter_map(|client| client.downcast().ok())
            .collect()
    }
}

impl PlayerClient {
    /// Whether it asked for the stream, or plays it.
    pub(super) fn uses(&self, stream: &StreamId) -> bool {
        self.imp().asked().contains(stream)
            || self
                .session_filter(None)
                .iter()
                .any(|session| session_plays(session, stream))
    }

    /// Which streams it asked for, lately.
    pub(super) fn asked(&self) -> Vec<StreamId> {
        self.imp().asked().iter().copied().collect()
    }

    /// The context in whose thread its requests are handled. `None` before the first of them.
    /// What changes its sessions goes there, so that it never meets a request half done.
    pub(super) fn context(&self) -> Option<glib::MainContext> {
        self.imp().context.get().cloned()
    }
}

/// The path under which a stream is mounted.
pub(super) fn mount_path(stream: &StreamId) -> String {
    format!("/{stream}")
}

/// Whether SETUP would make one more than there may be: of all that is played, or of this stream,
/// of which each takes a pipeline and a place among all.
fn is_one_too_many(sessions: &Sessions, ctx: &RTSPContext) -> bool {
    let stream = ctx
        .uri()
        .and_then(|uri| stream_of(path_of(&uri.request_uri())));
    let Some(stream) = stream else {
        return false;
    };
    // Another track of what it plays.
    let more = ctx
        .session()
        .is_some_and(|session| session_plays(session, &stream));
    !more && (sessions.are_full() || sessions.playing(&stream) >= SESSIONS_OF_ONE_STREAM)
}

/// Whether the session has a media of this stream.
pub(super) fn session_plays(session: &RTSPSession, stream: &StreamId) -> bool {
    let path = mount_path(stream);
    session
        .filter(None)
        .iter()
        .any(|media| media.matches(&path).is_some())
}

mod imp {
    use super::{
        super::{access::Doors, film::FilmMedia, sessions::Sessions},
        limits::{Limits, Seat},
        stream_of,
    };
    use gst::{glib, prelude::*, subclass::prelude::*};
    use gst_rtsp_server::{
        RTSPClient, RTSPContext, RTSPMedia, RTSPSession, RTSPSessionMedia,
        gst_rtsp::{RTSPStatusCode, RTSPUrl},
        prelude::*,
        subclass::prelude::*,
    };
    use iceflix_core::api::StreamId;
    use std::{
        collections::HashSet,
        net::IpAddr,
        sync::{
            Mutex, MutexGuard, OnceLock, PoisonError,
            atomic::{AtomicBool, Ordering},
        },
    };

    /// After its last session a connection may stay for so long, in seconds: a player that reached
    /// the end can set up again on it.
    const POST_SESSION_TIMEOUT_S: i32 = 30;

    /// How many streams a connection is remembered to have asked for. Players ask for one; whoever
    /// guesses at ids shall not fill the memory.
    const REMEMBERED_STREAMS: usize = 64;

    #[derive(Default)]
    pub struct PlayerServer {
        pub(super) limits: OnceLock<Limits>,
        /// The address of the connection for which a client is being made.
        arriving: Mutex<Option<IpAddr>>,
    }

    impl PlayerServer {
        pub(super) fn arriving(&self) -> MutexGuard<'_, Option<IpAddr>> {
            self.arriving.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    #[glib::object_subclass]
    impl ObjectSubclass for PlayerServer {
        const NAME: &'static str = "IceflixPlayerServer";
        type Type = super::PlayerServer;
        type ParentType = gst_rtsp_server::RTSPServer;
    }

    impl ObjectImpl for PlayerServer {}

    impl RTSPServerImpl for PlayerServer {
        fn create_client(&self) -> Option<RTSPClient> {
            let limits = self.limits.get()?;
            // It is told before.
            let address = (*self.arriving())?;
            let seat = Seat::take(limits)?;
            let client: super::PlayerClient = glib::Object::new();
            // Cannot be set already: it was made just now.
            let _ = client.imp().seat.set(seat);
            let _ = client.imp().session_timeout_s.set(limits.session_timeout_s);
            let _ = client.imp().watcher.set(limits.context.clone());
            let _ = client.imp().doors.set(limits.doors.clone());
            let _ = client.imp().sessions.set(limits.sessions.clone());
            let _ = client.imp().address.set(address);
            let server = self.obj();
            client.set_session_pool(Some(&limits.sessions.of(address)));
            client.set_mount_points(server.mount_points().as_ref());
            client.set_thread_pool(server.thread_pool().as_ref());
            client.set_content_length_limit(server.content_length_limit());
            client.set_post_session_timeout(POST_SESSION_TIMEOUT_S);
            Some(client.upcast())
        }
    }

    #[derive(Default)]
    pub struct PlayerClient {
        pub(super) context: OnceLock<glib::MainContext>,
        /// Where its player is.
        address: OnceLock<IpAddr>,
        doors: OnceLock<Doors>,
        /// Those of all connections.
        sessions: OnceLock<Sessions>,
        asked: Mutex<HashSet<StreamId>>,
        seat: OnceLock<Seat>,
        session_timeout_s: OnceLock<u32>,
        /// Whether the request being handled found its media.
        has_media: AtomicBool,
        /// The server's own context, which never waits for a player.
        watcher: OnceLock<glib::MainContext>,
        watching: Mutex<Vec<glib::Source>>,
    }

    #[glib::object_subclass]
    impl ObjectSubclass for PlayerClient {
        const NAME: &'static str = "IceflixPlayerClient";
        type Type = super::PlayerClient;
        type ParentType = RTSPClient;
    }

    impl ObjectImpl for PlayerClient {}

    impl RTSPClientImpl for PlayerClient {
        fn pre_describe_request(&self, ctx: &RTSPContext) -> RTSPStatusCode {
            let mounts = self.obj().mount_points();
            let path = ctx
                .uri()
                .zip(mounts)
                .and_then(|(uri, mounts)| mounts.make_path(uri).ok());
            self.begin();
            match path.as_deref().and_then(stream_of) {
                // As it is answered where nothing is mounted.
                Some(stream) if !self.is_let_in(stream) => RTSPStatusCode::NotFound,
                _ => RTSPStatusCode::Ok,
            }
        }

        /// Called first in SETUP, PLAY, PAUSE and TEARDOWN, before a media is made.
        fn make_path_from_uri(&self, url: &RTSPUrl) -> Option<glib::GString> {
            self.begin();
            let path = self.parent_make_path_from_uri(url)?;
            match stream_of(&path).is_some_and(|stream| self.is_let_in(stream)) {
                true => Some(path),
                // Not refused here, but led to where nothing is ever mounted: so every request gets
                // the very answer that one for an unknown stream gets.
                false => Some(format!("/-{path}").into()),
            }
        }

        /// Players show the session's name as the title.
        fn create_sdp(&self, media: &RTSPMedia) -> Option<gst_sdp::SDPMessage> {
            let mut sdp = self.parent_create_sdp(media)?;
            if let Some(title) = media.downcast_ref().and_then(FilmMedia::title) {
                sdp.set_session_name(title);
            }
            Some(sdp)
        }

        fn pre_setup_request(&self, ctx: &RTSPContext) -> RTSPStatusCode {
            self.has_media.store(true, Ordering::Relaxed);
            let sessions = self.sessions.get();
            if sessions.is_some_and(|sessions| super::is_one_too_many(sessions, ctx)) {
                // As when there is no room for another session at all.
                return RTSPStatusCode::MethodNotValidInThisState;
            }
            RTSPStatusCode::Ok
        }

        fn pre_play_request(&self, ctx: &RTSPContext) -> RTSPStatusCode {
            self.has_media.store(true, Ordering::Relaxed);
            for session_media in medias(ctx) {
                let Some(film) = film(&session_media) else {
                    continue;
                };
                film.answer_play(true);
                film.choose_bursts();
                self.watch(&film);
                // A seek while packets flow is handled as the players that pause first do it. It
                // fails for a film that is at its end or broke, which PLAY finds out itself.
                let _ = session_media.set_state(gst::State::Paused);
                film.settle();
            }
            RTSPStatusCode::Ok
        }

        fn play_request(&self, ctx: &RTSPContext) {
            for film in medias(ctx).filter_map(|it| film(&it)) {
                film.answer_play(false);
                // It is still being looked after: this seek may stand still like any other.
                film.start_again();
            }
            self.unwatch();
            self.parent_play_request(ctx);
        }

        fn pre_announce_request(&self, _ctx: &RTSPContext) -> RTSPStatusCode {
            RTSPStatusCode::MethodNotAllowed
        }

        fn pre_record_request(&self, _ctx: &RTSPContext) -> RTSPStatusCode {
            RTSPStatusCode::MethodNotAllowed
        }

        fn new_session(&self, session: &RTSPSession) {
            if let Some(&timeout) = self.session_timeout_s.get() {
                session.set_timeout(timeout);
            }
            // VLC keeps alive only those sessions whose timeout it was told.
            session.set_timeout_always_visible(true);
            self.parent_new_session(session);
        }

        /// VLC answers 503 by trying again over HTTP, so it is never sent.
        fn adjust_error_code(&self, ctx: &RTSPContext, status: RTSPStatusCode) -> RTSPStatusCode {
            self.unwatch();
            for film in medias(ctx).filter_map(|it| film(&it)) {
                film.answer_play(false);
            }
            if status != RTSPStatusCode::ServiceUnavailable {
                status
            } else if self.has_media.load(Ordering::Relaxed) {
                // No room for another session, or the film is at its end and wants a new SETUP.
                RTSPStatusCode::MethodNotValidInThisState
            } else {
                // The film's file cannot be read (any more).
                RTSPStatusCode::NotFound
            }
        }
    }

    /// What the session of the request plays.
    fn medias(ctx: &RTSPContext) -> impl Iterator<Item = RTSPSessionMedia> + use<> {
        let medias = ctx.session().map(|session| session.filter(None));
        medias.into_iter().flatten()
    }

    fn film(media: &RTSPSessionMedia) -> Option<FilmMedia> {
        media.media().and_downcast()
    }

    impl PlayerClient {
        pub(super) fn asked(&self) -> MutexGuard<'_, HashSet<StreamId>> {
            self.asked.lock().unwrap_or_else(PoisonError::into_inner)
        }

        /// Sees to it that PLAY does not stand still.
        fn watch(&self, film: &FilmMedia) {
            if let Some(watcher) = self.watcher.get() {
                let source = film.look_after();
                source.attach(Some(watcher));
                self.watching().push(source);
            }
        }

        fn unwatch(&self) {
            for source in self.watching().drain(..) {
                source.destroy();
            }
        }

        fn watching(&self) -> MutexGuard<'_, Vec<glib::Source>> {
            self.watching.lock().unwrap_or_else(PoisonError::into_inner)
        }

        /// A request begins to be handled, in this thread.
        fn begin(&self) {
            self.unwatch();
            self.has_media.store(false, Ordering::Relaxed);
            if let Some(context) = glib::main_current_source().and_then(|source| source.context()) {
                self.context.get_or_init(|| context);
            }
        }

        /// Whether its player may fetch the stream, which is then noted as asked for. This comes
        /// before the mount point is looked up, and ending a stream closes its door and unmounts it
        /// before it looks here: one of the two sees the other.
        fn is_let_in(&self, stream: StreamId) -> bool {
            let address = self.address.get().copied();
            let doors = self.doors.get();
            if !doors.is_some_and(|doors| doors.is_open(&stream, address)) {
                return false;
            }
            let mut asked = self.asked();
            if asked.len() >= REMEMBERED_STREAMS {
                asked.clear();
            }
            asked.insert(stream);
            true
        }
    }
}
