//! An authorised stream, from the node that makes it to its end.

use crate::client::Client;
use crate::error::{Error, exit};
use crate::session::{TOKEN_LIFE, TOKEN_MARGIN};
use iceflix_core::api::auth::Token;
use iceflix_core::api::catalog::TileDetails;
use iceflix_core::api::streaming::{EndReason, Stream, StreamError, StreamEvent, StreamingClient};
use iceflix_core::api::{Instance, MediaId};
use iceflix_core::rpc::CallError;
use rand::seq::SliceRandom;
use std::pin::pin;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// For how long one call to a node may take. Making a stream may wait for a disk.
pub(crate) const CALL: Duration = Duration::from_secs(5);

/// For how long one call waits for the node to have news.
const WATCH: Duration = Duration::from_secs(20);

/// The pause after a call that failed.
const PAUSE: Duration = Duration::from_millis(500);

/// A node that does not answer for so long has taken the stream with it.
const PATIENCE: Duration = Duration::from_secs(15);

/// A stream of a film.
#[derive(Debug, Clone)]
pub struct LiveStream {
    /// The film.
    pub media: MediaId,
    /// The film's name.
    pub name: String,
    /// What the node gave.
    pub stream: Stream,
    /// The node.
    pub provider: Instance,
}

/// How a stream came to its end.
#[derive(Debug)]
pub enum StreamEnd {
    /// We wanted it to.
    Cancelled,
    /// The node ended it.
    Ended(EndReason),
    /// The node does not know it any more, or does not answer.
    Lost,
}

impl StreamEnd {
    /// An end nobody here asked for is an error.
    pub fn into_result(self) -> Result<(), Error> {
        let why = match self {
            StreamEnd::Cancelled | StreamEnd::Ended(EndReason::Stopped) => return Ok(()),
            StreamEnd::Ended(EndReason::Revoked) => {
                return Err(Error::NotAuthorised(
                    "the stream ended: your session was ended".into(),
                ));
            }
            StreamEnd::Ended(EndReason::Expired) => "it was not renewed in time",
            StreamEnd::Ended(EndReason::Shutdown) => "its node is shutting down",
            StreamEnd::Ended(EndReason::MediaRemoved) => "the film was taken away",
            StreamEnd::Ended(EndReason::Unsupervised) => "no authenticator is alive",
            StreamEnd::Lost => "its node went away",
        };
        Err(Error::Failed(format!("the stream ended: {why}")))
    }
}

impl Client {
    /// Authorises a stream of a film, for players at this machine's address or at any.
    pub async fn open_stream(
        &self,
        details: &TileDetails,
        any_host: bool,
    ) -> Result<LiveStream, Error> {
        self.at_a_provider(details, async |provider| {
            self.stream_at(provider, details.tile.id, any_host).await
        })
        .await
    }

    /// Has a stream made at a live node that has the film; another is tried when one does not.
    pub(crate) async fn at_a_provider(
        &self,
        details: &TileDetails,
        make: impl AsyncFn(&Instance) -> Result<Stream, Error>,
    ) -> Result<LiveStream, Error> {
        let tile = &details.tile;
        let mut providers = details.providers.clone();
        if providers.is_empty() {
            return Err(match &tile.unplayable {
                Some(reason) => Error::Failed(format!("this film cannot be played: {reason}")),
                None => Error::Unavailable("no live node has this film just now".into()),
            });
        }
        providers.shuffle(&mut rand::rng());
        let mut refusal = None;
        for provider in providers {
            match make(&provider).await {
                Ok(stream) => {
                    return Ok(LiveStream {
                        media: tile.id,
                        name: tile.name.clone(),
                        stream,
                        provider,
                    });
                }
                // Another node would say the same.
                Err(error) if error.is_refusal() => return Err(error),
                Err(error) => {
                    tracing::info!(node = %provider.instance, %error, "no stream there");
                    // "Cannot be played" says more than "not here".
                    if refusal.is_none() || error.exit_code() == exit::FAILED {
                        refusal = Some(error);
                    }
                }
            }
        }
        Err(refusal.unwrap_or_else(|| Error::Unavailable("no live node has this film".into())))
    }

    async fn stream_at(
        &self,
        provider: &Instance,
        id: MediaId,
        any_host: bool,
    ) -> Result<Stream, Error> {
        self.authorised(|token| {
            self.at(provider, CALL, move |node, ctx| {
                let token = token.clone();
                async move { node.get_stream(ctx, token, id, any_host).await }
            })
        })
        .await
    }

    /// Asks one node.
    pub(crate) async fn at<R, F, Fut>(
        &self,
        node: &Instance,
        deadline: Duration,
        ask: F,
    ) -> Result<R, CallError>
    where
        F: Fn(StreamingClient, tarpc::context::Context) -> Fut,
        Fut: Future<Output = Result<R, tarpc::client::RpcError>>,
    {
        self.caller().call_at(node.endpoint, deadline, ask).await
    }

    /// A stream's session description.
    pub async fn sdp(&self, live: &LiveStream) -> Result<String, Error> {
        let stream = live.stream.stream;
        self.authorised(|token| {
            self.at(&live.provider, CALL, move |node, ctx| {
                let token = token.clone();
                async move { node.sdp(ctx, token, stream).await }
            })
        })
        .await
    }

    /// Ends a stream. If that fails it ends by itself, when nobody renews it.
    pub async fn stop_stream(&self, live: &LiveStream) {
        let stream = live.stream.stream;
        let stopped = self
            .authorised(|token| {
                self.at(&live.provider, CALL, move |node, ctx| {
                    let token = token.clone();
                    async move { node.stop(ctx, token, stream).await }
                })
            })
            .await;
        if let Err(error) = stopped {
            tracing::info!(%error, "the stream could not be stopped");
        }
    }

    /// Keeps a stream alive until it ends or `cancel` says so; then it is stopped.
    pub async fn keep_stream(&self, live: &LiveStream, cancel: &CancellationToken) -> StreamEnd {
        let end = tokio::select! {
            () = cancel.cancelled() => StreamEnd::Cancelled,
            end = self.follow(live) => end,
        };
        if matches!(end, StreamEnd::Cancelled) {
            self.stop_stream(live).await;
        }
        end
    }

    async fn follow(&self, live: &LiveStream) -> StreamEnd {
        let mut renew_at = renewal(Duration::from_secs(u64::from(live.stream.expires_s)));
        let mut silent_since: Option<Instant> = None;
        loop {
            let mut event = pin!(self.next_event(live));
            // The question stays open over renewals, so that no answer is lost.
            let event = loop {
                tokio::select! {
                    event = &mut event => break event,
                    () = tokio::time::sleep_until(renew_at) => match self.renew_stream(live, false).await {
                        Ok(next) => renew_at = next,
                        Err(end) => return end,
                    },
                }
            };
            match event {
                Ok(Ok(StreamEvent::None)) => silent_since = None,
                Ok(Ok(StreamEvent::RenewalWanted)) => match self.renew_stream(live, true).await {
                    Ok(next) => renew_at = next,
                    Err(end) => return end,
                },
                Ok(Ok(StreamEvent::Ended(reason))) => return StreamEnd::Ended(reason),
                Ok(Err(StreamError::UnknownStream)) => return StreamEnd::Lost,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "no news of the stream");
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => {
                    tracing::debug!(%error, "no news of the stream");
                    if silent_since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                        return StreamEnd::Lost;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn next_event(
        &self,
        live: &LiveStream,
    ) -> Result<Result<StreamEvent, StreamError>, CallError> {
        let stream = live.stream.stream;
        self.at(&live.provider, WATCH, move |node, ctx| async move {
            node.next_event(ctx, stream).await
        })
        .await
    }

    /// Lets a stream go on with a token that has most of its life before it; says when to come
    /// again. `wanted`: the node did not like the one it has.
    async fn renew_stream(&self, live: &LiveStream, wanted: bool) -> Result<Instant, StreamEnd> {
        let token = match wanted {
            true => self.fresh_token().await,
            false => self.token_for(2 * TOKEN_MARGIN).await,
        };
        let token = match token {
            Ok(token) => token,
            Err(error) if error.is_refusal() => return Err(StreamEnd::Ended(EndReason::Revoked)),
            Err(error) => {
                tracing::info!(%error, "no token to go on with; trying again");
                tokio::time::sleep(PAUSE).await;
                return Ok(Instant::now());
            }
        };
        let left = token.left(SystemTime::now());
        match self.refresh(live, token.token).await {
            Ok(Ok(())) => return Ok(renewal(left)),
            Ok(Err(StreamError::UnknownStream)) => return Err(StreamEnd::Lost),
            Ok(Err(error)) => tracing::info!(%error, "the stream was not renewed"),
            Err(error) => tracing::info!(%error, "the stream was not renewed"),
        }
        // Not at once again: whatever it was wants a moment.
        tokio::time::sleep(PAUSE).await;
        Ok(Instant::now())
    }

    async fn refresh(
        &self,
        live: &LiveStream,
        token: Token,
    ) -> Result<Result<(), StreamError>, CallError> {
        let stream = live.stream.stream;
        self.at(&live.provider, CALL, move |node, ctx| {
            let token = token.clone();
            async move { node.refresh_authentication(ctx, token, stream).await }
        })
        .await
    }
}

/// When to renew what is good for so long: with a margin that leaves time for another try.
fn renewal(left: Duration) -> Instant {
    Instant::now() + left.min(TOKEN_LIFE).saturating_sub(TOKEN_MARGIN).max(PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_says_why() {
        let code = |end: StreamEnd| end.into_result().map_or_else(|e| e.exit_code(), |()| 0);
        assert_eq!(code(StreamEnd::Cancelled), 0);
        assert_eq!(code(StreamEnd::Ended(EndReason::Stopped)), 0);
        assert_eq!(code(StreamEnd::Ended(EndReason::Revoked)), 4);
        assert_eq!(code(StreamEnd::Ended(EndReason::Expired)), 1);
        assert_eq!(code(StreamEnd::Ended(EndReason::Shutdown)), 1);
        assert_eq!(code(StreamEnd::Ended(EndReason::MediaRemoved)), 1);
        assert_eq!(code(StreamEnd::Lost), 1);
    }
}
