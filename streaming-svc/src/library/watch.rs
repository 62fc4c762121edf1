//! Being told of changes by the system, so that they are seen long before the next full look.

use super::walk::Root;
use notify::{
    Config, ErrorKind, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, ModifyKind},
};
use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
};
use tracing::{debug, warn};

/// Watches directories, as far as the system can.
pub(super) struct Watch {
    watcher: Option<RecommendedWatcher>,
    /// What is watched: each directory's path, device and number.
    roots: HashMap<PathBuf, (u64, u64)>,
    /// Directories inside them that may not be read, and so cannot be watched yet.
    closed: HashSet<PathBuf>,
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
            closed: HashSet::new(),
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
        let mut wanted: Vec<(PathBuf, Option<(u64, u64)>)> = Vec::new();
        // Where that root is gone they are, too, and left out below.
        wanted.extend(self.closed.drain().map(|path| (path, None)));
        let new = roots
            .iter()
            .filter(|root| root.readable && !self.roots.contains_key(&root.path));
        wanted.extend(new.map(|root| (root.path.clone(), Some(root.number))));
        for (path, number) in wanted {
            match tree(watcher, &path, DEEPEST, &mut self.closed) {
                Ok(()) => self.roots.extend(number.map(|number| (path, number))),
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

/// How deep directories that hold closed ones may be nested.
const DEEPEST: usize = 128;

/// Watches a directory and all below it that may be read. The watcher gives up at the first one
/// that may not, such as a disk's `lost+found`: then each beside it is watched by itself.
fn tree(
    watcher: &mut RecommendedWatcher,
    directory: &Path,
    depth: usize,
    closed: &mut HashSet<PathBuf>,
) -> notify::Result<()> {
    let refused = match watcher.watch(directory, RecursiveMode::Recursive) {
        Ok(()) => return Ok(()),
        Err(e) => e,
    };
    match &refused.kind {
        ErrorKind::Io(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
        // It went away.
        ErrorKind::PathNotFound => return Ok(()),
        _ => return Err(refused),
    }
    let Ok(entries) = fs::read_dir(directory) else {
        closed.insert(directory.to_owned());
        return Ok(());
    };
    if depth == 0 {
        return Err(refused);
    }
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            tree(watcher, &entry.path(), depth - 1, closed)?;
        }
    }
    Ok(())
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
