//! ffmpeg and ffprobe: what a film decodes to, and what it says of itself.

use super::{PATIENCE, Transport};
use anyhow::{Context, Result, bail, ensure};
use std::{collections::HashMap, ffi::OsStr, process::Stdio};
use tokio::{process::Command, time::timeout};

/// What came out of a film that was decoded to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// A checksum of every video frame's picture, in the order in which they are shown.
    pub frames: Vec<String>,
    /// How much audio there was, in seconds.
    pub audio_s: f64,
    /// What ffmpeg complained about.
    pub complaints: String,
}

/// What ffprobe says of a film.
#[derive(Debug, Clone, PartialEq)]
pub struct Probed {
    /// How long it plays, in seconds; 0 when it does not say.
    pub duration_s: f64,
    /// What its tracks are coded with, sorted.
    pub codecs: Vec<String>,
}

/// Decodes a file.
///
/// # Errors
/// When ffmpeg fails.
pub async fn decode_file(path: impl AsRef<OsStr>) -> Result<Decoded> {
    decode(&[], path).await
}

/// Plays a URL to its end, from `start` (in seconds) on.
///
/// # Errors
/// When ffmpeg fails, or does not come to an end.
pub async fn play(url: &str, transport: Transport, start: Option<u32>) -> Result<Decoded> {
    let start = start.map(|start| start.to_string());
    let mut words = vec!["-rtsp_transport", transport.name()];
    if let Some(start) = &start {
        words.extend(["-ss", start]);
    }
    decode(&words, url).await
}

async fn decode(words: &[&str], input: impl AsRef<OsStr>) -> Result<Decoded> {
    let mut command = Command::new("ffmpeg");
    command
        .args(["-hide_banner", "-loglevel", "error", "-nostdin"])
        .args(words)
        .arg("-i")
        .arg(input)
        // Every frame once, as it came: none repeated or left out for an even rate.
        .args(["-map", "0", "-fps_mode", "passthrough"])
        .args(["-f", "framecrc", "-"]);
    let (out, complaints) = run(command).await?;
    let mut decoded = Decoded {
        frames: Vec::new(),
        audio_s: 0.0,
        complaints,
    };
    let rates = sample_rates(&out);
    for line in out.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let [track, _, _, duration, _, checksum, ..] = fields[..] else {
            bail!("ffmpeg wrote {line:?}");
        };
        let track: usize = track.parse()?;
        match rates.get(&track) {
            Some(rate) => decoded.audio_s += duration.parse::<f64>()? / rate,
            None => decoded.frames.push(checksum.to_owned()),
        }
    }
    Ok(decoded)
}

/// The sample rate of each track that is audio, by the track's number.
fn sample_rates(out: &str) -> HashMap<usize, f64> {
    out.lines()
        .filter_map(|line| {
            let (track, rate) = line.strip_prefix("#sample_rate ")?.split_once(": ")?;
            Some((track.parse().ok()?, rate.parse().ok()?))
        })
        .collect()
}

/// Asks ffprobe what is at a URL.
///
/// # Errors
/// When ffprobe fails.
pub async fn probe(url: &str, transport: Transport) -> Result<Probed> {
    let mut command = Command::new("ffprobe");
    command
        .args(["-loglevel", "error", "-rtsp_transport", transport.name()])
        .args(["-show_entries", "format=duration:stream=codec_name"])
        .args(["-of", "json", url]);
    let (out, _) = run(command).await?;
    let said: serde_json::Value = serde_json::from_str(&out).context("ffprobe's JSON")?;
    let duration = said["format"]["duration"].as_str().unwrap_or("0");
    let tracks = said["streams"].as_array().into_iter().flatten();
    let mut codecs: Vec<String> = tracks
        .map(|track| track["codec_name"].as_str().unwrap_or("?").to_owned())
        .collect();
    codecs.sort_unstable();
    Ok(Probed {
        duration_s: duration.parse()?,
        codecs,
    })
}

/// Runs a program to its end; gives what it wrote to stdout and to stderr.
async fn run(mut command: Command) -> Result<(String, String)> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = timeout(PATIENCE, output)
        .await
        .with_context(|| format!("{command:?} does not end"))?
        .context("ffmpeg is not installed")?;
    let said = String::from_utf8_lossy(&output.stderr);
    // It tries ports until two are free, and says so each time.
    let said = said
        .lines()
        .filter(|line| !line.contains("bind failed: Address already in use"))
        .collect::<Vec<_>>()
        .join("\n");
    ensure!(output.status.success(), "{}: {said}", output.status);
    Ok((String::from_utf8(output.stdout)?, said))
}
