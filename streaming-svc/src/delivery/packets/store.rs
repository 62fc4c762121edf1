//! The reels of all films, and how much memory they may take together.

use super::reel::Reel;
use crate::delivery::{film::FilmSource, pipeline};
use gst::prelude::*;
use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// How long packets that nobody reads are kept: for a player that opens a film twice, or comes back.
const KEPT: Duration = Duration::from_secs(15);

/// How long after a reel was made its first reader may come.
const BEGINNING: Duration = Duration::from_secs(1);

/// How often packets are made for somebody before it is given up, since others needed the memory.
const TRIES: u32 = 10;

/// A file, as it was when it was opened: what was made of it is of no use for another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    path: PathBuf,
    device: u64,
    node: u64,
    size: u64,
    changed: (i64, i64),
}

impl Version {
    fn of(path: PathBuf) -> io::Result<Self> {
        let file = fs::metadata(&path)?;
        Ok(Self {
            path,
            device: file.dev(),
            node: file.ino(),
            size: file.size(),
            changed: (file.mtime(), file.mtime_nsec()),
        })
    }
}

/// The reels there are.
pub(in crate::delivery) struct Store {
    /// How much memory packets may take, in bytes. What is needed next for those who play is kept all
    /// the same.
    limit: usize,
    used: AtomicUsize,
    reels: Mutex<Vec<(Version, Arc<Reel>)>>,
    this: Weak<Store>,
}

/// A film whose packets are made once for all.
#[derive(Clone)]
pub(super) struct Title {
    film: FilmSource,
    version: Version,
    store: Arc<Store>,
}

impl Store {
    /// None yet, and room for so many bytes.
    pub(in crate::delivery) fn new(limit: usize) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            limit,
            used: AtomicUsize::new(0),
            reels: Mutex::default(),
            this: this.clone(),
        })
    }

    /// Forgets what nobody has read for a while; whether there was any. To be called now and then.
    pub(in crate::delivery) fn tidy(&self, now: Instant) -> bool {
        self.close_those(|reel| reel.idle(now).is_some_and(|idle| idle >= KEPT))
    }

    /// Notes that packets take so much more.
    pub(super) fn take(&self, cost: usize) {
        let before = self.used.fetch_add(cost, Ordering::Relaxed);
        // What is taken may have been given back already: it is less than nothing for a moment then.
        if before.wrapping_add(cost) > self.limit {
            self.relieve();
        }
    }

    /// Notes that packets take so much less.
    pub(super) fn give(&self, cost: usize) {
        self.used.fetch_sub(cost, Ordering::Relaxed);
    }

    /// How much memory packets take, in bytes, and on how many reels they are.
    #[cfg(test)]
    pub(super) fn holds(&self) -> (usize, usize) {
        (self.used.load(Ordering::Relaxed), self.reels().len())
    }

    fn is_over(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.limit
    }

    /// Makes room: of what nobody reads the longest unread goes first; then what all have read; then
    /// what only those want who are behind, who have it made anew.
    fn relieve(&self) {
        let now = Instant::now();
        while self.is_over() {
            let reels = self.reels();
            let idle = reels.iter().filter_map(|(_, reel)| reel.idle(now));
            let longest = idle.filter(|idle| *idle >= BEGINNING).max();
            drop(reels);
            let Some(longest) = longest else { break };
            self.close_those(|reel| reel.idle(now).is_some_and(|idle| idle >= longest));
        }
        for lagging in [false, true] {
            let reels: Vec<Arc<Reel>> = self.reels().iter().map(|it| Arc::clone(&it.1)).collect();
            for reel in reels {
                if self.is_over() {
                    reel.forget(lagging);
                }
            }
        }
    }

    fn close_those(&self, which: impl Fn(&Reel) -> bool) -> bool {
        let mut closed = Vec::new();
        self.reels().retain(|(_, reel)| {
            let close = which(reel);
            if close {
                closed.push(Arc::clone(reel));
            }
            !close
        });
        for reel in &closed {
            reel.close();
        }
        !closed.is_empty()
    }

    /// Forgets everything.
    pub(in crate::delivery) fn clear(&self) {
        self.close_those(|_| true);
    }

    fn reels(&self) -> MutexGuard<'_, Vec<(Version, Arc<Reel>)>> {
        self.reels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Title {
    /// A film, as its file is now.
    ///
    /// # Errors
    /// When the file is not there.
    pub(super) fn of(film: &FilmSource, store: &Arc<Store>) -> io::Result<Self> {
        Ok(Self {
            film: film.clone(),
            version: Version::of(film.path.clone())?,
            store: Arc::clone(store),
        })
    }

    /// A reel, and where on it a player begins that wants to be at a place in the film.
    ///
    /// # Errors
    /// When the file cannot be read there.
    pub(super) fn at(&self, wanted: gst::ClockTime) -> Result<(Arc<Reel>, gst::ClockTime), String> {
        for _ in 0..TRIES {
            // The one that begins latest: the others have more that is not wanted.
            let begin = |reel: Arc<Reel>| Some((reel.beginning(wanted)?, reel));
            let best = self.mine().filter_map(begin).max_by_key(|it| it.0);
            // What is made for it may be forgotten before it is looked at.
            let best = match best {
                Some(best) => Some(best),
                None => begin(self.made_for(wanted)?),
            };
            if let Some((beginning, reel)) = best {
                return Ok((reel, beginning));
            }
        }
        Err("there is not enough memory for packets".to_owned())
    }

    /// A reel on which a track goes on behind a packet.
    ///
    /// # Errors
    /// When the file cannot be read there.
    pub(super) fn behind(
        &self,
        track: usize,
        stamp: i64,
        time: gst::ClockTime,
    ) -> Result<Arc<Reel>, String> {
        match self.mine().find(|reel| reel.has(track, stamp)) {
            Some(reel) => Ok(reel),
            None => self.made_for(time),
        }
    }

    /// A reel that is made for this place: another's that is just being made, or a new one.
    fn made_for(&self, wanted: gst::ClockTime) -> Result<Arc<Reel>, String> {
        let (reel, new) = {
            let mut reels = self.store.reels();
            reels.retain(|(_, reel)| !reel.is_broken());
            let same = reels.iter().find(|(version, reel)| {
                *version == self.version && reel.is_for(wanted) && reel.is_whole()
            });
            match same {
                Some((_, reel)) => (Arc::clone(reel), false),
                None => {
                    let reel = Reel::new(wanted, &self.film.facts, self.store.this.clone());
                    reels.push((self.version.clone(), Arc::clone(&reel)));
                    (reel, true)
                }
            }
        };
        match new {
            true => self.open(&reel)?,
            false => reel.opened()?,
        }
        Ok(reel)
    }

    fn open(&self, reel: &Arc<Reel>) -> Result<(), String> {
        let made = pipeline::making(&self.film).map_err(|error| error.to_string());
        let (pipeline, payloaders) = made.inspect_err(|error| reel.fail(error.clone()))?;
        let outputs: Vec<gst::Pad> = payloaders
            .iter()
            .enumerate()
            .filter_map(|(number, payloader)| reel.watch(number, payloader))
            .collect();
        if let Some(bus) = pipeline.bus() {
            let reel = Arc::downgrade(reel);
            bus.set_sync_handler(move |_, message| {
                if let (gst::MessageView::Error(error), Some(reel)) =
                    (message.view(), reel.upgrade())
                {
                    tracing::warn!(error = %error.error(), "a film cannot be read on");
                    reel.fail(error.error().to_string());
                }
                gst::BusSyncReply::Drop
            });
        }
        reel.open(pipeline, &outputs)
    }

    /// This film's reels.
    fn mine(&self) -> impl Iterator<Item = Arc<Reel>> + use<> {
        let reels = self.store.reels();
        let mine = reels.iter().filter(|(version, _)| *version == self.version);
        let mine: Vec<Arc<Reel>> = mine.map(|(_, reel)| Arc::clone(reel)).collect();
        mine.into_iter()
    }
}
