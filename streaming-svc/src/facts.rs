//! What is known of a film's file once it was looked at: enough to build its pipeline without
//! looking again.

use serde::{Deserialize, Serialize};

/// The containers that are demultiplexed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Container {
    /// MP4 and QuickTime (MOV): `qtdemux`.
    Mp4,
    /// Matroska and WebM: `matroskademux`.
    Matroska,
}

/// The codecs that are delivered: as they are, but for FLAC, and PCM whose bytes RTP wants
/// in another order or number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "they are their own names")]
pub enum Codec {
    H264,
    H265,
    Vp8,
    Vp9,
    /// MPEG-4 part 2: DivX, Xvid.
    Mpeg4,
    Aac,
    /// MPEG audio of any layer.
    Mp3,
    Opus,
    Vorbis,
    Ac3,
    /// RTP has no format for it: it is delivered as PCM, which loses nothing.
    Flac,
    /// PCM of up to 16 bits.
    Pcm,
    /// PCM of more bits: delivered with 24.
    Pcm24,
    /// FLAC of more than 16 bits.
    Flac24,
}

impl Codec {
    /// Whether it is video's.
    pub fn is_video(self) -> bool {
        use Codec::{H264, H265, Mpeg4, Vp8, Vp9};
        matches!(self, H264 | H265 | Vp8 | Vp9 | Mpeg4)
    }
}

/// One stream inside the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Track {
    /// The demuxer's pad for it: `video_0`, `audio_0`, …
    pub pad: String,
    /// What it is coded with.
    pub codec: Codec,
    /// The demuxer pad's caps, as GStreamer prints them.
    pub caps: String,
    /// For people: "H.264 1920×1080", "AAC 2 channels".
    pub summary: String,
    /// ISO 639 language code, when the file says.
    pub language: Option<String>,
}

/// What was learned of a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// What holds the streams; `None` when it is none that can be delivered.
    pub container: Option<Container>,
    /// How long it plays, in nanoseconds, when known.
    pub duration_ns: Option<u64>,
    /// The tracks to deliver: the first video and the first audio whose codecs are known.
    pub tracks: Vec<Track>,
    /// For people: "MP4, H.264 1920×1080, AAC 2 channels".
    pub format: String,
    /// Why it cannot be delivered, for people: "its video is MPEG-2, which is not delivered yet".
    /// `None` means that it can.
    pub unplayable: Option<String>,
}
