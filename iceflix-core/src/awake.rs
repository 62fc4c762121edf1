//! Whether this process ran all the time.
//!
//! A process that was stopped (SIGSTOP, a debugger, a machine that slept) goes on where it was, and
//! does not know what was revoked meanwhile. Requests that wait in its sockets would be answered by
//! what was true then. So nothing that was asked is answered after a standstill until what happened
//! was heard: connections are closed, and their callers turn to another instance.

use nix::time::{ClockId, clock_gettime};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// How long a standstill counts as none: what was revoked within so short a time may be on its way
/// to a node that runs, too. As long as a silent link counts as alive (`bus/settings.rs`): who
/// stood still for longer was taken for dead.
const SHORT: Duration = Duration::from_secs(1);

/// How often a process that runs says so to itself.
pub const EVERY: Duration = Duration::from_millis(100);

/// Whether a service has been awake, and knows what there is to know. Clones are the same.
#[derive(Debug, Clone)]
pub struct Awake(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// When it was last seen to run, in milliseconds since the machine's start.
    last: AtomicU64,
    /// It has stood still, and has not caught up.
    behind: AtomicBool,
}

impl Awake {
    /// One that runs now.
    pub fn now() -> Self {
        Self(Arc::new(Inner {
            last: AtomicU64::new(running_ms()),
            behind: AtomicBool::new(false),
        }))
    }

    /// Whether it ran all the time, or has caught up since. Notices a standstill by itself: what
    /// was asked during it may be handled before anything else is.
    pub fn is(&self) -> bool {
        self.is_at(running_ms())
    }

    fn is_at(&self, now: u64) -> bool {
        let still = now.saturating_sub(self.0.last.load(Ordering::Acquire));
        if u128::from(still) > SHORT.as_millis() {
            self.0.behind.store(true, Ordering::Release);
        }
        !self.0.behind.load(Ordering::Acquire)
    }

    /// It runs. To be said [often](EVERY); gives back what [`Awake::is`] does.
    pub fn tick(&self) -> bool {
        self.tick_at(running_ms())
    }

    fn tick_at(&self, now: u64) -> bool {
        let is = self.is_at(now);
        self.0.last.fetch_max(now, Ordering::AcqRel);
        is
    }

    /// It runs, as said by one that is catching up. Whether it has stood still once more.
    pub fn tick_again(&self) -> bool {
        let now = running_ms();
        let still = now.saturating_sub(self.0.last.fetch_max(now, Ordering::AcqRel));
        u128::from(still) > SHORT.as_millis()
    }

    /// It has heard what happened meanwhile.
    pub fn caught_up(&self) {
        self.0.behind.store(false, Ordering::Release);
    }
}

/// How long the machine has been on, its sleep included.
pub(crate) fn running_ms() -> u64 {
    // It cannot fail for a clock that every Linux since 2.6.39 has.
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from);
    u64::try_from(time.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standstill_is_noticed_by_whoever_looks_first() {
        let start = running_ms();
        for looks_first in [true, false] {
            let awake = Awake::now();
            for later in (0..5000).step_by(900) {
                assert!(awake.tick_at(start + later));
            }
            let woken = start + 4500 + 1100;
            if looks_first {
                assert!(!awake.is_at(woken));
            }
            assert!(!awake.tick_at(woken));
            assert!(!awake.tick_at(woken + 100), "until it has caught up");
            awake.caught_up();
            assert!(awake.tick_at(woken + 200) && awake.is_at(woken + 200));
        }
    }

    #[test]
    fn a_short_standstill_is_none() {
        let awake = Awake::now();
        let start = running_ms();
        assert!(awake.tick_at(start) && awake.tick_at(start + 1000));
    }
}
