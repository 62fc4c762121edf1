//! How often passwords may be tried, of whom and from where: times in, decisions out.
//!
//! A user's failures from one address make that address wait for that user, ever longer. Nobody
//! is made to wait for what others did: many failures of one user over all addresses, or from
//! one address over all users, only send a first attempt to the end of the queue for hashing.

use std::{
    cmp::Reverse,
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// How many wrong passwords a pair of user and address may give without waiting: people mistype.
const FREE: u32 = 5;

/// The first wait; doubled with every further wrong password.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// A pair's failures are forgotten so long after the last. The free attempts and the short waits
/// are 14 passwords in nine minutes; after an hour's pause they are no more than one in five
/// minutes.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// For how long it counts that a user logged in from an address.
const PROVEN: Duration = Duration::from_secs(30 * 24 * 3600);

/// What one address may fail over all users: 10 times at once, and one more every 2 s.
const PLACE: Budget = Budget {
    each: Duration::from_secs(2),
    burst: 10,
};

/// What one user may fail over all addresses: 30 times at once, and one more every 20 s.
const USER: Budget = Budget {
    each: Duration::from_secs(20),
    burst: 30,
};

/// How many pairs, users and addresses are remembered, of each: some 2 MB in all.
const REMEMBERED: usize = 16_384;

/// Whose turn it is when passwords are to be hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Nothing speaks against it.
    Clear,
    /// This user has not failed from this address; but the user elsewhere, or others from here,
    /// have, and often.
    Crowded,
    /// This user has failed from this address, lately.
    Failing,
}

/// What becomes of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The password is looked at, when it is its turn.
    Go(Lane),
    /// Not before so long.
    Wait(Duration),
}

/// An address, or what stands for it: whoever has one of IPv6 has all of its network's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place(IpAddr);

impl From<IpAddr> for Place {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
        })
    }
}

/// How many failures are no matter.
#[derive(Debug, Clone, Copy)]
struct Budget {
    /// How long it takes until one is forgotten.
    each: Duration,
    /// How many may be remembered.
    burst: u32,
}

/// The time at which all of it will be forgotten.
#[derive(Debug, Clone, Copy)]
struct Spent(Instant);

impl Budget {
    fn is_over(self, spent: Option<&Spent>, now: Instant) -> bool {
        let left = spent.map_or(Duration::ZERO, |spent| spent.0.duration_since(now));
        left >= self.each * self.burst
    }

    /// However long a flood lasted, the budget is there again one burst after it.
    fn spend(self, spent: Option<&Spent>, now: Instant) -> Spent {
        let from = spent.map_or(now, |spent| spent.0.max(now));
        Spent((from + self.each).min(now + self.each * self.burst * 2))
    }
}

/// What is remembered of a user at an address.
#[derive(Debug, Clone, Copy)]
struct Pair {
    failures: u32,
    failed: Instant,
    not_before: Instant,
    proven: Option<Instant>,
}

impl Pair {
    fn new(now: Instant) -> Self {
        Self {
            failures: 0,
            failed: now,
            not_before: now,
            proven: None,
        }
    }

    fn failures(&self, now: Instant) -> u32 {
        match now.duration_since(self.failed) < FORGOTTEN {
            true => self.failures,
            false => 0,
        }
    }

    fn is_proven(&self, now: Instant) -> bool {
        self.proven
            .is_some_and(|proven| now.duration_since(proven) < PROVEN)
    }
}

/// How long a pair waits after so many failures.
fn wait(failures: u32) -> Duration {
    let Some(doubled) = failures.checked_sub(FREE) else {
        return Duration::ZERO;
    };
    FIRST_WAIT
        .saturating_mul(2u32.saturating_pow(doubled))
        .min(LONGEST_WAIT)
}

/// What is remembered of attempts, at one authenticator since it was started. Users are known
/// by a keyed hash of what was given as a name: people type passwords there.
#[derive(Debug, Default)]
pub struct Attempts {
    names: RandomState,
    pairs: HashMap<(u64, Place), Pair>,
    users: HashMap<u64, Spent>,
    places: HashMap<Place, Spent>,
}

impl Attempts {
    fn key(&self, user: &str, address: IpAddr) -> (u64, Place) {
        (self.names.hash_one(user), address.into())
    }

    /// What would become of an attempt.
    pub fn judge(&self, user: &str, address: IpAddr, now: Instant) -> Verdict {
        let key = self.key(user, address);
        let pair = self.pairs.get(&key);
        let failures = pair.map_or(0, |pair| pair.failures(now));
        if failures > 0 {
            let left = pair.map_or(Duration::ZERO, |pair| pair.not_before.duration_since(now));
            return match left {
                Duration::ZERO => Verdict::Go(Lane::Failing),
                left => Verdict::Wait(left),
            };
        }
        let proven = pair.is_some_and(|pair| pair.is_proven(now));
        let crowded = USER.is_over(self.users.get(&key.0), now)
            || PLACE.is_over(self.places.get(&key.1), now);
        Verdict::Go(match crowded && !proven {
            true => Lane::Crowded,
            false => Lane::Clear,
        })
    }

    /// The password is about to be looked at. Of attempts that come together when a wait is over,
    /// this lets one pass: the others wait as if it had failed, until it did not.
    pub fn begin(&mut self, user: &str, address: IpAddr, now: Instant) -> Verdict {
        let verdict = self.judge(user, address, now);
        let key = self.key(user, address);
        if let (Verdict::Go(Lane::Failing), Some(pair)) = (verdict, self.pairs.get_mut(&key)) {
            pair.not_before = now + wait(pair.failures.saturating_add(1));
        }
        verdict
    }

    /// The password was wrong.
    pub fn failed(&mut self, user: &str, address: IpAddr, now: Instant) {
        let key = self.key(user, address);
        let pair = self.pairs.entry(key).or_insert_with(|| Pair::new(now));
        pair.failures = pair.failures(now).saturating_add(1);
        pair.failed = now;
        pair.not_before = now + wait(pair.failures);
        let user = USER.spend(self.users.get(&key.0), now);
        self.users.insert(key.0, user);
        let place = PLACE.spend(self.places.get(&key.1), now);
        self.places.insert(key.1, place);
        self.make_room(now);
    }

    /// The password was right.
    pub fn succeeded(&mut self, user: &str, address: IpAddr, now: Instant) {
        let pair = Pair {
            proven: Some(now),
            ..Pair::new(now)
        };
        self.pairs.insert(self.key(user, address), pair);
        self.make_room(now);
    }

    /// Forgets what does not count any more and, if that is not enough, what counts least: pairs
    /// that need not wait and never got in go first.
    fn make_room(&mut self, now: Instant) {
        shrink(
            &mut self.pairs,
            |pair| pair.failures(now) > 0 || pair.is_proven(now),
            |pair| {
                let waits = pair.failures(now) >= FREE;
                (waits || pair.is_proven(now), pair.failed)
            },
        );
        shrink(&mut self.users, |spent| spent.0 > now, |spent| spent.0);
        shrink(&mut self.places, |spent| spent.0 > now, |spent| spent.0);
    }
}

/// When there are too many: keeps those that count and, of these, at most seven in eight of what
/// is allowed, so that there is room for a while.
fn shrink<K: Copy + Eq + Hash, V, O: Ord>(
    all: &mut HashMap<K, V>,
    counts: impl Fn(&V) -> bool,
    worth: impl Fn(&V) -> O,
) {
    if all.len() <= REMEMBERED {
        return;
    }
    all.retain(|_, value| counts(value));
    let keep = REMEMBERED / 8 * 7;
    if all.len() > keep {
        let mut by_worth: Vec<(Reverse<O>, K)> = all
            .iter()
            .map(|(key, value)| (Reverse(worth(value)), *key))
            .collect();
        by_worth.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (_, key) in &by_worth[keep..] {
            all.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
