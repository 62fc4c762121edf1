//! Films that play: streams as `iceflix play` has them, which go on at another node when their own
//! cannot, and ffmpeg in the place of a player: it decodes them to nothing.

use super::tally::Tally;
use anyhow::{Context as _, ensure};
use client_cli::{
    client::Client,
    stream::{Kept, StreamEnd, Watched},
};
use iceflix_core::api::MediaId;
use std::{
    net::IpAddr,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdout, Command},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// A film that is to play.
#[derive(Debug, Clone, Copy)]
pub struct Showing {
    /// What it is called.
    pub name: &'static str,
    /// The film.
    pub id: MediaId,
    /// Where the node is at which it begins.
    pub at: IpAddr,
    /// That node is hit by the fault: the film may go on at another.
    pub hit: bool,
}

/// On which machine each film begins, given which machines have it, and whether that one is hit:
/// the first that can, at one that is hit, the others elsewhere, as far as they can.
pub fn seats(films: &[&[u32]], hits: &[u32]) -> Vec<(u32, bool)> {
    let mut one_is_hit = false;
    let seat = |places: &&[u32]| {
        let last = |hit: bool| {
            let mut from_the_end = places.iter().rev();
            from_the_end.find(|place| hits.contains(place) == hit)
        };
        let order = if one_is_hit {
            [false, true]
        } else {
            [true, false]
        };
        let (place, hit) = order.iter().find_map(|hit| Some((*last(*hit)?, *hit)))?;
        one_is_hit |= hit;
        Some((place, hit))
    };
    films.iter().filter_map(seat).collect()
}

/// Plays a film until `cancel` says so; the tally has how it goes.
pub async fn play(client: Client, showing: Showing, tally: Arc<Tally>, cancel: CancellationToken) {
    tally.film(showing.name, |film| film.hit = showing.hit);
    let watched = watch(client, showing, &tally, &cancel).await;
    tally.film(showing.name, |film| match watched {
        Ok(()) => film.stands(Instant::now()),
        Err(error) => film.ended = Some(format!("{error:#}")),
    });
}

/// As `iceflix play` does: when the stream has to go on at another node, so does the player, from
/// where it was.
async fn watch(
    client: Client,
    showing: Showing,
    tally: &Arc<Tally>,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    let details = client.tile(showing.id).await?;
    let mut there = details.clone();
    there
        .providers
        .retain(|node| node.endpoint.ip() == showing.at);
    let live = client.open_stream(&there, false).await?;
    let mut watched = Watched::new(client, details, live, false);
    loop {
        let from = watched.position();
        let mut player = Player::start(&watched.live().stream.url, from, showing.name, tally)?;
        watched.stop_before().await;
        let Some(why) = beside_player(&mut watched, &mut player.child, cancel).await? else {
            return Ok(());
        };
        player.close().await?;
        ensure!(showing.hit, "nothing happened to its node, but: {why}");
        tally.film(showing.name, super::tally::Film::moves);
    }
}

/// Keeps the stream until it is elsewhere (then why), or `cancel` says so.
async fn beside_player(
    watched: &mut Watched,
    player: &mut Child,
    cancel: &CancellationToken,
) -> anyhow::Result<Option<StreamEnd>> {
    let mut plays = true;
    loop {
        let kept = tokio::select! {
            status = player.wait(), if plays => {
                let status = status?;
                // One that lost its stream may end before that is heard.
                let cut_off = cancel.is_cancelled() || watched.was_cut_off().await;
                ensure!(cut_off, "the player ended: {status}");
                plays = false;
                continue;
            }
            kept = watched.keep(cancel) => kept?,
        };
        match kept {
            Kept::Moved(why) => return Ok(Some(why)),
            Kept::Leaving => {}
            Kept::Over => {
                ensure!(cancel.is_cancelled(), "its stream was ended");
                return Ok(None);
            }
        }
    }
}

/// A player. What it says is heard by a task of its own, so that nothing else delays it.
struct Player {
    child: Child,
    heard: AbortOnDropHandle<()>,
}

impl Player {
    /// Plays a URL from this place in the film on.
    fn start(
        url: &str,
        from: Option<Duration>,
        name: &'static str,
        tally: &Arc<Tally>,
    ) -> anyhow::Result<Self> {
        let from = from.unwrap_or_default();
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-nostdin", "-v", "error", "-rtsp_transport", "tcp"]);
        // It would wait for 20 pictures to tell how many come in a second, and shows none here.
        ffmpeg.args(["-fpsprobesize", "0"]);
        if !from.is_zero() {
            ffmpeg.args(["-ss", &format!("{:.3}", from.as_secs_f64())]);
        }
        let mut child = ffmpeg
            .args(["-i", url, "-f", "null"])
            .args(["-stats_period", "0.1", "-progress", "-", "-"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let said = child.stdout.take().context("the player says nothing")?;
        let heard = tokio::spawn(hear(said, from, name, Arc::clone(tally)));
        Ok(Self {
            child,
            heard: AbortOnDropHandle::new(heard),
        })
    }

    /// Ends it. What it still says is of no interest: its film goes on elsewhere.
    async fn close(mut self) -> anyhow::Result<()> {
        drop(self.heard);
        Ok(self.child.kill().await?)
    }
}

/// Writes down where in the film a player is that began at `from`, as often as it says so.
async fn hear(said: ChildStdout, from: Duration, name: &'static str, tally: Arc<Tally>) {
    let mut lines = BufReader::new(said).lines();
    let mut last = Duration::ZERO;
    while let Ok(Some(line)) = lines.next_line().await {
        let played = line
            .strip_prefix("out_time_us=")
            .and_then(|us| us.parse().ok());
        let Some(played) = played.map(Duration::from_micros).filter(|it| *it > last) else {
            continue;
        };
        last = played;
        tally.film(name, |film| film.shows(from + played, Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_film_begins_where_the_fault_hits_and_the_other_elsewhere() {
        let films: [&[u32]; 2] = [&[1, 2], &[2, 3]];
        let at = |hits: &[u32]| seats(&films, hits);
        assert_eq!(at(&[]), [(2, false), (3, false)]);
        assert_eq!(at(&[1]), [(1, true), (3, false)]);
        assert_eq!(at(&[2]), [(2, true), (3, false)]);
        assert_eq!(at(&[3]), [(2, false), (3, true)]);
        assert_eq!(at(&[1, 2, 3]), [(2, true), (3, true)]);
    }
}
