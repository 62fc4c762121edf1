//! An authenticator's keys, on disk and in turn.
//!
//! Three kinds of them are announced: the one that signs, the one that will, and those that have
//! signed what may still be good. So that no request fails while they rotate, a key signs nothing
//! before it was announced for a while, nor is it forgotten before its last token is over.

mod ring;

pub use ring::{Due, Ring};

use super::{
    TOKEN_LIFETIME,
    keys::{KeyError, SigningKey, VerifyingKey},
    now,
    token::LEEWAY,
};
use crate::files::write_private;
use serde::{Deserialize, Serialize};
use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

/// When keys take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// For how long a key signs.
    pub lifetime: Duration,
    /// For how long a key is announced, at least, before it signs. The first key of an instance
    /// that never had one is the exception: nobody holds anything of an earlier one.
    pub lead: Duration,
    /// For how long a key is announced after it has signed the last time: longer than a token is
    /// good.
    pub keep: Duration,
}

impl Schedule {
    /// Keys that sign for so long, with the usual times around it.
    pub const fn every(lifetime: Duration) -> Self {
        Self {
            lifetime,
            lead: LEAD,
            keep: KEEP,
        }
    }
}

impl Default for Schedule {
    fn default() -> Self {
        Self::every(Duration::from_secs(24 * 3600))
    }
}

/// The usual lead. Services hear of a key within milliseconds; ten minutes are for one that was
/// cut off for a while.
const LEAD: Duration = Duration::from_secs(600);

/// How long a key is usually kept: a token's life, and minutes for clocks that are set.
const KEEP: Duration = Duration::from_secs(300);

const _: () = assert!(KEEP.as_secs() > 2 * (TOKEN_LIFETIME.as_secs() + LEEWAY.as_secs()));

/// What is in the file.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    current: String,
    /// Since when it signs, in seconds since 1970.
    since: u64,
    next: String,
    previous: Vec<String>,
}

/// The version of the file's form that is written, and the only one that is read besides a bare
/// key's (which earlier releases wrote).
const VERSION: u32 = 1;

/// What [`Keyring::step`] did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Keys that are to be announced from now on.
    pub said: Vec<VerifyingKey>,
    /// Keys that are to be announced no more.
    pub unsaid: Vec<VerifyingKey>,
    /// When there is something to do again.
    pub wait: Duration,
}

/// The keys of an authenticator. Cheap to clone.
#[derive(Clone)]
pub struct Keyring {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    start: Instant,
    state: RwLock<State>,
}

#[derive(Clone)]
struct State {
    ring: Ring<SigningKey>,
    since: u64,
}

impl Keyring {
    /// The keys in a file of mode 0600, made if there is none. A file with a bare key is taken
    /// over: that key goes on signing. Blocks.
    ///
    /// # Errors
    /// When the file cannot be read or written, or does not hold keys.
    pub fn open(path: &Path, schedule: Schedule) -> Result<Self, KeyError> {
        let found = match std::fs::read_to_string(path) {
            Ok(text) => {
                Some(read(&text).ok_or_else(|| KeyError::Malformed(path.display().to_string()))?)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(failed(path, source)),
        };
        let wall = now().as_secs();
        let complete = found.as_ref().is_some_and(|found| found.next.is_some());
        let found = match found {
            Some(found) => found,
            None => Found::bare(SigningKey::generate()?, wall),
        };
        let next = match found.next {
            Some(next) => next,
            None => SigningKey::generate()?,
        };
        // A clock that was set back since makes it young again, one that was set ahead old: then it
        // signs for longer, or the next one has its turn as soon as it was announced long enough.
        let since = found.since.min(wall);
        let age = Duration::from_secs(wall - since);
        let start = Instant::now();
        let ring = Ring::new(
            schedule,
            found.current,
            age,
            next,
            found.previous,
            start.elapsed(),
        );
        let state = State { ring, since };
        if !complete {
            write(path, &state)?;
        }
        Ok(Self {
            inner: Arc::new(Inner {
                path: path.to_owned(),
                start,
                state: RwLock::new(state),
            }),
        })
    }

    /// The key that signs now.
    pub fn current(&self) -> SigningKey {
        self.state().ring.current().clone()
    }

    /// The keys that are announced now.
    pub fn announced(&self) -> Vec<VerifyingKey> {
        let state = self.state();
        state.ring.announced().map(SigningKey::public).collect()
    }

    /// Does what is due. On disk first: what was announced is there after a crash, too. Blocks;
    /// not for two at once.
    ///
    /// # Errors
    /// When a key cannot be made or kept; the one that signs then goes on signing.
    pub fn step(&self) -> Result<Step, KeyError> {
        let State { mut ring, since } = self.state();
        let (before, now) = (self.announced(), self.inner.start.elapsed());
        let mut turned = false;
        loop {
            match ring.due(now) {
                Due::Forget => ring = ring.forgotten(now),
                Due::Rotate => match ring.rotated(SigningKey::generate()?, now) {
                    Some(rotated) => (ring, turned) = (rotated, true),
                    // It said that it is due.
                    None => break,
                },
                Due::At(_) => break,
            }
        }
        let wait = match ring.due(now) {
            Due::At(at) => at.saturating_sub(now),
            _ => Duration::ZERO,
        };
        let after: Vec<VerifyingKey> = ring.announced().map(SigningKey::public).collect();
        if after != before {
            let since = if turned {
                super::now().as_secs()
            } else {
                since
            };
            let state = State { ring, since };
            write(&self.inner.path, &state)?;
            let place = self.inner.state.write();
            *place.unwrap_or_else(PoisonError::into_inner) = state;
        }
        let lacks = |keys: &[VerifyingKey], key: &VerifyingKey| !keys.contains(key);
        Ok(Step {
            said: after
                .iter()
                .filter(|k| lacks(&before, k))
                .copied()
                .collect(),
            unsaid: before
                .iter()
                .filter(|k| lacks(&after, k))
                .copied()
                .collect(),
            wait,
        })
    }

    fn state(&self) -> State {
        // It is replaced in one step, so it is whole whatever panicked.
        self.inner
            .state
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn failed(path: &Path, source: io::Error) -> KeyError {
    KeyError::File {
        path: path.display().to_string(),
        source,
    }
}

/// What a file said.
struct Found {
    current: SigningKey,
    since: u64,
    next: Option<SigningKey>,
    previous: Vec<SigningKey>,
}

impl Found {
    fn bare(current: SigningKey, since: u64) -> Self {
        Self {
            current,
            since,
            next: None,
            previous: Vec::new(),
        }
    }
}

fn read(text: &str) -> Option<Found> {
    let key = |text: &str| SigningKey::from_bytes(&hex::decode(text.trim()).ok()?);
    if let Some(bare) = key(text) {
        return Some(Found::bare(bare, now().as_secs()));
    }
    let stored: Stored = serde_json::from_str(text).ok()?;
    (stored.version == VERSION).then_some(())?;
    Some(Found {
        current: key(&stored.current)?,
        since: stored.since,
        next: Some(key(&stored.next)?),
        previous: stored
            .previous
            .iter()
            .map(|text| key(text))
            .collect::<Option<_>>()?,
    })
}

fn write(path: &Path, state: &State) -> Result<(), KeyError> {
    let text = |key: &SigningKey| hex::encode(key.to_bytes());
    let stored = Stored {
        version: VERSION,
        current: text(state.ring.current()),
        since: state.since,
        next: text(state.ring.next()),
        previous: state.ring.previous().map(text).collect(),
    };
    let written = serde_json::to_vec(&stored).map_err(io::Error::from);
    written
        .and_then(|mut content| {
            content.push(b'\n');
            write_private(path, &content)
        })
        .map_err(|source| failed(path, source))
}

#[cfg(test)]
mod tests;
