//! The film that is played.

use anyhow::{Context as _, bail, ensure};
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// The film's name in the catalogue.
pub const NAME: &str = "Benchmark film";

/// Makes the film in its own directory under `dir`, unless an earlier run did, and gives that
/// directory: 30 s of 1280×720 H.264 and AAC in MP4, 5 Mb/s together.
///
/// # Errors
/// When GStreamer's tools cannot make it.
pub async fn make(dir: &Path) -> anyhow::Result<PathBuf> {
    let folder = dir.join("media");
    let film = folder.join(format!("{NAME}.mp4"));
    if film.exists() {
        return Ok(folder);
    }
    eprintln!("making the film to play …");
    tokio::fs::create_dir_all(&folder).await?;
    // Made beside it, so that what is there is whole.
    let making = dir.join("film.new");
    // A moving pattern of fine rings: it takes the whole bit rate, as real pictures do.
    let pipeline = [
        "videotestsrc num-buffers=900 pattern=zone-plate kx2=14 ky2=10 kt=8",
        "! video/x-raw,format=I420,width=1280,height=720,framerate=30/1",
        "! x264enc bitrate=4870 speed-preset=superfast key-int-max=60 bframes=0",
        "! h264parse ! queue ! mux.",
        // 1406 buffers of 1024 samples at 48 kHz: 30 s.
        "audiotestsrc num-buffers=1406 samplesperbuffer=1024 wave=pink-noise",
        "! audio/x-raw,rate=48000,channels=2 ! audioconvert ! avenc_aac bitrate=128000",
        "! aacparse ! queue ! mux.",
        "mp4mux name=mux faststart=true ! filesink",
    ]
    .join(" ");
    let made = Command::new("gst-launch-1.0")
        .args(["-q", "-e"])
        .args(pipeline.split(' '))
        .arg(format!("location={}", quoted(&making)?))
        .kill_on_drop(true)
        .output()
        .await
        .context("gst-launch-1.0; `scripts/bootstrap` installs it")?;
    if !made.status.success() {
        let reason = String::from_utf8_lossy(&made.stderr);
        bail!("the film could not be made: {}", reason.trim());
    }
    tokio::fs::rename(&making, &film).await?;
    Ok(folder)
}

/// A path as GStreamer's pipeline language takes it.
fn quoted(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().context("the path is not UTF-8")?;
    ensure!(
        !text.contains(['"', '\\']),
        "{text} has characters in it that cannot be handed on"
    );
    Ok(format!("\"{text}\""))
}
