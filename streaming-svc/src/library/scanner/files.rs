//! What the scanner does with each file: notices it, waits for it to settle, has it looked at, and
//! tells what came of it.

use super::{File, RETRY, Scanner, Status};
use crate::{
    facts::Facts,
    library::{
        LibraryEvent,
        hash::Stamp,
        walk::Walk,
        worker::{Job, Outcome},
    },
};
use iceflix_core::api::MediaId;
use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Instant, SystemTime},
};
use tracing::{debug, info, warn};

/// When a file's permissions, owner or content last changed: seconds and nanoseconds since 1970.
pub(super) type ChangeTime = (i64, i64);

/// `None` when the file is gone.
fn change_time(path: &Path) -> Option<ChangeTime> {
    let meta = fs::symlink_metadata(path).ok()?;
    Some((meta.ctime(), meta.ctime_nsec()))
}

impl Scanner {
    /// Compares what is there with what was known.
    pub(super) fn apply(&mut self, walk: Walk) {
        self.cache.begin();
        for (path, stamp) in &walk.files {
            self.noticed(path, *stamp);
        }
        // After what is new: a renamed film goes on under its new name, rather than away and back.
        let here = |path: &PathBuf| walk.files.contains_key(path);
        let gone: Vec<_> = self.files.keys().filter(|p| !here(p)).cloned().collect();
        for path in gone {
            self.forget(&path);
        }
        self.cache.commit();
        for (path, reason) in &walk.problems {
            if self.walk_problems.get(path) != Some(reason) {
                warn!(path = %path.display(), "not used: {reason}");
            }
        }
        self.walk_problems = walk.problems;
    }

    /// A file is there.
    fn noticed(&mut self, path: &Path, stamp: Stamp) {
        if let Some(file) = self.files.get(path) {
            let wanted = match &file.status {
                Status::Failed { again, changed, .. } => {
                    *again <= Instant::now() || change_time(path) != *changed
                }
                _ => false,
            };
            if file.stamp == stamp {
                if wanted {
                    self.submit(path, stamp);
                }
                return;
            }
            // Another size is another content. With the same size it may have been touched only:
            // the film stays until its hash is known.
            if file.stamp.size != stamp.size {
                self.unlist(path);
            }
        }
        self.set_status(path, stamp, Status::Settling(Instant::now()));
        if stamp.is_older_than(self.config.settle, SystemTime::now()) {
            self.submit(path, stamp);
        }
    }

    fn set_status(&mut self, path: &Path, stamp: Stamp, status: Status) {
        if matches!(status, Status::Settling(_)) {
            self.settling.insert(path.to_owned());
        } else {
            self.settling.remove(path);
        }
        self.files.insert(path.to_owned(), File { stamp, status });
    }

    /// A file is not there any more.
    fn forget(&mut self, path: &Path) {
        self.files.remove(path);
        self.settling.remove(path);
        self.waits.remove(path);
        self.unlist(path);
    }

    fn unlist(&mut self, path: &Path) {
        let event = self.index.remove(path);
        self.tell(event);
    }

    fn tell(&mut self, events: impl IntoIterator<Item = LibraryEvent>) {
        for event in events {
            match &event {
                LibraryEvent::Added(film) => match &film.facts.unplayable {
                    None => info!(film = ?film.id, name = film.name, "film added"),
                    Some(why) => {
                        warn!(film = ?film.id, path = %film.path.display(), "film cannot be played: {why}");
                    }
                },
                LibraryEvent::Removed(id) => info!(film = ?id, "film removed"),
                LibraryEvent::Changed(film) => {
                    debug!(film = ?film.id, name = film.name, "film changed");
                }
            }
            self.shared.apply(&event);
            self.outbox.push_back(event);
        }
    }

    /// Looks whether files have stopped changing.
    pub(super) fn settle(&mut self) {
        for path in self.settling.iter().cloned().collect::<Vec<_>>() {
            let Some(file) = self.files.get(&path) else {
                self.settling.remove(&path);
                continue;
            };
            let (before, Status::Settling(since)) = (file.stamp, &file.status) else {
                self.settling.remove(&path);
                continue;
            };
            let settled = since.elapsed() >= self.config.settle;
            match fs::symlink_metadata(&path) {
                Ok(meta) if !meta.is_file() || meta.len() == 0 => self.forget(&path),
                Ok(meta) => {
                    let stamp = Stamp::of(&meta);
                    if stamp != before {
                        self.noticed(&path, stamp);
                    } else if settled {
                        self.submit(&path, stamp);
                    }
                }
                Err(_) => self.forget(&path),
            }
        }
    }

    /// A settled file: takes what is known of it, or has it looked at.
    fn submit(&mut self, path: &Path, stamp: Stamp) {
        let known = self.cache.find(path, &stamp);
        let id = known.as_ref().map(|known| known.id);
        let facts = known.and_then(|known| known.facts);
        let facts = facts.or_else(|| self.index.facts(&id?).cloned());
        if let (Some(id), Some(facts)) = (id, facts) {
            self.ready(path, stamp, id, facts);
            return;
        }
        self.set_status(path, stamp, Status::Working);
        // A file with two names is looked at once.
        let waiting = self.jobs.entry(stamp).or_default();
        waiting.push(path.to_owned());
        if waiting.len() == 1 {
            let path = path.to_owned();
            self.queue.push_back(Job { path, stamp, id });
        }
    }

    fn ready(&mut self, path: &Path, stamp: Stamp, id: MediaId, facts: Facts) {
        self.set_status(path, stamp, Status::Ready);
        self.waits.remove(path);
        let events = self.index.set(path, id, stamp.size, facts);
        self.tell(events);
    }

    /// Gives idle workers what is still wanted.
    pub(super) fn dispatch(&mut self) {
        while let Some(&worker) = self.idle.last() {
            let Some(job) = self.queue.pop_front() else {
                return;
            };
            let waiting = self.jobs.entry(job.stamp).or_default();
            waiting.retain(|path| {
                let file = self.files.get(path);
                file.is_some_and(|file| {
                    file.stamp == job.stamp && matches!(file.status, Status::Working)
                })
            });
            let Some(path) = waiting.first() else {
                self.jobs.remove(&job.stamp);
                continue;
            };
            let path = path.clone();
            let job = Job { path, ..job };
            if let Err(back) = self.workers[worker].send(job) {
                warn!("a thread of the library is gone; the others do its work");
                self.queue.push_front(back.0);
            }
            self.idle.pop();
        }
    }

    /// A worker has looked at a file.
    pub(super) fn done(&mut self, stamp: Stamp, outcome: Outcome) {
        for path in self.jobs.remove(&stamp).unwrap_or_default() {
            let Some(file) = self.files.get(&path) else {
                continue;
            };
            if file.stamp != stamp || !matches!(file.status, Status::Working) {
                continue;
            }
            match &outcome {
                Outcome::Film { id, facts, lasting } => {
                    self.cache.put(&path, &stamp, id, lasting.then_some(facts));
                    self.ready(&path, stamp, *id, facts.clone());
                }
                Outcome::Changed | Outcome::Cancelled => {
                    self.set_status(&path, stamp, Status::Settling(Instant::now()));
                }
                Outcome::Failed(reason) => self.failed(&path, stamp, reason),
            }
        }
    }

    fn failed(&mut self, path: &Path, stamp: Stamp, reason: &str) {
        self.unlist(path);
        let before = self.waits.get(path).map(|wait| *wait * 2);
        let wait = before.unwrap_or(RETRY.0).min(RETRY.1);
        if before.is_none() {
            warn!(path = %path.display(), "not used: {reason}");
        }
        let status = Status::Failed {
            reason: reason.to_owned(),
            again: Instant::now() + wait,
            changed: change_time(path),
        };
        self.waits.insert(path.to_owned(), wait);
        self.set_status(path, stamp, status);
    }
}
