//! Being told of changes by the system, so that they are seen long before the next full look.

use super::walk::Root;
use notify::{
    Config, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, ModifyKind},
};
use std::{collections::HashMap, path::PathBuf};
use tracing::{debug, warn};

/// Watches directories, as far as the system can.
pub(super) struct Watch {
    watcher: Option<RecommendedWatcher>,
    /// What is watched: each directory's path, device and number.
    roots: HashMap<PathBuf, (u64, u64)>,
    complained: bool,
}

impl Watch {
    /// Starts watching nothing. `changed` is called, on a thread of the watcher's, when something
    /// happened that calls for a look.
    pub(super) fn new(changed: impl Fn() + Send + 'static) -> Self {
        let handler = move |event: notify::Result<Event>| match event {
            Ok(event) if !matters(&event) => {}
            // An error may mean that events were lost: look.
            Ok(_) | Err(_) => changed(),
        };
        // Links are resolved by our own walk; their targets are inside the watched directories.
        let config = Config::default().with_follow_symlinks(false);
        let watcher = match RecommendedWatcher::new(handler, config) {
            Ok(watcher) => Some(watcher),
            Err(e) => {
                warn!(
                    "changes of films are not reported by the system, only found by rescans: {e}"
                );
                None
            }
        };
        Self {
            watcher,
            roots: HashMap::new(),
            complained: false,
        }
    }

    /// Watches exactly these directories, those of them that can be watched.
    pub(super) fn set(&mut self, roots: &[Root]) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        self.roots.retain(|path, number| {
            let stays = |root: &Root| root.path == *path && root.number == *number;
            let stays = roots.iter().any(stays);
            if !stays {
                // It fails when the directory is gone, and is not needed then.
                let _ = watcher.unwatch(path);
            }
            stays
        });
        for Root { path, number } in roots {
            if self.roots.contains_key(path) {
                continue;
            }
            match watcher.watch(path, RecursiveMode::Recursive) {
                Ok(()) => {
                    self.roots.insert(path.clone(), *number);
                }
                Err(e) if !self.complained => {
                    self.complained = true;
                    warn!(
                        directory = %path.display(),
                        "changes are only found by rescans here: {e}; \
                         raising the system's fs.inotify.max_user_watches may help"
                    );
                }
                Err(e) => debug!(directory = %path.display(), "not watched: {e}"),
            }
        }
    }
}

/// Whether an event calls for a look. Reading does not; nor does writing as such, since the file's
/// making was told before and its closing is told after.
fn matters(event: &Event) -> bool {
    event.need_rescan()
        || match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
            EventKind::Access(_) | EventKind::Modify(ModifyKind::Data(_)) => false,
            _ => true,
        }
}
