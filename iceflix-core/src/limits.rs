//! What the system lets a process have.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io;

/// Raises the process's limit of open files to what it may have, and returns the new limit. Every
/// connection takes one, and a UDP viewer 29, so the usual 1024 are soon used up. To be called
/// first thing in a service.
///
/// # Errors
/// When the system refuses.
pub fn raise_nofile_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// How many files the process may have open; 1024 if the system does not say.
pub fn nofile_limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
}
