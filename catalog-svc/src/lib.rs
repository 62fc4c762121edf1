//! The catalogue: every film of the cluster, by id, name and tags.
//!
//! It hears which films streaming nodes announce, keeps what people say about them (names, tags)
//! in rows that all catalogues share, and answers from an index in memory.

pub mod config;
mod follow;
pub mod index;
pub mod rows;
pub mod service;
pub mod store;
pub mod text;
mod titles;
pub mod unseen;

pub use config::Config;

use anyhow::Context as _;
use iceflix_core::{
    api::{
        Kind,
        catalog::{Catalog as _, CatalogRequest},
    },
    feed::Hearer,
    replica::Replica,
    rpc::serve,
    service::{CATCH_UP, Node, Running, Server},
};
use service::CatalogService;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use store::Store;
use tarpc::server::Channel as _;
use tokio::sync::mpsc;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use unseen::Unseen;

/// The file of the shared rows, in the state directory.
const DATABASE: &str = "catalog.sqlite";

/// A catalogue that runs.
pub struct CatalogServer {
    running: Running,
    /// Keeps hearing of films while it lives.
    hearer: Arc<Hearer>,
    following: DropGuard,
    tasks: TaskTracker,
}

impl Server for CatalogServer {
    type Config = Config;

    async fn bind(config: Config) -> anyhow::Result<Self> {
        let mut node = Node::join(Kind::Catalog, &config.common).await?;
        let (bus, topics) = (&node.bus, &node.topics);

        // What people said first: a film's name is then known before a node announces it.
        let database = node.state_dir.join(DATABASE);
        let (replica, changed_rows) = Replica::open(
            &database,
            bus,
            topics,
            Kind::Catalog,
            &node.instance,
            &[],
            Duration::ZERO,
        )
        .await?;
        replica.withdraw_by(&node.absences);
        let store = Store::load(replica.clone())
            .await
            .context("reading the rows")?;

        // Then what the nodes have, so that the first question is answered in full.
        let (new_title, new_titles) = mpsc::unbounded_channel();
        let (hearer, mut heard) = Hearer::follow(bus, topics, topics.media(), None).await?;
        let hearer = Arc::new(hearer);
        while let Ok(heard) = heard.try_recv() {
            follow::hear(&store, heard, &new_title).await;
        }
        let unseen = {
            let verifier = node.verifier.clone();
            let expelled = move || verifier.expelled();
            Unseen::new(
                Arc::clone(store.shared_index()),
                expelled,
                node.security.clone(),
            )
        };
        let following = CancellationToken::new();
        let tasks = TaskTracker::new();
        let guard = following.clone().drop_guard();
        let (all, stop) = (|| store.clone(), || following.clone());
        let (ask_rows, rows_asked) = mpsc::channel(1);
        tasks.spawn(follow::rows(all(), changed_rows, rows_asked, stop()));
        tasks.spawn(follow::media(all(), heard, new_title, stop()));
        tasks.spawn(titles::keep(all(), new_titles));
        tasks.spawn(follow::live(
            all(),
            node.membership.clone(),
            node.address().ip(),
            unseen.clone(),
            stop(),
        ));
        tasks.close();
        follow::gathered(&node.membership).await;

        let service = CatalogService {
            store: store.clone(),
            unseen,
            verifier: node.verifier.clone(),
            audit: node.audit.clone(),
            from: node.address().ip(),
            from_elsewhere: false,
        };
        node.hears(replica.ears().into_iter().chain([hearer.ears()]));
        let (said, announced) = (replica, Arc::clone(&hearer));
        node.catches_up_with(move || {
            let (said, announced) = (said.clone(), Arc::clone(&announced));
            let ask_rows = ask_rows.clone();
            async move {
                tokio::join!(said.catch_up(CATCH_UP), announced.catch_up(CATCH_UP));
                follow::all_entered(&ask_rows).await;
            }
        });
        let running = node
            .serve(
                || CatalogRequest::IdsByPrefix {
                    prefix: "f".repeat(64),
                },
                move |peer, link| serve::channel(link).execute(service.facing(peer).serve()),
            )
            .await?;
        Ok(Self {
            running,
            hearer,
            following: guard,
            tasks,
        })
    }

    fn address(&self) -> SocketAddr {
        self.running.address
    }

    async fn shutdown(self) {
        // The calls in flight may still want to know and to write …
        let bus = self.running.drain().await;
        // … then nothing has to be heard any more …
        drop(self.hearer);
        drop(self.following);
        self.tasks.wait().await;
        // … and the bus is last.
        bus.close().await;
    }
}
