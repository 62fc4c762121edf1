//! What authenticators know to be revoked, counted apart from the verifier: what it must refuse.

use crate::{
    api::{InstanceId, SessionId},
    feed::{Heard, read},
    topics::AuthenticationFact,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

#[derive(Default)]
pub(super) struct Facts {
    pub keys: BTreeSet<String>,
    pub ended: BTreeSet<SessionId>,
    pub epochs: BTreeMap<String, u64>,
    pub expelled: BTreeSet<InstanceId>,
}

impl Facts {
    /// Takes one in; whether it says anything new.
    pub fn learn(&mut self, fact: &AuthenticationFact) -> bool {
        match fact {
            AuthenticationFact::Key(_) => {
                self.keys.insert(fact.name());
                false
            }
            AuthenticationFact::SessionEnded { session } => self.ended.insert(*session),
            AuthenticationFact::Expelled { instance } => self.expelled.insert(instance.clone()),
            AuthenticationFact::UserEpoch { user, epoch } => {
                let known = self.epochs.entry(user.clone()).or_default();
                let newer = *epoch > *known;
                *known = (*known).max(*epoch);
                newer
            }
        }
    }

    pub fn all(&self) -> Vec<AuthenticationFact> {
        let ended = self.ended.iter().copied();
        let ended = ended.map(|session| AuthenticationFact::SessionEnded { session });
        let epochs = self.epochs.clone().into_iter();
        let epochs = epochs.map(|(user, epoch)| AuthenticationFact::UserEpoch { user, epoch });
        let expelled = self.expelled.iter().cloned();
        let expelled = expelled.map(|instance| AuthenticationFact::Expelled { instance });
        ended.chain(epochs).chain(expelled).collect()
    }

    /// Whether what a token rests on is revoked by them.
    pub fn revoke(&self, token: &Issued) -> bool {
        let epoch = self.epochs.get(&token.user).copied().unwrap_or(0);
        self.ended.contains(&token.session) || token.epoch < epoch
    }
}

/// The facts in what was heard.
pub(super) fn facts(heard: &Heard) -> Vec<AuthenticationFact> {
    match heard {
        Heard::Everything(_, entries) => {
            let facts = entries.iter();
            facts.filter_map(|(k, v)| read(k, v.clone())).collect()
        }
        Heard::Changed(_, changes) => {
            let facts = changes.iter();
            facts.filter_map(|(k, v)| read(k, v.clone()?)).collect()
        }
        Heard::Gone(_) => Vec::new(),
    }
}

/// What a token says, and when it was made.
#[derive(Clone)]
pub(super) struct Issued {
    pub session: SessionId,
    pub user: String,
    pub epoch: u64,
    /// By its authenticator's clock.
    pub made: Duration,
    pub token: String,
    pub signer: usize,
}

impl Issued {
    pub fn new(session: SessionId, user: String, epoch: u64, made: Duration) -> Self {
        let token = String::new();
        Self {
            session,
            user,
            epoch,
            made,
            token,
            signer: 0,
        }
    }
}
