//! Whether all instances of a kind have the same rows, by their databases.

use anyhow::Context as _;
use iceflix_core::{api::Kind, replica::Stamp};
use rusqlite::{Connection, OpenFlags};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::SystemTime,
};

/// The kinds of service that share rows.
pub const KINDS: [Kind; 2] = [Kind::Auth, Kind::Catalog];

/// A database's rows: by key, when each was written and what it holds.
pub type Rows = BTreeMap<String, (String, Option<String>)>;

/// The databases of a kind below a state directory.
pub fn databases(state: &Path, kind: Kind) -> Vec<PathBuf> {
    let dirs = (1..=16).map(|number| state.join(format!("{kind}-{number}")));
    dirs.map(|dir| dir.join(format!("{kind}.sqlite")))
        .filter(|file| file.exists())
        .collect()
}

/// Reads a database while its service writes it: a copy, so that nothing is locked there.
///
/// # Errors
/// When the copy makes no sense: what was written meanwhile may do that, so try again.
pub fn read(database: &Path) -> anyhow::Result<Rows> {
    let dir = tempfile::tempdir()?;
    let copy = dir.path().join("copy.sqlite");
    let beside = |path: &Path| PathBuf::from(format!("{}-wal", path.display()));
    std::fs::copy(database, &copy)
        .with_context(|| format!("cannot copy {}", database.display()))?;
    match std::fs::copy(beside(database), beside(&copy)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        copied => drop(copied?),
    }
    let connection = Connection::open_with_flags(&copy, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let mut statement = connection.prepare("SELECT key, stamp, value FROM rows")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The keys of rows that are not the same in all of these; of those only that were written before
/// some time, when one is given: what is newer may be on its way.
pub fn differing(all: &[Rows], before: Option<SystemTime>) -> BTreeSet<String> {
    let keys: BTreeSet<&String> = all.iter().flat_map(BTreeMap::keys).collect();
    let settled = |key: &String| {
        let stamps = all.iter().filter_map(|rows| rows.get(key));
        let newest = stamps.map(|(stamp, _)| stamp).max();
        before.is_none_or(|before| newest.and_then(|stamp| time(stamp)) < Some(before))
    };
    keys.into_iter()
        .filter(|key| {
            let mut found = all.iter().map(|rows| rows.get(*key));
            let first = found.next();
            found.any(|other| Some(other) != first) && settled(key)
        })
        .cloned()
        .collect()
}

fn time(stamp: &str) -> Option<SystemTime> {
    Some(
        Stamp::parse(stamp)?
            .timestamp()?
            .get_time()
            .to_system_time(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn rows(all: &[(&str, u64, &str)]) -> Rows {
        let row = |(key, second, value): &(&str, u64, &str)| {
            let stamp = format!("{:016x}-{:032x}", second << 32, 1);
            ((*key).to_owned(), (stamp, Some((*value).to_owned())))
        };
        all.iter().map(row).collect()
    }

    #[test]
    fn rows_differ_by_what_is_missing_and_by_what_they_hold() {
        let one = rows(&[("a", 1, "x"), ("b", 1, "x"), ("c", 9, "x")]);
        let two = rows(&[("a", 1, "x"), ("b", 2, "y")]);
        let all = [one, two];
        assert_eq!(
            differing(&all, None).into_iter().collect::<Vec<_>>(),
            ["b", "c"]
        );
        let before = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
        assert!(differing(&all, Some(before)).contains("b"));
        assert!(
            !differing(&all, Some(before)).contains("c"),
            "it may be on its way"
        );
        assert!(differing(&all[..1], None).is_empty());
    }
}
