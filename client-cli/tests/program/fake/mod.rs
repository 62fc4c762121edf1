//! A small cluster in this process that answers as the contracts say, so that the program's own
//! behaviour can be seen from outside: what it asks, prints and exits with.

pub mod home;
mod services;
mod streaming;

use iceflix_core::api::auth::{AuthError, Authenticator, PreHash, Role, SessionProof, Token};
use iceflix_core::api::catalog::{Catalog, CatalogError, Tile};
use iceflix_core::api::main::Main;
use iceflix_core::api::streaming::{StreamEvent, Streaming};
use iceflix_core::api::{Instance, Kind, MediaId, SessionId, StreamId, TokenError};
use iceflix_core::rpc::{Listener, Security, serve};
use iceflix_core::trust::authority::CERTIFICATE_LIFETIME;
use iceflix_core::trust::keys::SigningKey;
use iceflix_core::trust::password::prehash;
use iceflix_core::trust::{Authority, Credentials, Purpose, now, session, token};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tarpc::server::Channel;
use tokio_util::sync::CancellationToken;

/// The password of `admin`.
pub const PASSWORD: &str = "correct horse";

/// How a request can go wrong on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is not carried out, and nobody says so.
    Lost,
    /// It is carried out, and nobody says so.
    AnswerLost,
    /// It is lost, and somebody ends all sessions meanwhile.
    Overtaken,
}

/// What the cluster knows.
#[derive(Default)]
pub struct State {
    pub directory: Vec<Instance>,
    pub users: BTreeMap<String, (PreHash, Role)>,
    pub sessions: BTreeMap<SessionId, (String, [u8; 32])>,
    pub disabled: BTreeSet<String>,
    /// So many logouts ask an authenticator that has not heard of the session yet.
    pub unheard: u32,
    /// Logins come too early, by so many seconds.
    pub early: Option<u32>,
    pub tokens: BTreeMap<String, SessionId>,
    pub films: BTreeMap<MediaId, Tile>,
    pub tags: BTreeMap<(String, MediaId), Vec<String>>,
    pub streams: BTreeMap<StreamId, MediaId>,
    /// The grants that were not ended, and the streams that play by one.
    pub grants: BTreeMap<SessionId, MediaId>,
    pub taken_up: BTreeMap<StreamId, SessionId>,
    /// How often a stream was asked for, and how often yet its node makes it and answers too late.
    pub asked_for: u32,
    pub late: u32,
    /// Whether the last stream was asked for players anywhere.
    pub any_host: bool,
    /// What `next_event` says at once.
    pub news: Vec<StreamEvent>,
    /// What becomes of the next requests that end sessions; an empty list is well.
    pub fates: Vec<Fate>,
    pub renewals: u32,
    pub stopped: u32,
    pub issued: u32,
    pub pages: u32,
}

#[derive(Clone)]
pub struct Fake {
    pub state: Arc<Mutex<State>>,
    key: Arc<SigningKey>,
    authority: Authority,
    stop: CancellationToken,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.fake.stop.cancel();
    }
}

/// The running cluster; ends when dropped.
pub struct Cluster {
    pub fake: Fake,
    pub main: SocketAddr,
}

impl Cluster {
    /// One instance of each kind, and a second catalogue and node that nobody runs.
    pub async fn start() -> Self {
        let fake = Fake {
            state: Arc::default(),
            key: Arc::new(SigningKey::generate().unwrap()),
            authority: Authority::create("test").unwrap(),
            stop: CancellationToken::new(),
        };
        let mut main = None;
        for kind in Kind::ALL {
            let listener = fake.listen(kind).await;
            let endpoint = listener.address();
            fake.add(kind, 1, endpoint);
            let (service, stop) = (fake.clone(), fake.stop.clone());
            macro_rules! run {
                ($trait:ident) => {
                    tokio::spawn(listener.serve(stop, move |_, link| {
                        serve::channel(link).execute($trait::serve(service.clone()))
                    }))
                };
            }
            match kind {
                Kind::Main => {
                    main = Some(endpoint);
                    run!(Main)
                }
                Kind::Auth => run!(Authenticator),
                Kind::Catalog => run!(Catalog),
                Kind::Streaming => run!(Streaming),
            };
        }
        for kind in [Kind::Catalog, Kind::Streaming] {
            let dead = fake.listen(kind).await.address();
            fake.add(kind, 2, dead);
        }
        let admin = (prehash("admin", PASSWORD), Role::Admin);
        fake.state
            .lock()
            .unwrap()
            .users
            .insert("admin".into(), admin);
        Self {
            fake,
            main: main.unwrap(),
        }
    }

    /// What the cluster is known by.
    pub fn ca(&self) -> String {
        self.fake.authority.fingerprint().to_string()
    }

    /// Adds a film.
    pub fn film(&self, id: [u8; 32], name: &str) -> MediaId {
        let id = MediaId::from_bytes(id);
        let tile = Tile {
            id,
            name: name.into(),
            tags: Vec::new(),
            duration_s: Some(60.0),
            providers: 2,
            available: true,
            unplayable: None,
        };
        self.state(|state| state.films.insert(id, tile));
        id
    }

    /// Lets no service answer any more.
    pub fn shut_down(&self) {
        self.fake.stop.cancel();
    }

    /// Looks at the state, or changes it.
    pub fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.fake.state.lock().unwrap())
    }
}

impl Fake {
    async fn listen(&self, kind: Kind) -> Listener {
        let (any, name) = ("127.0.0.1:0".parse().unwrap(), "fake".parse().unwrap());
        let credential = self.authority.issue(kind, &name, CERTIFICATE_LIFETIME);
        let security = Security::service(&Credentials::new(credential.unwrap()));
        Listener::bind(any, security.unwrap()).await.unwrap()
    }

    fn add(&self, kind: Kind, number: u32, endpoint: SocketAddr) {
        self.state.lock().unwrap().directory.push(Instance {
            kind,
            instance: format!("{kind}-{number}").parse().unwrap(),
            endpoint,
            pid: std::process::id(),
            load: 0,
            draining: false,
        });
    }

    fn user(&self, token: &Token) -> Result<(String, Role), TokenError> {
        let state = self.state.lock().unwrap();
        let session = state.tokens.get(&token.0).ok_or(TokenError::Invalid)?;
        let (user, _) = state.sessions.get(session).ok_or(TokenError::Revoked)?;
        let (_, role) = state.users.get(user).ok_or(TokenError::Revoked)?;
        Ok((user.clone(), *role))
    }

    fn admin<E: From<TokenError>>(&self, token: &Token, not_admin: E) -> Result<String, E> {
        match self.user(token)? {
            (user, Role::Admin) => Ok(user),
            _ => Err(not_admin),
        }
    }

    fn issue(&self, user: &str, session: SessionId) -> Token {
        let mut state = self.state.lock().unwrap();
        let role = state.users[user].1;
        let token = token::issue(&self.key, "test", user, session, role, 0, now()).unwrap();
        state.issued += 1;
        state.tokens.insert(token.0.clone(), session);
        token
    }

    /// Not when it still has to say that it knows of none.
    fn has_heard_of_sessions(&self) -> Result<(), AuthError> {
        let mut state = self.state.lock().unwrap();
        match state.unheard.checked_sub(1) {
            Some(left) => {
                state.unheard = left;
                Err(AuthError::UnknownSession)
            }
            None => Ok(()),
        }
    }

    fn proven(&self, proof: &SessionProof, purpose: Purpose) -> Result<SessionId, AuthError> {
        let session = session::claimed_session(proof).ok_or(TokenError::Invalid)?;
        let state = self.state.lock().unwrap();
        let (_, key) = state
            .sessions
            .get(&session)
            .ok_or(AuthError::SessionEnded)?;
        session::verify(proof, *key, "test", purpose, now())?;
        Ok(session)
    }

    /// Carries out what ends sessions, as its fate wants it.
    async fn fated(
        &self,
        work: impl FnOnce(&mut State) -> Result<(), AuthError>,
    ) -> Result<(), AuthError> {
        let fate = self.state.lock().unwrap().fates.pop();
        let answer = match fate {
            Some(Fate::Lost) => Ok(()),
            Some(Fate::Overtaken) => {
                self.state.lock().unwrap().sessions.clear();
                Ok(())
            }
            None | Some(Fate::AnswerLost) => work(&mut self.state.lock().unwrap()),
        };
        if fate.is_some() {
            std::future::pending::<()>().await;
        }
        answer
    }

    fn known(&self, id: MediaId) -> Result<Tile, CatalogError> {
        let state = self.state.lock().unwrap();
        state
            .films
            .get(&id)
            .cloned()
            .ok_or(CatalogError::UnknownMedia)
    }

    fn change_tags(
        &self,
        token: &Token,
        id: MediaId,
        change: impl FnOnce(&mut Vec<String>),
    ) -> Result<(), CatalogError> {
        let (user, _) = self.user(token)?;
        self.known(id)?;
        let mut state = self.state.lock().unwrap();
        change(state.tags.entry((user, id)).or_default());
        Ok(())
    }

    fn seen_by(&self, mut tile: Tile, user: Option<&str>) -> Tile {
        let state = self.state.lock().unwrap();
        let tags = user.and_then(|user| state.tags.get(&(user.to_owned(), tile.id)));
        tile.tags = tags.cloned().unwrap_or_default();
        tile
    }
}
