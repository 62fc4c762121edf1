//! Waiting for conditions, and ports that are free.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

/// How long anything may take before a test gives up: much longer than it ever does.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A port that is free, below those that the system gives to whoever asks for any (32768 and up):
/// nobody gets it before it is used.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 12_000).unwrap_or(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + (start + step) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Waits until something is so, and says how long that took.
///
/// # Panics
/// When it is not so within [`PATIENCE`].
pub async fn wait_for(what: &str, holds: impl AsyncFnMut() -> bool) -> Duration {
    wait_at_most(PATIENCE, what, holds).await
}

/// Waits until something is so that takes its time, and says how long that took.
///
/// # Panics
/// When it is not so by then.
pub async fn wait_at_most(
    patience: Duration,
    what: &str,
    mut holds: impl AsyncFnMut() -> bool,
) -> Duration {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < patience, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    start.elapsed()
}

/// Where something is promised within a second, the best of several times tells whether it is kept:
/// on a busy machine any one of them may have had to wait for a core.
///
/// # Panics
/// When it never was.
pub fn within_a_second(what: &str, took: &[Duration]) {
    println!("{what} after {took:?}");
    let best = took.iter().min().expect("something that was timed");
    assert!(*best < Duration::from_secs(1), "{what}: {took:?}");
}
