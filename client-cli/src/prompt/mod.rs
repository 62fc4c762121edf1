//! The prompt: the same commands, one after another, with a memory and a stream beside it.

mod follow;

use crate::ask::Input;
use crate::cli::{Global, Typed, parse_line};
use crate::client::Client;
use crate::commands::Shell;
use crate::config::{Environment, Target, no_fingerprint};
use crate::editor::shown::{self, Shown};
use crate::editor::{self, Editor, Heard, words};
use crate::error::Error;
use crate::output::{Notifier, cut, plain, print, print_line, say, terminal_width};
use crate::session::private_dir;
use follow::Follower;
use futures::FutureExt;
use iceflix_core::api::Fingerprint;
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How much of a selected film's name the prompt shows, in columns.
const NAME_WIDTH: usize = 24;

/// Reads and runs commands until `exit` or the end of the input.
///
/// # Errors
/// When it cannot begin: a wrong config, an unusable terminal. Errors of commands are told and
/// the next one is read.
pub async fn run(global: &Global, env: Environment) -> Result<(), Error> {
    let target = Target::search(global, &env)?;
    let state_dir = env.state_dir()?;
    let ca = target.as_ref().map(|target| target.ca).or(global.ca);
    let mut signals = Signals::listen()?;
    let mut prompt = Prompt::open(global, ca, env, state_dir).await?;
    match target {
        Some(target) => prompt.begin(target).await,
        None => say(
            "no cluster is known here: start one with `make run-cluster`, or `connect HOST:PORT` \
             to a Main of one",
        ),
    }
    let done = prompt.read_and_run(&mut signals).await;
    prompt.shell.set_client(None).await;
    prompt.terminal.restore();
    done
}

struct Prompt {
    shell: Shell,
    shown: Arc<Shown>,
    follower: Follower,
    editor: Option<Editor>,
    /// The editor gets single keys.
    keys: bool,
    terminal: Terminal,
    state_dir: PathBuf,
    /// What the cluster is known by that this was started for.
    ca: Option<Fingerprint>,
    json: bool,
}

/// Signals, for as long as the prompt lives.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Error> {
        let listen = |kind| signal(kind).map_err(Error::io("listen for signals"));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one, and says what it asks for.
    async fn next(&mut self) -> Heard {
        tokio::select! {
            _ = self.interrupt.recv() => Heard::Interrupted,
            _ = self.terminate.recv() => Heard::Ended,
            _ = self.hangup.recv() => Heard::Ended,
        }
    }

    /// Forgets a Ctrl-C from before.
    fn clear(&mut self) {
        while self.interrupt.recv().now_or_never().flatten().is_some() {}
    }
}

/// The terminal's mode, to be put back when we have to leave in the middle of a line.
struct Terminal(Option<Termios>);

impl Terminal {
    fn restore(&self) {
        if let Some(mode) = &self.0
            && let Err(error) = tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, mode)
        {
            tracing::debug!(%error, "the terminal's mode was not put back");
        }
    }
}

impl Prompt {
    async fn open(
        global: &Global,
        ca: Option<Fingerprint>,
        env: Environment,
        state_dir: PathBuf,
    ) -> Result<Self, Error> {
        private_dir(&state_dir)?;
        let typed = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        let color = env.var("NO_COLOR").is_none();
        let shown = Arc::new(Shown::new(shown::is_unicode(&env), color));
        let keys = env.var("TERM").is_none_or(|term| !editor::is_plain(term));
        let terminal = Terminal(match typed {
            true => tcgetattr(std::io::stdin()).ok(),
            false => None,
        });
        let (editor, notifier) = match typed {
            true => {
                let started = Editor::start(state_dir.join("history"), Arc::clone(&shown)).await?;
                say("IceFlix: `help` lists the commands, `exit` leaves");
                (Some(started.0), started.1)
            }
            false => (None, Notifier::default()),
        };
        let input = editor.clone().map_or(Input::Standard, Input::Editor);
        let follower = Follower::new(Arc::clone(&shown), notifier.clone(), typed);
        Ok(Self {
            shell: Shell::prompt(env, input, notifier),
            shown,
            follower,
            editor,
            keys,
            terminal,
            state_dir,
            ca,
            json: global.json,
        })
    }

    /// Connects to the cluster; when it does not answer, goes on trying beside the prompt.
    async fn begin(&mut self, target: Target) {
        match Client::connect(&target, &self.state_dir).await {
            Ok(client) => self.turn_to(client).await,
            Err(error) => {
                say(&format!("{}; trying again", at_prompt(&error)));
                self.follower.keep_trying(target, self.state_dir.clone());
            }
        }
    }

    async fn turn_to(&mut self, client: Client) {
        self.follower.follow(&client);
        self.shell.set_client(Some(client)).await;
        if self.editor.is_some() && self.user().await.is_none() {
            say("nobody is logged in; `login` changes that, `search` works before");
        }
    }

    async fn connect(&mut self, main: String) -> Result<(), Error> {
        let target = Target {
            cluster: None,
            mains: vec![main],
            ca: self.ca.ok_or_else(no_fingerprint)?,
        };
        let client = Client::connect(&target, &self.state_dir).await?;
        self.turn_to(client).await;
        Ok(())
    }

    async fn read_and_run(&mut self, signals: &mut Signals) -> Result<(), Error> {
        loop {
            let line = match self.read(signals).await? {
                Heard::Line(line) => line,
                Heard::Interrupted if self.editor.is_some() => continue,
                Heard::Interrupted | Heard::Ended => return Ok(()),
            };
            if let Some(client) = self.follower.found() {
                self.turn_to(client).await;
            }
            match Box::pin(self.line(&line, signals)).await {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return Ok(()),
                // Nobody reads any more: there is no point in going on.
                Err(Error::BrokenPipe) => return Ok(()),
                Err(error) => say(&at_prompt(&error)),
            }
            self.remember();
        }
    }

    async fn read(&self, signals: &mut Signals) -> Result<Heard, Error> {
        let user = self.user().await;
        let selected = self
            .shell
            .memory
            .as_ref()
            .and_then(|memory| memory.selected.as_ref());
        // A quarter of the terminal at most: the rest is for typing.
        let width = terminal_width().map_or(NAME_WIDTH, |columns| NAME_WIDTH.min(columns / 4));
        let selected = selected.map(|film| cut(&plain(&film.name), Some(width)));
        let prompt = self.shown.prompt(user.as_deref(), selected.as_deref());
        let reading = async {
            match &self.editor {
                Some(editor) => editor.command(prompt.clone()).await,
                None => Ok(match Input::Standard.line().await? {
                    Some(line) => Heard::Line(line),
                    None => Heard::Ended,
                }),
            }
        };
        let mut reading = std::pin::pin!(reading);
        loop {
            let signal = tokio::select! {
                heard = &mut reading => return heard,
                signal = signals.next() => signal,
            };
            // The editor gets Ctrl-C as a key. A signal is one that comes late, of a command that
            // has ended by it: the line that is being typed must not be lost to it.
            if signal != Heard::Interrupted || self.editor.is_none() {
                return Ok(signal);
            }
            // Where it gets whole lines only, the terminal has just dropped the one begun.
            if !self.keys {
                print_line("")?;
                print(&prompt)?;
            }
        }
    }

    /// Who is logged in, as the prompt shows it.
    async fn user(&self) -> Option<String> {
        let session = self.shell.client().ok()?.session().await.ok()??;
        let ended = self.shown.has_ended(session.id);
        (!ended).then(|| plain(&session.user))
    }

    async fn line(&mut self, line: &str, signals: &mut Signals) -> Result<ControlFlow<()>, Error> {
        let words = words::split(line).map_err(|error| Error::Usage(error.to_string()))?;
        if words.is_empty() || words[0].starts_with('#') {
            return Ok(ControlFlow::Continue(()));
        }
        let parsed = match parse_line(&words) {
            Ok(parsed) => parsed,
            Err(error) => return usage(&error).map(ControlFlow::Continue),
        };
        self.shell.set_json(parsed.json || self.json);
        if matches!(parsed.command, Typed::Exit) {
            return Ok(ControlFlow::Break(()));
        }
        signals.clear();
        // Ctrl-C ends the command: what it was doing is dropped.
        let signal = tokio::select! {
            done = self.command(parsed.command) => return done.map(ControlFlow::Continue),
            signal = signals.next() => signal,
        };
        say("interrupted");
        match signal {
            Heard::Ended => Ok(ControlFlow::Break(())),
            _ => Ok(ControlFlow::Continue(())),
        }
    }

    async fn command(&mut self, command: Typed) -> Result<(), Error> {
        match command {
            Typed::Client(command) => {
                let account = follow::changes_account(&command);
                let films = follow::changes_films(&command);
                let done = self.shell.run(command).await;
                if account || films {
                    self.follower.refresh(self.shell.client().ok(), account);
                }
                done
            }
            Typed::Connect { main } => self.connect(main).await,
            Typed::Select { film } => self.shell.select(&film).await,
            Typed::Deselect => {
                if let Some(memory) = &mut self.shell.memory {
                    memory.selected = None;
                }
                Ok(())
            }
            Typed::Stop => {
                self.shell.stop().await;
                Ok(())
            }
            Typed::Exit => Ok(()),
        }
    }

    /// Lets completion know what the commands found.
    fn remember(&self) {
        let Some(memory) = &self.shell.memory else {
            return;
        };
        self.shown.with_known(|known| {
            known.selected = memory.selected.is_some();
            for film in &memory.results {
                match known.films.iter_mut().find(|known| known.id == film.id) {
                    Some(known) => known.clone_from(film),
                    None => known.films.push(film.clone()),
                }
            }
        });
    }
}

/// Shows help or what was wrong with a line, as clap has it.
fn usage(error: &clap::Error) -> Result<(), Error> {
    let text = error.render().to_string();
    if !error.use_stderr() {
        return print_line(text.trim_matches('\n'));
    }
    // There is no program to give options to here.
    let text = text
        .replace("Usage: iceflix [OPTIONS] <COMMAND>\n\n", "")
        .replace(
            "For more information, try '--help'.",
            "`help` lists the commands, `help COMMAND` explains one.",
        );
    say(text.trim_end());
    Ok(())
}

/// An error in the prompt's terms: commands there do not begin with the program's name.
fn at_prompt(error: &Error) -> String {
    error
        .to_string()
        .replace("iceflix login", "`login`")
        .replace("`iceflix status`", "`status`")
        .replace("with --main HOST:PORT", "with `connect HOST:PORT`")
}
