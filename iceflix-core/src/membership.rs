//! The directory, kept true by what the bus says.

use crate::{
    api::{
        InstanceId, Kind,
        main::{DirectoryVersion, DirectoryView},
    },
    bus::{Alive, Bus, BusError, Message, Size, Subscription},
    directory::Directory,
    topics::{Description, Topics},
};
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

/// How long an instance may take to say how to reach it, before it is asked again.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);

/// The directory of live instances. Cheap to clone; ends with its last clone.
#[derive(Clone)]
pub struct Membership {
    view: watch::Receiver<Arc<DirectoryView>>,
    expelled: watch::Sender<HashSet<InstanceId>>,
    doubt: mpsc::Sender<oneshot::Sender<()>>,
    _task: Arc<AbortOnDropHandle<()>>,
}

impl Membership {
    /// Begins to follow who is alive. Those already there appear within milliseconds.
    ///
    /// # Errors
    /// When the bus is closed.
    pub async fn follow(bus: &Bus, topics: &Topics) -> Result<Self, BusError> {
        let described = bus.subscribe(&topics.all_availability()).await?;
        let alive = bus.watch_alive(&topics.all_availability()).await?;
        let following = Following {
            bus: bus.clone(),
            topics: topics.clone(),
            directory: Directory::default(),
            counter: rand::random(),
        };
        let (sender, view) = watch::channel(Arc::new(following.view()));
        let (expelled, to_expel) = watch::channel(HashSet::new());
        let (doubt, doubts) = mpsc::channel(1);
        let task = tokio::spawn(following.run(described, alive, to_expel, doubts, sender));
        Ok(Self {
            view,
            expelled,
            doubt,
            _task: Arc::new(AbortOnDropHandle::new(task)),
        })
    }

    /// These instances, and no others, are left out of the directory from now on.
    pub fn expel(&self, instances: HashSet<InstanceId>) {
        self.expelled.send_if_modified(|known| {
            let changed = *known != instances;
            *known = instances;
            changed
        });
    }

    /// Asks all once more, after this process stood still. Who does not answer within half a second
    /// is not in the directory when this returns, and not until it answers.
    pub async fn catch_up(&self) {
        let (done, waiting) = oneshot::channel();
        if self.doubt.send(done).await.is_ok() {
            // In vain only when the bus was closed.
            let _ = waiting.await;
        }
    }

    /// The directory, now and whenever it changes.
    pub fn watch(&self) -> watch::Receiver<Arc<DirectoryView>> {
        self.view.clone()
    }

    /// The directory as it is now.
    pub fn now(&self) -> Arc<DirectoryView> {
        Arc::clone(&self.view.borrow())
    }
}

struct Following {
    bus: Bus,
    topics: Topics,
    directory: Directory,
    counter: u64,
}

/// Who was asked, in which of its lives.
type Asked = (Kind, InstanceId, u64);

impl Following {
    fn view(&self) -> DirectoryView {
        DirectoryView {
            version: DirectoryVersion {
                counter: self.counter,
                number: self.directory.number(),
            },
            instances: self.directory.instances(),
        }
    }

    async fn run(
        mut self,
        mut described: Subscription<Message>,
        mut alive: Subscription<Alive>,
        mut expelled: watch::Receiver<HashSet<InstanceId>>,
        mut doubts: mpsc::Receiver<oneshot::Sender<()>>,
        shown: watch::Sender<Arc<DirectoryView>>,
    ) {
        let mut asking = FuturesUnordered::new();
        // Who waits until nobody is doubted any more, and until when the doubted may answer.
        let (mut waiting, mut until) = (Vec::new(), Instant::now());
        loop {
            tokio::select! {
                event = alive.next() => {
                    let Some(event) = event else { return };
                    let Some((kind, instance)) = self.topics.parse_availability(&event.key) else {
                        tracing::warn!(key = event.key, "a malformed announcement was ignored");
                        continue;
                    };
                    if !event.alive {
                        self.directory.gone(kind, &instance);
                    } else {
                        let life = self.directory.alive(kind, &instance);
                        asking.push(self.ask((kind, instance, life)).boxed());
                    }
                }
                message = described.next() => {
                    let Some(message) = message else { return };
                    let said = self.topics.parse_availability(&message.key);
                    match (said, serde_json::from_slice(&message.payload)) {
                        (Some((kind, instance)), Ok(description)) =>
                            self.directory.described(kind, &instance, description),
                        _ => tracing::warn!(key = message.key, "a malformed announcement was ignored"),
                    }
                }
                Ok(()) = expelled.changed() => {
                    self.directory.expel(expelled.borrow_and_update().clone());
                }
                Some(done) = doubts.recv() => {
                    waiting.push(done);
                    until = Instant::now() + ASK_TIMEOUT;
                    asking.extend(self.directory.doubt().into_iter().map(|it| self.ask(it).boxed()));
                }
                () = tokio::time::sleep_until(until), if !waiting.is_empty() => {
                    self.directory.drop_doubted();
                }
                Some(((kind, instance, life), answer)) = asking.next() => {
                    if let Some(description) = answer {
                        self.directory.answered(kind, &instance, life, description);
                    } else if self.directory.wanted(kind, &instance, life) {
                        asking.push(self.ask((kind, instance, life)).boxed());
                    }
                }
            }
            shown.send_if_modified(|view| {
                let changed = view.version.number != self.directory.number();
                if changed {
                    *view = Arc::new(self.view());
                }
                changed
            });
            if self.directory.is_sure() {
                for done in waiting.drain(..) {
                    // It may have given up.
                    let _: Result<(), ()> = done.send(());
                }
            }
        }
    }

    /// Asks an instance how to reach it.
    fn ask(&self, asked: Asked) -> impl Future<Output = (Asked, Option<Description>)> + use<> {
        let key = self.topics.availability(asked.0, &asked.1);
        let bus = self.bus.clone();
        async move {
            let answers = bus.ask(&key, Vec::new(), Size::Small, ASK_TIMEOUT).await;
            let description = answers
                .unwrap_or_default()
                .iter()
                .find_map(|answer| serde_json::from_slice(&answer.payload).ok());
            if description.is_none() {
                // It may be between declaring itself and hearing us; do not spin on it.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            (asked, description)
        }
    }
}
