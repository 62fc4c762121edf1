//! One user's tags, by film and by tag.

use iceflix_core::api::MediaId;
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

/// A tag; one text, however many films have it.
pub(super) type Tag = Arc<str>;

#[derive(Default)]
pub(super) struct UserTags {
    by_film: HashMap<MediaId, BTreeSet<Tag>>,
    by_tag: HashMap<Tag, HashSet<MediaId>>,
}

impl UserTags {
    pub(super) fn insert(&mut self, id: MediaId, tag: &str) {
        let tag = match self.by_tag.get_key_value(tag) {
            Some((tag, _)) => tag.clone(),
            None => Tag::from(tag),
        };
        self.by_tag.entry(tag.clone()).or_default().insert(id);
        self.by_film.entry(id).or_default().insert(tag);
    }

    pub(super) fn remove(&mut self, id: MediaId, tag: &str) {
        if let Some(tags) = self.by_film.get_mut(&id) {
            tags.remove(tag);
            if tags.is_empty() {
                self.by_film.remove(&id);
            }
        }
        if let Some(films) = self.by_tag.get_mut(tag) {
            films.remove(&id);
            if films.is_empty() {
                self.by_tag.remove(tag);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_film.is_empty()
    }

    /// The tags of a film.
    pub(super) fn of(&self, id: &MediaId) -> Option<&BTreeSet<Tag>> {
        self.by_film.get(id)
    }

    /// The films with any or with all of the tags. No tags, no films.
    pub(super) fn films(&self, tags: &[String], all: bool) -> HashSet<MediaId> {
        let mut sets = tags.iter().map(|tag| self.by_tag.get(tag.as_str()));
        if all {
            let Some(Some(first)) = sets.next() else {
                return HashSet::new();
            };
            let rest: Vec<_> = sets.collect();
            let in_rest =
                |id: &&MediaId| rest.iter().all(|set| set.is_some_and(|s| s.contains(*id)));
            first.iter().filter(in_rest).copied().collect()
        } else {
            sets.flatten().flatten().copied().collect()
        }
    }
}
