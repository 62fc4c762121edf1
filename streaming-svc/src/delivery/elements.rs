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

/// What comes between a codec's demultiplexer and its payloader, in this order, and the packages these
/// elements come in: parsers, and for FLAC, which has no RTP format, what makes PCM of it.
pub(super) const fn between(codec: Codec) -> &'static [(&'static str, &'static str)] {
    match codec {
        Codec::H264 => &[("h264parse", BAD)],
        Codec::H265 => &[("h265parse", BAD)],
        Codec::Mpeg4 => &[("mpeg4videoparse", BAD)],
        // A container hands these over frame by frame already.
        Codec::Vp8 | Codec::Vp9 => &[],
        // It says how long a frame lasts, without which the payloader waits for 15.
        Codec::Vorbis => &[("vorbisparse", BASE)],
        Codec::Aac => &[("aacparse", GOOD)],
        Codec::Mp3 => &[("mpegaudioparse", GOOD)],
        Codec::Opus => &[("opusparse", BAD)],
        Codec::Ac3 => &[("ac3parse", GOOD)],
        Codec::Flac | Codec::Flac24 => &[
            ("flacparse", GOOD),
            ("flacdec", GOOD),
            ("audioconvert", BASE),
        ],
        // RTP wants the other byte order.
        Codec::Pcm | Codec::Pcm24 => &[("audioconvert", BASE)],
    }
}

/// The RTP payloader of a codec. All of them are in plugins-good.
pub(super) const fn payloader(codec: Codec) -> &'static str {
    match codec {
        Codec::H264 => "rtph264pay",
        Codec::H265 => "rtph265pay",
        Codec::Vp8 => "rtpvp8pay",
        Codec::Vp9 => "rtpvp9pay",
        Codec::Mpeg4 => "rtpmp4vpay",
        Codec::Aac => "rtpmp4gpay",
        Codec::Mp3 => "rtpmpapay",
        Codec::Opus => "rtpopuspay",
        Codec::Vorbis => "rtpvorbispay",
        Codec::Ac3 => "rtpac3pay",
        Codec::Pcm | Codec::Flac => "rtpL16pay",
        Codec::Pcm24 | Codec::Flac24 => "rtpL24pay",
    }
}

/// All codecs.
const ALL: [Codec; 14] = [
    Codec::H264,
    Codec::H265,
    Codec::Vp8,
    Codec::Vp9,
    Codec::Mpeg4,
    Codec::Aac,
    Codec::Mp3,
    Codec::Opus,
    Codec::Vorbis,
    Codec::Ac3,
    Codec::Flac,
    Codec::Flac24,
    Codec::Pcm,
    Codec::Pcm24,
];

/// Which elements are missing for delivering films of any container and codec. Empty when all are
/// installed. GStreamer must be initialised.
pub fn missing_elements() -> Vec<MissingElement> {
    missing(&[Container::Mp4, Container::Matroska], &ALL)
}

/// Which elements are missing for this film.
pub(super) fn missing_for(facts: &Facts) -> Vec<MissingElement> {
    let codecs: Vec<Codec> = facts.tracks.iter().map(|track| track.codec).collect();
    missing(facts.container.as_slice(), &codecs)
}

fn missing(containers: &[Container], codecs: &[Codec]) -> Vec<MissingElement> {
    let demuxers = containers.iter().map(|&c| (demuxer(c), GOOD));
    let between = codecs.iter().flat_map(|&c| between(c).iter().copied());
    let payloaders = codecs.iter().map(|&c| (payloader(c), GOOD));
    let needed: BTreeSet<(&str, &str)> = ALWAYS
        .into_iter()
        .chain(demuxers)
        .chain(between)
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
