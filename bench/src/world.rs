//! A small cluster to measure: one instance of each service, each a process of its own.

use crate::{
    film,
    usage::{Usage, usage},
};
use anyhow::Context as _;
use iceflix_core::{
    api::{
        Instance, Kind, MediaId, PageRequest, SessionId, StreamId,
        auth::{AuthenticatorClient, Token},
        catalog::{CatalogClient, Tile},
        streaming::{Stream, StreamingClient},
    },
    bus::{Bus, BusConfig},
    membership::Membership,
    rpc::{Caller, Cluster, Effort, Security},
    topics::Topics,
    trust::{Authority, Purpose, SessionKey, authority::CERTIFICATE_LIFETIME, password},
};
use std::{
    fs::File,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
    time::Duration,
};
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// Tells this program, started once more, which service it is to be.
pub const SERVICE: &str = "ICEFLIX_BENCH_SERVICE";

/// How long the cluster may take for anything on its way up.
pub const PATIENCE: Duration = Duration::from_secs(30);

const PASSWORD: &str = "only for benchmarks";

/// A session of the benchmark's user.
pub struct Person {
    /// The session.
    pub session: SessionId,
    /// Its private key.
    pub key: SessionKey,
    /// Its first token.
    pub token: Token,
}

/// The cluster, and a client that is logged in. Its processes end with it.
pub struct World {
    children: Vec<Child>,
    authority: Authority,
    cluster: Cluster,
    streaming: Instance,
    streaming_idle: Usage,
    session: (SessionId, SessionKey),
    /// How this process takes part itself.
    pub(crate) bus: Bus,
    /// The keys on the bus.
    pub(crate) topics: Topics,
    membership: Membership,
    meeting: String,
    dir: TempDir,
}

impl World {
    /// Starts the services, on free ports, and logs in.
    ///
    /// # Errors
    /// When one of them does not come up.
    pub async fn start(media: &Path) -> anyhow::Result<Self> {
        Self::start_with(media, &[]).await
    }

    /// The same, with these further arguments for the streaming node.
    ///
    /// # Errors
    /// When one of them does not come up.
    pub async fn start_with(media: &Path, streaming: &[&str]) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let session = SessionId::random();
        let name = format!("bench-{}", &session.to_string()[..8]);
        // The services find each other through this bus, which is on a port that is free now.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let meeting = format!("tls/127.0.0.1:{port}");
        let authority = Authority::create(&name)?;
        let bus = Bus::open(&BusConfig::new(
            &name,
            // It sees who is there, as every service does, and may announce titles.
            authority.issue(Kind::Streaming, &"bench".parse()?, CERTIFICATE_LIFETIME)?,
            vec![meeting.clone()],
            Vec::new(),
        ))
        .await?;
        let topics = Topics::new(&name);
        let membership = Membership::follow(&bus, &topics).await?;

        let password = dir.path().join("password");
        std::fs::write(&password, PASSWORD)?;
        let mut children = Vec::new();
        for kind in Kind::ALL {
            let mut service = service(kind, 1, dir.path(), &authority)?;
            service.args(["--cluster", &name, "--bus-connect", &meeting]);
            match kind {
                Kind::Auth => service.arg("--admin-password-file").arg(&password),
                Kind::Streaming => service.arg("--media").arg(media).args(streaming),
                Kind::Main | Kind::Catalog => &mut service,
            };
            let child = service.spawn();
            children.push(child.with_context(|| format!("starting the {kind} service"))?);
        }
        let everybody = |seen: &[Instance]| {
            let is_there = |kind| seen.iter().any(|instance| instance.kind == kind);
            Kind::ALL.into_iter().all(is_there)
        };
        let mut seen = membership.watch();
        let seen = tokio::time::timeout(PATIENCE, seen.wait_for(|v| everybody(&v.instances)));
        let seen = match seen.await {
            Ok(seen) => seen?.instances.clone(),
            Err(_) => anyhow::bail!("the services did not come up:\n{}", logs(dir.path())),
        };
        let of_kind = |kind| seen.iter().find(|instance| instance.kind == kind);
        let main = of_kind(Kind::Main).context("a Main")?.endpoint;
        let streaming = of_kind(Kind::Streaming).context("a streaming node")?;
        let streaming = streaming.clone();

        // From here on as any client does it.
        let cluster =
            Cluster::connect(vec![main], Security::client(authority.fingerprint())?).await?;
        let mut known = cluster.directory();
        tokio::time::timeout(PATIENCE, known.wait_for(|v| everybody(&v.instances))).await??;
        let key = SessionKey::generate()?;
        let public = key.public();
        let login = |auth: AuthenticatorClient, context| {
            let password = password::prehash("admin", PASSWORD);
            async move {
                auth.login(context, "admin".into(), password, session, public)
                    .await
            }
        };
        let caller = cluster.caller();
        caller.call_with(Effort::Write, login).await??;
        let streaming_idle = usage(streaming.pid)?;
        Ok(Self {
            children,
            authority,
            cluster,
            streaming_idle,
            streaming,
            session: (session, key),
            bus,
            topics,
            membership,
            meeting,
            dir,
        })
    }

    /// Calls the services, as a client does.
    pub fn caller(&self) -> Caller {
        self.cluster.caller().clone()
    }

    /// The cluster's name.
    pub fn name(&self) -> &str {
        self.topics.cluster()
    }

    /// An instance of a kind.
    ///
    /// # Errors
    /// When there is none any more.
    pub fn one(&self, kind: Kind) -> anyhow::Result<Instance> {
        let seen = self.membership.now();
        let one = seen.instances.iter().find(|one| one.kind == kind);
        one.cloned().with_context(|| format!("a live {kind}"))
    }

    /// Starts one more authenticator.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn add_auth(&mut self) -> anyhow::Result<Instance> {
        let mut service = service(Kind::Auth, 2, self.dir.path(), &self.authority)?;
        service.args(["--cluster", self.name(), "--bus-connect", &self.meeting]);
        self.children.push(service.spawn()?);
        let second = |one: &&Instance| one.kind == Kind::Auth && one.instance.as_str() == "auth-2";
        let mut seen = self.membership.watch();
        let seen = seen.wait_for(|view| view.instances.iter().any(|one| second(&one)));
        let seen = tokio::time::timeout(PATIENCE, seen).await??;
        seen.instances
            .iter()
            .find(second)
            .cloned()
            .context("it is there")
    }

    /// Opens a session at an authenticator.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn login_at(&self, auth: SocketAddr) -> anyhow::Result<Person> {
        let (session, key) = (SessionId::random(), SessionKey::generate()?);
        let public = key.public();
        let ask = |auth: AuthenticatorClient, context| {
            let password = password::prehash("admin", PASSWORD);
            async move {
                auth.login(context, "admin".into(), password, session, public)
                    .await
            }
        };
        let login = self.caller().call_at(auth, PATIENCE, ask).await??;
        Ok(Person {
            session,
            key,
            token: login.token,
        })
    }

    /// The process id of the streaming node.
    pub fn streaming_pid(&self) -> u32 {
        self.streaming.pid
    }

    /// What the streaming node used before anything was played.
    pub fn streaming_idle(&self) -> Usage {
        self.streaming_idle
    }

    /// A token that has all its 30 seconds before it.
    ///
    /// # Errors
    /// When the authenticator gives none.
    pub async fn token(&self) -> anyhow::Result<Token> {
        let (session, key) = &self.session;
        let now = iceflix_core::trust::now();
        let proof = key.prove(*session, self.topics.cluster(), Purpose::Renew, now);
        let proof = proof.context("a date within all calendars")?;
        let ask = |auth: AuthenticatorClient, context| {
            let proof = proof.clone();
            async move { auth.refresh_authorization(context, proof).await }
        };
        Ok(self.caller().call(ask).await??)
    }

    /// The films of exactly this name.
    ///
    /// # Errors
    /// When the catalogue does not answer.
    pub async fn named(&self, name: &str) -> anyhow::Result<Vec<Tile>> {
        let ask = |catalog: CatalogClient, context| {
            let (name, page) = (name.to_owned(), PageRequest::first());
            async move { catalog.tiles_by_name(context, None, name, true, page).await }
        };
        Ok(self.caller().call(ask).await??.items)
    }

    /// The film to play, once the catalogue has it.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn film(&self) -> anyhow::Result<MediaId> {
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let films = self.named(film::NAME).await?;
                if let Some(film) = films.iter().find(|film| film.available) {
                    return anyhow::Ok(film.id);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        found.await.context("the film did not appear")?
    }

    /// Authorises a stream.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn get_stream(&self, token: &Token, film: MediaId) -> anyhow::Result<Stream> {
        let ask = |node: StreamingClient, context| {
            let token = token.clone();
            async move {
                node.get_stream(context, token, StreamId::random(), film, false)
                    .await
            }
        };
        let (caller, node) = (self.caller(), self.streaming.endpoint);
        Ok(caller.call_at(node, PATIENCE, ask).await??)
    }

    /// Ends a stream.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn stop_stream(&self, token: &Token, stream: StreamId) -> anyhow::Result<()> {
        let ask = |node: StreamingClient, context| {
            let token = token.clone();
            async move { node.stop(context, token, stream).await }
        };
        let (caller, node) = (self.caller(), self.streaming.endpoint);
        Ok(caller.call_at(node, PATIENCE, ask).await??)
    }

    /// Stops everything.
    pub async fn stop(mut self) {
        for child in &mut self.children {
            // It has ended by itself when this fails.
            let _ = child.kill().await;
        }
        self.bus.close().await;
    }
}

/// This program, about to be a service.
pub(crate) fn service(
    kind: Kind,
    number: u32,
    dir: &Path,
    authority: &Authority,
) -> anyhow::Result<Command> {
    let instance = format!("{kind}-{number}");
    let identity = dir.join(&instance).join("identity");
    authority.equip(&identity, kind, &instance.parse()?, CERTIFICATE_LIFETIME)?;
    let log = File::create(dir.join(format!("{instance}.log")))?;
    let mut command = Command::new(std::env::current_exe()?);
    // Nothing of what the environment says to other clusters' services.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ICEFLIX_") {
            command.env_remove(name);
        }
    }
    command
        .env(SERVICE, kind.as_str())
        .args(["--bus-scouting", "false", "--log", "warn"])
        .args(["--instance", &instance])
        .arg("--state-dir")
        .arg(dir.join(&instance))
        // The pipe closes when this process ends, however it does.
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true);
    Ok(command)
}

/// What the services said.
fn logs(dir: &Path) -> String {
    let mut text = String::new();
    for kind in Kind::ALL {
        let log = std::fs::read_to_string(dir.join(format!("{kind}-1.log")));
        text.push_str(&format!("{kind}: {}\n", log.unwrap_or_default().trim()));
    }
    text
}
