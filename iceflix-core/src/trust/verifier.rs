//! What a service needs to judge a token by itself: keys, and what was revoked.

use super::{
    grant::{self, Leave},
    keys::VerifyingKey,
    now,
    presence::Presence,
    token::{self, Identity},
};
use crate::{
    api::{
        InstanceId, SessionId, TokenError,
        auth::{Grant, Token},
    },
    bus::{Bus, BusError},
    feed::{self, Ears, Heard, Hearer},
    topics::{AuthenticationFact, Topics},
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::{Duration, Instant},
};
use tokio::sync::{Mutex, watch};
use tokio_util::task::AbortOnDropHandle;

/// How often an unknown signer is asked for, at most: nonsense tokens must not flood the bus.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Judges tokens. Cheap to clone.
///
/// It refuses everything until it has heard an authenticator: keys and revocations come in one
/// snapshot, so no key is ever known without what was revoked.
#[derive(Clone)]
pub struct Verifier {
    inner: Arc<Inner>,
}

struct Inner {
    cluster: String,
    known: RwLock<Known>,
    changes: watch::Sender<u64>,
    presence: Presence,
    /// Unset in one that is deaf.
    following: OnceLock<Following>,
}

struct Following {
    hearer: Hearer,
    asked: Mutex<Option<Instant>>,
    _task: AbortOnDropHandle<()>,
}

/// What each authenticator said, and what follows from all of it.
#[derive(Default)]
struct Known {
    said: BTreeMap<InstanceId, BTreeMap<String, AuthenticationFact>>,
    keys: HashSet<VerifyingKey>,
    ended: HashSet<SessionId>,
    epochs: HashMap<String, u64>,
    expelled: HashSet<InstanceId>,
}

impl Known {
    fn learn(&mut self, heard: Heard) {
        match heard {
            Heard::Everything(speaker, entries) => {
                let facts = entries
                    .into_iter()
                    .filter_map(|(name, value)| Some((name.clone(), feed::read(&name, value)?)));
                self.said.insert(speaker, facts.collect());
            }
            Heard::Changed(speaker, changes) => {
                let facts = self.said.entry(speaker).or_default();
                for (name, value) in changes {
                    match value {
                        Some(value) => {
                            if let Some(fact) = feed::read(&name, value) {
                                facts.insert(name, fact);
                            }
                        }
                        None => drop(facts.remove(&name)),
                    }
                }
            }
            // What it signed and revoked stays so.
            Heard::Gone(_) => return,
        }
        self.keys.clear();
        self.ended.clear();
        self.epochs.clear();
        self.expelled.clear();
        let facts = self.said.values().flat_map(BTreeMap::values);
        for fact in facts {
            if let AuthenticationFact::Expelled { instance } = fact {
                self.expelled.insert(instance.clone());
            }
        }
        let by_speaker = self.said.iter();
        let facts =
            by_speaker.flat_map(|(speaker, facts)| facts.values().map(move |f| (speaker, f)));
        for (speaker, fact) in facts {
            match fact {
                // Whose certificate is not to be trusted signs no tokens either. What it revoked
                // stays so.
                AuthenticationFact::Key(_) if self.expelled.contains(speaker) => {}
                AuthenticationFact::Expelled { .. } => {}
                AuthenticationFact::Key(key) => {
                    let mut bytes = [0; 32];
                    if hex::decode_to_slice(key, &mut bytes).is_ok() {
                        self.keys.insert(VerifyingKey(bytes));
                    }
                }
                AuthenticationFact::SessionEnded { session } => drop(self.ended.insert(*session)),
                AuthenticationFact::UserEpoch { user, epoch } => {
                    let known = self.epochs.entry(user.clone()).or_default();
                    *known = (*known).max(*epoch);
                }
            }
        }
    }

    fn revoked(&self, identity: &Identity) -> bool {
        let epoch = self.epochs.get(&identity.user).copied().unwrap_or(0);
        self.ended.contains(&identity.session) || identity.epoch < epoch
    }
}

impl Verifier {
    /// Follows what the cluster's authenticators say; all but `except`, which an authenticator
    /// sets to itself. Returns once those alive were heard.
    ///
    /// # Errors
    /// When the bus is closed.
    pub async fn follow(
        bus: &Bus,
        topics: &Topics,
        except: Option<InstanceId>,
    ) -> Result<Self, BusError> {
        let (hearer, mut heard) =
            Hearer::follow(bus, topics, topics.authentication(), except).await?;
        let (changes, _) = watch::channel(0);
        let mut known = Known::default();
        while let Ok(heard) = heard.try_recv() {
            known.learn(heard);
        }
        let mut alive = hearer.alive();
        let inner = Arc::new(Inner {
            cluster: topics.cluster().to_owned(),
            known: RwLock::new(known),
            changes,
            presence: Presence::default(),
            following: OnceLock::new(),
        });
        // It ends with the last of those who ask here. There is something to hear at once, so it
        // begins when all it is told for is in place.
        let weak = Arc::downgrade(&inner);
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    heard = heard.recv() => {
                        let (Some(heard), Some(inner)) = (heard, weak.upgrade()) else { return };
                        inner.learn(heard);
                    }
                    Ok(()) = alive.changed() => {
                        let Some(inner) = weak.upgrade() else { return };
                        let seen = alive.borrow_and_update().clone();
                        inner.presence.seen(seen, tokio::time::Instant::now());
                    }
                }
            }
        });
        inner.following.get_or_init(|| Following {
            hearer,
            asked: Mutex::new(None),
            _task: AbortOnDropHandle::new(task),
        });
        Ok(Self { inner })
    }

    /// One that hears only what it is told with [`Verifier::learn`].
    pub fn deaf(cluster: &str) -> Self {
        Self {
            inner: Arc::new(Inner {
                cluster: cluster.to_owned(),
                known: RwLock::default(),
                changes: watch::channel(0).0,
                presence: Presence::default(),
                following: OnceLock::new(),
            }),
        }
    }

    /// Takes in what an authenticator said. An authenticator tells its own so at once what the
    /// others hear over the bus.
    pub fn learn(&self, heard: Heard) {
        self.inner
            .presence
            .told(&heard, tokio::time::Instant::now());
        self.inner.learn(heard);
    }

    /// Whether all that at least one authenticator has to say was heard. Until then every token is
    /// refused, and a service has no business to be found.
    pub fn is_ready(&self) -> bool {
        let known = self.inner.known.read();
        !known
            .unwrap_or_else(PoisonError::into_inner)
            .said
            .is_empty()
    }

    /// Waits until [`Verifier::is_ready`].
    pub async fn ready(&self) {
        let mut changes = self.changes();
        // The sender lives in what this borrows.
        while !self.is_ready() && changes.changed().await.is_ok() {}
    }

    /// Hears everything anew, after this process stood still: asks until an authenticator answers,
    /// if any was there, at most for `patience`. What it revoked is refused when this returns.
    pub async fn catch_up(&self, patience: Duration) {
        if let Some(following) = self.inner.following.get() {
            following.hearer.catch_up(patience).await;
        }
    }

    /// Which authenticators it should hear, and which it does; `None` in one that is deaf.
    pub fn ears(&self) -> Option<Ears> {
        Some(self.inner.following.get()?.hearer.ears())
    }

    /// Since when no authenticator is alive, as far as can be seen from here; `None` while there is
    /// one. Tokens go on being verified all the same, until they expire.
    pub fn silent_since(&self) -> Option<tokio::time::Instant> {
        *self.inner.presence.silence().borrow()
    }

    /// The same, and whenever it changes.
    pub fn silence(&self) -> watch::Receiver<Option<tokio::time::Instant>> {
        self.inner.presence.silence()
    }

    /// Whose token this is. When its signer is unknown, the authenticators are asked first: it may
    /// have come to life just now.
    ///
    /// # Errors
    /// Says what is wrong with the token.
    pub async fn check(&self, token: &Token) -> Result<Identity, TokenError> {
        self.judge(|| self.check_now(token)).await
    }

    /// Whose grant this is, and of what. As for [`Verifier::check`], the authenticators are asked
    /// when its signer is unknown.
    ///
    /// # Errors
    /// Says what is wrong with the grant.
    pub async fn check_grant(&self, grant: &Grant) -> Result<Leave, TokenError> {
        self.judge(|| match self.signed(grant)? {
            leave if self.is_revoked(&leave.identity) => Err(TokenError::Revoked),
            leave => Ok(leave),
        })
        .await
    }

    /// What an authenticator signed, revoked since or not.
    fn signed(&self, grant: &Grant) -> Result<Leave, TokenError> {
        let known = self.inner.known.read();
        let known = known.unwrap_or_else(PoisonError::into_inner);
        let is_known = |key: &VerifyingKey| known.keys.contains(key);
        grant::verify(grant, &self.inner.cluster, is_known, now())
    }

    /// Judges once more, after having asked, when the signer is unknown.
    async fn judge<T>(&self, judge: impl Fn() -> Result<T, TokenError>) -> Result<T, TokenError> {
        let unknown =
            |result: &Result<T, TokenError>| matches!(result, Err(TokenError::UnknownSigner));
        let first = judge();
        if !unknown(&first) {
            return first;
        }
        let mut changes = self.changes();
        self.inner.ask().await;
        // It may have been asked a moment ago already, and its signer be on the way.
        let known = async {
            while unknown(&judge()) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(100), known).await;
        judge()
    }

    /// Whose token this is, as far as is known now.
    ///
    /// # Errors
    /// Says what is wrong with the token.
    pub fn check_now(&self, token: &Token) -> Result<Identity, TokenError> {
        self.check_at(token, now())
    }

    /// The same, at this time since 1970.
    pub(crate) fn check_at(&self, token: &Token, now: Duration) -> Result<Identity, TokenError> {
        let known = self.inner.known.read();
        let known = known.unwrap_or_else(PoisonError::into_inner);
        let is_known = |key: &VerifyingKey| known.keys.contains(key);
        let identity = token::verify(token, &self.inner.cluster, is_known, now)?;
        if known.revoked(&identity) {
            return Err(TokenError::Revoked);
        }
        Ok(identity)
    }

    /// Whose token this is or was: revoked ones tell, too. For the record of what was asked, never
    /// for the answer.
    pub fn whose(&self, token: &Token) -> Option<Identity> {
        let known = self.inner.known.read();
        let known = known.unwrap_or_else(PoisonError::into_inner);
        let is_known = |key: &VerifyingKey| known.keys.contains(key);
        token::verify(token, &self.inner.cluster, is_known, now()).ok()
    }

    /// The same of a grant.
    pub fn whose_grant(&self, grant: &Grant) -> Option<Identity> {
        self.signed(grant).ok().map(|leave| leave.identity)
    }

    /// Whether what this identity rests on was revoked since.
    pub fn is_revoked(&self, identity: &Identity) -> bool {
        let known = self.inner.known.read();
        known
            .unwrap_or_else(PoisonError::into_inner)
            .revoked(identity)
    }

    /// The instances that were expelled.
    pub fn expelled(&self) -> HashSet<InstanceId> {
        let known = self.inner.known.read();
        known
            .unwrap_or_else(PoisonError::into_inner)
            .expelled
            .clone()
    }

    /// Changes whenever something was learned.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }
}

impl Inner {
    fn learn(&self, heard: Heard) {
        self.known
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .learn(heard);
        self.changes
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    async fn ask(&self) {
        let Some(following) = self.following.get() else {
            return;
        };
        let mut asked = following.asked.lock().await;
        if asked.is_some_and(|asked| asked.elapsed() < ASK_AGAIN) {
            return;
        }
        following.hearer.refresh().await;
        *asked = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::auth::Role, topics::Entries, trust::keys::SigningKey};
    use proptest::prelude::*;
    use std::sync::LazyLock;

    fn fact(fact: &AuthenticationFact) -> (String, Option<serde_json::Value>) {
        (fact.name(), serde_json::to_value(fact).ok())
    }

    fn setting() -> (SigningKey, Verifier, InstanceId, Token, SessionId) {
        let key = SigningKey::generate().unwrap();
        let session = SessionId::random();
        let token = token::issue(&key, "home", "ada", session, Role::User, 3, now()).unwrap();
        let verifier = Verifier::deaf("home");
        (key, verifier, "auth-1".parse().unwrap(), token, session)
    }

    #[tokio::test]
    async fn nothing_is_believed_before_an_authenticator_was_heard() {
        let (key, verifier, auth, token, _) = setting();
        assert_eq!(verifier.check(&token).await, Err(TokenError::UnknownSigner));
        let said = fact(&AuthenticationFact::Key(hex::encode(key.public().0)));
        verifier.learn(Heard::Changed(auth.clone(), vec![said]));
        assert_eq!(verifier.check(&token).await.unwrap().user, "ada");
        verifier.learn(Heard::Gone(auth));
        assert!(verifier.check(&token).await.is_ok(), "until it expires");
    }

    #[tokio::test]
    async fn revoking_ends_exactly_what_it_names() {
        let (key, verifier, auth, token, session) = setting();
        let other = SessionId::random();
        let others = token::issue(&key, "home", "bob", other, Role::User, 0, now()).unwrap();
        let said = fact(&AuthenticationFact::Key(hex::encode(key.public().0)));
        verifier.learn(Heard::Changed(auth.clone(), vec![said]));
        let identity = verifier.check_now(&token).unwrap();

        let ended = fact(&AuthenticationFact::SessionEnded { session });
        verifier.learn(Heard::Changed(auth.clone(), vec![ended.clone()]));
        assert_eq!(verifier.check_now(&token), Err(TokenError::Revoked));
        assert!(verifier.is_revoked(&identity));
        assert!(verifier.check_now(&others).is_ok());

        verifier.learn(Heard::Changed(auth.clone(), vec![(ended.0, None)]));
        assert!(verifier.check_now(&token).is_ok());
        for (epoch, good) in [(3, true), (4, false)] {
            let user = "ada".to_owned();
            let raised = fact(&AuthenticationFact::UserEpoch { user, epoch });
            verifier.learn(Heard::Changed(auth.clone(), vec![raised]));
            assert_eq!(verifier.check_now(&token).is_ok(), good, "epoch {epoch}");
            assert!(verifier.check_now(&others).is_ok());
        }
    }

    #[test]
    fn a_lower_epoch_from_another_authenticator_takes_nothing_back() {
        let (key, verifier, auth, token, _) = setting();
        let user = "ada".to_owned();
        let raised = fact(&AuthenticationFact::UserEpoch {
            user: user.clone(),
            epoch: 9,
        });
        let stale = fact(&AuthenticationFact::UserEpoch { user, epoch: 0 });
        let said = fact(&AuthenticationFact::Key(hex::encode(key.public().0)));
        verifier.learn(Heard::Changed(auth, vec![said, raised]));
        verifier.learn(Heard::Changed("auth-2".parse().unwrap(), vec![stale]));
        assert_eq!(verifier.check_now(&token), Err(TokenError::Revoked));
    }
    /// Two authenticators' keys, and a token of each of four sessions of two users.
    type Signed = ([SigningKey; 2], Vec<(SessionId, Token)>);

    static SIGNED: LazyLock<Signed> = LazyLock::new(|| {
        let keys = [0; 2].map(|_| SigningKey::generate().unwrap());
        let tokens = (0..4u8).map(|n| {
            let session = SessionId::from_bytes([n; 16]);
            let (key, user) = (&keys[usize::from(n % 2)], user(n / 2));
            let token = token::issue(key, "home", user, session, Role::User, 5, now());
            (session, token.unwrap())
        });
        let tokens = tokens.collect();
        (keys, tokens)
    });

    fn user(n: u8) -> &'static str {
        ["ada", "bob"][usize::from(n)]
    }

    /// What an authenticator says next, and whether it then says everything once more.
    fn saying() -> impl Strategy<Value = (AuthenticationFact, bool)> {
        let fact = prop_oneof![
            (0usize..2).prop_map(|n| AuthenticationFact::key(&SIGNED.0[n].public())),
            (0u8..4).prop_map(|n| AuthenticationFact::SessionEnded {
                session: SessionId::from_bytes([n; 16]),
            }),
            (0u8..2, 0u64..10).prop_map(|(n, epoch)| AuthenticationFact::UserEpoch {
                user: user(n).to_owned(),
                epoch,
            }),
        ];
        (fact, any::<bool>())
    }

    proptest! {
        /// Two authenticators speak; whose words come when is up to the network, and a snapshot
        /// says once more what was said.
        #[test]
        fn what_was_revoked_by_anybody_is_refused_in_whatever_order_it_is_heard(
            said in proptest::collection::vec((0usize..2, saying()), 0..30)
        ) {
            let (verifier, names) = (Verifier::deaf("home"), ["auth-1", "auth-2"]);
            let mut everything = [Entries::new(), Entries::new()];
            let (mut keys, mut ended) = (HashSet::new(), HashSet::new());
            let mut epochs: [BTreeMap<String, u64>; 2] = Default::default();
            for (who, (said, again)) in said {
                let name: InstanceId = names[who].parse().unwrap();
                let (key, value) = fact(&said);
                everything[who].insert(key.clone(), value.clone().unwrap());
                verifier.learn(Heard::Changed(name.clone(), vec![(key, value)]));
                if again {
                    verifier.learn(Heard::Gone(name.clone()));
                    verifier.learn(Heard::Everything(name, everything[who].clone()));
                }
                match said {
                    AuthenticationFact::Key(key) => drop(keys.insert(key)),
                    AuthenticationFact::SessionEnded { session } => drop(ended.insert(session)),
                    // A later word of the same authenticator takes the place of the earlier.
                    AuthenticationFact::UserEpoch { user, epoch } => {
                        epochs[who].insert(user, epoch);
                    }
                    AuthenticationFact::Expelled { .. } => {}
                }
                for (n, (session, token)) in (0u8..).zip(&SIGNED.1) {
                    let signer = hex::encode(SIGNED.0[usize::from(n % 2)].public().0);
                    let raised = epochs.iter().filter_map(|said| said.get(user(n / 2)));
                    let revoked = ended.contains(session) || raised.max() > Some(&5);
                    let judged = verifier.check_now(token);
                    match (keys.contains(&signer), revoked) {
                        (false, _) => prop_assert_eq!(judged, Err(TokenError::UnknownSigner)),
                        (true, true) => prop_assert_eq!(judged, Err(TokenError::Revoked)),
                        (true, false) => prop_assert!(judged.is_ok()),
                    }
                }
            }
        }
    }
}
