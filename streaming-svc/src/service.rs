//! The contract's methods.

use crate::{
    delivery::{Delivery, DeliveryError, FilmSource},
    library::Library,
    streams::{Seen, Streams},
};
use iceflix_core::{
    api::{
        MediaId, StreamId,
        auth::{Role, Token},
        streaming::{EndReason, Stream, StreamError, StreamEvent, StreamStatus, Streaming},
    },
    feed::Speaker,
    rpc::{self, Peer},
    service::Node,
    trust::{Identity, Verifier},
};
use std::{net::IpAddr, sync::Arc, time::Duration};
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
    stop: CancellationToken,
    /// The address of ours by which the caller reached us: by it players will, too.
    host: IpAddr,
    /// The caller's own address.
    client: IpAddr,
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

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
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
            stop: node.stop.clone(),
            host: node.address().ip(),
            client: node.address().ip(),
        }
    }

    /// The same, for a connection from there.
    pub fn facing(&self, peer: Peer) -> Self {
        Self {
            host: peer.local.ip(),
            client: peer.address.ip(),
            ..self.clone()
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

impl Streaming for StreamingService {
    async fn is_available(self, _: Context, id: MediaId) -> bool {
        let film = self.library.get(&id);
        film.is_some_and(|film| film.facts.unplayable.is_none())
    }

    async fn get_stream(
        self,
        _: Context,
        token: Token,
        id: MediaId,
    ) -> Result<Stream, StreamError> {
        let identity = self.verifier.check(&token).await?;
        if self.stop.is_cancelled() {
            return Err(StreamError::Draining);
        }
        let film = self.library.get(&id).ok_or(StreamError::UnknownMedia)?;
        let source = FilmSource {
            path: film.path.clone(),
            facts: film.facts.clone(),
        };
        let user = identity.user.clone();
        let stream = self.streams.open(id, source, identity).map_err(failed)?;
        // A token that was revoked while the stream was made ends it all the same.
        let seen = self
            .streams
            .get(&stream)
            .ok_or(StreamError::UnknownStream)?;
        tracing::info!(user, film = film.name, "a stream was authorised");
        Ok(Stream {
            stream,
            url: self.delivery.url(&stream, self.host),
            expires_s: seconds(seen.left),
        })
    }

    async fn reannounce_media(self, _: Context) {
        self.speaker.again();
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
        let identity = self.verifier.check(&token).await?;
        let seen = self.streams.get(&stream);
        // Not an admin's business: a renewal makes the stream the renewer's own.
        match seen.is_some_and(|seen| seen.user == identity.user)
            && self.streams.renew(&stream, identity)
        {
            true => Ok(()),
            false => Err(StreamError::UnknownStream),
        }
    }

    async fn stop(self, _: Context, token: Token, stream: StreamId) -> Result<(), StreamError> {
        match self.own(&token, &stream).await {
            Ok(_) => self.streams.end(&stream, EndReason::Stopped).await,
            // It has ended, which is what was wanted; or it is not theirs, which is not said.
            Err(StreamError::UnknownStream) => {}
            Err(error) => return Err(error),
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
            event = self.streams.next_event(&stream) => event.ok_or(StreamError::UnknownStream),
            () = tokio::time::sleep(rpc::patience(&context)) => Ok(StreamEvent::None),
            () = self.stop.cancelled() => Ok(StreamEvent::None),
        }
    }
}
