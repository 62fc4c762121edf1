//! Keeping the names of films that were met for the first time.

use crate::{
    index::{NewTitle, TitleRow},
    store::Store,
};
use iceflix_core::api::MediaId;
use std::{collections::BTreeMap, time::Duration};
use tokio::{sync::mpsc, time::Instant};

/// The most title rows in one write.
const TITLES: usize = 1000;

/// How soon it is tried again to keep names that the disk refused.
const AGAIN: Duration = Duration::from_secs(3);

/// The most names that wait to be kept: some tens of MiB.
const BACKLOG: usize = 100_000;

/// Names that are to be kept.
#[derive(Default)]
struct Backlog(BTreeMap<MediaId, TitleRow>);

impl Backlog {
    /// Adds these, of each film the first; how many found no room.
    fn add(&mut self, titles: impl Iterator<Item = NewTitle>) -> usize {
        let mut left = 0;
        for (id, row) in titles {
            if self.0.len() < BACKLOG || self.0.contains_key(&id) {
                self.0.entry(id).or_insert(row);
            } else {
                left += 1;
            }
        }
        left
    }

    /// Writes them; what the disk refuses stays. Whether all of them are kept.
    async fn write(&mut self, store: &Store) -> bool {
        while !self.0.is_empty() {
            let some = self.0.iter().take(TITLES);
            let some: Vec<NewTitle> = some.map(|(id, row)| (*id, row.clone())).collect();
            let ids: Vec<MediaId> = some.iter().map(|(id, _)| *id).collect();
            // That the disk takes nothing was logged.
            if store.put_titles(some).await.is_err() {
                return false;
            }
            for id in ids {
                self.0.remove(&id);
            }
        }
        true
    }
}

/// Writes the titles of films that were met for the first time, until nobody meets any. Apart
/// from hearing of them, so that a slow disk does not keep films from being seen. What a full disk
/// refuses is tried again, and once more at the end.
pub async fn keep(store: Store, mut new: mpsc::UnboundedReceiver<NewTitle>) {
    let (mut backlog, mut batch) = (Backlog::default(), Vec::new());
    // Set while the disk takes nothing.
    let mut again: Option<Instant> = None;
    loop {
        let due = again.unwrap_or_else(Instant::now);
        let over = tokio::select! {
            received = new.recv_many(&mut batch, TITLES) => received == 0,
            () = tokio::time::sleep_until(due), if again.is_some() => false,
        };
        let left = backlog.add(batch.drain(..));
        if left > 0 {
            // They are announced again, at the latest when this or their node starts anew.
            tracing::error!(
                left,
                "the names of new films are not kept, too many are waiting"
            );
        }
        if over || again.is_none_or(|again| again <= Instant::now()) {
            let kept = backlog.write(&store).await;
            match (kept, again) {
                (false, None) => tracing::error!("the names of new films are not kept for now"),
                (true, Some(_)) => tracing::info!("the names of new films are kept again"),
                _ => {}
            }
            again = (!kept).then(|| Instant::now() + AGAIN);
        }
        if over {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::RowKey;
    use iceflix_core::{
        api::Kind,
        bus::{Bus, BusConfig},
        replica::{Replica, Row, Rows, Sqlite, Store as OnDisk, StoreError},
        topics::Topics,
        trust::{Authority, authority::CERTIFICATE_LIFETIME},
    };
    use std::{
        io::ErrorKind,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
    };

    /// Rows on a disk that is full while this is set.
    struct Disk(Sqlite, Arc<AtomicBool>);

    impl Disk {
        fn room(&self) -> Result<(), StoreError> {
            let full = std::io::Error::from(ErrorKind::StorageFull);
            match self.1.load(Ordering::SeqCst) {
                true => Err(StoreError::Write(Arc::new(full))),
                false => Ok(()),
            }
        }
    }

    impl OnDisk for Disk {
        fn rows(&mut self) -> Result<Rows, StoreError> {
            self.0.rows()
        }

        fn write(&mut self, rows: &[(String, Row)]) -> Result<(), StoreError> {
            self.room()?;
            self.0.write(rows)
        }

        fn probe(&mut self) -> Result<(), StoreError> {
            self.room()?;
            self.0.probe()
        }
    }

    fn title(n: u32) -> NewTitle {
        let id = format!("{n:064x}").parse().unwrap();
        let row = TitleRow {
            name: format!("Film {n}"),
            duration_s: None,
            size: 1,
            format: String::new(),
        };
        (id, row)
    }

    async fn replica(dir: &std::path::Path, full: &Arc<AtomicBool>) -> Replica {
        let (kind, name) = (Kind::Catalog, "catalog-1".parse().unwrap());
        let authority = Authority::create("titles").unwrap();
        let config = BusConfig::new(
            "titles",
            authority.issue(kind, &name, CERTIFICATE_LIFETIME).unwrap(),
            vec!["tls/127.0.0.1:0".into()],
            vec![],
        );
        let bus = Bus::open(&config).await.unwrap();
        let (file, full) = (dir.join("rows.sqlite"), Arc::clone(full));
        let open = move || Ok(Disk(Sqlite::open(&file, &[])?, full));
        let topics = Topics::new("titles");
        let opened = Replica::open_in(open, &bus, &topics, kind, &name, Duration::ZERO);
        opened.await.unwrap().0
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn names_that_a_full_disk_refused_are_kept_when_there_is_room() {
        let (dir, full) = (
            tempfile::tempdir().unwrap(),
            Arc::new(AtomicBool::new(true)),
        );
        let replica = replica(dir.path(), &full).await;
        let store = Store::load(replica.clone()).await.unwrap();
        let (met, new) = mpsc::unbounded_channel();
        let keeping = tokio::spawn(keep(store, new));
        let kept = || replica.scan("").len();
        let many = u32::try_from(TITLES * 2 + 1).unwrap();
        for n in 0..many {
            met.send(title(n)).unwrap();
        }
        // Longer than until it is tried again.
        tokio::time::sleep(AGAIN * 3 / 2).await;
        assert_eq!(kept(), 0);
        full.store(false, Ordering::SeqCst);
        let until = Instant::now() + Duration::from_secs(60);
        while kept() < many as usize {
            assert!(Instant::now() < until, "{} are kept", kept());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let name = |n| replica.get(&RowKey::Title(title(n).0).to_string()).unwrap()["name"].clone();
        assert_eq!(name(0), "Film 0");
        assert_eq!(name(many - 1), format!("Film {}", many - 1));

        // Then they are kept at once again, and what is refused does not hold up the end.
        met.send(title(many)).unwrap();
        while kept() == many as usize {
            assert!(Instant::now() < until, "not kept at once");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        full.store(true, Ordering::SeqCst);
        met.send(title(many + 1)).unwrap();
        drop(met);
        let ended = tokio::time::timeout(Duration::from_secs(10), keeping).await;
        ended.expect("it ends with the service").unwrap();
        assert_eq!(kept(), many as usize + 1);
    }

    #[test]
    fn no_more_names_wait_than_there_is_room_for() {
        let mut backlog = Backlog::default();
        let most = u32::try_from(BACKLOG).unwrap();
        assert_eq!(backlog.add((0..most).map(title)), 0);
        let (id, _) = title(0);
        let again = [title(most), (id, title(1).1), title(most + 1)];
        assert_eq!(backlog.add(again.into_iter()), 2);
        assert_eq!(backlog.0.len(), BACKLOG);
        assert_eq!(backlog.0[&id].name, "Film 0", "the first word stays");
    }
}
