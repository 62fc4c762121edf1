//! Keeping rows: what a database has to be able to do, and the thread on which it does.

use super::rows::{Row, Rows};
use std::sync::{Arc, mpsc};
use tokio::sync::oneshot;

/// A database that keeps one instance's rows. There is one, SQLite in a file ([`super::Sqlite`]);
/// another, over the network, can take its place.
///
/// What it does may take long: it is called on a thread of its own, one thing at a time.
pub trait Store: Send + 'static {
    /// All rows that are kept, tombstones too.
    ///
    /// # Errors
    /// When they cannot be read.
    fn rows(&mut self) -> Result<Rows, StoreError>;

    /// Keeps rows: each merges with what is kept as it does in memory ([`Rows::merge`]), in any
    /// order. All of them are durable when it returns; none was taken when it fails, and it may be
    /// tried again.
    ///
    /// # Errors
    /// When they could not be kept.
    fn write(&mut self, rows: &[(String, Row)]) -> Result<(), StoreError>;

    /// Whether rows could be kept now: makes something durable that is no row, some tens of KiB,
    /// so that a disk without room for the next rows refuses it, and forgets it again. Asked only
    /// after a write has failed, here or at another instance, and then every few seconds.
    ///
    /// # Errors
    /// When it could not be made durable.
    fn probe(&mut self) -> Result<(), StoreError>;
}

/// Rows could not be kept.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// It could not be opened.
    #[error("the database {path} cannot be opened: {reason}")]
    Open {
        /// Which file.
        path: String,
        /// Why.
        reason: String,
    },
    /// It was written by a later version of this program.
    #[error(
        "the database {path} was written by a later version of IceFlix (schema {found}, this one knows {known}); update this program"
    )]
    Later {
        /// Which file.
        path: String,
        /// Its version.
        found: i64,
        /// The latest version that this program knows.
        known: i64,
    },
    /// It was written by an earlier version, and could not be brought to this one's tables. It is
    /// as it was.
    #[error(
        "the database {path} (schema {found}) could not be brought to schema {wanted} and is as it was: {reason}"
    )]
    Migrate {
        /// Which file.
        path: String,
        /// Its version.
        found: i64,
        /// The version that it should have got.
        wanted: i64,
        /// Why not.
        reason: String,
    },
    /// It could not be written.
    #[error("the database cannot be written: {0}")]
    Write(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// Its thread has ended.
    #[error("the database is closed")]
    Closed,
}

/// Rows to be kept.
struct Job {
    rows: Vec<(String, Row)>,
    /// Whether they are in memory already, and so to be kept sooner or later.
    shown: bool,
    /// Whether it is to be tried to write, if there are no rows.
    probe: bool,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// A handle to the thread that keeps rows. Dropping the last one ends it after its last write.
#[derive(Debug, Clone)]
pub(super) struct Keeper {
    jobs: mpsc::Sender<Job>,
}

impl Keeper {
    /// Opens a database on a thread of its own, and reads all rows.
    pub(super) async fn start<S: Store>(
        open: impl FnOnce() -> Result<S, StoreError> + Send + 'static,
    ) -> Result<(Self, Rows), StoreError> {
        let (jobs, inbox) = mpsc::channel();
        let (opened, result) = oneshot::channel();
        let thread = std::thread::Builder::new().name("rows".into());
        let read = || {
            let mut store = open()?;
            let rows = store.rows()?;
            Ok((store, rows))
        };
        thread
            .spawn(move || match read() {
                Ok((mut store, rows)) => {
                    let mut owed = rows.none();
                    if opened.send(Ok(rows)).is_ok() {
                        keep_all(&mut store, &inbox, &mut owed);
                    }
                }
                Err(error) => drop(opened.send(Err(error))),
            })
            .map_err(|_| StoreError::Closed)?;
        let rows = result.await.map_err(|_| StoreError::Closed)??;
        Ok((Self { jobs }, rows))
    }

    /// Keeps rows that nobody has seen: if that fails, they are forgotten.
    pub(super) async fn write(&self, rows: Vec<(String, Row)>) -> Result<(), StoreError> {
        self.ask(rows, false, false).await
    }

    /// Keeps rows that are shown already: if that fails, it is tried again with all that is to be
    /// kept later.
    pub(super) async fn keep(&self, rows: Vec<(String, Row)>) -> Result<(), StoreError> {
        self.ask(rows, true, false).await
    }

    /// Waits until everything is kept that was to be, and tries again what could not.
    pub(super) async fn all_kept(&self) -> Result<(), StoreError> {
        self.ask(Vec::new(), true, false).await
    }

    /// The same, and when there is nothing to be kept tries to write all the same
    /// ([`Store::probe`]).
    pub(super) async fn probe(&self) -> Result<(), StoreError> {
        self.ask(Vec::new(), true, true).await
    }

    async fn ask(
        &self,
        rows: Vec<(String, Row)>,
        shown: bool,
        probe: bool,
    ) -> Result<(), StoreError> {
        let (done, result) = oneshot::channel();
        let job = Job {
            rows,
            shown,
            probe,
            done,
        };
        self.jobs.send(job).map_err(|_| StoreError::Closed)?;
        result.await.map_err(|_| StoreError::Closed)?
    }
}

/// Keeps what comes, all that waits at once, until the last handle is gone. `owed`: what is shown
/// and could not be kept.
fn keep_all(store: &mut impl Store, inbox: &mpsc::Receiver<Job>, owed: &mut Rows) {
    while let Ok(first) = inbox.recv() {
        let mut jobs = vec![first];
        while jobs.len() < 256
            && let Ok(job) = inbox.try_recv()
        {
            jobs.push(job);
        }
        jobs.sort_by_key(|job| !job.shown);
        let mut rows = owed.take();
        let mut shown = rows.len();
        for job in &mut jobs {
            rows.append(&mut job.rows);
            if job.shown {
                shown = rows.len();
            }
        }
        let probe = jobs.iter().any(|job| job.probe);
        let result = match rows.is_empty() {
            true if probe => store.probe(),
            true => Ok(()),
            false => store.write(&rows),
        };
        if result.is_err() {
            rows.truncate(shown);
            owed.merge(rows);
        }
        for job in jobs {
            // The asker may have given up; the rows are kept all the same.
            let _ = job.done.send(result.clone());
        }
    }
}
