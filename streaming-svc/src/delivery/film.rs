//! A film's media factory: the pipeline that every RTSP session of a stream gets for itself, built
//! from what the probe learned, so that nothing has to be found out while a player waits.

use super::{
    packets::{Store, TrackSource},
    pipeline::payloaders,
};
use crate::facts::Facts;
use gst::{glib, prelude::*, subclass::prelude::ObjectSubclassIsExt as _};
use gst_rtsp_server::{gio::SocketFamily, gst_rtsp::RTSPLowerTrans, prelude::*};
use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

mod rescue;

/// Where a film's bytes are and what is known of them.
#[derive(Debug, Clone)]
pub struct FilmSource {
    /// The file. Any bytes that the operating system takes are fine.
    pub path: PathBuf,
    /// What the probe learned of it.
    pub facts: Facts,
}

/// The socket buffer of UDP senders, in bytes: one key frame of a high-rate film.
const UDP_SEND_BUFFER: u32 = 512 << 10;

/// How long a pipeline is waited for before a seek. It takes a few milliseconds, except where the
/// disk or the player is slow.
const SETTLING: Duration = Duration::from_secs(1);

glib::wrapper! {
    /// Builds a fresh, unshared media for each RTSP session.
    pub struct FilmFactory(ObjectSubclass<imp::FilmFactory>)
        @extends gst_rtsp_server::RTSPMediaFactory;
}

glib::wrapper! {
    /// One RTSP session's media: it knows the film's duration.
    pub struct FilmMedia(ObjectSubclass<imp::FilmMedia>)
        @extends gst_rtsp_server::RTSPMedia;
}

impl FilmFactory {
    /// A factory for the film, whose packets are kept there for all; without, each player has its file
    /// read for itself.
    pub(super) fn new(film: FilmSource, store: Option<Arc<Store>>) -> Self {
        let factory: Self = glib::Object::new();
        // Cannot be set already: it was made two lines above.
        let _ = factory.imp().film.set(film);
        let _ = factory.imp().store.set(store);
        factory.set_media_gtype(FilmMedia::static_type());
        // GStreamer 1.22.0 crashes on shared or reused media in some orders of requests.
        factory.set_shared(false);
        factory.set_stop_on_disconnect(true);
        factory.set_eos_shutdown(false);
        // Suspending with RESET breaks demultiplexers; what was prerolled is kept instead.
        factory.set_suspend_mode(gst_rtsp_server::RTSPSuspendMode::None);
        factory.set_protocols(RTSPLowerTrans::UDP | RTSPLowerTrans::TCP);
        factory.set_buffer_size(UDP_SEND_BUFFER);
        factory
    }

    /// What it was made for.
    pub(super) fn film(&self) -> Option<&FilmSource> {
        self.imp().film.get()
    }

    /// Stops the flow of all its pipelines at once, now and for those still being built. They are
    /// taken down afterwards, which takes a little longer.
    pub(super) fn cut(&self) {
        self.imp().cut();
    }
}

impl FilmMedia {
    /// Waits until what the pipeline was told before is done and all it had to say of it has been
    /// heard, at most a second. gst-rtsp-server 1.22.0 otherwise takes the end of an earlier state
    /// change for the end of a seek that comes quickly after.
    pub(super) fn settle(&self) {
        let Some(pipeline) = self.element().parent().and_downcast::<gst::Element>() else {
            return;
        };
        let deadline = Instant::now() + SETTLING;
        let timeout = u64::try_from(SETTLING.as_nanos()).unwrap_or(u64::MAX);
        if pipeline
            .state(gst::ClockTime::from_nseconds(timeout))
            .0
            .is_ok()
        {
            self.imp().hear_out(pipeline.upcast_ref(), deadline);
        }
    }

    /// Finds out whether its packets go over UDP, once its player has set it up.
    pub(super) fn choose_bursts(&self) {
        let over_udp = |stream: gst_rtsp_server::RTSPStream| {
            [SocketFamily::Ipv4, SocketFamily::Ipv6]
                .into_iter()
                .any(|family| stream.rtp_socket(family).is_some())
        };
        let over_udp = (0..self.n_streams()).any(|index| self.stream(index).is_some_and(over_udp));
        self.payloaders()
            .filter_map(|payloader| payloader.downcast::<TrackSource>().ok())
            .for_each(|source| source.over_tcp(!over_udp));
    }

    /// Where in the film it is, going by the packets that were made: a sink holds each of them until
    /// its time has come. `None` before the first.
    pub(super) fn position(&self) -> Option<gst::ClockTime> {
        let passed = self.passed()?;
        let place = |payloader: gst::Element| match payloader.downcast_ref::<TrackSource>() {
            Some(source) => source.place(passed),
            None => position(&payloader),
        };
        self.payloaders().filter_map(place).max()
    }

    /// What of the film is played, of what sends packets that were made for all: at first the place that
    /// was sought, which is before the first packets of some tracks.
    fn reached(&self) -> Option<gst::ClockTime> {
        let passed = self.passed()?;
        let sources = self
            .payloaders()
            .filter_map(|it| it.downcast::<TrackSource>().ok());
        sources.map(|source| source.reached(passed)).max()
    }

    /// For how long it has played since the last seek.
    fn passed(&self) -> Option<gst::ClockTime> {
        let pipeline = self.pipeline()?;
        let (_, now, next) = pipeline.state(gst::ClockTime::ZERO);
        let plays = now == gst::State::Playing && next != gst::State::Paused;
        let passed = match plays {
            true => pipeline.current_running_time(),
            false => pipeline.start_time(),
        };
        Some(passed.unwrap_or_default())
    }

    fn payloaders(&self) -> impl Iterator<Item = gst::Element> + use<> {
        let bin = self.element().downcast::<gst::Bin>().ok();
        bin.into_iter().flat_map(|bin| payloaders(&bin))
    }

    /// What the film is called, as far as its file says.
    pub(super) fn title(&self) -> Option<&str> {
        self.imp().title.get().map(String::as_str)
    }

    /// Whether PLAY is being answered.
    ///
    /// The answer then says from where on it plays, and not up to where: GStreamer's own player
    /// (1.22's `rtpjitterbuffer`) reckons from both when the film will be over, and often waits for
    /// itself for ever when it then really ends. RFC 2326, 3.6, leaves the end open as well; the
    /// film's length is in the SDP, and its end is said by RTCP BYE.
    pub(super) fn answer_play(&self, answering: bool) {
        self.imp().answering.store(answering, Ordering::Release);
    }

    fn pipeline(&self) -> Option<gst::Pipeline> {
        self.element().parent().and_downcast()
    }
}

/// The place in the film of the last packet that a payloader made.
fn position(payloader: &gst::Element) -> Option<gst::ClockTime> {
    // Not "running-time": GStreamer 1.22 has that in units of the RTP clock, as this is.
    let made = payloader.property::<gst::Structure>("stats");
    let number = |name| made.get::<u32>(name).ok();
    let time = number("timestamp")?.wrapping_sub(number("timestamp-offset")?);
    let time = gst::ClockTime::SECOND.mul_div_floor(time.into(), number("clock-rate")?.into())?;
    let segment = payloader
        .static_pad("src")?
        .sticky_event::<gst::event::Segment>(0)?;
    let segment = segment.segment().downcast_ref::<gst::ClockTime>()?;
    segment.to_stream_time(segment.position_from_running_time(time)?)
}

mod imp {
    use super::{
        super::{
            packets::{self, Store, TrackSource},
            pipeline::{build, cut, payloaders},
            seek_guard::SeekGuard,
        },
        FilmSource,
    };
    use crate::library::film_name;
    use gst::{glib, prelude::*, subclass::prelude::*};
    use gst_rtsp_server::{gst_rtsp, prelude::*, subclass::prelude::*};
    use std::{
        sync::{
            Arc, Condvar, Mutex, OnceLock, PoisonError,
            atomic::{AtomicBool, Ordering},
        },
        time::Instant,
    };

    #[derive(Default)]
    pub struct FilmFactory {
        pub(super) film: OnceLock<FilmSource>,
        pub(super) store: OnceLock<Option<Arc<Store>>>,
        pipelines: Mutex<Pipelines>,
    }

    /// The pipelines that were built and live, and whether they may deliver.
    #[derive(Default)]
    struct Pipelines {
        cut: bool,
        built: Vec<glib::WeakRef<gst::Bin>>,
    }

    #[glib::object_subclass]
    impl ObjectSubclass for FilmFactory {
        const NAME: &'static str = "IceflixFilmFactory";
        type Type = super::FilmFactory;
        type ParentType = gst_rtsp_server::RTSPMediaFactory;
    }

    impl ObjectImpl for FilmFactory {}

    impl RTSPMediaFactoryImpl for FilmFactory {
        fn create_element(&self, _url: &gst_rtsp::RTSPUrl) -> Option<gst::Element> {
            let film = self.film.get()?;
            let shared = self.store.get().and_then(Option::as_ref);
            let shared = shared.and_then(|store| {
                packets::build(film, store)
                    .inspect_err(|error| tracing::warn!(%error, "a film is read for one player"))
                    .ok()
            });
            let bin = shared
                .map_or_else(|| build(film), Ok)
                .inspect_err(|error| {
                    tracing::error!(path = %film.path.display(), %error, "no pipeline for a film");
                })
                .ok()?;
            let mut pipelines = self
                .pipelines
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            pipelines.built.retain(|bin| bin.upgrade().is_some());
            pipelines.built.push(bin.downgrade());
            if pipelines.cut {
                cut(&bin);
            }
            Some(bin.upcast())
        }

        fn configure(&self, media: &gst_rtsp_server::RTSPMedia) {
            self.parent_configure(media);
            let media = media.downcast_ref::<super::FilmMedia>();
            let Some((film, media)) = self.film.get().zip(media) else {
                return;
            };
            // Configured once, so none of these can be set already.
            if let (Some(container), Some(bin)) =
                (film.facts.container, media.element().downcast_ref())
            {
                let guard = SeekGuard::new(container, &film.facts.tracks);
                for payloader in payloaders(bin) {
                    let guard = match payloader.is::<TrackSource>() {
                        // Each seeks for itself, and knows where.
                        true => SeekGuard::for_source(),
                        false => guard.clone(),
                    };
                    guard.watch(&payloader);
                    // The first's will do: all are sought alike.
                    let _ = media.imp().guard.set(guard);
                }
            }
            let _ = media.imp().title.set(film_name(&film.path));
            if let Some(duration) = film.facts.duration_ns {
                let duration = gst::ClockTime::from_nseconds(duration);
                let _ = media.imp().duration.set(duration);
            }
        }
    }

    impl FilmFactory {
        pub(super) fn cut(&self) {
            let mut pipelines = self
                .pipelines
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            pipelines.cut = true;
            for bin in pipelines.built.drain(..).filter_map(|bin| bin.upgrade()) {
                cut(&bin);
            }
        }
    }

    #[derive(Default)]
    pub struct FilmMedia {
        duration: OnceLock<gst::ClockTime>,
        /// Where GStreamer said that the film ends before any player asked for less.
        own_stop: OnceLock<Option<gst::ClockTime>>,
        pub(super) title: OnceLock<String>,
        pub(super) answering: AtomicBool,
        heard: Mutex<u32>,
        news: Condvar,
        /// Whether locks had to be freed, which may have stopped tracks.
        pub(super) freed: AtomicBool,
        /// Held by who frees them.
        pub(super) freeing: Arc<()>,
        pub(super) guard: OnceLock<SeekGuard>,
    }

    /// The name of the message with which [`FilmMedia::hear_out`] marks the end of what it waits for.
    const MARK: &str = "iceflix-mark";

    /// The names of the messages with which [`FilmMedia::recount`] asks for a new count, or to go on
    /// without.
    const RECOUNT: &str = "iceflix-recount";
    const GO_ON: &str = "iceflix-go-on";

    impl FilmMedia {
        /// Has the tracks that have data counted anew, where messages are handled; or has it go on
        /// whatever the count.
        pub(super) fn recount(&self, pipeline: &gst::Element, go_on: bool) {
            let what = gst::Structure::new_empty(if go_on { GO_ON } else { RECOUNT });
            let asked = gst::message::Application::builder(what);
            // It fails only for a pipeline that is going away.
            let _ = pipeline.post_message(asked.src(pipeline).build());
        }

        fn all_have_data(&self) -> bool {
            let media = self.obj();
            let streams = (0..media.n_streams()).filter_map(|index| media.stream(index));
            let mut playing = streams.filter(|stream| stream.is_complete()).peekable();
            playing.peek().is_some() && playing.all(|stream| stream.is_blocking())
        }

        /// Waits until the messages that are under way have been handled.
        pub(super) fn hear_out(&self, pipeline: &gst::Element, deadline: Instant) {
            let lock = || self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            let before = *lock();
            let mark = gst::message::Application::builder(gst::Structure::new_empty(MARK))
                .src(pipeline)
                .build();
            if pipeline.post_message(mark).is_ok() {
                let patience = deadline.saturating_duration_since(Instant::now());
                // What it waited for, or that it waited in vain, changes nothing.
                let _ = self
                    .news
                    .wait_timeout_while(lock(), patience, |heard| *heard == before);
            }
        }
    }

    #[glib::object_subclass]
    impl ObjectSubclass for FilmMedia {
        const NAME: &'static str = "IceflixFilmMedia";
        type Type = super::FilmMedia;
        type ParentType = gst_rtsp_server::RTSPMedia;
    }

    impl ObjectImpl for FilmMedia {}

    impl RTSPMediaImpl for FilmMedia {
        /// Sender reports (RFC 3550, 6.4.1) are dated by a clock that nobody sets. By the wall clock,
        /// as is usual, players jump in the film by what it is set by; they only compare these times.
        fn setup_rtpbin(&self, rtpbin: &gst::Element) -> Result<(), gst::LoggableError> {
            rtpbin.set_property_from_str("ntp-time-source", "clock-time");
            Ok(())
        }

        fn handle_message(&self, message: &gst::MessageRef) -> bool {
            match message.structure().map(|said| said.name().as_str()) {
                Some(MARK) => {
                    let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
                    *heard = heard.wrapping_add(1);
                    self.news.notify_all();
                    true
                }
                // Whoever waits goes on at this message; otherwise it says nothing new.
                Some(GO_ON) => self.parent_handle_message(&gst::message::AsyncDone::new(None)),
                Some(RECOUNT) if self.all_have_data() => {
                    self.parent_handle_message(&gst::message::AsyncDone::new(None))
                }
                _ => self.parent_handle_message(message),
            }
        }

        /// A file with an edit list has no position before its first frame is out, which would
        /// make the SDP say that the film is live and has no duration. At its end sinks say
        /// that it is at the beginning, and it would not seek there.
        fn query_position(&self) -> Option<gst::ClockTime> {
            let own = self.obj().reached();
            let known = own.or_else(|| self.parent_query_position());
            Some(known.unwrap_or_default())
        }

        /// GStreamer may take the beginning of a film's last part for its end: what the probe
        /// learned counts, unless the player asked for another stop since the first time.
        fn query_stop(&self) -> Option<gst::ClockTime> {
            let stop = self.parent_query_stop();
            let own = *self.own_stop.get_or_init(|| stop);
            let ms = |time: gst::ClockTime| time.mseconds();
            let asked = stop.filter(|stop| own.is_none_or(|own| ms(own).abs_diff(ms(*stop)) > 10));
            if asked.is_none() && self.answering.load(Ordering::Acquire) {
                return None;
            }
            asked.or(self.duration.get().copied()).or(stop)
        }
    }
}
