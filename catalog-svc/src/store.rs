//! What the catalogue knows: the rows it shares with its peers, and the index over them and over
//! what nodes announce.

use crate::{
    index::{Index, NewTitle, SharedIndex},
    rows::{self, RowKey},
};
use iceflix_core::{
    api::MediaId,
    replica::{Replica, RowChange, StoreError},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, RwLockReadGuard},
};
use tokio::task::JoinError;

/// How many rows are entered into the index at once: about a millisecond.
const PART: usize = 500;

/// The catalogue's contents, in memory and on disk. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    replica: Replica,
    index: Arc<SharedIndex>,
}

impl Store {
    /// Builds the index from the rows there are.
    ///
    /// # Errors
    /// Only when the runtime is shutting down.
    pub async fn load(replica: Replica) -> Result<Self, JoinError> {
        let store = Self {
            replica,
            index: Arc::default(),
        };
        let loading = store.clone();
        // Folding a hundred thousand names takes a moment.
        tokio::task::spawn_blocking(move || {
            let rows = loading.replica.scan("");
            loading.refresh(rows.into_iter().map(|(key, _)| key));
        })
        .await?;
        Ok(store)
    }

    /// The index, to ask. Not to be kept across an await.
    pub fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read()
    }

    /// The index, for what does not come from rows.
    pub fn shared_index(&self) -> &Arc<SharedIndex> {
        &self.index
    }

    /// Enters into the index what these rows say now. In whichever order this is called after a
    /// row changed, the index ends with its last value: it is read under the index's lock.
    pub fn refresh(&self, keys: impl IntoIterator<Item = String>) {
        let mut keys = keys.into_iter().peekable();
        while keys.peek().is_some() {
            let mut index = self.index.write();
            for key in keys.by_ref().take(PART) {
                let value = self.replica.get(&key);
                rows::apply(&mut index, &key, value);
            }
        }
    }

    /// Writes rows. Whoever asks afterwards, here, is answered by them.
    ///
    /// # Errors
    /// When the database cannot be written; nothing is changed then.
    pub async fn put(&self, changes: Vec<RowChange>) -> Result<(), StoreError> {
        let keys: Vec<String> = changes.iter().map(|(key, _)| key.clone()).collect();
        self.replica.put(changes).await?;
        self.refresh(keys);
        Ok(())
    }

    /// Whether there is such a film. When it is not known here, the peers are asked: one of them
    /// may have met it a moment ago.
    pub async fn knows(&self, id: MediaId) -> bool {
        if self.index().contains(&id) {
            return true;
        }
        let key = RowKey::Title(id).to_string();
        if self.replica.get_or_ask(&key).await.is_some() {
            self.refresh([key]);
        }
        self.index().contains(&id)
    }

    /// Writes the title rows of films that have none; the first word about a film stays.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn put_titles(
        &self,
        titles: impl IntoIterator<Item = NewTitle>,
    ) -> Result<(), StoreError> {
        let mut new = BTreeMap::new();
        for (id, row) in titles {
            let key = RowKey::Title(id).to_string();
            if self.replica.get(&key).is_none() {
                new.entry(key).or_insert(row);
            }
        }
        // Texts and numbers within bounds: there is nothing in it that JSON cannot hold.
        let rows = new
            .into_iter()
            .filter_map(|(key, row)| Some((key, serde_json::to_value(row).ok()?)));
        let rows: Vec<_> = rows.collect();
        if rows.is_empty() {
            return Ok(());
        }
        let keys: Vec<String> = rows.iter().map(|(key, _)| key.clone()).collect();
        self.replica.put_first(rows).await?;
        self.refresh(keys);
        Ok(())
    }
}
