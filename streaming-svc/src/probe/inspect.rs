//! Learning what a file holds, with GStreamer's demuxers and without decoding.

use super::{
    clusters,
    describe::{self, Stream},
    fragments,
    source::Source,
    structure::{self, Completeness},
};
use crate::{
    facts::{Container, Facts},
    library::hash::open_regular,
};
use gst::prelude::*;
use std::{
    fs::File,
    io,
    os::fd::AsRawFd as _,
    path::Path,
    sync::mpsc::{self, Receiver, Sender},
    time::{Duration, Instant},
};

/// The longest that one look at a file takes.
const LIMIT: Duration = Duration::from_secs(5);

/// The longest that a file's own structure is looked at. It takes milliseconds, except for long
/// films on slow disks.
const STRUCTURE_LIMIT: Duration = Duration::from_secs(3);

/// The latest that a film's first frame may come. It comes in real time, and players do not wait.
const LATEST_BEGIN: Duration = Duration::from_secs(30);

/// The most streams that are looked at in one file.
const MOST_STREAMS: usize = 64;

/// Why a file could not be looked at. What is wrong with its content is no error: it is told by
/// [`Facts::unplayable`].
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The file cannot be opened or read.
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    /// A part of GStreamer is missing.
    #[error("the GStreamer element {0} is missing; install GStreamer's base and good plugins")]
    Missing(&'static str),
    /// GStreamer does something unexpected.
    #[error("GStreamer cannot read files here: {0}")]
    Pipeline(&'static str),
}

/// What the streaming thread tells.
enum Heard {
    Type(gst::Caps),
    Pad(gst::Pad),
    NoMorePads,
    /// The first frame of a stream, and when it is shown.
    Data(Option<gst::ClockTime>),
    End,
    /// GStreamer's complaint.
    Error(String),
}

/// Learns a file's container, tracks and duration. Takes up to about 10 seconds, and runs parsers
/// on whatever is in the file: for the worker process and for tests. GStreamer must be initialised.
///
/// # Errors
///
/// When the file cannot be opened, or GStreamer lacks a part. A file that makes no sense is none.
pub fn inspect(path: &Path) -> Result<Facts, ProbeError> {
    let (mut file, stamp) = open_regular(path)?;
    let kind = match found_type(&file)? {
        Ok(caps) => match caps.structure(0) {
            Some(found) => describe::container(found),
            None => return Ok(unplayable("unknown", "its content is of no known kind")),
        },
        Err(reason) => return Ok(unplayable("unknown", &reason)),
    };
    let name = kind.name;
    let Some(container) = kind.container else {
        // What people have no name for shows as its media type.
        let reason = if name.contains('/') {
            format!("its content ({name}) is not a film's; the file may be damaged")
        } else {
            format!("{name} files are not delivered yet")
        };
        return Ok(unplayable(&name, &reason));
    };
    let outline = outline(&mut file, stamp.size, container)?;
    let complaint = outline.complete.complaint(outline.fragmented);
    if outline.complete == Completeness::NoIndex {
        return Ok(unplayable(&name, complaint.as_deref().unwrap_or_default()));
    }
    let found = match demultiplexed(&file, container)? {
        Ok(found) => found,
        Err(said) => {
            let reason =
                complaint.unwrap_or_else(|| format!("it cannot be read as {name}: {said}"));
            return Ok(unplayable(&name, &reason));
        }
    };
    let mut choice = describe::choose(&name, found.streams);
    if let Some(complaint) = complaint.or_else(|| late(found.begin?)) {
        choice.unplayable = Some(complaint);
        choice.tracks.clear();
    }
    // The file's own structure knows better, if there was time to read all of it.
    let duration_ns = match outline.end_ns {
        Some(end) if outline.whole => Some(end),
        end => end.max(found.duration_ns),
    };
    Ok(Facts {
        container: choice.unplayable.is_none().then_some(container),
        duration_ns,
        tracks: choice.tracks,
        format: choice.format,
        unplayable: choice.unplayable,
    })
}

/// What is wrong, for people, with a film whose first frame comes so late.
fn late(begin: gst::ClockTime) -> Option<String> {
    (Duration::from(begin) > LATEST_BEGIN).then(|| {
        format!(
            "its first frame comes only {} s after its beginning, as in recordings of broadcasts, \
             which is not delivered yet; `ffmpeg -i FILE -c copy NEW-FILE` sets it right",
            begin.seconds()
        )
    })
}

/// What the file's own structure says.
struct Outline {
    complete: Completeness,
    fragmented: bool,
    /// When its last frame ends, where GStreamer would not know.
    end_ns: Option<u64>,
    /// All that was wanted was read.
    whole: bool,
}

fn outline(file: &mut File, len: u64, container: Container) -> io::Result<Outline> {
    let until = Instant::now() + STRUCTURE_LIMIT;
    let goes_on = || Instant::now() < until;
    let mut source = Source::new(file, len, &goes_on)?;
    let (complete, fragmented, end_ns) = match container {
        Container::Mp4 => {
            let found = structure::mp4(&mut source)?;
            let end_ns = match found.index {
                Some(index) if !found.fragments.is_empty() => {
                    fragments::end(&mut source, index, &found.fragments)?
                }
                _ => None,
            };
            (found.complete, !found.fragments.is_empty(), end_ns)
        }
        Container::Matroska => {
            let complete = structure::matroska(&mut source)?;
            (complete, false, clusters::duration(&mut source)?)
        }
    };
    Ok(Outline {
        complete,
        fragmented,
        end_ns,
        whole: !source.gave_up(),
    })
}

fn unplayable(format: &str, reason: &str) -> Facts {
    Facts {
        container: None,
        duration_ns: None,
        tracks: Vec::new(),
        format: format.to_owned(),
        unplayable: Some(reason.to_owned()),
    }
}

/// A pipeline that is taken down however its use ends.
struct Pipeline {
    pipeline: gst::Pipeline,
    heard: Receiver<Heard>,
    until: Instant,
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        if let Some(bus) = self.pipeline.bus() {
            bus.unset_sync_handler();
        }
        // Down is always possible; should it hang, the node ends this process.
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

impl Pipeline {
    /// `filesrc ! element`, not yet running.
    fn new(
        file: &File,
        element: &'static str,
    ) -> Result<(Self, gst::Element, Sender<Heard>), ProbeError> {
        let make = |name: &'static str| {
            let made = gst::ElementFactory::make(name).build();
            made.map_err(|_| ProbeError::Missing(name))
        };
        let source = make("filesrc")?;
        // By its open handle: it is the file that was checked, and its name need not be UTF-8.
        source.set_property("location", format!("/proc/self/fd/{}", file.as_raw_fd()));
        let reader = make(element)?;
        let pipeline = gst::Pipeline::new();
        pipeline
            .add_many([&source, &reader])
            .and_then(|()| source.link(&reader))
            .map_err(|_| ProbeError::Pipeline("its elements do not fit together"))?;
        let (tell, heard) = mpsc::channel();
        let bus = pipeline
            .bus()
            .ok_or(ProbeError::Pipeline("a pipeline has no bus"))?;
        let errors = tell.clone();
        bus.set_sync_handler(move |_, message| {
            if let gst::MessageView::Error(error) = message.view() {
                let _ = errors.send(Heard::Error(error.error().to_string()));
            }
            gst::BusSyncReply::Drop
        });
        let until = Instant::now() + LIMIT;
        let made = Self {
            pipeline,
            heard,
            until,
        };
        Ok((made, reader, tell))
    }

    /// Starts reading. What goes wrong with the file is heard, not answered.
    fn start(&self) {
        let _ = self.pipeline.set_state(gst::State::Paused);
    }

    /// What is heard next, in time.
    fn next(&self) -> Heard {
        let left = self.until.saturating_duration_since(Instant::now());
        let late = || Heard::Error("reading it took too long".to_owned());
        self.heard.recv_timeout(left).unwrap_or_else(|_| late())
    }
}

/// The type of the file's content, or why there is none.
fn found_type(file: &File) -> Result<Result<gst::Caps, String>, ProbeError> {
    let (pipeline, finder, tell) = Pipeline::new(file, "typefind")?;
    finder.connect("have-type", false, move |values| {
        if let Some(caps) = values.get(2).and_then(|value| value.get().ok()) {
            let _ = tell.send(Heard::Type(caps));
        }
        None
    });
    pipeline.start();
    loop {
        match pipeline.next() {
            Heard::Type(caps) => return Ok(Ok(caps)),
            Heard::Error(_) => {
                let reason = "its content is of no known kind; the file may be damaged, or \
                              incomplete";
                return Ok(Err(reason.to_owned()));
            }
            _ => {}
        }
    }
}

/// What GStreamer finds in a file.
struct Found {
    streams: Vec<Stream>,
    /// When the first frame is shown, after the film's beginning.
    begin: Option<gst::ClockTime>,
    duration_ns: Option<u64>,
}

/// What is in the file, or what GStreamer says against it.
fn demultiplexed(file: &File, container: Container) -> Result<Result<Found, String>, ProbeError> {
    let demuxer = match container {
        Container::Mp4 => "qtdemux",
        Container::Matroska => "matroskademux",
    };
    let (pipeline, demuxer, tell) = Pipeline::new(file, demuxer)?;
    let told = tell.clone();
    demuxer.connect_pad_added(move |_, pad| {
        // Reading stops at the first frame: what is wanted is known by then.
        let (data, end) = (told.clone(), told.clone());
        let frames = gst::PadProbeType::BLOCK | gst::PadProbeType::BUFFER;
        pad.add_probe(frames | gst::PadProbeType::BUFFER_LIST, move |pad, info| {
            let _ = data.send(Heard::Data(shown_at(pad, info)));
            gst::PadProbeReturn::Ok
        });
        pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
            if info
                .event()
                .is_some_and(|e| e.type_() == gst::EventType::Eos)
            {
                let _ = end.send(Heard::End);
            }
            gst::PadProbeReturn::Ok
        });
        let _ = told.send(Heard::Pad(pad.clone()));
    });
    demuxer.connect_no_more_pads(move |_| {
        let _ = tell.send(Heard::NoMorePads);
    });
    pipeline.start();
    let mut pads = Vec::new();
    let (mut all_pads, mut data) = (false, None);
    while !all_pads || data.is_none() {
        match pipeline.next() {
            Heard::Pad(pad) if pads.len() < MOST_STREAMS => pads.push(pad),
            Heard::NoMorePads => all_pads = true,
            Heard::Data(at) => data = data.or(Some(at)),
            Heard::End if data.is_none() => return Ok(Err("there is nothing in it".to_owned())),
            Heard::Error(said) => return Ok(Err(said)),
            Heard::Pad(_) | Heard::Type(_) | Heard::End => {}
        }
    }
    let duration = pads
        .iter()
        .filter_map(|pad| pad.query_duration::<gst::ClockTime>())
        .max()
        .map(gst::ClockTime::nseconds);
    let streams = pads.iter().filter_map(|pad| {
        let caps = pad.current_caps()?;
        Some(describe::stream(&pad.name(), &caps, language(pad)))
    });
    Ok(Ok(Found {
        streams: streams.collect(),
        begin: data.flatten(),
        duration_ns: duration.filter(|ns| *ns > 0),
    }))
}

/// When a frame is shown, after its film's beginning.
fn shown_at(pad: &gst::Pad, info: &gst::PadProbeInfo<'_>) -> Option<gst::ClockTime> {
    let pts = match &info.data {
        Some(gst::PadProbeData::Buffer(buffer)) => buffer.pts(),
        Some(gst::PadProbeData::BufferList(list)) => list.get(0)?.pts(),
        _ => None,
    }?;
    let event = pad.sticky_event::<gst::event::Segment>(0)?;
    let segment = event.segment().downcast_ref::<gst::ClockTime>()?;
    segment.to_stream_time(pts)
}

/// The language a stream's tags state.
fn language(pad: &gst::Pad) -> Option<String> {
    let mut n = 0;
    while let Some(tags) = pad.sticky_event::<gst::event::Tag>(n) {
        n += 1;
        let Some(code) = tags.tag().get::<gst::tags::LanguageCode>() else {
            continue;
        };
        let code = code.get();
        let plain = (2..=3).contains(&code.len()) && code.bytes().all(|c| c.is_ascii_lowercase());
        if plain && code != "und" {
            return Some(code.to_owned());
        }
    }
    None
}
