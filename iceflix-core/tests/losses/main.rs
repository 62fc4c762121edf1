//! What gets lost on a real bus, and that it is made good: feeds, and replicas on top of them.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

mod feed;
mod replica;
mod world;
