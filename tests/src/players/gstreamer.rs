//! GStreamer's own player, `playbin` with `rtspsrc`: pauses, goes on, seeks, and notices the end.

use super::{PATIENCE, Transport};
use anyhow::{Context, Result, bail, ensure};
use gst::prelude::*;
use std::{
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::{Duration, Instant},
};

/// How long a player may take to leave.
const LEAVING: Duration = Duration::from_secs(10);

/// A film in GStreamer's player. Its methods block. Dropping it leaves the session.
pub struct Player {
    playbin: gst::Element,
    bus: gst::Bus,
    shown: Arc<Mutex<Shown>>,
}

/// What was shown of a film.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Shown {
    /// Pictures, since the beginning or the last seek.
    pub pictures: usize,
    /// Seeks.
    pub seeks: usize,
    /// The time of the last one, in seconds of the film.
    pub at_s: f64,
}

impl Player {
    /// Opens a URL and plays.
    ///
    /// # Errors
    /// When GStreamer or the server does not want to.
    pub fn play(url: &str, transport: Transport) -> Result<Self> {
        gst::init()?;
        let shown = Arc::new(Mutex::new(Shown::default()));
        let (video, audio) = (sink()?, sink()?);
        let playbin = gst::ElementFactory::make("playbin")
            .property("uri", url)
            .property("video-sink", &video)
            .property("audio-sink", &audio)
            .build()?;
        playbin.connect("source-setup", false, move |values| {
            let source: gst::Element = values.get(1)?.get().ok()?;
            source.set_property_from_str("protocols", transport.name());
            None
        });
        let pad = video.static_pad("sink").context("a sink has a pad")?;
        watch(&pad, Arc::clone(&shown));
        let bus = playbin.bus().context("a pipeline has a bus")?;
        let player = Self {
            playbin,
            bus,
            shown,
        };
        player.change(gst::State::Playing)?;
        Ok(player)
    }

    /// What was shown.
    pub fn shown(&self) -> Shown {
        *lock(&self.shown)
    }

    /// Waits until so many pictures were shown.
    ///
    /// # Errors
    /// When the film breaks or ends first.
    pub fn wait_for(&self, pictures: usize) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while self.shown().pictures < pictures {
            ensure!(
                Instant::now() < until,
                "{:?}, {pictures} wanted",
                self.shown()
            );
            if let Some(message) = self.message(gst::ClockTime::from_mseconds(10))? {
                ensure!(
                    message.type_() != gst::MessageType::Eos,
                    "the end after {:?}",
                    self.shown()
                );
            }
        }
        Ok(())
    }

    /// Pauses.
    ///
    /// # Errors
    /// When that fails.
    pub fn pause(&self) -> Result<()> {
        self.change(gst::State::Paused)
    }

    /// Goes on after a pause.
    ///
    /// # Errors
    /// When that fails.
    pub fn resume(&self) -> Result<()> {
        self.change(gst::State::Playing)
    }

    /// Seeks to the key frame at or before a time in seconds, and waits until it is there.
    ///
    /// # Errors
    /// When that fails.
    pub fn seek(&self, to_s: u32) -> Result<()> {
        let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::KEY_UNIT;
        let before = self.shown().seeks;
        self.playbin
            .seek_simple(flags, gst::ClockTime::from_seconds(to_s.into()))?;
        ensure!(self.shown().seeks > before, "what was there is still shown");
        self.settled()
    }

    /// How long the film plays, in seconds.
    ///
    /// # Errors
    /// When that is not known.
    pub fn duration_s(&self) -> Result<f64> {
        let duration = self.playbin.query_duration::<gst::ClockTime>();
        Ok(duration.context("no duration")?.seconds_f64())
    }

    /// Waits for the film's end.
    ///
    /// # Errors
    /// When it breaks, or does not end.
    pub fn to_the_end(&self) -> Result<Shown> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let message = self.message(gst::ClockTime::from_mseconds(100))?;
            if message.is_some_and(|message| message.type_() == gst::MessageType::Eos) {
                return Ok(self.shown());
            }
        }
        bail!("it does not end; {:?}", self.shown());
    }

    fn change(&self, state: gst::State) -> Result<()> {
        // An error's reason is on the bus.
        if self.playbin.set_state(state).is_err() {
            self.message(gst::ClockTime::ZERO)?;
            bail!("it does not change to {state:?}");
        }
        self.settled()
    }

    fn settled(&self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let (changed, ..) = self.playbin.state(gst::ClockTime::from_mseconds(50));
            match changed {
                Ok(gst::StateChangeSuccess::Success | gst::StateChangeSuccess::NoPreroll) => {
                    return Ok(());
                }
                _ => ensure!(Instant::now() < until, "it does not settle"),
            }
            let errors = [gst::MessageType::Error];
            if let Some(message) = self.bus.pop_filtered(&errors) {
                return Err(problem(&message));
            }
        }
    }

    /// The next error or end.
    fn message(&self, patience: gst::ClockTime) -> Result<Option<gst::Message>> {
        let wanted = [gst::MessageType::Eos, gst::MessageType::Error];
        let message = self.bus.timed_pop_filtered(patience, &wanted);
        match message {
            Some(message) if message.type_() == gst::MessageType::Error => Err(problem(&message)),
            message => Ok(message),
        }
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        // GStreamer 1.22's rtspsrc can lock up against itself when it is stopped just as it closes its
        // connection. That is not ours to test: it is left behind then.
        let (done, left) = mpsc::channel();
        let playbin = self.playbin.clone();
        std::thread::spawn(move || {
            // It cannot fail on the way down; nobody may be waiting any more.
            let _ = playbin.set_state(gst::State::Null);
            let _ = done.send(());
        });
        let _ = left.recv_timeout(LEAVING);
    }
}

fn problem(message: &gst::Message) -> anyhow::Error {
    match message.view() {
        gst::MessageView::Error(error) => {
            anyhow::anyhow!("{}: {:?}", error.error(), error.debug())
        }
        _ => anyhow::anyhow!("{message:?}"),
    }
}

/// Takes what is decoded at the time when it is to be shown.
fn sink() -> Result<gst::Element> {
    Ok(gst::ElementFactory::make("fakesink")
        .property("sync", true)
        .build()?)
}

/// Notes what arrives at the sink, in time of the film. With a seek, what was there is thrown away
/// before anything new comes, and so it is counted anew from there on.
fn watch(pad: &gst::Pad, shown: Arc<Mutex<Shown>>) {
    let wanted = gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_FLUSH;
    pad.add_probe(wanted, move |pad, info| {
        if let Some(event) = info.event() {
            if event.type_() == gst::EventType::FlushStop {
                let mut shown = lock(&shown);
                *shown = Shown {
                    seeks: shown.seeks + 1,
                    ..Shown::default()
                };
            }
            return gst::PadProbeReturn::Ok;
        }
        let at = info.buffer().and_then(|buffer| buffer.pts());
        let segment = pad.sticky_event::<gst::event::Segment>(0);
        let segment = segment.and_then(|event| event.segment().clone().downcast().ok());
        let at = segment.zip(at).and_then(
            |(segment, at): (gst::FormattedSegment<gst::ClockTime>, _)| segment.to_stream_time(at),
        );
        let mut shown = lock(&shown);
        shown.pictures += 1;
        if let Some(at) = at {
            shown.at_s = at.seconds_f64();
        }
        gst::PadProbeReturn::Ok
    });
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
