//! Rows that several instances of one service share.
//!
//! Every instance has them all: in memory to read, in SQLite to keep. A write gets a stamp of the
//! hybrid logical clock; of two writes to a row the later stamp wins, everywhere, but for rows that
//! only grow ([`Grown`]). A removed row stays as a tombstone. An instance that joins takes the others' rows, then follows their changes
//! ([`crate::feed`]). Always writable, converges, not linearisable.

mod digest;
mod disk;
mod exchange;
mod rows;
mod sqlite;
mod store;

pub use rows::{Grown, Row, Rows, Stamp};
pub use sqlite::Sqlite;
pub use store::{Store, StoreError};

use crate::{
    announcement::Absences,
    api::{InstanceId, Kind},
    bus::{Answering, Bus, BusError},
    feed::{self, Ears, Heard, Hearer, Speaker},
    topics::{Entries, FeedTopic, Topics},
};
use disk::Disk;
use exchange::{Answer, Exchange, Question};
use futures::future::BoxFuture;
use rand::{Rng as _, seq::IteratorRandom as _};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};
use store::Keeper;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

/// How long peers may take to say a row that is missing here.
const LOOK_UP: Duration = Duration::from_millis(300);

/// The same, where it is worth waiting for a busy one.
const LOOK_UP_SURELY: Duration = Duration::from_secs(1);

/// For how long a row that nobody has is not asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How many rows are asked for at once: whoever makes up names shall not flood the bus.
const ASKED_AT_ONCE: usize = 8;

/// How often the rows are compared with another instance's, or somewhat more seldom.
const COMPARE: Duration = Duration::from_secs(5);

/// Rows of how many buckets are asked for at once, of 256: whoever lacks all of very many gets them
/// a part at a time, and each part in time.
const BUCKETS_AT_ONCE: usize = 16;

/// How many missing rows are remembered.
const MISSES: usize = 4096;

/// The rows that nobody had, lately.
#[derive(Debug, Default)]
struct Misses(HashMap<String, Instant>);

impl Misses {
    fn may_ask(&self, key: &str, now: Instant) -> bool {
        self.0
            .get(key)
            .is_none_or(|missed| now.duration_since(*missed) >= ASK_AGAIN)
    }

    fn missed(&mut self, key: String, now: Instant) {
        if self.0.len() >= MISSES {
            self.0
                .retain(|_, missed| now.duration_since(*missed) < ASK_AGAIN);
        }
        if self.0.len() < MISSES {
            self.0.insert(key, now);
        }
    }
}

/// A row's key and its new value; `None` when it was removed.
pub type RowChange = (String, Option<Value>);

/// A replica could not be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The bus.
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// This instance's copy of the rows. Cheap to clone.
#[derive(Clone)]
pub struct Replica {
    inner: Arc<Inner>,
}

struct Inner {
    rows: Mutex<Rows>,
    clock: uhlc::HLC,
    store: Keeper,
    speaker: Speaker,
    bus: Bus,
    topic: FeedTopic,
    changed: mpsc::UnboundedSender<Vec<RowChange>>,
    misses: Mutex<Misses>,
    asking: Semaphore,
    exchange: Exchange,
    hearing: Mutex<Option<Hearing>>,
    disk: Arc<Disk>,
}

/// What ends with the replica.
struct Hearing {
    hearer: Arc<Hearer>,
    _answering: Answering,
    _tasks: [AbortOnDropHandle<()>; 4],
}

impl Replica {
    /// Opens rows that are kept in SQLite, in this file (made if there is none). Rows whose keys
    /// begin like one of `growing` only grow ([`Grown`]), and are not for [`Replica::put_first`].
    /// See [`Replica::open_in`].
    ///
    /// # Errors
    /// When the database cannot be opened or the bus is closed.
    pub async fn open(
        database: &Path,
        bus: &Bus,
        topics: &Topics,
        kind: Kind,
        instance: &InstanceId,
        growing: &'static [&'static str],
        patience: Duration,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Vec<RowChange>>), ReplicaError> {
        let database = database.to_owned();
        let open = move || Sqlite::open(&database, growing);
        Self::open_in(open, bus, topics, kind, instance, patience).await
    }

    /// Opens the database, takes what peers have that it lacks, and follows them. What changes from then on, here or elsewhere, comes out of the channel. One
    /// that had peers before waits for them, at most for `patience`: what they wrote meanwhile may
    /// forbid what it would allow.
    ///
    /// # Errors
    /// When the database cannot be opened or the bus is closed.
    pub async fn open_in<S: Store>(
        open: impl FnOnce() -> Result<S, StoreError> + Send + 'static,
        bus: &Bus,
        topics: &Topics,
        kind: Kind,
        instance: &InstanceId,
        patience: Duration,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Vec<RowChange>>), ReplicaError> {
        let (store, rows) = Keeper::start(open).await?;
        let topic = topics.rows(kind);
        let speaker = Speaker::start(bus, &topic, instance, rows.entries()).await?;
        let (changed, changes) = mpsc::unbounded_channel();
        let exchange = Exchange::new(bus, topics.exchange(kind), instance);
        let inner = Arc::new(Inner {
            clock: uhlc::HLCBuilder::new()
                .with_id(rows::clock_id(instance))
                .build(),
            rows: Mutex::new(rows),
            disk: Disk::new(store.clone(), exchange.clone()),
            store,
            speaker,
            bus: bus.clone(),
            topic: topic.clone(),
            changed,
            misses: Mutex::default(),
            asking: Semaphore::new(ASKED_AT_ONCE),
            exchange,
            hearing: Mutex::new(None),
        });
        let answering = {
            let weak = Arc::downgrade(&inner);
            let answer = move |question| -> BoxFuture<'static, Vec<Vec<u8>>> {
                match weak.upgrade() {
                    Some(inner) => Box::pin(async move { inner.answer(question).await }),
                    None => Box::pin(std::future::ready(Vec::new())),
                }
            };
            inner.exchange.answer(answer).await?
        };
        let (hearer, mut heard) =
            Hearer::follow_after(bus, topics, topic, Some(instance.clone()), patience).await?;
        while let Ok(heard) = heard.try_recv() {
            inner.hear(heard).await;
        }
        let weak = Arc::downgrade(&inner);
        let task = tokio::spawn(async move {
            while let Some(heard) = heard.recv().await {
                let Some(inner) = weak.upgrade() else { return };
                inner.hear(heard).await;
            }
        });
        let comparing = tokio::spawn(compare(Arc::downgrade(&inner), hearer.alive()));
        let trying = tokio::spawn(try_again(Arc::downgrade(&inner)));
        let [task, comparing, trying] = [task, comparing, trying].map(AbortOnDropHandle::new);
        let watching = inner.disk.follow(hearer.alive());
        *lock(&inner.hearing) = Some(Hearing {
            hearer: Arc::new(hearer),
            _answering: answering,
            _tasks: [task, comparing, trying, watching],
        });
        Ok((Self { inner }, changes))
    }

    /// Says there, from now on, when the database takes no writes and another instance's does: the
    /// service is then not to be found, and callers turn to that one.
    pub fn withdraw_by(&self, absences: &Absences) {
        self.inner.disk.withdraw_by(absences);
    }

    /// Hears everything anew, after this process stood still: asks until a peer answers, if any was
    /// ever there, and until what it said is here; at most for `patience`.
    pub async fn catch_up(&self, patience: Duration) {
        if let Some(hearer) = self.inner.hearer() {
            hearer.catch_up(patience).await;
        }
    }

    /// Which other instances it should hear, and which it does.
    pub fn ears(&self) -> Option<Ears> {
        Some(self.inner.hearer()?.ears())
    }

    /// A row's value.
    pub fn get(&self, key: &str) -> Option<Value> {
        lock(&self.inner.rows).get(key).cloned()
    }

    /// Whether it is known here that a row was ever written, be it removed since.
    pub fn was_written(&self, key: &str) -> bool {
        lock(&self.inner.rows).was_written(key)
    }

    /// The rows whose keys begin so, in the keys' order.
    pub fn scan(&self, prefix: &str) -> Vec<(String, Value)> {
        let rows = lock(&self.inner.rows);
        rows.scan(prefix)
            .map(|(key, value)| (key.to_owned(), value.clone()))
            .collect()
    }

    /// What a row comes to that only grows; `None` when nobody ever wrote it.
    pub fn grown(&self, key: &str) -> Option<Grown> {
        lock(&self.inner.rows).grown(key)
    }

    /// What the rows come to whose keys begin so, and that only grow, in the keys' order.
    pub fn scan_grown(&self, prefix: &str) -> Vec<(String, Grown)> {
        let rows = lock(&self.inner.rows);
        rows.scan_grown(prefix)
            .map(|(key, grown)| (key.to_owned(), grown))
            .collect()
    }

    /// A row's value, from a peer if it is not here: what was written at another instance a
    /// moment ago may not have arrived.
    pub async fn get_or_ask(&self, key: &str) -> Option<Value> {
        if let Some(value) = self.get(key) {
            return Some(value);
        }
        if !lock(&self.inner.misses).may_ask(key, Instant::now())
            || !self.ask_for(vec![key.to_owned()]).await
        {
            return None;
        }
        let value = self.get(key);
        if value.is_none() {
            lock(&self.inner.misses).missed(key.to_owned(), Instant::now());
        }
        value
    }

    /// Takes in what the peers have of these rows that is newer than what is here: it may be on
    /// its way. Not for the same first row within a second.
    pub async fn refresh(&self, keys: Vec<String>) {
        let Some(first) = keys.first() else { return };
        {
            let (mut misses, now) = (lock(&self.inner.misses), Instant::now());
            if !misses.may_ask(first, now) {
                return;
            }
            misses.missed(first.clone(), now);
        }
        self.ask_for(keys).await;
    }

    /// The same, each time: for what is decided seldom and must be right.
    pub async fn look_again(&self, keys: Vec<String>) {
        let inner = Arc::clone(&self.inner);
        // What was begun is finished, as in `write`.
        let asked = tokio::spawn(async move { inner.ask(keys, LOOK_UP_SURELY).await });
        if asked.await.is_err() {
            tracing::error!("asking the peers for rows broke");
        }
    }

    /// Takes in what the peers have of these rows; `false` when too much is being asked already.
    async fn ask_for(&self, keys: Vec<String>) -> bool {
        let Ok(_place) = self.inner.asking.try_acquire() else {
            return false;
        };
        let inner = Arc::clone(&self.inner);
        // What was begun is finished, as in `write`.
        let asked = tokio::spawn(async move { inner.ask(keys, LOOK_UP).await });
        asked.await.is_ok()
    }

    /// Sets (`Some`) or removes (`None`) rows; of two changes to one row the last. On disk here
    /// when it returns, at one other instance too if any lives, and on its way to the others.
    ///
    /// # Errors
    /// When the database cannot be written; nothing is changed then.
    pub async fn put(&self, changes: Vec<RowChange>) -> Result<(), StoreError> {
        let changes: BTreeMap<String, Option<Value>> = changes.into_iter().collect();
        let time = self.inner.clock.new_timestamp();
        let stamp = lock(&self.inner.rows).give_stamp(changes.keys(), &time);
        let written = changes.into_iter().map(|(key, value)| {
            let stamp = stamp.clone();
            (key, Row { stamp, value })
        });
        self.write(written.collect()).await
    }

    /// Sets rows that were never written by anybody: as if at the beginning of time, so that any
    /// write that is or was made elsewhere, a removal too, wins over them.
    ///
    /// # Errors
    /// When the database cannot be written; nothing is changed then.
    pub async fn put_first(&self, rows: Vec<(String, Value)>) -> Result<(), StoreError> {
        let stamp = Stamp::first(self.inner.clock.get_id());
        let mut written = Vec::new();
        {
            let mut here = lock(&self.inner.rows);
            for (key, value) in rows {
                if here.lacks(&key, &stamp) {
                    here.begin(&key, &stamp);
                    let (stamp, value) = (stamp.clone(), Some(value));
                    written.push((key, Row { stamp, value }));
                }
            }
        }
        self.write(written).await
    }

    /// Writes rows whose writing was [begun](Rows::begin).
    ///
    /// A caller that gives up in the middle must not part disk from memory: what was begun is
    /// finished by a task of its own.
    async fn write(&self, written: Vec<(String, Row)>) -> Result<(), StoreError> {
        if written.is_empty() {
            return Ok(());
        }
        let inner = Arc::clone(&self.inner);
        tokio::spawn(async move { inner.commit(written).await })
            .await
            .map_err(|_| StoreError::Closed)?
    }
}

impl Inner {
    /// Takes in what the peers have of these rows.
    async fn ask(&self, keys: Vec<String>, timeout: Duration) {
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        for (_, entries) in feed::look_up(&self.bus, &self.topic, &keys, timeout).await {
            self.merge(entries).await;
        }
    }

    async fn commit(&self, written: Vec<(String, Row)>) -> Result<(), StoreError> {
        let stored = self.store.write(written.clone()).await;
        // Before the caller hears of it: it shall turn to another instance.
        self.disk.wrote(&stored).await;
        let newer = {
            // The speaker takes them in the rows' order: of two writes to a row that pass here at
            // once, the one that won stands in both.
            let mut rows = lock(&self.rows);
            rows.settle(written.iter().map(|(key, _)| key));
            stored?;
            let newer = rows.merge(written);
            let said = newer
                .iter()
                .map(|(key, row)| (key.clone(), Some(row.to_value())));
            self.speaker.change(said.collect());
            newer
        };
        self.tell(newer.clone());
        self.confirm(newer).await;
        Ok(())
    }

    fn hearer(&self) -> Option<Arc<Hearer>> {
        let hearing = lock(&self.hearing);
        hearing.as_ref().map(|hearing| Arc::clone(&hearing.hearer))
    }

    /// Waits until another instance keeps these rows, too, if any is alive: then no single loss
    /// loses them. When those that seem to live do not answer, it goes on without.
    async fn confirm(&self, written: Vec<(String, Row)>) {
        let Some(hearer) = self.hearer() else { return };
        if written.is_empty() || hearer.alive().borrow().is_empty() {
            return;
        }
        let rows = written
            .into_iter()
            .map(|(key, row)| (key, row.to_value()))
            .collect();
        if !self.exchange.keep(rows).await && !hearer.alive().borrow().is_empty() {
            tracing::warn!("no other instance said in time that it keeps what was written here");
        }
    }

    /// Answers what another instance asks.
    async fn answer(&self, question: Question) -> Vec<Vec<u8>> {
        match question {
            Question::Keep(rows) => {
                // What was heard already may still be on its way to the disk, or not have got there.
                let asked = rows.iter();
                let asked =
                    asked.filter_map(|(key, row)| Some((key.clone(), Row::from_value(row)?)));
                let asked = asked.collect();
                let kept = self.merge(rows).await && self.store.keep(asked).await.is_ok();
                // If not, it was logged, and another one may keep them.
                if kept {
                    Answer::Kept.encode()
                } else {
                    Vec::new()
                }
            }
            Question::Writable => match self.disk.can_write().await {
                true => Answer::Writable.encode(),
                false => Vec::new(),
            },
            Question::Digest => {
                let digest = lock(&self.rows).digest().clone();
                Answer::Digest(digest).encode()
            }
            Question::Buckets(buckets) => {
                let rows = lock(&self.rows).in_buckets(&buckets);
                exchange::pieces(rows)
            }
        }
    }

    /// Takes from another instance what it has and we lack; how many buckets differed, if it
    /// answered.
    async fn repair(&self, peer: &InstanceId) -> Option<usize> {
        let theirs = self.exchange.digest(peer).await?;
        let differing = lock(&self.rows).digest().differing(&theirs);
        for some in differing.chunks(BUCKETS_AT_ONCE) {
            let rows = self.exchange.buckets(peer, some.to_vec()).await?;
            self.merge(rows).await;
        }
        Some(differing.len())
    }

    async fn hear(&self, heard: Heard) {
        match heard {
            Heard::Everything(_, entries) => {
                self.merge(entries).await;
            }
            Heard::Changed(_, changes) => {
                let set = changes.into_iter();
                let set = set.filter_map(|(key, value)| Some((key, value?)));
                self.merge(set.collect()).await;
            }
            Heard::Gone(_) => {}
        }
    }

    /// Takes in what a peer has and we lack. Whether all of it is on disk.
    async fn merge(&self, entries: Entries) -> bool {
        let newer: Vec<(String, Row)> = {
            let rows = lock(&self.rows);
            let theirs = entries
                .into_iter()
                .filter_map(|(key, value)| Some((key, Row::from_value(&value)?)));
            theirs
                .filter(|(key, row)| rows.would_take(key, row))
                .collect()
        };
        if newer.is_empty() {
            return true;
        }
        let mut ahead = None;
        for stamp in newer.iter().filter_map(|(_, row)| row.stamp.timestamp()) {
            ahead = self.clock.update_with_timestamp(&stamp).err().or(ahead);
        }
        // It has stamped many rows, and is worth one line.
        if let Some(error) = ahead {
            tracing::warn!(%error, "a peer's clock is ahead of ours");
        }
        let newer = {
            let mut rows = lock(&self.rows);
            let newer = rows.merge(newer);
            let held = newer.iter().map(|(key, row)| (key.clone(), row.to_value()));
            self.speaker.hold(held.collect());
            newer
        };
        if newer.is_empty() {
            return true;
        }
        self.tell(newer.clone());
        // Last, so that they are seen here at once: what is lost before it is kept comes again
        // with the next snapshot.
        let kept = self.store.keep(newer).await;
        self.disk.wrote_aside(&kept);
        kept.is_ok()
    }

    fn tell(&self, newer: Vec<(String, Row)>) {
        if !newer.is_empty() {
            let changes = newer.into_iter().map(|(key, row)| (key, row.value));
            // Nobody listens any more only when the service is stopping.
            let _ = self.changed.send(changes.collect());
        }
    }
}

/// Tries again and again what the disk refused: there may be room again.
async fn try_again(inner: Weak<Inner>) {
    loop {
        pause().await;
        match inner.upgrade() {
            Some(inner) => inner.disk.try_again().await,
            None => return,
        }
    }
}

/// Waits for about [`COMPARE`]: not all at the same moment.
async fn pause() {
    let jitter = rand::rng().random_range(0..=COMPARE.as_millis() / 2);
    tokio::time::sleep(COMPARE + Duration::from_millis(u64::try_from(jitter).unwrap_or(0))).await;
}

/// Compares these rows with another instance's again and again, and takes what is missing here: what
/// was lost on the way, and what somebody wrote who is gone.
async fn compare(inner: Weak<Inner>, alive: watch::Receiver<BTreeSet<InstanceId>>) {
    loop {
        pause().await;
        let peer = {
            let alive = alive.borrow();
            alive.iter().choose(&mut rand::rng()).cloned()
        };
        let (Some(peer), Some(inner)) = (peer, inner.upgrade()) else {
            if inner.strong_count() == 0 {
                return;
            }
            continue;
        };
        if let Some(buckets @ 1..) = inner.repair(&peer).await {
            tracing::debug!(%peer, buckets, "rows that differed were compared");
        }
    }
}

/// The rows are changed in single steps, so a panic elsewhere cannot have left them half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
