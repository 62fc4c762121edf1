//! Streaming: a node's films, and the streams it delivers.

use super::{MediaId, StreamId, TokenError, auth::Token};
use serde::{Deserialize, Serialize};

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
    /// The node is leaving; ask another.
    #[error("this node is leaving; ask another")]
    Draining,
    /// Something broke inside; the node's log has it.
    #[error("the streaming node had an internal error")]
    Internal,
}

/// An authorised stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Its id, also the last part of its URL. Secret: whoever has it can watch.
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
}

/// A streaming node: provider of films, and controller of the streams it made.
#[tarpc::service]
pub trait Streaming {
    /// Whether this node has the film and can play it.
    async fn is_available(id: MediaId) -> bool;
    /// Authorises a stream of a film for the token's user. It plays while it is renewed.
    async fn get_stream(token: Token, id: MediaId) -> Result<Stream, StreamError>;
    /// Announces all this node's films again.
    async fn reannounce_media();
    /// The stream's session description (SDP), for the address this call came to.
    async fn sdp(token: Token, stream: StreamId) -> Result<String, StreamError>;
    /// Goes on with the stream as long as this token lives. The same user's, any session's.
    async fn refresh_authentication(token: Token, stream: StreamId) -> Result<(), StreamError>;
    /// Ends the stream. Ending an ended one is no error.
    async fn stop(token: Token, stream: StreamId) -> Result<(), StreamError>;
    /// How the stream is.
    async fn status(token: Token, stream: StreamId) -> Result<StreamStatus, StreamError>;
    /// Waits for the next thing a controller has to know, at the latest until shortly before the
    /// caller's deadline. The stream's id is the permission: an expired token must be able to wait.
    async fn next_event(stream: StreamId) -> Result<StreamEvent, StreamError>;
}
