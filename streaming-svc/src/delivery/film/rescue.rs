//! What helps a PLAY that stands still in gst-rtsp-server 1.22.0.

use super::{super::seek_guard::SeekGuard, FilmMedia, SETTLING};
use gst::{glib, prelude::*, subclass::prelude::ObjectSubclassIsExt as _};
use gst_rtsp_server::prelude::*;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// How long PLAY may take before it is looked after. It takes 2 to 12 ms as a rule; where a slow
/// disk or a film without an index makes it longer, looking after it does no harm.
const PATIENCE: Duration = Duration::from_millis(250);

/// How often it is looked after before it has to go on, whatever the count of tracks.
const LOOKS: u32 = 10;

/// For how many looks locks are freed. By then the server itself gives up.
const FREEING_LOOKS: u32 = 80;

/// How often it is looked whether a lock was freed.
const FREEING: Duration = Duration::from_millis(5);

/// How often a track is started again. Once suffices unless its lock has to be freed again.
const SEEKS: u32 = 3;

impl FilmMedia {
    /// What is to be attached to a context that never waits for players while PLAY is answered, and
    /// destroyed then: it helps a PLAY that stands still.
    pub(in super::super) fn look_after(&self) -> glib::Source {
        let film = self.downgrade();
        let mut looks = 0;
        let (mut locks, mut missed) = (None::<Arc<AtomicBool>>, 0);
        let look = move || {
            let Some(film) = film.upgrade() else {
                return glib::ControlFlow::Break;
            };
            looks += 1;
            match &locks {
                Some(had) if !had.load(Ordering::Acquire) => {
                    missed += 1;
                    // On a busy machine, once may only mean that nobody got to ask.
                    if missed % 2 == 0 && looks <= FREEING_LOOKS {
                        film.free_locks(had);
                    }
                }
                _ => (locks, missed) = (Some(film.try_locks()), 0),
            }
            film.recount(looks >= LOOKS);
            glib::ControlFlow::Continue
        };
        glib::timeout_source_new(PATIENCE, Some("rtsp-play"), glib::Priority::HIGH, look)
    }

    /// Asks for the tracks' locks, in a thread of its own. What it returns becomes true when they
    /// were to be had.
    fn try_locks(&self) -> Arc<AtomicBool> {
        let had = Arc::new(AtomicBool::new(false));
        let (film, told) = (self.downgrade(), Arc::clone(&had));
        let asked = in_background("rtsp-look", move || {
            if let Some(film) = film.upgrade() {
                let streams = (0..film.n_streams()).filter_map(|index| film.stream(index));
                // It takes the lock; what it says does not matter.
                streams.for_each(|stream| _ = stream.is_blocking());
            }
            told.store(true, Ordering::Release);
        });
        if !asked {
            // Nothing is known of the locks, so nothing is to be done about them.
            had.store(true, Ordering::Release);
        }
        had
    }

    /// Helps a PLAY that stands still because gst-rtsp-server 1.22.0 never lets go of a track's lock:
    /// it fetches packets for TCP from its sinks while it holds it, and waits there for ever when a
    /// flush came between the notice and the fetching. A sink that is told the end sends it away; when
    /// the locks were `had`, the end is taken back.
    ///
    /// In threads of their own, since what is told may wait behind what stands still.
    fn free_locks(&self, had: &Arc<AtomicBool>) {
        self.imp().freed.store(true, Ordering::Release);
        let inputs: Vec<gst::Pad> = self.pipeline().iter().flat_map(rtp_inputs).collect();
        let (had, freeing) = (Arc::clone(had), Arc::clone(&self.imp().freeing));
        in_background("rtsp-free", move || {
            for pad in inputs.clone() {
                let freeing = Arc::clone(&freeing);
                in_background("rtsp-end", move || {
                    // Whatever it holds lets go first, for the end to pass.
                    flush(&pad);
                    pad.send_event(gst::event::Eos::new());
                    drop(freeing);
                });
            }
            let deadline = Instant::now() + SETTLING;
            while !had.load(Ordering::Acquire) && Instant::now() < deadline {
                std::thread::sleep(FREEING);
            }
            for pad in inputs {
                flush(&pad);
                // It was sent this before, and the flush took it away.
                let segment = pad
                    .peer()
                    .and_then(|peer| peer.sticky_event::<gst::event::Segment>(0));
                segment.map(|segment| pad.send_event(segment));
            }
            drop(freeing);
        });
    }

    /// Seeks again if locks were freed since the last time: packets that came just then found a sink
    /// that did not take them, and that stops their track until the next seek.
    pub(in super::super) fn start_again(&self) {
        for _ in 0..SEEKS {
            if !self.imp().freed.swap(false, Ordering::AcqRel) {
                return;
            }
            // What frees them throws away what the sinks hold, last of all.
            let deadline = Instant::now() + 2 * SETTLING;
            while Arc::strong_count(&self.imp().freeing) > 1 && Instant::now() < deadline {
                std::thread::sleep(FREEING);
            }
            let seek = self.imp().guard.get().and_then(SeekGuard::again);
            if let Some((seek, pipeline)) = seek.zip(self.pipeline()) {
                // It fails only for a pipeline that broke.
                pipeline.send_event(seek);
            }
        }
    }

    /// Helps a PLAY that stands still because gst-rtsp-server 1.22.0 counted the tracks that have data
    /// after a seek wrongly: one too many when another seek came quickly, and then it waits for 20
    /// seconds. It is told when all have, or to `go_on` without: what comes late is then played when
    /// it comes.
    fn recount(&self, go_on: bool) {
        if let Some(pipeline) = self.pipeline() {
            self.imp().recount(pipeline.upcast_ref(), go_on);
        }
    }
}

/// Has a pad throw away what it holds, and its end.
fn flush(pad: &gst::Pad) {
    pad.send_event(gst::event::FlushStart::new());
    pad.send_event(gst::event::FlushStop::new(false));
}

/// Does something in a thread of its own. `false` when there is none to be had: what it was to help
/// stands still until its stream ends, and harms nobody else.
fn in_background(name: &str, what: impl FnOnce() + Send + 'static) -> bool {
    let thread = std::thread::Builder::new().name(name.to_owned());
    let started = thread.spawn(what);
    if let Err(error) = &started {
        tracing::warn!(%error, "no thread to look after a player with");
    }
    started.is_ok()
}

/// The inputs of the sinks from which the server takes the RTP packets that go over TCP.
fn rtp_inputs(pipeline: &gst::Pipeline) -> impl Iterator<Item = gst::Pad> + use<> {
    let sinks = pipeline.iterate_sinks().into_iter().flatten();
    sinks
        .filter(|sink| sink.factory().is_some_and(|it| it.name() == "appsink"))
        .filter_map(|sink| sink.static_pad("sink"))
        .filter(|pad| {
            let caps = pad.current_caps();
            caps.is_some_and(|caps| {
                caps.structure(0)
                    .is_some_and(|it| it.has_name("application/x-rtp"))
            })
        })
}
