//! Nodes that are not seen on the bus, and may live all the same: they are asked themselves.
//!
//! Whoever was cut off and returns, or whose links break, sees the nodes on the bus late, and in any
//! order. An answer in between would show films as not available that live nodes have. So a node that
//! is known to have films, is not seen, and has not said that it would leave is asked for one of them
//! where it was last to be found. If it has it and would play it, it counts as seen.
//!
//! A node that is silent may be one whose links are about to return: for a second after a cable is in
//! the system may still look for the other machine's hardware address (ARP asks once a second, RFC 1122
//! 2.3.2.1), while whoever asks has found this one. So where there are signs of a return, silence is no
//! answer for a second: somebody arrived on the same machine, or is the first to be seen on another one
//! than this, or asks from another one while none is seen.

mod verdicts;

pub use verdicts::Turn;

use crate::index::SharedIndex;
use futures::future::{BoxFuture, join_all};
use iceflix_core::{
    api::{Instance, InstanceId, MediaId, streaming::StreamingClient},
    rpc::{AttemptError, CallError, Caller, Security},
};
use std::{
    collections::HashSet,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tarpc::context::Context;
use tokio::{sync::watch, time::Instant};
use verdicts::{Verdicts, Wanting, Word};

/// How long a node may take to answer. One on the same network takes some milliseconds, connecting
/// included. A question may have to wait for one that was asked before, and once more: together that is
/// less than the 500 ms that a caller grants its first attempt.
const PATIENCE: Duration = Duration::from_millis(200);

/// The shortest time in which it is found that a node is silent, also where the system says so.
const SILENT: Duration = Duration::from_millis(100);

/// The longest that an answer waits for nodes that are asked.
const LONGEST: Duration = Duration::from_millis(1300);

/// A node that is not seen, and some films that it had.
pub type Missed = (Instance, Vec<MediaId>);

/// Asks a node at that address whether it has one of these films and would play it. Within
/// [`PATIENCE`].
type Ask = Box<dyn Fn(SocketAddr, Vec<MediaId>) -> BoxFuture<'static, Word> + Send + Sync>;

/// Who was expelled, and is asked nothing.
type Expelled = Box<dyn Fn() -> HashSet<InstanceId> + Send + Sync>;

/// The nodes that are not seen. Clones are the same.
#[derive(Clone)]
pub struct Unseen(Arc<Inner>);

struct Inner {
    index: Arc<SharedIndex>,
    expelled: Expelled,
    ask: Ask,
    verdicts: Mutex<Verdicts>,
    /// Told whenever those who were asked have answered, or have not.
    answered: watch::Sender<()>,
}

impl Unseen {
    /// Those that an index misses, asked over connections that are protected like that.
    pub fn new(
        index: Arc<SharedIndex>,
        expelled: impl Fn() -> HashSet<InstanceId> + Send + Sync + 'static,
        security: Security,
    ) -> Self {
        let caller = Caller::by_address(security);
        let ask = move |endpoint, films: Vec<MediaId>| -> BoxFuture<'static, Word> {
            let caller = caller.clone();
            Box::pin(async move {
                let ask = |node: StreamingClient, context: Context| {
                    let films = films.clone();
                    async move {
                        for film in films {
                            if node.is_available(context, film).await? {
                                return Ok(true);
                            }
                        }
                        Ok(false)
                    }
                };
                match caller.call_at(endpoint, PATIENCE, ask).await {
                    Ok(true) => Word::Lives,
                    Ok(false) => Word::Refuses,
                    Err(error) => unanswered(&error),
                }
            })
        };
        Self::asked_by(index, Box::new(expelled), Box::new(ask))
    }

    fn asked_by(index: Arc<SharedIndex>, expelled: Expelled, ask: Ask) -> Self {
        Self(Arc::new(Inner {
            index,
            expelled,
            ask,
            verdicts: Mutex::new(Verdicts::new(Instant::now())),
            answered: watch::channel(()).0,
        }))
    }

    /// The directory has changed, as the index knows by now.
    pub fn changed(&self, turn: &Turn) {
        let mut verdicts = self.verdicts();
        verdicts.turns(turn, Instant::now());
        verdicts.keep(&self.missed());
    }

    /// To be waited for before it is said which films are available: asks the nodes that are not
    /// seen, unless that was just done, for 1.3 s at most. Over at once while all are seen.
    /// `from_elsewhere` is whether who wants to know is on another machine.
    pub async fn are_asked(&self, from_elsewhere: bool) {
        let question = Instant::now();
        if from_elsewhere {
            self.verdicts().asked_from_elsewhere(question);
        }
        let mut answered = self.0.answered.subscribe();
        let asking = async {
            loop {
                answered.borrow_and_update();
                match self.verdicts().wanting(self.missed(), question) {
                    Wanting::Nothing => break,
                    Wanting::Patience => {}
                    // Not by this question itself: whoever has it may give up, and others wait, too.
                    Wanting::Answers(nodes) => drop(tokio::spawn(self.clone().round(nodes))),
                }
                // Its sender lives in what this borrows.
                let _ = answered.changed().await;
            }
        };
        let _ = tokio::time::timeout(LONGEST, asking).await;
        self.show();
    }

    /// Asks these nodes, all at once.
    async fn round(self, nodes: Vec<Missed>) {
        let _over = Over(&self);
        let asked = Instant::now();
        let ask = |(node, films): Missed| {
            let answer = (self.0.ask)(node.endpoint, films);
            async move {
                let word = answer.await;
                if word == Word::Silence {
                    tokio::time::sleep_until(asked + SILENT).await;
                }
                (node.instance, word)
            }
        };
        let answers = join_all(nodes.into_iter().map(ask)).await;
        self.verdicts().heard(answers, asked);
    }

    /// Has the index count those that have answered, and nobody else.
    fn show(&self) {
        // Held from before it is looked until it is shown: of two at once the later look stands.
        let mut verdicts = self.verdicts();
        let unseen = self.missed();
        verdicts.keep(&unseen);
        let living = verdicts.living(&unseen);
        if *self.0.index.read().reached() != living {
            self.0.index.write().set_reached(living);
        }
    }

    fn missed(&self) -> Vec<Missed> {
        let index = self.0.index.read();
        match index.misses_nodes() {
            true => index.missed(&(self.0.expelled)()),
            // Mostly, and quicker to say.
            false => Vec::new(),
        }
    }

    fn verdicts(&self) -> MutexGuard<'_, Verdicts> {
        // Times and answers: a panic cannot have left them half changed.
        let verdicts = self.0.verdicts.lock();
        verdicts.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a round, also one that breaks.
struct Over<'a>(&'a Unseen);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.verdicts().round_over();
        self.0.0.answered.send_replace(());
    }
}

/// What it says of a node that it did not answer: where a process has died, the system refuses.
fn unanswered(error: &CallError) -> Word {
    match error {
        CallError::Unreachable {
            source: AttemptError::Connect(error),
            ..
        } if error.kind() == io::ErrorKind::ConnectionRefused => Word::Refuses,
        _ => Word::Silence,
    }
}

#[cfg(test)]
mod tests;
