//! Films that play: streams as `iceflix url` makes them, and ffmpeg, which decodes them to nothing.

use super::tally::Tally;
use client_cli::{
    client::Client,
    stream::{Kept, LiveStream, Watched},
};
use iceflix_core::api::MediaId;
use std::{
    net::IpAddr,
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};
use tokio_util::sync::CancellationToken;

/// Plays a film from a node that is at none of these addresses until `cancel` says so, over and
/// over; the tally has how it goes.
pub async fn play(
    client: Client,
    film: (&'static str, MediaId),
    avoid: Vec<IpAddr>,
    tally: &Tally,
    cancel: CancellationToken,
) {
    let (name, id) = film;
    tally.counted().films.entry(name).or_default();
    while !cancel.is_cancelled() {
        let ended = match once(&client, name, id, &avoid, tally, &cancel).await {
            Ok(()) => continue,
            Err(error) => error.to_string(),
        };
        tally.counted().films.entry(name).or_default().ended = Some(ended);
        return;
    }
    let mut counted = tally.counted();
    let film = counted.films.entry(name).or_default();
    film.stalled = film
        .stalled
        .max(film.played.map_or(Duration::ZERO, |(_, at)| at.elapsed()));
}

/// Plays it once, to its end.
async fn once(
    client: &Client,
    name: &'static str,
    id: MediaId,
    avoid: &[IpAddr],
    tally: &Tally,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    let mut details = client.tile(id).await?;
    details
        .providers
        .retain(|node| !avoid.contains(&node.endpoint.ip()));
    let live = client.open_stream(&details, false).await?;
    let done = CancellationToken::new();
    let player = async {
        let played = player(&live, name, tally, cancel).await;
        done.cancel();
        played
    };
    let mut watched = Watched::new(client.clone(), details, live.clone(), false);
    let (played, kept) = tokio::join!(player, watched.keep(&done));
    played?;
    match kept? {
        Kept::Over => Ok(()),
        // The fault is not to touch its node.
        moved => anyhow::bail!("it did not stay where it was: {moved:?}"),
    }
}

/// A player of this stream until its end, or until `cancel`.
async fn player(
    live: &LiveStream,
    name: &'static str,
    tally: &Tally,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    let mut ffmpeg = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-rtsp_transport", "tcp"])
        .args(["-i", &live.stream.url, "-f", "null"])
        .args(["-stats_period", "0.2", "-progress", "-", "-"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let Some(out) = ffmpeg.stdout.take() else {
        anyhow::bail!("the player says nothing");
    };
    let mut lines = BufReader::new(out).lines();
    let mut last = Duration::ZERO;
    loop {
        let line = tokio::select! {
            line = lines.next_line() => line?,
            () = cancel.cancelled() => return Ok(()),
        };
        let Some(line) = line else { break };
        let time = line
            .strip_prefix("out_time_us=")
            .and_then(|us| us.parse().ok());
        let Some(played) = time
            .map(Duration::from_micros)
            .filter(|played| *played > last)
        else {
            continue;
        };
        last = played;
        let mut counted = tally.counted();
        let film = counted.films.entry(name).or_default();
        let (_, before) = film.played.unwrap_or((played, Instant::now()));
        film.stalled = film.stalled.max(before.elapsed());
        film.played = Some((played, Instant::now()));
    }
    let status = ffmpeg.wait().await?;
    anyhow::ensure!(status.success(), "the player ended: {status}");
    // The film is over when its player says so and nothing is missing.
    Ok(())
}
