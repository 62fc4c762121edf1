//! What a node has declared, so that a second session can take it over from the first.

use super::{BusError, operation};
use std::sync::{Arc, Mutex, PoisonError};
use zenoh::{
    Session,
    liveliness::LivelinessToken,
    pubsub::Subscriber,
    query::{Query, Queryable},
    sample::Sample,
    session::ZenohId,
};

type OnSample = Arc<dyn Fn(Sample) + Send + Sync>;
type OnAlive = Arc<dyn Fn(ZenohId, Seen) + Send + Sync>;
type OnQuery = Arc<dyn Fn(Query) + Send + Sync>;

/// What is declared, on which key, and what is done when something comes.
#[derive(Clone)]
pub(super) enum What {
    Subscriber(String, OnSample),
    Watcher(String, OnAlive),
    Token(String),
    Queryable(String, OnQuery),
}

/// What a session sees of who is alive.
pub(super) enum Seen {
    /// A key came or went.
    Sample(Sample),
    /// The session sees nothing any more: it was left.
    Nothing,
}

/// A declaration on one session; dropping it takes it back.
pub(super) enum Held {
    Subscriber { _taken_back: Subscriber<()> },
    Token(LivelinessToken),
    Queryable { _taken_back: Queryable<()> },
}

/// Something declared, on one session or, for a moment, on two.
pub(super) struct Declared {
    state: Mutex<State>,
}

struct State {
    /// `None` once it is over.
    what: Option<What>,
    held: Vec<(ZenohId, Held)>,
}

impl Declared {
    pub(super) fn new(what: What) -> Self {
        Self {
            state: Mutex::new(State {
                what: Some(what),
                held: Vec::new(),
            }),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Lists of handles: a panic elsewhere cannot have left them unusable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it declares this key alive.
    pub(super) fn is_alive(&self, key: &str) -> bool {
        matches!(&self.state().what, Some(What::Token(token)) if token == key)
    }

    /// Declares it on this session, too, unless it is there already.
    pub(super) async fn also_on(&self, session: &Session) -> Result<(), BusError> {
        let what = {
            let state = self.state();
            match &state.what {
                Some(what) if state.held.iter().all(|(zid, _)| *zid != session.zid()) => {
                    what.clone()
                }
                _ => return Ok(()),
            }
        };
        let held = declare(session, what).await?;
        let mut state = self.state();
        let there = state.held.iter().any(|(zid, _)| *zid == session.zid());
        if state.what.is_some() && !there {
            state.held.push((session.zid(), held));
        }
        Ok(())
    }

    /// Takes it back from all other sessions.
    pub(super) async fn only_on(&self, session: &Session) {
        let (others, what) = {
            let mut state = self.state();
            let (here, others): (Vec<_>, Vec<_>) = std::mem::take(&mut state.held)
                .into_iter()
                .partition(|(zid, _)| *zid == session.zid());
            state.held = here;
            (others, state.what.clone())
        };
        for (zid, held) in others {
            held.take_back().await;
            if let Some(What::Watcher(_, heard)) = &what {
                heard(zid, Seen::Nothing);
            }
        }
    }

    /// Takes it back from everywhere, and waits until that is said.
    pub(super) async fn withdraw(&self) {
        for held in self.end() {
            held.take_back().await;
        }
    }

    /// Hears nothing any more, and does not know.
    #[cfg(test)]
    pub(super) fn deafen(&self) {
        let mut state = self.state();
        state
            .held
            .retain(|(_, held)| !matches!(held, Held::Subscriber { .. }));
    }

    /// Sees nobody come or go any more, and does not know.
    #[cfg(test)]
    pub(super) fn blind(&self) {
        let mut state = self.state();
        if matches!(state.what, Some(What::Watcher(..))) {
            state.held.clear();
        }
    }

    /// It is over: whoever waits for what it brings need not any more.
    pub(super) fn end(&self) -> Vec<Held> {
        let mut state = self.state();
        state.what = None;
        std::mem::take(&mut state.held)
            .into_iter()
            .map(|(_, held)| held)
            .collect()
    }
}

impl Held {
    async fn take_back(self) {
        if let Held::Token(token) = self
            && let Err(error) = token.undeclare().await
        {
            tracing::debug!(%error, "withdrawing from a bus that is closed already");
        }
    }
}

async fn declare(session: &Session, what: What) -> Result<Held, BusError> {
    match what {
        What::Subscriber(key, heard) => session
            .declare_subscriber(&key)
            .callback(move |sample| heard(sample))
            .await
            .map(|held| Held::Subscriber { _taken_back: held })
            .map_err(operation("subscribe to", &key)),
        What::Watcher(key, heard) => {
            let zid = session.zid();
            session
                .liveliness()
                .declare_subscriber(&key)
                .history(true)
                .callback(move |sample| heard(zid, Seen::Sample(sample)))
                .await
                .map(|held| Held::Subscriber { _taken_back: held })
                .map_err(operation("watch", &key))
        }
        What::Token(key) => session
            .liveliness()
            .declare_token(&key)
            .await
            .map(Held::Token)
            .map_err(operation("declare alive", &key)),
        What::Queryable(key, asked) => session
            .declare_queryable(&key)
            .callback(move |query| asked(query))
            .await
            .map(|held| Held::Queryable { _taken_back: held })
            .map_err(operation("answer on", &key)),
    }
}
