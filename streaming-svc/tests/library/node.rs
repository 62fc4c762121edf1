//! What the library's tests share: clips, a node's directories, and waiting for conditions.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};
use streaming_svc::{
    library::{Film, Library, LibraryConfig, LibraryEvent},
    probe::ProbeCommand,
};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How long a condition may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes a clip of 2 s: moving colours and a tone. More options for ffmpeg may follow.
pub fn clip(path: &Path, options: &[&str]) {
    let video = "testsrc=size=160x120:rate=25:duration=2";
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-y"])
        .args(["-f", "lavfi", "-i", video])
        .args([
            "-f",
            "lavfi",
            "-i",
            "sine=frequency=440:sample_rate=48000:duration=2",
        ])
        .args([
            "-pix_fmt",
            "yuv420p",
            "-g",
            "25",
            "-x265-params",
            "log-level=none",
        ])
        .args(options)
        .arg(path)
        .status()
        .expect("ffmpeg is installed");
    assert!(made.success(), "ffmpeg could not make {}", path.display());
}

/// The worker that this test program is when it is started so.
pub fn probe_command() -> ProbeCommand {
    let args = [
        "probe_worker",
        "--exact",
        "--ignored",
        "--nocapture",
        "--test-threads=2",
    ];
    ProbeCommand {
        program: std::env::current_exe().expect("a program knows itself"),
        args: args.map(Into::into).to_vec(),
        arg0: None,
        limit: Duration::from_secs(30),
    }
}

/// Waits until something is so.
pub async fn has(condition: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "it did not happen in {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A node's directories.
pub struct Node {
    /// Where the films are.
    pub media: TempDir,
    /// Where the state is.
    pub state: TempDir,
    /// The media directories: `media`, unless a test says otherwise.
    pub roots: Vec<PathBuf>,
}

impl Node {
    /// Empty directories.
    pub fn new() -> Self {
        let media = tempfile::tempdir().expect("a temporary directory");
        let state = tempfile::tempdir().expect("a temporary directory");
        let roots = vec![media.path().to_owned()];
        Self {
            media,
            state,
            roots,
        }
    }

    /// A path in the media directory.
    pub fn at(&self, name: &str) -> PathBuf {
        self.media.path().join(name)
    }

    /// How the library is started here.
    pub fn config(&self, probe_command: ProbeCommand) -> LibraryConfig {
        LibraryConfig {
            media: self.roots.clone(),
            state_dir: self.state.path().to_owned(),
            workers: 2,
            // Tests of being told of changes must not pass by looking anew.
            rescan_interval: Duration::from_secs(3600),
            settle: Duration::from_millis(300),
            probe_command,
        }
    }

    /// Starts the library with the real worker.
    pub async fn start(&self) -> Running {
        self.start_with(probe_command()).await
    }

    /// Starts the library with another worker.
    pub async fn start_with(&self, probe_command: ProbeCommand) -> Running {
        let cancel = CancellationToken::new();
        let started = Library::start(self.config(probe_command), cancel.clone()).await;
        let (library, events) = started.expect("the library starts");
        Running {
            library,
            events,
            cancel,
        }
    }
}

/// A running library.
pub struct Running {
    /// The library.
    pub library: Library,
    events: mpsc::Receiver<LibraryEvent>,
    cancel: CancellationToken,
}

impl Running {
    /// The film that is at this place in the media directory.
    pub fn film(&self, name: &str) -> Option<Arc<Film>> {
        let films = self.library.films();
        films.into_iter().find(|film| film.path.ends_with(name))
    }

    /// The next event.
    pub async fn event(&mut self) -> LibraryEvent {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await;
        event.expect("an event in time").expect("the library runs")
    }

    /// Stops it, and waits until it is gone.
    pub async fn stop(self) {
        self.cancel.cancel();
        let stopped = tokio::time::timeout(PATIENCE, self.library.stopped()).await;
        stopped.expect("it stops in time");
    }
}
