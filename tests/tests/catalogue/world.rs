//! A small world for a catalogue: a bus, an authenticator's word, streaming nodes, callers.

use catalog_svc::{CatalogServer, Config};
use iceflix_core::{
    announcement::Announcement,
    api::{
        InstanceId, Kind, MediaId, Page, PageRequest, SessionId,
        auth::{Role, Token},
        catalog::{CatalogClient, CatalogError, Query, Tile, TileDetails},
        main::{DirectoryVersion, DirectoryView},
        streaming::{StreamingRequest, StreamingResponse},
    },
    bus::{Bus, BusConfig},
    feed::Speaker,
    membership::Membership,
    rpc::{Caller, Listener, Security, serve},
    service::Server,
    topics::{AuthenticationFact, Entries, MediaItem, Topics},
    trust::{
        self, Authority, Credential, Credentials, authority::CERTIFICATE_LIFETIME,
        keys::SigningKey, token,
    },
};
use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};
use tarpc::server::Channel as _;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long anything may take before a test gives up: much longer than it ever does.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Where everybody listens on the bus: a port chosen in advance could be somebody else's by then.
const ANYWHERE: &str = "tls/127.0.0.1:0";

/// A cluster of which only catalogues are real.
pub struct World {
    topics: Topics,
    /// Where the first node of the bus is; who knows it meets the others.
    bus: Vec<String>,
    membership: Membership,
    key: SigningKey,
    authority: Authority,
    auth: Speaker,
    caller: Caller,
    _keep: (Bus, watch::Sender<Arc<DirectoryView>>),
}

impl World {
    pub async fn new(cluster: &str) -> Self {
        let topics = Topics::new(cluster);
        let authority = Authority::create(cluster).unwrap();
        let credential = credential(&authority, Kind::Auth, "auth-1");
        let bus = open(&topics, credential, &[]).await;
        let membership = Membership::follow(&bus, &topics).await.unwrap();
        let key = SigningKey::generate().unwrap();
        let fact = AuthenticationFact::Key(hex(&key.public().0));
        let said = Entries::from([(fact.name(), serde_json::to_value(&fact).unwrap())]);
        let auth = Speaker::start(&bus, &topics.authentication(), &id("auth-1"), said)
            .await
            .unwrap();
        let nobody = DirectoryView {
            version: DirectoryVersion {
                counter: 0,
                number: 0,
            },
            instances: Vec::new(),
        };
        let (sender, directory) = watch::channel(Arc::new(nobody));
        let security = Security::client(authority.fingerprint()).unwrap();
        Self {
            authority,
            auth,
            topics,
            bus: bus.listens_at(),
            membership,
            key,
            caller: Caller::new(directory, security),
            _keep: (bus, sender),
        }
    }

    fn credential(&self, kind: Kind, name: &str) -> Credential {
        credential(&self.authority, kind, name)
    }

    /// A token as the authenticator makes it.
    pub fn token(&self, user: &str, role: Role) -> Token {
        self.token_of(user, role, SessionId::random())
    }

    pub fn token_of(&self, user: &str, role: Role, session: SessionId) -> Token {
        let cluster = self.topics.cluster();
        token::issue(&self.key, cluster, user, session, role, 0, trust::now()).unwrap()
    }

    /// Every kind of token that is not good.
    pub fn bad_tokens(&self, revoked: SessionId) -> Vec<(&'static str, Token)> {
        let good = self.token("eva", Role::Admin).0;
        let session = SessionId::random();
        let make = |key: &SigningKey, cluster: &str, at| {
            token::issue(key, cluster, "eva", session, Role::Admin, 0, at).unwrap()
        };
        let (cluster, now) = (self.topics.cluster(), trust::now());
        let minute = Duration::from_secs(60);
        let foreign = SigningKey::generate().unwrap();
        let mut forged = good.clone().into_bytes();
        forged[40] = if forged[40] == b'A' { b'B' } else { b'A' };
        vec![
            ("empty", Token(String::new())),
            ("nonsense", Token("x".repeat(300))),
            ("truncated", Token(good[..good.len() - 20].to_owned())),
            ("forged", Token(String::from_utf8(forged).unwrap())),
            ("foreign signer", make(&foreign, cluster, now)),
            ("foreign cluster", make(&self.key, "elsewhere", now)),
            ("expired", make(&self.key, cluster, now - minute)),
            ("not yet good", make(&self.key, cluster, now + minute)),
            ("revoked", self.token_of("eva", Role::Admin, revoked)),
        ]
    }

    /// Ends a session.
    pub fn revoke(&self, session: SessionId) {
        let fact = AuthenticationFact::SessionEnded { session };
        let value = serde_json::to_value(&fact).unwrap();
        self.auth.change(vec![(fact.name(), Some(value))]);
    }

    /// A real catalogue, with its state in `state`, as soon as it can be found.
    pub async fn catalog(&self, name: &str, state: &Path) -> Catalogue {
        let mut config = Config::default();
        let common = &mut config.common;
        common.cluster = id(self.topics.cluster());
        common.instance = Some(id(name));
        common.state_dir = state.join(name);
        common.bus_connect = self.bus.clone();
        common.bus_listen = vec![ANYWHERE.to_owned()];
        common.bus_scouting = false;
        let place = common.identity();
        self.authority
            .equip(&place, Kind::Catalog, &id(name), CERTIFICATE_LIFETIME)
            .unwrap();
        let server = CatalogServer::bind(config).await.unwrap();
        // Before that nobody asks it: it may not know yet whose tokens are good.
        let mut view = self.membership.watch();
        let found = view.wait_for(|view| {
            let mut all = view.instances.iter();
            all.any(|it| it.endpoint == server.address())
        });
        let found = tokio::time::timeout(PATIENCE, found).await;
        drop(found.expect("it is announced in time").unwrap());
        Catalogue {
            caller: self.caller.clone(),
            address: server.address(),
            server,
        }
    }

    /// A streaming node that announces these films, and is not in the directory yet.
    pub async fn node(&self, name: &str, films: &[MediaItem]) -> Node {
        let credential = self.credential(Kind::Streaming, name);
        let credentials = Credentials::new(credential.clone());
        let bus = open(&self.topics, credential, &self.bus).await;
        let films = films.iter().map(|film| (film.id.to_string(), value(film)));
        let media = self.topics.media();
        let speaker = Speaker::start(&bus, &media, &id(name), films.collect())
            .await
            .unwrap();
        Node {
            speaker,
            name: id(name),
            topics: self.topics.clone(),
            announcement: None,
            bus,
            credentials,
            // Nobody is there.
            endpoint: ([127, 0, 0, 1], 1).into(),
        }
    }

    /// A streaming node that is in the directory.
    pub async fn live_node(&self, name: &str, films: &[MediaItem]) -> Node {
        let mut node = self.node(name, films).await;
        node.go_live().await;
        node
    }
}

pub struct Node {
    speaker: Speaker,
    name: InstanceId,
    topics: Topics,
    announcement: Option<Announcement>,
    bus: Bus,
    credentials: Credentials,
    pub endpoint: SocketAddr,
}

impl Node {
    /// From now on it is to be found where it has any film that it is asked for, until what this
    /// gives is dropped.
    pub async fn answers(&mut self) -> DropGuard {
        let security = Security::service(&self.credentials).unwrap();
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), security);
        let listener = listener.await.unwrap();
        self.endpoint = listener.address();
        let has_it = |_, request| async move {
            match request {
                StreamingRequest::IsAvailable { .. } => Ok(StreamingResponse::IsAvailable(true)),
                other => panic!("asked for {other:?}"),
            }
        };
        let stop = CancellationToken::new();
        let serving = listener.serve(stop.clone(), move |_, link| {
            serve::channel(link).execute(tarpc::server::serve(has_it))
        });
        tokio::spawn(serving);
        stop.drop_guard()
    }

    pub async fn go_live(&mut self) {
        let (bus, topics) = (&self.bus, &self.topics);
        let made = Announcement::start(bus, topics, Kind::Streaming, &self.name, self.endpoint);
        self.announcement = Some(made.await.unwrap());
    }

    pub async fn go_away(&mut self) {
        self.announcement.take().unwrap().withdraw().await;
    }

    pub async fn die(self) {
        self.bus.close().await;
    }

    pub fn add(&self, film: &MediaItem) {
        let change = (film.id.to_string(), Some(value(film)));
        self.speaker.change(vec![change]);
    }

    pub fn remove(&self, film: MediaId) {
        self.speaker.change(vec![(film.to_string(), None)]);
    }

    pub fn say(&self, name: &str, value: serde_json::Value) {
        self.speaker.change(vec![(name.to_owned(), Some(value))]);
    }
}

/// A catalogue, and the calls to it.
pub struct Catalogue {
    pub server: CatalogServer,
    caller: Caller,
    address: SocketAddr,
}

macro_rules! calls {
    ($($method:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {$(
        pub async fn $method(&self, $($argument: $type),*) -> Result<$answer, CatalogError> {
            let ask = |client: CatalogClient, context| {
                $(let $argument = $argument.to_owned();)*
                async move { client.$method(context, $($argument),*).await }
            };
            self.caller.call_at(self.address, PATIENCE, ask).await.unwrap()
        }
    )*};
}

impl Catalogue {
    calls! {
        tile(token: &Token, id: MediaId) -> TileDetails;
        tiles_by_name(token: Option<Token>, name: &str, exact: bool, page: PageRequest) -> Page<Tile>;
        tiles_by_tags(token: &Token, tags: &[String], all: bool, page: PageRequest) -> Page<Tile>;
        search(token: Option<Token>, query: Query, page: PageRequest) -> Page<Tile>;
        ids_by_prefix(prefix: &str) -> Vec<MediaId>;
        add_tags(token: &Token, id: MediaId, tags: &[String]) -> ();
        remove_tags(token: &Token, id: MediaId, tags: &[String]) -> ();
        rename_tile(token: &Token, id: MediaId, name: &str) -> ();
    }

    /// The names that a search without a token gives.
    pub async fn named(&self, name: &str, exact: bool) -> Vec<String> {
        let page = self.tiles_by_name(None, name, exact, PageRequest::first());
        names(page.await.unwrap())
    }

    pub async fn tagged(&self, token: &Token, tags: &[&str], all: bool) -> Vec<String> {
        let tags = texts(tags);
        let page = self.tiles_by_tags(token, &tags, all, PageRequest::first());
        names(page.await.unwrap())
    }

    /// Waits until a film is as wanted.
    pub async fn until(&self, token: &Token, id: MediaId, wanted: impl Fn(&Tile) -> bool) -> Tile {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let tile = self.tile(token, id).await.map(|details| details.tile);
            match tile {
                Ok(tile) if wanted(&tile) => return tile,
                _ if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                other => panic!("it stayed {other:?}"),
            }
        }
    }

    pub async fn stop(self) {
        self.server.shutdown().await;
    }
}

pub fn names(page: Page<Tile>) -> Vec<String> {
    page.items.into_iter().map(|tile| tile.name).collect()
}

pub fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

pub fn id(name: &str) -> InstanceId {
    name.parse().unwrap()
}

pub fn media(n: u8) -> MediaId {
    MediaId::from_bytes([n; 32])
}

pub fn film(n: u8, name: &str) -> MediaItem {
    MediaItem {
        id: media(n),
        name: name.to_owned(),
        size: 1000,
        duration_s: Some(60.0),
        format: "MP4, H.264".to_owned(),
        unplayable: None,
    }
}

fn value(film: &MediaItem) -> serde_json::Value {
    serde_json::to_value(film).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn credential(authority: &Authority, kind: Kind, name: &str) -> Credential {
    let issued = authority.issue(kind, &id(name), CERTIFICATE_LIFETIME);
    issued.unwrap()
}

async fn open(topics: &Topics, credential: Credential, connect: &[String]) -> Bus {
    let config = BusConfig::new(
        topics.cluster(),
        credential,
        vec![ANYWHERE.to_owned()],
        connect.to_vec(),
    );
    Bus::open(&config).await.unwrap()
}
