//! What became of the commands of a load.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Counts commands, keeps what they failed with, and what they were told is written.
#[derive(Debug)]
pub struct Tally {
    begun: Instant,
    inner: Mutex<Counted>,
}

/// What was counted.
#[derive(Debug, Default, Clone)]
pub struct Counted {
    /// By command: how many, and the longest that one took.
    pub commands: BTreeMap<&'static str, (usize, Duration)>,
    /// What commands failed with: when (since the beginning), which, why.
    pub errors: Vec<(Duration, &'static str, String)>,
    /// Searches that found a film which live nodes have, and showed it as not available: when.
    pub hidden: Vec<Duration>,
    /// Tags that are written, as the catalogue acknowledged: whose, and which.
    pub tags: Vec<(String, String)>,
    /// Users that are written, as the authenticator acknowledged.
    pub users: Vec<String>,
    /// How each film plays.
    pub films: BTreeMap<&'static str, Film>,
}

/// How a film plays.
#[derive(Debug, Default, Clone)]
pub struct Film {
    /// How much of it was played, and when the last of that came.
    pub played: Option<(Duration, Instant)>,
    /// The longest time in which nothing of it came.
    pub stalled: Duration,
    /// Why it does not play on.
    pub ended: Option<String>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            inner: Mutex::default(),
        }
    }
}

impl Tally {
    /// When it began to count.
    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// What it has counted so far, to look at or to add to.
    pub fn counted(&self) -> MutexGuard<'_, Counted> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out a command and counts it. What it gave, unless it failed.
    pub async fn command<T, E: std::fmt::Display>(
        &self,
        name: &'static str,
        command: impl Future<Output = Result<T, E>>,
    ) -> Option<T> {
        let start = Instant::now();
        let result = command.await;
        let took = start.elapsed();
        let mut counted = self.counted();
        let (count, longest) = counted.commands.entry(name).or_default();
        *count += 1;
        *longest = took.max(*longest);
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                let text = format!("{error} (after {} ms)", took.as_millis());
                counted.errors.push((start - self.begun, name, text));
                None
            }
        }
    }
}

impl Counted {
    /// How many commands were carried out.
    pub fn count(&self) -> usize {
        self.commands.values().map(|(count, _)| count).sum()
    }

    /// The longest that a command took.
    pub fn longest(&self) -> Duration {
        let all = self.commands.values().map(|(_, longest)| *longest);
        all.max().unwrap_or_default()
    }
}
