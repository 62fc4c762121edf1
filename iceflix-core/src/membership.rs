//! The directory, kept true by what the bus says; and this node's own entry in everybody's.

use crate::{
    api::{
        InstanceId, Kind, PROTOCOL,
        main::{DirectoryVersion, DirectoryView},
    },
    bus::{Alive, AliveToken, Answering, Bus, BusError, Message, Subscription},
    directory::Directory,
    topics::{Description, Topics},
};
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// How long an instance may take to say how to reach it, before it is asked again.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);

/// The directory of live instances. Cheap to clone; ends with its last clone.
#[derive(Clone)]
pub struct Membership {
    view: watch::Receiver<Arc<DirectoryView>>,
    expelled: watch::Sender<HashSet<InstanceId>>,
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
        let task = tokio::spawn(following.run(described, alive, to_expel, sender));
        Ok(Self {
            view,
            expelled,
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

type Answer = (Kind, InstanceId, Option<Description>);

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
        view: watch::Sender<Arc<DirectoryView>>,
    ) {
        let mut asking = FuturesUnordered::new();
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
                        self.directory.alive(kind, &instance);
                        asking.push(ask(self.bus.clone(), event.key, kind, instance).boxed());
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
                Some((kind, instance, answer)) = asking.next() => {
                    let answer: Answer = (kind, instance, answer);
                    if let (kind, instance, Some(description)) = answer {
                        self.directory.described(kind, &instance, description);
                    } else if self.directory.wanted(kind, &answer.1) {
                        let key = self.topics.availability(kind, &answer.1);
                        asking.push(ask(self.bus.clone(), key, kind, answer.1).boxed());
                    }
                }
            }
            view.send_if_modified(|view| {
                let changed = view.version.number != self.directory.number();
                if changed {
                    *view = Arc::new(self.view());
                }
                changed
            });
        }
    }
}

/// Asks an instance how to reach it.
async fn ask(bus: Bus, key: String, kind: Kind, instance: InstanceId) -> Answer {
    let answers = bus.ask(&key, Vec::new(), ASK_TIMEOUT).await;
    let description = answers
        .unwrap_or_default()
        .iter()
        .find_map(|answer| serde_json::from_slice(&answer.payload).ok());
    if description.is_none() {
        // It may be between declaring itself and hearing us; do not spin on it.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    (kind, instance, description)
}

/// This node's own entry in everybody's directory.
pub struct Announcement {
    bus: Bus,
    key: String,
    description: Arc<Mutex<Description>>,
    withheld: CancellationToken,
    announced: Announced,
}

/// What stands on the bus while an instance is announced.
struct Standing {
    token: AliveToken,
    _answering: Answering,
}

/// How far the announcing is.
enum Announced {
    Yes(Standing),
    /// `None`: it is not going to be.
    Soon(AbortOnDropHandle<Option<Standing>>),
}

impl Announcement {
    /// Announces a service that can be reached at `endpoint` from now on.
    ///
    /// # Errors
    /// When the bus is closed.
    pub async fn start(
        bus: &Bus,
        topics: &Topics,
        kind: Kind,
        instance: &InstanceId,
        endpoint: SocketAddr,
    ) -> Result<Self, BusError> {
        let key = topics.availability(kind, instance);
        let description = describe(endpoint);
        let standing = announce(bus, &key, &description).await?;
        Ok(Self {
            bus: bus.clone(),
            key,
            description,
            withheld: CancellationToken::new(),
            announced: Announced::Yes(standing),
        })
    }

    /// Announces a service as soon as `ready` is done, and not at all if it is [drained] before.
    /// Until then it can be reached by those who know its address, and nobody is told that.
    ///
    /// [drained]: Announcement::drain
    pub fn when(
        ready: impl Future<Output = ()> + Send + 'static,
        bus: &Bus,
        topics: &Topics,
        kind: Kind,
        instance: &InstanceId,
        endpoint: SocketAddr,
    ) -> Self {
        let key = topics.availability(kind, instance);
        let (description, withheld) = (describe(endpoint), CancellationToken::new());
        let announcing = {
            let (bus, key, description) = (bus.clone(), key.clone(), Arc::clone(&description));
            let withheld = withheld.clone();
            tokio::spawn(async move {
                withheld.run_until_cancelled(ready).await?;
                let announced = announce(&bus, &key, &description).await;
                // The bus is closed when the service stops: then there is nothing to announce.
                announced
                    .inspect_err(|error| tracing::error!(%error, "it could not be announced"))
                    .ok()
            })
        };
        Self {
            bus: bus.clone(),
            key,
            description,
            withheld,
            announced: Announced::Soon(AbortOnDropHandle::new(announcing)),
        }
    }

    /// Tells everyone that this instance takes nothing new any more.
    pub async fn drain(&self) {
        self.withheld.cancel();
        self.update(|description| description.draining = true).await;
    }

    /// Tells everyone how busy this instance is: 0 idle, 1000 at its limit.
    pub async fn set_load(&self, load: u16) {
        self.update(|description| description.load = load.min(1000))
            .await;
    }

    async fn update(&self, change: impl FnOnce(&mut Description)) {
        change(
            &mut self
                .description
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        // Nobody keeps what is said of an instance that is not alive (see `Directory::described`),
        // and one that becomes so is asked.
        if let Err(error) = self.bus.publish(&self.key, encode(&self.description)).await {
            tracing::debug!(%error, "the change of this instance's state was not published");
        }
    }

    /// Says goodbye: nobody hands this instance out from now on.
    pub async fn withdraw(self) {
        self.withheld.cancel();
        let standing = match self.announced {
            Announced::Yes(standing) => Some(standing),
            // An error: the task panicked, and what it held is dropped.
            Announced::Soon(announcing) => announcing.await.unwrap_or_default(),
        };
        if let Some(standing) = standing {
            standing.token.withdraw().await;
        }
    }
}

fn describe(endpoint: SocketAddr) -> Arc<Mutex<Description>> {
    Arc::new(Mutex::new(Description {
        endpoint,
        pid: std::process::id(),
        protocol: PROTOCOL,
        load: 0,
        draining: false,
    }))
}

async fn announce(
    bus: &Bus,
    key: &str,
    description: &Arc<Mutex<Description>>,
) -> Result<Standing, BusError> {
    let shared = Arc::clone(description);
    let answering = bus
        .answer(key, move |_question| {
            let encoded = encode(&shared);
            Box::pin(std::future::ready(vec![encoded]))
        })
        .await?;
    // Alive last: whoever sees the token can ask at once.
    let token = bus.declare_alive(key).await?;
    Ok(Standing {
        token,
        _answering: answering,
    })
}

fn encode(description: &Mutex<Description>) -> Vec<u8> {
    let description = description.lock().unwrap_or_else(PoisonError::into_inner);
    // Numbers, flags and an address: JSON holds them all.
    serde_json::to_vec(&*description).unwrap_or_default()
}
