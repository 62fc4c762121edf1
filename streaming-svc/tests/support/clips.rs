//! Small real films, made with ffmpeg when a test wants them.

use std::{path::Path, process::Command};
use streaming_svc::{
    delivery::FilmSource,
    facts::{Codec, Container, Facts, Track},
};
use tempfile::TempDir;

/// Frames a second of every clip.
pub const FPS: u32 = 25;

/// A clip to make.
#[derive(Clone, Copy, Debug)]
pub struct Clip {
    /// The file's extension, from which ffmpeg takes the container.
    pub extension: &'static str,
    /// What the video is coded with.
    pub video: Codec,
    /// What the audio is coded with.
    pub audio: Codec,
    /// Its length in seconds.
    pub seconds: u32,
    /// Further output options of ffmpeg.
    pub extra: &'static [&'static str],
}

impl Clip {
    /// An H.264 and AAC film in MP4, of so many seconds.
    pub const fn mp4(seconds: u32) -> Self {
        Self::new("mp4", Codec::H264, Codec::Aac, seconds)
    }

    /// A film with these codecs.
    pub const fn new(extension: &'static str, video: Codec, audio: Codec, seconds: u32) -> Self {
        Self {
            extension,
            video,
            audio,
            seconds,
            extra: &[],
        }
    }

    /// Makes it in the folder.
    pub fn make(&self, folder: &TempDir) -> FilmSource {
        let path = folder.path().join(format!("clip.{}", self.extension));
        self.make_at(&path);
        FilmSource {
            path,
            facts: self.facts(),
        }
    }

    /// Makes it as this file.
    pub fn make_at(&self, path: &Path) {
        let length = self.seconds;
        let made = Command::new("ffmpeg")
            .args(["-hide_banner", "-loglevel", "error", "-nostdin", "-y"])
            .args(["-f", "lavfi", "-i"])
            .arg(format!(
                "testsrc2=size=160x120:rate={FPS}:duration={length}"
            ))
            .args(["-f", "lavfi", "-i"])
            .arg(format!(
                "sine=frequency=440:sample_rate=48000:duration={length}"
            ))
            .args(["-c:v", encoder(self.video), "-c:a", encoder(self.audio)])
            // A key frame a second, so that seeks can be checked.
            .args(["-g", "25", "-pix_fmt", "yuv420p", "-ac", "2", "-shortest"])
            .args(self.extra)
            .arg(path)
            .output()
            .expect("ffmpeg is installed");
        let errors = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "{self:?}: {errors}");
    }

    /// What a probe would learn of it.
    pub fn facts(&self) -> Facts {
        let container = match self.extension {
            "mp4" | "mov" => Container::Mp4,
            _ => Container::Matroska,
        };
        let track = |pad: &str, codec| Track {
            pad: pad.to_owned(),
            codec,
            caps: String::new(),
            summary: format!("{codec:?}"),
            language: None,
        };
        Facts {
            container: Some(container),
            duration_ns: Some(u64::from(self.seconds) * 1_000_000_000),
            tracks: vec![track("video_0", self.video), track("audio_0", self.audio)],
            format: format!("{container:?}, {:?}, {:?}", self.video, self.audio),
            unplayable: None,
        }
    }
}

fn encoder(codec: Codec) -> &'static str {
    match codec {
        Codec::H264 => "libx264",
        Codec::H265 => "libx265",
        Codec::Vp8 => "libvpx",
        Codec::Vp9 => "libvpx-vp9",
        Codec::Mpeg4 => "mpeg4",
        Codec::Aac => "aac",
        Codec::Mp3 => "libmp3lame",
        Codec::Opus => "libopus",
        Codec::Vorbis => "libvorbis",
        Codec::Ac3 => "ac3",
        Codec::Flac | Codec::Flac24 => "flac",
        Codec::Pcm => "pcm_s16le",
        Codec::Pcm24 => "pcm_s24le",
    }
}

/// What ffmpeg and ffprobe call it.
pub fn name(codec: Codec) -> &'static str {
    match codec {
        Codec::H264 => "h264",
        Codec::H265 => "hevc",
        Codec::Vp8 => "vp8",
        Codec::Vp9 => "vp9",
        Codec::Mpeg4 => "mpeg4",
        Codec::Aac => "aac",
        // RTP has one format for all layers of MPEG audio.
        Codec::Mp3 => "mp2",
        Codec::Opus => "opus",
        Codec::Vorbis => "vorbis",
        Codec::Ac3 => "ac3",
        Codec::Flac | Codec::Pcm => "pcm_s16be",
        Codec::Flac24 | Codec::Pcm24 => "pcm_s24be",
    }
}

/// What became of a film that ffmpeg played.
#[derive(Debug)]
pub struct Played {
    /// Decoded video frames.
    pub frames: usize,
    /// What ffmpeg complained about.
    pub errors: String,
    /// Whether it ended well.
    pub ok: bool,
}

/// Plays a URL to its end with ffmpeg, decoding it, from `start` seconds on.
pub fn play(url: &str, transport: &str, start: Option<u32>) -> Played {
    let mut command = Command::new("timeout");
    command.args([
        "40",
        "ffmpeg",
        "-hide_banner",
        "-loglevel",
        "error",
        "-nostdin",
    ]);
    command.args(["-rtsp_transport", transport]);
    if let Some(start) = start {
        command.args(["-ss", &start.to_string()]);
    }
    let played = command
        .args(["-i", url, "-map", "0:v", "-map", "0:a"])
        .args(["-fps_mode", "passthrough", "-f", "framecrc", "-"])
        .output()
        .expect("ffmpeg is installed");
    let out = String::from_utf8_lossy(&played.stdout);
    // Lines of a frame begin with its stream's number; 0 is the video.
    let frames = out.lines().filter(|line| line.starts_with("0,")).count();
    Played {
        frames,
        errors: String::from_utf8_lossy(&played.stderr).into_owned(),
        ok: played.status.success(),
    }
}

/// The duration in seconds and the codecs that ffprobe reads from a URL.
pub fn probe(url: &str) -> (f64, Vec<String>) {
    let probed = Command::new("timeout")
        .args([
            "20",
            "ffprobe",
            "-loglevel",
            "error",
            "-rtsp_transport",
            "tcp",
        ])
        .args(["-show_entries", "format=duration:stream=codec_name"])
        .args(["-of", "json", url])
        .output()
        .expect("ffprobe is installed");
    let said: serde_json::Value = serde_json::from_slice(&probed.stdout).expect("ffprobe's JSON");
    let duration = said["format"]["duration"].as_str().unwrap_or("0");
    let codecs = said["streams"].as_array().into_iter().flatten();
    (
        duration.parse().unwrap(),
        codecs
            .map(|stream| stream["codec_name"].as_str().unwrap_or("?").to_owned())
            .collect(),
    )
}

/// A folder that is gone after the test.
pub fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}
