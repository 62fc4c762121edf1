//! Streaming: a node's films, and the streams it delivers.

use super::{
    MediaId, Page, PageRequest, SessionId, StreamHandle, StreamId, TokenError,
    auth::{Grant, Token},
};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Why a streaming node refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum StreamError {
    /// The token was not accepted.
    #[error(transparent)]
    Unauthorized(#[from] TokenError),
    /// This node does not have that film (any more).
    #[error("this node does not have that film")]
    UnknownMedia,
    /// This node has the film and cannot play it, for the reason given.
    #[error("this film cannot be played: {0}")]
    Unplayable(String),
    /// There is no such stream: it was stopped, it expired, or it is not yours.
    #[error("there is no such stream")]
    UnknownStream,
    /// The node begins nothing new, since it is leaving or its clock is wrong; ask another.
    #[error("this node begins no streams just now; ask another")]
    Draining,
    /// Something broke inside; the node's log has it.
    #[error("the streaming node had an internal error")]
    Internal,
    /// Only an admin may do that.
    #[error("only an admin may do that")]
    NotAdmin,
    /// The grant is good, for another film.
    #[error("the grant is for another film")]
    OtherFilm,
    /// The user has as many streams at this node as one may have, or had them within the last
    /// minute.
    #[error(
        "you have too many streams at this node; `iceflix stream list` shows them, `iceflix stream stop` ends one"
    )]
    TooMany,
    /// There is another stream of that id: somebody else's, of another film, or for players
    /// elsewhere.
    #[error("a stream of that id was made for something else; ask with a new id")]
    IdTaken,
}

/// An authorised stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Its id, also the last part of its URL. Secret: whoever has it, at an address from which it
    /// may be fetched, can watch.
    pub stream: StreamId,
    /// Where a player finds it. The host is the address by which the caller reached the node.
    pub url: String,
    /// For how long it plays without a renewal, in seconds from now.
    pub expires_s: u32,
}

/// What happened to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamEvent {
    /// Nothing before the caller's deadline.
    None,
    /// The token is over or revoked: renew within 5 seconds, or it stops.
    RenewalWanted,
    /// It is over, for this reason.
    Ended(EndReason),
    /// The node is leaving. The stream plays on for a while: go on at another node, if one has the
    /// film. Said again to whoever asks again.
    Leaving,
}

/// Why a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndReason {
    /// Its owner (or an admin) stopped it.
    Stopped,
    /// Nobody renewed it in time.
    Expired,
    /// The session or user was revoked and nobody renewed it in time.
    Revoked,
    /// The node is shutting down.
    Shutdown,
    /// The film went away.
    MediaRemoved,
    /// It played by a grant, and for too long there was no authenticator that could have revoked it.
    Unsupervised,
}

/// A stream's present state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamStatus {
    /// What it plays.
    pub media: MediaId,
    /// For how long it plays without a renewal, in seconds.
    pub expires_s: u32,
    /// RTSP sessions that are using it now.
    pub players: u32,
    /// Where in the film its player is, in milliseconds; of several the one that is furthest.
    /// `None` while nobody plays it.
    pub position_ms: Option<u64>,
}

/// A stream, as its owner and admins see it in a list. What would let one watch it is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedStream {
    /// What to call it.
    pub handle: StreamHandle,
    /// What it plays.
    pub media: MediaId,
    /// Whose it is.
    pub user: String,
    /// When it was made, in seconds since 1970.
    pub since: u64,
    /// When it ends, in seconds since 1970; `None` when it plays for as long as it is renewed.
    pub until: Option<u64>,
    /// The address that asked for it.
    pub from: IpAddr,
    /// Whether players at any address may fetch it, and not only those at `from`.
    pub any_host: bool,
    /// RTSP sessions that are using it now.
    pub players: u32,
    /// The grant it plays by, if it does.
    pub grant: Option<SessionId>,
}

/// A streaming node: provider of films, and controller of the streams it made.
#[tarpc::service]
pub trait Streaming {
    /// Whether this node has the film, can play it, and would: not while it is leaving, or anything
    /// else speaks against its being found.
    async fn is_available(id: MediaId) -> bool;
    /// Authorises a stream of a film for the token's user. It plays while it is renewed, for
    /// players at the address that asks; with `any_host` for players at any.
    ///
    /// The stream has the id that the caller draws ([`StreamId::random`]): asking again with it gives
    /// the same stream, renewed, and [`StreamError::UnknownStream`] where that has ended.
    async fn get_stream(
        token: Token,
        stream: StreamId,
        id: MediaId,
        any_host: bool,
    ) -> Result<Stream, StreamError>;
    /// Announces all this node's films again, at most once a second. For admins, and for the
    /// cluster's own Mains and catalogues, who need no token.
    async fn reannounce_media(token: Option<Token>) -> Result<(), StreamError>;
    /// The stream's session description (SDP), for the address this call came to.
    async fn sdp(token: Token, stream: StreamId) -> Result<String, StreamError>;
    /// Goes on with the stream as long as this token lives, or the one before, if that lives longer. The same user's, any session's. Who
    /// may fetch it stays as it was. A granted stream needs no renewal, and takes none.
    async fn refresh_authentication(token: Token, stream: StreamId) -> Result<(), StreamError>;
    /// Ends the stream. Ending an ended one is no error.
    async fn stop(token: Token, stream: StreamId) -> Result<(), StreamError>;
    /// How the stream is.
    async fn status(token: Token, stream: StreamId) -> Result<StreamStatus, StreamError>;
    /// Waits for the next thing a controller has to know, at the latest until shortly before the
    /// caller's deadline. The stream's id is the permission: an expired token must be able to wait.
    async fn next_event(stream: StreamId) -> Result<StreamEvent, StreamError>;
    /// Authorises a stream by a grant, until the grant's end. The same grant is the same stream.
    async fn get_granted_stream(
        grant: Grant,
        id: MediaId,
        any_host: bool,
    ) -> Result<Stream, StreamError>;
    /// The streams of this node, by handle: one's own, for an admin all.
    async fn streams(token: Token, page: PageRequest) -> Result<Page<ListedStream>, StreamError>;
    /// Ends a stream of the list. Ending an ended one is no error. The grant it may have played by
    /// is to be ended at an authenticator, so that no other node takes it up.
    async fn stop_listed(token: Token, handle: StreamHandle) -> Result<(), StreamError>;
}
