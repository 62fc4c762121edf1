//! Keeping a stream alive, and noticing that its node is gone.

use super::{CALL, LiveStream, StreamEnd};
use crate::client::Client;
use crate::session::{TOKEN_LIFE, TOKEN_MARGIN};
use iceflix_core::api::auth::Token;
use iceflix_core::api::main::DirectoryView;
use iceflix_core::api::streaming::{EndReason, StreamError, StreamEvent};
use iceflix_core::rpc::CallError;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// For how long one call waits for the node to have news.
const WATCH: Duration = Duration::from_secs(20);

/// The pause after a call that failed.
const PAUSE: Duration = Duration::from_millis(500);

/// How often the node is asked how the stream is.
const PULSE: Duration = Duration::from_millis(500);

/// How soon it is asked again when it did not answer.
const AGAIN: Duration = Duration::from_millis(100);

/// A node that says nothing for so long is gone, though others list it: its cable was pulled, say,
/// and that of the Main that is followed, too. With this a film goes on elsewhere within 3 s.
const SILENCE: Duration = Duration::from_millis(1500);

/// How long it may take to answer once nobody lists it any more.
const SHORT: Duration = Duration::from_millis(300);

/// How long a player may take to be where it was when it begins at another node: it opens the film
/// at its beginning, and then goes to a place that is a little before.
const RETURNING: Duration = Duration::from_secs(4);

/// How a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pulse {
    /// Its node answers; and where in the film the player is, if there is one.
    Beats(Option<Duration>),
    /// Its node does not know it any more.
    Ended,
    /// Its node does not answer.
    Silent,
}

/// Where in the film a player is, as far as was heard.
#[derive(Debug, Default)]
pub(super) struct Position(Mutex<Place>);

#[derive(Debug, Default)]
struct Place {
    /// The last that was heard of.
    at: Option<Duration>,
    /// Until when a player may be on its way back there.
    returning: Option<Instant>,
}

impl Position {
    fn place(&self) -> MutexGuard<'_, Place> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last place that was heard of.
    pub fn get(&self) -> Option<Duration> {
        self.place().at
    }

    /// A player is there. That there is none just now changes nothing.
    pub fn set(&self, at: Option<Duration>) {
        let mut place = self.place();
        let returning = place.returning.is_some_and(|until| Instant::now() < until);
        if at.is_some() && (!returning || at > place.at) {
            place.at = at;
        }
    }

    /// A player begins at another node. Until it is where it was, what is heard of it is no place to
    /// begin at should that node go away as well.
    pub fn moves(&self) {
        self.place().returning = Some(Instant::now() + RETURNING);
    }
}

/// Waits until the directory changes.
async fn changed(directory: &mut watch::Receiver<Arc<DirectoryView>>) {
    if directory.changed().await.is_err() {
        // Nobody follows it any more, so it never will.
        std::future::pending::<()>().await;
    }
}

/// Whether the directory lists a stream's node.
fn lists(directory: &DirectoryView, live: &LiveStream) -> bool {
    let mut all = directory.instances.iter();
    all.any(|it| it.instance == live.provider.instance && it.endpoint == live.provider.endpoint)
}

impl Client {
    /// Keeps a stream alive until it ends, or its node goes away or wants to. What is noticed of
    /// where the player is goes to `position`.
    pub(super) async fn keep_stream(&self, live: &LiveStream, position: &Position) -> StreamEnd {
        let trouble = Notify::new();
        tokio::select! {
            end = self.follow(live, &trouble) => end,
            () = self.until_silent(live, position, &trouble) => StreamEnd::Lost,
        }
    }

    /// Renews a stream until it ends. That the node cannot be asked is only told as `trouble`.
    async fn follow(&self, live: &LiveStream, trouble: &Notify) -> StreamEnd {
        let mut renew_at = renewal(Duration::from_secs(u64::from(live.stream.expires_s)));
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
                Ok(Ok(StreamEvent::None)) => {}
                Ok(Ok(StreamEvent::Leaving)) => return StreamEnd::Leaving,
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
                    trouble.notify_one();
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Asks a stream's node again and again how it is, until the node is silent for too long, or
    /// does not know it any more.
    async fn until_silent(&self, live: &LiveStream, position: &Position, trouble: &Notify) {
        let mut directory = self.directory();
        let mut answered = Instant::now();
        loop {
            let mut listed = lists(&directory.borrow_and_update(), live);
            let patience = (answered + SILENCE).saturating_duration_since(Instant::now());
            let asked = Instant::now();
            let mut pulse = pin!(self.pulse(live, patience.max(SHORT)));
            let pulse = loop {
                tokio::select! {
                    pulse = &mut pulse => break pulse,
                    () = changed(&mut directory), if listed => {
                        listed = lists(&directory.borrow_and_update(), live);
                    }
                    // One that nobody lists any more is not waited for so long.
                    () = tokio::time::sleep_until(asked + SHORT), if !listed => break Pulse::Silent,
                }
            };
            let pause = match pulse {
                Pulse::Beats(at) => {
                    answered = Instant::now();
                    tracing::debug!(?at, "where the player is");
                    position.set(at);
                    PULSE
                }
                Pulse::Ended => return,
                Pulse::Silent if !listed || answered.elapsed() >= SILENCE => return,
                Pulse::Silent => AGAIN,
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = trouble.notified() => {}
                () = changed(&mut directory) => {}
            }
        }
    }

    /// How a stream is, asked of its node.
    pub(super) async fn pulse(&self, live: &LiveStream, patience: Duration) -> Pulse {
        // Any token will do: that it is refused is an answer, too. None is fetched for this.
        let session = self.session().await.ok().flatten();
        let token = session.and_then(|session| Some(session.token?.token));
        let token = token.unwrap_or_else(|| Token(String::new()));
        let stream = live.stream.stream;
        let answer = self.at(&live.provider, patience, move |node, ctx| {
            let token = token.clone();
            async move { node.status(ctx, token, stream).await }
        });
        match answer.await {
            Ok(Ok(status)) => Pulse::Beats(status.position_ms.map(Duration::from_millis)),
            Ok(Err(StreamError::UnknownStream)) => Pulse::Ended,
            Ok(Err(_)) => Pulse::Beats(None),
            Err(_) => Pulse::Silent,
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

    #[tokio::test(start_paused = true)]
    async fn a_player_that_is_on_its_way_back_is_not_taken_to_be_there() {
        let position = Position::default();
        let (second, heard) = (Duration::from_secs, |at| {
            position.set(Some(at));
            position.get()
        });
        position.set(None);
        assert_eq!(position.get(), None);
        assert_eq!(heard(second(60)), Some(second(60)));
        position.moves();
        assert_eq!(heard(second(0)), Some(second(60)));
        assert_eq!(heard(second(59)), Some(second(60)));
        assert_eq!(heard(second(61)), Some(second(61)));
        tokio::time::sleep(RETURNING).await;
        // Somebody went back.
        assert_eq!(heard(second(5)), Some(second(5)));
    }
}
