//! What may wait for a neighbour, on threads where nobody else waits.
//!
//! zenoh sends on the thread that asks for it. While a neighbour's link takes nothing it may hold that
//! thread, for about as long as [`super::settings`] says. On a service's own threads that would be a
//! service that hangs for as long as somebody else's cable is bad.

use super::Size;
use std::sync::Arc;
use tokio::{runtime::Handle, sync::Semaphore};

/// Where a bus sends from. Clones are the same.
#[derive(Clone)]
pub(super) struct Aside {
    /// zenoh opens nothing on a runtime of a single thread, as an announcement's is (see
    /// [`crate::announcement`]): this is where the bus was opened.
    pub(super) runtime: Handle,
    /// One of what is [`Size::Large`] is sent at a time.
    ///
    /// While somebody waits for a link that is full, zenoh cannot close it, and while it tries to, it
    /// sends nobody anything (zenoh-transport 1.10: `drain` takes the lock of whoever waits, on the one
    /// thread that sends). Several who wait do so one after the other: measured, 5 s for five, in which
    /// every neighbour takes this node for dead.
    turns: Arc<Semaphore>,
}

impl Aside {
    pub(super) fn here() -> Self {
        Self {
            runtime: Handle::current(),
            turns: Arc::new(Semaphore::new(1)),
        }
    }

    /// Whether something large is being sent.
    #[cfg(test)]
    pub(super) fn sends_large(&self) -> bool {
        self.turns.available_permits() == 0
    }

    /// Sends something of that size.
    ///
    /// # Errors
    /// As [`Aside::run`].
    pub(super) async fn send<T, F>(&self, size: Size, work: F) -> zenoh::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> zenoh::Result<T> + Send + 'static,
    {
        let turn = match size {
            Size::Small => None,
            Size::Large => Some(Arc::clone(&self.turns).acquire_owned().await?),
        };
        self.run(move || {
            // To the end of the work, also when nobody waits for it.
            let _turn = turn;
            work()
        })
        .await
    }

    /// Runs this on a thread for what blocks. Begun, it is finished also when nobody waits for it.
    ///
    /// # Errors
    /// What it says; that it panicked; and when the process is ending, so that there is no such thread.
    pub(super) async fn run<T, F>(&self, work: F) -> zenoh::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> zenoh::Result<T> + Send + 'static,
    {
        self.runtime.spawn_blocking(work).await?
    }

    /// Drops this on a thread for what blocks, and does not wait for that: taking something back is
    /// said to the neighbours, too.
    pub(super) fn take_back<T: Send + 'static>(&self, what: T) {
        // Where the process is ending it is dropped here and now.
        self.runtime.spawn_blocking(move || drop(what));
    }
}
