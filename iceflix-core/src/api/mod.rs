//! The contracts: what one part of IceFlix may ask of another.
//!
//! Each service has a file with its types, its errors and its [tarpc](https://docs.rs/tarpc) trait.
//! Every method is idempotent by its shape (put, set, remove, end), so that a caller may ask again
//! elsewhere when an answer did not come. Errors are small: a variant is something a caller acts on.

pub mod auth;
pub mod catalog;
mod ids;
pub mod main;
mod page;
pub mod streaming;

pub use ids::{Fingerprint, InstanceId, InvalidId, MediaId, SessionId, StreamHandle, StreamId};
pub use page::{Page, PageRequest};

use serde::{Deserialize, Serialize};
use std::{fmt, net::SocketAddr, str::FromStr};

/// The version of these contracts; instances of another version are not called.
pub const PROTOCOL: u32 = 4;

/// The largest frame that is read from or written to a connection, in bytes.
pub const MAX_FRAME: usize = 1 << 20;

/// The kinds of service a cluster is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Hands out live instances of the others; the door that clients know.
    Main,
    /// Users, sessions, tokens.
    Auth,
    /// Titles, names and tags.
    Catalog,
    /// Films, and their delivery over RTSP.
    Streaming,
}

impl Kind {
    /// Every kind, in the order in which they are shown.
    pub const ALL: [Kind; 4] = [Kind::Main, Kind::Auth, Kind::Catalog, Kind::Streaming];

    /// The name used in topics, file names and program names.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Main => "main",
            Kind::Auth => "auth",
            Kind::Catalog => "catalog",
            Kind::Streaming => "streaming",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Kind::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or(InvalidId("a kind is main, auth, catalog or streaming"))
    }
}

/// A live instance of a service, as the directory knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// What it is.
    pub kind: Kind,
    /// Its name, unique in the cluster and kept over restarts.
    pub instance: InstanceId,
    /// Where it answers tarpc calls.
    pub endpoint: SocketAddr,
    /// Its process id, on its own machine.
    pub pid: u32,
    /// How busy it is: 0 idle, 1000 at its limit.
    pub load: u16,
    /// It is leaving: it finishes what it has and takes nothing new.
    pub draining: bool,
}

/// Why a token was not accepted. The caller renews it, logs in, or gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error, Serialize, Deserialize)]
pub enum TokenError {
    /// It is not a token, or was cut short, or its signature does not hold.
    #[error("the token is not valid")]
    Invalid,
    /// No authenticator of this cluster that we know of signed it.
    #[error("the token was signed by an authenticator this cluster does not know")]
    UnknownSigner,
    /// It was made for another cluster or another purpose.
    #[error("the token belongs to another cluster")]
    WrongAudience,
    /// Its 30 seconds are over (or have not begun).
    #[error("the token has expired")]
    Expired,
    /// Its session or its user was revoked.
    #[error("the session was ended")]
    Revoked,
}
