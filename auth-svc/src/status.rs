//! What this authenticator says on `AuthenticationStatus`: its keys, and what was revoked.

use crate::accounts::Accounts;
use iceflix_core::{
    api::{InstanceId, SessionId},
    bus::BusError,
    feed::{Change, Heard, Speaker},
    replica::RowChange,
    service::Node,
    topics::{AuthenticationFact, Entries},
    trust::{TOKEN_LIFETIME, Verifier, keys::VerifyingKey},
};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// The speaker, and the facts that are to be forgotten when no token can rest on them any more.
pub struct Status {
    instance: InstanceId,
    accounts: Accounts,
    verifier: Verifier,
    speaker: Speaker,
    passing: Mutex<HashMap<String, Instant>>,
}

fn change(fact: &AuthenticationFact) -> Change {
    // Texts and numbers: JSON holds them all.
    (fact.name(), serde_json::to_value(fact).ok())
}

fn expelled(instance: InstanceId) -> AuthenticationFact {
    AuthenticationFact::Expelled { instance }
}

impl Status {
    /// Says what is to be said now.
    pub async fn start(
        node: &Node,
        keys: &[VerifyingKey],
        accounts: &Accounts,
    ) -> Result<Self, BusError> {
        let epochs = accounts.epochs().into_iter();
        let ended = accounts.ended().into_iter();
        let facts = epochs
            .map(|(user, epoch)| AuthenticationFact::UserEpoch { user, epoch })
            .chain(ended.map(|session| AuthenticationFact::SessionEnded { session }))
            .chain(accounts.expelled().into_iter().map(expelled))
            .chain(keys.iter().map(AuthenticationFact::key));
        let said: Vec<Change> = facts.map(|fact| change(&fact)).collect();
        let entries: Entries = said
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), value.clone()?)))
            .collect();
        let topic = node.topics.authentication();
        let status = Self {
            instance: node.instance.clone(),
            accounts: accounts.clone(),
            verifier: node.verifier.clone(),
            speaker: Speaker::start(&node.bus, &topic, &node.instance, entries.clone()).await?,
            passing: Mutex::default(),
        };
        status
            .verifier
            .learn(Heard::Everything(node.instance.clone(), entries));
        status.will_pass(&said);
        Ok(status)
    }

    /// Rows changed, here or at another authenticator: what follows for tokens is said to all, and
    /// holds here at once.
    pub fn rows_changed(&self, rows: &[RowChange]) {
        let facts = rows.iter().filter_map(|(key, value)| {
            if let Some(user) = key.strip_prefix("epoch/") {
                // What counts here, whatever was written: an epoch that cannot be read, a later
                // version's or a damaged one, or that was removed, has begun all the same.
                let (user, epoch) = (user.to_owned(), self.accounts.epoch(user));
                return Some(AuthenticationFact::UserEpoch { user, epoch });
            }
            // A row that was cleared away says nothing.
            value.as_ref()?;
            if let Some(session) = key.strip_prefix("ended/") {
                let session = session.parse().ok()?;
                return Some(AuthenticationFact::SessionEnded { session });
            }
            let instance = key.strip_prefix("expelled/")?;
            instance.parse().ok().map(expelled)
        });
        self.say(facts.map(|fact| change(&fact)).collect());
    }

    /// Says that a session ended or an epoch began, without waiting for its row to come around.
    pub fn revoked(&self, fact: &AuthenticationFact) {
        self.say(vec![change(fact)]);
    }

    /// Says that tokens signed with some keys are good from now on, and with others no more.
    pub fn keys_changed(&self, said: &[VerifyingKey], unsaid: &[VerifyingKey]) {
        let said = said.iter().map(|key| change(&AuthenticationFact::key(key)));
        let unsaid = unsaid
            .iter()
            .map(|key| (AuthenticationFact::key(key).name(), None));
        self.say(said.chain(unsaid).collect());
    }

    fn say(&self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        self.will_pass(&changes);
        self.verifier
            .learn(Heard::Changed(self.instance.clone(), changes.clone()));
        self.speaker.change(changes);
    }

    /// Ended sessions need not be spoken of once their last token is over.
    fn will_pass(&self, changes: &[Change]) {
        let mut passing = self.passing.lock().unwrap_or_else(PoisonError::into_inner);
        let names = changes.iter().map(|(name, _)| name);
        for name in names.filter(|name| name.starts_with("session/")) {
            passing.insert(name.clone(), Instant::now() + TOKEN_LIFETIME * 4);
        }
    }

    /// Stops speaking of sessions whose last token is long over at this time, but for grants that
    /// would still last: their streams need no token, and a node may have been cut off meanwhile.
    pub fn forget_old(&self, now: Instant, lasts: impl Fn(SessionId) -> bool) {
        let mut over = Vec::new();
        self.passing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|name, until| {
                let session = name.strip_prefix("session/");
                let lasts = session.and_then(|id| id.parse().ok()).is_some_and(&lasts);
                let passed = *until <= now && !lasts;
                if passed {
                    over.push((name.clone(), None));
                }
                !passed
            });
        if !over.is_empty() {
            self.verifier
                .learn(Heard::Changed(self.instance.clone(), over.clone()));
            self.speaker.change(over);
        }
    }
}

#[cfg(test)]
mod tests;
