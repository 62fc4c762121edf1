//! What all connections of a server have in common, and how many there may be.

use super::super::{access::Doors, sessions::Sessions};
use gst::glib;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// What a server gives to each of its connections.
pub(in super::super) struct Limits {
    pub connections: Arc<AtomicUsize>,
    pub max_connections: usize,
    /// After how much silence a session ends, in seconds.
    pub session_timeout_s: u32,
    /// The server's own context.
    pub context: glib::MainContext,
    /// Who may fetch what.
    pub doors: Doors,
    pub sessions: Sessions,
}

impl Limits {
    /// So many connections, and so much silence for their sessions.
    pub(in super::super) fn new(
        max_connections: usize,
        session_timeout: Duration,
        context: glib::MainContext,
        doors: Doors,
        sessions: Sessions,
    ) -> Self {
        Self {
            connections: Arc::default(),
            max_connections,
            session_timeout_s: u32::try_from(session_timeout.as_secs().max(1)).unwrap_or(u32::MAX),
            context,
            doors,
            sessions,
        }
    }
}

/// One of the connections that are let in; dropping it lets another in.
pub(super) struct Seat(Arc<AtomicUsize>);

impl Seat {
    pub(super) fn take(limits: &Limits) -> Option<Self> {
        if limits.connections.fetch_add(1, Ordering::AcqRel) < limits.max_connections {
            Some(Self(limits.connections.clone()))
        } else {
            limits.connections.fetch_sub(1, Ordering::AcqRel);
            tracing::warn!(
                limit = limits.max_connections,
                "a player was turned away: too many connections"
            );
            None
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
