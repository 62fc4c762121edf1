//! The contract's methods.

use crate::{
    delivery::{Delivery, DeliveryError, FilmSource},
    library::Library,
    streams::{Asker, OpenError, Seen, Streams},
};
use iceflix_core::{
    announcement::{Absence, Absences},
    api::{
        Kind, MediaId, Page, PageRequest, StreamHandle, StreamId,
        auth::{Grant, Role, Token},
        streaming::{
            EndReason, ListedStream, Stream, StreamError, StreamEvent, StreamStatus, Streaming,
        },
    },
    audit::{Audit, Event, token_reason},
    feed::Speaker,
    rpc::{self, Peer},
    service::Node,
    trust::{Identity, Verifier},
};
use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tarpc::context::Context;
use tokio_util::sync::CancellationToken;

/// Answers requests; [`StreamingService::facing`] one connection's.
#[derive(Clone)]
pub struct StreamingService {
    library: Library,
    delivery: Delivery,
    streams: Streams,
    speaker: Arc<Speaker>,
    verifier: Verifier,
    audit: Audit,
    absences: Absences,
    stop: CancellationToken,
    /// The address of ours by which the caller reached us: by it players will, too.
    host: IpAddr,
    /// The caller's own address.
    client: IpAddr,
    /// What the caller's certificate says it is.
    role: Option<Kind>,
    /// When all films were announced again, the last time that somebody wanted it.
    announced: Arc<Mutex<Seldom>>,
}

/// How often all films are announced again, at most.
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(1);

/// What may be done once in a while.
#[derive(Debug, Default)]
struct Seldom {
    last: Option<Instant>,
}

impl Seldom {
    /// Whether it may be done now, which it then counts as.
    fn may(&mut self, now: Instant, pause: Duration) -> bool {
        let early = self
            .last
            .is_some_and(|last| now.saturating_duration_since(last) < pause);
        if !early {
            self.last = Some(now);
        }
        !early
    }
}

fn failed(error: DeliveryError) -> StreamError {
    match error {
        DeliveryError::Unplayable(reason) => StreamError::Unplayable(reason),
        DeliveryError::UnknownStream => StreamError::UnknownStream,
        error @ DeliveryError::MissingElements(_) => {
            tracing::error!(%error, "a film could not be delivered");
            StreamError::Unplayable(error.to_string())
        }
        error => {
            tracing::error!(%error, "a stream could not be described or made");
            StreamError::Internal
        }
    }
}

fn not_opened(error: OpenError) -> StreamError {
    match error {
        OpenError::Delivery(error) => failed(error),
        OpenError::TooMany => StreamError::TooMany,
        OpenError::IdTaken => StreamError::IdTaken,
    }
}

/// Why a stream was refused, for the audit log.
fn reason(error: &StreamError) -> &'static str {
    match error {
        StreamError::Unauthorized(error) => token_reason(*error),
        StreamError::UnknownMedia => "unknown_media",
        StreamError::Unplayable(_) => "unplayable",
        StreamError::UnknownStream => "unknown_stream",
        StreamError::Draining => "draining",
        StreamError::Internal => "internal",
        StreamError::NotAdmin => "not_admin",
        StreamError::OtherFilm => "other_film",
        StreamError::TooMany => "too_many",
        StreamError::IdTaken => "id_taken",
    }
}

fn made_event(action: &'static str, result: &Result<Stream, StreamError>) -> Event {
    match result {
        Ok(stream) => Event::done(action).stream(&stream.stream),
        Err(error) => Event::refused(action, reason(error)),
    }
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl StreamingService {
    /// Answers with these films and streams.
    pub fn new(
        node: &Node,
        library: Library,
        delivery: Delivery,
        streams: Streams,
        speaker: Arc<Speaker>,
    ) -> Self {
        Self {
            library,
            delivery,
            streams,
            speaker,
            verifier: node.verifier.clone(),
            audit: node.audit.clone(),
            absences: node.absences.clone(),
            stop: node.stop.clone(),
            host: node.address().ip(),
            client: node.address().ip(),
            role: None,
            announced: Arc::default(),
        }
    }

    /// The same, for a connection from there.
    pub fn facing(&self, peer: Peer) -> Self {
        Self {
            host: peer.local.ip(),
            client: peer.address.ip(),
            role: peer.role,
            ..self.clone()
        }
    }

    /// Whether new streams are made here. By a clock that is wrong a token may be good that was
    /// revoked long ago, or none at all; the client is to ask another node, which it does not when
    /// it is told that its token is bad.
    fn begins_streams(&self) -> Result<(), StreamError> {
        match self.absences.has(&[Absence::Clock]) {
            true => Err(StreamError::Draining),
            false => Ok(()),
        }
    }

    fn is_leaving(&self) -> bool {
        self.stop.is_cancelled() || self.streams.are_leaving()
    }

    /// The film, to make a stream of it.
    fn film(&self, id: &MediaId) -> Result<FilmSource, StreamError> {
        if self.is_leaving() {
            return Err(StreamError::Draining);
        }
        let film = self.library.get(id).ok_or(StreamError::UnknownMedia)?;
        Ok(FilmSource {
            path: film.path.clone(),
            facts: film.facts.clone(),
        })
    }

    fn asker(&self, any_host: bool) -> Asker {
        Asker {
            from: self.client,
            any_host,
        }
    }

    /// A stream that was just made, for whoever asked for it.
    fn made(&self, stream: StreamId) -> Result<Stream, StreamError> {
        // A token that was revoked while the stream was made ends it all the same.
        let seen = self.streams.get(&stream);
        let seen = seen.ok_or(StreamError::UnknownStream)?;
        tracing::debug!(user = seen.user, media = %seen.media, "a stream is authorised");
        Ok(Stream {
            stream,
            url: self.delivery.url(&stream, self.host),
            expires_s: seconds(seen.left),
        })
    }

    /// Whose streams the caller may see and stop: their own, or, as an admin, all (`None`).
    async fn theirs(&self, token: &Token) -> Result<Option<String>, StreamError> {
        let identity = self.verifier.check(token).await?;
        Ok(Some(identity.user).filter(|_| identity.role != Role::Admin))
    }

    /// Whether the caller may have everything announced again.
    async fn may_announce(&self, token: Option<Token>) -> Result<(), StreamError> {
        if matches!(self.role, Some(Kind::Catalog | Kind::Main)) {
            return Ok(());
        }
        let token = token.ok_or(StreamError::NotAdmin)?;
        match self.verifier.check(&token).await?.role {
            Role::Admin => Ok(()),
            Role::User => Err(StreamError::NotAdmin),
        }
    }

    /// The caller, and their stream (or, for an admin, anybody's).
    async fn own(&self, token: &Token, stream: &StreamId) -> Result<(Identity, Seen), StreamError> {
        let identity = self.verifier.check(token).await?;
        self.streams
            .get(stream)
            .filter(|seen| seen.user == identity.user || identity.role == Role::Admin)
            .map(|seen| (identity, seen))
            .ok_or(StreamError::UnknownStream)
    }
}

impl StreamingService {
    async fn try_get_stream(
        &self,
        token: &Token,
        stream: StreamId,
        id: MediaId,
        any_host: bool,
    ) -> Result<(Stream, bool), StreamError> {
        self.begins_streams()?;
        let identity = self.verifier.check(token).await?;
        let film = self.film(&id)?;
        let asker = self.asker(any_host);
        let opened = self.streams.open(stream, id, film, identity, asker);
        let new = opened.map_err(not_opened)?;
        Ok((self.made(stream)?, new))
    }

    async fn try_granted(
        &self,
        grant: &Grant,
        id: MediaId,
        any_host: bool,
    ) -> Result<Stream, StreamError> {
        self.begins_streams()?;
        let leave = self.verifier.check_grant(grant).await?;
        if leave.media != id {
            return Err(StreamError::OtherFilm);
        }
        let film = self.film(&id)?;
        let stream = self.streams.open_granted(film, leave, self.asker(any_host));
        self.made(stream.map_err(not_opened)?)
    }

    async fn try_renew(&self, token: &Token, stream: &StreamId) -> Result<(), StreamError> {
        let identity = self.verifier.check(token).await?;
        let seen = self.streams.get(stream);
        // Not an admin's business: a renewal makes the stream the renewer's own.
        match seen.is_some_and(|seen| seen.user == identity.user)
            && self.streams.renew(stream, identity)
        {
            true => Ok(()),
            false => Err(StreamError::UnknownStream),
        }
    }

    fn refused(&self, action: &'static str, error: &StreamError, token: &Token) {
        self.write_down(Event::refused(action, reason(error)), token);
    }

    fn write_down(&self, event: Event, token: &Token) {
        let who = self.verifier.whose(token);
        self.audit.record(&event.by(who.as_ref()).from(self.client));
    }
}

impl Streaming for StreamingService {
    async fn is_available(self, _: Context, id: MediaId) -> bool {
        let film = self.library.get(&id);
        film.is_some_and(|film| film.facts.unplayable.is_none())
            && !self.is_leaving()
            && !self.absences.any()
    }

    async fn get_stream(
        self,
        _: Context,
        token: Token,
        stream: StreamId,
        id: MediaId,
        any_host: bool,
    ) -> Result<Stream, StreamError> {
        let result = self.try_get_stream(&token, stream, id, any_host).await;
        let again = matches!(&result, Ok((_, false)));
        let result = result.map(|(stream, _)| stream);
        // As renewals that succeed, asking again is not written down.
        if !again {
            self.write_down(made_event("stream", &result).on_film(id), &token);
        }
        result
    }

    async fn reannounce_media(self, _: Context, token: Option<Token>) -> Result<(), StreamError> {
        let who = token.as_ref().and_then(|token| self.verifier.whose(token));
        let allowed = self.may_announce(token).await;
        let event = match &allowed {
            Ok(()) => {
                let announced = self.announced.lock();
                let mut announced = announced.unwrap_or_else(PoisonError::into_inner);
                // When it was just done: what changed since then was said when it changed.
                if !announced.may(Instant::now(), ANNOUNCE_AGAIN) {
                    return Ok(());
                }
                self.speaker.again();
                Event::done("reannounce")
            }
            Err(error) => Event::refused("reannounce", reason(error)),
        };
        self.audit.record(&event.by(who.as_ref()).from(self.client));
        allowed
    }

    async fn sdp(self, _: Context, token: Token, stream: StreamId) -> Result<String, StreamError> {
        self.own(&token, &stream).await?;
        let sdp = self.delivery.sdp(&stream, self.host, self.client);
        sdp.await.map_err(failed)
    }

    async fn refresh_authentication(
        self,
        _: Context,
        token: Token,
        stream: StreamId,
    ) -> Result<(), StreamError> {
        let renewed = self.try_renew(&token, &stream).await;
        if let Err(error) = &renewed {
            self.refused("renew_stream", error, &token);
        }
        renewed
    }

    async fn stop(self, _: Context, token: Token, stream: StreamId) -> Result<(), StreamError> {
        match self.own(&token, &stream).await {
            Ok((_, seen)) => {
                let event = Event::done("stop_stream").stream(&stream);
                self.write_down(event.on_film(seen.media), &token);
                self.streams.end(&stream, EndReason::Stopped).await;
            }
            // It has ended, which is what was wanted; or it is not theirs, which is not said.
            Err(error @ StreamError::UnknownStream) => {
                if self.streams.get(&stream).is_some() {
                    self.refused("stop_stream", &error, &token);
                }
            }
            Err(error) => {
                self.refused("stop_stream", &error, &token);
                return Err(error);
            }
        }
        Ok(())
    }

    async fn status(
        self,
        _: Context,
        token: Token,
        stream: StreamId,
    ) -> Result<StreamStatus, StreamError> {
        let (_, seen) = self.own(&token, &stream).await?;
        Ok(StreamStatus {
            media: seen.media,
            expires_s: seconds(seen.left),
            players: self.delivery.players(&stream),
            position_ms: self.delivery.position(&stream).map(milliseconds),
        })
    }

    async fn next_event(
        self,
        context: Context,
        stream: StreamId,
    ) -> Result<StreamEvent, StreamError> {
        tokio::select! {
            // A stream that ends because the node stops says so.
            biased;
            event = self.streams.next_event(&stream, self.client) => event.ok_or(StreamError::UnknownStream),
            () = tokio::time::sleep(rpc::patience(&context)) => Ok(StreamEvent::None),
            () = self.stop.cancelled() => Ok(StreamEvent::None),
        }
    }

    async fn get_granted_stream(
        self,
        _: Context,
        grant: Grant,
        id: MediaId,
        any_host: bool,
    ) -> Result<Stream, StreamError> {
        let result = self.try_granted(&grant, id, any_host).await;
        let who = self.verifier.whose_grant(&grant);
        let event = made_event("granted_stream", &result).on_film(id);
        self.audit.record(&event.by(who.as_ref()).from(self.client));
        result
    }

    async fn streams(
        self,
        _: Context,
        token: Token,
        page: PageRequest,
    ) -> Result<Page<ListedStream>, StreamError> {
        let of = self.theirs(&token).await?;
        Ok(self.streams.list(of.as_deref(), &page))
    }

    async fn stop_listed(
        self,
        _: Context,
        token: Token,
        handle: StreamHandle,
    ) -> Result<(), StreamError> {
        let of = self.theirs(&token).await;
        let of = of.inspect_err(|error| self.refused("stop_stream", error, &token))?;
        if let Some((stream, media)) = self.streams.listed_as(handle, of.as_deref()) {
            let event = Event::done("stop_stream").stream(&stream);
            self.write_down(event.on_film(media), &token);
            self.streams.end(&stream, EndReason::Stopped).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_seldom_is_not_put_off_by_asking_often() {
        let (start, pause) = (Instant::now(), Duration::from_secs(1));
        let mut seldom = Seldom::default();
        let tenths = (0..25).map(|n| start + n * pause / 10);
        let done = tenths.filter(|now| seldom.may(*now, pause)).count();
        assert_eq!(done, 3, "at 0, 1 and 2 seconds");
    }
}
