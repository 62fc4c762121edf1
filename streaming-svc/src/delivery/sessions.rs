//! The RTSP sessions, each in a pool of its player's address.
//!
//! Any connection that names a session of its pool becomes one of those that hold it, before
//! anybody asks what the connection may fetch; and gst-rtsp-server takes a session's streams down
//! with any such connection. In a pool that everybody shared, who read a session's id off the
//! network could end the film from elsewhere. Seen from another address a session's id is unknown
//! like any that never was (454).

use super::{
    film::FilmMedia,
    player::{mount_path, session_plays},
};
use gst_rtsp_server::{RTSPFilterResult, RTSPSession, RTSPSessionPool, prelude::*};
use iceflix_core::api::StreamId;
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How much longer than its timeout a session is let be by the server, in milliseconds.
const GRACE_MS: i64 = 5000;

/// All sessions of a server. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Sessions {
    /// By address.
    pools: Arc<Mutex<HashMap<IpAddr, RTSPSessionPool>>>,
    /// How many streams they may play, all together.
    limit: usize,
}

impl Sessions {
    /// None yet. [`Sessions::are_full`] when they play about `limit` streams: connections that set
    /// up at the very same moment may each see the last place free.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            pools: Arc::default(),
            limit,
        }
    }

    /// The sessions of a connection from this address.
    pub(super) fn of(&self, address: IpAddr) -> RTSPSessionPool {
        let mut pools = self.pools();
        pools.entry(address.to_canonical()).or_default().clone()
    }

    /// Those there are now, each with its pool.
    pub(super) fn all(&self) -> Vec<(RTSPSessionPool, RTSPSession)> {
        let pools: Vec<RTSPSessionPool> = self.pools().values().cloned().collect();
        let of = |pool: RTSPSessionPool| {
            let sessions = pool.filter(None).into_iter();
            sessions.map(move |session| (pool.clone(), session))
        };
        pools.into_iter().flat_map(of).collect()
    }

    /// Whether there is no room for another stream, whosesoever. A session can play many, and one
    /// whose connection is gone plays none.
    pub(super) fn are_full(&self) -> bool {
        let sessions = self.all();
        let playing = sessions
            .iter()
            .map(|(_, session)| session.filter(None).len());
        playing.sum::<usize>() >= self.limit
    }

    /// How many play the stream.
    pub(super) fn playing(&self, stream: &StreamId) -> usize {
        let sessions = self.all();
        let playing = |(_, session): &&(_, RTSPSession)| session_plays(session, stream);
        sessions.iter().filter(playing).count()
    }

    /// Where in the film those are that play the stream: the furthest.
    pub(super) fn position(&self, stream: &StreamId) -> Option<gst::ClockTime> {
        let path = mount_path(stream);
        let sessions = self.all().into_iter();
        let playing = sessions.flat_map(|(_, session)| session.filter(None));
        let films = playing
            .filter(|media| media.matches(&path).is_some())
            .filter_map(|media| media.media()?.downcast::<FilmMedia>().ok());
        films.filter_map(|film| film.position()).max()
    }

    /// Forgets the addresses that have neither a connection nor a session. Called where connections
    /// are made, so that none is being made meanwhile.
    pub(super) fn tidy(&self) {
        self.pools()
            .retain(|_, pool| pool.n_sessions() > 0 || pool.ref_count() > 1);
    }

    fn pools(&self) -> MutexGuard<'_, HashMap<IpAddr, RTSPSessionPool>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a session's media down and the session with them.
pub(super) fn end(pool: &RTSPSessionPool, session: &RTSPSession) {
    session.filter(Some(&mut |_, media| {
        // It fails for a media that broke, which is going away just the same.
        let _ = media.set_state(gst::State::Null);
        RTSPFilterResult::Remove
    }));
    // It fails when the session was removed meanwhile.
    let _ = pool.remove(session);
}

/// Whether a session is over: its player has been silent for as long as it may be, or its
/// connection is gone, and with it all that it played, for `a_while`.
pub(super) fn is_over(session: &RTSPSession, now: i64, a_while: Duration) -> bool {
    if session.is_expired_usec(now) {
        return true;
    }
    let whole = i64::from(session.timeout()) * 1000;
    let a_while = i64::try_from(a_while.as_millis()).unwrap_or(i64::MAX);
    // Milliseconds. The server itself adds five seconds to what it tells players.
    let left = i64::from(session.next_timeout_usec(now));
    session.filter(None).is_empty() && left <= whole + GRACE_MS - a_while
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn an_address_is_forgotten_with_its_last_connection_and_session() {
        gst::init().unwrap();
        let sessions = Sessions::new(4);
        let known = || sessions.pools().len();
        // One connection, and another of the same address.
        let (pool, other) = (sessions.of(HERE), sessions.of(HERE));
        assert_eq!(pool, other);
        drop(other);
        sessions.tidy();
        assert_eq!(known(), 1, "there is a connection");
        let session = pool.create().unwrap();
        drop(pool);
        sessions.tidy();
        assert_eq!(known(), 1, "there is a session");
        assert_eq!(sessions.all().len(), 1);
        for (pool, session) in sessions.all() {
            end(&pool, &session);
        }
        drop(session);
        sessions.tidy();
        assert_eq!(known(), 0);
    }

    #[test]
    fn an_empty_session_is_over_after_a_while_and_not_at_once() {
        gst::init().unwrap();
        let sessions = Sessions::new(4);
        let session = sessions.of(HERE).create().unwrap();
        session.set_timeout(90);
        let (now, a_while) = (gst::glib::monotonic_time(), Duration::from_secs(5));
        let after = |seconds: i64| is_over(&session, now + seconds * 1_000_000, a_while);
        assert!(!after(0) && !after(4));
        assert!(after(6));
    }
}
