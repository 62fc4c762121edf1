//! Who is alive, as the sessions of one node see it together.

use super::Alive;
use std::collections::{BTreeMap, BTreeSet};

/// Which of this node's sessions see which keys alive. While there are two, links come and go on
/// the new one until everybody is met: whoever is seen by the other has not left.
pub(super) struct SeenBy<S> {
    alive: BTreeMap<String, BTreeSet<S>>,
}

impl<S> Default for SeenBy<S> {
    fn default() -> Self {
        Self {
            alive: BTreeMap::new(),
        }
    }
}

impl<S: Ord> SeenBy<S> {
    /// A session saw a key come or go. What is news of it.
    pub(super) fn sample(&mut self, session: S, key: String, alive: bool) -> Vec<Alive> {
        let by = self.alive.entry(key.clone()).or_default();
        match alive {
            true => by.insert(session),
            false => by.remove(&session),
        };
        let gone = by.is_empty();
        if gone {
            self.alive.remove(&key);
        }
        match alive || gone {
            true => vec![Alive { key, alive }],
            false => Vec::new(),
        }
    }

    /// A session was left: what only it saw is gone.
    pub(super) fn nothing(&mut self, session: S) -> Vec<Alive> {
        let mut gone = Vec::new();
        self.alive.retain(|key, by| {
            if by.remove(&session) && by.is_empty() {
                gone.push(key.clone());
            }
            !by.is_empty()
        });
        let gone = gone.into_iter();
        gone.map(|key| Alive { key, alive: false }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_seen_by_one_session_has_not_left() {
        let key = || "k".to_owned();
        let event = |alive| vec![Alive { key: key(), alive }];
        let mut seen = SeenBy::default();
        assert_eq!(seen.sample(1, key(), true), event(true));
        // The second session meets it, loses it and meets it again.
        assert_eq!(seen.sample(2, key(), true), event(true));
        assert_eq!(seen.sample(2, key(), false), []);
        assert_eq!(seen.sample(2, key(), true), event(true));
        assert_eq!(seen.nothing(1), []);
        assert_eq!(seen.sample(2, key(), false), event(false));
        // What only the first saw is gone with it.
        assert_eq!(seen.sample(1, key(), true), event(true));
        assert_eq!(seen.nothing(1), event(false));
        assert_eq!(seen.nothing(2), []);
        assert_eq!(
            seen.sample(2, key(), false),
            event(false),
            "as it always was"
        );
    }
}
