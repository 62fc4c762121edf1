//! The line editor, on a thread of its own: it waits for keys, which no async thread may.

pub mod complete;
pub mod shown;
pub mod words;

use crate::error::Error;
use crate::output::{Notifier, say};
use complete::{Choice, complete};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use rustyline::completion::{Candidate, Completer};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::history::FileHistory;
use rustyline::{
    ColorMode, CompletionType, Config, Context, ExternalPrinter, Helper, Hinter, Validator,
};
use shown::Shown;
use std::borrow::Cow;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use tokio::sync::oneshot;

/// How many lines of history are kept.
const HISTORY: usize = 1000;

/// Whether a terminal of this type can only be written to: its driver reads whole lines there,
/// as rustyline does for these types.
pub fn is_plain(term: &OsStr) -> bool {
    ["dumb", "cons25", "emacs"]
        .iter()
        .any(|plain| term.eq_ignore_ascii_case(plain))
}

/// What came from the keyboard.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// A line.
    Line(String),
    /// Ctrl-C.
    Interrupted,
    /// Ctrl-D, or the end of the input.
    Ended,
}

/// The editor. Cheap to clone; ends with its last clone.
#[derive(Clone)]
pub struct Editor {
    requests: mpsc::Sender<Request>,
}

struct Request {
    prompt: String,
    kind: Kind,
    answer: oneshot::Sender<Result<Heard, Error>>,
}

/// What is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A command, to be completed and remembered.
    Command,
    /// The answer to a question.
    Answer,
    /// An answer that does not show.
    Password,
}

impl Editor {
    /// Takes over the terminal. The notifier speaks above the line that is being typed.
    pub async fn start(history: PathBuf, shown: Arc<Shown>) -> Result<(Self, Notifier), Error> {
        let (requests, todo) = mpsc::channel::<Request>();
        let (ready, started) = oneshot::channel();
        std::thread::Builder::new()
            .name("prompt".into())
            .spawn(move || match Terminal::open(history, shown) {
                Ok((mut terminal, notifier)) => {
                    let _ = ready.send(Ok(notifier));
                    while let Ok(request) = todo.recv() {
                        let heard = terminal.read(&request.prompt, request.kind);
                        let _ = request.answer.send(heard);
                    }
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            })
            .map_err(Error::io("start the prompt's thread"))?;
        let notifier = started.await.map_err(|_| gone())??;
        Ok((Self { requests }, notifier))
    }

    /// Reads a command.
    pub async fn command(&self, prompt: String) -> Result<Heard, Error> {
        self.request(prompt, Kind::Command).await
    }

    /// Reads the answer to a question, which is not remembered.
    pub async fn ask(&self, question: String) -> Result<String, Error> {
        self.answer(question, Kind::Answer).await
    }

    /// Reads the answer to a question, which does not show.
    ///
    /// On the editor's thread like everything else, so that the next line is read when the terminal
    /// is as it was: Ctrl-C ends a command before the terminal has been put back.
    pub async fn password(&self, question: String) -> Result<String, Error> {
        self.answer(question, Kind::Password).await
    }

    async fn answer(&self, question: String, kind: Kind) -> Result<String, Error> {
        match self.request(question, kind).await? {
            Heard::Line(line) => Ok(line),
            Heard::Interrupted | Heard::Ended => Err(Error::Interrupted),
        }
    }

    async fn request(&self, prompt: String, kind: Kind) -> Result<Heard, Error> {
        let (answer, heard) = oneshot::channel();
        let request = Request {
            prompt,
            kind,
            answer,
        };
        self.requests.send(request).map_err(|_| gone())?;
        heard.await.map_err(|_| gone())?
    }
}

fn gone() -> Error {
    Error::Failed("the prompt's thread broke".into())
}

/// The terminal with its line editor; lives on the thread.
struct Terminal {
    editor: rustyline::Editor<LineHelper, FileHistory>,
    history: PathBuf,
}

impl Terminal {
    fn open(history: PathBuf, shown: Arc<Shown>) -> Result<(Self, Notifier), Error> {
        let failed =
            |error: ReadlineError| Error::Failed(format!("cannot use the terminal: {error}"));
        let config = Config::builder()
            .max_history_size(HISTORY)
            .and_then(|config| config.history_ignore_dups(true))
            .map_err(failed)?
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            // Otherwise NO_COLOR would also keep the prompt from being painted anew. `Shown` heeds it.
            .color_mode(ColorMode::Forced)
            .build();
        let mut editor = rustyline::Editor::with_config(config).map_err(failed)?;
        editor.set_helper(Some(LineHelper {
            shown,
            command: false,
        }));
        // The first time there is none.
        if let Err(error) = editor.load_history(&history) {
            tracing::debug!(%error, "no history was read");
        }
        let notifier = match editor.create_external_printer() {
            Ok(printer) => above(printer),
            Err(error) => {
                tracing::debug!(%error, "nothing can be said above the line");
                Notifier::default()
            }
        };
        Ok((Self { editor, history }, notifier))
    }

    fn read(&mut self, prompt: &str, kind: Kind) -> Result<Heard, Error> {
        if kind == Kind::Password {
            let later = Later::begin();
            let heard = hidden(prompt);
            // The answer says it. The signal could come when the next command runs, and end that.
            later.iter().for_each(Later::forget);
            return heard;
        }
        let command = kind == Kind::Command;
        if let Some(helper) = self.editor.helper_mut() {
            helper.command = command;
        }
        match self.editor.readline(prompt) {
            Ok(line) => {
                if command && !line.trim().is_empty() {
                    self.remember(&line);
                }
                Ok(Heard::Line(line))
            }
            Err(ReadlineError::Interrupted) => Ok(Heard::Interrupted),
            Err(ReadlineError::Eof) => Ok(Heard::Ended),
            Err(ReadlineError::Io(error)) => Err(Error::io("read from the terminal")(error)),
            Err(error) => Err(Error::Failed(format!(
                "cannot read from the terminal: {error}"
            ))),
        }
    }

    /// Keeps a line for later runs. Passwords are never among them: those are asked for.
    fn remember(&mut self, line: &str) {
        let kept = self
            .editor
            .add_history_entry(line)
            .and_then(|_| append(&mut self.editor, &self.history));
        if let Err(error) = kept {
            tracing::debug!(%error, "the history was not kept");
        }
    }
}

/// Reads an answer that does not show, from this process's terminal.
pub fn hidden(question: &str) -> Result<Heard, Error> {
    // Dropped last: Ctrl-C ends this process when the terminal has been put back, not before.
    let _later = Later::begin();
    // Before the question is there: who answers at once must not be shown, nor lose a key.
    let _quiet = Quiet::begin();
    match rpassword::prompt_password(question) {
        Ok(answer) => Ok(Heard::Line(answer)),
        Err(error) => match error.kind() {
            ErrorKind::UnexpectedEof => Ok(Heard::Ended),
            ErrorKind::Interrupted => Ok(Heard::Interrupted),
            _ => Err(Error::io("read the password")(error)),
        },
    }
}

/// Keys come one by one and are not shown, until this is dropped.
struct Quiet(Termios);

impl Quiet {
    /// `None` where there is no terminal to be told.
    fn begin() -> Option<Self> {
        let before = tcgetattr(std::io::stdin()).ok()?;
        let mut quiet = before.clone();
        quiet.local_flags -=
            LocalFlags::ECHO | LocalFlags::ECHONL | LocalFlags::ICANON | LocalFlags::ISIG;
        tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &quiet).ok()?;
        Some(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &self.0) {
            tracing::debug!(%error, "the terminal's mode was not put back");
        }
    }
}

/// This thread's own SIGINT, with which `rpassword` says that there was a Ctrl-C, comes when this is
/// dropped.
struct Later(SigSet);

impl Later {
    fn begin() -> Option<Self> {
        let interrupt = SigSet::from_iter([Signal::SIGINT]);
        let before = interrupt.thread_swap_mask(SigmaskHow::SIG_BLOCK).ok()?;
        Some(Self(before))
    }

    /// If it was to come, it does not.
    fn forget(&self) {
        let interrupt = SigSet::from_iter([Signal::SIGINT]);
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let taken = SignalFd::with_flags(&interrupt, flags).and_then(|fd| fd.read_signal());
        if let Err(error) = taken {
            tracing::debug!(%error, "a Ctrl-C may come late");
        }
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        if let Err(error) = self.0.thread_set_mask() {
            tracing::debug!(%error, "the thread's signals were not let in again");
        }
    }
}

fn append(
    editor: &mut rustyline::Editor<LineHelper, FileHistory>,
    file: &Path,
) -> rustyline::Result<()> {
    editor.append_history(file)
}

fn above(printer: impl ExternalPrinter + Send + 'static) -> Notifier {
    let printer = Mutex::new(printer);
    Notifier::new(move |words| {
        let printed = match printer.lock() {
            Ok(mut printer) => printer.print(format!("{words}\n")).is_ok(),
            Err(_) => false,
        };
        if !printed {
            say(words);
        }
    })
}

#[derive(Helper, Hinter, Validator)]
struct LineHelper {
    shown: Arc<Shown>,
    command: bool,
}

impl Highlighter for LineHelper {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(
        &'s self,
        prompt: &'p str,
        _default: bool,
    ) -> Cow<'b, str> {
        match self.command {
            true => Cow::Owned(self.shown.paint(prompt)),
            false => Cow::Borrowed(prompt),
        }
    }
}

impl Completer for LineHelper {
    type Candidate = Choice;

    fn complete(
        &self,
        line: &str,
        cursor: usize,
        _context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Choice>)> {
        let typed = line.get(..cursor).unwrap_or(line);
        Ok(match self.command {
            true => self.shown.with_known(|known| complete(typed, known)),
            false => (cursor, Vec::new()),
        })
    }
}

impl Candidate for Choice {
    fn display(&self) -> &str {
        &self.display
    }

    fn replacement(&self) -> &str {
        &self.replacement
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without it the signal would end this very process.
    #[test]
    fn a_ctrl_c_that_an_answer_tells_of_does_not_come_as_a_signal_as_well() {
        for raised in [true, false] {
            let later = Later::begin().expect("signals can be blocked");
            if raised {
                nix::sys::signal::raise(Signal::SIGINT).expect("it is raised");
            }
            later.forget();
        }
    }
}
