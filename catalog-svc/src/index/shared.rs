//! The index as several tasks use it.

use super::{Index, NewTitle};
use iceflix_core::{api::InstanceId, topics::MediaItem};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// How many films of a snapshot are entered at once: about a millisecond, which is how long a
/// question may have to wait for its turn.
const PART: usize = 500;

/// An [`Index`] behind a lock that is only ever held for about a millisecond, never across an
/// await.
#[derive(Default)]
pub struct SharedIndex(RwLock<Index>);

impl SharedIndex {
    /// To ask.
    pub fn read(&self) -> RwLockReadGuard<'_, Index> {
        // The index is consistent again after its next event for a film, whatever a panic left.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// To tell.
    pub fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that a node has; what else it claimed before goes. Gives the title rows to write.
    /// Entered part by part, so that nobody waits for a large one; a title that both have is there
    /// all the time.
    pub fn provider_replaced(&self, provider: &InstanceId, items: Vec<MediaItem>) -> Vec<NewTitle> {
        let mut stale = self.read().claimed_by(provider);
        let mut new = Vec::new();
        let mut items = items.into_iter();
        while items.len() > 0 {
            let mut index = self.write();
            for item in items.by_ref().take(PART) {
                stale.remove(&item.id);
                new.extend(index.announced(provider, item));
            }
        }
        let mut stale = stale.into_iter();
        while stale.len() > 0 {
            let mut index = self.write();
            for id in stale.by_ref().take(PART) {
                index.withdrawn(provider, id);
            }
        }
        new
    }
}
