//! The audit log: who did what, to what, from where, and how it ended. Never a secret.
//!
//! One JSON document a line, in `audit.jsonl` in the state directory (mode 0600); what the fields
//! mean is in `docs/security.md`. A thread of its own writes, so that a slow disk holds no request
//! up: what it cannot take in is counted, and the count is in the log.
//!
//! That no secret gets in is a matter of types: an [`Event`] takes names, ids and constants. Of a
//! session's id, which opens nothing, it keeps the beginning; of a stream's, which is a secret,
//! the beginning of its handle.

mod budget;
mod file;
mod pending;

pub use pending::Pending;

use crate::{
    api::{InstanceId, Kind, MediaId, SessionId, StreamId, TokenError},
    trust::{self, Identity, token::write_time},
};
use budget::Budget;
use file::LogFile;
use serde::Serialize;
use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};

/// The log's name in the state directory.
pub const FILE: &str = "audit.jsonl";

/// A file that is longer than this is put aside, in bytes.
const LONGEST: u64 = 8 << 20;

/// How many old files are kept.
const OLD_FILES: u32 = 4;

/// How many lines may wait to be written: some seconds' worth of a flood, half a megabyte.
const WAITING: usize = 1024;

/// The longest text of others in a line, in characters: a user's name may be as long.
const LONGEST_TEXT: usize = 64;

/// How long stopping waits for the disk.
const PATIENCE: Duration = Duration::from_secs(5);

/// The outcome of what was not done.
const REFUSED: &str = "refused";

/// Something that was done, or refused.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    action: &'static str,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    roles: Option<BTreeSet<Kind>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<InstanceId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
}

/// What others wrote, so that it neither breaks a line nor a terminal it is shown on.
fn plain(text: &str) -> String {
    let invisible = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    let mut rest = text.chars();
    let cut = rest.by_ref().take(LONGEST_TEXT);
    let mut plain: String = cut
        .map(|c| {
            if invisible(c) {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect();
    if rest.next().is_some() {
        plain.push('…');
    }
    plain
}

/// Why a token was refused, as a reason.
pub fn token_reason(error: TokenError) -> &'static str {
    match error {
        TokenError::Invalid => "token_invalid",
        TokenError::UnknownSigner => "token_unknown_signer",
        TokenError::WrongAudience => "token_wrong_audience",
        TokenError::Expired => "token_expired",
        TokenError::Revoked => "token_revoked",
    }
}

fn beginning(hex: &str) -> String {
    hex.chars().take(8).collect()
}

impl Event {
    fn new(action: &'static str, outcome: &'static str) -> Self {
        Self {
            action,
            outcome,
            reason: None,
            user: None,
            session: None,
            object: None,
            name: None,
            stream: None,
            roles: None,
            peer: None,
            from: None,
            count: None,
        }
    }

    /// It was done.
    pub fn done(action: &'static str) -> Self {
        Self::new(action, "done")
    }

    /// It was refused, for this reason.
    pub fn refused(action: &'static str, reason: &'static str) -> Self {
        let reason = Some(reason);
        Self {
            reason,
            ..Self::new(action, REFUSED)
        }
    }

    /// What was done before ended, for this reason.
    pub fn ended(action: &'static str, reason: &'static str) -> Self {
        let reason = Some(reason);
        Self {
            reason,
            ..Self::new(action, "ended")
        }
    }

    /// Whether it was done.
    pub fn is_done(&self) -> bool {
        self.outcome == "done"
    }

    /// Who it was, if that is known.
    #[must_use]
    pub fn by(self, who: Option<&Identity>) -> Self {
        match who {
            Some(who) => self.user(&who.user).session(who.session),
            None => self,
        }
    }

    /// Who it was. Not what somebody typed who is nobody: it may be a password.
    #[must_use]
    pub fn user(self, name: &str) -> Self {
        let user = Some(plain(name));
        Self { user, ..self }
    }

    /// With which session.
    #[must_use]
    pub fn session(self, session: SessionId) -> Self {
        let session = Some(beginning(&session.to_string()));
        Self { session, ..self }
    }

    /// To which user.
    #[must_use]
    pub fn on_user(self, name: &str) -> Self {
        let object = Some(format!("user:{}", plain(name)));
        Self { object, ..self }
    }

    /// To which session.
    #[must_use]
    pub fn on_session(self, session: SessionId) -> Self {
        let object = Some(format!("session:{}", beginning(&session.to_string())));
        Self { object, ..self }
    }

    /// To which film.
    #[must_use]
    pub fn on_film(self, film: MediaId) -> Self {
        let object = Some(format!("film:{film}"));
        Self { object, ..self }
    }

    /// To which instance.
    #[must_use]
    pub fn on_instance(self, instance: &InstanceId) -> Self {
        let object = Some(format!("instance:{instance}"));
        Self { object, ..self }
    }

    /// With which stream: by this the lines of one stream are found, also by its handle in a list of
    /// streams, and nothing is opened.
    #[must_use]
    pub fn stream(self, stream: &StreamId) -> Self {
        let stream = Some(beginning(&stream.handle().to_string()));
        Self { stream, ..self }
    }

    /// The name that was given.
    #[must_use]
    pub fn name(self, name: &str) -> Self {
        let name = Some(plain(name));
        Self { name, ..self }
    }

    /// For which kinds of service.
    #[must_use]
    pub fn roles(self, roles: impl IntoIterator<Item = Kind>) -> Self {
        let roles = Some(roles.into_iter().collect());
        Self { roles, ..self }
    }

    /// Which instance asked, by its certificate, if it was one.
    #[must_use]
    pub fn peer(self, instance: Option<&InstanceId>) -> Self {
        let peer = instance.cloned();
        Self { peer, ..self }
    }

    /// From which address.
    #[must_use]
    pub fn from(self, address: IpAddr) -> Self {
        let from = Some(address.to_canonical());
        Self { from, ..self }
    }
}

/// A line as it is written.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    service: Kind,
    instance: &'a InstanceId,
    #[serde(flatten)]
    event: &'a Event,
}

enum Message {
    Line(Vec<u8>),
    Flush(oneshot::Sender<()>),
}

/// The audit log of a service. Cheap to clone.
#[derive(Clone)]
pub struct Audit {
    inner: Arc<Inner>,
}

struct Inner {
    kind: Kind,
    instance: InstanceId,
    sender: mpsc::Sender<Message>,
    lost: Arc<AtomicU64>,
    skipped: Arc<AtomicU64>,
    refusals: Mutex<Budget>,
}

impl Audit {
    /// Opens the log in a state directory, and starts the thread that writes it. A line that a
    /// crash cut short is ended.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(directory: &Path, kind: Kind, instance: &InstanceId) -> io::Result<Self> {
        let file = LogFile::open(&directory.join(FILE), LONGEST, OLD_FILES)?;
        let (audit, writing) = Self::prepare(file, WAITING, kind, instance);
        std::thread::Builder::new()
            .name("audit".into())
            .spawn(writing)?;
        Ok(audit)
    }

    /// A log, and what is to be run on the thread that writes it.
    fn prepare(
        file: LogFile,
        waiting: usize,
        kind: Kind,
        instance: &InstanceId,
    ) -> (Self, impl FnOnce() + Send + 'static) {
        let (sender, receiver) = mpsc::channel(waiting);
        let lost = Arc::new(AtomicU64::new(0));
        let skipped = Arc::new(AtomicU64::new(0));
        let mut writer = Writer {
            file,
            kind,
            instance: instance.clone(),
            lost: Arc::clone(&lost),
            skipped: Arc::clone(&skipped),
            failing: false,
        };
        let inner = Inner {
            kind,
            instance: instance.clone(),
            sender,
            lost,
            skipped,
            refusals: Mutex::new(Budget::new(Instant::now())),
        };
        let inner = Arc::new(inner);
        (Self { inner }, move || writer.run(receiver))
    }

    /// Writes a line, soon. Never waits. Of refusals without end, only some are written and the
    /// rest counted: anybody can be refused, and what was done must not go under in that.
    pub fn record(&self, event: &Event) {
        if event.outcome == REFUSED {
            let refusals = &self.inner.refusals;
            let mut budget = refusals.lock().unwrap_or_else(PoisonError::into_inner);
            if !budget.take(Instant::now()) {
                self.inner.skipped.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        let line = encode(self.inner.kind, &self.inner.instance, event);
        if self.inner.sender.try_send(Message::Line(line)).is_err() {
            self.inner.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all that was recorded is on disk; five seconds at most.
    pub async fn flush(&self) {
        let flushed = async {
            let (done, waiting) = oneshot::channel();
            let sent = self.inner.sender.send(Message::Flush(done)).await;
            // The thread ends after the last of these handles only.
            sent.is_ok() && waiting.await.is_ok()
        };
        if tokio::time::timeout(PATIENCE, flushed).await != Ok(true) {
            tracing::error!("the last lines of the audit log may be missing");
        }
    }
}

fn encode(kind: Kind, instance: &InstanceId, event: &Event) -> Vec<u8> {
    let line = Line {
        time: write_time(trust::now()),
        service: kind,
        instance,
        event,
    };
    // Texts and a number: JSON holds them all.
    serde_json::to_vec(&line).unwrap_or_default()
}

struct Writer {
    file: LogFile,
    kind: Kind,
    instance: InstanceId,
    lost: Arc<AtomicU64>,
    skipped: Arc<AtomicU64>,
    failing: bool,
}

impl Writer {
    fn run(&mut self, mut receiver: mpsc::Receiver<Message>) {
        while let Some(message) = receiver.blocking_recv() {
            self.tell_counts();
            match message {
                Message::Line(line) => {
                    if !self.write(&line) {
                        self.lost.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Message::Flush(done) => {
                    let synced = self.file.sync();
                    self.failed(synced.err());
                    // Whoever waited may have given up.
                    let _ = done.send(());
                }
            }
        }
    }

    /// Says how many lines are missing since it was said last, and how many refusals.
    fn tell_counts(&mut self) {
        for (count, outcome) in [
            (Arc::clone(&self.lost), "lost"),
            (Arc::clone(&self.skipped), REFUSED),
        ] {
            let missing = count.swap(0, Ordering::Relaxed);
            if missing == 0 {
                continue;
            }
            let event = Event {
                count: Some(missing),
                ..Event::new("audit", outcome)
            };
            let line = encode(self.kind, &self.instance, &event);
            if !self.write(&line) {
                count.fetch_add(missing, Ordering::Relaxed);
            }
        }
    }

    fn write(&mut self, line: &[u8]) -> bool {
        let written = self.file.write(line);
        let well = written.is_ok();
        self.failed(written.err());
        well
    }

    /// Says so in the log once, not for each line.
    fn failed(&mut self, error: Option<io::Error>) {
        if let Some(error) = &error
            && !self.failing
        {
            tracing::error!(%error, "the audit log cannot be written");
        }
        self.failing = error.is_some();
    }
}

#[cfg(test)]
mod tests;
