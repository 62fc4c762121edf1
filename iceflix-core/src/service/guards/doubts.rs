//! Whether this node hears what it should: pure, one look after another in, decisions out.

use crate::api::{InstanceId, Kind};
use std::collections::{BTreeMap, BTreeSet};

/// Something that speaks for a session on the bus that does not carry what it should.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Doubt {
    /// An instance is alive, and says nothing on a topic (by its number) that is heard here.
    Silent(usize, InstanceId),
    /// An instance that another one sees is not seen here.
    Unseen(Kind, InstanceId),
    /// Others were there, and nobody is any more.
    Alone,
}

impl Doubt {
    /// For how many looks, a second apart, it has to last.
    fn patience(&self) -> u32 {
        match self {
            // Three times as long as a speaker is ever silent, and a second for one that is late.
            Self::Silent(..) => 7,
            // Whoever comes or goes is known to one a little before the other, and where a cable
            // comes loose again and again, so is whoever is behind it: asked four times.
            Self::Unseen(..) => 8,
            // Longer than a cable is out by mistake: a session that is just recovering is better
            // than a new one.
            Self::Alone => 15,
        }
    }
}

/// For how many looks at the least a new session has to show itself better than the one before.
const REST: u32 = 30;

/// And at the most, when it was no better again and again: who is really alone, or beside one that
/// is really silent, gains nothing by it.
const LONGEST_REST: u32 = 600;

/// What is doubted, and for how long.
#[derive(Debug)]
pub(super) struct Doubts {
    lasting: BTreeMap<Doubt, u32>,
    /// How many looks it is until the session may be opened anew.
    resting: u32,
    rest: u32,
    /// For how many looks nothing was in doubt.
    calm: u32,
}

impl Default for Doubts {
    fn default() -> Self {
        Self {
            lasting: BTreeMap::new(),
            resting: 0,
            rest: REST,
            calm: 0,
        }
    }
}

impl Doubts {
    /// What is in doubt now, a second after the last look. What has been for too long: then the
    /// session is to be opened anew.
    pub(super) fn look(&mut self, now: BTreeSet<Doubt>) -> Option<Doubt> {
        self.lasting.retain(|doubt, _| now.contains(doubt));
        self.calm = if now.is_empty() { self.calm + 1 } else { 0 };
        if self.calm >= self.rest {
            self.rest = REST;
        }
        self.resting = self.resting.saturating_sub(1);
        for doubt in now {
            *self.lasting.entry(doubt).or_default() += 1;
        }
        if self.resting > 0 {
            return None;
        }
        let over = self
            .lasting
            .iter()
            .find(|(doubt, looks)| **looks >= doubt.patience());
        let doubt = over?.0.clone();
        self.reopened();
        Some(doubt)
    }

    /// The session is being opened anew.
    pub(super) fn reopened(&mut self) {
        self.lasting.clear();
        self.resting = self.rest;
        self.rest = (self.rest * 2).min(LONGEST_REST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn silent(n: u8) -> Doubt {
        Doubt::Silent(0, format!("auth-{n}").parse().unwrap())
    }

    fn doubt() -> impl Strategy<Value = Doubt> {
        prop_oneof![
            (0u8..3).prop_map(silent),
            (0u8..3).prop_map(|n| Doubt::Unseen(Kind::Main, format!("main-{n}").parse().unwrap())),
            Just(Doubt::Alone),
        ]
    }

    #[test]
    fn one_of_two_that_are_alive_and_not_heard_is_enough() {
        let mut doubts = Doubts::default();
        let looks = (1..20).find(|_| doubts.look([silent(1)].into()).is_some());
        assert_eq!(looks, Some(7));
    }

    #[test]
    fn who_speaks_every_two_seconds_is_in_no_doubt() {
        let mut doubts = Doubts::default();
        for look in 0..1000 {
            let now = match look % 7 {
                0 => BTreeSet::new(),
                _ => BTreeSet::from([silent(1)]),
            };
            assert_eq!(doubts.look(now), None, "six looks at the most in a row");
        }
    }

    #[test]
    fn what_a_new_session_does_not_mend_is_tried_ever_more_seldom_until_all_was_well() {
        let mut doubts = Doubts::default();
        let mut waits = Vec::new();
        let mut since = 0;
        for _ in 0..5000 {
            since += 1;
            if doubts.look([Doubt::Alone].into()).is_some() {
                waits.push(std::mem::take(&mut since));
            }
        }
        assert_eq!(waits[..6], [15, 30, 60, 120, 240, 480]);
        assert!(
            waits[6..].iter().all(|wait| *wait == LONGEST_REST),
            "{waits:?}"
        );
        for _ in 0..LONGEST_REST {
            assert_eq!(doubts.look(BTreeSet::new()), None);
        }
        let looks = (1..20).find(|_| doubts.look([silent(1)].into()).is_some());
        assert_eq!(looks, Some(7));
        let looks = (1..100).find(|_| doubts.look([silent(1)].into()).is_some());
        assert_eq!(looks, Some(REST));
    }

    proptest! {
        /// Between two new sessions there is a rest, and a reason for each lasted.
        #[test]
        fn no_session_is_opened_without_a_reason_or_a_rest(
            looks in proptest::collection::vec(proptest::collection::btree_set(doubt(), 0..3), 0..400)
        ) {
            let mut doubts = Doubts::default();
            let mut last: Option<usize> = None;
            for (n, now) in looks.iter().enumerate() {
                let Some(reason) = doubts.look(now.clone()) else { continue };
                let patience = reason.patience() as usize;
                prop_assert!(n + 1 >= patience);
                prop_assert!(looks[n + 1 - patience..=n].iter().all(|look| look.contains(&reason)));
                prop_assert!(last.is_none_or(|last| n - last >= REST as usize));
                last = Some(n);
            }
        }

        /// Whatever lasts leads to a new session.
        #[test]
        fn what_lasts_is_acted_upon(
            before in proptest::collection::vec(proptest::collection::btree_set(doubt(), 0..3), 0..100),
            lasts in doubt()
        ) {
            let mut doubts = Doubts::default();
            for now in before {
                doubts.look(now);
            }
            let acted = (0..=LONGEST_REST).any(|_| doubts.look([lasts.clone()].into()).is_some());
            prop_assert!(acted);
        }
    }
}
