//! Nodes that are not seen on the bus, and may live all the same: they are asked themselves.
//!
//! Whoever was cut off and returns, or whose links break, sees the nodes on the bus late, and in any
//! order. An answer in between would show films as not available that live nodes have. So a node that
//! is known to have films, is not seen, and has not said that it would leave is asked for one of them
//! where it was last to be found. If it has it and can play it, it counts as seen.

use crate::index::SharedIndex;
use futures::future::{BoxFuture, join_all};
use iceflix_core::{
    api::{Instance, InstanceId, MediaId, streaming::StreamingClient},
    rpc::{Caller, Security},
};
use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// How long a node may take to answer. One on the same network takes some milliseconds, connecting
/// included; twice this is less than what a caller grants an attempt.
const PATIENCE: Duration = Duration::from_millis(250);

/// How long it counts that a node has answered: about as long as a silent one is seen on the bus.
const LIVES: Duration = Duration::from_secs(1);

/// How long it counts that a node has not, once nothing has changed for a while.
const IS_GONE: Duration = Duration::from_secs(2);

/// How long after the last change the next is to be expected. Meanwhile whoever asks for films has
/// the nodes asked anew: a cable that was out is in from one moment to the next.
const UNSETTLED: Duration = Duration::from_secs(3);

/// The longest that an answer waits for nodes that are asked: for those who were asked before the
/// question came, and once more.
const LONGEST: Duration = Duration::from_millis(600);

/// A node that is not seen, and a film that it had.
pub type Unseen = (Instance, MediaId);

/// What a node said, or did not.
#[derive(Debug, Clone, Copy)]
struct Verdict {
    /// When it was asked.
    asked: Instant,
    lives: bool,
}

/// What a question waits for.
#[derive(Debug, PartialEq)]
enum Wanting {
    Nothing,
    /// Some are being asked.
    Patience,
    /// These are to be asked.
    Answers(Vec<Unseen>),
}

/// What was heard of nodes that are not seen. Pure: what happens comes with its time.
#[derive(Debug)]
struct Verdicts {
    /// When the directory last changed.
    changed: Instant,
    of: BTreeMap<InstanceId, Verdict>,
    /// Some are being asked.
    asking: bool,
}

impl Verdicts {
    fn new(now: Instant) -> Self {
        Self {
            changed: now,
            of: BTreeMap::new(),
            asking: false,
        }
    }

    /// Whether what is known of a node is worth as much as asking it for a question that came then.
    fn suffices(&self, node: &InstanceId, question: Instant) -> bool {
        self.of.get(node).is_some_and(|verdict| {
            let age = question.saturating_duration_since(verdict.asked);
            match verdict.lives {
                true => age < LIVES,
                false if verdict.asked >= question => true,
                false => verdict.asked >= self.changed + UNSETTLED && age < IS_GONE,
            }
        })
    }

    /// What there is to do before a question can be answered that came then.
    fn wanting(&mut self, mut unseen: Vec<Unseen>, question: Instant) -> Wanting {
        unseen.retain(|(node, _)| !self.suffices(&node.instance, question));
        match (unseen.is_empty(), self.asking) {
            (true, _) => Wanting::Nothing,
            (false, true) => Wanting::Patience,
            (false, false) => {
                self.asking = true;
                Wanting::Answers(unseen)
            }
        }
    }

    /// Nodes that were asked then have answered, or have not.
    fn heard(&mut self, answers: Vec<(InstanceId, bool)>, asked: Instant) {
        self.asking = false;
        let answers = answers.into_iter();
        let verdicts = answers.map(|(node, lives)| (node, Verdict { asked, lives }));
        self.of.extend(verdicts);
    }

    /// Forgets what others said: they are seen, or known no more.
    fn keep(&mut self, unseen: &[Unseen]) {
        let is_unseen = |id: &InstanceId| unseen.iter().any(|(node, _)| node.instance == *id);
        self.of.retain(|id, _| is_unseen(id));
    }

    /// Those of them that have answered.
    fn living(&self, unseen: &[Unseen]) -> BTreeMap<InstanceId, Instance> {
        let lives = |node: &InstanceId| self.of.get(node).is_some_and(|verdict| verdict.lives);
        let living = unseen.iter().filter(|(node, _)| lives(&node.instance));
        let living = living.map(|(node, _)| (node.instance.clone(), node.clone()));
        living.collect()
    }
}

/// Asks a node at that address whether it has a film and can play it.
type Ask = Box<dyn Fn(SocketAddr, MediaId) -> BoxFuture<'static, bool> + Send + Sync>;

/// Who was expelled, and is asked nothing.
type Expelled = Box<dyn Fn() -> HashSet<InstanceId> + Send + Sync>;

/// Asks nodes that are not seen. Clones are the same.
#[derive(Clone)]
pub struct Asker(Arc<Inner>);

struct Inner {
    index: Arc<SharedIndex>,
    expelled: Expelled,
    ask: Ask,
    verdicts: Mutex<Verdicts>,
    /// Told whenever those who were asked have answered, or have not.
    answered: watch::Sender<()>,
}

impl Asker {
    /// Asks over connections that are protected like that.
    pub fn new(
        index: Arc<SharedIndex>,
        expelled: impl Fn() -> HashSet<InstanceId> + Send + Sync + 'static,
        security: Security,
    ) -> Self {
        let caller = Caller::by_address(security);
        let ask = move |endpoint, id| -> BoxFuture<'static, bool> {
            let caller = caller.clone();
            Box::pin(async move {
                let ask = |node: StreamingClient, context| async move {
                    node.is_available(context, id).await
                };
                let answer = caller.call_at(endpoint, PATIENCE, ask).await;
                answer.is_ok_and(|has| has)
            })
        };
        Self::asking(index, Box::new(expelled), Box::new(ask))
    }

    fn asking(index: Arc<SharedIndex>, expelled: Expelled, ask: Ask) -> Self {
        Self(Arc::new(Inner {
            index,
            expelled,
            ask,
            verdicts: Mutex::new(Verdicts::new(Instant::now())),
            answered: watch::channel(()).0,
        }))
    }

    /// The directory has changed, as the index knows by now.
    pub fn changed(&self) {
        let unseen = self.unseen();
        let mut verdicts = self.verdicts();
        verdicts.changed = Instant::now();
        verdicts.keep(&unseen);
    }

    /// To be waited for before it is said which films are available: asks the nodes that are not
    /// seen, unless that was just done, for 0.6 s at most. Over at once while all are seen.
    pub async fn ask(&self) {
        let question = Instant::now();
        let mut answered = self.0.answered.subscribe();
        let asking = async {
            loop {
                answered.borrow_and_update();
                match self.verdicts().wanting(self.unseen(), question) {
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
    async fn round(self, nodes: Vec<Unseen>) {
        let asked = Instant::now();
        let ask = |(node, id): Unseen| {
            let answer = tokio::time::timeout(PATIENCE, (self.0.ask)(node.endpoint, id));
            async move { (node.instance, answer.await.unwrap_or(false)) }
        };
        let answers = join_all(nodes.into_iter().map(ask)).await;
        self.verdicts().heard(answers, asked);
        self.0.answered.send_replace(());
    }

    /// Has the index count those that have answered, and nobody else.
    fn show(&self) {
        let unseen = self.unseen();
        // Held until it is shown: of two at once the later one stands.
        let mut verdicts = self.verdicts();
        verdicts.keep(&unseen);
        let living = verdicts.living(&unseen);
        if *self.0.index.read().reached() != living {
            self.0.index.write().set_reached(living);
        }
    }

    fn unseen(&self) -> Vec<Unseen> {
        let index = self.0.index.read();
        match index.misses_nodes() {
            true => index.unseen(&(self.0.expelled)()),
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

#[cfg(test)]
mod tests;
