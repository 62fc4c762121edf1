//! A cluster as a person's client sees it: who is logged in, and what can be asked.

use crate::config::Target;
use crate::error::{Error, LOG_IN, Refusal};
use crate::session::{CachedToken, Session, SessionFile, TOKEN_MARGIN};
use iceflix_core::api::auth::{AuthError, AuthenticatorClient, SessionProof, Token};
use iceflix_core::api::main::DirectoryView;
use iceflix_core::api::{InstanceId, Kind, MediaId, SessionId, StreamId};
use iceflix_core::rpc::{CallError, Caller, Cluster, Effort, Security};
use iceflix_core::trust::password::prehash;
use iceflix_core::trust::session::{Purpose, SessionKey};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

/// A client of one cluster. Clones share everything.
#[derive(Clone)]
pub struct Client {
    cluster: Cluster,
    place: Arc<Place>,
}

/// Where the session is kept, and how the cluster was named.
struct Place {
    state_dir: PathBuf,
    cluster: Option<String>,
    mains: Vec<SocketAddr>,
    unanswered: Mutex<Unanswered>,
}

/// The streams that a node was asked for and has not answered: it may have made them, and is asked for
/// the same ones again.
pub(crate) type Unanswered = BTreeMap<(InstanceId, MediaId, bool), StreamId>;

impl Client {
    /// Finds a Main of the cluster. Sessions are kept below `state_dir`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no Main answers.
    pub async fn connect(target: &Target, state_dir: &Path) -> Result<Self, Error> {
        let mains = target.resolve().await?;
        let security =
            Security::client(target.ca).map_err(|error| Error::Failed(error.to_string()))?;
        let cluster = Cluster::connect(mains.clone(), security).await?;
        let place = Arc::new(Place {
            state_dir: state_dir.to_owned(),
            cluster: target.cluster.clone(),
            mains,
            unanswered: Mutex::default(),
        });
        Ok(Self { cluster, place })
    }

    pub(crate) fn unanswered(&self) -> MutexGuard<'_, Unanswered> {
        let unanswered = self.place.unanswered.lock();
        unanswered.unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the session's file, where waiting for files is allowed.
    async fn with_file<T: Send + 'static>(
        &self,
        work: impl FnOnce(SessionFile) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (place, mains) = (Arc::clone(&self.place), self.mains());
        blocking(move || {
            let cluster = place.cluster.as_deref();
            work(SessionFile::locate(&place.state_dir, cluster, &mains))
        })
        .await
    }

    /// The calling side, for what is asked of one given instance.
    pub fn caller(&self) -> &Caller {
        self.cluster.caller()
    }

    /// All live instances, followed as they change.
    pub fn directory(&self) -> watch::Receiver<Arc<DirectoryView>> {
        self.cluster.directory()
    }

    /// Whether some Main answers, followed as it changes.
    pub fn reachable(&self) -> watch::Receiver<bool> {
        self.cluster.reachable()
    }

    /// The session kept here, if any.
    pub async fn session(&self) -> Result<Option<Session>, Error> {
        self.with_file(|file| file.load()).await
    }

    /// Opens a session and keeps it, in place of one that was there.
    pub async fn login(&self, user: &str, password: &str) -> Result<Session, Error> {
        let key = SessionKey::generate()
            .map_err(|error| Error::Failed(format!("cannot make a session: {error}")))?;
        let (id, public) = (SessionId::random(), key.public());
        let (name, hash) = (user.to_owned(), prehash(user, password));
        let asked = SystemTime::now();
        let login = self
            .caller()
            .call_with(Effort::Write, |auth: AuthenticatorClient, ctx| {
                let name = name.clone();
                async move { auth.login(ctx, name, hash, id, public).await }
            })
            .await??;
        let session = Session {
            id: login.session,
            user: login.user,
            role: login.role,
            cluster: login.cluster,
            mains: self.mains(),
            key: hex::encode(key.to_bytes()),
            token: Some(CachedToken::new(login.token, asked)),
        };
        let (place, kept) = (Arc::clone(&self.place), session.clone());
        blocking(move || {
            // By its name if possible: whoever names the cluster in another way then finds it too.
            let cluster = place.cluster.as_ref().unwrap_or(&kept.cluster);
            SessionFile::locate(&place.state_dir, Some(cluster), &[]).save(&kept)
        })
        .await?;
        Ok(session)
    }

    /// The Mains by which this cluster can be recognised.
    fn mains(&self) -> Vec<SocketAddr> {
        let view = self.directory().borrow().clone();
        let live = view.instances.iter();
        let mut mains: Vec<SocketAddr> = live
            .filter(|instance| instance.kind == Kind::Main)
            .map(|instance| instance.endpoint)
            .chain(self.place.mains.iter().copied())
            .collect();
        mains.sort();
        mains.dedup();
        mains
    }

    /// Ends the session and forgets it. `None` when there was none.
    pub async fn logout(&self) -> Result<Option<Session>, Error> {
        let Some(session) = self.session().await? else {
            return Ok(None);
        };
        let proof = self.prove(&session, Purpose::Logout)?;
        let mut pauses = LONG_PAUSES.into_iter();
        let unknown = loop {
            let ended = self
                .caller()
                .call_with(Effort::Write, |auth: AuthenticatorClient, ctx| {
                    let proof = proof.clone();
                    async move { auth.logout(ctx, proof).await }
                })
                .await?;
            match ended {
                // It may have ended in another way.
                Ok(()) | Err(AuthError::SessionEnded) => break false,
                // That authenticator has not heard of it yet, and the session would go on: the
                // others are asked, too.
                Err(AuthError::UnknownSession) => match pauses.next() {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => break true,
                },
                Err(error) => return Err(error.into()),
            }
        };
        self.forget(session.id).await?;
        if unknown {
            return Err(Error::NotFound(
                "no authenticator that answers knows this session. It is forgotten here; should \
                 another one know it, it ends by itself within 7 days"
                    .into(),
            ));
        }
        Ok(Some(session))
    }

    /// Forgets a session that has ended, unless another has taken its place.
    pub async fn forget(&self, session: SessionId) -> Result<(), Error> {
        self.with_file(move |file| file.remove(session)).await
    }

    /// A token good for a call: the kept one, or a fresh one.
    pub async fn token(&self) -> Result<Token, Error> {
        Ok(self.token_for(TOKEN_MARGIN).await?.token)
    }

    /// A token that is good for at least `margin` from now.
    pub async fn token_for(&self, margin: Duration) -> Result<CachedToken, Error> {
        let session = self.session().await?.ok_or_else(Error::logged_out)?;
        match &session.token {
            Some(kept) if kept.left(SystemTime::now()) > margin => Ok(kept.clone()),
            _ => self.renew(&session).await,
        }
    }

    /// A fresh token, whatever is kept.
    pub async fn fresh_token(&self) -> Result<CachedToken, Error> {
        let session = self.session().await?.ok_or_else(Error::logged_out)?;
        self.renew(&session).await
    }

    async fn renew(&self, session: &Session) -> Result<CachedToken, Error> {
        let mut tried = 0;
        loop {
            let proof = self.prove(session, Purpose::Renew)?;
            let asked = SystemTime::now();
            let answer = self
                .caller()
                .call(|auth: AuthenticatorClient, ctx| {
                    let proof = proof.clone();
                    async move { auth.refresh_authorization(ctx, proof).await }
                })
                .await?;
            let error = match answer {
                Ok(token) => return Ok(self.keep(session, CachedToken::new(token, asked)).await),
                Err(error) => error,
            };
            let pauses = match error {
                AuthError::SessionEnded | AuthError::Unauthorized(_) => &PAUSES[..],
                AuthError::UnknownSession => &LONG_PAUSES,
                _ => &[],
            };
            let Some(pause) = pauses.get(tried) else {
                return Err(match error {
                    AuthError::UnknownSession => Error::SessionEnded,
                    error => error.into(),
                });
            };
            tokio::time::sleep(*pause).await;
            tried += 1;
        }
    }

    /// Keeps a token for the next command. It is good even if it cannot be kept.
    async fn keep(&self, session: &Session, token: CachedToken) -> CachedToken {
        let (id, kept) = (session.id, token.clone());
        if let Err(error) = self.with_file(move |file| file.keep_token(id, kept)).await {
            tracing::warn!(%error, "the fresh token could not be kept");
        }
        token
    }

    fn prove(&self, session: &Session, purpose: Purpose) -> Result<SessionProof, Error> {
        let damaged = || Error::NotAuthorised(format!("the session file is damaged; {LOG_IN}"));
        let bytes = hex::decode(&session.key).map_err(|_| damaged())?;
        let key = SessionKey::from_bytes(&bytes).ok_or_else(damaged)?;
        key.prove(
            session.id,
            &session.cluster,
            purpose,
            iceflix_core::trust::now(),
        )
        .ok_or_else(|| Error::Failed("this machine's clock is far from any date".into()))
    }

    /// Asks with a token; one that is refused is renewed and the question asked again.
    pub async fn authorised<R, E, F, Fut>(&self, ask: F) -> Result<R, Error>
    where
        E: Refusal,
        F: Fn(Token) -> Fut,
        Fut: Future<Output = Result<Result<R, E>, CallError>>,
    {
        let mut token = self.token().await?;
        let mut pauses = PAUSES.into_iter();
        loop {
            let error = match ask(token).await? {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            match pauses.next().filter(|_| error.token_error().is_some()) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error.into()),
            }
            token = self.fresh_token().await?.token;
        }
    }
}

/// The pauses before a refused token or session is tried again. What one authenticator just did
/// reaches the other services within a second: a refusal right after a login may be too early.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(800)];

/// The pauses before others are asked about a session that an authenticator has never heard of. One
/// whose machine was cut off sees the others some two seconds after its cable is in, and is itself
/// found before that.
const LONG_PAUSES: [Duration; 4] = [
    PAUSES[0],
    PAUSES[1],
    Duration::from_millis(1500),
    Duration::from_millis(2500),
];

/// Runs what waits for files on a thread where waiting is allowed.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::Failed(format!("a task broke: {error}")))?
}
