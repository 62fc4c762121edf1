//! What the life of every service has in common: configuration, logs, signals, and the order in
//! which it starts and stops.

mod expelling;
mod guards;
mod process;

pub use process::run;

use crate::{
    announcement::{Absence, Absences, Announcement},
    api::{InstanceId, Kind},
    audit::{self, Audit},
    awake::Awake,
    bus::{Bus, BusConfig, BusError},
    clock,
    config::{Common, ServiceConfig},
    feed::Ears,
    files::private_dir,
    membership::Membership,
    renewal::{Renewal, RenewalError},
    rpc::{Listener, Peer, Security, ServerLink, link::SecurityError, serve::BindError},
    topics::Topics,
    trust::{
        self, Authority, Credential, Credentials, Verifier,
        authority::{CERTIFICATE_LIFETIME, CertificateError},
    },
};
use expelling::Expelling;
use futures::{FutureExt, Stream, future::BoxFuture};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use tarpc::RequestName;
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// A service could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its address is not to be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The bus is not to be had.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// Another instance uses the state directory.
    #[error(
        "the state directory {0} is in use by another instance; give each its own with `state_dir`"
    )]
    StateInUse(PathBuf),
    /// It has no certificate.
    #[error(
        "there is no certificate in {0}: `iceflix cluster init` makes a cluster's first ones, and \
         `iceflix cluster join LINE` takes an invitation to a cluster that there is"
    )]
    NoCertificate(PathBuf),
    /// Its certificate cannot be used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Its certificate is for something else.
    #[error(
        "the certificate in {dir} is for {is}, and this is {wanted}; give each its own with `identity_dir`"
    )]
    OtherCertificate {
        /// Where it is.
        dir: PathBuf,
        /// For whom.
        is: String,
        /// For whom it should be.
        wanted: String,
    },
    /// Its certificate is over, and nobody renews it.
    #[error(
        "the certificate in {dir} is over and was not renewed: {source}. Ask for an invitation \
         (`iceflix cluster invite`), remove that directory, and join anew"
    )]
    Over {
        /// Where it is.
        dir: PathBuf,
        /// Why it was not renewed.
        #[source]
        source: RenewalError,
    },
    /// Connections cannot be encrypted.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// The audit log cannot be written.
    #[error("the audit log {path} cannot be used")]
    Audit {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its state directory cannot be made.
    #[error("the state directory {path} cannot be used")]
    State {
        /// Which directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// How long it may take to hear what happened while this process stood still. A node that was taken
/// for dead is on the bus again after some seconds; after this it goes on with what it knows, as
/// one does that sees no authenticator.
pub const CATCH_UP: Duration = Duration::from_secs(10);

/// How long it takes until everybody has heard that an instance is leaving.
const SAID: Duration = Duration::from_millis(100);

/// Hears something anew.
type CatchUp = Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// A service that runs: it can be reached from the moment `bind` returns.
pub trait Server: Sized + Send {
    /// What it is told.
    type Config: ServiceConfig;

    /// Starts it.
    fn bind(config: Self::Config) -> impl Future<Output = anyhow::Result<Self>>;
    /// Where it answers.
    fn address(&self) -> SocketAddr;
    /// Stops it: takes nothing new, finishes what it has, says goodbye.
    fn shutdown(self) -> impl Future<Output = ()>;
}

/// Makes the state directory, and keeps other instances of the kind out of it. Done once, before
/// anything runs that a slow disk could hold up.
fn lock_state(kind: Kind, directory: &Path) -> Result<Flock<File>, StartError> {
    let failed = |source| StartError::State {
        path: directory.to_owned(),
        source,
    };
    // What is in it is nobody else's business: password hashes, a signing key.
    private_dir(directory).map_err(failed)?;
    let file = File::create(directory.join(format!("{kind}.lock"))).map_err(failed)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        Errno::EWOULDBLOCK => StartError::StateInUse(directory.to_owned()),
        error => failed(error.into()),
    })
}

/// The certificate of this instance, if it is one for it.
async fn own_credential(kind: Kind, config: &Common) -> Result<Credential, StartError> {
    let dir = config.identity();
    if !Credential::is_in(&dir) {
        return Err(StartError::NoCertificate(dir));
    }
    let credential = Credential::load(&dir)?;
    let name = credential.name();
    let wanted = config.instance.as_ref().unwrap_or(&name.instance);
    let describe = |kind: Kind, instance: &InstanceId, cluster: &str| {
        format!("{kind} {instance} of the cluster {cluster}")
    };
    let is = describe(name.kind, &name.instance, credential.cluster());
    let wanted = describe(kind, wanted, config.cluster.as_str());
    match is == wanted {
        true => Ok(credential),
        false => Err(StartError::OtherCertificate { dir, is, wanted }),
    }
}

/// A node of the cluster: what every service stands on.
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub instance: InstanceId,
    /// The bus.
    pub bus: Bus,
    /// The keys on the bus.
    pub topics: Topics,
    /// Who is alive.
    pub membership: Membership,
    /// Who may do what.
    pub verifier: Verifier,
    /// Its own certificate, which is renewed.
    pub credentials: Credentials,
    /// How connections are protected, here and to others.
    pub security: Security,
    /// The directory for what must survive a restart; it exists.
    pub state_dir: PathBuf,
    /// Where to write down who did what.
    pub audit: Audit,
    /// What speaks against its being found.
    pub absences: Absences,
    state_lock: Flock<File>,
    renewal: Renewal,
    expelling: AbortOnDropHandle<()>,
    catching_up: Vec<CatchUp>,
    ears: Vec<Ears>,
    /// Cancelled when the service stops: what waits on behalf of callers ends with it.
    pub stop: CancellationToken,
    listener: Listener,
}

impl Node {
    /// Takes the address to listen on, joins the bus, and hears who is alive and what was revoked.
    /// Nobody sees this node yet: [`Node::serve`] announces it.
    ///
    /// # Errors
    /// Says which of these could not be done.
    pub async fn join(kind: Kind, config: &Common) -> Result<Self, StartError> {
        let state_dir = config.state_dir.clone();
        let state_lock = lock_state(kind, &state_dir)?;
        let credential = own_credential(kind, config).await?;
        let instance = credential.name().instance.clone();
        let credentials = Credentials::new(credential);
        let security = Security::service(&credentials)?;
        let renewal = Renewal {
            dir: config.identity(),
            authority: match kind {
                Kind::Auth => Some(Authority::load(&config.identity())?),
                _ => None,
            },
            credentials: credentials.clone(),
            security: security.clone(),
            lifetime: CERTIFICATE_LIFETIME,
        };
        if credentials.now().ends() <= trust::now() {
            let good = renewal.until_good().await;
            good.map_err(|source| StartError::Over {
                dir: config.identity(),
                source,
            })?;
        }
        let listener = Listener::bind(config.listen, security.clone()).await?;
        let cluster = config.cluster.as_str();
        let bus = Bus::open(&BusConfig {
            scouting: config.bus_scouting,
            interface: match config.bus_interface.as_str() {
                // Who is found there could not reach this node by any other.
                "auto" if config.stays_on_this_machine() => "lo".to_owned(),
                interface => interface.to_owned(),
            },
            ..BusConfig::new(
                cluster,
                credentials.now(),
                config.bus_listen.clone(),
                config.bus_connect.clone(),
            )
        })
        .await?;
        let topics = Topics::new(cluster);
        let audit = Audit::open(&state_dir, kind, &instance).map_err(|source| {
            let path = state_dir.join(audit::FILE);
            StartError::Audit { path, source }
        })?;
        let membership = Membership::follow(&bus, &topics).await?;
        let itself = (kind == Kind::Auth).then(|| instance.clone());
        let verifier = Verifier::follow(&bus, &topics, itself).await?;
        let stop = CancellationToken::new();
        let expelling = Expelling {
            verifier: verifier.clone(),
            security: security.clone(),
            membership: membership.clone(),
            bus: bus.clone(),
            stop: stop.clone(),
        };
        let expelling = tokio::spawn(expelling.run(instance.clone()));
        Ok(Self {
            renewal,
            expelling: AbortOnDropHandle::new(expelling),
            catching_up: vec![{
                let (verifier, membership) = (verifier.clone(), membership.clone());
                Box::new(move || {
                    let (verifier, membership) = (verifier.clone(), membership.clone());
                    Box::pin(async move {
                        tokio::join!(verifier.catch_up(CATCH_UP), membership.catch_up());
                    })
                })
            }],
            ears: verifier.ears().into_iter().collect(),
            kind,
            instance,
            bus,
            topics,
            membership,
            verifier,
            credentials,
            security,
            state_dir,
            audit,
            absences: Absences::default(),
            state_lock,
            stop,
            listener,
        })
    }

    /// Where it answers (or will).
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// The cluster's authority, which authenticators have.
    pub fn authority(&self) -> Option<Authority> {
        self.renewal.authority.clone()
    }

    /// In an authenticator: for how long it signs its own certificate.
    pub fn set_certificate_lifetime(&mut self, lifetime: Duration) {
        self.renewal.lifetime = lifetime;
    }

    /// What else has to be heard anew when this process has stood still, before it answers again.
    pub fn catches_up_with<F>(&mut self, catch_up: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.catching_up
            .push(Box::new(move || Box::pin(catch_up())));
    }

    /// What else is heard here: should a speaker be alive and silent, the bus is joined anew.
    pub fn hears(&mut self, ears: impl IntoIterator<Item = Ears>) {
        self.ears.extend(ears);
    }

    /// Serves and announces the service. See [`Listener::serve`] for `handle`. `question` is what
    /// it asks itself, to know that it answers: anything that is quick and changes nothing.
    ///
    /// One that judges tokens is announced once it knows what was revoked: when no authenticator
    /// is there yet, that happens after this has returned. Main judges none, and clients need it
    /// to find the others, so it is announced at once. One whose clock is wrong by what others say
    /// who are there is not announced, and whoever keeps rows then answers nobody from the start.
    ///
    /// # Errors
    /// When the bus is closed.
    pub async fn serve<Req, Resp, H, S, F>(
        self,
        question: impl Fn() -> Req + Send + 'static,
        handle: H,
    ) -> Result<Running, StartError>
    where
        Req: Serialize + for<'a> Deserialize<'a> + RequestName + Send + 'static,
        Resp: Serialize + for<'a> Deserialize<'a> + Send + 'static,
        H: Fn(Peer, ServerLink<Req, Resp>) -> S + Clone + Send + Sync + 'static,
        S: Stream<Item = F> + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let address = self.listener.address();
        let absences = self.absences;
        // Before anybody is answered, and before it is counted whether this process stands still.
        let clock = clock::Watch::begin(
            self.bus.clone(),
            self.topics.clone(),
            address.ip(),
            &self.membership,
            absences.clone(),
        )
        .boxed()
        .await;
        let informing = informing(self.kind, &self.verifier, &absences);
        let hung = {
            let absences = absences.clone();
            move |hung| {
                absences.set(Absence::Hung, hung);
            }
        };
        let awake = Awake::now();
        let mut listener = self.listener.while_awake(awake.clone());
        // Who keeps rows would stamp them with the wrong time, so that they win over later ones, also
        // for a caller that knows its address. Films go on, and Main says nothing that is dated. And
        // who cannot keep them had better not say so, while there are others who can.
        if matches!(self.kind, Kind::Auth | Kind::Catalog) {
            listener = listener.unless(absences.clone(), &[Absence::Clock, Absence::Disk]);
        }
        let inside = listener.inside();
        let guards = vec![
            inside.watch::<Req, Resp>(question, hung).boxed(),
            guards::awake(awake, self.catching_up, absences.clone()).boxed(),
            guards::Hearing {
                bus: self.bus.clone(),
                topics: self.topics.clone(),
                membership: self.membership.clone(),
                verifier: self.verifier.clone(),
                credentials: self.credentials.clone(),
                own: (self.kind, self.instance.clone()),
                ears: self.ears,
            }
            .keep()
            .boxed(),
            clock.run().boxed(),
        ];
        let serving = tokio::spawn(listener.serve(self.stop.clone(), handle));
        let announcement = Announcement::guarded(
            &self.bus,
            &self.topics,
            self.kind,
            &self.instance,
            address,
            absences,
            guards,
        )
        .await?;
        let renewing = self.renewal.run(self.bus.clone(), self.membership.clone());
        let renewing = AbortOnDropHandle::new(tokio::spawn(renewing));
        Ok(Running {
            address,
            instance: self.instance,
            bus: self.bus,
            _tasks: [Some(renewing), Some(self.expelling), informing],
            _membership: self.membership,
            audit: self.audit,
            _state_lock: self.state_lock,
            announcement,
            stop: self.stop,
            serving,
        })
    }
}

/// Keeps a service from being announced until it knows what was revoked.
fn informing(
    kind: Kind,
    verifier: &Verifier,
    absences: &Absences,
) -> Option<AbortOnDropHandle<()>> {
    if kind == Kind::Main || verifier.is_ready() {
        return None;
    }
    absences.set(Absence::Uninformed, true);
    let (verifier, absences) = (verifier.clone(), absences.clone());
    let informing = tokio::spawn(async move {
        verifier.ready().await;
        absences.set(Absence::Uninformed, false);
    });
    Some(AbortOnDropHandle::new(informing))
}

/// A service that is announced and answers.
pub struct Running {
    /// Where it answers.
    pub address: SocketAddr,
    /// Its name.
    pub instance: InstanceId,
    /// The bus, which is closed last.
    pub bus: Bus,
    _tasks: [Option<AbortOnDropHandle<()>>; 3],
    /// Kept, so that whoever watches it need not.
    _membership: Membership,
    audit: Audit,
    _state_lock: Flock<File>,
    announcement: Announcement,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Running {
    /// Its own entry in everybody's directory.
    pub fn announcement(&self) -> &Announcement {
        &self.announcement
    }

    /// Stops answering: in the reverse of the start. What the service itself has started is to be
    /// stopped between this and [`Bus::close`].
    pub async fn drain(self) -> Bus {
        // Nobody sends anything new from here on …
        self.announcement.drain().await;
        // … which is heard before the goodbye, though they come by different ways …
        tokio::time::sleep(SAID).await;
        self.announcement.withdraw().await;
        // … and what was asked is still answered.
        self.stop.cancel();
        if let Err(error) = self.serving.await {
            tracing::error!(%error, "serving ended badly");
        }
        self.audit.flush().await;
        self.bus
    }

    /// Stops altogether.
    pub async fn shutdown(self) {
        self.drain().await.close().await;
    }
}
