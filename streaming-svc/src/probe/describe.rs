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
            Ok(1) if layer.is_none_or(|layer| layer == 3) => (false, Some(Codec::Mp3), "MP3"),
            _ => (false, None, "MPEG audio"),
        },
        "video/x-vp9" => (true, None, "VP9"),
        "video/x-av1" => (true, None, "AV1"),
        "video/x-h263" => (true, None, "H.263"),
        "video/x-theora" => (true, None, "Theora"),
        "video/x-prores" => (true, None, "ProRes"),
        "video/x-divx" => (true, None, "DivX"),
        "video/x-wmv" => (true, None, "Windows Media video"),
        "video/x-raw" => (true, None, "uncompressed"),
        "video/mpeg" => match first.get::<i32>("mpegversion") {
            Ok(1) => (true, None, "MPEG-1"),
            Ok(2) => (true, None, "MPEG-2"),
            _ => (true, None, "MPEG-4 part 2"),
        },
        "audio/x-ac3" => (false, None, "AC-3"),
        "audio/x-eac3" => (false, None, "E-AC-3"),
        "audio/x-dts" => (false, None, "DTS"),
        "audio/x-true-hd" => (false, None, "TrueHD"),
        "audio/x-flac" => (false, None, "FLAC"),
        "audio/x-vorbis" => (false, None, "Vorbis"),
        "audio/x-alac" => (false, None, "ALAC"),
        "audio/x-raw" | "audio/x-mulaw" | "audio/x-alaw" => (false, None, "PCM"),
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
            "audio/x-ac3",
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
        let (format, unplayable, tracks) = chosen(&["video/x-vp9", AAC]);
        assert_eq!(format, "MP4, VP9, AAC 2 channels");
        assert_eq!(
            unplayable.as_deref(),
            Some("its video is VP9, which is not delivered yet")
        );
        assert_eq!(tracks, 0);
        assert_eq!(
            chosen(&["video/mpeg, mpegversion=2"]).1.as_deref(),
            Some("its video is MPEG-2, which is not delivered yet")
        );
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
        let (format, unplayable, tracks) = chosen(&[H264, "audio/x-ac3"]);
        assert_eq!(format, "MP4, H.264 1920×1080, AC-3 audio is left out");
        assert_eq!((unplayable, tracks), (None, 1));
        assert!(chosen(&["audio/x-flac"]).1.unwrap().contains("FLAC"));
        assert!(chosen(&["audio/mpeg, mpegversion=1, layer=2"]).1.is_some());
        assert_eq!(chosen(&["audio/mpeg, mpegversion=1, layer=3"]).1, None);
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
