//! What a hearer does: pure, events in, things to do out.

use super::{Changes, Heard, Snapshot};
use crate::api::InstanceId;
use std::collections::BTreeMap;

/// How many changes are kept while a snapshot is on its way. Beyond it they are forgotten, and
/// the gap asks for another snapshot.
const MOST_WAITING: usize = 10_000;

/// What is to be done next.
#[derive(Debug, Clone, PartialEq)]
pub enum Todo {
    /// Ask this speaker for a snapshot.
    Ask(InstanceId),
    /// Hand this on.
    Tell(Heard),
}

/// Follows the speakers of a topic.
#[derive(Debug, Default)]
pub struct Follower {
    speakers: BTreeMap<InstanceId, Speaker>,
    /// How far each was heard, also while it is asked anew or is gone.
    reached: BTreeMap<InstanceId, Reached>,
}

/// How many earlier lives of a speaker are remembered: more than it has while a snapshot is on its way.
const MOST_LIVES: usize = 8;

/// How far a speaker was heard.
#[derive(Debug)]
struct Reached {
    incarnation: u64,
    number: u64,
    /// Its lives before this one.
    before: Vec<u64>,
}

#[derive(Debug)]
enum Speaker {
    /// A snapshot is on its way; these changes came meanwhile.
    Asked { waiting: Vec<Changes> },
    /// All is known that it has said, as far as it was heard.
    Known,
}

impl Follower {
    /// A speaker came to life (or was found alive).
    pub fn alive(&mut self, speaker: &InstanceId) -> Vec<Todo> {
        match self.speakers.get(speaker) {
            // Its heartbeat tells whether it still is the one that is known.
            Some(_) => Vec::new(),
            None => self.ask(speaker, Vec::new()),
        }
    }

    /// A speaker died. When it returns, it is asked anew.
    pub fn gone(&mut self, speaker: &InstanceId) -> Vec<Todo> {
        match self.speakers.remove(speaker) {
            Some(_) => vec![Todo::Tell(Heard::Gone(speaker.clone()))],
            None => Vec::new(),
        }
    }

    /// A speaker that was asked did not answer.
    pub fn silent(&mut self, speaker: &InstanceId) -> Vec<Todo> {
        if let Some(Speaker::Asked { .. }) = self.speakers.get(speaker) {
            self.speakers.remove(speaker);
        }
        Vec::new()
    }

    /// A speaker said what changed (or, with no changes, where it is).
    pub fn changes(&mut self, speaker: &InstanceId, said: Changes) -> Vec<Todo> {
        match self.speakers.get_mut(speaker) {
            None => self.ask(speaker, vec![said]),
            Some(Speaker::Asked { waiting }) => {
                if waiting.len() < MOST_WAITING {
                    waiting.push(said);
                }
                Vec::new()
            }
            Some(Speaker::Known) => self.follows(speaker, said),
        }
    }

    /// A speaker that is known said that.
    fn follows(&mut self, speaker: &InstanceId, said: Changes) -> Vec<Todo> {
        match self.reached.get_mut(speaker) {
            Some(reached) if reached.incarnation == said.incarnation => {
                if said.number <= reached.number {
                    return Vec::new();
                }
                if said.number == reached.number + 1 && !said.changes.is_empty() {
                    reached.number = said.number;
                    return vec![Todo::Tell(Heard::Changed(speaker.clone(), said.changes))];
                }
                self.ask(speaker, vec![said])
            }
            _ => self.ask(speaker, vec![said]),
        }
    }

    /// A snapshot came that everybody was asked for, some time ago. What is known may be newer, also
    /// when the speaker was lost or asked since: what it has revoked must not be good again until
    /// its own answer comes.
    pub fn refreshed(&mut self, speaker: &InstanceId, snapshot: Snapshot) -> Vec<Todo> {
        let reached = self.reached.get(speaker);
        let over = reached.is_some_and(|it| it.before.contains(&snapshot.incarnation));
        match over || self.is_overtaken(speaker, &snapshot) {
            true => Vec::new(),
            false => self.snapshot(speaker, snapshot),
        }
    }

    /// Whether more than this was heard of this life of a speaker.
    fn is_overtaken(&self, speaker: &InstanceId, snapshot: &Snapshot) -> bool {
        self.reached
            .get(speaker)
            .is_some_and(|it| it.incarnation == snapshot.incarnation && it.number > snapshot.number)
    }

    fn reaches(&mut self, speaker: &InstanceId, incarnation: u64, number: u64) {
        let begun = || Reached {
            incarnation,
            number,
            before: Vec::new(),
        };
        let reached = self.reached.entry(speaker.clone()).or_insert_with(begun);
        if reached.incarnation != incarnation {
            reached.before.retain(|life| *life != incarnation);
            reached.before.push(reached.incarnation);
            if reached.before.len() > MOST_LIVES {
                reached.before.remove(0);
            }
        }
        (reached.incarnation, reached.number) = (incarnation, number);
    }

    /// The snapshot arrived that a speaker was asked for.
    pub fn snapshot(&mut self, speaker: &InstanceId, snapshot: Snapshot) -> Vec<Todo> {
        if self.is_overtaken(speaker, &snapshot) {
            // Overtaken by changes: what is known is newer. Whoever still waits for one asks again at
            // the next heartbeat.
            return self.silent(speaker);
        }
        self.reaches(speaker, snapshot.incarnation, snapshot.number);
        let waiting = match self.speakers.insert(speaker.clone(), Speaker::Known) {
            Some(Speaker::Asked { waiting }) => waiting,
            _ => Vec::new(),
        };
        let mut todo = vec![Todo::Tell(Heard::Everything(
            speaker.clone(),
            snapshot.entries,
        ))];
        // What was said in another life does not count: an earlier one is over, and a later one's
        // next heartbeat asks again.
        let same_life = |said: &Changes| said.incarnation == snapshot.incarnation;
        for said in waiting.into_iter().filter(same_life) {
            todo.extend(self.changes(speaker, said));
        }
        todo
    }

    fn ask(&mut self, speaker: &InstanceId, waiting: Vec<Changes>) -> Vec<Todo> {
        self.speakers
            .insert(speaker.clone(), Speaker::Asked { waiting });
        vec![Todo::Ask(speaker.clone())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{feed::Change, topics::Entries};
    use proptest::prelude::*;
    use serde_json::Value;

    fn apply(entries: &mut Entries, changes: &[Change]) {
        for (name, value) in changes {
            match value {
                Some(value) => entries.insert(name.clone(), value.clone()),
                None => entries.remove(name),
            };
        }
    }

    /// A speaker and a hearer with a bus between them that loses what it is told to lose.
    #[derive(Default)]
    struct World {
        incarnation: u64,
        number: u64,
        entries: Entries,
        follower: Follower,
        heard: Entries,
        asked: bool,
        /// What a refresh has collected and not handed on yet.
        collected: Option<Snapshot>,
        /// The newest word that was heard.
        newest: u64,
    }

    /// Its value tells how new an entry is, over all lives.
    const NEWEST: &str = "newest";

    impl World {
        fn id() -> InstanceId {
            "a".parse().unwrap()
        }

        fn carry_out(&mut self, todo: Vec<Todo>) {
            for todo in todo {
                match todo {
                    Todo::Ask(_) => self.asked = true,
                    Todo::Tell(Heard::Everything(_, entries)) => self.heard = entries,
                    Todo::Tell(Heard::Changed(_, changes)) => apply(&mut self.heard, &changes),
                    Todo::Tell(Heard::Gone(_)) => {}
                }
            }
            let now = self.heard.get(NEWEST).and_then(Value::as_u64);
            let now = now.unwrap_or_default();
            assert!(now >= self.newest, "{now} after {}", self.newest);
            self.newest = now;
        }

        /// From 1: before the first word nothing was heard.
        fn life(&self) -> u64 {
            self.incarnation + 1
        }

        fn word(&self) -> u64 {
            self.life() * 1000 + self.number
        }

        fn now(&self) -> Snapshot {
            Snapshot {
                incarnation: self.incarnation,
                number: self.number,
                entries: self.entries.clone(),
            }
        }

        fn restart(&mut self) {
            if self.newest / 1000 != self.life() {
                // Of a life that was never heard nobody can tell that it was an earlier one.
                self.collected = None;
            }
            self.incarnation += 1;
            self.number = 0;
            self.entries = Entries::from([(NEWEST.to_owned(), Value::from(self.word()))]);
        }

        fn refresh(&mut self) {
            if let Some(collected) = self.collected.take() {
                let todo = self.follower.refreshed(&Self::id(), collected);
                self.carry_out(todo);
            }
        }

        fn say(&mut self, mut changes: Vec<Change>, lost: bool) {
            if !changes.is_empty() {
                self.number += 1;
                changes.push((NEWEST.to_owned(), Some(Value::from(self.word()))));
                apply(&mut self.entries, &changes);
            }
            if !lost {
                let said = Changes {
                    incarnation: self.incarnation,
                    number: self.number,
                    changes,
                };
                let todo = self.follower.changes(&Self::id(), said);
                self.carry_out(todo);
            }
        }

        fn answer(&mut self, lost: bool) {
            if std::mem::take(&mut self.asked) {
                let todo = if lost {
                    self.follower.silent(&Self::id())
                } else {
                    self.follower.snapshot(&Self::id(), self.now())
                };
                self.carry_out(todo);
            }
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Set(u8, u8, bool),
        Remove(u8, bool),
        Heartbeat(bool),
        Answer(bool),
        Restart,
        Flap,
        Collect,
        Refresh,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u8..6, any::<u8>(), any::<bool>()).prop_map(|(n, v, lost)| Step::Set(n, v, lost)),
            2 => (0u8..6, any::<bool>()).prop_map(|(n, lost)| Step::Remove(n, lost)),
            1 => any::<bool>().prop_map(Step::Heartbeat),
            2 => any::<bool>().prop_map(Step::Answer),
            1 => Just(Step::Restart),
            1 => Just(Step::Flap),
            1 => Just(Step::Collect),
            1 => Just(Step::Refresh),
        ]
    }

    proptest! {
        /// Whatever is lost, one heartbeat and one answer later the hearer knows everything; and never
        /// less than it did, whenever what a refresh collected comes.
        #[test]
        fn lost_messages_cost_delay_never_truth(steps in proptest::collection::vec(step(), 0..60)) {
            let mut world = World::default();
            for step in steps {
                match step {
                    Step::Set(n, v, lost) => world.say(vec![(n.to_string(), Some(Value::from(v)))], lost),
                    Step::Remove(n, lost) => world.say(vec![(n.to_string(), None)], lost),
                    Step::Heartbeat(lost) => world.say(vec![], lost),
                    Step::Answer(lost) => world.answer(lost),
                    Step::Restart => world.restart(),
                    Step::Collect => world.collected = Some(world.now()),
                    Step::Refresh => world.refresh(),
                    Step::Flap => {
                        let todo = world.follower.gone(&World::id());
                        world.carry_out(todo);
                        let todo = world.follower.alive(&World::id());
                        world.carry_out(todo);
                    }
                }
            }
            for _ in 0..3 {
                world.say(vec![], false);
                world.answer(false);
            }
            prop_assert_eq!(&world.heard, &world.entries);
            world.say(vec![("last".into(), Some(Value::from(1)))], false);
            prop_assert_eq!(&world.heard, &world.entries);
            prop_assert!(!world.asked);
        }
    }

    #[test]
    fn changes_that_come_while_a_snapshot_is_on_its_way_are_not_lost() {
        let mut world = World::default();
        let todo = world.follower.alive(&World::id());
        world.carry_out(todo);
        let before = Snapshot {
            incarnation: 0,
            number: 0,
            entries: Entries::new(),
        };
        world.say(vec![("a".into(), Some(Value::from(1)))], false);
        let todo = world.follower.snapshot(&World::id(), before);
        world.carry_out(todo);
        assert_eq!(world.heard, world.entries);
    }

    #[test]
    fn what_a_refresh_collected_takes_nothing_back_from_a_speaker_that_is_asked_anew() {
        for lost in [false, true] {
            let mut world = World::default();
            world.say(vec![("a".into(), Some(Value::from(1)))], false);
            world.answer(false);
            world.collected = Some(world.now());
            world.say(vec![("revoked".into(), Some(Value::from(1)))], false);
            match lost {
                // It was gone for a moment.
                true => {
                    let todo = world.follower.gone(&World::id());
                    world.carry_out(todo);
                }
                // A gap: it is being asked.
                false => {
                    world.say(vec![("b".into(), Some(Value::from(1)))], true);
                    world.say(vec![], false);
                    assert!(world.asked);
                }
            }
            world.refresh();
            assert!(world.heard.contains_key("revoked"), "{lost}");
        }
    }
}
