//! Who is alive, and whom to pick: a pure struct, events in, decisions out.

mod turns;

pub use turns::Turns;

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
    /// Those alive.
    known: BTreeMap<(Kind, InstanceId), Known>,
    /// How often one came to life, or said so again.
    lives: u64,
    /// Those that are not shown, alive or not.
    expelled: HashSet<InstanceId>,
    number: u64,
}

#[derive(Debug, Default)]
struct Known {
    life: u64,
    /// It has said in this life how to reach it.
    told: bool,
    /// Whether it still is alive is being asked.
    doubted: bool,
    description: Option<Description>,
}

impl Directory {
    /// An instance is alive (or says so again). It is to be asked how to reach it; what is given
    /// back goes with its answer.
    pub fn alive(&mut self, kind: Kind, instance: &InstanceId) -> u64 {
        self.lives += 1;
        let known = self.known.entry((kind, instance.clone())).or_default();
        // One that is doubted stays so until it answers: this may be its namesake, elsewhere.
        (known.life, known.told) = (self.lives, false);
        known.life
    }

    /// What was last heard may be long ago: all are to be asked once more how to reach them. What is
    /// given back goes with their answers, and no earlier one counts.
    pub fn doubt(&mut self) -> Vec<(Kind, InstanceId, u64)> {
        let lives = &mut self.lives;
        let asked = self.known.iter_mut().map(|((kind, instance), known)| {
            *lives += 1;
            (known.life, known.doubted) = (*lives, true);
            (*kind, instance.clone(), known.life)
        });
        asked.collect()
    }

    /// Whether all have answered since they were [doubted](Directory::doubt).
    pub fn is_sure(&self) -> bool {
        self.known.values().all(|known| !known.doubted)
    }

    /// Those that have not answered since they were doubted are not shown until they do.
    pub fn drop_doubted(&mut self) {
        for known in self.known.values_mut().filter(|known| known.doubted) {
            (known.told, known.doubted) = (false, false);
            if known.description.take().is_some() {
                self.number += 1;
            }
        }
    }

    /// An instance is alive no more. It may return, on another port.
    pub fn gone(&mut self, kind: Kind, instance: &InstanceId) {
        let known = self.known.remove(&(kind, instance.clone()));
        if known.is_some_and(|known| known.description.is_some()) {
            self.number += 1;
        }
    }

    /// An instance said how to reach it. Another protocol's are not for us; nor is what was said in
    /// a life that is over, which may arrive after the goodbye.
    pub fn described(&mut self, kind: Kind, instance: &InstanceId, description: Description) {
        if description.protocol != PROTOCOL {
            return;
        }
        if let Some(known) = self.known.get_mut(&(kind, instance.clone())) {
            known.told = true;
            if known.description.as_ref() != Some(&description) {
                known.description = Some(description);
                self.number += 1;
            }
        }
    }

    /// An instance answered what it was asked when it came to this life. An answer may be late: when
    /// it has come to life once more, it was asked once more.
    pub fn answered(
        &mut self,
        kind: Kind,
        instance: &InstanceId,
        life: u64,
        description: Description,
    ) {
        let known = self.known.get_mut(&(kind, instance.clone()));
        if let Some(known) = known.filter(|known| known.life == life) {
            known.doubted = false;
            self.described(kind, instance, description);
        }
    }

    /// These instances, and no others, are not shown from now on.
    pub fn expel(&mut self, expelled: HashSet<InstanceId>) {
        if self.expelled != expelled {
            self.expelled = expelled;
            self.number += 1;
        }
    }

    /// Whether it is in this life and has not said how to reach it, or not when it was asked again.
    pub fn wanted(&self, kind: Kind, instance: &InstanceId, life: u64) -> bool {
        self.known
            .get(&(kind, instance.clone()))
            .is_some_and(|known| known.life == life && (!known.told || known.doubted))
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
                let description = known.description.as_ref()?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

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
        let life = directory.alive(Kind::Auth, &id(1));
        assert!(directory.wanted(Kind::Auth, &id(1), life));
        assert!(directory.instances().is_empty());
        directory.answered(Kind::Auth, &id(1), life, description(1));
        assert!(!directory.wanted(Kind::Auth, &id(1), life));
        assert_eq!((directory.number(), directory.instances().len()), (1, 1));
    }

    #[test]
    fn who_does_not_answer_when_it_is_doubted_is_not_shown_until_it_does() {
        let mut directory = Directory::default();
        let mut lives = Vec::new();
        for n in 1..=3 {
            lives.push(directory.alive(Kind::Auth, &id(n)));
            directory.described(Kind::Auth, &id(n), description(n.into()));
        }
        let asked = directory.doubt();
        assert_eq!(asked.len(), 3);
        assert_eq!(directory.instances().len(), 3, "there until it is known");
        let answer = |directory: &mut Directory, n: u8, life| {
            directory.answered(Kind::Auth, &id(n), life, description(n.into()));
        };
        answer(&mut directory, 1, asked[0].2);
        // What was said before, and arrives now, says nothing of today.
        directory.described(Kind::Auth, &id(2), description(2));
        answer(&mut directory, 2, lives[1]);
        assert!(!directory.is_sure() && directory.wanted(Kind::Auth, &id(2), asked[1].2));
        directory.gone(Kind::Auth, &id(3));
        directory.drop_doubted();
        assert!(directory.is_sure());
        let shown = |directory: &Directory| {
            let shown = directory.instances().into_iter();
            shown.map(|it| it.instance).collect::<Vec<_>>()
        };
        assert_eq!(shown(&directory), [id(1)]);
        // It was slow, and has not died.
        assert!(directory.wanted(Kind::Auth, &id(2), asked[1].2));
        answer(&mut directory, 2, asked[1].2);
        assert_eq!(shown(&directory), [id(1), id(2)]);
        assert!(!directory.wanted(Kind::Auth, &id(2), asked[1].2));
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
        let first = directory.alive(Kind::Auth, &id(1));
        directory.described(Kind::Auth, &id(1), description(1));
        directory.gone(Kind::Auth, &id(1));
        assert!(directory.instances().is_empty());
        // Its last word may come after its goodbye: it must not stand when it returns.
        let mut leaving = description(1);
        leaving.draining = true;
        directory.described(Kind::Auth, &id(1), leaving);
        let second = directory.alive(Kind::Auth, &id(1));
        assert!(directory.wanted(Kind::Auth, &id(1), second), "asked anew");
        directory.answered(Kind::Auth, &id(1), second, description(2));
        // So may its answer to what it was asked in its first life.
        directory.answered(Kind::Auth, &id(1), first, description(1));
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

    /// What becomes of an instance.
    #[derive(Debug, Clone)]
    enum Fate {
        Starts(u16),
        Dies,
        /// It says how busy it is; some do not hear it.
        Says {
            load: u16,
            lost: bool,
        },
    }

    /// What a node is about to hear of one instance, in this order.
    #[derive(Debug, Clone)]
    enum News {
        Alive,
        Gone,
        Said(Description),
    }

    /// Instances, and a node that hears of each when it comes to it.
    #[derive(Default)]
    struct Node {
        directory: Directory,
        on_the_way: BTreeMap<u8, VecDeque<News>>,
        /// Answers that were given and have not arrived, in no order.
        answers: Vec<(u8, u64, Description)>,
    }

    impl Node {
        fn send(&mut self, n: u8, news: News) {
            self.on_the_way.entry(n).or_default().push_back(news);
        }

        /// Hears the next of one instance. Who is alive is asked, and answers as it is by then.
        fn hear(&mut self, n: u8, alive: &BTreeMap<u8, Description>) {
            match self.on_the_way.entry(n).or_default().pop_front() {
                Some(News::Alive) => {
                    let life = self.directory.alive(Kind::Auth, &id(n));
                    if let Some(now) = alive.get(&n) {
                        self.answers.push((n, life, now.clone()));
                    }
                }
                Some(News::Gone) => self.directory.gone(Kind::Auth, &id(n)),
                Some(News::Said(now)) => self.directory.described(Kind::Auth, &id(n), now),
                None => {}
            }
        }

        fn answer(&mut self, which: usize, twice: bool) {
            if !self.answers.is_empty() {
                let at = which % self.answers.len();
                let (n, life, said) = match twice {
                    true => self.answers[at].clone(),
                    false => self.answers.swap_remove(at),
                };
                self.directory.answered(Kind::Auth, &id(n), life, said);
            }
        }
    }

    fn fate() -> impl Strategy<Value = Fate> {
        prop_oneof![
            2 => (1u16..1000).prop_map(Fate::Starts),
            2 => Just(Fate::Dies),
            1 => (0u16..1000, any::<bool>()).prop_map(|(load, lost)| Fate::Says { load, lost }),
        ]
    }

    /// Of which instance what happens; of which one each node hears next; which answer arrives.
    type Step = (u8, Fate, [u8; 2], [(usize, bool); 2]);

    fn history() -> impl Strategy<Value = Vec<Step>> {
        let step = (
            0u8..3,
            fate(),
            any::<[u8; 2]>(),
            any::<[(usize, bool); 2]>(),
        );
        proptest::collection::vec(step, 0..60)
    }

    proptest! {
        /// Each hears it in another order, late, twice or not at all.
        #[test]
        fn nodes_that_hear_of_the_same_instances_come_to_the_same_directory(history in history()) {
            let mut alive: BTreeMap<u8, Description> = BTreeMap::new();
            let mut nodes = [Node::default(), Node::default()];
            for (n, fate, heard, answered) in history {
                let news = match fate {
                    Fate::Starts(port) if !alive.contains_key(&n) => {
                        alive.insert(n, description(port));
                        Some((News::Alive, false))
                    }
                    Fate::Dies if alive.remove(&n).is_some() => Some((News::Gone, false)),
                    Fate::Says { load, lost } => alive.get_mut(&n).map(|it| {
                        it.load = load;
                        (News::Said(it.clone()), lost)
                    }),
                    _ => None,
                };
                for (which, node) in nodes.iter_mut().enumerate() {
                    if let Some((news, lost)) = &news && !(*lost && which == 1) {
                        node.send(n, news.clone());
                    }
                    node.hear(heard[which] % 3, &alive);
                    let (answer, twice) = answered[which];
                    node.answer(answer, twice);
                }
            }
            // What was lost is made good when it says once more that it is alive.
            let mut wanted = Directory::default();
            for (n, now) in &alive {
                wanted.alive(Kind::Auth, &id(*n));
                wanted.described(Kind::Auth, &id(*n), now.clone());
            }
            for (which, node) in nodes.iter_mut().enumerate() {
                for n in 0..3 {
                    if alive.contains_key(&n) {
                        node.send(n, News::Alive);
                    }
                    while node.on_the_way.get(&n).is_some_and(|news| !news.is_empty()) {
                        node.hear(n, &alive);
                    }
                }
                // The first hears the answers in the order they were given, the second backwards.
                while !node.answers.is_empty() {
                    let last = node.answers.len() - 1;
                    let (n, life, said) = node.answers.remove(last * which);
                    node.directory.answered(Kind::Auth, &id(n), life, said);
                }
                prop_assert_eq!(node.directory.instances(), wanted.instances(), "node {}", which);
            }
        }
    }
}
