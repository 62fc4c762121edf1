//! Whose turn it is.

use crate::api::{Instance, InstanceId, Kind};
use std::collections::BTreeMap;

/// Hands out instances in turn.
#[derive(Debug, Default)]
pub struct Turns {
    last: BTreeMap<Kind, InstanceId>,
}

impl Turns {
    /// The next instance of a kind: the first by name after the one handed out last, so never the
    /// same twice in a row while two are alive. A draining one only when there is no other.
    pub fn pick(&mut self, kind: Kind, instances: &[Instance]) -> Option<Instance> {
        let of_kind = || instances.iter().filter(|instance| instance.kind == kind);
        let any_fresh = of_kind().any(|instance| !instance.draining);
        let candidates = || of_kind().filter(|instance| !instance.draining || !any_fresh);
        let after = self.last.get(&kind);
        let next = candidates()
            .filter(|instance| after.is_none_or(|last| instance.instance > *last))
            .min_by_key(|instance| &instance.instance)
            .or_else(|| candidates().min_by_key(|instance| &instance.instance))?;
        self.last.insert(kind, next.instance.clone());
        Some(next.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::PROTOCOL, directory::Directory, topics::Description};
    use proptest::prelude::*;

    fn id(n: u8) -> InstanceId {
        format!("i-{n}").parse().unwrap()
    }

    fn description(n: u8) -> Description {
        Description {
            endpoint: ([127, 0, 0, 1], n.into()).into(),
            pid: 1,
            protocol: PROTOCOL,
            load: 0,
            draining: false,
        }
    }

    fn live(ids: &[u8]) -> Vec<Instance> {
        let mut directory = Directory::default();
        for &n in ids {
            directory.alive(Kind::Auth, &id(n));
            directory.described(Kind::Auth, &id(n), description(n));
        }
        directory.instances()
    }

    #[test]
    fn nobody_alive_is_nobody_picked() {
        assert_eq!(Turns::default().pick(Kind::Catalog, &live(&[1, 2])), None);
    }

    #[test]
    fn a_draining_instance_is_picked_only_when_there_is_no_other() {
        let mut turns = Turns::default();
        let mut instances = live(&[1, 2]);
        instances[0].draining = true;
        for _ in 0..3 {
            assert_eq!(turns.pick(Kind::Auth, &instances).unwrap().instance, id(2));
        }
        instances[1].draining = true;
        assert!(turns.pick(Kind::Auth, &instances).is_some());
    }

    proptest! {
        #[test]
        fn never_the_same_twice_in_a_row_while_two_are_alive(
            rounds in proptest::collection::vec(proptest::collection::btree_set(0u8..6, 0..6), 1..60)
        ) {
            let mut turns = Turns::default();
            let mut last = None;
            for alive in rounds {
                let alive: Vec<u8> = alive.into_iter().collect();
                let picked = turns.pick(Kind::Auth, &live(&alive)).map(|instance| instance.instance);
                prop_assert_eq!(picked.is_none(), alive.is_empty());
                if alive.len() >= 2 {
                    prop_assert_ne!(&picked, &last);
                }
                if picked.is_some() {
                    last = picked;
                }
            }
        }

        #[test]
        fn everyone_gets_an_equal_share(n in 1u8..7, rounds in 1usize..20) {
            let ids: Vec<u8> = (0..n).collect();
            let instances = live(&ids);
            let mut turns = Turns::default();
            let mut count = BTreeMap::new();
            for _ in 0..rounds * usize::from(n) {
                *count.entry(turns.pick(Kind::Auth, &instances).unwrap().instance).or_insert(0usize) += 1;
            }
            prop_assert!(count.values().all(|&times| times == rounds));
        }
    }
}
