//! A topic that survives lost messages: a snapshot, then numbered changes.
//!
//! A *speaker* keeps a map of entries. Each change has the next number; every two seconds it says
//! its number even when nothing changed. A *hearer* asks for a snapshot when it first hears of a
//! speaker, when a number is missing, and when the speaker has started anew; then it follows the
//! changes. So a lost message costs delay, never truth.

mod ears;
mod follower;
mod inbox;
mod wire;

pub use ears::Ears;
pub use follower::{Follower, Todo};
pub use inbox::Inbox;
pub use wire::{Change, Changes, Piece, Snapshot, assemble, decode, split};

use crate::{
    api::InstanceId,
    bus::{Answering, Bus, BusError, Message, Size},
    topics::{Entries, FeedTopic, Topics},
};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use inbox::{Outbox, inbox};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

/// How often a speaker says its number: the longest that a lost last message stays unnoticed.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// How long a snapshot may take to arrive.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a joining hearer waits for those that speak already.
const JOIN_TIMEOUT: Duration = Duration::from_secs(2);

/// How soon everyone is asked again when nobody answered.
const AGAIN: Duration = Duration::from_millis(50);

/// One instance's part of a topic. Dropping it ends it.
pub struct Speaker {
    state: Arc<Mutex<Spoken>>,
    _answering: Answering,
    _publisher: AbortOnDropHandle<()>,
}

struct Spoken {
    incarnation: u64,
    number: u64,
    entries: Entries,
    outbox: mpsc::UnboundedSender<Changes>,
}

impl Speaker {
    /// Begins to speak with these entries.
    ///
    /// # Errors
    /// When the bus is closed.
    pub async fn start(
        bus: &Bus,
        topic: &FeedTopic,
        instance: &InstanceId,
        entries: Entries,
    ) -> Result<Self, BusError> {
        let (outbox, inbox) = mpsc::unbounded_channel();
        let state = Arc::new(Mutex::new(Spoken {
            incarnation: rand::random(),
            number: 0,
            entries,
            outbox,
        }));
        let key = topic.of(instance);
        let shared = Arc::clone(&state);
        let answering = bus
            .answer(&key, move |question| {
                let shared = Arc::clone(&shared);
                // Sorting a large snapshot into pieces takes a while.
                let answer = tokio::task::spawn_blocking(move || {
                    let (incarnation, number, entries) = {
                        let spoken = shared.lock().unwrap_or_else(PoisonError::into_inner);
                        (spoken.incarnation, spoken.number, spoken.wanted(&question))
                    };
                    split(incarnation, number, entries)
                });
                Box::pin(answer.map(Result::unwrap_or_default))
            })
            .await?;
        let publisher = tokio::spawn(publish(bus.clone(), key, Arc::clone(&state), inbox));
        Ok(Self {
            state,
            _answering: answering,
            _publisher: AbortOnDropHandle::new(publisher),
        })
    }

    /// Sets (`Some`) or removes (`None`) entries, and tells everyone.
    pub fn change(&self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        let mut spoken = self.lock();
        for (name, value) in &changes {
            match value {
                Some(value) => spoken.entries.insert(name.clone(), value.clone()),
                None => spoken.entries.remove(name),
            };
        }
        spoken.number += 1;
        spoken.tell(changes);
    }

    /// Sets entries without telling: those who follow this speaker have heard of them elsewhere,
    /// and who joins later gets them with its snapshot.
    pub fn hold(&self, entries: Entries) {
        self.lock().entries.extend(entries);
    }

    /// Makes every hearer take a new snapshot.
    pub fn again(&self) {
        let mut spoken = self.lock();
        spoken.incarnation = rand::random();
        spoken.tell(Vec::new());
    }

    /// What whoever joins now is told.
    pub fn entries(&self) -> Entries {
        self.lock().entries.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Spoken> {
        // A panic while it was held cannot have left the map half changed in a way that matters:
        // the number only moves after the entries.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spoken {
    /// The entries that a question asks for: those it names, or all when it is empty.
    fn wanted(&self, question: &[u8]) -> Entries {
        if question.is_empty() {
            return self.entries.clone();
        }
        let names: Vec<String> = decode(question).unwrap_or_default();
        names
            .into_iter()
            .filter_map(|name| {
                let value = self.entries.get(&name)?.clone();
                Some((name, value))
            })
            .collect()
    }

    fn tell(&self, changes: Vec<Change>) {
        // Nobody takes it any more only when the speaker is being dropped.
        let _ = self.outbox.send(Changes {
            incarnation: self.incarnation,
            number: self.number,
            changes,
        });
    }
}

async fn publish(
    bus: Bus,
    key: String,
    state: Arc<Mutex<Spoken>>,
    mut inbox: mpsc::UnboundedReceiver<Changes>,
) {
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    loop {
        let message = tokio::select! {
            biased;
            message = inbox.recv() => match message {
                Some(message) => message,
                None => return,
            },
            _ = heartbeat.tick() => {
                let spoken = state.lock().unwrap_or_else(PoisonError::into_inner);
                // A change may have been made since the outbox was seen empty; its message
                // follows and carries the number.
                Changes { incarnation: spoken.incarnation, number: spoken.number, changes: Vec::new() }
            }
        };
        if let Err(error) = bus.publish(&key, wire::encode(&message)).await {
            tracing::debug!(%error, "not published; a heartbeat will show the gap");
        }
    }
}

/// What a hearer learned of a speaker.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// Everything it has; whatever else was known of it is no longer so.
    Everything(InstanceId, Entries),
    /// Entries that were set or removed.
    Changed(InstanceId, Vec<Change>),
    /// It is no longer alive. What it said stays true until it says otherwise.
    Gone(InstanceId),
}

/// Somebody waits until everyone was asked and what they said was taken in; told whether anybody
/// answered.
type Asked = tokio::sync::oneshot::Sender<bool>;

/// Follows all speakers of a topic. Dropping it ends it.
pub struct Hearer {
    refresh: mpsc::Sender<Asked>,
    ears: Ears,
    _task: AbortOnDropHandle<()>,
}

impl Hearer {
    /// Begins to follow a topic. Returns once everyone who speaks now was heard (or two seconds
    /// have passed); what they said is then in the inbox.
    ///
    /// # Errors
    /// When the bus is closed.
    pub async fn follow(
        bus: &Bus,
        topics: &Topics,
        topic: FeedTopic,
        except: Option<InstanceId>,
    ) -> Result<(Self, Inbox), BusError> {
        Self::follow_after(bus, topics, topic, except, Duration::ZERO).await
    }

    /// The same, for one that knows that others speak: when nobody answers, it asks again for so
    /// long. A node that has just joined the bus may not be connected to them yet.
    ///
    /// # Errors
    /// When the bus is closed.
    pub async fn follow_after(
        bus: &Bus,
        topics: &Topics,
        topic: FeedTopic,
        except: Option<InstanceId>,
        patience: Duration,
    ) -> Result<(Self, Inbox), BusError> {
        let alive_key = topics.availability_of(topic.speaker());
        let changes = bus.subscribe(&topic.all()).await?;
        let alive = bus.watch_alive(&alive_key).await?;
        let (outbox, inbox) = inbox();
        let (refresh, refreshes) = mpsc::channel(1);
        let (present, who) = watch::channel(BTreeSet::new());
        let (came, arrived) = watch::channel(BTreeMap::new());
        let (last, heard) = watch::channel(BTreeMap::new());
        let mut hearing = Hearing {
            bus: bus.clone(),
            topics: topics.clone(),
            topic,
            except,
            follower: Follower::default(),
            present,
            came,
            last,
            outbox,
        };
        let until = Instant::now() + patience;
        let answers = loop {
            let answers = ask_everyone(bus.clone(), hearing.topic.all()).await;
            if hearing.any_other(&answers) || Instant::now() >= until {
                break answers;
            }
            tokio::time::sleep(AGAIN).await;
        };
        hearing.take_in(answers).await;
        let task = tokio::spawn(hearing.run(changes, alive, refreshes));
        let hearer = Self {
            refresh,
            ears: Ears {
                alive: who,
                arrived,
                heard,
            },
            _task: AbortOnDropHandle::new(task),
        };
        Ok((hearer, inbox))
    }

    /// Which speakers are announced as alive, now and whenever that changes; filled within
    /// milliseconds of [`Hearer::follow`].
    pub fn alive(&self) -> watch::Receiver<BTreeSet<InstanceId>> {
        self.ears.alive.clone()
    }

    /// Whom it should hear, and whom it does.
    pub fn ears(&self) -> Ears {
        self.ears.clone()
    }

    /// Asks all speakers again, and returns when what they said was taken in (see [`Inbox`]), so never
    /// in the reader itself: for one that has met something it should know and does not. Whether any
    /// answered.
    pub async fn refresh(&self) -> bool {
        let (done, waiting) = tokio::sync::oneshot::channel();
        if self.refresh.send(done).await.is_err() {
            return false;
        }
        // An error means that the hearer ended; there is nothing to wait for then.
        waiting.await.unwrap_or_default()
    }

    /// Hears everything anew, after this process stood still: asks until somebody answers, if
    /// anybody ever spoke, and until what was said is taken in; at most for `patience`.
    pub async fn catch_up(&self, patience: Duration) {
        let others = self.ears.heard_any();
        let heard = async {
            while !self.refresh().await && others {
                tokio::time::sleep(AGAIN).await;
            }
        };
        if tokio::time::timeout(patience, heard).await.is_err() {
            tracing::warn!("what was said meanwhile was not heard in time");
        }
    }
}

struct Hearing {
    bus: Bus,
    topics: Topics,
    topic: FeedTopic,
    except: Option<InstanceId>,
    follower: Follower,
    present: watch::Sender<BTreeSet<InstanceId>>,
    came: watch::Sender<BTreeMap<InstanceId, Instant>>,
    last: watch::Sender<BTreeMap<InstanceId, Instant>>,
    outbox: Outbox,
}

type Asking = FuturesUnordered<BoxFuture<'static, (InstanceId, Option<Snapshot>)>>;

impl Hearing {
    async fn run(
        mut self,
        mut changes: crate::bus::Subscription<Message>,
        mut alive: crate::bus::Subscription<crate::bus::Alive>,
        mut refreshes: mpsc::Receiver<Asked>,
    ) {
        let mut asking = Asking::new();
        let mut refreshing = FuturesUnordered::new();
        let closed = self.outbox.clone();
        loop {
            let todo = tokio::select! {
                message = changes.next() => {
                    let Some(message) = message else { return };
                    self.heard(&message)
                }
                event = alive.next() => {
                    let Some(event) = event else { return };
                    match self.topics.parse_availability(&event.key) {
                        Some((_, speaker)) if Some(&speaker) == self.except.as_ref() => Vec::new(),
                        Some((_, speaker)) => self.came_or_went(speaker, event.alive),
                        None => Vec::new(),
                    }
                }
                Some((speaker, snapshot)) = asking.next() => match snapshot {
                    Some(snapshot) => self.follower.snapshot(&speaker, snapshot),
                    // Its next heartbeat, or its return, asks again.
                    None => self.follower.silent(&speaker),
                },
                Some(done) = refreshes.recv() => {
                    // Beside the rest: changes go on being heard while somebody is slow to answer.
                    let answers = ask_everyone(self.bus.clone(), self.topic.all());
                    refreshing.push(answers.map(|answers| (answers, done)).boxed());
                    Vec::new()
                }
                Some((answers, done)) = refreshing.next() => {
                    let answered = self.any_other(&answers);
                    self.take_in(answers).await;
                    // Behind what they said: it may wait in the inbox while a disk is slow.
                    self.outbox.tell_when_read(done, answered).await;
                    Vec::new()
                }
                () = closed.closed() => return,
            };
            for speaker in self.pass_on(todo).await {
                asking.push(Box::pin(ask(
                    self.bus.clone(),
                    self.topic.of(&speaker),
                    speaker,
                )));
            }
        }
    }

    fn came_or_went(&mut self, speaker: InstanceId, alive: bool) -> Vec<Todo> {
        let todo = match alive {
            true => self.follower.alive(&speaker),
            false => self.follower.gone(&speaker),
        };
        let name = speaker.clone();
        let changed = self.present.send_if_modified(|present| match alive {
            true => present.insert(name),
            false => present.remove(&name),
        });
        if changed {
            self.came.send_modify(|came| {
                let _before = match alive {
                    true => came.insert(speaker, Instant::now()),
                    false => came.remove(&speaker),
                };
            });
        }
        todo
    }

    fn heard(&mut self, message: &Message) -> Vec<Todo> {
        let Some(speaker) = self.topic.parse(&message.key) else {
            return Vec::new();
        };
        if Some(&speaker) == self.except.as_ref() {
            return Vec::new();
        }
        self.last.send_modify(|heard| {
            heard.insert(speaker.clone(), Instant::now());
        });
        match decode::<Changes>(&message.payload) {
            Some(changes) => self.follower.changes(&speaker, changes),
            None => {
                tracing::warn!(key = message.key, "a malformed announcement was ignored");
                Vec::new()
            }
        }
    }

    /// Whether others than this node are among those who answered.
    fn any_other(&self, answers: &[Message]) -> bool {
        let mut speakers = answers.iter().map(|answer| self.topic.parse(&answer.key));
        speakers.any(|speaker| speaker.is_some() && speaker != self.except)
    }

    /// Takes in the snapshots of everyone who answered.
    async fn take_in(&mut self, answers: Vec<Message>) {
        let mut pieces: BTreeMap<InstanceId, Vec<Piece>> = BTreeMap::new();
        for answer in answers {
            if let Some(speaker) = self.topic.parse(&answer.key)
                && Some(&speaker) != self.except.as_ref()
                && let Some(piece) = decode::<Piece>(&answer.payload)
            {
                pieces.entry(speaker).or_default().push(piece);
            }
        }
        for (speaker, pieces) in pieces {
            if let Some(snapshot) = assemble(pieces) {
                let todo = self.follower.refreshed(&speaker, snapshot);
                // What else is to be asked comes up again with the next heartbeat.
                let _ = self.pass_on(todo).await;
            }
        }
    }

    /// Hands on what was learned; returns whom to ask.
    async fn pass_on(&mut self, todo: Vec<Todo>) -> Vec<InstanceId> {
        let mut ask = Vec::new();
        for todo in todo {
            match todo {
                Todo::Ask(speaker) => ask.push(speaker),
                // The receiver is gone when the service stops; `run` ends with it.
                Todo::Tell(heard) => self.outbox.tell(heard).await,
            }
        }
        ask
    }
}

/// Asks all speakers of a topic for everything.
async fn ask_everyone(bus: Bus, key: String) -> Vec<Message> {
    let answers = bus.ask(&key, Vec::new(), Size::Large, JOIN_TIMEOUT).await;
    answers.unwrap_or_else(|error| {
        tracing::warn!(%error, "nobody could be asked");
        Vec::new()
    })
}

/// Asks all speakers of a topic for a few entries by name: for a reader that cannot wait until it
/// hears of them.
pub async fn look_up(
    bus: &Bus,
    topic: &FeedTopic,
    names: &[&str],
    timeout: Duration,
) -> Vec<(InstanceId, Entries)> {
    let names = wire::encode(&names);
    let answers = bus.ask(&topic.all(), names, Size::Small, timeout).await;
    let said = answers
        .unwrap_or_default()
        .into_iter()
        .filter_map(|answer| {
            let piece: Piece = decode(&answer.payload)?;
            Some((topic.parse(&answer.key)?, piece.entries))
        });
    said.collect()
}

async fn ask(bus: Bus, key: String, speaker: InstanceId) -> (InstanceId, Option<Snapshot>) {
    let answers = bus
        .ask(&key, Vec::new(), Size::Large, SNAPSHOT_TIMEOUT)
        .await;
    let pieces = answers
        .unwrap_or_default()
        .iter()
        .filter_map(|answer| decode(&answer.payload))
        .collect();
    (speaker, assemble(pieces))
}

/// Reads an entry's value; a malformed one is ignored, with a word in the log.
pub fn read<T: serde::de::DeserializeOwned>(name: &str, value: Value) -> Option<T> {
    serde_json::from_value(value)
        .inspect_err(|error| tracing::warn!(name, %error, "a malformed announcement was ignored"))
        .ok()
}
