//! Whether there is an authenticator at all, and since when not.

use crate::{api::InstanceId, feed::Heard};
use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};
use tokio::{sync::watch, time::Instant};

/// The authenticators that are alive: those the bus shows, and those that told of themselves.
pub(super) struct Presence {
    alive: Mutex<Alive>,
    silent: watch::Sender<Option<Instant>>,
}

#[derive(Default)]
struct Alive {
    seen: BTreeSet<InstanceId>,
    told: BTreeSet<InstanceId>,
}

impl Default for Presence {
    fn default() -> Self {
        Self {
            alive: Mutex::default(),
            silent: watch::channel(Some(Instant::now())).0,
        }
    }
}

impl Presence {
    /// These are announced on the bus, and no others.
    pub fn seen(&self, seen: BTreeSet<InstanceId>, now: Instant) {
        self.change(now, |alive| alive.seen = seen);
    }

    /// One told of itself without the bus: an authenticator in its own process.
    pub fn told(&self, heard: &Heard, now: Instant) {
        self.change(now, |alive| match heard {
            Heard::Everything(speaker, _) | Heard::Changed(speaker, _) => {
                if !alive.told.contains(speaker) {
                    alive.told.insert(speaker.clone());
                }
            }
            Heard::Gone(speaker) => drop(alive.told.remove(speaker)),
        });
    }

    /// Since when there is none, now and whenever that changes.
    pub fn silence(&self) -> watch::Receiver<Option<Instant>> {
        self.silent.subscribe()
    }

    fn change(&self, now: Instant, change: impl FnOnce(&mut Alive)) {
        // Sets of names: a panic cannot leave them half changed.
        let mut alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut alive);
        let none = alive.seen.is_empty() && alive.told.is_empty();
        // Under the lock, so that of two changes the later one is seen last.
        self.silent.send_if_modified(|silent| {
            let news = silent.is_some() != none;
            if news {
                *silent = none.then_some(now);
            }
            news
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn names(names: &[&str]) -> BTreeSet<InstanceId> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn silence_begins_with_the_last_that_goes_and_ends_with_the_first_that_comes() {
        let presence = Presence::default();
        let silent = || *presence.silence().borrow();
        let start = silent().expect("nobody was heard yet");
        let at = |seconds| start + Duration::from_secs(seconds);
        for (second, alive, since) in [
            (1, &[][..], Some(start)),
            (2, &["a", "b"], None),
            (3, &["b"], None),
            (4, &[], Some(at(4))),
            // It does not begin anew.
            (5, &[], Some(at(4))),
            (6, &["c"], None),
            (7, &[], Some(at(7))),
        ] {
            presence.seen(names(alive), at(second));
            assert_eq!(silent(), since, "at second {second}");
        }
    }

    #[test]
    fn an_authenticator_is_never_alone_with_itself() {
        let (presence, now) = (Presence::default(), Instant::now());
        let (itself, entries): (InstanceId, _) = ("a".parse().unwrap(), Default::default());
        presence.told(&Heard::Everything(itself.clone(), entries), now);
        assert_eq!(*presence.silence().borrow(), None);
        presence.seen(names(&["b"]), now);
        presence.seen(names(&[]), now);
        assert_eq!(*presence.silence().borrow(), None);
        presence.told(&Heard::Gone(itself), now);
        assert_eq!(*presence.silence().borrow(), Some(now));
    }
}
