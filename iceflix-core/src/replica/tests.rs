//! Replicas alone: their rows in memory and on disk. `tests/replica.rs` has several on one bus.

use super::*;
use crate::{
    bus::BusConfig,
    trust::{Authority, authority::CERTIFICATE_LIFETIME},
};
use serde_json::json;
use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};
use tempfile::TempDir;

const KEY: &str = "a";

/// A disk that can be full.
#[derive(Clone, Default)]
struct Disk {
    full: Arc<AtomicBool>,
}

impl Disk {
    fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
    }

    fn room(&self) -> Result<(), StoreError> {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        match self.full.load(Ordering::SeqCst) {
            true => Err(StoreError::Write(Arc::new(full))),
            false => Ok(()),
        }
    }
}

/// Rows on such a disk.
struct OnDisk {
    rows: Sqlite,
    disk: Disk,
}

impl Store for OnDisk {
    fn rows(&mut self) -> Result<Rows, StoreError> {
        self.rows.rows()
    }

    fn write(&mut self, rows: &[(String, Row)]) -> Result<(), StoreError> {
        self.disk.room()?;
        self.rows.write(rows)
    }

    fn probe(&mut self) -> Result<(), StoreError> {
        self.disk.room()?;
        self.rows.probe()
    }
}

/// A replica that nobody else can reach.
struct Alone {
    dir: TempDir,
    bus: Bus,
}

impl Alone {
    async fn new() -> Self {
        let authority = Authority::create("alone").unwrap();
        let name = "auth-1".parse().unwrap();
        let credential = authority.issue(Kind::Auth, &name, CERTIFICATE_LIFETIME);
        let config = BusConfig::new(
            "alone",
            credential.unwrap(),
            vec!["tls/127.0.0.1:0".into()],
            vec![],
        );
        Self {
            dir: tempfile::tempdir().unwrap(),
            bus: Bus::open(&config).await.unwrap(),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("rows.sqlite")
    }

    async fn open(&self) -> Replica {
        self.open_on(&Disk::default()).await.0
    }

    /// Opens it on a disk, with what it says to have changed.
    async fn open_on(&self, disk: &Disk) -> (Replica, mpsc::UnboundedReceiver<Vec<RowChange>>) {
        let (path, disk) = (self.path(), disk.clone());
        let open = move || {
            let rows = Sqlite::open(&path, &[])?;
            Ok(OnDisk { rows, disk })
        };
        let (topics, name) = (Topics::new("alone"), "auth-1".parse().unwrap());
        Replica::open_in(open, &self.bus, &topics, Kind::Auth, &name, Duration::ZERO)
            .await
            .unwrap()
    }

    /// What is on the disk now.
    fn on_disk(&self) -> Rows {
        Sqlite::open(&self.path(), &[]).unwrap().rows().unwrap()
    }
}

fn rows(replica: &Replica) -> Rows {
    lock(&replica.inner.rows).clone()
}

/// A row stamped an hour from now by another instance.
fn from_the_future() -> (String, Row) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let later = uhlc::NTP64::from(now.unwrap() + Duration::from_secs(3600));
    let stamp = Stamp::new(&uhlc::Timestamp::new(
        later,
        rows::clock_id(&"auth-2".parse().unwrap()),
    ));
    let value = Some(json!("future"));
    (KEY.to_owned(), Row { stamp, value })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writes_at_the_same_moment_end_the_same_in_memory_and_on_disk() {
    let alone = Alone::new().await;
    let replica = alone.open().await;
    let (key, row) = from_the_future();
    for round in 0..20 {
        let mut entries = Entries::new();
        let key = format!("{key}{round}");
        entries.insert(key.clone(), row.to_value());
        replica.inner.merge(entries).await;
        let writes = (0..32).map(|n| {
            let (replica, key) = (replica.clone(), key.clone());
            tokio::spawn(async move { replica.put(vec![(key, Some(json!(n)))]).await.unwrap() })
        });
        for write in writes.collect::<Vec<_>>() {
            write.await.unwrap();
        }
        assert_ne!(replica.get(&key), Some(json!("future")));
        assert_eq!(alone.on_disk(), rows(&replica), "round {round}");
        // What is written after all of them stands, too.
        replica.put(vec![(key.clone(), None)]).await.unwrap();
        assert_eq!(replica.get(&key), None);
    }
    let (spoken, held) = (replica.inner.speaker.entries(), rows(&replica).entries());
    assert_eq!(spoken, held, "what joiners get is what is here");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_changes_to_a_row_in_one_write_the_last_stands() {
    let alone = Alone::new().await;
    let replica = alone.open().await;
    let change = |value| (KEY.to_owned(), value);
    let twice = vec![change(Some(json!(2))), change(Some(json!(1)))];
    replica.put(twice).await.unwrap();
    assert_eq!(replica.get(KEY), Some(json!(1)));
    let twice = vec![change(Some(json!(3))), change(None)];
    replica.put(twice).await.unwrap();
    assert_eq!(replica.get(KEY), None);
    assert_eq!(alone.on_disk(), rows(&replica));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn first_rows_at_the_same_moment_end_the_same_in_memory_and_on_disk() {
    let alone = Alone::new().await;
    let replica = alone.open().await;
    for round in 0..20 {
        let writes = (0..16).map(|n| {
            let (replica, key) = (replica.clone(), format!("{KEY}{round}"));
            tokio::spawn(async move { replica.put_first(vec![(key, json!(n))]).await.unwrap() })
        });
        for write in writes.collect::<Vec<_>>() {
            write.await.unwrap();
        }
        assert_eq!(alone.on_disk(), rows(&replica), "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_row_wins_over_nothing_that_was_ever_written() {
    let alone = Alone::new().await;
    let replica = alone.open().await;
    let first = |value| replica.put_first(vec![(KEY.to_owned(), json!(value))]);
    first("first").await.unwrap();
    // It is the first, so another "first" comes too late.
    first("second").await.unwrap();
    assert_eq!(replica.get(KEY), Some(json!("first")));
    // Any real write wins, a removal too, and stays so.
    replica.put(vec![(KEY.to_owned(), None)]).await.unwrap();
    first("third").await.unwrap();
    assert_eq!(replica.get(KEY), None);
    replica
        .put(vec![(KEY.to_owned(), Some(json!("written")))])
        .await
        .unwrap();
    first("fourth").await.unwrap();
    assert_eq!(replica.get(KEY), Some(json!("written")));
    assert_eq!(alone.on_disk(), rows(&replica));
    drop(replica);
    let replica = alone.open().await;
    assert_eq!(replica.get(KEY), Some(json!("written")), "after a restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_changed_when_the_disk_takes_nothing() {
    let alone = Alone::new().await;
    let replica = alone.open().await;
    replica
        .put(vec![(KEY.to_owned(), Some(json!(1)))])
        .await
        .unwrap();
    let before = rows(&replica);
    let other = rusqlite::Connection::open(alone.dir.path().join("rows.sqlite")).unwrap();
    other
        .execute_batch("ALTER TABLE rows RENAME TO hidden")
        .unwrap();
    let failed = replica.put(vec![(KEY.to_owned(), Some(json!(2)))]).await;
    assert!(matches!(failed, Err(StoreError::Write(_))), "{failed:?}");
    assert_eq!(rows(&replica), before);
    other
        .execute_batch("ALTER TABLE hidden RENAME TO rows")
        .unwrap();
    replica
        .put(vec![(KEY.to_owned(), Some(json!(3)))])
        .await
        .unwrap();
    assert_eq!(alone.on_disk(), rows(&replica));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_disk_refuses_is_shown_to_nobody_and_forgotten() {
    let (alone, disk) = (Alone::new().await, Disk::default());
    let (replica, mut changes) = alone.open_on(&disk).await;
    let put = |value| replica.put(vec![(KEY.to_owned(), Some(json!(value)))]);
    put(1).await.unwrap();
    assert!(changes.try_recv().is_ok());
    let (before, said) = (rows(&replica), replica.inner.speaker.entries());
    disk.set_full(true);
    for value in [2, 3] {
        let refused = put(value).await.unwrap_err().to_string();
        assert!(refused.contains("cannot be written"), "{refused}");
        let none = replica.put_first(vec![("first".to_owned(), json!(value))]);
        assert!(none.await.is_err());
        // Neither to readers here, nor to who follows, nor to peers that ask or compare.
        assert_eq!(rows(&replica), before);
        assert_eq!(replica.inner.speaker.entries(), said);
        assert!(changes.try_recv().is_err());
    }
    disk.set_full(false);
    put(4).await.unwrap();
    assert_eq!(replica.get(KEY), Some(json!(4)));
    assert_eq!(replica.get("first"), None);
    assert_eq!(alone.on_disk(), rows(&replica));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_peer_wrote_is_kept_when_there_is_room_again_and_not_said_to_be_before() {
    let (alone, disk) = (Alone::new().await, Disk::default());
    let (replica, _changes) = alone.open_on(&disk).await;
    let keep = |key: &str| {
        let entries = Entries::from([(key.to_owned(), from_the_future().1.to_value())]);
        replica.inner.answer(Question::Keep(entries))
    };
    let kept = Answer::Kept.encode();
    disk.set_full(true);
    // It is in memory then. That it is not on the disk is known however often it comes …
    for _ in 0..3 {
        assert!(keep("theirs").await.is_empty());
        assert_eq!(replica.get("theirs"), Some(json!("future")));
    }
    // … and nothing else is acknowledged that waits with it.
    assert!(keep("another").await.is_empty());
    disk.set_full(false);
    // The next write, whosever it is, takes it along.
    replica
        .put(vec![("ours".to_owned(), Some(json!(1)))])
        .await
        .unwrap();
    assert_eq!(alone.on_disk(), rows(&replica));
    assert_eq!(alone.on_disk().get("theirs"), Some(&json!("future")));
    for key in ["theirs", "another"] {
        assert_eq!(keep(key).await, kept);
    }
}

/// What is tried again every few seconds is a write, whether there is something to be written or not.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_full_until_something_could_be_written() {
    let (alone, full) = (Alone::new().await, Disk::default());
    let (replica, _changes) = alone.open_on(&full).await;
    let (inner, put) = (&replica.inner, |value| {
        replica.put(vec![(KEY.to_owned(), Some(json!(value)))])
    });
    let writable = Answer::Writable.encode();
    assert_eq!(inner.answer(Question::Writable).await, writable);
    put(0).await.unwrap();
    full.set_full(true);
    put(1).await.unwrap_err();
    // Nothing is owed, and what is here already need not be written.
    let here = rows(&replica).entries();
    for _ in 0..3 {
        inner.disk.try_again().await;
        assert!(inner.merge(here.clone()).await);
        assert!(inner.disk.is_failing());
        assert!(inner.answer(Question::Writable).await.is_empty());
    }
    full.set_full(false);
    inner.disk.try_again().await;
    assert!(!inner.disk.is_failing());
    assert_eq!(inner.answer(Question::Writable).await, writable);
    // Nobody has to write for it to be known that there is no room: another one may ask.
    full.set_full(true);
    assert!(inner.answer(Question::Writable).await.is_empty());
    assert!(inner.disk.is_failing());
    full.set_full(false);
    put(2).await.unwrap();
    assert!(!inner.disk.is_failing(), "that was a write");
    assert_eq!(alone.on_disk(), rows(&replica));
}
