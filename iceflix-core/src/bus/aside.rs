//! What may wait for a neighbour, on threads where nobody else waits.
//!
//! zenoh sends on the thread that asks for it. While a neighbour's link takes nothing it holds that
//! thread, for about as long as [`super::settings`] says. On a service's own threads that would be a
//! service that hangs for as long as somebody else's cable is bad.

use tokio::runtime::Handle;

/// Runs this on a thread for what blocks. Begun, it is finished also when nobody waits for it.
///
/// # Errors
/// What it says; that it panicked; and when the process is ending, so that there is no such thread.
pub(super) async fn run<T, F>(runtime: &Handle, work: F) -> zenoh::Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> zenoh::Result<T> + Send + 'static,
{
    runtime.spawn_blocking(work).await?
}

/// Drops this on a thread for what blocks, and does not wait for that: taking something back is said
/// to the neighbours, too.
pub(super) fn take_back<T: Send + 'static>(runtime: &Handle, what: T) {
    // Where the process is ending it is dropped here and now.
    runtime.spawn_blocking(move || drop(what));
}
