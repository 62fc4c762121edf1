//! A real catalogue on a real bus: what it hears of films, and what people say about them.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

mod media;
mod said;
mod world;
