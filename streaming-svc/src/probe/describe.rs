//! From GStreamer's caps to what is delivered, and to words for people.

use crate::facts::{Codec, Container, Track};
use gst::StructureRef;

/// The longest caps that are kept, in bytes as text. A codec's set-up data is some hundred bytes.
const LONGEST_CAPS: usize = 64 << 10;

/// A container as its content shows it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// What demultiplexes it, if it is delivered.
    pub container: Option<Container>,
    /// Its name, for people.
    pub name: String,
}

/// What the type found in a file's content is.
pub(super) fn container(found: &StructureRef) -> Kind {
    let apple = found.get::<&str>("variant") == Ok("apple");
    let (container, name) = match found.name().as_str() {
        "video/quicktime" if apple => (Some(Container::Mp4), "MOV"),
        "video/quicktime" | "audio/x-m4a" => (Some(Container::Mp4), "MP4"),
        "application/x-3gp" => (Some(Container::Mp4), "3GP"),
        "video/x-matroska" | "audio/x-matroska" | "video/x-matroska-3d" => {
            (Some(Container::Matroska), "Matroska")
        }
        "video/webm" | "audio/webm" => (Some(Container::Matroska), "WebM"),
        "video/x-msvideo" => (None, "AVI"),
        "video/mpegts" => (None, "MPEG transport stream"),
        "video/mpeg" | "video/x-cdxa" | "application/x-mpeg" => (None, "MPEG"),
        "application/ogg" | "video/ogg" | "audio/ogg" | "application/kate" => (None, "Ogg"),
        "video/x-flv" => (None, "Flash video"),
        "video/x-ms-asf" => (None, "Windows Media"),
        "application/vnd.rn-realmedia" => (None, "RealMedia"),
        "audio/mpeg" | "application/x-id3" | "application/x-apetag" => (None, "MP3 audio"),
        "audio/x-flac" => (None, "FLAC audio"),
        "audio/x-wav" => (None, "WAV audio"),
        other => (None, other),
    };
    Kind {
        container,
        name: name.to_owned(),
    }
}

/// What a stream inside a container is.
#[derive(Debug, PartialEq)]
pub(super) enum Stream {
    /// A video or an audio track that can be delivered.
    Deliverable { video: bool, track: Track },
    /// One that cannot be: its codec's name.
    Other { video: bool, name: String },
    /// Still pictures in a video's place: a cover, or Motion JPEG.
    Pictures(String),
    /// Subtitles, attachments, time codes.
    Aside,
}

/// What the demuxer's pad with these caps gives.
pub(super) fn stream(pad: &str, caps: &gst::CapsRef, language: Option<String>) -> Stream {
    let Some(first) = caps.structure(0) else {
        return Stream::Aside;
    };
    let name = first.name().as_str();
    let layer = first.get::<i32>("layer").ok();
    let (video, codec, called) = match name {
        "video/x-h264" => (true, Some(Codec::H264), "H.264"),
        "video/x-h265" => (true, Some(Codec::H265), "H.265"),
        "video/x-vp8" => (true, Some(Codec::Vp8), "VP8"),
        "audio/x-opus" => (false, Some(Codec::Opus), "Opus"),
        "audio/mpeg" => match first.get::<i32>("mpegversion") {
            Ok(2 | 4) => (false, Some(Codec::Aac), "AAC"),
            Ok(1) => (false, Some(Codec::Mp3), mpeg_audio(layer)),
            _ => (false, None, "MPEG audio"),
        },
        "video/x-vp9" => (true, Some(Codec::Vp9), "VP9"),
        "video/x-av1" => (true, None, "AV1"),
        "video/x-h263" => (true, None, "H.263"),
        "video/x-theora" => (true, None, "Theora"),
        "video/x-prores" => (true, None, "ProRes"),
        "video/x-divx" => (true, None, "DivX"),
        "video/x-wmv" => (true, None, "Windows Media video"),
        "video/x-raw" => (true, None, "uncompressed"),
        "video/mpeg" => match first.get::<i32>("mpegversion") {
            // GStreamer 1.22's payloader for these loses the last frame, and damages others.
            Ok(1) => (true, None, "MPEG-1"),
            Ok(2) => (true, None, "MPEG-2"),
            _ => (true, Some(Codec::Mpeg4), "MPEG-4 part 2"),
        },
        "audio/x-ac3" => (false, Some(Codec::Ac3), "AC-3"),
        "audio/x-eac3" => (false, None, "E-AC-3"),
        "audio/x-dts" => (false, None, "DTS"),
        "audio/x-true-hd" => (false, None, "TrueHD"),
        "audio/x-flac" => (false, stereo(first).then(|| flac(first)), "FLAC"),
        "audio/x-vorbis" => (false, Some(Codec::Vorbis), "Vorbis"),
        "audio/x-alac" => (false, None, "ALAC"),
        "audio/x-raw" => (false, stereo(first).then(|| pcm(first)), "PCM"),
        "audio/x-mulaw" | "audio/x-alaw" => (false, None, "PCM (telephone)"),
        "application/x-cenc" | "application/x-webm-enc" => {
            (!pad.starts_with("audio"), None, "encrypted")
        }
        _ if name.starts_with("image/") => return Stream::Pictures(picture(name)),
        _ if name.starts_with("video/") => (true, None, name.trim_start_matches("video/")),
        _ if name.starts_with("audio/") => (false, None, name.trim_start_matches("audio/")),
        _ => return Stream::Aside,
    };
    let number = |field| first.get::<i32>(field).ok().filter(|n| *n > 0);
    let printed = caps.to_string();
    match codec {
        Some(codec) if printed.len() <= LONGEST_CAPS => {
            let summary = match (number("width"), number("height"), number("channels")) {
                (Some(width), Some(height), _) => format!("{called} {width}×{height}"),
                (_, _, Some(1)) => format!("{called} 1 channel"),
                (_, _, Some(channels)) => format!("{called} {channels} channels"),
                _ => called.to_owned(),
            };
            Stream::Deliverable {
                video,
                track: Track {
                    pad: pad.to_owned(),
                    codec,
                    caps: printed,
                    summary,
                    language,
                },
            }
        }
        _ => Stream::Other {
            video,
            name: called.to_owned(),
        },
    }
}

/// What MPEG audio of a layer is called.
fn mpeg_audio(layer: Option<i32>) -> &'static str {
    match layer {
        Some(1) => "MP1",
        Some(2) => "MP2",
        _ => "MP3",
    }
}

/// Whether it has two channels at most. RTP's PCM has no order of more that all players agree on: voices
/// would come from behind.
fn stereo(caps: &StructureRef) -> bool {
    caps.get::<i32>("channels")
        .is_ok_and(|channels| channels <= 2)
}

/// PCM by its samples' size: `S16LE`, `S24LE`, `F32LE` and the like.
fn pcm(caps: &StructureRef) -> Codec {
    let format = caps.get::<&str>("format").unwrap_or_default();
    let bits = format.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    match bits.get(..2) {
        Some("24" | "32" | "64") => Codec::Pcm24,
        _ => Codec::Pcm,
    }
}

/// FLAC by its samples' size, as its first block has it (RFC 9639, 8.2): a number of 5 bits, less one,
/// of which byte 12 holds the first and byte 13 the others, counted from 0.
fn flac(caps: &StructureRef) -> Codec {
    let bits = || {
        let headers = caps.get::<gst::Array>("streamheader").ok()?;
        let mut all = Vec::new();
        for header in headers.iter() {
            let header = header.get::<gst::Buffer>().ok()?;
            all.extend_from_slice(&header.map_readable().ok()?);
        }
        let at = all.windows(4).position(|four| four == b"fLaC")? + 4 + 4;
        let block = all.get(at..)?;
        Some((u16::from(block.get(12)? & 1) << 4 | u16::from(block.get(13)? >> 4)) + 1)
    };
    match bits() {
        Some(..=16) => Codec::Flac,
        // Not known: so nothing is lost.
        _ => Codec::Flac24,
    }
}

fn picture(name: &str) -> String {
    match name {
        "image/jpeg" => "Motion JPEG".to_owned(),
        other => format!("pictures ({})", other.trim_start_matches("image/")),
    }
}

/// What the streams of a file come to.
#[derive(Debug, PartialEq)]
pub(super) struct Choice {
    /// The first video and the first audio that can be delivered.
    pub tracks: Vec<Track>,
    /// For people.
    pub format: String,
    /// Why nothing can be delivered.
    pub unplayable: Option<String>,
}

/// Chooses what is delivered. A film whose picture cannot be shown is not played; one whose sound
/// cannot be is played without, and says so.
pub(super) fn choose(container: &str, streams: Vec<Stream>) -> Choice {
    let (mut video, mut audio) = (None, None);
    let (mut other_video, mut other_audio, mut pictures) = (None, None, None);
    for stream in streams {
        let (place, found) = match stream {
            Stream::Deliverable { video: true, track } => (&mut video, track),
            Stream::Deliverable { track, .. } => (&mut audio, track),
            Stream::Other { video, name } => {
                let place = if video {
                    &mut other_video
                } else {
                    &mut other_audio
                };
                place.get_or_insert(name);
                continue;
            }
            Stream::Pictures(name) => {
                pictures.get_or_insert(name);
                continue;
            }
            Stream::Aside => continue,
        };
        place.get_or_insert(found);
    }
    let mut parts = vec![container.to_owned()];
    // A cover beside sound is no film's picture; what moves is a video track of its own.
    let hidden = if video.is_none() {
        other_video.or(pictures)
    } else {
        None
    };
    let mut unplayable = hidden.as_ref().map(|name| match name.as_str() {
        "encrypted" => "its video is encrypted".to_owned(),
        name => format!("its video is {name}, which is not delivered yet"),
    });
    parts.extend(hidden);
    parts.extend(video.iter().map(|track| track.summary.clone()));
    match (&audio, &other_audio) {
        (Some(track), _) => parts.push(track.summary.clone()),
        (None, Some(name)) if video.is_some() => parts.push(format!("{name} audio is left out")),
        (None, Some(name)) => {
            unplayable.get_or_insert(format!("its audio is {name}, which is not delivered yet"));
            parts.push(name.clone());
        }
        (None, None) => {}
    }
    let mut tracks: Vec<_> = video.into_iter().chain(audio).collect();
    if tracks.is_empty() {
        unplayable.get_or_insert("it has neither video nor audio".to_owned());
    }
    if unplayable.is_some() {
        tracks.clear();
    }
    Choice {
        tracks,
        format: parts.join(", "),
        unplayable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams(caps: &[&str]) -> Vec<Stream> {
        gst::init().unwrap();
        let made = caps.iter().map(|text| {
            let caps: gst::Caps = text.parse().unwrap();
            stream("pad", &caps, None)
        });
        made.collect()
    }

    fn chosen(caps: &[&str]) -> (String, Option<String>, usize) {
        let choice = choose("MP4", streams(caps));
        (choice.format, choice.unplayable, choice.tracks.len())
    }

    const H264: &str = "video/x-h264, stream-format=avc, alignment=au, width=1920, height=1080";
    const AAC: &str = "audio/mpeg, mpegversion=4, channels=2";

    #[test]
    fn the_first_of_each_is_delivered() {
        let (format, unplayable, tracks) = chosen(&[
            "audio/x-eac3",
            H264,
            AAC,
            "audio/x-opus",
            "image/jpeg",
            "text/x-raw",
        ]);
        assert_eq!(format, "MP4, H.264 1920×1080, AAC 2 channels");
        assert_eq!((unplayable, tracks), (None, 2));
        let kept = streams(&[H264]);
        let [Stream::Deliverable { track, .. }] = kept.as_slice() else {
            panic!("{kept:?}");
        };
        assert!(
            track
                .caps
                .contains("stream-format=(string)avc, alignment=(string)au")
        );
    }

    #[test]
    fn what_cannot_be_played_says_why() {
        let (format, unplayable, tracks) = chosen(&["video/x-theora", AAC]);
        assert_eq!(format, "MP4, Theora, AAC 2 channels");
        assert_eq!(
            unplayable.as_deref(),
            Some("its video is Theora, which is not delivered yet")
        );
        assert_eq!(tracks, 0);
        assert!(chosen(&["text/x-raw"]).1.unwrap().contains("neither"));
        assert!(
            chosen(&["image/jpeg", AAC])
                .1
                .unwrap()
                .contains("Motion JPEG")
        );
    }

    #[test]
    fn sound_that_cannot_be_played_is_left_out() {
        let (format, unplayable, tracks) = chosen(&[H264, "audio/x-eac3"]);
        assert_eq!(format, "MP4, H.264 1920×1080, E-AC-3 audio is left out");
        assert_eq!((unplayable, tracks), (None, 1));
        assert!(chosen(&["audio/x-alac"]).1.unwrap().contains("ALAC"));
    }

    #[test]
    fn samples_of_more_than_sixteen_bits_are_told_from_others() {
        gst::init().unwrap();
        let codec = |caps: &str| match &streams(&[caps])[..] {
            [Stream::Deliverable { track, .. }] => track.codec,
            other => panic!("{other:?}"),
        };
        for (format, wanted) in [
            ("U8", Codec::Pcm),
            ("S16LE", Codec::Pcm),
            ("S24LE", Codec::Pcm24),
            ("S24_32BE", Codec::Pcm24),
            ("F32LE", Codec::Pcm24),
        ] {
            let caps = format!("audio/x-raw, format={format}, channels=2");
            assert_eq!(codec(&caps), wanted);
        }
        // 44.1 kHz, 2 channels; the rest is what FLAC's own encoder wrote of a second of silence.
        let flac = |bits: &str| {
            let block = format!("1000100000000e00001b0ac4{bits}0000ac44");
            let header = format!("664c614380000022{block}{}", "0".repeat(32));
            codec(&format!(
                "audio/x-flac, channels=1, streamheader=(buffer)<{header}>"
            ))
        };
        assert_eq!(flac("42f0"), Codec::Flac);
        assert_eq!(flac("4370"), Codec::Flac24);
        assert_eq!(codec("audio/x-flac, channels=2"), Codec::Flac24);
        for many in ["audio/x-flac", "audio/x-raw, format=S16LE"] {
            let (format, ..) = chosen(&[H264, &format!("{many}, channels=6")]);
            assert!(format.ends_with("audio is left out"), "{format}");
        }
        for (layer, called) in [(1, "MP1"), (2, "MP2"), (3, "MP3")] {
            let (format, reason, _) = chosen(&[&format!(
                "audio/mpeg, mpegversion=1, layer={layer}, channels=2"
            )]);
            assert_eq!(
                (format, reason),
                (format!("MP4, {called} 2 channels"), None)
            );
        }
    }

    #[test]
    fn monstrous_caps_are_not_kept() {
        let caps = format!(
            "video/x-h264, codec_data=(buffer){}",
            "00".repeat(LONGEST_CAPS)
        );
        assert!(matches!(streams(&[&caps])[..], [Stream::Other { .. }]));
    }
}
