//! What people are asked: names, and passwords that do not show.

use crate::client::blocking;
use crate::editor::{Editor, Heard, hidden};
use crate::error::Error;
use std::io::{BufRead, IsTerminal, Write};

/// Where answers come from.
#[derive(Clone, Default)]
pub enum Input {
    /// This process's standard input: a terminal, a pipe or a file.
    #[default]
    Standard,
    /// The prompt's line editor, which owns the terminal.
    Editor(Editor),
}

impl Input {
    /// Asks for a word. Empty answers mean `default`.
    pub async fn word(&self, question: &str, default: &str) -> Result<String, Error> {
        let question = format!("{question} [{default}]: ");
        let answer = match self {
            Input::Editor(editor) => editor.ask(question).await?,
            Input::Standard => {
                let mut stderr = std::io::stderr();
                let _ = write!(stderr, "{question}").and_then(|()| stderr.flush());
                self.line().await?.unwrap_or_default()
            }
        };
        match answer.trim() {
            "" => Ok(default.to_owned()),
            answer => Ok(answer.to_owned()),
        }
    }

    /// Whether somebody sits there who can be asked.
    pub fn is_person(&self) -> bool {
        match self {
            Input::Editor(_) => true,
            Input::Standard => std::io::stdin().is_terminal(),
        }
    }

    /// Asks for a password at the terminal, without showing it; with `from_stdin` reads the next
    /// line of standard input instead.
    pub async fn password(&self, question: &str, from_stdin: bool) -> Result<String, Error> {
        let password = if self.is_person() && !(from_stdin && matches!(self, Input::Standard)) {
            let question = format!("{question}: ");
            match self {
                Input::Editor(editor) => editor.password(question).await?,
                Input::Standard => match blocking(move || hidden(&question)).await? {
                    Heard::Line(password) => password,
                    Heard::Interrupted | Heard::Ended => return Err(Error::Interrupted),
                },
            }
        } else if from_stdin {
            self.line().await?.ok_or_else(|| {
                Error::Usage(format!(
                    "standard input ended before a line for: {question}"
                ))
            })?
        } else {
            return Err(Error::Usage(
                "there is no terminal to ask for the password; give it on standard input with \
                 --password-stdin"
                    .into(),
            ));
        };
        match password.is_empty() {
            true => Err(Error::Usage("the password is empty".into())),
            false => Ok(password),
        }
    }

    /// Asks for a new password, at a terminal twice.
    pub async fn new_password(&self, question: &str, from_stdin: bool) -> Result<String, Error> {
        let password = self.password(question, from_stdin).await?;
        let typed = self.is_person() && !(from_stdin && matches!(self, Input::Standard));
        if typed && self.password("The same again", false).await? != password {
            return Err(Error::Usage("the two passwords differ".into()));
        }
        Ok(password)
    }

    /// The next line of standard input, without its end; `None` when there is none.
    pub async fn line(&self) -> Result<Option<String>, Error> {
        blocking(|| {
            let mut line = Vec::new();
            let doing = "read standard input";
            let read = std::io::stdin().lock().read_until(b'\n', &mut line);
            if read.map_err(Error::io(doing))? == 0 {
                return Ok(None);
            }
            let line = String::from_utf8(line)
                .map_err(|_| Error::Usage("standard input is not UTF-8 text".into()))?;
            let line = line.strip_suffix('\n').unwrap_or(&line);
            Ok(Some(line.strip_suffix('\r').unwrap_or(line).to_owned()))
        })
        .await
    }
}
