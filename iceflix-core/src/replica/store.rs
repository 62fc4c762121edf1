//! Rows on disk: SQLite, on a thread of its own.

use super::rows::{Row, Rows, Stamp};
use rusqlite::{Connection, params};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
};
use tokio::sync::oneshot;

/// The version of the tables; a file of a later one is not opened.
const SCHEMA: i64 = 1;

/// The database could not be used.
#[derive(Debug, thiserror::Error)]
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
        "the database {path} was written by a later version of IceFlix (schema {found}, this one knows {SCHEMA}); update this program"
    )]
    Later {
        /// Which file.
        path: String,
        /// Its version.
        found: i64,
    },
    /// It could not be written.
    #[error("the database cannot be written: {0}")]
    Write(#[source] Arc<rusqlite::Error>),
    /// Its thread has ended.
    #[error("the database is closed")]
    Closed,
}

type Written = oneshot::Sender<Result<(), StoreError>>;

/// A handle to the thread that writes. Dropping the last one ends it after its last write.
#[derive(Debug, Clone)]
pub(super) struct Store {
    jobs: mpsc::Sender<(Vec<(String, Row)>, Written)>,
}

impl Store {
    /// Opens the database and reads all rows.
    ///
    /// `growing`: see [`Rows::new`].
    pub(super) async fn open(
        path: &Path,
        growing: &'static [&'static str],
    ) -> Result<(Self, Rows), StoreError> {
        let path = path.to_owned();
        let (jobs, inbox) = mpsc::channel();
        let (opened, result) = oneshot::channel();
        let thread = std::thread::Builder::new().name("rows".into());
        thread
            .spawn(move || match open(&path, growing) {
                Ok((mut connection, rows)) => {
                    if opened.send(Ok(rows)).is_ok() {
                        write_all(&mut connection, &inbox, growing);
                    }
                }
                Err(error) => drop(opened.send(Err(error))),
            })
            .map_err(|_| StoreError::Closed)?;
        let rows = result.await.map_err(|_| StoreError::Closed)??;
        Ok((Self { jobs }, rows))
    }

    /// Writes rows; they are on disk when it returns.
    pub(super) async fn write(&self, rows: Vec<(String, Row)>) -> Result<(), StoreError> {
        let (written, result) = oneshot::channel();
        self.jobs
            .send((rows, written))
            .map_err(|_| StoreError::Closed)?;
        result.await.map_err(|_| StoreError::Closed)?
    }
}

fn open(
    path: &PathBuf,
    growing: &'static [&'static str],
) -> Result<(Connection, Rows), StoreError> {
    let failed = |error: rusqlite::Error| StoreError::Open {
        path: path.display().to_string(),
        reason: error.to_string(),
    };
    let connection = Connection::open(path).map_err(failed)?;
    let found: i64 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(failed)?;
    if found > SCHEMA {
        return Err(StoreError::Later {
            path: path.display().to_string(),
            found,
        });
    }
    // FULL makes each commit durable in WAL mode too (SQLite's documentation of `synchronous`).
    connection
        .execute_batch(&format!(
            "PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             CREATE TABLE IF NOT EXISTS rows (
                 key TEXT PRIMARY KEY, stamp TEXT NOT NULL, value TEXT
             ) WITHOUT ROWID;
             PRAGMA user_version = {SCHEMA};"
        ))
        .map_err(failed)?;
    let mut rows = Rows::new(growing);
    {
        let mut statement = connection
            .prepare("SELECT key, stamp, value FROM rows")
            .map_err(failed)?;
        let mut found = statement.query([]).map_err(failed)?;
        while let Some(row) = found.next().map_err(failed)? {
            let key: String = row.get(0).map_err(failed)?;
            let stamp: String = row.get(1).map_err(failed)?;
            let value: Option<String> = row.get(2).map_err(failed)?;
            let value = value.map(|text| serde_json::from_str(&text)).transpose();
            match (Stamp::parse(&stamp), value) {
                (Some(stamp), Ok(value)) => {
                    rows.merge([(key, Row { stamp, value })]);
                }
                _ => tracing::error!(key, "a damaged row was passed over"),
            }
        }
    }
    Ok((connection, rows))
}

/// Writes what comes, all that waits in one transaction, until the last handle is gone.
fn write_all(
    connection: &mut Connection,
    inbox: &mpsc::Receiver<(Vec<(String, Row)>, Written)>,
    growing: &[&str],
) {
    while let Ok(first) = inbox.recv() {
        let mut jobs = vec![first];
        while jobs.len() < 256
            && let Ok(job) = inbox.try_recv()
        {
            jobs.push(job);
        }
        let rows = jobs.iter().flat_map(|(rows, _)| rows);
        let result = write(connection, rows, growing).map_err(Arc::new);
        for (_, written) in jobs {
            // The asker may have given up; the rows are written all the same.
            let _ = written.send(result.clone().map_err(StoreError::Write));
        }
    }
}

fn write<'a>(
    connection: &mut Connection,
    rows: impl Iterator<Item = &'a (String, Row)>,
    growing: &[&str],
) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    {
        // As rows in memory merge (`Row::wins_over`): no value's JSON is empty, so the empty text is
        // a tombstone's.
        let mut upsert = transaction.prepare_cached(
            "INSERT INTO rows (key, stamp, value) VALUES (?1, ?2, ?3)
             ON CONFLICT (key) DO UPDATE SET stamp = excluded.stamp, value = excluded.value
             WHERE excluded.stamp > rows.stamp OR excluded.stamp = rows.stamp
                 AND ifnull(excluded.value, '') > ifnull(rows.value, '')",
        )?;
        // Numbers here are below 2^63: microseconds of some time.
        let mut grow = transaction.prepare_cached(
            "INSERT INTO rows (key, stamp, value) VALUES (?1, ?2, ?3)
             ON CONFLICT (key) DO UPDATE SET
                 stamp = max(excluded.stamp, rows.stamp),
                 value = CASE
                     WHEN ifnull(CAST(excluded.value AS INTEGER), -1) > ifnull(CAST(rows.value AS INTEGER), -1)
                     THEN excluded.value ELSE rows.value END",
        )?;
        for (key, row) in rows {
            let value = row.value.as_ref().map(serde_json::Value::to_string);
            let statement = match Rows::grows(growing, key) {
                true => &mut grow,
                false => &mut upsert,
            };
            statement.execute(params![key, row.stamp.as_str(), value])?;
        }
    }
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const GROWING: &[&str] = &["epoch/"];

    fn row(time: u64, value: Option<serde_json::Value>) -> Row {
        let stamp = Stamp::parse(&format!("{time:016x}-{:032x}", 1)).unwrap();
        Row { stamp, value }
    }

    #[tokio::test]
    async fn rows_survive_and_the_later_write_wins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.sqlite");
        let (store, rows) = Store::open(&path, GROWING).await.unwrap();
        assert_eq!(rows, Rows::new(GROWING));
        for (key, row) in [
            ("a", row(2, Some(json!({"n": 2})))),
            ("a", row(1, Some(json!({"n": 1})))),
            ("b", row(1, Some(json!(1)))),
            ("b", row(2, None)),
        ] {
            store.write(vec![(key.into(), row)]).await.unwrap();
        }
        drop(store);
        let (_store, rows) = Store::open(&path, GROWING).await.unwrap();
        assert_eq!(rows.get("a"), Some(&json!({"n": 2})));
        assert_eq!(rows.get("b"), None);
        assert!(
            !rows.lacks("b", &row(2, None).stamp),
            "the tombstone is kept"
        );
    }

    #[tokio::test]
    async fn rows_of_one_stamp_end_on_disk_as_in_memory() {
        let values = [None, Some(json!("x")), Some(json!("y")), Some(json!(10))];
        for first in &values {
            for second in &values {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("rows.sqlite");
                let (store, mut memory) = Store::open(&path, GROWING).await.unwrap();
                for value in [first, second] {
                    let written = vec![("a".to_owned(), row(0, value.clone()))];
                    memory.merge(written.clone());
                    store.write(written).await.unwrap();
                }
                drop(store);
                let (_store, disk) = Store::open(&path, GROWING).await.unwrap();
                assert_eq!(disk, memory, "{first:?} {second:?}");
            }
        }
    }

    #[tokio::test]
    async fn what_grows_ends_on_disk_as_in_memory() {
        let values = [(3, Some(json!(9))), (1, Some(json!(10))), (2, None)];
        for order in [[0, 1, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("rows.sqlite");
            let (store, mut memory) = Store::open(&path, GROWING).await.unwrap();
            for (time, value) in order.map(|n: usize| values[n].clone()) {
                let written = vec![("epoch/ada".to_owned(), row(time, value))];
                memory.merge(written.clone());
                store.write(written).await.unwrap();
            }
            drop(store);
            let (_store, disk) = Store::open(&path, GROWING).await.unwrap();
            assert_eq!(disk, memory, "{order:?}");
            assert_eq!(disk.get("epoch/ada"), Some(&json!(10)));
        }
    }

    #[tokio::test]
    async fn a_file_of_a_later_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.sqlite");
        drop(Store::open(&path, GROWING).await.unwrap());
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch("PRAGMA user_version = 99")
            .unwrap();
        assert!(matches!(
            Store::open(&path, GROWING).await,
            Err(StoreError::Later { found: 99, .. })
        ));
    }

    #[tokio::test]
    async fn a_file_that_is_no_database_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.sqlite");
        std::fs::write(
            &path,
            "this is not a database, it is a text of some length".repeat(50),
        )
        .unwrap();
        let error = Store::open(&path, GROWING).await.unwrap_err().to_string();
        assert!(error.contains("rows.sqlite"), "{error}");
    }
}
