//! Opens the bus anew when this node does not hear what it should.
//!
//! zenoh heals what it notices: a link that breaks is made again. What it does not notice is seen
//! from what is said on the bus: every speaker says something every two seconds, and any other
//! instance can be asked whom it sees.

use super::doubts::{Doubt, Doubts};
use crate::{
    api::{Instance, InstanceId, Kind},
    bus::{Bus, BusError, Size},
    feed::Ears,
    membership::Membership,
    topics::Topics,
    trust::{Credentials, Verifier},
};
use rand::seq::IteratorRandom as _;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// How often it is looked whether everybody was heard.
const LISTEN: Duration = Duration::from_secs(1);

/// After how many looks another instance is asked whom it sees.
const ASK_EACH: u32 = 2;

/// How long it may take to answer.
const ASKED: Duration = Duration::from_millis(500);

/// Somebody on the bus.
type Somebody = (Kind, InstanceId);

/// What is heard here, and from whom.
pub(in crate::service) struct Hearing {
    pub(in crate::service) bus: Bus,
    pub(in crate::service) topics: Topics,
    pub(in crate::service) membership: Membership,
    pub(in crate::service) verifier: Verifier,
    pub(in crate::service) credentials: Credentials,
    /// Which instance this is.
    pub(in crate::service) own: Somebody,
    /// The topics that are followed here.
    pub(in crate::service) ears: Vec<Ears>,
}

impl Hearing {
    /// Looks after it until the bus is left.
    pub(in crate::service) async fn keep(self) {
        // Kept to the end: this is what others ask.
        let _answering = match self.answer().await {
            Ok(answering) => Some(answering),
            Err(error) => {
                tracing::warn!(%error, "others cannot ask this instance whom it sees");
                None
            }
        };
        let mut doubts = Doubts::default();
        let mut seen = Seen::default();
        loop {
            // Counted in looks, so that a time in which this process stood still is none in which
            // it heard nothing.
            let met = self.meet(tokio::time::sleep(LISTEN)).await;
            if self.bus.is_closed() {
                return;
            }
            if self.bus.is_broken() {
                tracing::warn!("the session on the bus is over: joining it anew");
                doubts.reopened();
            } else {
                let now = self.look(&mut seen, &met).await;
                let Some(doubt) = doubts.look(now) else {
                    continue;
                };
                tracing::warn!("{}: joining the bus anew", said(&doubt));
            }
            match self.bus.renew(self.credentials.now()).await {
                Ok(()) => tracing::info!("the bus was joined anew"),
                Err(error) => tracing::error!(%error, "the bus could not be joined anew"),
            }
        }
    }

    /// Whom this instance sees at any time until then: who comes and goes is seen.
    pub(super) async fn meet(&self, until: impl Future<Output = ()>) -> BTreeSet<Somebody> {
        let mut view = self.membership.watch();
        let mut met = BTreeSet::new();
        tokio::pin!(until);
        loop {
            met.extend(view.borrow_and_update().instances.iter().map(somebody));
            tokio::select! {
                () = &mut until => return met,
                changed = view.changed() => if changed.is_err() {
                    // The bus was left.
                    until.await;
                    return met;
                },
            }
        }
    }

    /// Tells whoever asks whom this instance sees.
    async fn answer(&self) -> Result<crate::bus::Answering, BusError> {
        let key = self.topics.directory(self.own.0, &self.own.1);
        let membership = self.membership.clone();
        let answer = move |_question| -> futures::future::BoxFuture<'static, Vec<Vec<u8>>> {
            let seen: Vec<Somebody> = membership.now().instances.iter().map(somebody).collect();
            // Names and kinds: JSON holds them all.
            let encoded = serde_json::to_vec(&seen).unwrap_or_default();
            Box::pin(std::future::ready(vec![encoded]))
        };
        self.bus.answer(&key, answer).await
    }

    /// What is in doubt now, given whom this instance has met since it looked last.
    pub(super) async fn look(&self, seen: &mut Seen, met: &BTreeSet<Somebody>) -> BTreeSet<Doubt> {
        let mut now = BTreeSet::new();
        let mut heard = BTreeMap::new();
        for (topic, ears) in self.ears.iter().enumerate() {
            for (speaker, last) in ears.speakers() {
                let key = (topic, speaker);
                if seen.heard.get(&key) == Some(&last) {
                    now.insert(Doubt::Silent(topic, key.1.clone()));
                }
                heard.insert(key, last);
            }
        }
        seen.heard = heard;
        let view = self.membership.now();
        let others = || {
            let all = view.instances.iter().map(somebody);
            all.filter(|other| *other != self.own)
        };
        if others().next().is_none() {
            seen.witness = None;
            seen.unseen.clear();
            if seen.company {
                now.insert(Doubt::Alone);
            }
            return now;
        }
        seen.company = true;
        seen.looks += 1;
        let mut known = met.clone();
        if seen.looks.is_multiple_of(ASK_EACH) {
            // Who sees somebody that is not seen here is asked again; else anybody.
            let witness = seen.witness.take();
            let witness = witness.filter(|it| others().any(|other| other == *it));
            let other = witness.or_else(|| others().choose(&mut rand::rng()));
            if let Some(other) = other
                && let Some(theirs) = self.ask(&other).await
            {
                seen.unseen = theirs.into_iter().collect();
                seen.witness = Some(other);
            }
            // As it is by now: whoever came meanwhile is there.
            known.extend(self.membership.now().instances.iter().map(somebody));
        }
        let expelled = self.verifier.expelled();
        let unseen =
            |it: &Somebody| !known.contains(it) && *it != self.own && !expelled.contains(&it.1);
        seen.unseen.retain(unseen);
        if seen.unseen.is_empty() {
            seen.witness = None;
        }
        let unseen = seen.unseen.iter().cloned();
        now.extend(unseen.map(|(kind, instance)| Doubt::Unseen(kind, instance)));
        now
    }

    /// Asks another instance whom it sees.
    async fn ask(&self, other: &Somebody) -> Option<Vec<Somebody>> {
        let key = self.topics.directory(other.0, &other.1);
        let answers = self.bus.ask(&key, Vec::new(), Size::Small, ASKED).await;
        answers
            .ok()?
            .iter()
            .find_map(|answer| serde_json::from_slice(&answer.payload).ok())
    }
}

/// What the looks before have seen.
#[derive(Default)]
pub(super) struct Seen {
    /// When each speaker was last heard.
    heard: BTreeMap<(usize, InstanceId), Option<Instant>>,
    /// Whom another one saw when it was last asked, and this one has not met since.
    pub(super) unseen: BTreeSet<Somebody>,
    /// Which other one that is.
    witness: Option<Somebody>,
    /// Others were there.
    company: bool,
    looks: u32,
}

fn somebody(instance: &Instance) -> Somebody {
    (instance.kind, instance.instance.clone())
}

fn said(doubt: &Doubt) -> String {
    match doubt {
        Doubt::Silent(_, speaker) => format!("{speaker} is alive and nothing is heard of it"),
        Doubt::Unseen(_, instance) => format!("others see {instance}, and this instance does not"),
        Doubt::Alone => "nobody is to be seen on the bus any more".to_owned(),
    }
}
