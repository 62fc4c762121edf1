//! A whole cluster in this process: the services as their programs run them, on free ports of
//! 127.0.0.1, with multicast off and all state in a temporary directory.

pub use crate::nodes::{node, node_config, node_of};
pub use crate::waiting::{PATIENCE, free_port, wait_at_most, wait_for};

use crate::{identity, person::Home};
use auth_svc::AuthServer;
use catalog_svc::CatalogServer;
use iceflix_core::{
    api::{
        Instance, Kind, PageRequest, SessionId,
        auth::{AuthError, AuthenticatorClient, Login, Role, Token},
        catalog::{CatalogClient, Query, Tile},
        main::DirectoryView,
    },
    config::Common,
    rpc::{self, CallError, Caller, Effort, Stub},
    service::Server,
    trust::{self, Purpose, SessionKey, authority::CERTIFICATE_LIFETIME, password::prehash},
};
use main_svc::MainServer;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use streaming_svc::StreamingServer;
use tarpc::client::RpcError;
use tempfile::TempDir;

/// The password of `admin`.
pub const ADMIN_PASSWORD: &str = "correct horse battery staple";

/// A running cluster. [`Cluster::stop`] stops it.
pub struct Cluster {
    /// Where all its state is: `KIND-N` for each instance.
    pub dir: TempDir,
    /// The Mains.
    pub mains: Vec<MainServer>,
    /// The authenticators.
    pub auths: Vec<AuthServer>,
    /// The catalogues.
    pub catalogs: Vec<CatalogServer>,
    /// The streaming nodes.
    pub nodes: Vec<StreamingServer>,
    name: String,
    bus_ports: Vec<u16>,
    made: [u32; 4],
    view: Option<rpc::Cluster>,
    certificates: Duration,
    scouting: bool,
}

impl Cluster {
    /// Starts so many instances of each kind, and a streaming node for each directory. Returns
    /// once every Main lists all of them.
    pub async fn start(mains: usize, auths: usize, catalogs: usize, media: &[&Path]) -> Self {
        let mut cluster = Self::empty();
        for _ in 0..mains {
            cluster.add_main().await;
        }
        for _ in 0..auths {
            cluster.add_auth().await;
        }
        for _ in 0..catalogs {
            cluster.add_catalog().await;
        }
        for directory in media {
            cluster.add_node(directory).await;
        }
        if mains > 0 {
            cluster.until_complete().await;
        }
        cluster
    }

    /// One in which nothing runs yet.
    pub fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("admin.password"), ADMIN_PASSWORD).unwrap();
        Self {
            dir,
            mains: Vec::new(),
            auths: Vec::new(),
            catalogs: Vec::new(),
            nodes: Vec::new(),
            name: format!("test-{}", &SessionId::random().to_string()[..8]),
            bus_ports: Vec::new(),
            made: [0; 4],
            view: None,
            certificates: CERTIFICATE_LIFETIME,
            scouting: false,
        }
    }

    /// Lets the instances that are added from now on find others by multicast, too.
    pub fn find_by_multicast(&mut self) {
        self.scouting = true;
    }

    /// Where the instances that were added are reached on the bus.
    pub fn bus_addresses(&self) -> Vec<SocketAddr> {
        let ports = self.bus_ports.iter();
        ports.map(|port| ([127, 0, 0, 1], *port).into()).collect()
    }

    /// Gives the instances that are added from now on certificates for so long.
    pub fn certificates_for(&mut self, lifetime: Duration) {
        self.certificates = lifetime;
    }

    /// The cluster's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a new instance of a kind is told: a name, a state directory and a place on the bus.
    pub fn common(&mut self, kind: Kind) -> Common {
        let made = &mut self.made[kind as usize];
        *made += 1;
        let instance = format!("{kind}-{made}");
        let port = free_port();
        let connect = self.bus_ports.iter();
        let common = Common {
            cluster: self.name.parse().unwrap(),
            state_dir: self.dir.path().join(&instance),
            instance: Some(instance.parse().unwrap()),
            bus_listen: vec![format!("tls/127.0.0.1:{port}")],
            bus_connect: connect
                .map(|port| format!("tls/127.0.0.1:{port}"))
                .collect(),
            bus_scouting: self.scouting,
            ..Common::default()
        };
        self.bus_ports.push(port);
        identity::equip_for(kind, &common, self.certificates);
        common
    }

    /// Adds a Main.
    pub async fn add_main(&mut self) {
        let common = self.common(Kind::Main);
        let main = MainServer::bind(main_svc::Config { common }).await.unwrap();
        self.mains.push(main);
    }

    /// What a new authenticator is told.
    pub fn auth_config(&mut self) -> auth_svc::Config {
        auth_svc::Config {
            common: self.common(Kind::Auth),
            admin_password_file: Some(self.dir.path().join("admin.password")),
            ..auth_svc::Config::default()
        }
    }

    /// Adds an authenticator.
    pub async fn add_auth(&mut self) -> auth_svc::Config {
        let config = self.auth_config();
        self.auths
            .push(AuthServer::bind(config.clone()).await.unwrap());
        config
    }

    /// Adds a catalogue.
    pub async fn add_catalog(&mut self) {
        let common = self.common(Kind::Catalog);
        let catalog = CatalogServer::bind(catalog_svc::Config { common });
        self.catalogs.push(catalog.await.unwrap());
    }

    /// Adds a streaming node.
    pub async fn add_node(&mut self, media: &Path) {
        let common = self.common(Kind::Streaming);
        self.nodes.push(node(common, media).await);
    }

    /// Where the Mains answer.
    pub fn main_addresses(&self) -> Vec<SocketAddr> {
        self.mains.iter().map(Server::address).collect()
    }

    /// Somebody at a terminal who knows the Mains.
    pub fn home(&self) -> Home {
        Home::new(&self.name, &self.main_addresses())
    }

    /// Waits until every Main lists every instance that runs in this process.
    pub async fn until_complete(&mut self) {
        let wanted = self.mains.len() + self.auths.len() + self.catalogs.len() + self.nodes.len();
        for main in self.main_addresses() {
            until_listed(&self.name, main, |all| all.len() == wanted).await;
        }
        if self.view.is_none() {
            let mains = self.main_addresses();
            self.view = Some(
                rpc::Cluster::connect(mains, identity::security(&self.name))
                    .await
                    .unwrap(),
            );
        }
        let mut directory = self.view().directory();
        let complete = directory.wait_for(|view| view.instances.len() == wanted);
        tokio::time::timeout(PATIENCE, complete)
            .await
            .expect("a complete directory")
            .unwrap();
    }

    /// The cluster as a client sees it; there must be a Main.
    pub fn view(&self) -> &rpc::Cluster {
        self.view.as_ref().expect("a cluster with a Main")
    }

    /// Calls the cluster's services.
    pub fn caller(&self) -> &Caller {
        self.view().caller()
    }

    /// Asks the instance at an address, once.
    pub async fn at<S, R, F, Fut>(&self, address: SocketAddr, ask: F) -> R
    where
        S: Stub,
        F: Fn(S, tarpc::context::Context) -> Fut,
        Fut: Future<Output = Result<R, RpcError>>,
    {
        self.caller().call_at(address, PATIENCE, ask).await.unwrap()
    }

    /// Logs `admin` in.
    pub async fn admin(&self) -> Person {
        self.login("admin", ADMIN_PASSWORD).await.unwrap()
    }

    /// Logs a user in, at any authenticator.
    pub async fn login(&self, user: &str, password: &str) -> Result<Person, AuthError> {
        let address = self.auths[0].address();
        self.login_at(address, user, password).await
    }

    /// Logs a user in at one authenticator.
    pub async fn login_at(
        &self,
        address: SocketAddr,
        user: &str,
        password: &str,
    ) -> Result<Person, AuthError> {
        let key = SessionKey::generate().unwrap();
        let (id, public) = (SessionId::random(), key.public());
        let hash = prehash(user, password);
        let login = self.at(address, |auth: AuthenticatorClient, context| {
            let user = user.to_owned();
            async move { auth.login(context, user, hash, id, public).await }
        });
        Ok(Person {
            key,
            login: login.await?,
        })
    }

    /// Adds a user, and logs them in.
    pub async fn new_user(&self, name: &str, password: &str, role: Role) -> Person {
        let admin = self.admin().await.token();
        let hash = prehash(name, password);
        self.at(
            self.auths[0].address(),
            |auth: AuthenticatorClient, context| {
                let (name, admin) = (name.to_owned(), admin.clone());
                async move { auth.add_user(context, admin, name, hash, role).await }
            },
        )
        .await
        .unwrap();
        self.login(name, password).await.unwrap()
    }

    /// A fresh token for a session, from one authenticator.
    pub async fn renew_at(&self, address: SocketAddr, who: &Person) -> Result<Token, AuthError> {
        let proof = who.proof(Purpose::Renew);
        self.at(address, |auth: AuthenticatorClient, context| {
            let proof = proof.clone();
            async move { auth.refresh_authorization(context, proof).await }
        })
        .await
    }

    /// Whether an authenticator takes this token.
    pub async fn authorised_at(&self, address: SocketAddr, token: &Token) -> bool {
        self.at(address, |auth: AuthenticatorClient, context| {
            let token = token.clone();
            async move { auth.is_authorized(context, token).await }
        })
        .await
    }

    /// The films of the cluster, as one without a session finds them.
    pub async fn films(&self) -> Result<Vec<Tile>, CallError> {
        let found = self.caller().call_with(
            Effort::Write,
            |catalog: CatalogClient, context| async move {
                let (all, page) = (Query::default(), PageRequest::first());
                catalog.search(context, None, all, page).await
            },
        );
        Ok(found.await?.unwrap().items)
    }

    /// Waits until so many films can be played, and gives them.
    pub async fn until_films(&self, count: usize) -> Vec<Tile> {
        let mut films = Vec::new();
        wait_for("the films are found", async || {
            films = self.films().await.unwrap();
            films.iter().filter(|film| film.available).count() == count
        })
        .await;
        films
    }

    /// Stops everything.
    pub async fn stop(self) {
        drop(self.view);
        for node in self.nodes {
            node.shutdown().await;
        }
        for catalog in self.catalogs {
            catalog.shutdown().await;
        }
        for auth in self.auths {
            auth.shutdown().await;
        }
        for main in self.mains {
            main.shutdown().await;
        }
    }
}

/// Waits until a Main's directory is as wanted, and says how long that took.
pub async fn until_listed(
    cluster: &str,
    main: SocketAddr,
    mut wanted: impl FnMut(&[Instance]) -> bool,
) -> Duration {
    let start = Instant::now();
    let security = identity::security(cluster);
    let cluster = rpc::Cluster::connect(vec![main], security).await.unwrap();
    let mut directory = cluster.directory();
    let listed = async {
        directory
            .wait_for(|view| wanted(&view.instances))
            .await
            .is_ok()
    };
    let done = tokio::time::timeout(PATIENCE, listed).await;
    let seen: std::sync::Arc<DirectoryView> = cluster.directory().borrow().clone();
    assert_eq!(done, Ok(true), "it stayed {:?}", seen.instances);
    start.elapsed()
}

/// A user who is logged in.
#[derive(Debug, Clone)]
pub struct Person {
    /// The session's private key.
    pub key: SessionKey,
    /// What the authenticator gave.
    pub login: Login,
}

impl Person {
    /// The first token.
    pub fn token(&self) -> Token {
        self.login.token.clone()
    }

    /// The session.
    pub fn session(&self) -> SessionId {
        self.login.session
    }

    /// Proves the session, now.
    pub fn proof(&self, purpose: Purpose) -> iceflix_core::api::auth::SessionProof {
        let (id, cluster) = (self.login.session, &self.login.cluster);
        self.key.prove(id, cluster, purpose, trust::now()).unwrap()
    }
}

/// Makes a film of so many seconds, H.264 and AAC in MP4; `tone` (in hertz) makes it unlike others.
pub fn film(path: &Path, seconds: u32, tone: u32) -> PathBuf {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let made = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-y", "-f", "lavfi", "-i"])
        .arg(format!("testsrc2=size=160x120:rate=25:duration={seconds}"))
        .args(["-f", "lavfi", "-i"])
        .arg(format!("sine=frequency={tone}:duration={seconds}"))
        .args([
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
            "-pix_fmt",
            "yuv420p",
        ])
        .args(["-g", "25", "-c:a", "aac", "-shortest"])
        .arg(path)
        .status()
        .expect("ffmpeg is installed");
    assert!(made.success(), "ffmpeg could not make {}", path.display());
    path.to_owned()
}
