//! Which film is at which path: files in, events out. Pure.

use super::{Film, LibraryEvent, film_name};
use crate::facts::Facts;
use iceflix_core::api::MediaId;
use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};

/// The films by content, and the content by path.
#[derive(Default)]
pub(super) struct Index {
    films: HashMap<MediaId, Entry>,
    by_path: HashMap<PathBuf, MediaId>,
}

struct Entry {
    film: Arc<Film>,
    paths: BTreeSet<PathBuf>,
}

impl Index {
    /// What is known of a content that is here already.
    pub(super) fn facts(&self, id: &MediaId) -> Option<&Facts> {
        self.films.get(id).map(|entry| &entry.film.facts)
    }

    /// The file at `path` has that content.
    pub(super) fn set(
        &mut self,
        path: &Path,
        id: MediaId,
        size: u64,
        facts: Facts,
    ) -> Vec<LibraryEvent> {
        let mut events = Vec::new();
        if self.by_path.get(path).is_some_and(|before| *before != id) {
            events.extend(self.remove(path));
        }
        self.by_path.insert(path.to_owned(), id);
        if let Some(entry) = self.films.get_mut(&id) {
            // A second path changes nothing for others: the film keeps the first one's name.
            entry.paths.insert(path.to_owned());
            if entry.film.facts != facts {
                entry.film = Arc::new(Film {
                    facts,
                    ..Film::clone(&entry.film)
                });
                events.push(LibraryEvent::Changed(Arc::clone(&entry.film)));
            }
            return events;
        }
        let film = Arc::new(Film {
            id,
            name: film_name(path),
            path: path.to_owned(),
            size,
            facts,
        });
        let entry = Entry {
            film: Arc::clone(&film),
            paths: BTreeSet::from([path.to_owned()]),
        };
        self.films.insert(id, entry);
        events.push(LibraryEvent::Added(film));
        events
    }

    /// The file at `path` is gone, or its content is no longer known.
    pub(super) fn remove(&mut self, path: &Path) -> Option<LibraryEvent> {
        let id = self.by_path.remove(path)?;
        let entry = self.films.get_mut(&id)?;
        entry.paths.remove(path);
        let Some(next) = entry.paths.first() else {
            self.films.remove(&id);
            return Some(LibraryEvent::Removed(id));
        };
        if entry.film.path != path {
            return None;
        }
        entry.film = Arc::new(Film {
            name: film_name(next),
            path: next.clone(),
            ..Film::clone(&entry.film)
        });
        Some(LibraryEvent::Changed(Arc::clone(&entry.film)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn facts(format: &str) -> Facts {
        Facts {
            container: None,
            duration_ns: None,
            tracks: Vec::new(),
            format: format.to_owned(),
            unplayable: None,
        }
    }

    fn id(n: u8) -> MediaId {
        MediaId::from_bytes([n; 32])
    }

    #[test]
    fn a_film_stays_while_one_of_its_files_does() {
        let mut index = Index::default();
        let (a, b) = (Path::new("/m/b.mp4"), Path::new("/m/a.mp4"));
        let added = index.set(a, id(1), 5, facts("x"));
        let [LibraryEvent::Added(film)] = added.as_slice() else {
            panic!("{added:?}");
        };
        assert_eq!((film.name.as_str(), film.size), ("b", 5));
        assert_eq!(index.set(b, id(1), 5, facts("x")), []);
        let Some(LibraryEvent::Changed(film)) = index.remove(a) else {
            panic!("no change");
        };
        assert_eq!((film.name.as_str(), film.path.as_path()), ("a", b));
        assert_eq!(index.remove(a), None);
        assert_eq!(index.remove(b), Some(LibraryEvent::Removed(id(1))));
        assert_eq!(index.facts(&id(1)), None);
    }

    #[test]
    fn other_content_is_another_film() {
        let mut index = Index::default();
        let path = Path::new("/m/a.mp4");
        index.set(path, id(1), 5, facts("x"));
        let events = index.set(path, id(2), 6, facts("y"));
        assert_eq!(events[0], LibraryEvent::Removed(id(1)));
        assert!(matches!(&events[1], LibraryEvent::Added(film) if film.id == id(2)));
        let events = index.set(path, id(2), 6, facts("z"));
        assert!(matches!(&events[..], [LibraryEvent::Changed(film)] if film.facts.format == "z"));
    }

    proptest! {
        /// Whoever follows the events knows the films.
        #[test]
        fn events_tell_all(steps in prop::collection::vec((0u8..5, 0u8..4), 0..60)) {
            let mut index = Index::default();
            let mut heard: HashMap<MediaId, Arc<Film>> = HashMap::new();
            let mut files: HashMap<PathBuf, MediaId> = HashMap::new();
            for (file, content) in steps {
                let path = PathBuf::from(format!("/m/{file}.mp4"));
                let events = if content == 0 {
                    files.remove(&path);
                    index.remove(&path).into_iter().collect()
                } else {
                    files.insert(path.clone(), id(content));
                    index.set(&path, id(content), 1, facts("x"))
                };
                for event in events {
                    match event {
                        LibraryEvent::Added(film) => prop_assert!(heard.insert(film.id, film).is_none()),
                        LibraryEvent::Changed(film) => prop_assert!(heard.insert(film.id, film).is_some()),
                        LibraryEvent::Removed(id) => prop_assert!(heard.remove(&id).is_some()),
                    }
                }
                let mut here: Vec<_> = files.values().copied().collect();
                here.sort();
                here.dedup();
                let mut known: Vec<_> = heard.keys().copied().collect();
                known.sort();
                prop_assert_eq!(here, known);
                for film in heard.values() {
                    prop_assert_eq!(files.get(&film.path), Some(&film.id));
                }
            }
        }
    }
}
