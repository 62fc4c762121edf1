//! When to wait before saying which films are available.
//!
//! A catalogue that was cut off and returns is found as soon as a Main sees it. It sees the streaming
//! nodes again a little later, each over a link of its own, in any order. An answer in between would
//! show films as not available that live nodes have. So answers are held for a moment when somebody
//! arrives while a node is missing that is known to have films: it may be the next.
//!
//! The same when a node is lost, since of a machine that is being cut off the links break one by one,
//! too. And when somebody on another machine asks while no other machine is to be seen: their
//! question has come, so the cable is in, and the links are about to return.

use iceflix_core::directory::Churn;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// How soon after one arrival another is to be expected, when links come back; or after one loss
/// another, when they break.
const QUIET: Duration = Duration::from_millis(350);

/// The longest that answers are held, whoever goes on arriving. It costs no error: a caller turns to
/// another instance after half a second, and has a second's patience with that one, of which this
/// leaves some for the way.
const LONGEST: Duration = Duration::from_millis(800);

/// How long after the first question from another machine the links to others are to be expected.
/// When the last other machine has died, questions are held until then, and no longer. Where what
/// others say arrives, and what is said here is lost, this may be over before the links return.
const RETURNING: Duration = Duration::from_millis(1500);

/// Instances that arrive, or nodes that are lost, one soon after the other. Pure: what happens comes with its
/// time.
#[derive(Debug)]
struct Gathering {
    /// How many were counted.
    seen: u64,
    first: Instant,
    last: Instant,
}

impl Gathering {
    /// Whoever starts is about to meet the others.
    fn begun(now: Instant) -> Self {
        Self {
            seen: 0,
            first: now,
            last: now,
        }
    }

    /// So many have by now. After a while in which nobody did they begin a new gathering; those that
    /// do without end do not.
    fn saw(&mut self, counted: u64, now: Instant) {
        if counted == self.seen {
            return;
        }
        if now >= self.last + QUIET {
            self.first = now;
        }
        (self.seen, self.last) = (counted, now);
    }

    /// Until when an answer is held for a node that is missing; `None` when it is not.
    fn holds_until(&self, now: Instant) -> Option<Instant> {
        let until = (self.last + QUIET).min(self.first + LONGEST);
        (now < until).then_some(until)
    }
}

/// Whether a catalogue that saw other machines sees none any more. Pure, like the other.
#[derive(Debug, Default)]
struct Solitude {
    /// Another machine was there.
    met: bool,
    alone: bool,
    /// When somebody elsewhere first asked since.
    asked: Option<Instant>,
}

impl Solitude {
    /// Whether another machine is there.
    fn looks(&mut self, company: bool) {
        if company {
            *self = Self {
                met: true,
                ..Self::default()
            };
        } else {
            self.alone = self.met;
        }
    }

    /// Somebody on another machine asks. Until when their answer is held for a node that is missing;
    /// `None` when it is not.
    fn holds_until(&mut self, now: Instant) -> Option<Instant> {
        if !self.alone {
            return None;
        }
        let until = *self.asked.get_or_insert(now) + RETURNING;
        (now < until).then_some(until)
    }
}

/// Lets answers pass when the directory has settled. Clones are the same.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    churn: watch::Receiver<Churn>,
    misses_nodes: Box<dyn Fn() -> bool + Send + Sync>,
    /// Of those that arrive, and of the nodes that are lost: where both happen, those that arrive
    /// are waited for as long as if none had been lost.
    gatherings: Mutex<[Gathering; 2]>,
    solitude: Mutex<Solitude>,
    looked: watch::Sender<()>,
}

impl Gate {
    /// One for a catalogue that starts now and hears who arrives and who is lost;
    /// `misses_nodes` says whether a node may be missing that has films.
    pub fn new(
        churn: watch::Receiver<Churn>,
        misses_nodes: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        let now = Instant::now();
        let begun = || Gathering::begun(now);
        Self(Arc::new(Inner {
            churn,
            misses_nodes: Box::new(misses_nodes),
            gatherings: Mutex::new([begun(), begun()]),
            solitude: Mutex::default(),
            looked: watch::channel(()).0,
        }))
    }

    /// Somebody has arrived or gone, as the index knows by now; whether other machines are there.
    /// To be said soon: when that was is when it is first looked at, here or for an answer.
    pub fn look(&self, company: bool) {
        self.gathering(Instant::now());
        self.solitude().looks(company);
        self.0.looked.send_replace(());
    }

    /// Waits until no node is missing that may be about to be seen, 0.8 s at most. At once when
    /// nobody has arrived or was lost lately, and others are there. `from_elsewhere` says whether
    /// who asks is on another machine.
    pub async fn settled(&self, from_elsewhere: bool) {
        let held_until = || self.held_until(from_elsewhere);
        if held_until().is_none() {
            return;
        }
        let mut looked = self.0.looked.subscribe();
        let settled = async {
            while let Some(until) = held_until() {
                tokio::select! {
                    // Its sender lives in what this borrows.
                    _ = looked.changed() => {}
                    () = tokio::time::sleep_until(until) => {}
                }
            }
        };
        // Also where one gathering begins right after another.
        let _ = tokio::time::timeout(LONGEST, settled).await;
    }

    /// Waits until nobody has arrived for a while, a second at most: whoever starts does not know yet
    /// whose films to miss.
    pub async fn gathered(&self) {
        let gathered = async {
            while let Some(until) = self.gathering(Instant::now()) {
                tokio::time::sleep_until(until).await;
            }
        };
        let _ = tokio::time::timeout(LONGEST, gathered).await;
    }

    fn held_until(&self, from_elsewhere: bool) -> Option<Instant> {
        // Without looking at the nodes, mostly: nobody has arrived or was lost.
        let now = Instant::now();
        let settling = self.gathering(now);
        let alone = from_elsewhere && self.solitude().alone;
        if (settling.is_none() && !alone) || !(self.0.misses_nodes)() {
            return None;
        }
        let returning = if alone {
            self.solitude().holds_until(now)
        } else {
            None
        };
        settling.max(returning)
    }

    fn solitude(&self) -> MutexGuard<'_, Solitude> {
        // Two answers and a time: a panic cannot have left them half changed.
        let solitude = self.0.solitude.lock();
        solitude.unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in who has arrived and who was lost; until when that holds answers.
    fn gathering(&self, now: Instant) -> Option<Instant> {
        let Churn {
            arrived,
            nodes_lost,
        } = *self.0.churn.borrow();
        let gatherings = self.0.gatherings.lock();
        // Times and numbers: a panic cannot have left them half changed.
        let mut gatherings = gatherings.unwrap_or_else(PoisonError::into_inner);
        let [arriving, losing] = &mut *gatherings;
        arriving.saw(arrived, now);
        losing.saw(nodes_lost, now);
        arriving.holds_until(now).max(losing.holds_until(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn came(arrived: u64) -> Churn {
        Churn {
            arrived,
            nodes_lost: 0,
        }
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    proptest! {
        /// Whoever arrives when, and whenever it is asked.
        #[test]
        fn an_answer_is_held_while_others_may_follow_and_eight_tenths_at_most(
            pauses in proptest::collection::vec(0u64..400, 0..30),
            asked in 0u64..3_000,
        ) {
            let start = Instant::now();
            let asked = start + ms(asked);
            let mut gathering = Gathering::begun(start);
            // The arrivals one soon after the other of which the last was before it was asked.
            let (mut first, mut last, mut at) = (start, start, start);
            for (n, pause) in (1..).zip(pauses) {
                at += ms(pause);
                if at > asked {
                    break;
                }
                gathering.saw(n, at);
                // Looking again changes nothing.
                gathering.saw(n, at + ms(pause / 2));
                if at - last >= QUIET {
                    first = at;
                }
                last = at;
            }
            let held = gathering.holds_until(asked);
            prop_assert_eq!(held.is_some(), asked - last < QUIET && asked - first < LONGEST);
            if let Some(until) = held {
                prop_assert!(until > asked && until <= asked + QUIET);
                prop_assert_eq!(gathering.holds_until(until), None);
            }
        }
    }

    /// A gate, who arrives, and whether a node is missing. The start is over.
    async fn setting() -> (Gate, watch::Sender<Churn>, Arc<AtomicBool>) {
        let missing = Arc::new(AtomicBool::new(true));
        let (arrived, arrivals) = watch::channel(Churn::default());
        let misses = Arc::clone(&missing);
        let gate = Gate::new(arrivals, move || misses.load(Ordering::SeqCst));
        tokio::time::sleep(QUIET).await;
        (gate, arrived, missing)
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_held_while_nobody_arrives_or_nobody_is_missing() {
        let (gate, arrived, missing) = setting().await;
        assert!(
            gate.settled(true).now_or_never().is_some(),
            "nobody arrived"
        );
        missing.store(false, Ordering::SeqCst);
        arrived.send_replace(came(1));
        assert!(
            gate.settled(true).now_or_never().is_some(),
            "nobody is missing"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_passes_as_soon_as_the_missing_node_is_there() {
        let (gate, arrived, missing) = setting().await;
        arrived.send_replace(came(1));
        let began = Instant::now();
        let held = {
            let gate = gate.clone();
            tokio::spawn(async move { gate.settled(true).await })
        };
        tokio::time::sleep(ms(100)).await;
        // Another one, which has no films.
        arrived.send_replace(came(2));
        gate.look(true);
        tokio::time::sleep(ms(200)).await;
        assert!(!held.is_finished());
        arrived.send_replace(came(3));
        missing.store(false, Ordering::SeqCst);
        gate.look(true);
        held.await.unwrap();
        assert_eq!(began.elapsed(), ms(300));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_asked_from_elsewhere_and_sees_no_other_machine_waits_for_it_to_return() {
        let (gate, arrived, missing) = setting().await;
        gate.look(false);
        assert!(
            gate.settled(true).now_or_never().is_some(),
            "it never saw one"
        );
        gate.look(true);
        gate.look(false);
        assert!(gate.settled(false).now_or_never().is_some());
        tokio::time::sleep(Duration::from_secs(60)).await;
        let began = Instant::now();
        let held = {
            let gate = gate.clone();
            tokio::spawn(async move { gate.settled(true).await })
        };
        tokio::time::sleep(ms(700)).await;
        assert!(!held.is_finished());
        arrived.send_replace(came(1));
        missing.store(false, Ordering::SeqCst);
        gate.look(true);
        held.await.unwrap();
        assert_eq!(began.elapsed(), ms(700));
    }

    #[tokio::test(start_paused = true)]
    async fn where_the_last_other_machine_has_died_questions_are_held_for_a_second_and_a_half_in_all()
     {
        let (gate, ..) = setting().await;
        gate.look(true);
        gate.look(false);
        for longest in [ms(800), ms(700), ms(0), ms(0)] {
            let began = Instant::now();
            gate.settled(true).await;
            assert!(began.elapsed() <= longest + ms(10));
            assert!(began.elapsed() + ms(10) >= longest);
        }
        // It is there once more, and gone again.
        gate.look(true);
        gate.look(false);
        assert!(gate.settled(true).now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_held_while_links_break_and_anew_when_they_return() {
        let (gate, turned, _) = setting().await;
        let mut churn = Churn::default();
        let began = Instant::now();
        // Four break, and as many return, each 300 ms after the one before.
        for n in 0..8 {
            match n {
                0..4 => churn.nodes_lost += 1,
                _ => churn.arrived += 1,
            }
            turned.send_replace(churn);
            gate.look(true);
            let held = gate.settled(false).now_or_never().is_none();
            // The fourth of each comes after more than the longest that answers are held for any.
            assert_eq!(held, n % 4 < 3, "{n}");
            tokio::time::sleep(ms(300)).await;
        }
        assert_eq!(began.elapsed(), ms(2400));
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_while_nobody_is_missing_begins_no_return() {
        let (gate, _turned, missing) = setting().await;
        gate.look(true);
        gate.look(false);
        missing.store(false, Ordering::SeqCst);
        gate.settled(true).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        missing.store(true, Ordering::SeqCst);
        assert!(gate.settled(true).now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_starts_waits_until_nobody_arrives_any_more_eight_tenths_at_most() {
        for (arriving, waits) in [(0, 350), (3, 650), (50, 800)] {
            let (arrived, arrivals) = watch::channel(Churn::default());
            let gate = Gate::new(arrivals, || false);
            let began = Instant::now();
            let coming = async {
                for n in 1..=arriving {
                    tokio::time::sleep(ms(100)).await;
                    arrived.send_replace(came(n));
                    gate.look(true);
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = gate.gathered() => {}
                () = coming => {}
            }
            let (took, waits) = (began.elapsed(), ms(waits));
            assert!(
                took >= waits && took < waits + ms(10),
                "{arriving}: {took:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_stays_away_is_waited_for_a_moment_and_not_for_each_that_arrives() {
        let (gate, arrived, _) = setting().await;
        let began = Instant::now();
        arrived.send_replace(came(1));
        gate.settled(true).await;
        let took = began.elapsed();
        assert!(took >= QUIET && took < QUIET + ms(10), "{took:?}");

        // Now they come without end.
        let coming = tokio::spawn(async move {
            for n in 2.. {
                arrived.send_replace(came(n));
                tokio::time::sleep(ms(100)).await;
            }
        });
        let looking = {
            let gate = gate.clone();
            tokio::spawn(async move {
                loop {
                    gate.look(true);
                    tokio::time::sleep(ms(10)).await;
                }
            })
        };
        tokio::time::sleep(ms(10)).await;
        let began = Instant::now();
        gate.settled(true).await;
        let took = began.elapsed();
        assert!(
            took > LONGEST - ms(50) && took < LONGEST + ms(10),
            "{took:?}"
        );
        for _ in 0..10 {
            tokio::time::sleep(ms(100)).await;
            assert!(gate.settled(true).now_or_never().is_some());
        }
        coming.abort();
        looking.abort();
    }
}
