//! Hashing a file in the page cache, beside `sha256sum`.

use crate::{
    Options,
    report::{Asked, Figure},
    stats::median,
};
use anyhow::{Context as _, bail, ensure};
use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Instant,
};
use streaming_svc::library::hash::{Hashed, Stamp, hash_file};
use tokio::process::Command;

/// Takes turns with `sha256sum`, so that what else the machine does hits both alike.
///
/// # Errors
/// When the file cannot be made or hashed, or the hashes differ.
pub async fn run(options: &Options, dir: &Path) -> anyhow::Result<Vec<Figure>> {
    let (mib, rounds) = if options.quick { (256, 3) } else { (1024, 5) };
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    // Which bytes does not matter to SHA-256, as long as they are there. Written right here, though
    // it takes a second: nothing else runs, and so the file is gone whenever this future is.
    let piece: Vec<u8> = (0..1u32 << 20)
        .map(|n| (n.wrapping_mul(n) >> 7) as u8)
        .collect();
    for _ in 0..mib {
        file.write_all(&piece)?;
    }
    // On disk before the clock runs, so that writing it back does not disturb.
    file.as_file().sync_all()?;
    // Removed with this future, also when it is dropped half-way.
    let path = file.into_temp_path();

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let (own, own_s) = hash_ourselves(path.to_path_buf()).await?;
        let (reference, reference_s) = sha256sum(&path).await?;
        ensure!(own == reference, "{own} is not sha256sum's {reference}");
        // The first round is there to warm up.
        if round > 0 {
            ours.push(own_s);
            theirs.push(reference_s);
        }
    }
    let (ours, theirs) = (median(&ours), median(&theirs));
    let size = f64::from(mib);
    Ok(vec![
        Figure::new("hash.iceflix", "MiB/s", size / ours),
        Figure::new("hash.sha256sum", "MiB/s", size / theirs),
        Figure::new("hash.ratio", "%", 100.0 * theirs / ours).asked(Asked::AtLeast(90.0)),
    ])
}

async fn hash_ourselves(path: PathBuf) -> anyhow::Result<(String, f64)> {
    let hashing = tokio::task::spawn_blocking(move || {
        let stamp = Stamp::of(&std::fs::metadata(&path)?);
        let begin = Instant::now();
        match hash_file(&path, &stamp, |_| true) {
            Hashed::Is(id) => Ok((id.to_string(), begin.elapsed().as_secs_f64())),
            other => bail!("the file could not be hashed: {other:?}"),
        }
    });
    hashing.await?
}

async fn sha256sum(path: &Path) -> anyhow::Result<(String, f64)> {
    let begin = Instant::now();
    let output = Command::new("sha256sum")
        .arg(path)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await
        .context("sha256sum")?;
    let time = begin.elapsed().as_secs_f64();
    ensure!(output.status.success(), "sha256sum failed");
    let text = String::from_utf8(output.stdout)?;
    // A backslash stands before the line of a file with an odd name.
    let hash = text.trim_start_matches('\\').split(' ').next();
    Ok((hash.unwrap_or_default().to_owned(), time))
}
