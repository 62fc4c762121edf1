//! Authenticator: users and their sessions, kept on disk and shared by all authenticators of the
//! cluster; the tokens that every service verifies by itself; and the word, to all of them, of
//! what was revoked.

mod accounts;
mod attempts;
mod enrol;
mod grants;
mod guard;
mod hashing;
mod record;
mod rotation;
mod service;
mod status;
#[cfg(test)]
mod testing;

use accounts::Accounts;
use anyhow::Context;
use enrol::Enrolment;
use iceflix_core::{
    announcement::{Absence, Absences},
    api::{
        Kind,
        auth::{Authenticator, AuthenticatorRequest, Token},
    },
    config::{Common, Key, ServiceConfig, Shape, key},
    renewal::Contacts,
    replica::Replica,
    rpc::serve,
    service::{CATCH_UP, Node, Running, Server},
    span::Span,
    trust::{
        self,
        authority::CERTIFICATE_LIFETIME,
        keyring::{Keyring, Schedule},
    },
};
pub use rotation::KeyLifetime;
use serde::Deserialize;
use service::AuthService;
use status::Status;
use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tarpc::server::Channel;
use tokio_util::task::AbortOnDropHandle;

/// How long one that knew other authenticators waits for one of them when it starts: who was
/// disabled or removed meanwhile must not be let in by it. Connecting takes some 100 ms.
const PEERS: Duration = Duration::from_secs(3);

/// How often what is over is cleared away.
const CLEARING: Duration = Duration::from_secs(60);

/// Clears away what is over at this time, if it is the others' time, too: with another one this would
/// take from everybody what lasts.
async fn clear(accounts: &Accounts, absences: &Absences, now: Duration) {
    if !absences.has(&[Absence::Clock]) {
        accounts.clear_expired(now).await;
    }
}

/// The authenticator's configuration.
#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    /// What every service is told.
    #[serde(flatten)]
    pub common: Common,
    /// A file with the password of the first user, `admin`, who is made when there never was one.
    #[serde(default)]
    pub admin_password_file: Option<PathBuf>,
    /// How long a grant may last at most: a minute to 7 days.
    #[serde(default = "grant_max")]
    pub grant_max: Span,
    /// For how long a key signs tokens before the next one does.
    #[serde(default)]
    pub token_key_lifetime: KeyLifetime,
    /// How long a service's certificate is good: an hour to 30 days. It is renewed at half of it.
    #[serde(default = "certificate_lifetime")]
    pub certificate_lifetime: Span,
}

/// An evening and a night: who wants the film tomorrow asks again tomorrow.
fn grant_max() -> Span {
    Span::from_secs(12 * 3600)
}

fn certificate_lifetime() -> Span {
    Span::from_secs(CERTIFICATE_LIFETIME.as_secs())
}

impl Default for Config {
    fn default() -> Self {
        Self {
            common: Common::default(),
            admin_password_file: None,
            grant_max: grant_max(),
            token_key_lifetime: KeyLifetime::default(),
            certificate_lifetime: certificate_lifetime(),
        }
    }
}

impl ServiceConfig for Config {
    const KIND: Kind = Kind::Auth;
    const KEYS: &'static [Key] = &[
        key(
            "admin_password_file",
            Shape::Text,
            "A file with the password of the first user, admin",
        ),
        key(
            "grant_max",
            Shape::Text,
            "How long a grant may last at most: 1m to 7d",
        ),
        key(
            "token_key_lifetime",
            Shape::Text,
            "For how long a key signs tokens before the next one does: 1h to 30d",
        ),
        key(
            "certificate_lifetime",
            Shape::Text,
            "How long services' certificates are good, renewed at half of it: 1h to 30d",
        ),
    ];

    fn common(&self) -> &Common {
        &self.common
    }

    fn check(&self) -> Result<(), String> {
        grants::check_longest(self.grant_max)?;
        match self.certificate_lifetime.as_secs() {
            3600..=2_592_000 => Ok(()),
            _ => Err(format!(
                "`certificate_lifetime` is 1h to 30d, not {}",
                self.certificate_lifetime
            )),
        }
    }
}

/// A running authenticator.
pub struct AuthServer {
    running: Running,
    status: Arc<Status>,
    _tasks: [AbortOnDropHandle<()>; 4],
}

impl Server for AuthServer {
    type Config = Config;

    async fn bind(config: Config) -> anyhow::Result<Self> {
        let schedule = config.token_key_lifetime.schedule();
        Self::bind_with(config, schedule).await
    }

    fn address(&self) -> SocketAddr {
        self.running.address
    }

    async fn shutdown(self) {
        let bus = self.running.drain().await;
        drop(self.status);
        bus.close().await;
    }
}

impl AuthServer {
    /// Starts an authenticator whose keys take turns at other times than the configuration allows.
    ///
    /// # Errors
    /// When an address is taken, or the state directory cannot be used.
    pub async fn bind_with(config: Config, schedule: Schedule) -> anyhow::Result<Self> {
        let mut node = Node::join(Kind::Auth, &config.common).await?;
        let lifetime = config.certificate_lifetime.as_duration();
        node.set_certificate_lifetime(lifetime);
        let authority = node.authority().context("an authenticator's authority")?;
        let enrolment = Enrolment::open(
            authority,
            lifetime,
            node.membership.clone(),
            config.common.bus_listen.clone(),
            &node.state_dir,
        )?;
        let key_file = node.state_dir.join("signing.key");
        let keys = tokio::task::spawn_blocking(move || Keyring::open(&key_file, schedule))
            .await
            .context("loading the signing keys")??;
        let contacts = Contacts::load(&config.common.identity());
        let had_peers = contacts
            .instances
            .iter()
            .any(|known| known.kind == Kind::Auth && known.instance != node.instance);
        let database = node.state_dir.join("auth.sqlite");
        let (replica, mut changes) = Replica::open(
            &database,
            &node.bus,
            &node.topics,
            Kind::Auth,
            &node.instance,
            accounts::GROWING,
            if had_peers { PEERS } else { Duration::ZERO },
        )
        .await?;
        replica.withdraw_by(&node.absences);
        node.hears(replica.ears());
        let rows = replica.clone();
        node.catches_up_with(move || {
            let rows = rows.clone();
            async move { rows.catch_up(CATCH_UP).await }
        });
        let accounts = Accounts::new(replica);
        if let Some(file) = &config.admin_password_file {
            let password = tokio::fs::read_to_string(file)
                .await
                .with_context(|| format!("the admin's password file {}", file.display()))?;
            let password = password.trim();
            anyhow::ensure!(
                !password.is_empty(),
                "the admin's password file {} is empty; write a password into it",
                file.display()
            );
            accounts.make_first_admin(password).await?;
        }
        let status = Arc::new(Status::start(&node, &keys.announced(), &accounts).await?);
        let telling = {
            let status = Arc::clone(&status);
            tokio::spawn(async move {
                while let Some(changes) = changes.recv().await {
                    status.rows_changed(&changes);
                }
            })
        };
        let clearing = {
            let (accounts, status) = (accounts.clone(), Arc::clone(&status));
            let absences = node.absences.clone();
            tokio::spawn(async move {
                loop {
                    // Not at once: what time it is for the others is not known at the start.
                    tokio::time::sleep(CLEARING).await;
                    status.forget_old(Instant::now(), |session| accounts.is_granted(session));
                    clear(&accounts, &absences, trust::now()).await;
                }
            })
        };
        let noting = {
            let (accounts, mut there) = (accounts.clone(), node.membership.watch());
            tokio::spawn(async move {
                loop {
                    let view = Arc::clone(&there.borrow_and_update());
                    let names = view.instances.iter().map(|one| &one.instance);
                    accounts.saw_instances(names).await;
                    if there.changed().await.is_err() {
                        return;
                    }
                }
            })
        };
        let rotating = tokio::spawn(rotation::rotate(keys.clone(), Arc::clone(&status)));
        let service = AuthService::new(&node, keys, accounts, Arc::clone(&status))
            .with_enrolment(enrolment)
            .with_longest_grant(config.grant_max);
        let running = node
            .serve(
                || AuthenticatorRequest::IsAuthorized {
                    token: Token(String::new()),
                },
                move |peer, link| serve::channel(link).execute(service.facing(peer).serve()),
            )
            .await
            .context("announcing")?;
        Ok(Self {
            running,
            status,
            _tasks: [telling, clearing, rotating, noting].map(AbortOnDropHandle::new),
        })
    }
}
