//! Looking into a film's file without playing it, in a process of its own.
//!
//! Parsers of files from anywhere crash, hang and eat memory. So the node starts itself once more
//! as a worker ([`worker_main`]) that has limits, and asks it for each file ([`Prober`]): a crash
//! costs one file, never the node. Within the worker [`inspect`] does the looking.
//!
//! Worker and node speak in lines of JSON over the worker's stdin and stdout.

mod boxes;
mod clusters;
mod describe;
mod ebml;
mod fragments;
mod inspect;
mod prober;
mod source;
mod structure;
mod worker;

pub use inspect::{ProbeError, inspect};
pub use prober::{Prober, Verdict};
pub use worker::worker_main;

use crate::facts::Facts;
use serde::{Deserialize, Serialize};
use std::{ffi::OsString, path::PathBuf, time::Duration};

/// The version of what [`inspect`] finds. Raised when it learns something new, so that what was
/// kept is looked at again (and not hashed again).
pub const VERSION: u32 = 3;

/// How the worker is started.
#[derive(Debug, Clone)]
pub struct ProbeCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// The name it is shown with in lists of processes, instead of `program`.
    pub arg0: Option<String>,
    /// The longest that one file may take. The first file of a new worker may take four times as
    /// long: GStreamer may have to look at its plugins first.
    pub limit: Duration,
}

impl Default for ProbeCommand {
    /// This very program, as `iceflix-probe probe-worker`, with 12 s a file.
    fn default() -> Self {
        Self {
            // Where even this is unknown, starting it fails and the reason is shown.
            program: std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into()),
            args: vec!["probe-worker".into()],
            arg0: Some("iceflix-probe".to_owned()),
            limit: Duration::from_secs(12),
        }
    }
}

/// What the node asks.
#[derive(Serialize, Deserialize)]
struct Request {
    /// The file's path, its bytes in hexadecimal: names need not be UTF-8.
    path: String,
}

/// What the worker answers.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    /// What was found.
    Facts(Facts),
    /// Why the file could not be looked at, which says nothing about its content.
    Failed(String),
}
