//! The program `iceflix`, run as a person runs it. One test program: what it is built with is
//! compiled once.

// clippy.toml allows this in test functions; here their helpers may as well.
#![allow(clippy::unwrap_used)]

mod accounts;
mod commands;
mod fake;
mod terminal;
mod usage;
mod watching;
