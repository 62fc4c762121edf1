//! Watching films: streams and players, in front or beside the prompt.

use super::Shell;
use crate::cli::Film;
use crate::error::{Error, exit};
use crate::output::{Notifier, Output, length, plain, say};
use crate::player::{Player, Search};
use crate::stream::{Kept, LiveStream, StreamEnd, Watched};
use iceflix_core::api::catalog::TileDetails;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde::Serialize;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long a player may take to close after it was asked to.
const CLOSING: Duration = Duration::from_secs(2);

/// How long after a player's end the Ctrl-C that ended it may reach us too.
const SAME_KEY: Duration = Duration::from_millis(300);

/// A stream, for `--json`.
#[derive(Debug, Serialize)]
struct StreamDocument<'a> {
    url: &'a str,
    stream: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    player: Option<&'a str>,
}

impl<'a> StreamDocument<'a> {
    fn new(live: &'a LiveStream, player: Option<&'a str>) -> Self {
        Self {
            url: &live.stream.url,
            stream: live.stream.stream.to_string(),
            player,
        }
    }
}

impl Shell {
    pub(super) async fn url(&mut self, film: &Film, any_host: bool) -> Result<(), Error> {
        let details = self.details(film).await?;
        let cancel = self.make_way().await?;
        let Some(live) = self.open(&details, any_host, &cancel).await? else {
            return Ok(());
        };
        let name = plain(&live.name);
        let mut watched = Watched::new(self.client()?.clone(), details, live, any_host);
        let teller = self.teller();
        if let Err(error) = teller.url(watched.live()) {
            watched.stop().await;
            return Err(error);
        }
        let until = if self.memory.is_some() {
            "`stop`"
        } else {
            "Ctrl-C"
        };
        say(&format!("{name} can be watched there until {until}"));
        let watching = move |cancel| keep_url(watched, teller, cancel);
        self.watch(name, cancel, watching).await
    }

    pub(super) async fn play(&mut self, film: &Film, wanted: Option<&str>) -> Result<(), Error> {
        let details = self.details(film).await?;
        let player = Search::new(&self.env).find(wanted)?;
        let cancel = self.make_way().await?;
        // The player runs here.
        let Some(live) = self.open(&details, false, &cancel).await? else {
            return Ok(());
        };
        let name = plain(&live.name);
        let mut watched = Watched::new(self.client()?.clone(), details, live, false);
        let document = StreamDocument::new(watched.live(), Some(&player.name));
        if let Err(error) = self.out.result(&document, String::new) {
            watched.stop().await;
            return Err(error);
        }
        let teller = self.teller();
        let what = if teller.beside { "`stop`" } else { "Ctrl-C" };
        say(&format!(
            "playing {name} in {}; {what} ends it",
            player.name
        ));
        let watching = move |cancel| play(watched, player, teller, cancel);
        self.watch(name, cancel, watching).await
    }

    /// Watches beside the prompt, or here until that is over.
    async fn watch<F, Fut>(
        &mut self,
        name: String,
        cancel: CancellationToken,
        watching: F,
    ) -> Result<(), Error>
    where
        F: FnOnce(CancellationToken) -> Fut,
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        match &mut self.memory {
            Some(memory) => {
                memory.background.start(name, cancel, watching);
                Ok(())
            }
            None => watching(cancel).await,
        }
    }

    fn teller(&self) -> Teller {
        let memory = self.memory.as_ref();
        Teller {
            beside: memory.is_some(),
            notifier: memory
                .map(|it| it.background.notifier())
                .unwrap_or_default(),
            out: self.out.clone(),
        }
    }

    pub(super) async fn sdp(&mut self, film: &Film) -> Result<(), Error> {
        let details = self.details(film).await?;
        let client = self.client()?;
        let live = client.open_stream(&details, false).await?;
        let sdp = client.sdp(&live).await;
        client.stop_stream(&live).await;
        #[derive(Serialize)]
        struct SdpDocument<'a> {
            sdp: &'a str,
        }
        let sdp = sdp?;
        self.out
            .result(&SdpDocument { sdp: &sdp }, || match sdp.ends_with('\n') {
                true => sdp.clone(),
                false => format!("{sdp}\n"),
            })
    }

    /// Ends the stream beside the prompt.
    pub async fn stop(&mut self) {
        let Some(memory) = &mut self.memory else {
            return;
        };
        match memory.background.stop().await {
            Some(name) => say(&format!("stopped {name}")),
            None => say("nothing is being watched"),
        }
    }

    pub(super) async fn details(&self, film: &Film) -> Result<TileDetails, Error> {
        let client = self.client()?;
        // Whoever is not logged in is told so first.
        client.token().await?;
        let id = self.film(film).await?;
        client.tile(id).await
    }

    /// What ends the next stream: a signal, or the prompt's `stop`. The stream that the prompt
    /// has beside it makes way.
    async fn make_way(&mut self) -> Result<CancellationToken, Error> {
        match &mut self.memory {
            Some(memory) => {
                memory.background.stop().await;
                Ok(CancellationToken::new())
            }
            None => interrupted(),
        }
    }

    async fn open(
        &self,
        details: &TileDetails,
        any_host: bool,
        cancel: &CancellationToken,
    ) -> Result<Option<LiveStream>, Error> {
        let opening = self.client()?.open_stream(details, any_host);
        cancel.run_until_cancelled(opening).await.transpose()
    }
}

/// Says what becomes of a stream, to whoever waits for it or types at the prompt.
struct Teller {
    /// Whether there is a prompt, which the stream runs beside.
    beside: bool,
    notifier: Notifier,
    out: Output,
}

impl Teller {
    fn say(&self, words: &str) {
        self.notifier.tell(words);
    }

    /// Where a stream is.
    fn url(&self, live: &LiveStream) -> Result<(), Error> {
        let document = StreamDocument::new(live, None);
        self.out
            .result(&document, || format!("{}\n", live.stream.url))
    }

    /// Its node is leaving and it stays there.
    fn stays(&self, name: &str) {
        self.say(&format!(
            "{name}: its node is leaving, and no other has the film; it ends there soon"
        ));
    }
}

/// Keeps a stream alive for players that somebody starts elsewhere.
async fn keep_url(
    mut watched: Watched,
    teller: Teller,
    cancel: CancellationToken,
) -> Result<(), Error> {
    let name = plain(&watched.live().name);
    loop {
        match watched.keep(&cancel).await? {
            Kept::Over => return Ok(()),
            Kept::Leaving => teller.stays(&name),
            Kept::Moved(why) => {
                let live = watched.live();
                let node = &live.provider.instance;
                let from = match watched.position() {
                    Some(at) => format!(", from {}", length(Some(at.as_secs_f64()))),
                    None => String::new(),
                };
                match teller.beside {
                    // A line at the prompt, whole.
                    true => teller.say(&format!(
                        "{name}: {why}; it goes on at {node}{from}: {}",
                        live.stream.url
                    )),
                    false => {
                        teller.say(&format!(
                            "{name}: {why}; it goes on at {node}{from}, there:"
                        ));
                        teller.url(live)?;
                    }
                }
            }
        }
    }
}

/// Plays a stream in a player until either ends. When the stream has to go on at another node, so
/// does the player, from where it was.
async fn play(
    mut watched: Watched,
    player: Player,
    teller: Teller,
    cancel: CancellationToken,
) -> Result<(), Error> {
    let name = plain(&watched.live().name);
    loop {
        let mut child = match start(&player, &watched, teller.beside) {
            Ok(child) => child,
            Err(error) => {
                watched.stop().await;
                return Err(error);
            }
        };
        watched.stop_before().await;
        let why = match beside_player(&mut watched, &mut child, &name, &teller, &cancel).await {
            Ok(Next::Elsewhere(why)) => why,
            Ok(Next::Ended(status)) => {
                watched.stop().await;
                let status = status.map_err(Error::io(format!("wait for {}", player.name)))?;
                return ended(&player, status, &cancel).await;
            }
            other => {
                close(&mut child, teller.beside).await;
                return other.map(drop);
            }
        };
        close(&mut child, teller.beside).await;
        let node = &watched.live().provider.instance;
        let at = watched.position().map(|at| length(Some(at.as_secs_f64())));
        teller.say(&match at {
            Some(at) if player.can_begin_later() => {
                format!("{name}: {why}; it goes on at {node}, from {at}")
            }
            Some(at) => format!("{name}: {why}; it begins anew at {node} (it was at {at})"),
            None => format!("{name}: {why}; it goes on at {node}"),
        });
    }
}

/// What is next for a player.
enum Next {
    /// Its stream is elsewhere now.
    Elsewhere(StreamEnd),
    /// It has ended.
    Ended(std::io::Result<ExitStatus>),
    /// It is to end.
    Over,
}

async fn beside_player(
    watched: &mut Watched,
    child: &mut Child,
    name: &str,
    teller: &Teller,
    cancel: &CancellationToken,
) -> Result<Next, Error> {
    let mut ended = None;
    loop {
        let kept = tokio::select! {
            status = child.wait(), if ended.is_none() => {
                if cancel.is_cancelled() || !watched.was_cut_off().await {
                    return Ok(Next::Ended(status));
                }
                // A player that lost its stream may end by itself, before or after that is heard.
                ended = Some(status);
                continue;
            }
            kept = watched.keep(cancel) => kept?,
        };
        match kept {
            Kept::Moved(why) => return Ok(Next::Elsewhere(why)),
            Kept::Leaving => teller.stays(name),
            Kept::Over => return Ok(ended.map_or(Next::Over, Next::Ended)),
        }
    }
}

fn start(player: &Player, watched: &Watched, beside: bool) -> Result<Child, Error> {
    let (live, from) = (watched.live(), watched.position());
    let (program, words) = player.command(&live.stream.url, &plain(&live.name), beside, from);
    let mut command = Command::new(program);
    command.args(words).kill_on_drop(true);
    if beside {
        // The terminal, and Ctrl-C on it, stay the prompt's.
        command.process_group(0);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
    } else {
        // Standard output is for results, and the player's chatter is none.
        command.stdout(std::io::stderr());
    }
    command
        .spawn()
        .map_err(Error::io(format!("start {}", player.name)))
}

/// What a player's end means.
async fn ended(
    player: &Player,
    status: ExitStatus,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    if status.success()
        || tokio::time::timeout(SAME_KEY, cancel.cancelled())
            .await
            .is_ok()
    {
        return Ok(());
    }
    Err(Error::Failed(format!(
        "{} ended with an error ({status}); it may not have played everything",
        player.name
    )))
}

/// Closes a player: politely, then firmly.
async fn close(child: &mut Child, beside: bool) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    if let Some(pid) = pid.map(Pid::from_raw) {
        // It may just have ended by itself.
        let _ = match beside {
            true => killpg(pid, Signal::SIGTERM),
            false => kill(pid, Signal::SIGTERM),
        };
    }
    if tokio::time::timeout(CLOSING, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

/// Is cancelled by the first signal to stop; a second one ends the process at once.
fn interrupted() -> Result<CancellationToken, Error> {
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ];
    let token = CancellationToken::new();
    for kind in kinds {
        let mut signals = signal(kind).map_err(Error::io("listen for signals"))?;
        let token = token.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if token.is_cancelled() {
                    std::process::exit(exit::FAILED.into());
                }
                token.cancel();
            }
        });
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use iceflix_core::api::streaming::Stream;
    use iceflix_core::api::{Instance, Kind, MediaId, StreamId};

    #[test]
    fn a_url_document_has_what_scripts_expect() {
        let live = LiveStream {
            media: MediaId::from_bytes([1; 32]),
            name: "x".into(),
            length: None,
            stream: Stream {
                stream: StreamId::from_bytes([0x0f; 16]),
                url: "rtsp://127.0.0.1:1/0f".into(),
                expires_s: 30,
            },
            provider: Instance {
                kind: Kind::Streaming,
                instance: "s".parse().unwrap(),
                endpoint: ([127, 0, 0, 1], 1).into(),
                pid: 1,
                load: 0,
                draining: false,
            },
        };
        let json = serde_json::to_string(&StreamDocument::new(&live, None)).unwrap();
        let id = "0f".repeat(16);
        assert_eq!(
            json,
            format!(r#"{{"url":"rtsp://127.0.0.1:1/0f","stream":"{id}"}}"#)
        );
    }
}
