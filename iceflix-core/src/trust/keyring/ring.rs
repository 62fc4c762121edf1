//! Which of an authenticator's keys signs, and which are announced: pure, times in, decisions out.
//!
//! Times are those of a clock that never jumps, from any beginning.

use super::Schedule;
use std::time::Duration;

/// A key, and when its state ends.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held<K> {
    key: K,
    until: Duration,
}

/// The keys: one signs, the next one is announced already, earlier ones are announced still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ring<K> {
    schedule: Schedule,
    /// Signs until then (or until the next one may).
    current: Held<K>,
    /// Signs nothing before then.
    next: Held<K>,
    /// Are announced until then.
    previous: Vec<Held<K>>,
}

/// What is to be done about a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing before then.
    At(Duration),
    /// The next key is to sign: see [`Ring::rotated`].
    Rotate,
    /// Keys are over: see [`Ring::forgotten`].
    Forget,
}

impl<K> Ring<K> {
    /// A ring that is announced from `now`. `age` is for how long `current` has been signing;
    /// whether anybody heard of `next` before is not known, so its time begins now, and so does
    /// that of the `previous` ones.
    pub fn new(
        schedule: Schedule,
        current: K,
        age: Duration,
        next: K,
        previous: Vec<K>,
        now: Duration,
    ) -> Self {
        let held = |key, lasts| Held {
            key,
            until: now + lasts,
        };
        Self {
            current: held(current, schedule.lifetime.saturating_sub(age)),
            next: held(next, schedule.lead),
            previous: previous
                .into_iter()
                .map(|key| held(key, schedule.keep))
                .collect(),
            schedule,
        }
    }

    /// The key that signs.
    pub fn current(&self) -> &K {
        &self.current.key
    }

    /// The key that will sign.
    pub fn next(&self) -> &K {
        &self.next.key
    }

    /// The keys that signed what may still be good.
    pub fn previous(&self) -> impl Iterator<Item = &K> {
        self.previous.iter().map(|held| &held.key)
    }

    /// All that are announced.
    pub fn announced(&self) -> impl Iterator<Item = &K> {
        [self.current(), self.next()]
            .into_iter()
            .chain(self.previous())
    }

    /// What is to be done now.
    pub fn due(&self, now: Duration) -> Due {
        let rotate = self.current.until.max(self.next.until);
        let forget = self.previous.iter().map(|held| held.until).min();
        match forget {
            Some(forget) if forget <= now => Due::Forget,
            _ if rotate <= now => Due::Rotate,
            forget => Due::At(forget.map_or(rotate, |forget| forget.min(rotate))),
        }
    }
}

impl<K: Clone> Ring<K> {
    /// The ring in which the next key signs, and `fresh` is announced as the one after it. `None`
    /// while that is not due: a key that not everybody has heard of does not sign.
    pub fn rotated(&self, fresh: K, now: Duration) -> Option<Self> {
        if now < self.next.until || now < self.current.until {
            return None;
        }
        let Schedule {
            lifetime,
            lead,
            keep,
        } = self.schedule;
        let held = |key, lasts| Held {
            key,
            until: now + lasts,
        };
        let mut previous = self.previous.clone();
        previous.push(held(self.current.key.clone(), keep));
        Some(Self {
            schedule: self.schedule,
            current: held(self.next.key.clone(), lifetime),
            next: held(fresh, lead),
            previous,
        })
    }

    /// The ring without the keys that are over.
    pub fn forgotten(&self, now: Duration) -> Self {
        let mut ring = self.clone();
        ring.previous.retain(|held| held.until > now);
        ring
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// As long as a token is good, with the leeway.
    const TOKEN: Duration = Duration::from_secs(32);

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn schedule() -> impl Strategy<Value = Schedule> {
        (1u64..500, 1u64..200, 32u64..200).prop_map(|(lifetime, lead, keep)| Schedule {
            lifetime: seconds(lifetime),
            lead: seconds(lead),
            keep: seconds(keep),
        })
    }

    /// An authenticator with its ring, and one who hears what it announces.
    struct World {
        ring: Ring<u32>,
        made: u32,
        now: Duration,
        /// Since when each key that is announced has been announced without a break.
        since: HashMap<u32, Duration>,
        /// The last time that each key signed.
        signed: HashMap<u32, Duration>,
        first: u32,
    }

    impl World {
        fn announce(&mut self) {
            let said: Vec<u32> = self.ring.announced().copied().collect();
            self.since.retain(|key, _| said.contains(key));
            for key in said {
                self.since.entry(key).or_insert(self.now);
            }
        }

        /// Does what is due, as the task that keeps the ring does. `late`: that it is not done yet.
        fn step(&mut self, late: bool) {
            if late {
                return;
            }
            loop {
                match self.ring.due(self.now) {
                    Due::At(at) => {
                        assert!(at > self.now);
                        break;
                    }
                    Due::Forget => self.ring = self.ring.forgotten(self.now),
                    Due::Rotate => {
                        self.made += 1;
                        self.ring = self.ring.rotated(self.made, self.now).unwrap();
                    }
                }
                self.announce();
            }
        }

        /// Starts anew from what is on disk. The clock says any age.
        fn restart(&mut self, age: u64) {
            let (current, next) = (*self.ring.current(), *self.ring.next());
            let previous = self.ring.previous().copied().collect();
            let schedule = self.ring.schedule;
            self.ring = Ring::new(schedule, current, seconds(age), next, previous, self.now);
            // As if nobody had heard of the next one: only what is said in this life counts.
            self.since.remove(&next);
            self.announce();
        }

        fn check(&mut self) -> Result<(), TestCaseError> {
            let signs = *self.ring.current();
            self.signed.insert(signs, self.now);
            if signs != self.first {
                let announced = self.now - self.since[&signs];
                prop_assert!(announced >= self.ring.schedule.lead, "{announced:?}");
            }
            for (key, last) in &self.signed {
                let alive = self.now < *last + TOKEN;
                let known = self.since.contains_key(key);
                prop_assert!(known || !alive, "key {key} is needed at {:?}", self.now);
            }
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn no_key_signs_before_all_know_it_nor_is_forgotten_while_its_tokens_live(
            schedule in schedule(),
            steps in proptest::collection::vec(
                (0u64..120, any::<bool>(), proptest::option::weighted(0.1, 0u64..1000)), 1..120,
            ),
        ) {
            let ring = Ring::new(schedule, 0, Duration::ZERO, 1, vec![], seconds(5));
            let mut world = World {
                ring, made: 1, now: seconds(5), since: HashMap::new(), signed: HashMap::new(), first: 0,
            };
            world.announce();
            for (passed, late, restart) in steps {
                world.now += seconds(passed);
                // Whatever signs before the task gets to it.
                world.check()?;
                if let Some(age) = restart {
                    world.restart(age);
                }
                world.step(late);
                world.check()?;
            }
        }

        #[test]
        fn a_ring_turns_and_does_not_grow(schedule in schedule()) {
            let mut ring = Ring::new(schedule, 0, Duration::ZERO, 1, vec![], Duration::ZERO);
            let (mut now, mut made) = (Duration::ZERO, 1);
            for _ in 0..200 {
                match ring.due(now) {
                    Due::At(at) => now = at,
                    Due::Forget => ring = ring.forgotten(now),
                    Due::Rotate => {
                        made += 1;
                        ring = ring.rotated(made, now).unwrap();
                    }
                }
            }
            let turn = schedule.lifetime.max(schedule.lead);
            prop_assert!(made > 50);
            let most = schedule.keep.as_secs().div_ceil(turn.as_secs()) + 1;
            prop_assert!(ring.previous().count() as u64 <= most);
        }
    }

    #[test]
    fn a_rotation_that_is_not_due_is_refused() {
        let schedule = Schedule {
            lifetime: seconds(100),
            lead: seconds(10),
            keep: seconds(40),
        };
        let ring = Ring::new(schedule, 'a', seconds(1000), 'b', vec![], seconds(0));
        // It is old enough, but who was to hear of the next one?
        assert_eq!(ring.due(seconds(9)), Due::At(seconds(10)));
        assert_eq!(ring.rotated('c', seconds(9)), None);
        let ring = ring.rotated('c', seconds(10)).unwrap();
        assert_eq!((ring.current(), ring.next()), (&'b', &'c'));
        assert_eq!(ring.announced().collect::<String>(), "bca");
        assert_eq!(ring.rotated('d', seconds(109)), None);
        assert_eq!(ring.due(seconds(49)), Due::At(seconds(50)));
        assert_eq!(ring.due(seconds(50)), Due::Forget);
        assert_eq!(
            ring.forgotten(seconds(50)).announced().collect::<String>(),
            "bc"
        );
    }
}
