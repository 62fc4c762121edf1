//! Real films, made by ffmpeg when a test wants them: every container with every codec that is
//! delivered, and some that are made in unusual ways.
//!
//! Each elementary stream is encoded once and then put into containers. What was made is kept
//! under the target directory, so that a second run is quick.

use anyhow::{Context, Result, ensure};
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

/// Frames a second of every clip.
pub const FPS: usize = 25;
/// How long every clip plays, in seconds, unless it says otherwise.
pub const SECONDS: f64 = 4.0;
/// The frames of such a clip.
pub const FRAMES: usize = 100;

/// How long those play that are made so, in seconds.
pub const LONG_SECONDS: f64 = 10.0;

/// To be raised when the recipes change: clips of other recipes are not used.
const RECIPES: u32 = 2;

/// What a clip's video is coded with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are their own names")]
pub enum Video {
    H264,
    H265,
    Vp8,
    Vp9,
    Mpeg4,
}

/// What a clip's audio is coded with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are their own names")]
pub enum Audio {
    Aac,
    Mp3,
    Opus,
    Vorbis,
    Ac3,
    Flac,
    Pcm,
    Pcm24,
    Mp2,
}

/// How the encoders of VP8 and VP9 are told to be quick.
macro_rules! vpx {
    ($encoder:literal) => {
        &[
            "-c:v",
            $encoder,
            "-deadline",
            "realtime",
            "-cpu-used",
            "8",
            "-b:v",
            "500k",
            "-g",
            "25",
        ]
    };
}

impl Video {
    /// What ffprobe calls it.
    pub fn name(self) -> &'static str {
        match self {
            Video::H264 => "h264",
            Video::H265 => "hevc",
            Video::Vp8 => "vp8",
            Video::Vp9 => "vp9",
            Video::Mpeg4 => "mpeg4",
        }
    }

    /// A key frame a second, so that seeks can be checked; B frames as the encoders like them.
    fn options(self) -> &'static [&'static str] {
        match self {
            Video::H264 => &["-c:v", "libx264", "-preset", "veryfast", "-g", "25"],
            Video::H265 => &[
                "-c:v",
                "libx265",
                "-preset",
                "veryfast",
                "-x265-params",
                "log-level=none:keyint=25:min-keyint=25",
                "-tag:v",
                "hvc1",
            ],
            Video::Vp8 => vpx!("libvpx"),
            Video::Vp9 => vpx!("libvpx-vp9"),
            Video::Mpeg4 => &["-c:v", "mpeg4", "-q:v", "4", "-g", "25"],
        }
    }
}

impl Audio {
    /// What ffprobe calls it when it comes over RTP, which has one format for all layers of MPEG
    /// audio, and none for FLAC.
    pub fn name(self) -> &'static str {
        match self {
            Audio::Aac => "aac",
            Audio::Mp2 | Audio::Mp3 => "mp2",
            Audio::Opus => "opus",
            Audio::Vorbis => "vorbis",
            Audio::Ac3 => "ac3",
            Audio::Flac | Audio::Pcm => "pcm_s16be",
            Audio::Pcm24 => "pcm_s24be",
        }
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            Audio::Aac => &["-c:a", "aac"],
            Audio::Mp3 => &["-c:a", "libmp3lame"],
            Audio::Opus => &["-c:a", "libopus"],
            Audio::Vorbis => &["-c:a", "libvorbis"],
            Audio::Ac3 => &["-c:a", "ac3"],
            Audio::Flac => &["-c:a", "flac", "-sample_fmt", "s16"],
            Audio::Pcm => &["-c:a", "pcm_s16le"],
            Audio::Pcm24 => &["-c:a", "pcm_s24le"],
            Audio::Mp2 => &["-c:a", "mp2"],
        }
    }
}

/// A clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clip {
    /// The container, as its file's extension.
    pub container: &'static str,
    /// What its video is coded with, if it has any.
    pub video: Option<Video>,
    /// What its audio is coded with, if it has any.
    pub audio: Option<Audio>,
    /// How it is made.
    pub make: Make,
}

/// How a clip is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    /// As ffmpeg does it: an MP4's index is at its end.
    Usual,
    /// Longer than players buffer, with room for seeks before the end is on its way.
    Long,
    /// The index comes first.
    FastStart,
    /// An index for every second (fragmented MP4), as recorders write it.
    Fragmented,
    /// As browsers and live recorders write Matroska and WebM: without duration and index.
    Live,
    /// Cut out of a longer film between two key frames without encoding it anew: an edit list says
    /// that its first 13 frames are not to be shown.
    Cut,
    /// MPEG-2, which is not delivered yet.
    Unplayable,
}

impl Clip {
    /// A clip in the usual way.
    pub const fn new(container: &'static str, video: Video, audio: Audio) -> Self {
        Self {
            container,
            video: Some(video),
            audio: Some(audio),
            make: Make::Usual,
        }
    }

    /// An H.264 and AAC film in MP4.
    pub const fn usual() -> Self {
        Self::new("mp4", Video::H264, Audio::Aac)
    }

    /// The same in another way.
    pub const fn made(mut self, make: Make) -> Self {
        self.make = make;
        self
    }

    /// Its name: the file's without extension.
    pub fn name(&self) -> String {
        let mut parts = vec![self.container.to_owned()];
        parts.extend(self.video.map(|video| format!("{video:?}")));
        parts.extend(self.audio.map(|audio| format!("{audio:?}")));
        if self.make != Make::Usual {
            parts.push(format!("{:?}", self.make));
        }
        parts.join(" ")
    }

    /// The clip's file, made if it is not there yet. It is shared: to be linked or copied, not
    /// changed. Blocks.
    ///
    /// # Errors
    /// When ffmpeg fails.
    pub fn file(&self) -> Result<PathBuf> {
        let name = format!("{}.{}", self.name(), self.container);
        once(&name, |path| self.make_at(path))
    }

    /// Puts the clip into a directory, under its own name. Blocks.
    ///
    /// # Errors
    /// When ffmpeg or the file system fails.
    pub fn put_into(&self, directory: &Path) -> Result<PathBuf> {
        let file = self.file()?;
        let name = file.file_name().context("a clip has a name")?;
        let path = directory.join(name);
        fs::copy(&file, &path)?;
        Ok(path)
    }

    fn make_at(&self, path: &Path) -> Result<()> {
        let mut inputs = Vec::new();
        let seconds = match self.make {
            Make::Long => LONG_SECONDS,
            _ => SECONDS,
        };
        if let Some(video) = self.video {
            inputs.push(essence(
                &format!("{video:?}"),
                video.options(),
                "testsrc2",
                seconds,
            )?);
        }
        if let Some(audio) = self.audio {
            inputs.push(essence(
                &format!("{audio:?}"),
                audio.options(),
                "sine",
                seconds,
            )?);
        }
        let mut words: Vec<&str> = match self.make {
            // From within the first second on, which begins with a key frame.
            Make::Cut => vec!["-ss", "0.5"],
            _ => vec![],
        };
        for input in &inputs {
            words.extend(["-i", input.to_str().context("a plain path")?]);
            if self.make == Make::Cut && inputs.len() > 1 && words.len() == 4 {
                words.extend(["-ss", "0.5"]);
            }
        }
        words.extend(match self.make {
            Make::Usual | Make::Cut | Make::Long => &["-c", "copy"][..],
            Make::FastStart => &["-c", "copy", "-movflags", "+faststart"],
            Make::Fragmented => &["-c", "copy", "-movflags", "+frag_keyframe+empty_moov"],
            Make::Live => &["-c", "copy", "-live", "1"],
            Make::Unplayable => &["-c:v", "mpeg2video", "-c:a", "copy"],
        });
        ffmpeg(&words, path)
    }
}

/// Every container with every codec it is to be delivered with.
pub fn every_kind() -> Vec<Clip> {
    use Audio::{Aac, Ac3, Flac, Mp2, Mp3, Opus, Pcm, Pcm24, Vorbis};
    use Video::{H264, H265, Mpeg4, Vp8, Vp9};
    let mut clips = Vec::new();
    for container in ["mp4", "mkv", "mov"] {
        for video in [H264, H265] {
            for audio in [Aac, Mp3] {
                clips.push(Clip::new(container, video, audio));
            }
        }
    }
    clips.extend([
        Clip::new("mp4", H264, Opus),
        Clip::new("mkv", H264, Opus),
        Clip::new("mkv", H265, Opus),
        Clip::new("mkv", Vp8, Opus),
        Clip::new("mkv", Vp8, Aac),
        Clip::new("mkv", Vp8, Mp3),
        Clip::new("webm", Vp8, Opus),
        Clip::new("webm", Vp8, Vorbis),
        Clip::new("webm", Vp9, Opus),
        Clip::new("webm", Vp9, Vorbis),
        Clip::new("mkv", Mpeg4, Mp3),
        Clip::new("mp4", Mpeg4, Aac),
        Clip::new("mkv", H264, Ac3),
        Clip::new("mp4", H264, Ac3),
        Clip::new("mkv", H264, Flac),
        Clip::new("mkv", H264, Pcm),
        Clip::new("mkv", H264, Pcm24),
        Clip::new("mkv", H264, Mp2),
        Clip::new("mov", H264, Pcm),
    ]);
    clips
}

/// An elementary stream in Matroska, which holds all of them.
fn essence(name: &str, options: &[&str], source: &str, seconds: f64) -> Result<PathBuf> {
    let source = match source {
        "sine" => format!("sine=frequency=440:sample_rate=48000:duration={seconds}"),
        video => format!("{video}=size=320x180:rate={FPS}:duration={seconds}"),
    };
    once(&format!("{name} {seconds}.mkv"), |path| {
        let mut words = vec!["-f", "lavfi", "-i", &source];
        words.extend(["-pix_fmt", "yuv420p", "-ac", "2"]);
        words.extend(options);
        ffmpeg(&words, path)
    })
}

fn ffmpeg(words: &[&str], path: &Path) -> Result<()> {
    let made = Command::new("ffmpeg")
        .args(["-hide_banner", "-loglevel", "error", "-nostdin", "-y"])
        .args(words)
        .arg(path)
        .output()
        .context("ffmpeg is not installed")?;
    let said = String::from_utf8_lossy(&made.stderr);
    ensure!(made.status.success(), "ffmpeg {words:?}: {said}");
    Ok(())
}

/// Makes a file under its name in the shared directory, unless it is there. Others may make it at
/// the same time: it appears whole, and whoever comes last wins.
fn once(name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let directory = directory()?;
    let path = directory.join(name);
    if path.exists() {
        return Ok(path);
    }
    let unfinished = tempfile::Builder::new()
        .prefix(".making-")
        .tempdir_in(&directory)?;
    let new = unfinished.path().join(name);
    make(&new)?;
    fs::rename(&new, &path)?;
    Ok(path)
}

/// `target/tmp/clips-N`: this program is `target/PROFILE/deps/NAME`.
fn directory() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(3).unwrap_or(Path::new("."));
    let directory = target.join("tmp").join(format!("clips-{RECIPES}"));
    fs::create_dir_all(&directory)?;
    Ok(directory)
}
