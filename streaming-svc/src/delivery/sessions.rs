//! The RTSP sessions, each in a pool of its player's address.
//!
//! Any connection that names a session of its pool becomes one of those that hold it, before
//! anybody asks what the connection may fetch; and gst-rtsp-server takes a session's TCP transports
//! down with any such connection. In a pool that everybody shared, who read a session's id off the
//! network could end the film from elsewhere. Seen from another address a session's id is unknown
//! like any that never was (454).

use super::player::session_plays;
use gst_rtsp_server::{RTSPFilterResult, RTSPSession, RTSPSessionPool, prelude::*};
use iceflix_core::api::StreamId;
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// All sessions of a server. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Sessions {
    /// By address.
    pools: Arc<Mutex<HashMap<IpAddr, RTSPSessionPool>>>,
    /// The most sessions there may be, in all pools together.
    limit: usize,
}

impl Sessions {
    /// None yet, and never more than `limit`.
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

    /// Those there are now.
    pub(super) fn all(&self) -> Vec<RTSPSession> {
        let pools: Vec<RTSPSessionPool> = self.pools().values().cloned().collect();
        pools.iter().flat_map(|pool| pool.filter(None)).collect()
    }

    /// Whether there is no room for another, whosesoever. Those whose connection is gone hold
    /// nothing any more, until they are swept away.
    pub(super) fn are_full(&self) -> bool {
        let sessions = self.all();
        let busy = sessions.iter().filter(|it| !it.filter(None).is_empty());
        busy.count() >= self.limit
    }

    /// How many play the stream.
    pub(super) fn playing(&self, stream: &StreamId) -> usize {
        let sessions = self.all();
        sessions
            .iter()
            .filter(|it| session_plays(it, stream))
            .count()
    }

    /// Takes a session's media down and the session with them.
    pub(super) fn end(&self, session: &RTSPSession) {
        session.filter(Some(&mut |_, media| {
            // It fails for a media that broke, which is going away just the same.
            let _ = media.set_state(gst::State::Null);
            RTSPFilterResult::Remove
        }));
        let pools: Vec<RTSPSessionPool> = self.pools().values().cloned().collect();
        for pool in pools {
            // It fails for those whose session it is not, or not any more.
            let _ = pool.remove(session);
        }
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
