//! This node's own entry in everybody's directory: there while nothing speaks against it.
//!
//! It is kept on a thread of its own, with a runtime of its own, together with what watches over
//! the service: so that a service whose own threads hang can still say goodbye.

use crate::{
    api::{InstanceId, Kind, PROTOCOL},
    bus::{AliveToken, Answering, Bus, BusError},
    clock,
    topics::{Description, Told, Topics},
};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use std::{
    collections::BTreeSet,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How soon it is tried again to announce a service that could not be.
const AGAIN: Duration = Duration::from_millis(500);

/// How long after the last time it is said again that an instance takes nothing new any more.
const AGAIN_DRAINING: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];

/// How long a goodbye is waited for. It takes a millisecond, but on a bus that hangs.
const GOODBYE: Duration = Duration::from_secs(2);

/// Why a service is not to be found just now, though it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Absence {
    /// It judges tokens, and has not yet heard from any authenticator what was revoked.
    Uninformed,
    /// It does not answer its own questions.
    Hung,
    /// It was stopped for a while, and has not yet heard what happened meanwhile.
    Asleep,
    /// Its clock is not the others'.
    Clock,
    /// Its disk takes no writes, and others of its kind are there.
    Disk,
    /// It is going.
    Leaving,
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Absence::Uninformed => "no authenticator was heard yet",
            Absence::Hung => "it does not answer its own questions",
            Absence::Asleep => "it was stopped and is catching up",
            Absence::Clock => "its clock is not the others'",
            Absence::Disk => "its disk takes no writes",
            Absence::Leaving => "it is going",
        })
    }
}

/// What speaks against a service's being found. Clones are the same.
#[derive(Debug, Clone)]
pub struct Absences(watch::Sender<BTreeSet<Absence>>);

impl Default for Absences {
    fn default() -> Self {
        Self(watch::channel(BTreeSet::new()).0)
    }
}

impl Absences {
    /// It does, or no longer. Whether that is new.
    pub fn set(&self, absence: Absence, holds: bool) -> bool {
        self.0.send_if_modified(|all| match holds {
            true => all.insert(absence),
            false => all.remove(&absence),
        })
    }

    /// Whether anything does.
    pub fn any(&self) -> bool {
        !self.0.borrow().is_empty()
    }

    /// Whether any of these does.
    pub fn has(&self, absences: &[Absence]) -> bool {
        let all = self.0.borrow();
        absences.iter().any(|absence| all.contains(absence))
    }
}

/// What runs beside an announcement, on its thread, until it ends.
pub type Guard = BoxFuture<'static, ()>;

/// This node's own entry in everybody's directory. Dropping it takes it back.
pub struct Announcement {
    bus: Bus,
    key: String,
    description: Arc<Mutex<Description>>,
    absences: Absences,
    shown: watch::Receiver<bool>,
    _end: DropGuard,
}

/// What stands on the bus while an instance is announced.
struct Standing {
    token: AliveToken,
    _answering: Answering,
}

impl Announcement {
    /// Announces a service that can be reached at `endpoint` from now on. It is when this returns.
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
        let absences = Absences::default();
        Self::guarded(bus, topics, kind, instance, endpoint, absences, Vec::new()).await
    }

    /// Announces a service whenever nothing speaks against it, with these guards beside it. When
    /// nothing does now, it is announced when this returns.
    ///
    /// # Errors
    /// When the bus is closed, or there is no thread to be had.
    pub async fn guarded(
        bus: &Bus,
        topics: &Topics,
        kind: Kind,
        instance: &InstanceId,
        endpoint: SocketAddr,
        absences: Absences,
        guards: Vec<Guard>,
    ) -> Result<Self, BusError> {
        let key = topics.availability(kind, instance);
        let description = Arc::new(Mutex::new(Description {
            endpoint,
            pid: std::process::id(),
            protocol: PROTOCOL,
            load: 0,
            draining: false,
        }));
        let (show, mut shown) = watch::channel(false);
        let end = CancellationToken::new();
        let keeper = Keeper {
            bus: bus.clone(),
            key: key.clone(),
            description: Arc::clone(&description),
            reasons: absences.0.subscribe(),
            show,
        };
        let ended = end.clone();
        let no_thread = |error: std::io::Error| BusError::Operation {
            operation: "announce",
            key: key.clone(),
            reason: error.to_string(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(no_thread)?;
        std::thread::Builder::new()
            .name("presence".into())
            .spawn(move || {
                let guards = guards.into_iter().collect::<FuturesUnordered<_>>();
                let keeping = async {
                    tokio::join!(keeper.run(), guards.collect::<Vec<()>>());
                };
                runtime.block_on(ended.run_until_cancelled(keeping));
            })
            .map_err(no_thread)?;
        let mut reasons = absences.0.subscribe();
        let announced = tokio::select! {
            biased;
            // Now, or by a guard meanwhile: then it may never be shown.
            against = reasons.wait_for(|reasons| !reasons.is_empty()) => against.is_ok(),
            shown = shown.wait_for(|shown| *shown) => shown.is_ok(),
        };
        if !announced {
            // The keeper ended.
            return Err(BusError::Operation {
                operation: "announce",
                key,
                reason: "the bus is closed".into(),
            });
        }
        Ok(Self {
            bus: bus.clone(),
            key,
            description,
            absences,
            shown,
            _end: end.drop_guard(),
        })
    }

    /// Tells everyone that this instance takes nothing new any more. One that is not announced just
    /// now will not be.
    pub async fn drain(&self) {
        if !*self.shown.borrow() {
            self.absences.set(Absence::Leaving, true);
        }
        self.update(|description| description.draining = true).await;
        // Whose link was full then has not heard it, and is told again.
        let (bus, key) = (self.bus.clone(), self.key.clone());
        let description = Arc::clone(&self.description);
        tokio::spawn(async move {
            for later in AGAIN_DRAINING {
                tokio::time::sleep(later).await;
                if bus.is_closed() {
                    return;
                }
                say(&bus, &key, &description).await;
            }
        });
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
        say(&self.bus, &self.key, &self.description).await;
    }

    /// Says goodbye: nobody hands this instance out from now on.
    pub async fn withdraw(mut self) {
        self.absences.set(Absence::Leaving, true);
        let gone = self.shown.wait_for(|shown| !shown);
        if tokio::time::timeout(GOODBYE, gone).await.is_err() {
            tracing::warn!("the bus did not take the goodbye in time");
        }
    }
}

/// Says what an instance's state is. Nobody keeps what is said of one that is not alive (see
/// `Directory::described`), and one that becomes so is asked.
async fn say(bus: &Bus, key: &str, description: &Mutex<Description>) {
    let encoded = serde_json::to_vec(&described(description)).unwrap_or_default();
    if let Err(error) = bus.publish(key, encoded).await {
        tracing::debug!(%error, "the change of this instance's state was not published");
    }
}

/// Announces, and takes it back, as what speaks against it comes and goes.
struct Keeper {
    bus: Bus,
    key: String,
    description: Arc<Mutex<Description>>,
    reasons: watch::Receiver<BTreeSet<Absence>>,
    show: watch::Sender<bool>,
}

impl Keeper {
    async fn run(mut self) {
        let mut standing: Option<Standing> = None;
        let mut before = BTreeSet::new();
        loop {
            let reasons = self.reasons.borrow_and_update().clone();
            self.say(&before, &reasons);
            let mut failed = false;
            match (reasons.is_empty(), standing.take()) {
                (true, None) => match self.announce().await {
                    Ok(announced) => standing = Some(announced),
                    Err(error) if self.bus.is_closed() => {
                        tracing::debug!(%error, "not announced any more");
                        return;
                    }
                    Err(error) => {
                        tracing::error!(%error, "it could not be announced; trying again");
                        failed = true;
                    }
                },
                (false, Some(announced)) => announced.token.withdraw().await,
                (_, as_it_was) => standing = as_it_was,
            }
            before = reasons;
            self.show.send_replace(standing.is_some());
            let changed = self.reasons.changed();
            match failed {
                true => drop(tokio::time::timeout(AGAIN, changed).await),
                false if changed.await.is_err() => return,
                false => {}
            }
        }
    }

    /// What is unusual is logged when it begins and when it is over.
    fn say(&self, before: &BTreeSet<Absence>, now: &BTreeSet<Absence>) {
        let usual = |absence: &&Absence| **absence == Absence::Leaving;
        for absence in now.difference(before).filter(|it| !usual(it)) {
            tracing::warn!("this instance is not announced: {absence}");
        }
        for absence in before.difference(now).filter(|it| !usual(it)) {
            tracing::info!("no longer so: {absence}");
        }
    }

    async fn announce(&self) -> Result<Standing, BusError> {
        let shared = Arc::clone(&self.description);
        let answering = self
            .bus
            .answer(&self.key, move |_question| {
                let told = Told {
                    description: described(&shared),
                    clock_us: Some(clock::now_us()),
                };
                // Numbers, flags and an address: JSON holds them all.
                let encoded = serde_json::to_vec(&told).unwrap_or_default();
                Box::pin(std::future::ready(vec![encoded]))
            })
            .await?;
        // Alive last: whoever sees the token can ask at once.
        let token = self.bus.declare_alive(&self.key).await?;
        Ok(Standing {
            token,
            _answering: answering,
        })
    }
}

fn described(description: &Mutex<Description>) -> Description {
    description
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}
