//! What all connections of a server have in common, and how many there may be.

use super::super::access::Doors;
use gst::glib;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// What a server gives to each of its connections.
pub(super) struct Limits {
    pub connections: Arc<AtomicUsize>,
    pub max_connections: usize,
    pub session_timeout_s: u32,
    pub context: glib::MainContext,
    pub doors: Doors,
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
