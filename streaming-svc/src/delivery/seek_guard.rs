//! What keeps gst-rtsp-server 1.22.0 well when players seek: three things that its pipelines do not
//! always bear, and a demultiplexer that begins too early.

use crate::facts::{Codec, Container, Track};
use gst::prelude::*;
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

/// How much later than asked MP4 files are sought: longer than a frame of AAC at the usual rates
/// (1,024 samples from 22.05 kHz on; with SBR, 2,048 from 44.1 kHz on: 46.4 ms), MP3 or Opus, so that
/// a frame of sound *begins* between the key frame and the place sought.
const FRAME_OF_SOUND: gst::ClockTime = gst::ClockTime::from_mseconds(47);

/// The same for FLAC: 4,608 samples, the most in its streamable subset (RFC 9639, section 7), at
/// 44.1 kHz.
const FRAME_OF_FLAC: gst::ClockTime = gst::ClockTime::from_mseconds(105);

/// Watches over the outputs of one pipeline's payloaders.
#[derive(Clone)]
pub(super) struct SeekGuard {
    /// How much later to seek than asked.
    later: gst::ClockTime,
    /// The last seek as it was asked for, the same for all tracks.
    last: Arc<Mutex<Option<gst::event::Seek<gst::Event>>>>,
}

impl SeekGuard {
    /// For a new pipeline that reads such a container.
    pub(super) fn new(container: Container, tracks: &[Track]) -> Self {
        let is_flac = |track: &Track| matches!(track.codec, Codec::Flac | Codec::Flac24);
        let later = match container {
            Container::Mp4 if tracks.iter().any(is_flac) => FRAME_OF_FLAC,
            Container::Mp4 => FRAME_OF_SOUND,
            Container::Matroska => gst::ClockTime::ZERO,
        };
        Self {
            later,
            last: Arc::default(),
        }
    }

    /// For one source that seeks for itself.
    pub(super) fn for_source() -> Self {
        Self {
            later: gst::ClockTime::ZERO,
            last: Arc::default(),
        }
    }

    /// Watches over a payloader. It does four things:
    ///
    /// - A seek reaches the demultiplexer once through each track, and the later ones can lock up
    ///   with the data that already flows again. So only the first is let through.
    /// - After a seek the server asks every track for its segment, and aborts the process when one
    ///   has none yet, as happens when seeks come fast. So a provisional segment follows each
    ///   flush; the real one replaces it before any data flows.
    /// - It waits until every track has data, 20 seconds long, also for a track that has none left
    ///   at the place sought, and then breaks the session. So such a track says that there is a gap.
    /// - `qtdemux` begins where the earliest track has a key frame. For a place at a video's key
    ///   frame that is the frame of sound around it, just before, and the video then begins another
    ///   key frame earlier, which may be ten seconds that are sent at once. So it seeks a frame of
    ///   sound later.
    pub(super) fn watch(&self, payloader: &gst::Element) {
        let Some(output) = payloader.static_pad("src") else {
            return;
        };
        let guard = self.clone();
        let passing = AtomicBool::new(false);
        // The sequence number when the last seek flushed: if it is still the same at the end of the
        // track, there was no data. `None` before the first seek.
        let flushed_at = Mutex::new(None::<u32>);
        let payloader = payloader.downgrade();
        let sequence = move || Some(payloader.upgrade()?.property::<u32>("seqnum"));
        let events = gst::PadProbeType::EVENT_BOTH | gst::PadProbeType::EVENT_FLUSH;
        output.add_probe(events, move |pad, info| {
            let Some(event) = info.event() else {
                return gst::PadProbeReturn::Ok;
            };
            match event.view() {
                gst::EventView::Seek(seek) => {
                    let mut last = lock(&guard.last);
                    if last
                        .as_ref()
                        .is_some_and(|last| last.seqnum() == seek.seqnum())
                    {
                        return gst::PadProbeReturn::Handled;
                    }
                    *last = Some(seek.to_owned());
                    drop(last);
                    if let Some(later) = guard.put_off(seek) {
                        info.data = Some(gst::PadProbeData::Event(later));
                    }
                }
                gst::EventView::FlushStop(_) if !passing.load(Ordering::Acquire) => {
                    let event = event.to_owned();
                    *lock(&flushed_at) = sequence();
                    // Pushing it comes by here again.
                    passing.store(true, Ordering::Release);
                    pad.push_event(event);
                    passing.store(false, Ordering::Release);
                    pad.push_event(gst::event::Segment::new(&guard.segment()));
                    return gst::PadProbeReturn::Handled;
                }
                gst::EventView::Eos(_) => {
                    let flushed_at = lock(&flushed_at).take();
                    if flushed_at.is_some()
                        && flushed_at == sequence()
                        && let Some(next) = pad.peer()
                    {
                        // It blocks until the player has asked to play, as any first packet does.
                        // It is handed to the next pad, as this one counts as ended already.
                        next.send_event(gst::event::Gap::new(gst::ClockTime::ZERO, None));
                    }
                }
                _ => {}
            }
            gst::PadProbeReturn::Ok
        });
    }

    /// The same seek to a later place; `None` to leave it as it is: at the film's beginning, where
    /// all tracks have key frames, and where not key frames are sought.
    fn put_off(&self, seek: &gst::event::Seek) -> Option<gst::Event> {
        let (rate, flags, from_type, from, to_type, to) = seek.get();
        let gst::GenericFormattedValue::Time(Some(from)) = from else {
            return None;
        };
        let fits = from_type == gst::SeekType::Set
            && from > gst::ClockTime::ZERO
            && rate > 0.0
            && flags.contains(gst::SeekFlags::KEY_UNIT)
            && !matches!(to, gst::GenericFormattedValue::Time(Some(to)) if to <= from + self.later);
        (fits && !self.later.is_zero()).then(|| {
            gst::event::Seek::builder(rate, flags, from_type, from + self.later, to_type, to)
                .seqnum(seek.seqnum())
                .build()
        })
    }

    /// The last seek once more; `None` before the first.
    pub(super) fn again(&self) -> Option<gst::Event> {
        let last = lock(&self.last);
        let (rate, flags, from_type, from, to_type, to) = last.as_ref()?.get();
        let seek = gst::event::Seek::new(rate, flags, from_type, from, to_type, to);
        Some(seek)
    }

    fn segment(&self) -> gst::FormattedSegment<gst::ClockTime> {
        let mut segment = gst::FormattedSegment::new();
        if let Some(last) = lock(&self.last).as_ref() {
            segment.set_rate(last.get().0);
        }
        segment
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
