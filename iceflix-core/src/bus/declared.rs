//! What a node has declared, so that a second session can take it over from the first.

use super::{BusError, aside::Aside, operation};
use std::sync::{Arc, Mutex, PoisonError};
use zenoh::{
    Session, Wait,
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

/// A declaration on one session; dropping it takes it back, and may wait for neighbours.
enum Held {
    Subscriber { _taken_back: Subscriber<()> },
    Token { _taken_back: LivelinessToken },
    Queryable { _taken_back: Queryable<()> },
}

/// Something declared, on one session or, for a moment, on two.
pub(super) struct Declared {
    state: Mutex<State>,
    aside: Aside,
}

struct State {
    /// `None` once it is over.
    what: Option<What>,
    held: Vec<(ZenohId, Held)>,
}

impl Declared {
    pub(super) fn new(what: What, aside: Aside) -> Self {
        Self {
            state: Mutex::new(State {
                what: Some(what),
                held: Vec::new(),
            }),
            aside,
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
        let zid = session.zid();
        let held = declare(&self.aside, session.clone(), what).await?;
        let mut state = self.state();
        let there = state.held.iter().any(|(held_on, _)| *held_on == zid);
        if state.what.is_some() && !there {
            state.held.push((zid, held));
        } else {
            self.aside.take_back(held);
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
            self.take_back(held).await;
            if let Some(What::Watcher(_, heard)) = &what {
                heard(zid, Seen::Nothing);
            }
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

    /// It is over: whoever waits for what it brings need not any more. When this returns that is
    /// said to all neighbours.
    pub(super) async fn end(&self) {
        let held = {
            let mut state = self.state();
            state.what = None;
            std::mem::take(&mut state.held)
        };
        self.take_back(held).await;
    }

    async fn take_back<T: Send + 'static>(&self, held: T) {
        let taken_back = self.aside.run(move || {
            drop(held);
            Ok(())
        });
        if let Err(error) = taken_back.await {
            tracing::debug!(%error, "taking back what was declared");
        }
    }
}

impl Drop for Declared {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let held = std::mem::take(&mut state.unwrap_or_else(PoisonError::into_inner).held);
        if !held.is_empty() {
            self.aside.take_back(held);
        }
    }
}

async fn declare(aside: &Aside, session: Session, what: What) -> Result<Held, BusError> {
    let (saying, key) = match &what {
        What::Subscriber(key, _) => ("subscribe to", key.clone()),
        What::Watcher(key, _) => ("watch", key.clone()),
        What::Token(key) => ("declare alive", key.clone()),
        What::Queryable(key, _) => ("answer on", key.clone()),
    };
    let declared = aside.run(move || declare_now(&session, what));
    declared.await.map_err(operation(saying, &key))
}

fn declare_now(session: &Session, what: What) -> zenoh::Result<Held> {
    match what {
        What::Subscriber(key, heard) => session
            .declare_subscriber(&key)
            .callback(move |sample| heard(sample))
            .wait()
            .map(|held| Held::Subscriber { _taken_back: held }),
        What::Watcher(key, heard) => {
            let zid = session.zid();
            session
                .liveliness()
                .declare_subscriber(&key)
                .history(true)
                .callback(move |sample| heard(zid, Seen::Sample(sample)))
                .wait()
                .map(|held| Held::Subscriber { _taken_back: held })
        }
        What::Token(key) => session
            .liveliness()
            .declare_token(&key)
            .wait()
            .map(|held| Held::Token { _taken_back: held }),
        What::Queryable(key, asked) => session
            .declare_queryable(&key)
            .callback(move |query| asked(query))
            .wait()
            .map(|held| Held::Queryable { _taken_back: held }),
    }
}
