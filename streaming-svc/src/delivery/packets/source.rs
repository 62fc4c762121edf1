//! The element that sends one track to one viewer.

use super::{
    packet::Burst,
    reel::Reel,
    store::{Store, Title},
};
use crate::delivery::film::FilmSource;
use gst::{glib, prelude::*, subclass::prelude::ObjectSubclassIsExt as _};
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

glib::wrapper! {
    /// Sends one track's packets, as a payloader would.
    pub struct TrackSource(ObjectSubclass<imp::TrackSource>)
        @extends gst_base::PushSrc, gst_base::BaseSrc, gst::Element, gst::Object;
}

/// What the sources of one viewer share.
struct Feed {
    title: Title,
    /// Where the last seek went: all tracks begin at the same place.
    place: Mutex<Option<(gst::ClockTime, Arc<Reel>, gst::ClockTime)>>,
    over_tcp: AtomicBool,
}

impl Feed {
    /// Where to begin for being at a place in the film.
    fn at(&self, wanted: gst::ClockTime) -> Result<(Arc<Reel>, gst::ClockTime), String> {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((last, reel, beginning)) = &*place
            && *last == wanted
            && reel.beginning(wanted) == Some(*beginning)
        {
            return Ok((Arc::clone(reel), *beginning));
        }
        let (reel, beginning) = self.title.at(wanted)?;
        *place = Some((wanted, Arc::clone(&reel), beginning));
        Ok((reel, beginning))
    }

    fn burst(&self) -> Burst {
        match self.over_tcp.load(Ordering::Relaxed) {
            true => Burst::TCP,
            false => Burst::UDP,
        }
    }
}

/// Builds what sends a film to one viewer: a source for each track, with the names that gst-rtsp-server
/// looks for.
///
/// # Errors
/// When the film's file cannot be read.
pub(in crate::delivery) fn build(
    film: &FilmSource,
    store: &Arc<Store>,
) -> Result<gst::Bin, String> {
    let title = Title::of(film, store).map_err(|error| error.to_string())?;
    let (reel, _) = title.at(gst::ClockTime::ZERO)?;
    let duration = film.facts.duration_ns.map(gst::ClockTime::from_nseconds);
    let feed = Arc::new(Feed {
        title,
        place: Mutex::default(),
        over_tcp: AtomicBool::new(false),
    });
    let bin = gst::Bin::new();
    for (track, caps) in reel.caps().into_iter().enumerate() {
        // A track without a single packet, which the file only names.
        let Some(caps) = caps else { continue };
        let source: TrackSource = glib::Object::builder()
            .property("name", format!("pay{track}"))
            .build();
        source
            .imp()
            .prepare(Arc::clone(&feed), track, caps, duration);
        bin.add(&source).map_err(|error| error.to_string())?;
    }
    Ok(bin)
}

impl TrackSource {
    /// Whether its packets go over TCP, in larger bursts than over UDP.
    pub(in crate::delivery) fn over_tcp(&self, is: bool) {
        self.imp().over_tcp(is);
    }

    /// Where in the film it is when its pipeline has played for so long since the last seek. `None`
    /// before its first packets.
    pub(in crate::delivery) fn place(&self, passed: gst::ClockTime) -> Option<gst::ClockTime> {
        self.imp().place(passed)
    }

    /// Up to where it has played when its pipeline has played for so long since the last seek: where that
    /// went, before its first packets.
    pub(in crate::delivery) fn reached(&self, passed: gst::ClockTime) -> gst::ClockTime {
        self.imp().reached(passed)
    }
}

mod imp {
    use super::{
        super::{
            packet::{Header, Packet},
            reel::{Reader, Taken, Waker, nanoseconds, stamp_at},
        },
        Feed, Ordering,
    };
    use gst::{glib, prelude::*, subclass::prelude::*};
    use gst_base::{prelude::*, subclass::base_src::CreateSuccess, subclass::prelude::*};
    use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError, atomic::AtomicBool};

    #[derive(Default)]
    pub struct TrackSource {
        setup: OnceLock<Setup>,
        out: Mutex<Option<Out>>,
        /// What wakes it while it waits for packets.
        waiting: Mutex<Option<Waker>>,
        interrupted: AtomicBool,
        sent: Mutex<Sent>,
    }

    struct Setup {
        feed: Arc<Feed>,
        track: usize,
        caps: gst::Caps,
        duration: Option<gst::ClockTime>,
        clock: u32,
        source: u32,
        /// The RTP timestamp at the beginning of a segment.
        offset: u32,
    }

    /// Where it is.
    struct Out {
        reader: Reader,
        /// The place at which the segment begins, in units of the RTP clock.
        from: i64,
        /// Which packets are left out at first.
        begin: Begin,
        /// The place of the last packet that was sent.
        last: Option<i64>,
        rate: f64,
    }

    /// Where in what is read it begins, in units of the RTP clock.
    #[derive(Debug, Clone, Copy)]
    enum Begin {
        /// With the first packet of this place or later.
        At(i64),
        /// Behind the last packet of this place, which was sent, and is yet to come.
        Behind(i64),
        /// The same, and it has come.
        Past(i64),
    }

    impl Begin {
        /// Whether a packet is to be left out.
        fn is_before(&mut self, packet: &Packet, clock: u32) -> bool {
            match *self {
                Begin::At(from) => packet.stamp < from,
                Begin::Behind(sent) if packet.stamp == sent => {
                    *self = Begin::Past(sent);
                    true
                }
                // It is not there as it was; nobody waits for it longer than that.
                Begin::Behind(sent) => packet.stamp < sent.saturating_add(2 * i64::from(clock)),
                Begin::Past(sent) => packet.stamp == sent,
            }
        }
    }

    /// The last burst's first packet, which a sink still holds or has just sent.
    #[derive(Debug, Clone, Copy, Default)]
    struct Sent {
        sequence: u16,
        timestamp: u32,
        /// The next packet's.
        next: u16,
        /// How many packets there were, which tells whether there were any.
        count: u32,
        /// From where on packets were sent since the last seek, and where the last two bursts begin:
        /// the former of them was sent, at the latest when the latter was made.
        from: gst::ClockTime,
        bursts: Option<[gst::ClockTime; 2]>,
        rate: f64,
    }

    impl Sent {
        /// Where in the film it would be after so long since the last seek.
        fn after(&self, passed: gst::ClockTime) -> gst::ClockTime {
            self.from
                + gst::ClockTime::from_nseconds(match self.rate {
                    1.0 => passed.nseconds(),
                    #[expect(
                        clippy::cast_possible_truncation,
                        clippy::cast_precision_loss,
                        clippy::cast_sign_loss,
                        reason = "it is far below 2^53, and positive"
                    )]
                    rate => (passed.nseconds() as f64 * rate) as u64,
                })
        }
    }

    fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    impl TrackSource {
        pub(super) fn prepare(
            &self,
            feed: Arc<Feed>,
            track: usize,
            mut caps: gst::Caps,
            duration: Option<gst::ClockTime>,
        ) {
            let clock = caps.structure(0);
            let clock = clock.and_then(|caps| caps.get::<i32>("clock-rate").ok());
            let clock = clock
                .and_then(|it| u32::try_from(it).ok())
                .unwrap_or(90_000);
            let (source, offset, first): (u32, u32, u16) = rand_numbers();
            if let Some(caps) = caps.make_mut().structure_mut(0) {
                caps.set("ssrc", source);
                caps.set("timestamp-offset", offset);
                caps.set("seqnum-offset", u32::from(first));
            }
            *lock(&self.sent) = Sent {
                sequence: first,
                timestamp: offset,
                next: first,
                ..Sent::default()
            };
            // Prepared once, so it cannot be set already.
            let _ = self.setup.set(Setup {
                feed,
                track,
                caps,
                duration,
                clock,
                source,
                offset,
            });
        }

        pub(super) fn over_tcp(&self, is: bool) {
            if let Some(setup) = self.setup.get() {
                setup.feed.over_tcp.store(is, Ordering::Relaxed);
            }
        }

        pub(super) fn reached(&self, passed: gst::ClockTime) -> gst::ClockTime {
            let sent = *lock(&self.sent);
            let last = sent.bursts.map_or(sent.from, |[_, latter]| latter);
            sent.after(passed).min(last.max(sent.from))
        }

        pub(super) fn place(&self, passed: gst::ClockTime) -> Option<gst::ClockTime> {
            let sent = *lock(&self.sent);
            let [former, latter] = sent.bursts?;
            Some(sent.after(passed).clamp(former, latter.max(former)))
        }

        /// The next burst.
        fn next(&self, setup: &Setup) -> Result<gst::BufferList, gst::FlowError> {
            let mut out = lock(&self.out);
            let out = out.as_mut().ok_or(gst::FlowError::Error)?;
            loop {
                *lock(&self.waiting) = Some(out.reader.waker());
                let burst = setup.feed.burst();
                let begin = &mut out.begin;
                let skip = |packet: &Packet| begin.is_before(packet, setup.clock);
                match out.reader.take(burst, &self.interrupted, skip) {
                    Taken::Packets(packets) => return Ok(self.given(setup, out, &packets)),
                    Taken::End => return Err(gst::FlowError::Eos),
                    Taken::Interrupted => return Err(gst::FlowError::Flushing),
                    Taken::Lost => self.find_again(setup, out)?,
                    Taken::Failed(reason) => return Err(self.failed(&reason)),
                }
            }
        }

        /// What is to be sent of packets.
        fn given(&self, setup: &Setup, out: &mut Out, packets: &[Packet]) -> gst::BufferList {
            let mut list = gst::BufferList::new_sized(packets.len());
            let mut sent = lock(&self.sent);
            let mut first = None;
            // Just made, so nobody else has it.
            let Some(buffers) = list.get_mut() else {
                return list;
            };
            for packet in packets {
                let passed = packet.stamp - out.from;
                let passed = match out.rate {
                    1.0 => passed,
                    #[expect(clippy::cast_possible_truncation, reason = "it is far below 2^53")]
                    #[expect(clippy::cast_precision_loss, reason = "it is far below 2^53")]
                    rate => (passed as f64 / rate) as i64,
                };
                let header = Header {
                    sequence: sent.next,
                    #[expect(
                        clippy::cast_possible_truncation,
                        clippy::cast_sign_loss,
                        reason = "RTP timestamps wrap (RFC 3550, 5.1)"
                    )]
                    timestamp: setup.offset.wrapping_add(passed as u32),
                    source: setup.source,
                };
                sent.next = sent.next.wrapping_add(1);
                let due = nanoseconds(packet.stamp.max(0), setup.clock);
                let due = gst::ClockTime::from_nseconds(due.try_into().unwrap_or(0));
                first.get_or_insert((header, due));
                buffers.add(packet.with(header, due));
                out.last = Some(packet.stamp);
            }
            // Without, a sink would take the end of the film to be with the burst's first packet.
            let lasts = nanoseconds(lasts(packets), setup.clock);
            if let Some(buffer) = buffers.get_mut(0) {
                let lasts = u64::try_from(lasts).unwrap_or(0);
                buffer.set_duration(gst::ClockTime::from_nseconds(lasts));
            }
            if let Some((header, due)) = first {
                (sent.sequence, sent.timestamp) = (header.sequence, header.timestamp);
                let former = sent.bursts.map_or(due, |[_, latter]| latter);
                sent.bursts = Some([former, due]);
            }
            let count = u32::try_from(packets.len()).unwrap_or(u32::MAX);
            sent.count = sent.count.wrapping_add(count);
            list
        }

        /// Goes on where it was, with packets that are made anew.
        fn find_again(&self, setup: &Setup, out: &mut Out) -> Result<(), gst::FlowError> {
            let stamp = out.last.unwrap_or(out.from);
            let time = nanoseconds(stamp.max(0), setup.clock);
            let time = gst::ClockTime::from_nseconds(time.try_into().unwrap_or(0));
            let feed = &setup.feed;
            let reel = match out.last {
                Some(stamp) => feed.title.behind(setup.track, stamp, time),
                None => feed.title.at(time).map(|(reel, _)| reel),
            };
            let reel = reel.map_err(|reason| self.failed(&reason))?;
            out.begin = out.last.map_or(Begin::At(out.from), Begin::Behind);
            out.reader = reel.reader(setup.track, time);
            Ok(())
        }

        fn failed(&self, reason: &str) -> gst::FlowError {
            gst::element_imp_error!(self, gst::ResourceError::Read, ("{reason}"));
            gst::FlowError::Error
        }
    }

    /// How much of the film packets are, in units of the RTP clock: up to the end of their last frame,
    /// which is taken to be as long as the shortest before it.
    fn lasts(packets: &[Packet]) -> i64 {
        let Some(first) = packets.first() else {
            return 0;
        };
        let last = packets
            .iter()
            .map(|it| it.stamp)
            .max()
            .unwrap_or(first.stamp);
        let pairs = packets.iter().zip(packets.iter().skip(1));
        let steps = pairs.map(|(one, next)| (next.stamp - one.stamp).abs());
        let frame = steps.filter(|step| *step > 0).min().unwrap_or(0);
        last - first.stamp + frame
    }

    fn rand_numbers() -> (u32, u32, u16) {
        // From the operating system, as RFC 3550, 5.1 wants it.
        let random = iceflix_core::api::StreamId::random();
        let bytes = random.as_bytes();
        let number = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        (
            number(0),
            number(4),
            u16::from_be_bytes([bytes[8], bytes[9]]),
        )
    }

    #[glib::object_subclass]
    impl ObjectSubclass for TrackSource {
        const NAME: &'static str = "IceflixTrackSource";
        type Type = super::TrackSource;
        type ParentType = gst_base::PushSrc;
    }

    impl ObjectImpl for TrackSource {
        /// What gst-rtsp-server asks of a payloader, and tells it.
        fn properties() -> &'static [glib::ParamSpec] {
            static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
                vec![
                    glib::ParamSpecUInt::builder("pt").build(),
                    glib::ParamSpecUInt::builder("mtu")
                        .default_value(1400)
                        .build(),
                    glib::ParamSpecUInt::builder("seqnum").read_only().build(),
                    glib::ParamSpecUInt::builder("timestamp")
                        .read_only()
                        .build(),
                    glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                        .read_only()
                        .build(),
                ]
            });
            &PROPERTIES
        }

        /// Packets were made before: neither their type nor their size can be changed.
        fn set_property(&self, _: usize, _: &glib::Value, _: &glib::ParamSpec) {}

        fn property(&self, _: usize, property: &glib::ParamSpec) -> glib::Value {
            let sent = *lock(&self.sent);
            let setup = self.setup.get();
            match property.name() {
                "pt" => {
                    let caps = setup.and_then(|setup| setup.caps.structure(0));
                    let number = caps.and_then(|caps| caps.get::<i32>("payload").ok());
                    number
                        .and_then(|it| u32::try_from(it).ok())
                        .unwrap_or(96)
                        .to_value()
                }
                "mtu" => 1400u32.to_value(),
                // It changes with every packet, and with no seek.
                "seqnum" => sent.count.to_value(),
                "timestamp" => sent.timestamp.to_value(),
                _ => gst::Structure::builder("application/x-rtp-payload-stats")
                    .field("clock-rate", setup.map_or(90_000, |setup| setup.clock))
                    .field("seqnum-offset", u32::from(sent.sequence))
                    .field("timestamp", sent.timestamp)
                    .field("timestamp-offset", setup.map_or(0, |setup| setup.offset))
                    .build()
                    .to_value(),
            }
        }

        fn constructed(&self) {
            self.parent_constructed();
            self.obj().set_format(gst::Format::Time);
        }
    }

    impl GstObjectImpl for TrackSource {}

    impl ElementImpl for TrackSource {
        fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
            static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
                gst::subclass::ElementMetadata::new(
                    "IceFlix track",
                    "Source/Network/RTP",
                    "Sends a track's packets that were made for all",
                    "IceFlix",
                )
            });
            Some(&METADATA)
        }

        fn pad_templates() -> &'static [gst::PadTemplate] {
            static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
                let caps = gst::Caps::new_empty_simple("application/x-rtp");
                let (name, output) = ("src", gst::PadDirection::Src);
                let made = gst::PadTemplate::new(name, output, gst::PadPresence::Always, &caps);
                // It fails only for a name that is none.
                made.into_iter().collect()
            });
            &TEMPLATES
        }
    }

    impl BaseSrcImpl for TrackSource {
        fn is_seekable(&self) -> bool {
            true
        }

        fn caps(&self, filter: Option<&gst::Caps>) -> Option<gst::Caps> {
            let caps = &self.setup.get()?.caps;
            Some(match filter {
                Some(filter) => filter.intersect_with_mode(caps, gst::CapsIntersectMode::First),
                None => caps.clone(),
            })
        }

        fn query(&self, query: &mut gst::QueryRef) -> bool {
            if let gst::QueryViewMut::Duration(asked) = query.view_mut()
                && asked.format() == gst::Format::Time
                && let Some(duration) = self.setup.get().and_then(|setup| setup.duration)
            {
                asked.set(duration);
                return true;
            }
            BaseSrcImplExt::parent_query(self, query)
        }

        /// Goes to the place from which a player can begin, so that nothing that is sent is before the
        /// segment, which sinks would leave out.
        fn do_seek(&self, segment: &mut gst::Segment) -> bool {
            let (Some(setup), Some(time)) =
                (self.setup.get(), segment.downcast_mut::<gst::ClockTime>())
            else {
                return false;
            };
            if time.rate() <= 0.0 {
                return false;
            }
            let wanted = time.position().or(time.start()).unwrap_or_default();
            let (reel, beginning) = match setup.feed.at(wanted) {
                Ok(found) => found,
                Err(reason) => {
                    tracing::warn!(%reason, "a place in a film cannot be sought");
                    return false;
                }
            };
            time.set_start(beginning);
            time.set_time(beginning);
            time.set_position(beginning);
            let from = i64::try_from(beginning.nseconds()).unwrap_or(i64::MAX);
            let from = stamp_at(from, setup.clock);
            *lock(&self.out) = Some(Out {
                reader: reel.reader(setup.track, beginning),
                from,
                begin: Begin::At(from),
                last: None,
                rate: time.rate(),
            });
            let mut sent = lock(&self.sent);
            (sent.from, sent.bursts, sent.rate) = (beginning, None, time.rate());
            true
        }

        fn unlock(&self) -> Result<(), gst::ErrorMessage> {
            self.interrupted.store(true, Ordering::Release);
            if let Some(waker) = &*lock(&self.waiting) {
                waker.wake();
            }
            Ok(())
        }

        fn unlock_stop(&self) -> Result<(), gst::ErrorMessage> {
            self.interrupted.store(false, Ordering::Release);
            Ok(())
        }

        fn stop(&self) -> Result<(), gst::ErrorMessage> {
            *lock(&self.out) = None;
            Ok(())
        }
    }

    impl PushSrcImpl for TrackSource {
        fn create(&self, _: Option<&mut gst::BufferRef>) -> Result<CreateSuccess, gst::FlowError> {
            let setup = self.setup.get().ok_or(gst::FlowError::NotNegotiated)?;
            self.next(setup).map(CreateSuccess::NewBufferList)
        }
    }
}
