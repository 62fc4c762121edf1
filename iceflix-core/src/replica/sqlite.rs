//! Rows in SQLite.

use super::{
    rows::{Row, Rows, Stamp},
    store::{Store, StoreError},
};
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// How the tables came to be: each step takes a file from one version, its `user_version`, to the
/// next; an empty file's is 0. Steps that a release had are never changed, only followed by others.
const STEPS: &[&str] = &[
    // It may be there: a file was once given its version in a transaction of its own.
    "CREATE TABLE IF NOT EXISTS rows (
         key TEXT PRIMARY KEY, stamp TEXT NOT NULL, value TEXT
     ) WITHOUT ROWID",
];

/// Rows in a file of SQLite's.
#[derive(Debug)]
pub struct Sqlite {
    connection: Connection,
    path: PathBuf,
    growing: &'static [&'static str],
}

impl Sqlite {
    /// Opens a file; made if there is none, and brought to this version's tables if it is of an
    /// earlier one. `growing`: see [`Rows::new`].
    ///
    /// # Errors
    /// When it cannot be opened, or a later version of this program wrote it.
    pub fn open(path: &Path, growing: &'static [&'static str]) -> Result<Self, StoreError> {
        let failed = |error| unreadable(path, &error);
        let mut connection = Connection::open(path).map_err(failed)?;
        migrate(&mut connection, path, STEPS)?;
        // FULL makes each commit durable in WAL mode too (SQLite's documentation of `synchronous`).
        connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")
            .map_err(failed)?;
        Ok(Self {
            connection,
            path: path.to_owned(),
            growing,
        })
    }
}

impl Store for Sqlite {
    fn rows(&mut self) -> Result<Rows, StoreError> {
        let failed = |error| unreadable(&self.path, &error);
        let mut rows = Rows::new(self.growing);
        let mut statement = self
            .connection
            .prepare("SELECT key, stamp, value FROM rows")
            .map_err(failed)?;
        let mut found = statement.query([]).map_err(failed)?;
        while let Some(row) = found.next().map_err(failed)? {
            let (key, stamp, value): (String, String, Option<String>) =
                row.try_into().map_err(failed)?;
            match read(self.growing, &key, &stamp, value.as_deref()) {
                Some(row) => drop(rows.merge([(key, row)])),
                None => tracing::error!(key, "a damaged row was passed over"),
            }
        }
        Ok(rows)
    }

    fn write(&mut self, rows: &[(String, Row)]) -> Result<(), StoreError> {
        let written = write(&mut self.connection, rows, self.growing);
        written.map_err(|error| StoreError::Write(Arc::new(error)))
    }

    fn probe(&mut self) -> Result<(), StoreError> {
        let probed = probe(&mut self.connection);
        probed.map_err(|error| StoreError::Write(Arc::new(error)))
    }
}

fn unreadable(path: &Path, error: &rusqlite::Error) -> StoreError {
    StoreError::Open {
        path: path.display().to_string(),
        reason: error.to_string(),
    }
}

/// Takes the steps that this file has not taken, all of them or none. Refuses one that has taken
/// more, before anything is written to it.
///
/// No copy is made of a file that is changed: a step that fails leaves nothing behind, and a copy of
/// password hashes and sessions beside the rows would be one more thing to guard and to clear away.
fn migrate(connection: &mut Connection, path: &Path, steps: &[&str]) -> Result<(), StoreError> {
    let found = connection.query_row("PRAGMA user_version", [], |row| row.get(0));
    let found: i64 = found.map_err(|error| unreadable(path, &error))?;
    let path = path.display().to_string();
    let known = i64::try_from(steps.len()).unwrap_or(i64::MAX);
    // A version below 0 is no version of ours: as if from the farthest future.
    let taken = usize::try_from(found).unwrap_or(usize::MAX);
    match steps.get(taken..) {
        None => Err(StoreError::Later { path, found, known }),
        Some([]) => Ok(()),
        Some(missing) => take(connection, missing, known).map_err(|error| StoreError::Migrate {
            path,
            found,
            wanted: known,
            reason: error.to_string(),
        }),
    }
}

/// Takes steps to a version, in one transaction.
fn take(connection: &mut Connection, steps: &[&str], version: i64) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for step in steps {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", version)?;
    transaction.commit()
}

/// Reads a row; `None` when it is damaged.
fn read(growing: &[&str], key: &str, stamp: &str, value: Option<&str>) -> Option<Row> {
    let stamp = Stamp::parse(stamp)?;
    let value = match value.map(serde_json::from_str).transpose() {
        Ok(value) => value,
        // When something was said there counts by itself.
        Err(_) if Rows::grows(growing, key) => None,
        Err(_) => return None,
    };
    Some(Row { stamp, value })
}

fn write(
    connection: &mut Connection,
    rows: &[(String, Row)],
    growing: &[&str],
) -> rusqlite::Result<()> {
    // What is kept is read before it is replaced: no other may write in between.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    {
        let mut known =
            transaction.prepare_cached("SELECT stamp, value FROM rows WHERE key = ?1")?;
        let mut replace = transaction.prepare_cached(
            "INSERT OR REPLACE INTO rows (key, stamp, value) VALUES (?1, ?2, ?3)",
        )?;
        for (key, row) in rows {
            let kept = known.query_row([key], |columns| {
                let (stamp, value): (String, Option<String>) = columns.try_into()?;
                Ok(read(growing, key, &stamp, value.as_deref()))
            });
            // The same function decides as in memory, so that both come to the same.
            let grows = Rows::grows(growing, key);
            let kept = kept.optional()?.flatten();
            if kept.is_none_or(|kept| row.wins_over(&kept, grows)) {
                let value = row.value.as_ref().map(Value::to_string);
                replace.execute(params![key, row.stamp.as_str(), value])?;
            }
        }
    }
    transaction.commit()
}

/// Writes a table of 64 KiB and drops it. In two transactions: what one makes and drops never gets
/// to the disk. Where the second fails a table stays that the next probe takes and no version minds,
/// and the disk takes no writes either. Random, since a file system may have room for zeros only.
fn probe(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(
        "CREATE TABLE IF NOT EXISTS probe (bytes BLOB);
         INSERT INTO probe VALUES (randomblob(65536))",
    )?;
    transaction.commit()?;
    connection.execute_batch("DROP TABLE probe")
}

#[cfg(test)]
mod tests {
    use super::{super::rows::Grown, *};
    use proptest::prelude::*;
    use serde_json::json;

    const GROWING: &[&str] = &["epoch/"];

    fn opened(path: &Path) -> (Sqlite, Rows) {
        let mut store = Sqlite::open(path, GROWING).unwrap();
        let rows = store.rows().unwrap();
        (store, rows)
    }

    fn row(time: u64, value: Option<Value>) -> Row {
        let stamp = Stamp::parse(&format!("{time:016x}-{:032x}", 1)).unwrap();
        Row { stamp, value }
    }

    #[test]
    fn rows_survive_and_the_later_write_wins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.sqlite");
        let (mut store, rows) = opened(&path);
        assert_eq!(rows, Rows::new(GROWING));
        for (key, row) in [
            ("a", row(2, Some(json!({"n": 2})))),
            ("a", row(1, Some(json!({"n": 1})))),
            ("b", row(1, Some(json!(1)))),
            ("b", row(2, None)),
        ] {
            store.write(&[(key.into(), row)]).unwrap();
        }
        drop(store);
        let (_, rows) = opened(&path);
        assert_eq!(rows.get("a"), Some(&json!({"n": 2})));
        assert_eq!(rows.get("b"), None);
        assert!(
            !rows.lacks("b", &row(2, None).stamp),
            "the tombstone is kept"
        );
    }

    #[test]
    fn rows_of_one_stamp_end_on_disk_as_in_memory() {
        let values = [None, Some(json!("x")), Some(json!("y")), Some(json!(10))];
        for first in &values {
            for second in &values {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("rows.sqlite");
                let (mut store, mut memory) = opened(&path);
                for value in [first, second] {
                    let written = vec![("a".to_owned(), row(0, value.clone()))];
                    memory.merge(written.clone());
                    store.write(&written).unwrap();
                }
                drop(store);
                let (_, disk) = opened(&path);
                assert_eq!(disk, memory, "{first:?} {second:?}");
            }
        }
    }

    /// Rows of few keys, some of which only grow: with the same stamps, with numbers that say more
    /// and less than their stamps, removed, and of a later version.
    fn rows() -> impl Strategy<Value = Vec<(String, Row)>> {
        let value = prop_oneof![
            (0u64..20).prop_map(Value::from),
            Just(json!({ "later": "version" })),
            Just(json!(u64::MAX)),
        ];
        let written = ("(epoch/)?[ab]", 0u64..4, proptest::option::of(value));
        // The times are about milliseconds, as what they say is.
        let written = written.prop_map(|(key, ms, value)| (key, row(ms << 22, value)));
        proptest::collection::vec(written, 0..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// In whatever order and pieces they come.
        #[test]
        fn rows_end_on_disk_as_in_memory(rows in rows(), pieces in 1usize..5) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("rows.sqlite");
            let (mut store, mut memory) = opened(&path);
            for rows in rows.chunks(pieces) {
                memory.merge(rows.to_vec());
                store.write(rows).unwrap();
            }
            drop(store);
            let (_, disk) = opened(&path);
            prop_assert_eq!(disk, memory);
        }
    }

    #[test]
    fn a_probe_leaves_nothing_and_fails_where_a_row_would() {
        let dir = tempfile::tempdir().unwrap();
        let path = file_of_this_version(dir.path());
        let (mut store, before) = opened(&path);
        let made = tables(&store.connection);
        for _ in 0..3 {
            store.probe().unwrap();
        }
        assert_eq!(tables(&store.connection), made);
        assert_eq!(version(&store.connection), 1);
        // What the probes took is free; a row that takes it leaves no room.
        let pages = |store: &Sqlite, pragma: &str| -> i64 {
            let found = store
                .connection
                .pragma_query_value(None, pragma, |row| row.get(0));
            found.unwrap()
        };
        let most = pages(&store, "page_count");
        let set = store
            .connection
            .pragma_update_and_check(None, "max_page_count", most, |row| row.get(0));
        assert_eq!(set, Ok(most));
        store.probe().unwrap();
        let large = |key: &str| [(key.to_owned(), row(1, Some(json!("x".repeat(40 << 10)))))];
        store.write(&large("large")).unwrap();
        for _ in 0..2 {
            let refused = store.probe().unwrap_err();
            assert!(matches!(refused, StoreError::Write(_)), "{refused}");
            store.write(&large("next")).unwrap_err();
        }
        assert_eq!(tables(&store.connection), made);
        drop(store);
        let (mut store, rows) = opened(&path);
        assert!(rows.get("large").is_some() && rows.get("a") == before.get("a"));
        store.probe().unwrap();
    }

    #[test]
    fn what_only_grows_counts_when_it_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.sqlite");
        let (mut store, _) = opened(&path);
        for key in ["epoch/ada", "other"] {
            let written = vec![(key.to_owned(), row(5 << 32, Some(json!(4000))))];
            store.write(&written).unwrap();
        }
        drop(store);
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch("UPDATE rows SET value = '40{'")
            .unwrap();
        let (mut store, rows) = opened(&path);
        let (since, readable) = (5000, false);
        assert_eq!(rows.grown("epoch/ada"), Some(Grown { since, readable }));
        assert_eq!(rows.get("other"), None, "passed over");
        // Whatever is written takes the place of what is damaged, and is no less.
        let written = ["epoch/ada", "other"].map(|key| {
            let row = row(6 << 32, Some(json!(5001)));
            (key.to_owned(), row)
        });
        store.write(&written).unwrap();
        drop(store);
        let (_, rows) = opened(&path);
        for key in ["epoch/ada", "other"] {
            assert_eq!(rows.get(key), Some(&json!(5001)));
        }
    }

    /// Two steps of some later version: one adds to what there is, one makes something of it.
    const LATER: [&str; 3] = [
        STEPS[0],
        "ALTER TABLE rows ADD COLUMN origin TEXT NOT NULL DEFAULT 'here'",
        "CREATE TABLE keys (key TEXT PRIMARY KEY); INSERT INTO keys SELECT key FROM rows",
    ];

    /// A file of this version with a row in it.
    fn file_of_this_version(dir: &Path) -> PathBuf {
        let path = dir.join("rows.sqlite");
        let (mut store, _) = opened(&path);
        let written = [("a".to_owned(), row(1, Some(json!(1))))];
        store.write(&written).unwrap();
        path
    }

    fn version(connection: &Connection) -> i64 {
        let version = connection.query_row("PRAGMA user_version", [], |row| row.get(0));
        version.unwrap()
    }

    fn tables(connection: &Connection) -> Vec<String> {
        let mut statement = connection
            .prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")
            .unwrap();
        let tables = statement.query_map([], |row| row.get(0)).unwrap();
        tables.map(Result::unwrap).collect()
    }

    #[test]
    fn a_file_of_an_earlier_version_is_brought_to_this_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = file_of_this_version(dir.path());
        let mut connection = Connection::open(&path).unwrap();
        assert_eq!(version(&connection), 1);
        // Once, however often it is opened.
        for _ in 0..2 {
            migrate(&mut connection, &path, &LATER).unwrap();
            assert_eq!(version(&connection), 3);
            let kept: String = connection
                .query_row("SELECT origin FROM rows JOIN keys USING (key)", [], |row| {
                    row.get(0)
                })
                .unwrap();
            assert_eq!(kept, "here");
        }
        // An empty file takes all steps, and ends with the same tables.
        let fresh = dir.path().join("fresh.sqlite");
        let mut fresh_connection = Connection::open(&fresh).unwrap();
        migrate(&mut fresh_connection, &fresh, &LATER).unwrap();
        assert_eq!(tables(&fresh_connection), tables(&connection));
        assert_eq!(version(&fresh_connection), 3);
    }

    #[test]
    fn a_step_that_fails_leaves_the_file_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = file_of_this_version(dir.path());
        let mut connection = Connection::open(&path).unwrap();
        let before = tables(&connection);
        let steps = [
            LATER[0],
            LATER[1],
            LATER[2],
            "INSERT INTO nowhere VALUES (1)",
        ];
        let failed = migrate(&mut connection, &path, &steps)
            .unwrap_err()
            .to_string();
        for said in ["rows.sqlite", "schema 1", "schema 4", "nowhere"] {
            assert!(failed.contains(said), "{failed}");
        }
        assert_eq!((tables(&connection), version(&connection)), (before, 1));
        drop(connection);
        let (_, rows) = opened(&path);
        assert_eq!(rows.get("a"), Some(&json!(1)));
    }

    #[test]
    fn a_file_of_a_later_version_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = file_of_this_version(dir.path());
        for found in [99, -1] {
            let connection = Connection::open(&path).unwrap();
            let set = format!("PRAGMA user_version = {found}");
            connection.execute_batch(&set).unwrap();
            drop(connection);
            let before = std::fs::read(&path).unwrap();
            let refused = Sqlite::open(&path, GROWING).unwrap_err();
            let said = refused.to_string();
            assert!(
                matches!(refused, StoreError::Later { known: 1, .. }),
                "{said}"
            );
            assert!(said.contains("rows.sqlite") && said.contains("update this program"));
            assert!(said.contains(&found.to_string()), "{said}");
            assert_eq!(std::fs::read(&path).unwrap(), before);
        }
    }

    #[test]
    fn a_file_that_is_no_database_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.sqlite");
        std::fs::write(
            &path,
            "this is not a database, it is a text of some length".repeat(50),
        )
        .unwrap();
        let error = Sqlite::open(&path, GROWING).unwrap_err().to_string();
        assert!(error.contains("rows.sqlite"), "{error}");
    }
}
