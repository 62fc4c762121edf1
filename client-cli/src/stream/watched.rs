//! A stream that goes on at another node when its own cannot.

use super::keep::{Position, Pulse};
use super::{LiveStream, StreamEnd};
use crate::client::Client;
use crate::error::Error;
use iceflix_core::api::Instance;
use iceflix_core::api::catalog::TileDetails;
use iceflix_core::api::streaming::EndReason;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// For how long a stream that lost its node is tried to be had elsewhere: a node that restarts, or a
/// cable that is put back, takes no longer.
const PATIENCE: Duration = Duration::from_secs(15);

/// The pause between tries.
const PAUSE: Duration = Duration::from_millis(250);

/// How soon another node is looked for again while a stream's own is leaving.
const LEAVING: Duration = Duration::from_secs(1);

/// How long a player's node may take to tell whether it is still there.
const TELL: Duration = Duration::from_millis(500);

/// Less than this before its end a film counts as over: what players and nodes say of where they
/// are differs by about a second.
const CREDITS: Duration = Duration::from_secs(2);

/// How far the picture may be behind what the node has sent: mpv 0.35 and ffplay 5.1 are 0.6 to 1.2 s.
const BEHIND: Duration = Duration::from_millis(1500);

/// What became of a stream that was kept.
#[derive(Debug)]
pub enum Kept {
    /// It ended, as was wanted.
    Over,
    /// It is at another place now ([`Watched::live`]), for this reason.
    Moved(StreamEnd),
    /// Its node is leaving, and nobody else has the film: it plays on there for a moment.
    Leaving,
}

/// A stream that is watched, wherever it plays.
pub struct Watched {
    client: Client,
    /// What was last heard of the film, with its providers.
    details: TileDetails,
    any_host: bool,
    live: LiveStream,
    /// The one before, where it may still play.
    before: Option<LiveStream>,
    position: Position,
    /// Whether its node is known to be leaving, with nowhere to go.
    leaving: bool,
}

impl Watched {
    /// Watches a stream of this film that was opened with this `any_host`.
    pub fn new(client: Client, details: TileDetails, live: LiveStream, any_host: bool) -> Self {
        Self {
            client,
            details,
            any_host,
            live,
            before: None,
            position: Position::default(),
            leaving: false,
        }
    }

    /// The stream as it is now.
    pub fn live(&self) -> &LiveStream {
        &self.live
    }

    /// Where in the film its player was when that was last heard of: rather a little before, so that
    /// nothing is skipped.
    pub fn position(&self) -> Option<Duration> {
        let sent = self.position.get();
        sent.map(|sent| sent.saturating_sub(BEHIND))
    }

    /// Ends it, and the one before. What cannot be reached ends by itself, when nobody renews it.
    pub async fn stop(&mut self) {
        self.stop_before().await;
        self.client.stop_stream(&self.live).await;
    }

    /// Ends the stream that it was before it moved.
    pub async fn stop_before(&mut self) {
        if let Some(before) = self.before.take() {
            self.client.stop_stream(&before).await;
        }
    }

    /// Whether its player, which has ended, did so because the stream was lost: then
    /// [`Watched::keep`] goes on with it. A film that has come to its end is not lost.
    pub async fn was_cut_off(&self) -> bool {
        let pulse = self.client.pulse(&self.live, TELL).await;
        let over = self.live.length.zip(self.position.get());
        let over = over.is_some_and(|(length, at)| at + CREDITS >= length);
        !matches!(pulse, Pulse::Beats(_)) && !over
    }

    /// Keeps it alive until it ends or has moved, or `cancel` says so; then it is stopped.
    ///
    /// # Errors
    /// Why it cannot go on anywhere.
    pub async fn keep(&mut self, cancel: &CancellationToken) -> Result<Kept, Error> {
        // Boxed, as it is long.
        let keeping = Box::pin(self.keep_on());
        if let Some(kept) = cancel.run_until_cancelled(keeping).await {
            return kept;
        }
        self.stop().await;
        Ok(Kept::Over)
    }

    async fn keep_on(&mut self) -> Result<Kept, Error> {
        loop {
            let end = self.client.keep_stream(&self.live, &self.position).await;
            match end {
                StreamEnd::Ended(
                    EndReason::Stopped | EndReason::Revoked | EndReason::Unsupervised,
                ) => {
                    end.into_result()?;
                    return Ok(Kept::Over);
                }
                StreamEnd::Leaving => {
                    if let Some(live) = self.elsewhere().await {
                        if let Pulse::Beats(at) = self.client.pulse(&self.live, TELL).await {
                            self.position.set(at);
                        }
                        self.before = Some(std::mem::replace(&mut self.live, live));
                        self.position.moves();
                        self.leaving = false;
                        return Ok(Kept::Moved(end));
                    }
                    if !std::mem::replace(&mut self.leaving, true) {
                        return Ok(Kept::Leaving);
                    }
                    tokio::time::sleep(LEAVING).await;
                }
                StreamEnd::Lost | StreamEnd::Ended(_) => {
                    if let Some(live) = self.anywhere(&end).await? {
                        self.live = live;
                        self.position.moves();
                        self.leaving = false;
                        return Ok(Kept::Moved(end));
                    }
                }
            }
        }
    }

    /// The stream at another node, that is not leaving as well.
    async fn elsewhere(&mut self) -> Option<LiveStream> {
        self.details = self.client.tile(self.live.media).await.ok()?;
        let others = self.at(|provider, live| !provider.draining && !is_at(live, provider));
        self.open(others?).await.ok()
    }

    /// The stream at any node, its own again if need be; `None` when it is still there after all.
    async fn anywhere(&mut self, end: &StreamEnd) -> Result<Option<LiveStream>, Error> {
        let until = Instant::now() + PATIENCE;
        // Those that were known before are asked at once: the catalogue may have gone with the node.
        let directory = self.client.directory().borrow().clone();
        let mut wanted = self.at(|provider, live| {
            let listed = |it: &Instance| it.instance == provider.instance;
            !is_at(live, provider) && directory.instances.iter().any(listed)
        });
        loop {
            let opened = match wanted.take() {
                Some(details) => self.open(details).await,
                None => self.open_as_it_is_now().await,
            };
            let error = match opened {
                Ok(live) => return Ok(Some(live)),
                Err(error) if error.is_refusal() => return Err(error),
                Err(error) => error,
            };
            if matches!(end, StreamEnd::Lost)
                && matches!(self.client.pulse(&self.live, TELL).await, Pulse::Beats(_))
            {
                return Ok(None);
            }
            if Instant::now() >= until {
                return Err(Error::Failed(format!("the stream ended: {end}. {error}")));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn open_as_it_is_now(&mut self) -> Result<LiveStream, Error> {
        self.details = self.client.tile(self.live.media).await?;
        self.open(self.details.clone()).await
    }

    async fn open(&self, details: TileDetails) -> Result<LiveStream, Error> {
        Box::pin(self.client.open_stream(&details, self.any_host)).await
    }

    /// The film as only these of its providers have it; `None` without any.
    fn at(&self, which: impl Fn(&Instance, &LiveStream) -> bool) -> Option<TileDetails> {
        let mut details = self.details.clone();
        details
            .providers
            .retain(|provider| which(provider, &self.live));
        (!details.providers.is_empty()).then_some(details)
    }
}

fn is_at(live: &LiveStream, provider: &Instance) -> bool {
    live.provider.instance == provider.instance
}
