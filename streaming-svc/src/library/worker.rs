//! The threads that hash films and have them examined.

use super::{
    Shared,
    hash::{Hashed, Stamp, hash_file},
    walk::said,
};
use crate::{
    facts::Facts,
    probe::{ProbeCommand, Prober},
};
use iceflix_core::api::MediaId;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// An examining process that has nothing to do for this long is ended.
const IDLE: Duration = Duration::from_secs(30);

/// A file to be looked at.
pub(super) struct Job {
    pub path: PathBuf,
    pub stamp: Stamp,
    /// Its hash, when only the examination is wanted.
    pub id: Option<MediaId>,
}

/// What came of it.
pub(super) enum Outcome {
    /// It is a film. `lasting`: the facts follow from the content, and may be kept.
    Film {
        id: MediaId,
        facts: Facts,
        lasting: bool,
    },
    /// It changed meanwhile.
    Changed,
    /// It cannot be read.
    Failed(String),
    /// All is ending.
    Cancelled,
}

/// Starts a worker. It ends when the sender of its jobs is dropped.
pub(super) fn start<M: Send + 'static>(
    number: usize,
    jobs: Receiver<Job>,
    done: Sender<M>,
    report: impl Fn(Stamp, Outcome) -> M + Send + 'static,
    shared: Arc<Shared>,
    probe: ProbeCommand,
    cancel: CancellationToken,
) -> io::Result<JoinHandle<()>> {
    let run = move || {
        let mut prober = Prober::new(probe);
        loop {
            match jobs.recv_timeout(IDLE) {
                Ok(job) => {
                    let outcome = look_at(&job, &shared, &mut prober, &cancel);
                    if done.send(report(job.stamp, outcome)).is_err() {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => prober.rest(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    };
    thread::Builder::new()
        .name(format!("library-{number}"))
        .spawn(run)
}

fn look_at(job: &Job, shared: &Shared, prober: &mut Prober, cancel: &CancellationToken) -> Outcome {
    let id = match job.id {
        Some(id) => id,
        None => {
            let counted = |bytes| {
                shared.hashed_bytes.fetch_add(bytes, Ordering::Relaxed);
                !cancel.is_cancelled()
            };
            match hash_file(&job.path, &job.stamp, counted) {
                Hashed::Is(id) => {
                    shared.hashed_files.fetch_add(1, Ordering::Relaxed);
                    id
                }
                Hashed::Changed => return Outcome::Changed,
                Hashed::Cancelled => return Outcome::Cancelled,
                Hashed::Failed(e) => return Outcome::Failed(said(&e)),
            }
        }
    };
    let Some(verdict) = prober.examine(&job.path, &|| !cancel.is_cancelled()) else {
        return Outcome::Cancelled;
    };
    // What was examined must be what was hashed.
    if !is_still(&job.path, &job.stamp) {
        return Outcome::Changed;
    }
    Outcome::Film {
        id,
        facts: verdict.facts,
        lasting: verdict.lasting,
    }
}

/// Whether the file at `path` has that stamp.
fn is_still(path: &Path, stamp: &Stamp) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() && Stamp::of(&meta) == *stamp)
}
