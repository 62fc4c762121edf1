//! What gets lost on a real bus, and that it is made good: feeds, replicas on top of them, and the directory.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

mod disk;
mod feed;
mod membership;
mod replica;
mod world;
