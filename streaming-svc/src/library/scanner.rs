//! The thread that knows every file: it looks, waits for files to settle, hands them to the
//! workers, and tells what came of it.

mod files;

use super::{
    LibraryConfig, LibraryError, LibraryEvent, Phase, Problem, Shared,
    cache::Cache,
    hash::Stamp,
    index::Index,
    walk,
    watch::Watch,
    worker::{self, Job, Outcome},
};
use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    path::PathBuf,
    sync::{
        Arc, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tokio::sync::mpsc as events;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How long reports of changes are gathered before a look.
const DEBOUNCE: Duration = Duration::from_millis(250);

/// How often it is looked whether media directories came or went between rescans: nothing reports
/// that of directories above them, or of disks.
const ROOTS: Duration = Duration::from_secs(1);

/// How long a file that could not be read is left alone: doubled each time, up to the second.
const RETRY: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(3600));

/// What wakes the scanner.
enum Msg {
    /// Something changed under a media directory.
    Dirty,
    /// A worker is done with the file of that stamp, and idle.
    Done(usize, Stamp, Outcome),
    /// End.
    Stop,
}

/// What is known of a file.
struct File {
    stamp: Stamp,
    status: Status,
}

enum Status {
    /// It may still be written: it has had this stamp since.
    Settling(Instant),
    /// A worker has it, or will.
    Working,
    /// It is in the index.
    Ready,
    /// It cannot be read. Its permissions had last changed then.
    Failed {
        reason: String,
        again: Instant,
        changed: Option<files::ChangeTime>,
    },
}

struct Scanner {
    config: LibraryConfig,
    cache: Cache,
    shared: Arc<Shared>,
    events: events::Sender<LibraryEvent>,
    cancel: CancellationToken,
    files: HashMap<PathBuf, File>,
    /// The files that may still be written.
    settling: HashSet<PathBuf>,
    index: Index,
    /// How long each file that could not be read was last left alone.
    waits: HashMap<PathBuf, Duration>,
    /// The paths that wait for each job: one file can have several.
    jobs: HashMap<Stamp, Vec<PathBuf>>,
    queue: VecDeque<Job>,
    idle: Vec<usize>,
    workers: Vec<Sender<Job>>,
    /// Events for which the channel had no room yet.
    outbox: VecDeque<LibraryEvent>,
    walk_problems: BTreeMap<PathBuf, String>,
    /// When the first look counts as complete although files are still being written.
    patience: Option<Instant>,
}

/// Starts the scanner and its workers.
pub(super) fn start(
    config: LibraryConfig,
    cache: Cache,
    shared: Arc<Shared>,
    events: events::Sender<LibraryEvent>,
    cancel: CancellationToken,
) -> Result<(), LibraryError> {
    let (sender, receiver) = mpsc::channel();
    let half = thread::available_parallelism().map_or(1, |n| n.get() / 2);
    let count = match config.workers {
        0 => half.max(1),
        n => n,
    };
    let mut workers = Vec::new();
    let mut threads = Vec::new();
    for number in 0..count {
        let (jobs, for_worker) = mpsc::channel();
        threads.push(
            worker::start(
                number,
                for_worker,
                sender.clone(),
                move |stamp, outcome| Msg::Done(number, stamp, outcome),
                Arc::clone(&shared),
                config.probe_command.clone(),
                cancel.clone(),
            )
            .map_err(LibraryError::Thread)?,
        );
        workers.push(jobs);
    }
    let (token, on_cancel) = (cancel.clone(), sender.clone());
    let scanner = Scanner {
        config,
        cache,
        shared,
        events,
        cancel,
        files: HashMap::new(),
        settling: HashSet::new(),
        waits: HashMap::new(),
        index: Index::default(),
        jobs: HashMap::new(),
        queue: VecDeque::new(),
        idle: (0..count).collect(),
        workers,
        outbox: VecDeque::new(),
        walk_problems: BTreeMap::new(),
        patience: None,
    };
    thread::Builder::new()
        .name("library".to_owned())
        .spawn(move || scanner.run(sender, &receiver, threads))
        .map_err(LibraryError::Thread)?;
    tokio::spawn(async move {
        token.cancelled().await;
        // The scanner may have ended already.
        let _ = on_cancel.send(Msg::Stop);
    });
    Ok(())
}

impl Scanner {
    fn run(mut self, sender: Sender<Msg>, receiver: &Receiver<Msg>, threads: Vec<JoinHandle<()>>) {
        let mut watch = Watch::new(move || {
            // After the scanner's end nobody wants to know.
            let _ = sender.send(Msg::Dirty);
        });
        let mut next_walk = Instant::now();
        let mut next_roots = Instant::now();
        let mut roots = Vec::new();
        // Looking must not become all that is done where it takes long.
        let mut earliest = Instant::now();
        while !self.cancel.is_cancelled() {
            let now = Instant::now();
            if now >= next_roots {
                next_roots = now + ROOTS;
                if walk::roots(&self.config.media) != roots {
                    next_walk = now;
                }
            }
            if now >= next_walk {
                // Watched first, so that nothing happens unseen between.
                roots = walk::roots(&self.config.media);
                watch.set(&roots);
                let walk = walk::walk(&self.config.media, || !self.cancel.is_cancelled());
                if self.cancel.is_cancelled() {
                    break;
                }
                self.apply(walk);
                if self.patience.is_none() {
                    self.patience = Some(Instant::now() + 2 * self.config.settle + DEBOUNCE);
                    self.cache.prune();
                }
                let ended = Instant::now();
                next_walk = ended + self.config.rescan_interval;
                earliest = ended + 4 * (ended - now);
            }
            self.settle();
            self.dispatch();
            self.publish();
            let wake = next_walk.min(next_roots).min(self.next_wake());
            match receiver.recv_timeout(wake.saturating_duration_since(Instant::now())) {
                Ok(Msg::Dirty) => {
                    next_walk = next_walk.min(earliest.max(Instant::now() + DEBOUNCE));
                }
                Ok(Msg::Done(worker, stamp, outcome)) => {
                    self.idle.push(worker);
                    self.done(stamp, outcome);
                }
                Ok(Msg::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        let shared = Arc::clone(&self.shared);
        // The workers end when nobody can send them jobs.
        drop((watch, self));
        for thread in threads {
            if thread.join().is_err() {
                warn!("a thread of the library has panicked");
            }
        }
        shared.phase.send_replace(Phase::Stopped);
    }

    /// When to wake although nothing was reported.
    fn next_wake(&self) -> Instant {
        let now = Instant::now();
        let mut wake = now + Duration::from_secs(60);
        if !self.outbox.is_empty() {
            wake = now + Duration::from_millis(20);
        }
        if !self.settling.is_empty() {
            let settle = self.config.settle / 4;
            let often = settle.clamp(Duration::from_millis(20), Duration::from_millis(250));
            wake = wake.min(now + often);
        }
        wake
    }

    /// Shows what is known, and sends the events there is room for.
    fn publish(&mut self) {
        while let Some(event) = self.outbox.pop_front() {
            match self.events.try_send(event) {
                Ok(()) => {}
                Err(events::error::TrySendError::Full(event)) => {
                    self.outbox.push_front(event);
                    break;
                }
                // Nobody listens; the films can still be asked for.
                Err(events::error::TrySendError::Closed(_)) => self.outbox.clear(),
            }
        }
        let mut all = self.walk_problems.clone();
        for (path, file) in &self.files {
            if let Status::Failed { reason, .. } = &file.status {
                all.insert(path.clone(), reason.clone());
            }
        }
        let all = all
            .into_iter()
            .map(|(path, reason)| Problem { path, reason });
        *self
            .shared
            .problems
            .write()
            .unwrap_or_else(PoisonError::into_inner) = all.collect();
        let settled =
            self.settling.is_empty() || self.patience.is_some_and(|until| until <= Instant::now());
        let complete = settled && self.jobs.is_empty();
        if complete && *self.shared.phase.borrow() == Phase::Scanning {
            info!(
                films = self.files.len(),
                "the first look at the films is complete"
            );
            self.shared.phase.send_replace(Phase::Scanned);
        }
    }
}
