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
    pub(super) heard: watch::Receiver<BTreeMap<InstanceId, Instant>>,
}

impl Ears {
    /// Whether anybody ever said something, alive or not.
    pub fn heard_any(&self) -> bool {
        !self.heard.borrow().is_empty()
    }

    /// The speakers that are announced as alive, and when each of them last said something, if
    /// ever. Each does so every two seconds.
    pub fn speakers(&self) -> Vec<(InstanceId, Option<Instant>)> {
        let (alive, heard) = (self.alive.borrow(), self.heard.borrow());
        let last = |speaker: &InstanceId| (speaker.clone(), heard.get(speaker).copied());
        alive.iter().map(last).collect()
    }
}
