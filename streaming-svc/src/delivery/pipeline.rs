//! The pipeline that reads a film and makes packets of it.

use super::{elements, film::FilmSource};
use crate::facts::{Codec, Track};
use gst::{glib, prelude::*};

/// How many buffers a track may be ahead: about two seconds of either video or audio. That bridges
/// a slow disk, and stays small because what counts is frames, whatever their size.
const QUEUED_BUFFERS: u32 = 60;
/// A queue that is full may still grow, up to here, while another track's is empty: tracks that are
/// badly interleaved, or a seek far from a key frame, would otherwise stall each other.
const QUEUED_BYTES: u32 = 64 << 20;

/// Builds `filesrc ! demuxer ! multiqueue ! parser ! payloader`, one branch for each track to
/// deliver; for some codecs other elements than a parser ([`elements::between`]). Tracks that are
/// not delivered stay unlinked, which demultiplexers bear.
pub(super) fn build(film: &FilmSource) -> Result<gst::Bin, glib::BoolError> {
    let container = film
        .facts
        .container
        .ok_or_else(|| glib::bool_error!("the film's container is not known"))?;
    let bin = gst::Bin::new();
    let source = gst::ElementFactory::make("filesrc")
        .property("location", &film.path)
        .build()?;
    let demuxer = gst::ElementFactory::make(elements::demuxer(container)).build()?;
    let queue = gst::ElementFactory::make("multiqueue")
        .property("max-size-buffers", QUEUED_BUFFERS)
        .property("max-size-bytes", QUEUED_BYTES)
        .property("max-size-time", 0u64)
        .build()?;
    bin.add_many([&source, &demuxer, &queue])?;
    source.link(&demuxer)?;

    let mut inputs = Vec::with_capacity(film.facts.tracks.len());
    for (index, track) in film.facts.tracks.iter().enumerate() {
        let input = add_branch(&bin, &queue, index, track)?;
        inputs.push((track.pad.clone(), input));
    }
    demuxer.connect_pad_added(move |_, pad| {
        let wanted = inputs.iter().find(|(name, _)| *name == pad.name());
        let Some(input) = wanted.and_then(|(_, input)| input.upgrade()) else {
            return;
        };
        if let Err(error) = pad.link(&input) {
            tracing::warn!(pad = %pad.name(), %error, "a track could not be linked");
        }
    });
    Ok(bin)
}

/// Adds one track's branch behind the queue, and returns the queue's input for it.
fn add_branch(
    bin: &gst::Bin,
    queue: &gst::Element,
    index: usize,
    track: &Track,
) -> Result<glib::WeakRef<gst::Pad>, glib::BoolError> {
    let input = queue
        .request_pad_simple(&format!("sink_{index}"))
        .ok_or_else(|| glib::bool_error!("the queue gave no input"))?;
    let (first, _) = add_elements(bin, index, track)?;
    queue.link_pads(Some(&format!("src_{index}")), &first, None)?;
    Ok(input.downgrade())
}

/// Adds what makes packets of one track, and returns the first and the last of it.
fn add_elements(
    bin: &gst::Bin,
    index: usize,
    track: &Track,
) -> Result<(gst::Element, gst::Element), glib::BoolError> {
    // gst-rtsp-server looks for payloaders by these names. Payload types from 96 on are dynamic.
    let payloader = gst::ElementFactory::make(elements::payloader(track.codec))
        .name(format!("pay{index}"))
        .property("pt", 96 + u32::try_from(index).unwrap_or(0).min(31))
        .build()?;
    if matches!(track.codec, Codec::H264 | Codec::H265) {
        // Parameter sets with every key frame: a player that joins or seeks can begin there.
        payloader.set_property("config-interval", -1i32);
        payloader.set_property_from_str("aggregate-mode", "zero-latency");
    }
    if track.codec == Codec::Vorbis {
        // Each frame in a packet of its own: at the end GStreamer 1.22 forgets what waits for more, which
        // is the last frame now, and was the last fifteen.
        payloader.set_property("max-ptime", 1i64);
    }
    if track.codec == Codec::Mpeg4 {
        // The same: a player's decoder begins with what is in front of a key frame.
        payloader.set_property("config-interval", -1i32);
    }
    bin.add(&payloader)?;
    let mut behind = payloader.clone();
    for (element, _) in elements::between(track.codec).iter().rev() {
        let element = gst::ElementFactory::make(element).build()?;
        bin.add(&element)?;
        element.link(&behind)?;
        behind = element;
    }
    Ok((behind, payloader))
}

/// Builds `filesrc ! demuxer ! parser ! payloader`, which runs as fast as its packets are taken from its
/// payloaders, one for each track, in a single thread. They are numbered from zero.
pub(super) fn making(
    film: &FilmSource,
) -> Result<(gst::Pipeline, Vec<gst::Element>), glib::BoolError> {
    let container = film
        .facts
        .container
        .ok_or_else(|| glib::bool_error!("the film's container is not known"))?;
    let pipeline = gst::Pipeline::new();
    let source = gst::ElementFactory::make("filesrc")
        .property("location", &film.path)
        .build()?;
    let demuxer = gst::ElementFactory::make(elements::demuxer(container)).build()?;
    pipeline.add_many([&source, &demuxer])?;
    source.link(&demuxer)?;
    let (mut inputs, mut payloaders) = (Vec::new(), Vec::new());
    for (index, track) in film.facts.tracks.iter().enumerate() {
        let (first, payloader) = add_elements(pipeline.upcast_ref(), index, track)?;
        for numbers in ["timestamp-offset", "ssrc"] {
            payloader.set_property(numbers, 0u32);
        }
        let sink = gst::ElementFactory::make("fakesink")
            .property("sync", false)
            .property("async", false)
            .build()?;
        pipeline.add(&sink)?;
        payloader.link(&sink)?;
        inputs.push((track.pad.clone(), first.downgrade()));
        payloaders.push(payloader);
    }
    demuxer.connect_pad_added(move |_, pad| {
        let wanted = inputs.iter().find(|(name, _)| *name == pad.name());
        let Some(first) = wanted.and_then(|(_, first)| first.upgrade()) else {
            return;
        };
        let linked = first.static_pad("sink").map(|input| pad.link(&input));
        if let Some(Err(error)) = linked {
            tracing::warn!(pad = %pad.name(), %error, "a track could not be linked");
        }
    });
    Ok((pipeline, payloaders))
}

/// A film's payloaders, by the names that gst-rtsp-server looks for.
pub(super) fn payloaders(bin: &gst::Bin) -> impl Iterator<Item = gst::Element> + use<> {
    let elements = bin.iterate_elements().into_iter().flatten();
    elements.filter(|element| element.name().starts_with("pay"))
}

/// Lets nothing more out of a film's pipeline.
pub(super) fn cut(bin: &gst::Bin) {
    for pad in payloaders(bin).filter_map(|payloader| payloader.static_pad("src")) {
        let data = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
        pad.add_probe(data, |_, _| gst::PadProbeReturn::Handled);
    }
}
