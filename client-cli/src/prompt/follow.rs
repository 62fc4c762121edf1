//! What goes on beside the prompt: watching the cluster, renewing tokens, learning names.

use crate::cli::{Command, Session, User};
use crate::client::Client;
use crate::config::Target;
use crate::editor::shown::Shown;
use crate::listed::Listed;
use crate::output::Notifier;
use crate::session::TOKEN_MARGIN;
use iceflix_core::api::catalog::Query;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

/// How many films' names completion knows at most.
const FILMS: u32 = 5000;

/// The pause between attempts to reach a cluster, or to renew a token.
const PAUSE: Duration = Duration::from_secs(1);

/// Tasks beside the prompt; they end with it.
pub struct Follower {
    shown: Arc<Shown>,
    notifier: Notifier,
    /// Somebody sits there. A script needs neither completion nor news.
    typed: bool,
    cluster: Option<AbortOnDropHandle<()>>,
    account: Option<AbortOnDropHandle<()>>,
    films: Option<AbortOnDropHandle<()>>,
    trying: Option<(oneshot::Receiver<Client>, AbortOnDropHandle<()>)>,
}

fn spawn(task: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(task))
}

impl Follower {
    /// Follows nothing yet.
    pub fn new(shown: Arc<Shown>, notifier: Notifier, typed: bool) -> Self {
        Self {
            shown,
            notifier,
            typed,
            cluster: None,
            account: None,
            films: None,
            trying: None,
        }
    }

    /// Follows a cluster, and no other any more.
    pub fn follow(&mut self, client: &Client) {
        self.trying = None;
        self.shown.set_ended(None);
        self.shown.with_known(|known| known.films.clear());
        let mut reachable = client.reachable();
        let (shown, notifier) = (Arc::clone(&self.shown), self.notifier.clone());
        shown.set_reachable(*reachable.borrow_and_update());
        self.cluster = Some(spawn(async move {
            while reachable.changed().await.is_ok() {
                let now = *reachable.borrow_and_update();
                if shown.set_reachable(now) {
                    notifier.tell(match now {
                        true => "the cluster answers again",
                        false => "the cluster does not answer; trying again",
                    });
                }
            }
        }));
        self.refresh(Some(client), true);
    }

    /// Looks anew at who is logged in (`account`) and at the films.
    pub fn refresh(&mut self, client: Option<&Client>, account: bool) {
        let Some(client) = client.filter(|_| self.typed) else {
            return;
        };
        if account {
            self.shown.set_ended(None);
            let renewing = renew(
                client.clone(),
                Arc::clone(&self.shown),
                self.notifier.clone(),
            );
            self.account = Some(spawn(renewing));
        }
        self.films = Some(spawn(learn(client.clone(), Arc::clone(&self.shown))));
    }

    /// Tries to reach a cluster until it answers; [`Follower::found`] then has it.
    pub fn keep_trying(&mut self, target: Target, state_dir: PathBuf) {
        let (found, finding) = oneshot::channel();
        let (shown, notifier) = (Arc::clone(&self.shown), self.notifier.clone());
        let task = spawn(async move {
            loop {
                tokio::time::sleep(PAUSE).await;
                match Client::connect(&target, &state_dir).await {
                    Ok(client) => {
                        shown.set_reachable(true);
                        notifier.tell("the cluster answers");
                        let _ = found.send(client);
                        return;
                    }
                    Err(error) => tracing::debug!(%error, "still no Main"),
                }
            }
        });
        self.trying = Some((finding, task));
    }

    /// The cluster that was tried for, once it answered.
    pub fn found(&mut self) -> Option<Client> {
        let (finding, _) = self.trying.as_mut()?;
        finding.try_recv().ok()
    }
}

/// Keeps a token ready, so that no command waits for one; notices when the session ends.
async fn renew(client: Client, shown: Arc<Shown>, notifier: Notifier) {
    loop {
        let wait = match client.token_for(TOKEN_MARGIN).await {
            Ok(token) => token.left(SystemTime::now()).saturating_sub(TOKEN_MARGIN),
            Err(error) if error.is_refusal() => {
                // Without a session there is nothing to renew, and nothing new to tell.
                if let Ok(Some(session)) = client.session().await {
                    shown.set_ended(Some(session.id));
                    notifier.tell("your session has ended; log in again with `login`");
                }
                return;
            }
            Err(error) => {
                tracing::debug!(%error, "no fresh token");
                PAUSE
            }
        };
        tokio::time::sleep(wait + Duration::from_millis(50)).await;
    }
}

/// Learns the films' names and tags, for completion.
async fn learn(client: Client, shown: Arc<Shown>) {
    match client.search(&Query::default(), Some(FILMS)).await {
        Ok(found) => {
            let films = found.tiles.iter().map(Listed::from).collect();
            shown.with_known(|known| known.films = films);
        }
        Err(error) => tracing::debug!(%error, "no names to complete"),
    }
}

/// Whether a command may change who is logged in.
pub fn changes_account(command: &Command) -> bool {
    matches!(
        command,
        Command::Login { .. }
            | Command::Logout
            | Command::Revoke { .. }
            | Command::Session(Session::End { .. })
            | Command::User(
                User::Passwd { .. }
                    | User::Remove { .. }
                    | User::Disable { .. }
                    | User::Role { .. }
            )
    )
}

/// Whether a command may change films' names or tags.
pub fn changes_films(command: &Command) -> bool {
    matches!(command, Command::Tag(_) | Command::Rename { .. })
}
