//! Main: the door that clients know. It hands out live instances of the other services, each in
//! turn, and the directory of all. It keeps nothing: any number of Mains run side by side.

mod service;

use anyhow::Context;
use iceflix_core::{
    api::{
        Kind,
        main::{Main, MainRequest},
    },
    config::{Common, Key, ServiceConfig},
    rpc::serve,
    service::{Node, Running, Server},
};
use serde::Deserialize;
use service::MainService;
use std::net::SocketAddr;
use tarpc::server::Channel;

/// Main's configuration: nothing but what every service has.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Config {
    /// What every service is told.
    #[serde(flatten)]
    pub common: Common,
}

impl ServiceConfig for Config {
    const KIND: Kind = Kind::Main;
    const KEYS: &'static [Key] = &[];

    fn common(&self) -> &Common {
        &self.common
    }
}

/// A running Main.
pub struct MainServer {
    running: Running,
}

impl Server for MainServer {
    type Config = Config;

    async fn bind(config: Config) -> anyhow::Result<Self> {
        let node = Node::join(Kind::Main, &config.common).await?;
        let service = MainService::new(node.membership.clone(), node.stop.clone());
        let running = node
            .serve(
                || MainRequest::Directory { since: None },
                move |_peer, link| serve::channel(link).execute(service.clone().serve()),
            )
            .await
            .context("announcing")?;
        Ok(Self { running })
    }

    fn address(&self) -> SocketAddr {
        self.running.address
    }

    async fn shutdown(self) {
        self.running.shutdown().await;
    }
}
