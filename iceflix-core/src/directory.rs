//! Who is alive, and whom to pick: a pure struct, events in, decisions out.

use crate::{
    api::{Instance, InstanceId, Kind, PROTOCOL},
    topics::Description,
};
use std::collections::{BTreeMap, HashSet};

/// The live instances of a cluster, as far as this node has heard.
///
/// An instance is in it when two things are known: that it is alive (its token on the bus) and
/// how to reach it (its description).
#[derive(Debug, Default)]
pub struct Directory {
    /// Those alive, with their descriptions once they are known.
    known: BTreeMap<(Kind, InstanceId), Option<Description>>,
    /// Those that are not shown, alive or not.
    expelled: HashSet<InstanceId>,
    number: u64,
}

impl Directory {
    /// An instance is alive (or says so again). It is to be asked how to reach it.
    pub fn alive(&mut self, kind: Kind, instance: &InstanceId) {
        self.known.entry((kind, instance.clone())).or_default();
    }

    /// An instance is alive no more. It may return, on another port.
    pub fn gone(&mut self, kind: Kind, instance: &InstanceId) {
        if let Some(Some(_)) = self.known.remove(&(kind, instance.clone())) {
            self.number += 1;
        }
    }

    /// An instance said how to reach it. Another protocol's are not for us; nor is what was said in
    /// a life that is over, which may arrive after the goodbye.
    pub fn described(&mut self, kind: Kind, instance: &InstanceId, description: Description) {
        if description.protocol != PROTOCOL {
            return;
        }
        if let Some(known) = self.known.get_mut(&(kind, instance.clone()))
            && known.as_ref() != Some(&description)
        {
            *known = Some(description);
            self.number += 1;
        }
    }

    /// These instances, and no others, are not shown from now on.
    pub fn expel(&mut self, expelled: HashSet<InstanceId>) {
        if self.expelled != expelled {
            self.expelled = expelled;
            self.number += 1;
        }
    }

    /// Whether it is alive and its description is still missing.
    pub fn wanted(&self, kind: Kind, instance: &InstanceId) -> bool {
        self.known
            .get(&(kind, instance.clone()))
            .is_some_and(Option::is_none)
    }

    /// How often what [`Directory::instances`] gives has changed.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The live instances, sorted by kind and name.
    pub fn instances(&self) -> Vec<Instance> {
        self.known
            .iter()
            .filter(|((_, instance), _)| !self.expelled.contains(instance))
            .filter_map(|((kind, instance), known)| {
                let description = known.as_ref()?;
                Some(Instance {
                    kind: *kind,
                    instance: instance.clone(),
                    endpoint: description.endpoint,
                    pid: description.pid,
                    load: description.load,
                    draining: description.draining,
                })
            })
            .collect()
    }
}

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
    use proptest::prelude::*;

    fn description(port: u16) -> Description {
        Description {
            endpoint: ([127, 0, 0, 1], port).into(),
            pid: 1,
            protocol: PROTOCOL,
            load: 0,
            draining: false,
        }
    }

    fn id(n: u8) -> InstanceId {
        format!("i-{n}").parse().unwrap()
    }

    #[test]
    fn an_instance_counts_when_it_is_alive_and_described() {
        let mut directory = Directory::default();
        directory.alive(Kind::Auth, &id(1));
        assert!(directory.wanted(Kind::Auth, &id(1)));
        assert!(directory.instances().is_empty());
        directory.described(Kind::Auth, &id(1), description(1));
        assert!(!directory.wanted(Kind::Auth, &id(1)));
        assert_eq!((directory.number(), directory.instances().len()), (1, 1));
    }

    #[test]
    fn an_expelled_instance_is_not_shown() {
        let mut directory = Directory::default();
        for n in 1..=2 {
            directory.alive(Kind::Auth, &id(n));
            directory.described(Kind::Auth, &id(n), description(n.into()));
        }
        directory.expel(HashSet::from([id(1)]));
        let shown = directory.instances();
        assert_eq!(shown.len(), 1);
        assert_eq!((&shown[0].instance, directory.number()), (&id(2), 3));
        directory.expel(HashSet::new());
        assert_eq!(directory.instances().len(), 2);
    }

    #[test]
    fn a_gone_instance_is_forgotten_and_may_return_elsewhere() {
        let mut directory = Directory::default();
        directory.alive(Kind::Auth, &id(1));
        directory.described(Kind::Auth, &id(1), description(1));
        directory.gone(Kind::Auth, &id(1));
        assert!(directory.instances().is_empty());
        // Its last word may come after its goodbye: it must not stand when it returns.
        let mut leaving = description(1);
        leaving.draining = true;
        directory.described(Kind::Auth, &id(1), leaving);
        directory.alive(Kind::Auth, &id(1));
        assert!(directory.wanted(Kind::Auth, &id(1)), "it is asked anew");
        directory.described(Kind::Auth, &id(1), description(2));
        assert_eq!(directory.instances()[0].endpoint.port(), 2);
        assert!(!directory.instances()[0].draining);
    }

    #[test]
    fn another_protocol_is_not_entered() {
        let mut directory = Directory::default();
        directory.alive(Kind::Main, &id(1));
        let mut foreign = description(1);
        foreign.protocol += 1;
        directory.described(Kind::Main, &id(1), foreign);
        assert!(directory.instances().is_empty());
    }

    fn live(ids: &[u8]) -> Vec<Instance> {
        let mut directory = Directory::default();
        for &n in ids {
            directory.alive(Kind::Auth, &id(n));
            directory.described(Kind::Auth, &id(n), description(n.into()));
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
