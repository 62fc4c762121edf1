//! What keeps gst-rtsp-server 1.22.0 well when players seek: three things that its pipelines do not
//! always bear.

use gst::prelude::*;
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

/// Watches over the outputs of one pipeline's payloaders.
#[derive(Clone)]
pub(super) struct SeekGuard {
    /// The last seek's number and rate, the same for all tracks.
    last: Arc<Mutex<(Option<gst::Seqnum>, f64)>>,
}

impl SeekGuard {
    /// For a new pipeline.
    pub(super) fn new() -> Self {
        Self {
            last: Arc::new(Mutex::new((None, 1.0))),
        }
    }

    /// Watches over a payloader. It does three things:
    ///
    /// - A seek reaches the demultiplexer once through each track, and the later ones can lock up
    ///   with the data that already flows again. So only the first is let through.
    /// - After a seek the server asks every track for its segment, and aborts the process when one
    ///   has none yet, as happens when seeks come fast. So a provisional segment follows each
    ///   flush; the real one replaces it before any data flows.
    /// - It waits until every track has data, 20 seconds long, also for a track that has none left
    ///   at the place sought, and then breaks the session. So such a track says that there is a gap.
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
                    let this = (Some(event.seqnum()), seek.get().0);
                    if std::mem::replace(&mut *lock(&guard.last), this).0 == this.0 {
                        return gst::PadProbeReturn::Handled;
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

    fn segment(&self) -> gst::FormattedSegment<gst::ClockTime> {
        let mut segment = gst::FormattedSegment::new();
        segment.set_rate(lock(&self.last).1);
        segment
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
