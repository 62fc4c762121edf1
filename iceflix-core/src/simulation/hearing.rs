//! What authenticators say, and who hears it: kept as `Speaker`, `Hearer` and `Verifier` do.

use super::{
    CLUSTER, EXPELLED, EXPELS, HOSTS, elapsed,
    facts::{Facts, facts},
    node::{Node, Said, kind},
    presence::authenticators,
    world,
};
use crate::{
    api::{InstanceId, Kind, TokenError},
    feed::{Change, Changes, Follower, Heard, Piece, Todo, assemble, decode, split},
    topics::{AuthenticationFact, Entries},
    trust::{Identity, Verifier},
};
use rand::{Rng as _, rngs::StdRng};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::Instant;

const HEARTBEAT: Duration = Duration::from_secs(2);

/// How long a snapshot may take, and all of them together.
const SNAPSHOT: Duration = Duration::from_secs(5);
const REFRESH: Duration = Duration::from_secs(2);

/// How often an unknown signer is asked for, at most.
const ASK_AGAIN: Duration = Duration::from_secs(1);

pub(super) struct Listening {
    pub verifier: Verifier,
    /// What this node was told in this life: it must never forget it.
    pub heard: Facts,
    follower: Follower,
    asked: BTreeMap<u64, (Instant, InstanceId)>,
    refresh: Option<Refresh>,
    refreshed: Option<Instant>,
    /// Questions are numbered from anywhere, so that nobody takes an earlier life's answers.
    question: u64,
    incarnation: u64,
    number: u64,
    heartbeat: Instant,
}

/// All are asked, and what they say is taken in when all have answered or the time is over.
struct Refresh {
    number: u64,
    until: Instant,
    silent: BTreeSet<InstanceId>,
    said: Vec<(InstanceId, Piece)>,
}

fn change(fact: &AuthenticationFact) -> Change {
    (fact.name(), serde_json::to_value(fact).ok())
}

impl Listening {
    pub fn new(rng: &mut StdRng) -> Self {
        Self {
            verifier: Verifier::deaf(CLUSTER),
            heard: Facts::default(),
            follower: Follower::default(),
            asked: BTreeMap::new(),
            refresh: None,
            refreshed: None,
            question: rng.random_range(0..u64::MAX / 2),
            incarnation: rng.random(),
            number: 0,
            heartbeat: Instant::now(),
        }
    }

    fn question(&mut self) -> u64 {
        self.question += 1;
        self.question
    }
}

impl Node {
    /// All it has to say: its key, and what is on its disk.
    fn said(&self) -> Entries {
        let world = world(&self.world);
        let key = world.keys.get(&self.n);
        let key = key.map(|key| AuthenticationFact::key(&key.public()));
        let facts = world.facts[self.n].all().into_iter().chain(key);
        facts
            .filter_map(|fact| {
                let (name, value) = change(&fact);
                Some((name, value?))
            })
            .collect()
    }

    pub fn begin_to_speak(&mut self) {
        if self.is_authenticator() {
            self.learn(Heard::Everything(self.own.clone(), self.said()));
        }
    }

    /// On its disk first, then in force here, then said.
    pub async fn revoke(&mut self, said: Vec<AuthenticationFact>) -> turmoil::Result {
        let news: Vec<AuthenticationFact> = {
            let mut world = world(&self.world);
            let disk = &mut world.facts[self.n];
            said.into_iter().filter(|fact| disk.learn(fact)).collect()
        };
        if news.is_empty() {
            return Ok(());
        }
        let changes: Vec<Change> = news.iter().map(change).collect();
        self.learn(Heard::Changed(self.own.clone(), changes.clone()));
        self.listening.number += 1;
        self.say(changes).await
    }

    async fn say(&mut self, changes: Vec<Change>) -> turmoil::Result {
        let said = Changes {
            incarnation: self.listening.incarnation,
            number: self.listening.number,
            changes,
        };
        self.tell_all(&Said::Changes(said)).await
    }

    pub async fn expel_in_time(&mut self) -> turmoil::Result {
        if self.n == 1 && elapsed() >= EXPELS {
            let instance = HOSTS[EXPELLED].parse()?;
            let expelled = AuthenticationFact::Expelled { instance };
            self.revoke(vec![expelled]).await?;
        }
        Ok(())
    }

    pub async fn say_everything(&mut self, to: &InstanceId, number: u64) -> turmoil::Result {
        if !self.is_authenticator() {
            return Ok(());
        }
        let spoken = (self.listening.incarnation, self.listening.number);
        for piece in split(spoken.0, spoken.1, self.said()) {
            let piece = decode(&piece).expect("what was just made");
            self.send(to.as_str(), &Said::Everything(number, piece))
                .await?;
        }
        Ok(())
    }

    /// Takes it in, and remembers apart what must be refused from now on.
    fn learn(&mut self, heard: Heard) {
        for fact in facts(&heard) {
            self.listening.heard.learn(&fact);
        }
        self.listening.verifier.learn(heard);
        let expelled = self.listening.verifier.expelled();
        self.finding.directory.expel(expelled);
    }

    pub async fn speaker_came(&mut self, speaker: &InstanceId) -> turmoil::Result {
        if *speaker == self.own || kind(speaker.as_str()) != Kind::Auth {
            return Ok(());
        }
        let todo = self.listening.follower.alive(speaker);
        self.carry_out(todo).await
    }

    pub async fn speaker_went(&mut self, speaker: &InstanceId) -> turmoil::Result {
        let todo = self.listening.follower.gone(speaker);
        self.carry_out(todo).await
    }

    pub async fn hear_changes(&mut self, from: &InstanceId, said: Changes) -> turmoil::Result {
        let todo = self.listening.follower.changes(from, said);
        self.carry_out(todo).await
    }

    /// Answers to what is not waited for any more are not heard.
    pub async fn hear_everything(
        &mut self,
        from: &InstanceId,
        number: u64,
        piece: Piece,
    ) -> turmoil::Result {
        if let Some(refresh) = &mut self.listening.refresh
            && refresh.number == number
        {
            if refresh.silent.remove(from) {
                refresh.said.push((from.clone(), piece));
            }
            return Ok(());
        }
        if self.listening.asked.remove(&number).is_some()
            && let Some(snapshot) = assemble(vec![piece])
        {
            let todo = self.listening.follower.snapshot(from, snapshot);
            self.carry_out(todo).await?;
        }
        Ok(())
    }

    async fn carry_out(&mut self, todo: Vec<Todo>) -> turmoil::Result {
        for todo in todo {
            match todo {
                Todo::Ask(speaker) => {
                    let number = self.listening.question();
                    self.send(speaker.as_str(), &Said::Ask(number)).await?;
                    let until = Instant::now() + SNAPSHOT;
                    self.listening.asked.insert(number, (until, speaker));
                }
                Todo::Tell(heard) => {
                    let said = facts(&heard);
                    self.learn(heard);
                    if self.is_authenticator() {
                        // The rows of all authenticators are the same, and each tells of them.
                        Box::pin(self.revoke(said)).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// An unknown signer may have come to life just now: all are asked.
    pub async fn doubt_signer(&mut self, judged: &Result<Identity, TokenError>) -> turmoil::Result {
        let now = Instant::now();
        let asked = self.listening.refreshed;
        if *judged != Err(TokenError::UnknownSigner)
            || self.listening.refresh.is_some()
            || asked.is_some_and(|asked| now - asked < ASK_AGAIN)
        {
            return Ok(());
        }
        self.listening.refreshed = Some(now);
        let number = self.listening.question();
        let others = authenticators().filter(|it| *it != self.own.as_str());
        let others: Vec<&str> = others.collect();
        for other in &others {
            self.send(other, &Said::Ask(number)).await?;
        }
        self.listening.refresh = Some(Refresh {
            number,
            until: now + REFRESH,
            silent: others.iter().flat_map(|it| it.parse()).collect(),
            said: Vec::new(),
        });
        Ok(())
    }

    pub async fn look_after_feeds(&mut self) -> turmoil::Result {
        let now = Instant::now();
        if self.is_authenticator() && self.listening.heartbeat <= now {
            self.listening.heartbeat = now + HEARTBEAT;
            self.say(Vec::new()).await?;
        }
        let asked = std::mem::take(&mut self.listening.asked);
        for (number, (until, speaker)) in asked {
            if until > now {
                self.listening.asked.insert(number, (until, speaker));
                continue;
            }
            let todo = self.listening.follower.silent(&speaker);
            self.carry_out(todo).await?;
        }
        let over = |it: &mut Refresh| it.silent.is_empty() || it.until <= now;
        if let Some(refresh) = self.listening.refresh.take_if(over) {
            for (speaker, piece) in refresh.said {
                if let Some(snapshot) = assemble(vec![piece]) {
                    let mut todo = self.listening.follower.refreshed(&speaker, snapshot);
                    // What else is to be asked comes up again with the next heartbeat.
                    todo.retain(|todo| matches!(todo, Todo::Tell(_)));
                    self.carry_out(todo).await?;
                }
            }
        }
        Ok(())
    }
}
