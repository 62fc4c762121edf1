//! An authorised stream, from the node that makes it to its end.
//!
//! | part | what it is |
//! |---|---|
//! | `keep` | keeping a stream alive, and noticing that its node is gone |
//! | `watched` | a stream that goes on at another node when its own cannot |

mod keep;
mod watched;

pub use watched::{Kept, Watched};

use crate::client::Client;
use crate::error::{Error, exit};
use iceflix_core::api::catalog::TileDetails;
use iceflix_core::api::streaming::{EndReason, Stream, StreamError, StreamingClient};
use iceflix_core::api::{Instance, MediaId, StreamId};
use iceflix_core::rpc::CallError;
use rand::seq::SliceRandom;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// For how long one call to a node may take. Making a stream may wait for a disk.
pub(crate) const CALL: Duration = Duration::from_secs(5);

/// For how long a node is asked for a stream before the next one is: as for any write. Those that
/// were too slow are asked once more, for [`CALL`].
const ATTEMPT: Duration = Duration::from_secs(2);

/// A stream of a film.
#[derive(Debug, Clone)]
pub struct LiveStream {
    /// The film.
    pub media: MediaId,
    /// The film's name.
    pub name: String,
    /// How long the film is, if that is known.
    pub length: Option<Duration>,
    /// What the node gave.
    pub stream: Stream,
    /// The node.
    pub provider: Instance,
}

/// How a stream came to its end.
#[derive(Debug)]
pub enum StreamEnd {
    /// The node ended it.
    Ended(EndReason),
    /// The node does not know it any more, or does not answer.
    Lost,
    /// The node is leaving; the stream plays on for a moment.
    Leaving,
}

impl std::fmt::Display for StreamEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            StreamEnd::Ended(EndReason::Stopped) => "it was stopped",
            StreamEnd::Ended(EndReason::Revoked) => "your session was ended",
            StreamEnd::Ended(EndReason::Expired) => "it was not renewed in time",
            StreamEnd::Ended(EndReason::Shutdown) => "its node is shutting down",
            StreamEnd::Ended(EndReason::MediaRemoved) => "the film was taken away there",
            StreamEnd::Ended(EndReason::Unsupervised) => "no authenticator is alive",
            StreamEnd::Lost => "its node went away",
            StreamEnd::Leaving => "its node is leaving",
        })
    }
}

impl StreamEnd {
    /// An end nobody here asked for is an error.
    pub fn into_result(self) -> Result<(), Error> {
        let words = format!("the stream ended: {self}");
        match self {
            StreamEnd::Ended(EndReason::Stopped) => Ok(()),
            StreamEnd::Ended(EndReason::Revoked) => Err(Error::NotAuthorised(words)),
            _ => Err(Error::Failed(words)),
        }
    }
}

impl Client {
    /// Authorises a stream of a film, for players at this machine's address or at any.
    pub async fn open_stream(
        &self,
        details: &TileDetails,
        any_host: bool,
    ) -> Result<LiveStream, Error> {
        let id = details.tile.id;
        self.at_a_provider(details, |provider, patience| {
            self.stream_at(provider, id, any_host, patience)
        })
        .await
    }

    /// Has a stream made at a live node that has the film; another is tried when one does not, and
    /// nodes that are leaving last.
    pub(crate) async fn at_a_provider<F>(
        &self,
        details: &TileDetails,
        make: impl Fn(Instance, Duration) -> F,
    ) -> Result<LiveStream, Error>
    where
        F: Future<Output = Result<Stream, Error>>,
    {
        let tile = &details.tile;
        let mut providers = details.providers.clone();
        if providers.is_empty() {
            return Err(match &tile.unplayable {
                Some(reason) => Error::Failed(format!("this film cannot be played: {reason}")),
                None => Error::Unavailable("no live node has this film just now".into()),
            });
        }
        providers.shuffle(&mut rand::rng());
        providers.sort_by_key(|provider| provider.draining);
        let mut refusal = None;
        for patience in [ATTEMPT, CALL] {
            let mut slow = Vec::new();
            for provider in providers {
                let asked = Instant::now();
                match make(provider.clone(), patience).await {
                    Ok(stream) => {
                        return Ok(LiveStream {
                            media: tile.id,
                            name: tile.name.clone(),
                            length: tile
                                .duration_s
                                .and_then(|s| Duration::try_from_secs_f64(s).ok()),
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
                        if asked.elapsed() >= patience {
                            slow.push(provider);
                        }
                    }
                }
            }
            providers = slow;
        }
        Err(refusal.unwrap_or_else(|| Error::Unavailable("no live node has this film".into())))
    }

    /// Has a stream made at a node, or is given the one that an earlier request may have made there,
    /// whose answer did not come.
    async fn stream_at(
        &self,
        provider: Instance,
        id: MediaId,
        any_host: bool,
        patience: Duration,
    ) -> Result<Stream, Error> {
        let key = (provider.instance.clone(), id, any_host);
        // Taken out meanwhile: who asks at the same time wants a stream of their own.
        let earlier = self.unanswered().remove(&key);
        let mut stream = earlier.unwrap_or_else(StreamId::random);
        loop {
            let (silent, over) = (AtomicBool::new(false), AtomicBool::new(false));
            let made = self.authorised(|token| async {
                let asked = self.at(&provider, patience, move |node, ctx| {
                    let token = token.clone();
                    async move { node.get_stream(ctx, token, stream, id, any_host).await }
                });
                let answer = asked.await;
                silent.store(answer.is_err(), Ordering::Relaxed);
                let gone = [StreamError::UnknownStream, StreamError::IdTaken];
                let is_over = matches!(&answer, Ok(Err(error)) if gone.contains(error));
                over.store(is_over, Ordering::Relaxed);
                answer
            });
            let made = made.await;
            if silent.into_inner() {
                self.unanswered().insert(key, stream);
            } else if over.into_inner() && earlier == Some(stream) {
                // It ended meanwhile, or was for another address of this machine.
                stream = StreamId::random();
                continue;
            }
            return made;
        }
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_says_why() {
        let code = |end: StreamEnd| end.into_result().map_or_else(|e| e.exit_code(), |()| 0);
        assert_eq!(code(StreamEnd::Ended(EndReason::Stopped)), 0);
        assert_eq!(code(StreamEnd::Ended(EndReason::Revoked)), 4);
        assert_eq!(code(StreamEnd::Ended(EndReason::Expired)), 1);
        assert_eq!(code(StreamEnd::Ended(EndReason::Shutdown)), 1);
        assert_eq!(code(StreamEnd::Ended(EndReason::MediaRemoved)), 1);
        assert_eq!(code(StreamEnd::Lost), 1);
        assert_eq!(code(StreamEnd::Leaving), 1);
    }
}
