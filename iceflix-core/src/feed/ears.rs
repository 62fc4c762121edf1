//! Whom a hearer should hear, and whom it does.

use crate::api::InstanceId;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};
use tokio::sync::watch;

/// Whom a hearer should hear, and whom it does. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ears {
    pub(super) alive: watch::Receiver<BTreeSet<InstanceId>>,
    pub(super) arrived: watch::Receiver<BTreeMap<InstanceId, Instant>>,
    pub(super) heard: watch::Receiver<BTreeMap<InstanceId, Instant>>,
}

impl Ears {
    /// Whether anybody ever said something, alive or not.
    pub fn heard_any(&self) -> bool {
        !self.heard.borrow().is_empty()
    }

    /// The speakers that are announced as alive, and when each of them last gave a sign of itself:
    /// said something, as each does every two seconds, or came.
    pub fn speakers(&self) -> Vec<(InstanceId, Option<Instant>)> {
        let (alive, heard) = (self.alive.borrow(), self.heard.borrow());
        let arrived = self.arrived.borrow();
        let last = |speaker: &InstanceId| {
            let signs = [arrived.get(speaker), heard.get(speaker)];
            (speaker.clone(), signs.into_iter().flatten().max().copied())
        };
        alive.iter().map(last).collect()
    }
}
