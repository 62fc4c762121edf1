//! Whose turn it is to be asked, and who is passed over: pure, events in, decisions out.

use crate::{
    api::{Instance, Kind, main::DirectoryView},
    directory::Turns,
};
use rand::Rng;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

/// After so many failures in a row an instance is passed over for a while.
const FAILURES: u32 = 3;

/// How long it is passed over at first; doubled with each further failure.
const EJECTION: Duration = Duration::from_secs(1);

/// How long it is passed over at most.
const LONGEST: Duration = Duration::from_secs(30);

/// Whose turn it is, and who is passed over.
#[derive(Debug, Default)]
pub(crate) struct Health {
    turns: Turns,
    started: BTreeSet<Kind>,
    failed: BTreeMap<SocketAddr, Failed>,
}

#[derive(Debug, Default)]
struct Failed {
    in_a_row: u32,
    ejections: u32,
    until: Option<Instant>,
}

impl Failed {
    fn is_ejected(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

impl Health {
    /// Whom a call asks next that has asked those in `tried` already: of the instances that are
    /// well the next one it has not tried. When it has tried them all, one of them again; and when
    /// none is well any: a sick instance is better than none.
    pub fn pick(
        &mut self,
        kind: Kind,
        alive: &[Instance],
        tried: &[SocketAddr],
        now: Instant,
    ) -> Option<Instance> {
        let well = |it: &Instance| {
            let failed = self.failed.get(&it.endpoint);
            failed.is_none_or(|failed| !failed.is_ejected(now))
        };
        let untried = |it: &Instance| !tried.contains(&it.endpoint);
        let choices: [&dyn Fn(&Instance) -> bool; 4] =
            [&|it| well(it) && untried(it), &well, &untried, &|_| true];
        let of_kind = || alive.iter().filter(|instance| instance.kind == kind);
        let candidates = choices.into_iter().find_map(|choice| {
            let chosen: Vec<Instance> = of_kind().filter(|it| choice(it)).cloned().collect();
            (!chosen.is_empty()).then_some(chosen)
        })?;
        if self.started.insert(kind) {
            // A new caller begins anywhere, so that many of them spread.
            for _ in 0..rand::rng().random_range(0..candidates.len()) {
                self.turns.pick(kind, &candidates);
            }
        }
        self.turns.pick(kind, &candidates)
    }

    /// An instance answered.
    pub fn succeeded(&mut self, endpoint: SocketAddr) {
        self.failed.remove(&endpoint);
    }

    /// An instance did not answer, or not in time.
    pub fn failed(&mut self, endpoint: SocketAddr, now: Instant) {
        let failed = self.failed.entry(endpoint).or_default();
        // What was under way when it was ejected says nothing new.
        if failed.is_ejected(now) {
            return;
        }
        failed.in_a_row += 1;
        // Not begun anew after the time: who fails at once again is passed over at once again.
        if failed.in_a_row >= FAILURES {
            let time = EJECTION * 2u32.pow(failed.ejections.min(5));
            failed.until = Some(now + time.min(LONGEST));
            failed.ejections += 1;
        }
    }

    /// Forgets those that are no longer there.
    pub fn forget_all_but(&mut self, view: &DirectoryView) {
        self.failed
            .retain(|endpoint, _| view.instances.iter().any(|it| it.endpoint == *endpoint));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn instances(n: u16) -> Vec<Instance> {
        (1..=n)
            .map(|n| Instance {
                kind: Kind::Auth,
                instance: format!("auth-{n}").parse().unwrap(),
                endpoint: ([127, 0, 0, 1], n).into(),
                pid: 1,
                load: 0,
                draining: false,
            })
            .collect()
    }

    fn eject(health: &mut Health, endpoint: SocketAddr, now: Instant) {
        for _ in 0..FAILURES {
            health.failed(endpoint, now);
        }
    }

    #[test]
    fn a_failing_instance_is_passed_over_and_comes_back() {
        let now = Instant::now();
        let mut health = Health::default();
        let alive = instances(2);
        eject(&mut health, alive[0].endpoint, now);
        for _ in 0..4 {
            let picked = health.pick(Kind::Auth, &alive, &[], now).unwrap();
            assert_eq!(picked.endpoint, alive[1].endpoint);
        }
        let later = now + EJECTION;
        let picked: Vec<_> = (0..2)
            .map(|_| {
                health
                    .pick(Kind::Auth, &alive, &[], later)
                    .unwrap()
                    .endpoint
            })
            .collect();
        assert!(picked.contains(&alive[0].endpoint));
    }

    #[test]
    fn the_last_instance_is_never_passed_over() {
        let now = Instant::now();
        let mut health = Health::default();
        let alive = instances(2);
        for instance in &alive {
            eject(&mut health, instance.endpoint, now);
        }
        assert!(health.pick(Kind::Auth, &alive, &[], now).is_some());
        let all = [alive[0].endpoint, alive[1].endpoint];
        assert!(health.pick(Kind::Auth, &alive, &all, now).is_some());
    }

    #[test]
    fn each_ejection_is_longer_up_to_a_limit_and_a_success_ends_it() {
        let start = Instant::now();
        let mut health = Health::default();
        let endpoint = instances(1)[0].endpoint;
        let mut now = start;
        let mut times = Vec::new();
        eject(&mut health, endpoint, now);
        for _ in 0..8 {
            let until = health.failed[&endpoint].until.unwrap();
            times.push((until - now).as_secs());
            now = until;
            health.failed(endpoint, now);
        }
        assert_eq!(times, [1, 2, 4, 8, 16, 30, 30, 30]);
        health.succeeded(endpoint);
        health.failed(endpoint, now);
        assert_eq!(health.failed[&endpoint].until, None, "it begins anew");
    }

    /// A killed instance fails all that was under way there in one moment.
    #[test]
    fn many_failures_at_once_are_one_ejection() {
        let now = Instant::now();
        let mut health = Health::default();
        let endpoint = instances(1)[0].endpoint;
        for _ in 0..64 {
            health.failed(endpoint, now);
        }
        assert_eq!(health.failed[&endpoint].until, Some(now + EJECTION));
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let (now, mut health, alive) = (Instant::now(), Health::default(), instances(3));
        for instance in &alive {
            health.failed(instance.endpoint, now);
        }
        let mut view = DirectoryView::empty();
        view.instances = alive[1..].to_vec();
        health.forget_all_but(&view);
        let known: Vec<_> = health.failed.keys().copied().collect();
        assert_eq!(known, [alive[1].endpoint, alive[2].endpoint]);
    }

    /// What happens, and how much later.
    #[derive(Debug, Clone)]
    enum Step {
        /// A call asks until somebody answers, at most so often. Between two of its attempts it is
        /// so often the turn of others.
        Call { attempts: usize, others: usize },
        /// This instance breaks, or is mended.
        Toggle(u16),
        /// Time passes, in milliseconds.
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (1usize..6, 0usize..4).prop_map(|(attempts, others)| Step::Call { attempts, others }),
            1 => (1u16..5).prop_map(Step::Toggle),
            2 => (0u64..4_000).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// On a clock of its own, over any mixture of calls, faults and waiting.
        #[test]
        fn whoever_is_picked_is_the_best_there_is(
            n in 1u16..5, steps in proptest::collection::vec(step(), 1..80)
        ) {
            let (alive, mut health) = (instances(n), Health::default());
            let mut now = Instant::now();
            let mut broken = BTreeSet::new();
            // What is known from outside: failures in a row, and when the last of them was.
            let mut row: BTreeMap<SocketAddr, (u32, Instant)> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Wait(ms) => now += Duration::from_millis(ms),
                    Step::Toggle(which) => {
                        if !broken.remove(&which) {
                            broken.insert(which);
                        }
                    }
                    Step::Call { attempts, others } => {
                        let mut tried = Vec::new();
                        for _ in 0..attempts {
                            let picked = health.pick(Kind::Auth, &alive, &tried, now);
                            let endpoint = picked.expect("somebody is there").endpoint;
                            let out = |at: &SocketAddr| {
                                row.get(at).is_some_and(|(times, last)| {
                                    *times >= FAILURES && now < *last + EJECTION
                                })
                            };
                            let better = alive.iter().map(|it| it.endpoint).find(|at| {
                                !out(at) && health.failed.get(at).is_none_or(|it| !it.is_ejected(now))
                                    && !tried.contains(at)
                            });
                            if let Some(better) = better {
                                prop_assert!(!out(&endpoint), "{endpoint} is out, {better} is not");
                                prop_assert!(!tried.contains(&endpoint), "{better} was not tried");
                            }
                            if broken.contains(&endpoint.port()) {
                                // Asked all the same, when there was no other: that says nothing new.
                                let failed = health.failed.get(&endpoint);
                                let counts = failed.is_none_or(|it| !it.is_ejected(now));
                                health.failed(endpoint, now);
                                if counts {
                                    let (times, last) = row.entry(endpoint).or_insert((0, now));
                                    (*times, *last) = (*times + 1, now);
                                }
                                tried.push(endpoint);
                                for _ in 0..others {
                                    health.pick(Kind::Auth, &alive, &[], now);
                                }
                            } else {
                                health.succeeded(endpoint);
                                row.remove(&endpoint);
                                break;
                            }
                        }
                    }
                }
            }
            // All are mended: half a minute later each has an equal share again.
            now += LONGEST;
            let mut count: BTreeMap<SocketAddr, usize> = BTreeMap::new();
            for _ in 0..usize::from(n) * 4 {
                let picked = health.pick(Kind::Auth, &alive, &[], now).expect("somebody is there");
                health.succeeded(picked.endpoint);
                *count.entry(picked.endpoint).or_default() += 1;
            }
            prop_assert_eq!(count.len(), usize::from(n));
            prop_assert!(count.values().all(|times| *times == 4), "{:?}", count);
        }
    }
}
