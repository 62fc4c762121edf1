//! Main: hands out live instances of the other services, and the directory of all.

use super::Instance;
use serde::{Deserialize, Serialize};

/// Why Main could not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum MainError {
    /// No instance of that kind is alive just now; ask again soon.
    #[error("no instance of that service is alive just now")]
    TemporarilyUnavailable,
    /// Something broke inside; the service's log has it.
    #[error("main had an internal error")]
    Internal,
}

/// Which state of one Main's directory a caller has seen. Compared for equality only: another
/// Main counts for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryVersion {
    /// The Main that counted, new at each of its starts.
    pub counter: u64,
    /// How often its directory has changed.
    pub number: u64,
}

/// All live instances at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryView {
    /// Which state this is.
    pub version: DirectoryVersion,
    /// The instances, sorted by kind and name. Draining ones are listed, and say so.
    pub instances: Vec<Instance>,
}

impl DirectoryView {
    /// One in which nobody is.
    pub fn empty() -> Self {
        Self {
            version: DirectoryVersion {
                counter: 0,
                number: 0,
            },
            instances: Vec::new(),
        }
    }
}

/// The front door.
#[tarpc::service]
pub trait Main {
    /// A live authenticator, each in turn.
    async fn authenticator() -> Result<Instance, MainError>;
    /// A live catalogue, each in turn.
    async fn catalog() -> Result<Instance, MainError>;
    /// A live streaming node, each in turn.
    async fn provider() -> Result<Instance, MainError>;
    /// All live instances. Answers at once when the directory is no longer (or never was) at
    /// `since`, otherwise when it changes, at the latest shortly before the caller's deadline.
    async fn directory(since: Option<DirectoryVersion>) -> Result<DirectoryView, MainError>;
}
