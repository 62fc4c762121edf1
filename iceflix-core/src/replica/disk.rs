//! Whether this instance's disk takes writes, and whether it is to be found while it does not.
//!
//! Whoever cannot write withdraws only for another instance that has just shown that it can, and
//! only for as long as that one is alive. So of several on one full disk none withdraws: all go on
//! answering what is asked, and say of each write that it failed.

use super::{
    exchange::Exchange,
    lock,
    store::{Keeper, StoreError},
};
use crate::{
    announcement::{Absence, Absences},
    api::InstanceId,
};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// For how long nobody is asked again when none of the others could write: each of them would try
/// its disk for each write that fails here.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// This instance's disk.
pub(super) struct Disk {
    store: Keeper,
    exchange: Exchange,
    state: Mutex<State>,
    /// Held while the others are asked: one asks for all whose writes failed.
    asking: tokio::sync::Mutex<()>,
    /// Which others are announced.
    alive: OnceLock<watch::Receiver<BTreeSet<InstanceId>>>,
    /// Where it is said that this instance has withdrawn.
    absences: OnceLock<Absences>,
}

#[derive(Default)]
struct State {
    /// Whether it takes no writes, as far as is known.
    failing: bool,
    /// Who takes the writes while this instance is withdrawn.
    relied_on: Option<InstanceId>,
    /// When none of the others could write.
    nobody: Option<Instant>,
}

impl State {
    /// Whether it is to be asked who can write.
    fn asks(&self) -> bool {
        let lately = |when: Instant| when.elapsed() < ASK_AGAIN;
        self.failing && self.relied_on.is_none() && !self.nobody.is_some_and(lately)
    }
}

impl Disk {
    pub fn new(store: Keeper, exchange: Exchange) -> Arc<Self> {
        Arc::new(Self {
            store,
            exchange,
            state: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            alive: OnceLock::new(),
            absences: OnceLock::new(),
        })
    }

    /// Withdraws there from now on.
    pub fn withdraw_by(&self, absences: &Absences) {
        // The first one counts; a service has but one.
        let _ = self.absences.set(absences.clone());
    }

    /// Takes these for the others that are there, and returns as soon as the one goes that is
    /// relied on; until what it gives is dropped.
    pub fn follow(
        self: &Arc<Self>,
        mut alive: watch::Receiver<BTreeSet<InstanceId>>,
    ) -> AbortOnDropHandle<()> {
        let _ = self.alive.set(alive.clone());
        let weak = Arc::downgrade(self);
        AbortOnDropHandle::new(tokio::spawn(async move {
            while alive.changed().await.is_ok() {
                let Some(disk) = weak.upgrade() else { return };
                let mut state = lock(&disk.state);
                let relied_on = state.relied_on.as_ref();
                if relied_on.is_some_and(|on| !disk.is_alive(on)) {
                    disk.rely_on(&mut state, None);
                }
            }
        }))
    }

    /// Rows were written, or could not be. If another instance can write, this one is no longer to
    /// be found when this returns: before the caller hears of it, so that it turns to that one.
    pub async fn wrote(&self, result: &Result<(), StoreError>) {
        if self.note(result) {
            self.ask_others(false).await;
        }
    }

    /// The same, for whom nobody waits.
    pub fn wrote_aside(self: &Arc<Self>, result: &Result<(), StoreError>) {
        if self.note(result) {
            let disk = Arc::clone(self);
            tokio::spawn(async move { disk.ask_others(false).await });
        }
    }

    /// Whether this instance can write, which is tried: another one that cannot wants to know.
    pub async fn can_write(&self) -> bool {
        // Not even tried, so that two never withdraw for each other: who asks is failing itself.
        if self.is_failing() {
            return false;
        }
        let tried = self.store.probe().await;
        self.note(&tried);
        tried.is_ok()
    }

    /// Tries again to write while that fails, and otherwise what may still be owed. It is over only
    /// when that was possible: that nothing had to be written says nothing.
    pub async fn try_again(&self) {
        let failing = self.is_failing();
        let tried = match failing {
            true => self.store.probe().await,
            false => self.store.all_kept().await,
        };
        match tried {
            // Nothing may have been owed, then nothing was written.
            Ok(()) if !failing => {}
            Ok(()) => self.over(&mut lock(&self.state)),
            Err(_) => {
                self.note(&tried);
                self.ask_others(true).await;
            }
        }
    }

    /// Whether it takes no writes, as far as is known.
    pub fn is_failing(&self) -> bool {
        lock(&self.state).failing
    }

    /// What is known of the disk now; whether the others are to be asked. Logged once, since the
    /// log may be on the same disk.
    fn note(&self, result: &Result<(), StoreError>) -> bool {
        let mut state = lock(&self.state);
        match result {
            Err(error) => {
                if !std::mem::replace(&mut state.failing, true) {
                    tracing::error!(%error, "rows are not kept until that is over");
                }
            }
            // A small row may find room where the next does not, and callers are not to be sent
            // to and fro: who has withdrawn returns when it is tried again.
            Ok(()) if state.relied_on.is_some() => {}
            Ok(()) => self.over(&mut state),
        }
        state.asks()
    }

    /// It takes writes.
    fn over(&self, state: &mut State) {
        if std::mem::take(&mut state.failing) {
            tracing::info!("rows are kept again");
            state.nobody = None;
            self.rely_on(state, None);
        }
    }

    /// Finds out whether another one can write, and withdraws or returns accordingly. What was
    /// found a moment ago holds, unless it is to be found `anew`.
    async fn ask_others(&self, anew: bool) {
        let _asking = self.asking.lock().await;
        {
            let state = lock(&self.state);
            if !state.failing || !(anew || state.asks()) {
                return;
            }
        }
        let alive = self.alive.get().map(|alive| alive.borrow().clone());
        let able = match alive {
            Some(alive) if !alive.is_empty() => self.exchange.who_can_write(&alive).await,
            _ => None,
        };
        let mut state = lock(&self.state);
        // Meanwhile that one may have gone, or there is room here.
        let able = able.filter(|able| state.failing && self.is_alive(able));
        state.nobody = able.is_none().then(Instant::now);
        self.rely_on(&mut state, able);
    }

    fn is_alive(&self, other: &InstanceId) -> bool {
        let alive = self.alive.get();
        alive.is_some_and(|alive| alive.borrow().contains(other))
    }

    /// Withdraws for another one, or returns.
    fn rely_on(&self, state: &mut State, other: Option<InstanceId>) {
        if let Some(absences) = self.absences.get() {
            absences.set(Absence::Disk, other.is_some());
        }
        state.relied_on = other;
    }
}
