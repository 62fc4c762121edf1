//! What the commands do. The shell runs one; the prompt runs many, with a memory between them.

mod account;
mod background;
mod films;
mod sessions;
mod streams;
mod users;
mod watch;

pub use background::Background;

use crate::ask::Input;
use crate::cli::{Command, Film, Session, Tag, TagWords, TypedSession, Url};
use crate::client::Client;
use crate::config::Environment;
use crate::error::Error;
use crate::listed::Listed;
use crate::output::{Notifier, Output, table};
use crate::requests::TypedId;
use iceflix_core::api::{Instance, MediaId};
use serde::Serialize;

/// What the prompt keeps between commands.
#[derive(Default)]
pub struct Memory {
    /// The last result list; its numbers stand for films.
    pub results: Vec<Listed>,
    /// The film that commands without an ID are about.
    pub selected: Option<Listed>,
    /// The stream that runs beside the prompt.
    pub background: Background,
}

/// Runs commands against a cluster.
pub struct Shell {
    pub(crate) env: Environment,
    client: Option<Client>,
    out: Output,
    input: Input,
    /// Only at the prompt.
    pub(crate) memory: Option<Memory>,
}

impl Shell {
    /// One that runs a single command.
    pub fn once(env: Environment, client: Client, json: bool) -> Self {
        Self {
            env,
            client: Some(client),
            out: Output::of_process(json),
            input: Input::Standard,
            memory: None,
        }
    }

    /// One that runs a prompt's commands, connected or not yet.
    pub fn prompt(env: Environment, input: Input, notifier: Notifier) -> Self {
        Self {
            env,
            client: None,
            out: Output::default(),
            input,
            memory: Some(Memory {
                background: Background::new(notifier),
                ..Memory::default()
            }),
        }
    }

    /// The client, once it is connected.
    pub fn client(&self) -> Result<&Client, Error> {
        self.client.as_ref().ok_or_else(|| {
            Error::Unavailable(
                "not connected to a cluster; `connect HOST:PORT` names a Main of one".into(),
            )
        })
    }

    /// Turns to a cluster (or to none): what was remembered of another means nothing there.
    pub async fn set_client(&mut self, client: Option<Client>) {
        if let Some(memory) = &mut self.memory {
            memory.background.stop().await;
            memory.results.clear();
            memory.selected = None;
        }
        self.client = client;
    }

    /// Whether the next command's results are JSON; a terminal may have changed its size too.
    pub fn set_json(&mut self, json: bool) {
        self.out = Output::of_process(json);
    }

    /// Runs a command.
    pub async fn run(&mut self, command: Command) -> Result<(), Error> {
        match command {
            Command::Status => self.status(),
            Command::Login {
                user,
                password_stdin,
            } => self.login(user, password_stdin).await,
            Command::Logout => self.logout().await,
            Command::Search(search) => self.search(search).await,
            Command::Show { film } => self.show(&film).await,
            Command::Play { film, player } => self.play(&film, player.as_deref()).await,
            Command::Url(url) => match url.lasting {
                Some(lasting) => self.granted_url(&url.film, lasting).await,
                None => self.url(&url.film, url.any_host).await,
            },
            Command::Stream(command) => self.streams(command).await,
            Command::Sdp { film } => self.sdp(&film).await,
            Command::Tag(tag) => self.tag(&tag).await,
            Command::Rename { words } => self.rename(&words).await,
            Command::Session(session) => self.sessions(session).await,
            Command::User(user) => self.user(user).await,
            Command::Revoke { user } => self.revoke(&user).await,
        }
    }

    fn status(&self) -> Result<(), Error> {
        let view = self.client()?.directory().borrow().clone();
        let rows: Vec<StatusRow> = view.instances.iter().map(StatusRow::from).collect();
        self.out.result(&rows, || {
            let lines: Vec<Vec<String>> = view
                .instances
                .iter()
                .map(|instance| {
                    let state = if instance.draining {
                        "leaving"
                    } else {
                        "alive"
                    };
                    vec![
                        instance.kind.to_string(),
                        instance.instance.to_string(),
                        instance.endpoint.to_string(),
                        instance.pid.to_string(),
                        state.to_owned(),
                    ]
                })
                .collect();
            let header = ["KIND", "INSTANCE", "ENDPOINT", "PID", "STATE"];
            table(&header, &lines, 1, self.out.width)
        })
    }

    /// The film a command is about: the one it names, or the selected one.
    pub(crate) async fn film(&self, film: &Film) -> Result<MediaId, Error> {
        let Some(typed) = &film.id else {
            return self.selected().map(|film| film.id);
        };
        if let Some(listed) = self
            .memory
            .as_ref()
            .and_then(|memory| memory.numbered(typed))
        {
            return Ok(listed.id);
        }
        let id: TypedId = typed.parse()?;
        match self.client()?.resolve(&id).await {
            Err(Error::NotFound(why)) if self.memory.is_some() && is_number(typed) => {
                Err(Error::NotFound(format!(
                    "the last result list has no number {typed}, and {why}"
                )))
            }
            film => film,
        }
    }

    fn selected(&self) -> Result<&Listed, Error> {
        let memory = self.memory.as_ref();
        memory
            .and_then(|memory| memory.selected.as_ref())
            .ok_or_else(|| Error::Usage("which film? Give an ID, or `select` one first".into()))
    }

    /// A film and tags. At the prompt, with a film selected, the ID may be left out: the first
    /// word of several is an ID if there is such a film, and a tag otherwise.
    async fn film_and_tags<'a>(
        &self,
        words: &'a [String],
    ) -> Result<(MediaId, &'a [String]), Error> {
        let (first, rest) = words
            .split_first()
            .ok_or_else(|| Error::Usage("which film, and which tags?".into()))?;
        if self.memory.is_some() && rest.is_empty() {
            return self.selected().map(|film| (film.id, words));
        }
        let id = Some(first.clone());
        let named = self.film(&Film { id }).await;
        match (named, self.selected()) {
            (Ok(id), _) => Ok((id, rest)),
            (Err(error), Ok(selected)) if error.means_no_film() => Ok((selected.id, words)),
            (Err(error), _) => Err(error),
        }
    }
}

impl Memory {
    /// The film of that number in the last result list.
    pub fn numbered(&self, word: &str) -> Option<&Listed> {
        let number: usize = word.parse().ok().filter(|_| is_number(word))?;
        self.results.get(number.checked_sub(1)?)
    }
}

fn is_number(word: &str) -> bool {
    word.bytes().all(|digit| digit.is_ascii_digit())
}

/// What a name of several words is answered with.
fn quotes_wanted() -> Error {
    Error::Usage("a name of several words wants quotes: rename ID 'NEW NAME'".into())
}

/// Finds what is wrong with a command by itself, before anything is connected to.
pub fn check(command: &Command) -> Result<(), Error> {
    let id = match command {
        // Which of them is an ID, and which a part of the name?
        Command::Rename { words } if words.len() > 2 => {
            return Err(quotes_wanted());
        }
        Command::Session(Session::End { id, .. }) => {
            return id.parse::<TypedSession>().map(drop);
        }
        Command::Show { film }
        | Command::Play { film, .. }
        | Command::Url(Url { film, .. })
        | Command::Sdp { film } => film.id.as_ref(),
        Command::Tag(Tag::Add(TagWords { words }) | Tag::Remove(TagWords { words }))
        | Command::Rename { words } => words.first(),
        _ => None,
    };
    id.map_or(Ok(()), |id| id.parse::<TypedId>().map(drop))
}

/// A line of `status --json`.
#[derive(Debug, Serialize)]
struct StatusRow {
    kind: String,
    instance: String,
    endpoint: String,
    pid: u32,
}

impl From<&Instance> for StatusRow {
    fn from(instance: &Instance) -> Self {
        Self {
            kind: instance.kind.to_string(),
            instance: instance.instance.to_string(),
            endpoint: instance.endpoint.to_string(),
            pid: instance.pid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(n: u8) -> Listed {
        Listed {
            id: MediaId::from_bytes([n; 32]),
            name: format!("film {n}"),
            tags: Vec::new(),
        }
    }

    #[test]
    fn results_are_numbered_from_one() {
        let memory = Memory {
            results: vec![listed(1), listed(2)],
            ..Memory::default()
        };
        assert_eq!(memory.numbered("2"), Some(&listed(2)));
        for other in ["0", "3", "+1", "-1", "", "1a", "99999999999999999999999"] {
            assert_eq!(memory.numbered(other), None, "{other}");
        }
    }

    #[test]
    fn a_status_row_has_what_scripts_expect() {
        let row = StatusRow::from(&Instance {
            kind: iceflix_core::api::Kind::Auth,
            instance: "auth-1".parse().unwrap(),
            endpoint: "127.0.0.1:7001".parse().unwrap(),
            pid: 42,
            load: 0,
            draining: false,
        });
        assert_eq!(
            serde_json::to_string(&row).unwrap(),
            r#"{"kind":"auth","instance":"auth-1","endpoint":"127.0.0.1:7001","pid":42}"#
        );
    }

    #[test]
    fn a_bad_id_is_seen_without_a_cluster() {
        let film = |id: &str| Film {
            id: Some(id.to_owned()),
        };
        assert!(check(&Command::Show { film: film("ab12") }).is_ok());
        let url = Url {
            film: film("xyz"),
            ..Url::default()
        };
        let bad = check(&Command::Url(url)).unwrap_err();
        assert_eq!(bad.exit_code(), 2);
        let words = vec!["xyz".to_owned(), "name".to_owned()];
        assert!(check(&Command::Rename { words }).is_err());
    }
}
