//! The door of a listener: lets connections in, and closes those that would keep others out.
//!
//! Anybody can open connections, many at once, and say nothing or half of something. What such a
//! one takes is bounded, in number and in time, and when there are too many it is one of their own
//! that goes: the oldest of those that said nothing for the newest of them, the longest idle for
//! one that asks. A client that finds its idle connection closed opens another and asks again, so
//! nobody notices who does his work. What counts as too many: [`Limits`].

mod guests;

use crate::limits::nofile_limit;
pub use guests::Limits;
use guests::{Guests, Id};
use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// How often those are looked for whose time is over.
const SWEEP: Duration = Duration::from_millis(500);

/// How often, at most, it is logged that connections were closed.
const TELL: Duration = Duration::from_secs(10);

/// How many closed connections may still be on their way out before nobody is let in for a moment.
const LEAVING: usize = 512;

/// How many connections are closed when there are no file descriptors left.
const SHED: usize = 64;

/// A listener's door. Clones are of the same.
#[derive(Clone)]
pub struct Door {
    guests: Arc<Mutex<Guests>>,
    /// Connections whose sockets are open, closed ones on their way out included.
    open: Arc<AtomicUsize>,
    most: usize,
}

/// One connection's leave to be here; dropped with it.
pub struct Pass {
    door: Door,
    id: Id,
    close: CancellationToken,
}

impl Door {
    /// With the limits that suit the process's limit of open files.
    pub fn for_this_process() -> Self {
        Self::with(Limits::within(nofile_limit()))
    }

    /// With these limits.
    pub fn with(limits: Limits) -> Self {
        Self {
            most: limits.new + limits.known + LEAVING,
            guests: Arc::new(Mutex::new(Guests::new(limits))),
            open: Arc::default(),
        }
    }

    /// Waits until there is room for another socket: a moment, while closed ones are on their way
    /// out.
    pub async fn room(&self) {
        while self.open.load(Ordering::Acquire) >= self.most {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Lets a connection in.
    pub fn enter(&self, address: IpAddr) -> Pass {
        self.open.fetch_add(1, Ordering::AcqRel);
        let (id, close) = self.lock().enter(address, Instant::now());
        let door = self.clone();
        Pass { door, id, close }
    }

    /// Closes some that are not at work: there are no file descriptors left.
    pub fn shed(&self) {
        self.lock().shed(SHED);
    }

    /// Closes those whose time is over, for ever.
    pub async fn look_after(&self) {
        let mut told = Instant::now();
        loop {
            tokio::time::sleep(SWEEP).await;
            let mut guests = self.lock();
            guests.sweep(Instant::now());
            if told.elapsed() >= TELL {
                let closed = guests.closed();
                drop(guests);
                if !closed.is_empty() {
                    told = Instant::now();
                    tracing::info!(?closed, "connections were closed");
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Guests> {
        // Nothing in there panics; were it so, the counts would still be usable.
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// Resolves when the connection is to be closed.
    pub fn closed(&self) -> WaitForCancellationFutureOwned {
        self.close.clone().cancelled_owned()
    }

    /// A request is complete and being handled.
    pub fn begin(&self) {
        self.door.lock().begin(self.id, Instant::now());
    }

    /// A request was handled.
    pub fn done(&self) {
        self.door.lock().done(self.id, Instant::now());
    }

    /// A request has begun and is not complete: whether it is a long one. `None` when it is.
    pub fn frame(&self, begun: Option<bool>) {
        self.door.lock().frame(self.id, begun, Instant::now());
    }

    /// Nothing of an answer is taken from now on (`true`), or something was.
    pub fn stuck(&self, stuck: bool) {
        let since = stuck.then(Instant::now);
        self.door.lock().stuck(self.id, since);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.door.lock().leave(self.id);
        self.door.open.fetch_sub(1, Ordering::AcqRel);
    }
}
