//! Watching films: streams and players, in front or beside the prompt.

use super::Shell;
use crate::cli::Film;
use crate::client::Client;
use crate::error::{Error, exit};
use crate::output::{plain, say};
use crate::player::{Player, Search};
use crate::stream::LiveStream;
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
        let document = StreamDocument::new(&live, None);
        let client = self.client()?.clone();
        let shown = self
            .out
            .result(&document, || format!("{}\n", live.stream.url));
        if let Err(error) = shown {
            client.stop_stream(&live).await;
            return Err(error);
        }
        let name = plain(&live.name);
        let watching = async move |cancel: CancellationToken| {
            client.keep_stream(&live, &cancel).await.into_result()
        };
        match &mut self.memory {
            Some(memory) => {
                say(&format!("{name} can be watched there until `stop`"));
                memory.background.start(name, cancel, watching);
                Ok(())
            }
            None => {
                say(&format!("{name} can be watched there until Ctrl-C"));
                watching(cancel).await
            }
        }
    }

    pub(super) async fn play(&mut self, film: &Film, wanted: Option<&str>) -> Result<(), Error> {
        let details = self.details(film).await?;
        let player = Search::new(&self.env).find(wanted)?;
        let cancel = self.make_way().await?;
        // The player runs here.
        let Some(live) = self.open(&details, false, &cancel).await? else {
            return Ok(());
        };
        let client = self.client()?.clone();
        let document = StreamDocument::new(&live, Some(&player.name));
        if let Err(error) = self.out.result(&document, String::new) {
            client.stop_stream(&live).await;
            return Err(error);
        }
        let name = plain(&live.name);
        let beside = self.memory.is_some();
        let what = if beside { "`stop`" } else { "Ctrl-C" };
        say(&format!(
            "playing {name} in {}; {what} ends it",
            player.name
        ));
        let watching = async move |cancel: CancellationToken| {
            play(&client, &live, &player, &cancel, beside).await
        };
        match &mut self.memory {
            Some(memory) => {
                memory.background.start(name, cancel, watching);
                Ok(())
            }
            None => watching(cancel).await,
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

/// Plays a stream in a player until either ends.
async fn play(
    client: &Client,
    live: &LiveStream,
    player: &Player,
    cancel: &CancellationToken,
    beside: bool,
) -> Result<(), Error> {
    let mut child = match start(player, live, beside) {
        Ok(child) => child,
        Err(error) => {
            client.stop_stream(live).await;
            return Err(error);
        }
    };
    let end = tokio::select! {
        status = child.wait() => {
            client.stop_stream(live).await;
            let status = status.map_err(Error::io(format!("wait for {}", player.name)))?;
            return ended(player, status, cancel).await;
        }
        end = client.keep_stream(live, cancel) => end,
    };
    close(&mut child, beside).await;
    end.into_result()
}

fn start(player: &Player, live: &LiveStream, beside: bool) -> Result<Child, Error> {
    let (program, words) = player.command(&live.stream.url, &plain(&live.name), beside);
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
