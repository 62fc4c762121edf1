//! What was learned of each file, kept over restarts.
//!
//! A cache: losing it costs time and nothing else. So a damaged one is set aside and begun anew,
//! and an error later on is logged and lived with.

use super::{LibraryError, hash::Stamp};
use crate::{facts::Facts, probe};
use iceflix_core::api::MediaId;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Row, params};
use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tracing::warn;

/// The version of the table below, kept in the file. Another one is dropped: it is a cache.
const SCHEMA: i64 = 1;

/// How long a file that is not seen is remembered: a disk may be away for long.
const REMEMBERED: Duration = Duration::from_secs(180 * 24 * 3600);

/// How old a "last seen" may get before it is written again.
const SEEN_WITHIN: Duration = Duration::from_secs(24 * 3600);

/// What the cache knows of a file.
#[derive(Debug, PartialEq)]
pub(super) struct Known {
    /// Its content's hash.
    pub id: MediaId,
    /// What is in it, if this version of the probe looked at it.
    pub facts: Option<Facts>,
}

/// The cache.
pub(super) struct Cache {
    path: PathBuf,
    db: Connection,
    /// An error was logged already.
    complained: bool,
}

impl Cache {
    /// Opens the cache in that directory, making both when they are missing.
    pub(super) fn open(dir: &Path) -> Result<Self, LibraryError> {
        fs::create_dir_all(dir).map_err(|source| LibraryError::StateDir {
            path: dir.to_owned(),
            source,
        })?;
        let path = dir.join("library.sqlite");
        let db = match connect(&path) {
            Ok(db) => db,
            Err(e) if is_damage(&e) => {
                set_aside(&path, &e)?;
                connect(&path).map_err(|source| LibraryError::Cache {
                    path: path.clone(),
                    source,
                })?
            }
            Err(source) => return Err(LibraryError::Cache { path, source }),
        };
        Ok(Self {
            path,
            db,
            complained: false,
        })
    }

    /// What is known of the file: by its path, or by its number on its file system when it was
    /// renamed or has a second name.
    pub(super) fn find(&mut self, path: &Path, stamp: &Stamp) -> Option<Known> {
        let found = look_up(&self.db, path, stamp);
        let (known, seen) = self.usable(found)??;
        if seen.is_none_or(|seen| seen + SEEN_WITHIN.as_secs() < now()) {
            self.put(path, stamp, &known.id, known.facts.as_ref());
        }
        Some(known)
    }

    /// Remembers what was learned. Without facts the file is examined again after a restart.
    pub(super) fn put(&mut self, path: &Path, stamp: &Stamp, id: &MediaId, facts: Option<&Facts>) {
        let facts = facts.and_then(|facts| serde_json::to_string(facts).ok());
        let done = self
            .db
            .prepare_cached(
                "INSERT OR REPLACE INTO files
                    (path, size, mtime_ns, dev, ino, sha256, probe, facts, seen)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )
            .and_then(|mut insert| {
                insert.execute(params![
                    path.as_os_str().as_bytes(),
                    stamp.size.cast_signed(),
                    stamp.mtime_ns,
                    stamp.dev.cast_signed(),
                    stamp.ino.cast_signed(),
                    id.as_bytes(),
                    probe::VERSION,
                    facts,
                    now().cast_signed(),
                ])
            });
        self.usable(done);
    }

    /// Groups what is written until [`Cache::commit`], which is much faster for many files.
    pub(super) fn begin(&mut self) {
        let done = self.db.execute_batch("BEGIN");
        self.usable(done);
    }

    /// Ends what [`Cache::begin`] began.
    pub(super) fn commit(&mut self) {
        // Not in a transaction after an error that rolled it back, or a new beginning.
        if !self.db.is_autocommit() {
            let done = self.db.execute_batch("COMMIT");
            self.usable(done);
        }
    }

    /// Forgets files that were not seen for a long time.
    pub(super) fn prune(&mut self) {
        let limit = now().saturating_sub(REMEMBERED.as_secs()).cast_signed();
        let done = self
            .db
            .execute("DELETE FROM files WHERE seen < ?1", [limit]);
        self.usable(done);
    }

    /// The value, or what can be done about the error.
    fn usable<T>(&mut self, result: rusqlite::Result<T>) -> Option<T> {
        let error = match result {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        if is_damage(&error) {
            // The connection must be closed before its file is renamed.
            if let Ok(empty) = Connection::open_in_memory().and_then(prepared) {
                self.db = empty;
            }
            match set_aside(&self.path, &error) {
                Ok(()) => match connect(&self.path) {
                    Ok(db) => self.db = db,
                    Err(e) => warn!(path = %self.path.display(), "hashes are not kept: {e}"),
                },
                Err(e) => warn!("hashes are not kept: {e}"),
            }
        } else if !self.complained {
            self.complained = true;
            warn!(path = %self.path.display(), "the cache of hashes failed, films may be hashed again: {error}");
        }
        None
    }
}

/// Whether the file itself is bad, rather than the disk full or the like.
fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open(path)?;
    db.busy_timeout(Duration::from_secs(5))?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "NORMAL")?;
    let check: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if check != "ok" {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
        return Err(rusqlite::Error::SqliteFailure(code, Some(check)));
    }
    prepared(db)
}

/// Makes the table, or makes it anew if it is of another version.
fn prepared(db: Connection) -> rusqlite::Result<Connection> {
    let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version != SCHEMA {
        db.execute_batch(&format!(
            "BEGIN;
             DROP TABLE IF EXISTS files;
             CREATE TABLE files (
                 path     BLOB PRIMARY KEY,  -- its very bytes: names need not be UTF-8
                 size     INTEGER NOT NULL,
                 mtime_ns INTEGER NOT NULL,
                 dev      INTEGER NOT NULL,
                 ino      INTEGER NOT NULL,
                 sha256   BLOB NOT NULL,
                 probe    INTEGER NOT NULL,  -- the version that made the facts
                 facts    TEXT,              -- JSON
                 seen     INTEGER NOT NULL   -- seconds since 1970
             );
             CREATE INDEX files_by_number ON files (ino, size, mtime_ns, dev);
             PRAGMA user_version = {SCHEMA};
             COMMIT;"
        ))?;
    }
    Ok(db)
}

/// Looks a file up; with the time it was last seen at this path, if it was.
fn look_up(
    db: &Connection,
    path: &Path,
    stamp: &Stamp,
) -> rusqlite::Result<Option<(Known, Option<u64>)>> {
    // By path the device does not matter: its number changes when a disk is plugged in again.
    let mut by_path = db.prepare_cached(
        "SELECT sha256, probe, facts, seen FROM files
         WHERE path = ?1 AND size = ?2 AND mtime_ns = ?3 AND ino = ?4",
    )?;
    let (size, ino) = (stamp.size.cast_signed(), stamp.ino.cast_signed());
    let raw = path.as_os_str().as_bytes();
    let found = by_path.query_row(params![raw, size, stamp.mtime_ns, ino], |row| {
        Ok((known(row)?, row.get::<_, i64>(3)?))
    });
    if let Some((Some(known), seen)) = found.optional()? {
        return Ok(Some((known, Some(u64::try_from(seen).unwrap_or(0)))));
    }
    let mut by_number = db.prepare_cached(
        "SELECT sha256, probe, facts FROM files
         WHERE ino = ?1 AND size = ?2 AND mtime_ns = ?3 AND dev = ?4 LIMIT 1",
    )?;
    let found = by_number.query_row(
        params![ino, size, stamp.mtime_ns, stamp.dev.cast_signed()],
        known,
    );
    Ok(found.optional()?.flatten().map(|known| (known, None)))
}

/// A row's content; `None` if it is not what this program writes.
fn known(row: &Row<'_>) -> rusqlite::Result<Option<Known>> {
    let Ok(bytes) = <[u8; 32]>::try_from(row.get::<_, Vec<u8>>(0)?) else {
        return Ok(None);
    };
    let facts: Option<String> = row.get(2)?;
    let current = row.get::<_, i64>(1)? == i64::from(probe::VERSION);
    Ok(Some(Known {
        id: MediaId::from_bytes(bytes),
        facts: facts
            .filter(|_| current)
            .and_then(|text| serde_json::from_str(&text).ok()),
    }))
}

/// Renames a damaged cache, so that a new one can be made and the old one looked at.
fn set_aside(path: &Path, error: &rusqlite::Error) -> Result<(), LibraryError> {
    let mut aside = OsString::from(path);
    aside.push(format!(".damaged-{}", now()));
    fs::rename(path, &aside).map_err(|source| LibraryError::SetAside {
        path: path.to_owned(),
        source,
    })?;
    for suffix in ["-wal", "-shm"] {
        let mut beside = OsString::from(path);
        beside.push(suffix);
        // Usually not there. Left over, it would be taken for the new file's.
        let _ = fs::remove_file(beside);
    }
    warn!(
        kept_as = %Path::new(&aside).display(),
        "the cache of hashes was damaged and is made anew, all films are hashed again: {error}"
    );
    Ok(())
}

/// Seconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    const STAMP: Stamp = Stamp {
        size: 5,
        mtime_ns: -7,
        dev: u64::MAX,
        ino: 3,
    };

    fn facts() -> Facts {
        Facts {
            container: None,
            duration_ns: Some(1),
            tracks: Vec::new(),
            format: "AVI".to_owned(),
            unplayable: Some("so".to_owned()),
        }
    }

    #[test]
    fn what_is_put_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = Path::new("/m").join(OsStr::from_bytes(b"caf\xe9.mp4"));
        let id = MediaId::from_bytes([9; 32]);
        let mut cache = Cache::open(&dir.path().join("new/dirs")).unwrap();
        assert_eq!(cache.find(&path, &STAMP), None);
        cache.begin();
        cache.put(&path, &STAMP, &id, Some(&facts()));
        cache.commit();
        drop(cache);

        let mut cache = Cache::open(&dir.path().join("new/dirs")).unwrap();
        let known = Known {
            id,
            facts: Some(facts()),
        };
        assert_eq!(cache.find(&path, &STAMP).as_ref(), Some(&known));
        // On a disk that was plugged in again; renamed; changed.
        let replugged = Stamp { dev: 1, ..STAMP };
        assert_eq!(cache.find(&path, &replugged).as_ref(), Some(&known));
        assert_eq!(cache.find(Path::new("/m/b"), &STAMP).as_ref(), Some(&known));
        let other = Path::new("/m/c");
        assert_eq!(cache.find(other, &replugged), None);
        for changed in [
            Stamp { size: 6, ..STAMP },
            Stamp {
                mtime_ns: 0,
                ..STAMP
            },
            Stamp { ino: 4, ..STAMP },
        ] {
            assert_eq!(cache.find(&path, &changed), None);
        }
        cache.prune();
        assert!(cache.find(&path, &STAMP).is_some());
    }

    #[test]
    fn a_damaged_cache_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("library.sqlite");
        fs::write(
            &file,
            "this is no database, and long enough to be looked at".repeat(50),
        )
        .unwrap();
        let mut cache = Cache::open(dir.path()).unwrap();
        let id = MediaId::from_bytes([9; 32]);
        cache.put(Path::new("/a"), &STAMP, &id, None);
        assert_eq!(
            cache.find(Path::new("/a"), &STAMP),
            Some(Known { id, facts: None })
        );
        let aside = fs::read_dir(dir.path()).unwrap().filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().contains(".damaged-")
        });
        assert_eq!(aside.count(), 1);
    }

    #[test]
    fn rows_that_make_no_sense_are_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut cache = Cache::open(dir.path()).unwrap();
        let path = Path::new("/a");
        cache.put(path, &STAMP, &MediaId::from_bytes([9; 32]), Some(&facts()));
        cache
            .db
            .execute("UPDATE files SET facts = '{'", [])
            .unwrap();
        assert_eq!(cache.find(path, &STAMP).unwrap().facts, None);
        cache
            .db
            .execute("UPDATE files SET sha256 = x'00'", [])
            .unwrap();
        assert_eq!(cache.find(path, &STAMP), None);
    }
}
