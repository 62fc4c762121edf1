//! A film's packets from some place on, made as far ahead as somebody wants them, and kept for others.

use super::{
    packet::{Burst, Packet},
    store::Store,
};
use crate::facts::{Container, Facts};
use gst::prelude::*;
use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// How far ahead of the foremost reader packets are made: longer than a burst, so that none waits for
/// the file, and short, since it is kept for each film that is played.
const AHEAD: Duration = Duration::from_millis(1500);

/// How much of a track is held, in bytes, while another has nothing for its readers yet: tracks that
/// are badly interleaved, or one that has nothing for a while.
const HELD: usize = 64 << 20;

/// How long a reel may take to have its first packets. It takes milliseconds; a disk that is asleep
/// takes seconds.
const OPENING: Duration = Duration::from_secs(15);

/// How much later than wanted a player may begin, in nanoseconds: a key frame that is so close is better
/// than one that may be ten seconds earlier. A film's times are often a few milliseconds beside those
/// that people and players name.
const CLOSE: i64 = 50_000_000;

/// Some of a film's packets, and what makes more of them.
pub(super) struct Reel {
    /// From where on, in nanoseconds of the film: not later than there, if it can be.
    target: gst::ClockTime,
    container: Container,
    /// The track that says where a player can begin.
    leading: usize,
    state: Mutex<State>,
    /// There are more packets, or there is other news for readers.
    more: Condvar,
    /// There may be room for more.
    room: Condvar,
    store: Weak<Store>,
    pipeline: Mutex<Option<gst::Pipeline>>,
}

struct State {
    tracks: Vec<Track>,
    readers: HashMap<u64, Place>,
    next_reader: u64,
    /// How many wait for news.
    waiting: usize,
    opened: bool,
    failed: Option<String>,
    closed: bool,
    /// When the last reader left, or it was made.
    left: Instant,
}

/// Where a reader is.
#[derive(Debug, Clone, Copy)]
struct Place {
    track: usize,
    index: u64,
    /// In nanoseconds of the film.
    time: i64,
}

/// One track's packets.
#[derive(Default)]
struct Track {
    caps: Option<gst::Caps>,
    clock: u32,
    /// Whether what comes counts: not what was made before the place was sought.
    counts: bool,
    packets: VecDeque<Packet>,
    /// The number of the first of them.
    base: u64,
    /// Their cost in bytes.
    cost: usize,
    /// The latest place there was a packet of: frames are not sent in the order in which they are shown.
    newest: Option<i64>,
    /// The last timestamp without its wrap.
    unwrapped: i64,
    ended: bool,
}

/// What a reader gets.
pub(super) enum Taken {
    /// Packets; at least one.
    Packets(Vec<Packet>),
    /// There are no more.
    End,
    /// What it wants next is no longer kept.
    Lost,
    /// It is to stop waiting.
    Interrupted,
    /// The file cannot be read any more.
    Failed(String),
}

/// Nanoseconds of so many units of a clock.
pub(super) fn nanoseconds(stamp: i64, clock: u32) -> i64 {
    let time = i128::from(stamp) * 1_000_000_000 / i128::from(clock.max(1));
    i64::try_from(time).unwrap_or(i64::MAX)
}

/// Units of a clock, rounded to the nearest.
pub(super) fn stamp_at(nanoseconds: i64, clock: u32) -> i64 {
    let units = i128::from(nanoseconds) * i128::from(clock);
    let half = 500_000_000 * units.signum();
    i64::try_from((units + half) / 1_000_000_000).unwrap_or(i64::MAX)
}

impl Track {
    fn end(&self) -> u64 {
        self.base + self.packets.len() as u64
    }

    /// Up to where in the film its packets are known, in nanoseconds.
    fn head(&self) -> i64 {
        match self.newest {
            _ if self.ended => i64::MAX,
            Some(newest) => nanoseconds(newest, self.clock),
            None => i64::MIN,
        }
    }

    fn from(&self, index: u64) -> impl Iterator<Item = &Packet> {
        let skipped = usize::try_from(index.saturating_sub(self.base)).unwrap_or(usize::MAX);
        self.packets.iter().skip(skipped)
    }

    /// Forgets those before this number. How much that was, in bytes.
    fn forget(&mut self, before: u64) -> usize {
        let mut cost = 0;
        while self.base < before
            && let Some(packet) = self.packets.pop_front()
        {
            cost += packet.cost();
            self.base += 1;
        }
        self.cost -= cost;
        cost
    }

    /// The RTP timestamp without its wrap after 2^32.
    fn unwrap_stamp(&mut self, timestamp: u32) -> i64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_possible_wrap,
            clippy::cast_sign_loss,
            reason = "it counts modulo 2^32 (RFC 3550, 5.1)"
        )]
        let step = timestamp.wrapping_sub(self.unwrapped as u32) as i32;
        self.unwrapped += i64::from(step);
        self.unwrapped
    }
}

impl State {
    /// Up to where in the film all tracks' packets are known.
    fn head(&self) -> i64 {
        self.tracks
            .iter()
            .map(Track::head)
            .min()
            .unwrap_or(i64::MAX)
    }

    fn has_enough(&self, target: i64) -> bool {
        let wanted = self.readers.values().map(|place| place.time).max();
        let ahead = i64::try_from(AHEAD.as_nanos()).unwrap_or(i64::MAX);
        if self.head() >= wanted.unwrap_or(target).saturating_add(ahead) {
            return true;
        }
        // What nobody has read yet.
        let unread = self.tracks.iter().enumerate().map(|(number, track)| {
            let readers = self.readers.values().filter(|place| place.track == number);
            let first = readers.map(|place| place.index).max();
            let unread = track.end() - first.unwrap_or(track.base).clamp(track.base, track.end());
            let all = (track.packets.len() as u64).max(1);
            track.cost as u64 * unread / all
        });
        unread.sum::<u64>() > HELD as u64
    }

    fn cost(&self) -> usize {
        self.tracks.iter().map(|track| track.cost).sum()
    }
}

impl Reel {
    /// One that nothing was made for yet: to be [opened](Reel::open).
    pub(super) fn new(target: gst::ClockTime, facts: &Facts, store: Weak<Store>) -> Arc<Self> {
        let counts = target.is_zero();
        let leading = facts.tracks.iter().position(|it| it.codec.is_video());
        let track = || Track {
            counts,
            ..Track::default()
        };
        Arc::new(Self {
            target,
            container: facts.container.unwrap_or(Container::Matroska),
            leading: leading.unwrap_or(0),
            state: Mutex::new(State {
                tracks: facts.tracks.iter().map(|_| track()).collect(),
                readers: HashMap::new(),
                next_reader: 0,
                waiting: 0,
                opened: false,
                failed: None,
                closed: false,
                left: Instant::now(),
            }),
            more: Condvar::new(),
            room: Condvar::new(),
            store,
            pipeline: Mutex::new(None),
        })
    }

    /// Has packets made by this pipeline, whose outputs were [connected](Reel::watch). Returns when a
    /// reader can begin at the target, or why it cannot.
    ///
    /// # Errors
    /// When the file cannot be read there.
    pub(super) fn open(&self, pipeline: gst::Pipeline, outputs: &[gst::Pad]) -> Result<(), String> {
        let started = pipeline.set_state(gst::State::Playing);
        *lock(&self.pipeline) = Some(pipeline);
        let begun = started.map_err(|error| error.to_string());
        let begun = begun.and_then(|_| match self.target.is_zero() {
            true => Ok(()),
            false => self.seek(outputs),
        });
        let opened = begun.and_then(|()| self.until("its packets did not come", State::can_begin));
        let mut state = self.lock();
        state.opened = true;
        if let Err(reason) = &opened {
            state.failed.get_or_insert(reason.clone());
        }
        drop(state);
        self.more.notify_all();
        opened
    }

    /// Seeks the place, once the demultiplexer knows its tracks.
    fn seek(&self, outputs: &[gst::Pad]) -> Result<(), String> {
        self.until("its tracks were not found", |state, _| {
            let mut tracks = state.tracks.iter();
            tracks.any(|track| track.caps.is_some() || track.ended)
        })?;
        let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::KEY_UNIT | gst::SeekFlags::SNAP_BEFORE;
        let seek = gst::event::Seek::new(
            1.0,
            flags,
            gst::SeekType::Set,
            self.target,
            gst::SeekType::None,
            gst::ClockTime::NONE,
        );
        let sought = outputs.iter().any(|pad| pad.send_event(seek.clone()));
        match sought {
            true => Ok(()),
            false => Err("it cannot be sought in".to_owned()),
        }
    }

    /// Waits until something is so.
    fn until(&self, what: &str, is_so: impl Fn(&State, &Self) -> bool) -> Result<(), String> {
        let until = Instant::now() + OPENING;
        let mut state = self.lock();
        loop {
            if let Some(reason) = &state.failed {
                return Err(reason.clone());
            }
            if is_so(&state, self) {
                return Ok(());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(what.to_owned());
            }
            state.waiting += 1;
            let waited = self.more.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
        }
    }

    /// Waits until it was opened.
    ///
    /// # Errors
    /// When that failed.
    pub(super) fn opened(&self) -> Result<(), String> {
        self.until("it was not opened in time", |state, _| state.opened)
    }

    /// Has what a payloader's output says and makes kept here. Nothing goes any further.
    pub(super) fn watch(
        self: &Arc<Self>,
        number: usize,
        payloader: &gst::Element,
    ) -> Option<gst::Pad> {
        let (input, output) = (payloader.static_pad("sink")?, payloader.static_pad("src")?);
        // Whether a player can begin with what is made next.
        let key = Arc::new(AtomicBool::new(false));
        let next_is_key = Arc::clone(&key);
        let container = self.container;
        let incoming = gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM;
        input.add_probe(incoming, move |_, info| {
            match &info.data {
                Some(gst::PadProbeData::Buffer(frame))
                    if !frame.flags().contains(gst::BufferFlags::DELTA_UNIT) =>
                {
                    next_is_key.store(true, Ordering::Relaxed);
                }
                Some(gst::PadProbeData::Event(event)) => {
                    if let Some(whole) = whole_film(event, container) {
                        info.data = Some(gst::PadProbeData::Event(whole));
                    }
                }
                _ => {}
            }
            gst::PadProbeReturn::Ok
        });
        let reel = Arc::downgrade(self);
        let all = gst::PadProbeType::BUFFER
            | gst::PadProbeType::BUFFER_LIST
            | gst::PadProbeType::EVENT_DOWNSTREAM
            | gst::PadProbeType::EVENT_FLUSH;
        output.add_probe(all, move |_, info| {
            let reel = reel.upgrade();
            match &info.data {
                Some(gst::PadProbeData::Buffer(buffer)) => {
                    if let Some(reel) = reel {
                        reel.take_in(number, [&**buffer], &key);
                    }
                    gst::PadProbeReturn::Drop
                }
                Some(gst::PadProbeData::BufferList(list)) => {
                    if let Some(reel) = reel {
                        reel.take_in(number, list.iter(), &key);
                    }
                    gst::PadProbeReturn::Drop
                }
                Some(gst::PadProbeData::Event(event)) => {
                    if let Some(reel) = reel {
                        reel.hear(number, event);
                    }
                    gst::PadProbeReturn::Ok
                }
                _ => gst::PadProbeReturn::Ok,
            }
        });
        Some(output)
    }

    /// Keeps what was made, and waits while that is enough.
    fn take_in<'a>(
        &self,
        number: usize,
        made: impl IntoIterator<Item = &'a gst::BufferRef>,
        key: &AtomicBool,
    ) {
        let mut state = self.lock();
        let track = &mut state.tracks[number];
        if !track.counts {
            return;
        }
        let before = track.cost;
        for buffer in made {
            let Some((mut packet, timestamp)) = Packet::read(buffer) else {
                continue;
            };
            packet.stamp = track.unwrap_stamp(timestamp);
            packet.key = key.swap(false, Ordering::Relaxed);
            track.newest = track.newest.max(Some(packet.stamp));
            track.cost += packet.cost();
            track.packets.push_back(packet);
        }
        let cost = track.cost - before;
        if state.waiting > 0 {
            self.more.notify_all();
        }
        drop(state);
        if let Some(store) = self.store.upgrade() {
            store.take(cost);
        }
        let mut state = self.lock();
        while !state.closed && state.has_enough(nanoseconds_of(self.target)) {
            let waited = self.room.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn hear(&self, number: usize, event: &gst::Event) {
        let mut state = self.lock();
        let track = &mut state.tracks[number];
        let target = stamp_at(nanoseconds_of(self.target), track.clock);
        match event.view() {
            gst::EventView::Caps(caps) => {
                let structure = caps.caps().structure(0);
                let clock = structure.and_then(|it| it.get::<i32>("clock-rate").ok());
                track.clock = clock
                    .and_then(|it| u32::try_from(it).ok())
                    .unwrap_or(90_000);
                track.caps = Some(caps.caps_owned());
            }
            gst::EventView::FlushStop(_) => {
                track.counts = true;
                (track.ended, track.unwrapped) = (false, target);
            }
            gst::EventView::Eos(_) => track.ended = true,
            _ => return,
        }
        drop(state);
        self.more.notify_all();
    }

    /// It cannot be read any more.
    pub(super) fn fail(&self, reason: String) {
        self.lock().failed.get_or_insert(reason);
        self.more.notify_all();
    }

    /// Whether it was made for this place.
    pub(super) fn is_for(&self, target: gst::ClockTime) -> bool {
        self.target == target
    }

    /// Whether it still has all that was made.
    pub(super) fn is_whole(&self) -> bool {
        let state = self.lock();
        !state.closed && state.tracks.iter().all(|track| track.base == 0)
    }

    /// Whether it broke.
    pub(super) fn is_broken(&self) -> bool {
        self.lock().failed.is_some()
    }

    /// The tracks' caps, as their payloaders have them.
    pub(super) fn caps(&self) -> Vec<Option<gst::Caps>> {
        let state = self.lock();
        state
            .tracks
            .iter()
            .map(|track| track.caps.clone())
            .collect()
    }

    /// Where a player that wants to be there begins, in nanoseconds of the film: with the last packet
    /// before that one can begin with. `None` when that is not here.
    pub(super) fn beginning(&self, wanted: gst::ClockTime) -> Option<gst::ClockTime> {
        let state = self.lock();
        if !state.opened || state.failed.is_some() {
            return None;
        }
        let (leading, at) = (&state.tracks[self.leading], nanoseconds_of(wanted));
        // The next packet one can begin with may be before it.
        let until = at.saturating_add(CLOSE);
        if leading.head() < until {
            return None;
        }
        let whole = state.tracks.iter().all(|track| track.base == 0);
        if wanted.is_zero() && whole && self.target.is_zero() {
            // All of it, also what sound there is before the first picture.
            return Some(wanted);
        }
        let keys = leading.packets.iter().filter(|packet| packet.key);
        let times = keys.map(|packet| nanoseconds(packet.stamp, leading.clock));
        let first = times.clone().next();
        let key = times.take_while(|time| *time <= until).last();
        // What goes with it must be here as well.
        let is_here = |time: i64| {
            let mut cut = state.tracks.iter().filter(|track| track.base > 0);
            cut.all(|track| {
                let first = track.packets.front();
                first.is_some_and(|first| nanoseconds(first.stamp, track.clock) <= time)
            })
        };
        let at = match key {
            Some(key) => is_here(key).then_some(key)?,
            // It was made for this place, and there is none before.
            None if whole && (self.target == wanted || self.target.is_zero()) => {
                first.unwrap_or(at)
            }
            None => return None,
        };
        Some(gst::ClockTime::from_nseconds(at.try_into().unwrap_or(0)))
    }

    /// Whether a track's packet of this place is here, so that one can go on behind it.
    pub(super) fn has(&self, number: usize, stamp: i64) -> bool {
        let state = self.lock();
        let track = &state.tracks[number];
        state.failed.is_none() && track.packets.iter().any(|packet| packet.stamp == stamp)
    }

    /// Reads a track from its first packet on, for who is to be at this place in the film.
    pub(super) fn reader(self: &Arc<Self>, number: usize, at: gst::ClockTime) -> Reader {
        let mut state = self.lock();
        let id = state.next_reader;
        state.next_reader += 1;
        let (track, time) = (&state.tracks[number], nanoseconds_of(at));
        let first = track.packets.front();
        let first = first.map_or(i64::MAX, |first| nanoseconds(first.stamp, track.clock));
        // What it was to begin with may just have been forgotten.
        let lost = track.base > 0 && first > time;
        let place = Place {
            track: number,
            index: track.base - u64::from(lost),
            time,
        };
        state.readers.insert(id, place);
        Reader {
            reel: Arc::clone(self),
            id,
            number,
        }
    }

    /// For how long nobody has read it; `None` while somebody does.
    pub(super) fn idle(&self, now: Instant) -> Option<Duration> {
        let state = self.lock();
        let idle = state.readers.is_empty() && state.opened;
        idle.then(|| now.saturating_duration_since(state.left))
    }

    /// Forgets what all have read, or, if `lagging`, what the foremost have. How much that was, in
    /// bytes. Who lags behind is told that it is lost.
    pub(super) fn forget(&self, lagging: bool) -> usize {
        let mut state = self.lock();
        let State {
            tracks, readers, ..
        } = &mut *state;
        let mut cost = 0;
        for (number, track) in tracks.iter_mut().enumerate() {
            let of_this = readers.values().filter(|place| place.track == number);
            let read = of_this.map(|place| place.index);
            let before = if lagging { read.max() } else { read.min() };
            cost += before.map_or(0, |before| track.forget(before));
        }
        self.give(cost);
        cost
    }

    /// Ends it. What makes packets is taken down by a thread of its own: it may be what calls this,
    /// and a disk may hold it up.
    pub(super) fn close(&self) {
        {
            let mut state = self.lock();
            state.closed = true;
            let cost = state.cost();
            for track in &mut state.tracks {
                track.forget(u64::MAX);
            }
            self.give(cost);
        }
        self.room.notify_all();
        self.more.notify_all();
        if let Some(pipeline) = lock(&self.pipeline).take() {
            let ended = std::thread::Builder::new()
                .name("reel-end".to_owned())
                .spawn(move || _ = pipeline.set_state(gst::State::Null));
            if let Err(error) = ended {
                tracing::warn!(%error, "no thread to end what makes packets");
            }
        }
    }

    fn give(&self, cost: usize) {
        if let Some(store) = self.store.upgrade() {
            store.give(cost);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// The segment in the place of another by which a payloader's timestamps are places in the film: they
/// count from where a segment begins, and what a demultiplexer hands out before that, as it does after
/// a seek, would all get the same.
///
/// Matroska has no edit lists: its times are the film's. What its demultiplexer says of its segments
/// after a seek is not always true (GStreamer 1.22: begun at 5 s, and that were 0.019 s of the film).
fn whole_film(event: &gst::Event, container: Container) -> Option<gst::Event> {
    let gst::EventView::Segment(segment) = event.view() else {
        return None;
    };
    let segment = segment.segment().downcast_ref::<gst::ClockTime>()?;
    let (start, time) = match container {
        Container::Mp4 => (segment.start()?, segment.time()?),
        Container::Matroska => (gst::ClockTime::ZERO, gst::ClockTime::ZERO),
    };
    let mut whole = gst::FormattedSegment::<gst::ClockTime>::new();
    whole.set_start(start.saturating_sub(time));
    whole.set_base(time.saturating_sub(start));
    whole.set_time(gst::ClockTime::ZERO);
    Some(
        gst::event::Segment::builder(&whole)
            .seqnum(event.seqnum())
            .build(),
    )
}

impl State {
    /// Whether it is known what a player at the target begins with, and what all tracks are.
    fn can_begin(&self, reel: &Reel) -> bool {
        let mut tracks = self.tracks.iter();
        let known = tracks.all(|track| track.caps.is_some() || track.ended);
        let leading = &self.tracks[reel.leading];
        let until = nanoseconds_of(reel.target).saturating_add(CLOSE);
        known && leading.counts && leading.head() >= until
    }
}

impl Drop for Reel {
    fn drop(&mut self) {
        self.close();
    }
}

/// Reads one track of a reel, for one viewer.
pub(super) struct Reader {
    reel: Arc<Reel>,
    id: u64,
    number: usize,
}

impl Reader {
    /// Takes the next packets, at most a burst, and waits for them. Those for which `skip` says so are
    /// left out.
    pub(super) fn take(
        &self,
        burst: Burst,
        interrupted: &AtomicBool,
        mut skip: impl FnMut(&Packet) -> bool,
    ) -> Taken {
        let mut state = self.reel.lock();
        loop {
            if interrupted.load(Ordering::Acquire) {
                return Taken::Interrupted;
            }
            let State {
                tracks, readers, ..
            } = &mut *state;
            let track = &tracks[self.number];
            let Some(place) = readers
                .get_mut(&self.id)
                .filter(|it| it.index >= track.base)
            else {
                return Taken::Lost;
            };
            while let Some(packet) = track.from(place.index).next() {
                if !skip(packet) {
                    break;
                }
                place.index += 1;
            }
            let next = track.from(place.index);
            let sizes = next.map(|packet| (packet.stamp, packet.size()));
            let count = burst.length(sizes, track.clock);
            if count > 0 {
                let packets: Vec<Packet> = track.from(place.index).take(count).cloned().collect();
                place.index += count as u64;
                if let Some(last) = packets.last() {
                    place.time = place.time.max(nanoseconds(last.stamp, track.clock));
                }
                // Half of it is made at a time, for few wake-ups.
                let (head, at) = (state.head(), state.readers.values().map(|it| it.time).max());
                let ahead = i64::try_from(AHEAD.as_nanos()).unwrap_or(i64::MAX);
                if at.is_some_and(|at| head.saturating_sub(at) < ahead / 2) {
                    self.reel.room.notify_all();
                }
                return Taken::Packets(packets);
            }
            if track.ended {
                return Taken::End;
            }
            if let Some(reason) = &state.failed {
                return Taken::Failed(reason.clone());
            }
            if state.closed {
                return Taken::Lost;
            }
            self.reel.room.notify_all();
            state.waiting += 1;
            let waited = self.reel.more.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
    }

    /// What wakes a reader that waits.
    pub(super) fn waker(&self) -> Waker {
        Waker(Arc::downgrade(&self.reel))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.reel.lock();
        state.readers.remove(&self.id);
        state.left = Instant::now();
        drop(state);
        // It may have been what held a track back.
        self.reel.room.notify_all();
    }
}

/// Wakes who waits for a reel's packets.
#[derive(Clone)]
pub(super) struct Waker(Weak<Reel>);

impl Waker {
    /// To be called after what interrupts them was set.
    pub(super) fn wake(&self) {
        if let Some(reel) = self.0.upgrade() {
            // Nobody is between looking and waiting while this is held.
            drop(reel.lock());
            reel.more.notify_all();
        }
    }
}

fn nanoseconds_of(time: gst::ClockTime) -> i64 {
    i64::try_from(time.nseconds()).unwrap_or(i64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
