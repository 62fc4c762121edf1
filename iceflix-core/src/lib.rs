//! What every IceFlix service shares.
//!
//! | module | what it is |
//! |---|---|
//! | [`api`] | the contracts: one file a service, readable on its own |
//! | [`topics`] | key expressions and messages of the bus, built and parsed only there |
//! | [`bus`] | the only place that touches zenoh |
//! | [`directory`] | who is alive and whom to pick: pure, events in, decisions out |
//! | [`membership`] | the directory kept true by what the bus says |
//! | [`announcement`] | a service's own entry in everybody's directory, and what speaks against it |
//! | [`feed`] | a snapshot, then numbered changes: how a topic survives lost messages |
//! | [`rpc`] | serving (drained on stop) and calling (in turn, with another try elsewhere) |
//! | [`trust`] | tokens, passwords, revocations |
//! | [`renewal`] | certificates that renew themselves |
//! | [`replica`] | rows that several instances of one service share |
//! | [`audit`] | who did what, from where, and how it ended, as JSON lines |
//! | [`clock`] | how far this machine's clock is from the others' |
//! | [`awake`] | whether this process was stopped for a while, and what it has to hear then |
//! | [`config`] | file, environment and flags, in one form |
//! | [`files`] | files that are their owner's only |
//! | [`span`] | spans of time as people write them |
//! | [`service`] | what the life of every service has in common |

pub mod announcement;
pub mod api;
pub mod audit;
pub mod awake;
pub mod bus;
pub mod clock;
pub mod config;
pub mod directory;
pub mod feed;
pub mod files;
pub mod limits;
pub mod membership;
pub mod renewal;
pub mod replica;
pub mod rpc;
pub mod service;
pub mod span;
pub mod topics;
pub mod trust;

#[cfg(test)]
mod simulation;
