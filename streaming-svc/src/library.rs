//! The films of one node: found, hashed, examined, and kept true while files come and go.
//!
//! | module | what it is |
//! |---|---|
//! | `walk` | which files under the media directories count, and what is wrong with the others |
//! | `hash` | a file's identity (its stamp) and its content's SHA-256 |
//! | `cache` | what was learned of a file, kept over restarts, so that none is hashed twice |
//! | `watch` | being told of changes instead of looking |
//! | `index` | which film is at which path: pure, files in, events out |
//! | `worker` | the threads that hash, and have the file examined |
//! | `scanner` | the thread that ties these together |
//!
//! All of it blocks, so all of it runs on threads of its own; the async side sees a
//! [`Library`] (what is there now) and a channel of [`LibraryEvent`]s (what changed).

mod cache;
pub mod hash;
mod index;
mod name;
mod scanner;
mod walk;
mod watch;
mod worker;

pub use name::film_name;

use crate::{facts::Facts, probe::ProbeCommand};
use iceflix_core::api::MediaId;
use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{mpsc, watch as signal};
use tokio_util::sync::CancellationToken;

/// How many events wait for a slow reader before they are kept back on the scanner's side.
const EVENTS: usize = 256;

/// How the library works.
#[derive(Debug, Clone)]
pub struct LibraryConfig {
    /// The directories with films, each looked through with all that is below it.
    pub media: Vec<PathBuf>,
    /// Where what was learned is kept (`library.sqlite`); made if it is missing.
    pub state_dir: PathBuf,
    /// Threads that hash; 0 means half of the processors, at least one.
    pub workers: usize,
    /// How often everything is looked through although nothing was reported.
    pub rescan_interval: Duration,
    /// For how long a file must not change before it counts.
    pub settle: Duration,
    /// What examines files, in a process of its own.
    pub probe_command: ProbeCommand,
}

impl Default for LibraryConfig {
    /// No directories, state in the working directory, a rescan every 30 s, files settle in 1 s.
    fn default() -> Self {
        Self {
            media: Vec::new(),
            state_dir: PathBuf::from("."),
            workers: 0,
            rescan_interval: Duration::from_secs(30),
            settle: Duration::from_secs(1),
            probe_command: ProbeCommand::default(),
        }
    }
}

/// Why the library could not start.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// The state directory cannot be made.
    #[error("the state directory {path} cannot be made: {source}; give one that can be written")]
    StateDir {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The cache of hashes cannot be opened, nor made anew.
    #[error("{path} cannot be opened: {source}; check that its directory can be written")]
    Cache {
        /// The cache's file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A damaged cache could not be moved out of the way.
    #[error("{path} is damaged and cannot be renamed: {source}; remove it by hand")]
    SetAside {
        /// The cache's file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system gave no thread.
    #[error("a thread of the library cannot be started: {0}")]
    Thread(io::Error),
}

/// A film of this node. One that cannot be played is one too, with `facts.unplayable` set.
#[derive(Debug, Clone, PartialEq)]
pub struct Film {
    /// The SHA-256 of its content.
    pub id: MediaId,
    /// Its file's name without the extension: see [`film_name`].
    pub name: String,
    /// Its file, one of them when several have the same content. Need not be UTF-8.
    pub path: PathBuf,
    /// The file's size, in bytes.
    pub size: u64,
    /// What is in it.
    pub facts: Facts,
}

/// A change in the library.
#[derive(Debug, Clone, PartialEq)]
pub enum LibraryEvent {
    /// A film is here that was not.
    Added(Arc<Film>),
    /// The last file with that content is gone.
    Removed(MediaId),
    /// The film's file, name or facts are others now.
    Changed(Arc<Film>),
}

/// A directory or file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub path: PathBuf,
    /// Why, for people.
    pub reason: String,
}

/// How far the library is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// The first look has not ended.
    Scanning,
    /// What was there at the start is known.
    Scanned,
    /// All threads and the examining process are gone.
    Stopped,
}

/// What the scanner's threads and the handles share.
struct Shared {
    films: RwLock<HashMap<MediaId, Arc<Film>>>,
    problems: RwLock<Vec<Problem>>,
    hashed_files: AtomicU64,
    hashed_bytes: AtomicU64,
    phase: signal::Sender<Phase>,
}

impl Shared {
    /// Makes an event's outcome visible to whoever asks.
    fn apply(&self, event: &LibraryEvent) {
        let mut films = self.films.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            LibraryEvent::Added(film) | LibraryEvent::Changed(film) => {
                films.insert(film.id, Arc::clone(film));
            }
            LibraryEvent::Removed(id) => {
                films.remove(id);
            }
        }
    }
}

/// The films of this node, as they are now. Cheap to clone.
#[derive(Clone)]
pub struct Library {
    shared: Arc<Shared>,
}

impl Library {
    /// Starts looking. Returns at once; films arrive as events, and all stops with the token.
    /// Must be called inside a tokio runtime.
    ///
    /// Directories that are missing, empty or unreadable are no error: they are listed under
    /// [`Library::problems`], and looked for again.
    ///
    /// # Errors
    ///
    /// When the state directory or the cache in it cannot be written, or no thread can be started.
    pub async fn start(
        config: LibraryConfig,
        cancel: CancellationToken,
    ) -> Result<(Self, mpsc::Receiver<LibraryEvent>), LibraryError> {
        let (events, receiver) = mpsc::channel(EVENTS);
        let shared = Arc::new(Shared {
            films: RwLock::default(),
            problems: RwLock::default(),
            hashed_files: AtomicU64::new(0),
            hashed_bytes: AtomicU64::new(0),
            phase: signal::Sender::new(Phase::Scanning),
        });
        let state_dir = config.state_dir.clone();
        let cache = match tokio::task::spawn_blocking(move || cache::Cache::open(&state_dir)).await
        {
            Ok(opened) => opened?,
            // The runtime is shutting down, or the task panicked, which it has no reason to.
            Err(broken) => return Err(LibraryError::Thread(io::Error::other(broken))),
        };
        scanner::start(config, cache, Arc::clone(&shared), events, cancel)?;
        Ok((Self { shared }, receiver))
    }

    /// The film with that id, if this node has it now.
    pub fn get(&self, id: &MediaId) -> Option<Arc<Film>> {
        let films = self.shared.films.read();
        let films = films.unwrap_or_else(PoisonError::into_inner);
        films.get(id).cloned()
    }

    /// All films, by id.
    pub fn films(&self) -> Vec<Arc<Film>> {
        let films = self.shared.films.read();
        let films = films.unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = films.values().cloned().collect();
        drop(films);
        all.sort_unstable_by_key(|film| film.id);
        all
    }

    /// What cannot be used and why, by path.
    pub fn problems(&self) -> Vec<Problem> {
        let problems = self.shared.problems.read();
        problems.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until all that was there at the start is known (or the library has stopped).
    pub async fn scanned(&self) {
        self.reached(Phase::Scanned).await;
    }

    /// Waits until the library's threads and processes are gone, after its token was cancelled.
    pub async fn stopped(&self) {
        self.reached(Phase::Stopped).await;
    }

    async fn reached(&self, wanted: Phase) {
        let mut phase = self.shared.phase.subscribe();
        // The sender lives as long as `self` does: this cannot fail.
        let _ = phase.wait_for(|now| *now >= wanted).await;
    }

    /// How many files were hashed since the start.
    pub fn hashed_files(&self) -> u64 {
        self.shared.hashed_files.load(Ordering::Relaxed)
    }

    /// How many bytes were hashed since the start.
    pub fn hashed_bytes(&self) -> u64 {
        self.shared.hashed_bytes.load(Ordering::Relaxed)
    }
}
