//! Requests: serving them until the last is answered, and calling with another try elsewhere.
//!
//! Every request is a tarpc call in bincode frames of at most 1 MiB, inside TLS. [`link`] is the one
//! place that opens and accepts connections.

pub mod call;
pub mod cluster;
mod codec;
pub mod door;
mod frames;
pub(crate) mod health;
pub mod inside;
pub mod link;
pub mod serve;

pub use call::{AttemptError, CallError, Caller, Effort, Stub};
pub use cluster::Cluster;
#[doc(hidden)]
pub use codec::read_all;
pub use inside::Inside;
pub use link::{Peer, Security};
pub use serve::{Listener, ServerLink};

use std::time::{Duration, Instant};

/// How long a handler that waits for something may wait: until shortly before its caller's
/// deadline, so that the answer still arrives in time.
pub fn patience(context: &tarpc::context::Context) -> Duration {
    let left = context.deadline.saturating_duration_since(Instant::now());
    left.saturating_sub(Duration::from_millis(200))
        .max(left / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_something_answers_shortly_before_its_caller_gives_up() {
        for (gives_up, least, most) in [(5_000, 4_700, 4_800), (300, 100, 150), (0, 0, 0)] {
            let mut context = tarpc::context::current();
            context.deadline = Instant::now() + Duration::from_millis(gives_up);
            let waits = patience(&context).as_millis();
            assert!((least..=most).contains(&waits), "{gives_up}: {waits}");
        }
    }
}
