//! Replicas whose disks take no writes, and who is to be found meanwhile.

use crate::{
    replica::change,
    world::{id, node, wait_for},
};
use iceflix_core::{
    announcement::{Absence, Absences, Announcement},
    api::Kind,
    bus::Bus,
    replica::{Replica, Row, Rows, Sqlite, Store, StoreError},
    topics::Topics,
};
use serde_json::json;
use std::{
    io::ErrorKind,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// Longer than it takes until a full disk is tried again.
const TRIED_AGAIN: Duration = Duration::from_secs(8);

/// A disk that is full while this is set.
#[derive(Clone, Default)]
struct Full(Arc<AtomicBool>);

impl Full {
    fn set(&self, full: bool) {
        self.0.store(full, Ordering::SeqCst);
    }

    fn room(&self) -> Result<(), StoreError> {
        let full = std::io::Error::from(ErrorKind::StorageFull);
        match self.0.load(Ordering::SeqCst) {
            true => Err(StoreError::Write(Arc::new(full))),
            false => Ok(()),
        }
    }
}

/// Rows on such a disk.
struct OnDisk(Sqlite, Full);

impl Store for OnDisk {
    fn rows(&mut self) -> Result<Rows, StoreError> {
        self.0.rows()
    }

    fn write(&mut self, rows: &[(String, Row)]) -> Result<(), StoreError> {
        self.1.room()?;
        self.0.write(rows)
    }

    fn probe(&mut self) -> Result<(), StoreError> {
        self.1.room()?;
        self.0.probe()
    }
}

/// A replica that is announced as a service's is: while nothing speaks against it.
struct Instance {
    replica: Replica,
    absences: Absences,
    announcement: Option<Announcement>,
    bus: Bus,
    name: &'static str,
}

impl Instance {
    async fn start(bus: Bus, dir: &Path, name: &'static str, full: &Full) -> Self {
        let (file, full) = (dir.join(format!("{name}.sqlite")), full.clone());
        let open = move || Ok(OnDisk(Sqlite::open(&file, &[])?, full));
        let (topics, own) = (Topics::new("losses"), id(name));
        let opened = Replica::open_in(open, &bus, &topics, Kind::Auth, &own, Duration::ZERO);
        let replica = opened.await.unwrap().0;
        let absences = Absences::default();
        replica.withdraw_by(&absences);
        let mut instance = Self {
            replica,
            absences,
            announcement: None,
            bus,
            name,
        };
        instance.come().await;
        instance
    }

    async fn come(&mut self) {
        let (topics, own) = (Topics::new("losses"), id(self.name));
        let made = Announcement::guarded(
            &self.bus,
            &topics,
            Kind::Auth,
            &own,
            ([127, 0, 0, 1], 1).into(),
            self.absences.clone(),
            Vec::new(),
        );
        self.announcement = Some(made.await.unwrap());
    }

    fn go(&mut self) {
        self.announcement = None;
    }

    fn is_away(&self) -> bool {
        self.absences.has(&[Absence::Disk])
    }

    /// Writes in vain until it is away. The other has a second each time to say that it can write.
    async fn withdraws(&self, value: u32) {
        let until = Instant::now() + Duration::from_secs(60);
        while !self.is_away() {
            assert!(Instant::now() < until, "it does not withdraw");
            assert!(!self.writes(value).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn writes(&self, value: u32) -> bool {
        let written = self.replica.put(vec![change(self.name, value)]);
        written.await.is_ok()
    }
}

/// Waits until they are alive for each other: each write is then at the other one at once.
async fn met(one: &Instance, two: &Instance) {
    let until = Instant::now() + Duration::from_secs(60);
    let mut in_a_row = 0;
    for value in 0.. {
        let mut at_once = true;
        for (writer, other) in [(one, two), (two, one)] {
            assert!(writer.writes(value).await);
            at_once &= other.replica.get(writer.name) == Some(json!(value));
        }
        in_a_row = if at_once { in_a_row + 1 } else { 0 };
        if in_a_row == 5 {
            return;
        }
        assert!(Instant::now() < until, "they never met");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Two of them, and whether their disks are full.
async fn two(dir: &Path, disks: [&Full; 2]) -> [Instance; 2] {
    let (far, port) = node(Kind::Auth, &[]).await;
    let (near, _) = node(Kind::Auth, &[port]).await;
    let both = [
        Instance::start(near, dir, "auth-1", disks[0]).await,
        Instance::start(far, dir, "auth-2", disks[1]).await,
    ];
    met(&both[0], &both[1]).await;
    both
}

/// Only where another may take the write: alone it stays, and says that it could not.
#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_write_is_not_to_be_found_while_there_are_others() {
    let (dir, full) = (tempfile::tempdir().unwrap(), Full::default());
    let (far, port) = node(Kind::Auth, &[]).await;
    let (near, _) = node(Kind::Auth, &[port]).await;
    let one = Instance::start(near, dir.path(), "auth-1", &full).await;
    full.set(true);
    assert!(!one.writes(1).await);
    assert!(!one.is_away(), "there is nobody else");
    full.set(false);

    let two = Instance::start(far, dir.path(), "auth-2", &Full::default()).await;
    met(&one, &two).await;
    full.set(true);
    one.withdraws(2).await;
    // Nobody writes anything meanwhile, so that nothing fails: it stays away …
    tokio::time::sleep(TRIED_AGAIN).await;
    assert!(one.is_away());
    assert!(two.writes(1000).await);
    wait_for("it is heard", || {
        one.replica.get("auth-2") == Some(json!(1000))
    })
    .await;
    assert!(one.is_away());
    full.set(false);
    // … until there is room.
    wait_for("it is back", || !one.is_away()).await;
    assert!(one.writes(4).await);
}

/// They would answer nobody, and nobody would answer in their place.
#[tokio::test(flavor = "multi_thread")]
async fn of_several_on_one_full_disk_all_stay() {
    let (dir, full) = (tempfile::tempdir().unwrap(), Full::default());
    let [one, two] = two(dir.path(), [&full, &full]).await;
    full.set(true);
    let until = Instant::now() + TRIED_AGAIN;
    for value in 100.. {
        // One after the other, as a caller tries them, and both at once.
        assert!(!one.writes(value).await);
        assert!(!two.writes(value).await);
        let both = tokio::join!(one.writes(value), two.writes(value));
        assert_eq!(both, (false, false));
        assert!(!one.is_away() && !two.is_away());
        if Instant::now() > until {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    full.set(false);
    assert!(one.writes(1).await && two.writes(1).await);
    assert!(!one.is_away() && !two.is_away());
}

/// It does not wait until its disk is tried again: its rows can be read.
#[tokio::test(flavor = "multi_thread")]
async fn who_withdrew_is_back_as_soon_as_nobody_is_there_in_its_place() {
    let (dir, full) = (tempfile::tempdir().unwrap(), Full::default());
    let [one, mut two] = two(dir.path(), [&full, &Full::default()]).await;
    full.set(true);
    for value in 100..103 {
        one.withdraws(value).await;
        let gone = Instant::now();
        two.go();
        wait_for("it is back", || !one.is_away()).await;
        let after = gone.elapsed();
        // Before its disk is tried again, after five.
        assert!(after < Duration::from_millis(4500), "{after:?}");
        // As often as it is tried to write.
        assert!(!one.writes(value).await);
        assert!(!one.is_away());
        two.come().await;
        // That nobody could write is asked anew after a second.
        let until = Instant::now() + Duration::from_secs(60);
        while !one.is_away() {
            assert!(Instant::now() < until, "the other is not seen");
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(!one.writes(value).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_last_disk_is_full_all_are_to_be_found() {
    let (dir, disks) = (
        tempfile::tempdir().unwrap(),
        [(); 2].map(|()| Full::default()),
    );
    let [one, two] = two(dir.path(), [&disks[0], &disks[1]]).await;
    disks[0].set(true);
    one.withdraws(100).await;
    disks[1].set(true);
    assert!(!two.writes(100).await);
    assert!(!two.is_away(), "nobody is there in its place");
    wait_for("the other is back", || !one.is_away()).await;
    for value in 101..120 {
        assert!(!one.writes(value).await && !two.writes(value).await);
        assert!(!one.is_away() && !two.is_away());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Both go on saying what there is, and the first that has room again takes the writes.
    for instance in [&one, &two] {
        assert!(instance.replica.get("auth-1").is_some());
    }
    disks[0].set(false);
    assert!(one.writes(1).await);
    wait_for("who cannot write is not found again", || two.is_away()).await;
    assert!(!one.is_away());
}
