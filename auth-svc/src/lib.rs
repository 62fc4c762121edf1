//! Authenticator: users and their sessions, kept on disk and shared by all authenticators of the
//! cluster; the tokens that every service verifies by itself; and the word, to all of them, of
//! what was revoked.

mod accounts;
mod service;
mod status;
#[cfg(test)]
mod testing;

use accounts::Accounts;
use anyhow::Context;
use iceflix_core::{
    api::{Kind, auth::Authenticator},
    config::{Common, Key, ServiceConfig, Shape, key},
    replica::Replica,
    rpc::serve,
    service::{Node, Running, Server},
    trust::{self, keys::SigningKey},
};
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

/// How often what is over is cleared away.
const CLEARING: Duration = Duration::from_secs(60);

/// The authenticator's configuration.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Config {
    /// What every service is told.
    #[serde(flatten)]
    pub common: Common,
    /// A file with the password of the first user, `admin`, who is made when there never was one.
    #[serde(default)]
    pub admin_password_file: Option<PathBuf>,
}

impl ServiceConfig for Config {
    const KIND: Kind = Kind::Auth;
    const KEYS: &'static [Key] = &[key(
        "admin_password_file",
        Shape::Text,
        "A file with the password of the first user, admin",
    )];

    fn common(&self) -> &Common {
        &self.common
    }
}

/// A running authenticator.
pub struct AuthServer {
    running: Running,
    status: Arc<Status>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl Server for AuthServer {
    type Config = Config;

    async fn bind(config: Config) -> anyhow::Result<Self> {
        let node = Node::join(Kind::Auth, &config.common).await?;
        let key_file = node.state_dir.join("signing.key");
        let key = tokio::task::spawn_blocking(move || SigningKey::load_or_create(&key_file))
            .await
            .context("loading the signing key")??;
        let database = node.state_dir.join("auth.sqlite");
        let (replica, mut changes) = Replica::open(
            &database,
            &node.bus,
            &node.topics,
            Kind::Auth,
            &node.instance,
        )
        .await?;
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
        let status = Arc::new(Status::start(&node, &key, &accounts).await?);
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
            tokio::spawn(async move {
                let mut ticks = tokio::time::interval(CLEARING);
                loop {
                    ticks.tick().await;
                    status.forget_old(Instant::now());
                    accounts.clear_expired(trust::now()).await;
                }
            })
        };
        let service = AuthService::new(&node, key, accounts, Arc::clone(&status));
        let running = node
            .serve(move |_peer, link| serve::channel(link).execute(service.clone().serve()))
            .await
            .context("announcing")?;
        Ok(Self {
            running,
            status,
            _tasks: [telling, clearing].map(AbortOnDropHandle::new),
        })
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
