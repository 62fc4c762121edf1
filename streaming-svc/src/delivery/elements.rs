//! The GStreamer elements that delivery needs, and the Debian packages they come in.

use crate::facts::{Codec, Container, Facts};
use std::{collections::BTreeSet, fmt};

const CORE: &str = "libgstreamer1.0-0";
const BASE: &str = "gstreamer1.0-plugins-base";
const GOOD: &str = "gstreamer1.0-plugins-good";
const BAD: &str = "gstreamer1.0-plugins-bad";

/// What every RTSP session needs, whatever the film: reading, queueing, and the parts from which
/// gst-rtsp-server builds its own end.
const ALWAYS: [(&str, &str); 8] = [
    ("filesrc", CORE),
    ("multiqueue", CORE),
    ("funnel", CORE),
    ("appsrc", BASE),
    ("appsink", BASE),
    ("rtpbin", GOOD),
    ("udpsrc", GOOD),
    ("multiudpsink", GOOD),
];

/// An element that is not installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MissingElement {
    /// Its name, as in `gst-inspect-1.0 NAME`.
    pub element: &'static str,
    /// The Debian package that has it.
    pub package: &'static str,
}

impl fmt::Display for MissingElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (package {})", self.element, self.package)
    }
}

/// The demultiplexer of a container.
pub(super) const fn demuxer(container: Container) -> &'static str {
    match container {
        Container::Mp4 => "qtdemux",
        Container::Matroska => "matroskademux",
    }
}

/// The parser of a codec, if it wants one, and the package it comes in.
pub(super) const fn parser(codec: Codec) -> Option<(&'static str, &'static str)> {
    match codec {
        Codec::H264 => Some(("h264parse", BAD)),
        Codec::H265 => Some(("h265parse", BAD)),
        // A container hands VP8 over frame by frame already.
        Codec::Vp8 => None,
        Codec::Aac => Some(("aacparse", GOOD)),
        Codec::Mp3 => Some(("mpegaudioparse", GOOD)),
        Codec::Opus => Some(("opusparse", BAD)),
    }
}

/// The RTP payloader of a codec. All of them are in plugins-good.
pub(super) const fn payloader(codec: Codec) -> &'static str {
    match codec {
        Codec::H264 => "rtph264pay",
        Codec::H265 => "rtph265pay",
        Codec::Vp8 => "rtpvp8pay",
        Codec::Aac => "rtpmp4gpay",
        Codec::Mp3 => "rtpmpapay",
        Codec::Opus => "rtpopuspay",
    }
}

/// Which elements are missing for delivering films of any container and codec. Empty when all are
/// installed. GStreamer must be initialised.
pub fn missing_elements() -> Vec<MissingElement> {
    use Codec::{Aac, H264, H265, Mp3, Opus, Vp8};
    missing(
        &[Container::Mp4, Container::Matroska],
        &[H264, H265, Vp8, Aac, Mp3, Opus],
    )
}

/// Which elements are missing for this film.
pub(super) fn missing_for(facts: &Facts) -> Vec<MissingElement> {
    let codecs: Vec<Codec> = facts.tracks.iter().map(|track| track.codec).collect();
    missing(facts.container.as_slice(), &codecs)
}

fn missing(containers: &[Container], codecs: &[Codec]) -> Vec<MissingElement> {
    let demuxers = containers.iter().map(|&c| (demuxer(c), GOOD));
    let parsers = codecs.iter().filter_map(|&c| parser(c));
    let payloaders = codecs.iter().map(|&c| (payloader(c), GOOD));
    let needed: BTreeSet<(&str, &str)> = ALWAYS
        .into_iter()
        .chain(demuxers)
        .chain(parsers)
        .chain(payloaders)
        .collect();
    needed
        .into_iter()
        .filter(|(element, _)| gst::ElementFactory::find(element).is_none())
        .map(|(element, package)| MissingElement { element, package })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_installed_where_tests_run() {
        gst::init().unwrap();
        assert_eq!(missing_elements(), []);
    }

    #[test]
    fn a_missing_element_names_its_package() {
        let missing = MissingElement {
            element: "h264parse",
            package: BAD,
        };
        assert_eq!(
            missing.to_string(),
            "h264parse (package gstreamer1.0-plugins-bad)"
        );
    }
}
