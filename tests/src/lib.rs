//! Whole-cluster tests: the harness that they share. The tests are in `tests/`.
//!
//! | module | what it is |
//! |---|---|
//! | [`clips`] | real films of every kind, made by ffmpeg |
//! | [`cluster`] | real services in this process, on free ports, in a temporary directory |
//! | [`identity`] | certificates for the clusters of tests |
//! | [`faults`] | faults, made for real in a cluster of three machines, and what they do |
//! | [`lan`] | network namespaces as machines on one switch |
//! | [`machine`] | a machine with its part of a cluster |
//! | [`process`] | the real programs, as processes |
//! | [`person`] | the real client program, run from a home of its own |
//! | [`players`] | ffmpeg, GStreamer's player, retina, a bare RTSP client; and a viewer who uses them |
//! | [`waiting`] | waiting for conditions, and ports that are free |
//! | [`wire`] | what goes over a connection, overheard; and a Main that says what it is told |
//! | [`wrong_clock`] | machines whose clock is not the others' |
//! | [`tokens`] | each wrong kind of token |

// A harness: a test fails where it panics, and the message says where.
#![allow(clippy::unwrap_used)]

pub mod clips;
pub mod cluster;
pub mod faults;
pub mod identity;
pub mod lan;
pub mod machine;
mod nodes;
pub mod person;
pub mod players;
pub mod process;
pub mod tokens;
pub mod waiting;
pub mod wire;
pub mod wrong_clock;
