//! What was heard of nodes that are not seen, and for how long that counts. Pure: what happens comes
//! with its time.

use super::Missed;
use iceflix_core::api::{Instance, InstanceId};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};
use tokio::time::Instant;

/// How long it counts that a node has answered: about as long as a silent one is seen on the bus.
pub(super) const LIVES: Duration = Duration::from_secs(1);

/// How long it counts that a node has not, once nothing has changed for a while: a tenth of that while,
/// within these bounds.
const IS_GONE: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(60)];

/// How long after the last change the next is to be expected. Meanwhile whoever asks for films has
/// the nodes asked anew: a cable that was out is in from one moment to the next.
pub(super) const UNSETTLED: Duration = Duration::from_secs(3);

/// How long after a question came silence is no answer to it, where links return. Its caller turns to
/// another catalogue after half a second, and has ever more patience with each.
pub(super) const RETURNING: Duration = Duration::from_secs(1);

/// What a node said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// It has the film and would play it.
    Lives,
    /// It would not, or nobody is there.
    Refuses,
    /// Nothing.
    Silence,
}

/// What a node said when it was asked.
#[derive(Debug, Clone, Copy)]
struct Verdict {
    asked: Instant,
    word: Word,
}

/// A change of the directory.
#[derive(Debug, Clone)]
pub struct Turn {
    /// The machines on which somebody arrived.
    pub arrived: BTreeSet<IpAddr>,
    /// Whether another machine than this is there.
    pub company: bool,
}

/// What a question waits for.
#[derive(Debug, PartialEq)]
pub(super) enum Wanting {
    Nothing,
    /// Some are being asked.
    Patience,
    /// These are to be asked.
    Answers(Vec<Missed>),
}

/// Whether other machines than this are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Company {
    /// None are, and that is as it should be, for all that is known.
    Alone,
    /// Some are.
    Seen,
    /// None are any more, and nobody on another has asked since.
    Lost,
}

/// What was heard of nodes that are not seen.
#[derive(Debug)]
pub(super) struct Verdicts {
    /// When the directory last changed.
    changed: Instant,
    /// When there last was a sign that links to any machine return.
    returning: Option<Instant>,
    /// When somebody last arrived on a machine.
    arrived: BTreeMap<IpAddr, Instant>,
    pub(super) company: Company,
    of: BTreeMap<InstanceId, Verdict>,
    /// Some are being asked.
    in_round: bool,
}

impl Verdicts {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            changed: now,
            returning: None,
            arrived: BTreeMap::new(),
            company: Company::Alone,
            of: BTreeMap::new(),
            in_round: false,
        }
    }

    /// The directory has changed.
    pub(super) fn turns(&mut self, turn: &Turn, now: Instant) {
        self.changed = now;
        if turn.company && self.company != Company::Seen {
            self.returning = Some(now);
        }
        self.arrived.retain(|_, at| now < *at + UNSETTLED);
        self.arrived
            .extend(turn.arrived.iter().map(|it| (*it, now)));
        self.company = match (turn.company, self.company) {
            (true, _) => Company::Seen,
            (false, Company::Alone) => Company::Alone,
            (false, _) => Company::Lost,
        };
    }

    /// Whether a node may speak any moment that was silent when a question came then.
    fn may_speak(&self, node: &Instance, question: Instant) -> bool {
        let there = self.arrived.get(&node.endpoint.ip()).copied();
        let last = self.returning.max(there);
        last.is_some_and(|at| question < at + UNSETTLED)
    }

    /// Somebody on another machine asks. If none is seen, their question shows that the cable is in.
    pub(super) fn asked_from_elsewhere(&mut self, now: Instant) {
        if self.company == Company::Lost {
            self.company = Company::Alone;
            (self.changed, self.returning) = (now, Some(now));
        }
    }

    /// Whether what is known of a node is worth as much as asking it for a question that came then.
    pub(super) fn suffices(&self, node: &Instance, question: Instant) -> bool {
        self.of.get(&node.instance).is_some_and(|verdict| {
            let age = question.saturating_duration_since(verdict.asked);
            match verdict.word {
                Word::Lives => age < LIVES,
                Word::Silence if self.may_speak(node, question) => {
                    verdict.asked >= question + RETURNING
                }
                _ if verdict.asked >= question => true,
                _ => {
                    let settled = verdict.asked.saturating_duration_since(self.changed);
                    let [least, most] = IS_GONE;
                    settled >= UNSETTLED && age < (settled / 10).clamp(least, most)
                }
            }
        })
    }

    /// What there is to do before a question can be answered that came then.
    pub(super) fn wanting(&mut self, mut unseen: Vec<Missed>, question: Instant) -> Wanting {
        unseen.retain(|(node, _)| !self.suffices(node, question));
        match (unseen.is_empty(), self.in_round) {
            (true, _) => Wanting::Nothing,
            (false, true) => Wanting::Patience,
            (false, false) => {
                self.in_round = true;
                Wanting::Answers(unseen)
            }
        }
    }

    /// Nodes that were asked then have answered, or have not.
    pub(super) fn heard(&mut self, answers: Vec<(InstanceId, Word)>, asked: Instant) {
        let answers = answers.into_iter();
        let verdicts = answers.map(|(node, word)| (node, Verdict { asked, word }));
        self.of.extend(verdicts);
    }

    /// Those that were asked are asked no more: what is not known of them is to be asked anew.
    pub(super) fn round_over(&mut self) {
        self.in_round = false;
    }

    /// Forgets what others said: they are seen, or known no more.
    pub(super) fn keep(&mut self, unseen: &[Missed]) {
        let is_unseen = |id: &InstanceId| unseen.iter().any(|(node, _)| node.instance == *id);
        self.of.retain(|id, _| is_unseen(id));
    }

    /// Those of them that have answered.
    pub(super) fn living(&self, unseen: &[Missed]) -> BTreeMap<InstanceId, Instance> {
        let lives = |node: &InstanceId| {
            let verdict = self.of.get(node);
            verdict.is_some_and(|verdict| verdict.word == Word::Lives)
        };
        let living = unseen.iter().filter(|(node, _)| lives(&node.instance));
        let living = living.map(|(node, _)| (node.instance.clone(), node.clone()));
        living.collect()
    }
}
