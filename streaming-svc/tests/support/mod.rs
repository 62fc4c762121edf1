//! What the tests of delivery share: clips, and a small RTSP client.

pub mod clips;
pub mod rtsp;

use std::time::{Duration, Instant};

/// Waits until the condition holds; fails the test if it does not within 20 seconds.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
