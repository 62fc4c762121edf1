//! The streams that were authorised: whose they are, until when, and their end.

mod lifetime;
mod listing;

use crate::{
    delivery::{Access, Delivery, DeliveryError, FilmSource},
    memory,
};
use dashmap::{DashMap, Entry as Place};
use iceflix_core::{
    api::{
        MediaId, SessionId, StreamId,
        streaming::{EndReason, StreamEvent},
    },
    audit::{Audit, Event},
    trust::{self, Identity, Verifier, grant::Leave},
};
use lifetime::{Lifetime, Next};
use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// Memory is given back at least so long after a stream's end, and no more often: its threads need a
/// moment to end, and streams that end together are paid for once.
const TIDY: Duration = Duration::from_secs(2);

/// How often a node that is leaving looks whether anybody still plays.
const LOOK: Duration = Duration::from_millis(50);

/// For how long an ended stream is remembered, so that its controller learns why it ended, and that
/// a grant whose stream was stopped is not taken up again: not shorter than the time for that.
const REMEMBERED: Duration = trust::grant::TAKE_UP;

/// The most streams of one user, with those that are remembered: far more than somebody watches, and
/// at some 16 kB for each (measured) not much for a node.
const MOST_OF_ONE_USER: usize = 1000;

/// Why a stream cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The film cannot be delivered, or there is no such stream.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    /// The user has too many.
    #[error("the user has {MOST_OF_ONE_USER} streams")]
    TooMany,
    /// There is another stream of that id.
    #[error("the stream's id is taken")]
    IdTaken,
}

/// All streams of this node. Cheap to clone.
#[derive(Clone)]
pub struct Streams {
    inner: Arc<Inner>,
}

struct Inner {
    delivery: Delivery,
    verifier: Verifier,
    audit: Audit,
    streams: DashMap<StreamId, Arc<Entry>>,
    /// The stream of each grant that was taken up.
    grants: DashMap<SessionId, StreamId>,
    /// For how long a granted stream plays without an authenticator.
    unsupervised: Duration,
    /// Set while memory is about to be given back.
    tidying: AtomicBool,
    /// Whether the node is leaving.
    leaving: watch::Sender<bool>,
}

struct Entry {
    media: MediaId,
    asker: Asker,
    /// When it was made, since 1970.
    since: Duration,
    /// The grant that it plays by.
    grant: Option<SessionId>,
    held: Mutex<Held>,
    /// Counts renewals, for the task that keeps it.
    renewed: watch::Sender<u64>,
    state: watch::Sender<State>,
}

/// What a stream rests on: together, so that a renewal is never taken for the token it replaces.
struct Held {
    identity: Identity,
    lifetime: Lifetime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Playing,
    Wanted,
    Ended(EndReason),
}

/// Who asks for a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// At which address.
    pub from: IpAddr,
    /// Whether for players at any address, not only at the asker's own.
    pub any_host: bool,
}

/// A stream, as its controller sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What it plays.
    pub media: MediaId,
    /// Whose it is.
    pub user: String,
    /// For how long it plays without a renewal.
    pub left: Duration,
}

/// What is done under it does not panic, so what is held is never half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long an identity's token lasts from now.
fn left(identity: &Identity) -> Duration {
    identity.expires.saturating_sub(trust::now())
}

impl Entry {
    fn ended(&self) -> Option<EndReason> {
        match *self.state.borrow() {
            State::Ended(reason) => Some(reason),
            _ => None,
        }
    }
}

impl Streams {
    /// None yet.
    /// Those that play by a grant do so for `unsupervised` without an authenticator.
    pub fn new(
        delivery: Delivery,
        verifier: Verifier,
        audit: Audit,
        unsupervised: Duration,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                delivery,
                verifier,
                audit,
                streams: DashMap::new(),
                grants: DashMap::new(),
                unsupervised,
                tidying: AtomicBool::new(false),
                leaving: watch::channel(false).0,
            }),
        }
    }

    /// Authorises a stream of a film for as long as this identity's token lives. Asked again with
    /// the same id by the same user it renews that stream, and makes no other. Whether it was made.
    ///
    /// # Errors
    /// When the film cannot be delivered, the stream has ended, its id is another's, or the user has
    /// too many streams.
    pub fn open(
        &self,
        id: StreamId,
        media: MediaId,
        film: FilmSource,
        identity: Identity,
        asker: Asker,
    ) -> Result<bool, OpenError> {
        let lifetime = Lifetime::until(Instant::now() + left(&identity));
        let held = Held {
            identity: identity.clone(),
            lifetime,
        };
        match self.begin(id, media, film, held, asker) {
            Ok(()) => return Ok(true),
            Err(OpenError::IdTaken) => {}
            Err(error) => return Err(error),
        }
        let same = self.entry(&id).is_some_and(|entry| {
            (entry.media, entry.asker, entry.grant) == (media, asker, None)
                && lock(&entry.held).identity.user == identity.user
        });
        match same {
            false => Err(OpenError::IdTaken),
            true if self.renew(&id, identity) => Ok(false),
            true => Err(DeliveryError::UnknownStream.into()),
        }
    }

    /// Authorises a stream by a grant, until the grant's end. There is one for each grant: asking
    /// again gives the same, and an error when that has ended.
    ///
    /// # Errors
    /// When the film cannot be delivered, the grant's stream has ended, or the user has too many.
    pub fn open_granted(
        &self,
        film: FilmSource,
        leave: Leave,
        asker: Asker,
    ) -> Result<StreamId, OpenError> {
        let Leave { identity, media } = leave;
        match self.inner.grants.entry(identity.session) {
            Place::Occupied(taken_up) => match self.get(taken_up.get()) {
                Some(_) => Ok(*taken_up.get()),
                None => Err(DeliveryError::UnknownStream.into()),
            },
            Place::Vacant(place) => {
                let until = Instant::now() + left(&identity);
                let lifetime = Lifetime::granted(until, self.inner.unsupervised);
                let held = Held { identity, lifetime };
                let id = StreamId::random();
                self.begin(id, media, film, held, asker)?;
                Ok(*place.insert(id))
            }
        }
    }

    fn begin(
        &self,
        id: StreamId,
        media: MediaId,
        film: FilmSource,
        held: Held,
        asker: Asker,
    ) -> Result<(), OpenError> {
        let streams = self.inner.streams.iter();
        let of_this_user = |entry: &Entry| lock(&entry.held).identity.user == held.identity.user;
        let has = streams.filter(|entry| of_this_user(entry)).count();
        // Held from here on, so that of two who ask at the same time only one begins it.
        let Place::Vacant(place) = self.inner.streams.entry(id) else {
            return Err(OpenError::IdTaken);
        };
        if has >= MOST_OF_ONE_USER {
            return Err(OpenError::TooMany);
        }
        let access = Access::to(asker.from, asker.any_host);
        self.inner.delivery.add_stream(id, film, access)?;
        let granted = !held.lifetime.is_renewable();
        let entry = Arc::new(Entry {
            media,
            asker,
            since: trust::now(),
            grant: granted.then_some(held.identity.session),
            held: Mutex::new(held),
            renewed: watch::channel(0).0,
            state: watch::channel(State::Playing).0,
        });
        place.insert(Arc::clone(&entry));
        tokio::spawn(Arc::clone(&self.inner).keep(id, entry));
        Ok(())
    }

    /// A stream that has not ended.
    pub fn get(&self, id: &StreamId) -> Option<Seen> {
        let entry = self.entry(id).filter(|entry| entry.ended().is_none())?;
        let held = lock(&entry.held);
        Some(Seen {
            media: entry.media,
            user: held.identity.user.clone(),
            left: left(&held.identity),
        })
    }

    /// Goes on with a stream for as long as this identity's token lives. Whether there is one.
    pub fn renew(&self, id: &StreamId, identity: Identity) -> bool {
        let Some(entry) = self.entry(id).filter(|entry| entry.ended().is_none()) else {
            return false;
        };
        {
            let mut held = lock(&entry.held);
            if !held.lifetime.is_renewable() {
                return false;
            }
            let now = Instant::now();
            if self.inner.verifier.is_revoked(&held.identity) {
                held.lifetime.revoke(now);
            }
            if held.lifetime.renew(now + left(&identity)) {
                held.identity = identity;
            }
        }
        entry.state.send_if_modified(|state| {
            let wanted = *state == State::Wanted;
            if wanted {
                *state = State::Playing;
            }
            wanted
        });
        entry
            .renewed
            .send_modify(|count| *count = count.wrapping_add(1));
        entry.ended().is_none()
    }

    /// Ends a stream: when this returns its URL is dead and nothing is sent any more.
    pub async fn end(&self, id: &StreamId, reason: EndReason) {
        if let Some(entry) = self.entry(id) {
            self.inner.end(id, &entry, reason).await;
        }
    }

    /// Whether this node takes no new streams any more.
    pub fn are_leaving(&self) -> bool {
        *self.inner.leaving.borrow()
    }

    /// Tells all controllers that this node is leaving, and waits until their streams have ended or
    /// went elsewhere, at most for `grace`. Granted streams have no controller, so those are waited
    /// for that somebody plays.
    pub async fn leave(&self, grace: Duration) {
        // Without any, controllers hear that their streams ended, and nothing before.
        if grace.is_zero() {
            return;
        }
        self.inner.leaving.send_replace(true);
        let gone = async {
            while self.inner.are_wanted() {
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(grace, gone).await.is_err() {
            tracing::info!("streams that did not go elsewhere in time are ended");
        }
    }

    /// Ends the streams of a film.
    pub async fn end_film(&self, media: &MediaId) {
        self.end_those(EndReason::MediaRemoved, |entry| entry.media == *media)
            .await;
    }

    /// Ends all streams.
    pub async fn end_all(&self, reason: EndReason) {
        self.end_those(reason, |_| true).await;
    }

    async fn end_those(&self, reason: EndReason, which: impl Fn(&Entry) -> bool) {
        let streams = self.inner.streams.iter();
        let those: Vec<StreamId> = streams
            .filter(|stream| which(stream.value()))
            .map(|stream| *stream.key())
            .collect();
        for id in those {
            self.end(&id, reason).await;
        }
    }

    /// Waits for the next thing a controller at this address has to know; `None`: there is no such
    /// stream for it.
    pub async fn next_event(&self, id: &StreamId, from: IpAddr) -> Option<StreamEvent> {
        let entry = self.entry(id)?;
        let Asker {
            from: owner,
            any_host,
        } = entry.asker;
        if !Access::to(owner, any_host).allows(from) {
            return None;
        }
        let (mut state, mut leaving) = (entry.state.subscribe(), self.inner.leaving.subscribe());
        let event = tokio::select! {
            // Whoever has to renew it hears that first.
            biased;
            event = state.wait_for(|state| *state != State::Playing) => *event.ok()?,
            _ = leaving.wait_for(|leaving| *leaving) => return Some(StreamEvent::Leaving),
        };
        match event {
            State::Wanted => Some(StreamEvent::RenewalWanted),
            State::Ended(reason) => Some(StreamEvent::Ended(reason)),
            State::Playing => None,
        }
    }

    fn entry(&self, id: &StreamId) -> Option<Arc<Entry>> {
        self.inner.streams.get(id).map(|entry| Arc::clone(&entry))
    }
}

impl Inner {
    /// Whether there is a stream that somebody plays or may yet.
    fn are_wanted(&self) -> bool {
        let mut streams = self.streams.iter();
        streams.any(|stream| {
            let wanted = stream.grant.is_none() || self.delivery.players(stream.key()) > 0;
            wanted && stream.ended().is_none()
        })
    }

    /// Watches over a stream until its end.
    async fn keep(self: Arc<Self>, id: StreamId, entry: Arc<Entry>) {
        let mut renewed = entry.renewed.subscribe();
        let mut said = self.verifier.changes();
        let mut silence = self.verifier.silence();
        let mut state = entry.state.subscribe();
        while entry.ended().is_none() {
            let next = {
                let mut held = lock(&entry.held);
                let now = Instant::now();
                if self.verifier.is_revoked(&held.identity) {
                    held.lifetime.revoke(now);
                }
                held.lifetime.supervised(*silence.borrow_and_update());
                held.lifetime.next(now)
            };
            match next {
                Next::Wait(until) | Next::Renewal(until) => {
                    let wanted = matches!(next, Next::Renewal(_));
                    entry.state.send_if_modified(|state| {
                        let news = wanted && *state == State::Playing;
                        if news {
                            *state = State::Wanted;
                        }
                        news
                    });
                    tokio::select! {
                        () = tokio::time::sleep_until(until) => {}
                        _ = renewed.changed() => {}
                        _ = said.changed() => {}
                        // Its sender lives in the verifier.
                        _ = silence.changed() => {}
                        _ = state.wait_for(|state| matches!(state, State::Ended(_))) => {}
                    }
                }
                Next::End(reason) => self.end(&id, &entry, reason).await,
            }
        }
        tokio::time::sleep(REMEMBERED).await;
        self.streams.remove(&id);
        if let Some(grant) = &entry.grant {
            self.grants.remove(grant);
        }
    }

    async fn end(self: &Arc<Self>, id: &StreamId, entry: &Entry, reason: EndReason) {
        let first = entry.state.send_if_modified(|state| {
            let first = !matches!(state, State::Ended(_));
            if first {
                *state = State::Ended(reason);
            }
            first
        });
        if first {
            tracing::info!(media = %entry.media, ?reason, "a stream ended");
            self.write_down_end(id, entry, reason);
        }
        // Whoever ends an ended stream also waits until nothing flows.
        self.delivery.remove_stream(id).await;
        if first && !self.tidying.swap(true, Ordering::Relaxed) {
            tokio::spawn(Arc::clone(self).tidy());
        }
    }

    fn write_down_end(&self, id: &StreamId, entry: &Entry, reason: EndReason) {
        let reason = match reason {
            EndReason::Stopped => "stopped",
            EndReason::Expired => "expired",
            EndReason::Revoked => "revoked",
            EndReason::Shutdown => "shutdown",
            EndReason::Unsupervised => "unsupervised",
            EndReason::MediaRemoved => "media_removed",
        };
        let event = Event::ended("stream", reason).by(Some(&lock(&entry.held).identity));
        self.audit.record(&event.on_film(entry.media).stream(id));
    }

    async fn tidy(self: Arc<Self>) {
        tokio::time::sleep(TIDY).await;
        // Streams that end from here on ask for it again; the threads of the last ones before may
        // still be ending.
        self.tidying.store(false, Ordering::Relaxed);
        tokio::time::sleep(TIDY).await;
        // Fails only when the node stops.
        let _ = tokio::task::spawn_blocking(memory::give_back).await;
    }
}
