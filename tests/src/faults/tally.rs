//! What became of the commands of a load.

use super::latency::Call;
use client_cli::session::Session;
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
    /// All commands, as they ended.
    pub calls: Vec<Call>,
    /// What commands failed with: when (since the beginning), which, why.
    pub errors: Vec<(Duration, &'static str, String)>,
    /// Searches that found a film which live nodes have, and showed it as not available: when.
    pub hidden: Vec<Duration>,
    /// Tags that are written, as the catalogue acknowledged: whose, and which.
    pub tags: Vec<(String, String)>,
    /// Users that are written, as the authenticator acknowledged.
    pub users: Vec<String>,
    /// Sessions that have ended, as an authenticator acknowledged: some of the whole time.
    pub ended: Spread<Session>,
    /// How each film plays.
    pub films: BTreeMap<&'static str, Film>,
}

/// How many sessions that have ended are kept at most.
const ENDED: usize = 100;

/// Some of many, evenly from the first to the last.
#[derive(Debug, Clone)]
pub struct Spread<T> {
    kept: Vec<T>,
    /// One of so many is kept.
    each: usize,
    seen: usize,
}

impl<T> Default for Spread<T> {
    fn default() -> Self {
        Self {
            kept: Vec::new(),
            each: 1,
            seen: 0,
        }
    }
}

impl<T> Spread<T> {
    /// Another one. Of those kept there are never more than [`ENDED`].
    pub fn add(&mut self, one: T) {
        if self.seen.is_multiple_of(self.each) {
            self.kept.push(one);
        }
        self.seen += 1;
        if self.kept.len() > ENDED {
            let mut even = [true, false].into_iter().cycle();
            self.kept.retain(|_| even.next() == Some(true));
            self.each *= 2;
        }
    }

    /// Those kept, in their order.
    pub fn kept(&self) -> &[T] {
        &self.kept
    }
}

/// How far a film may go back when it goes on at another node: 1.5 s it does on purpose, so that
/// nothing is skipped; it was asked where it was up to 0.5 s before; and the rest is for a busy
/// machine.
const BACK: Duration = Duration::from_millis(2500);

/// How far it may be ahead of where it should be since it began, or moved: so much is between two
/// reports of a player on a busy machine.
const AHEAD: Duration = Duration::from_millis(500);

/// How long a player may take from its first picture until it is where it should be.
const BEGINNING: Duration = Duration::from_secs(2);

/// How a film plays.
#[derive(Debug, Default, Clone)]
pub struct Film {
    /// The fault hits the node at which it began.
    pub hit: bool,
    /// Where in the film its player was last, and when.
    pub played: Option<(Duration, Instant)>,
    /// The longest time in which nothing of it came.
    pub stalled: Duration,
    /// How often it went on at another node.
    pub moves: usize,
    /// Where it was, and where it was next, though that does not follow.
    pub jumps: Vec<(Duration, Duration)>,
    /// Why it does not play on.
    pub ended: Option<String>,
    /// It has moved, and shows nothing yet.
    moving: bool,
    /// Where its player began, and when.
    began: Option<(Duration, Instant)>,
}

impl Film {
    /// Its player is at this place now.
    pub fn shows(&mut self, place: Duration, now: Instant) {
        self.stands(now);
        let moved = std::mem::take(&mut self.moving);
        let before = self.played.replace((place, now)).map(|(before, _)| before);
        let most = match (before, self.began) {
            (Some(before), _) if moved => before,
            // Pictures that were late may come all at once, in a few reports.
            (_, Some((first, then))) => first + (now - then),
            _ => place,
        };
        if before.is_some_and(|before| place + BACK < before) || place > most + AHEAD {
            self.jumps.push((before.unwrap_or_default(), place));
        }
        // It begins when it shows the first pictures as fast as they should be.
        let beginning = self
            .began
            .is_none_or(|(_, then)| now - then < BEGINNING && place > most);
        if moved || beginning || place > most + AHEAD {
            self.began = Some((place, now));
        }
    }

    /// It goes on at another node.
    pub fn moves(&mut self) {
        self.moves += 1;
        self.moving = true;
    }

    /// Nothing has come since the last time that it showed something.
    pub fn stands(&mut self, now: Instant) {
        if let Some((_, then)) = self.played {
            self.stalled = self.stalled.max(now - then);
        }
    }
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

    /// Writes down how a film goes.
    pub fn film<T>(&self, name: &'static str, note: impl FnOnce(&mut Film) -> T) -> T {
        note(self.counted().films.entry(name).or_default())
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
        counted.calls.push(Call {
            command: name,
            at: start - self.begun,
            took,
        });
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
    /// A session has ended.
    pub fn ends(&mut self, session: Session) {
        self.ended.add(session);
    }

    /// How many commands were carried out.
    pub fn count(&self) -> usize {
        self.calls.len()
    }

    /// The longest that a command took.
    pub fn longest(&self) -> Duration {
        let all = self.calls.iter().map(|call| call.took);
        all.max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_many_is_spread_over_all_of_them() {
        let mut spread = Spread::default();
        for n in 0..ENDED {
            spread.add(n);
        }
        assert_eq!(spread.kept().len(), ENDED, "all of a few");
        for n in ENDED..30 * ENDED {
            spread.add(n);
        }
        let kept = spread.kept();
        assert!((ENDED / 2..=ENDED).contains(&kept.len()), "{}", kept.len());
        assert_eq!(kept[0], 0);
        assert!(
            kept.windows(2).all(|pair| pair[1] - pair[0] == 32),
            "{kept:?}"
        );
    }

    #[tokio::test]
    async fn every_command_is_kept_also_one_that_fails() {
        let tally = Tally::default();
        let done = tally.command("search", async { Ok::<_, String>(7) }).await;
        assert_eq!(done, Some(7));
        let slow = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Err::<(), _>("no")
        };
        let failed = tally.command("login", slow).await;
        assert_eq!(failed, None);
        let counted = tally.counted();
        let kept: Vec<_> = counted.calls.iter().map(|call| call.command).collect();
        assert_eq!((kept, counted.count()), (vec!["search", "login"], 2));
        assert!(counted.calls[0].at <= counted.calls[1].at);
        assert_eq!(counted.errors.len(), 1);
        let took = counted.calls[1].took;
        assert!(took >= Duration::from_millis(5) && counted.longest() == took);
    }

    #[test]
    fn a_film_that_moves_may_show_a_little_again_and_skips_nothing() {
        let begun = Instant::now();
        let second = Duration::from_secs_f64;
        let mut film = Film::default();
        for (at, place) in [(0.0, 0.1), (1.0, 1.1), (2.0, 2.1), (3.0, 3.1)] {
            film.shows(second(place), begun + second(at));
        }
        assert_eq!((film.stalled, film.jumps.len()), (second(1.0), 0));
        film.moves();
        film.shows(second(1.1), begun + second(5.5));
        assert_eq!((film.stalled, film.jumps.len()), (second(2.5), 0));
        film.stands(begun + second(8.2));
        assert_eq!((film.stalled, film.moves), (second(2.7), 1));
        // As it should be, also when what is late comes in two parts; back too far; on too far; and
        // too far without a move.
        let places = [
            (9.0, 1.2, false),
            (9.1, 4.0, false),
            (9.5, 1.0, true),
            (10.0, 2.0, true),
            (10.1, 4.0, false),
        ];
        for (at, place, moves) in places {
            if moves {
                film.moves();
            }
            film.shows(second(place), begun + second(at));
        }
        assert_eq!(film.jumps.len(), 3, "{film:?}");
    }
}
