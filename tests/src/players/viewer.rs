//! A user who authorises streams, as the client program does it.

use crate::cluster::{Cluster, Person};
use iceflix_core::{
    api::{
        MediaId, StreamId,
        auth::Token,
        catalog::{CatalogClient, CatalogError, TileDetails},
        streaming::{Stream, StreamError, StreamEvent, StreamStatus, StreamingClient},
    },
    service::Server,
};
use std::net::SocketAddr;

/// A user of a cluster who is logged in.
pub struct Viewer<'a> {
    cluster: &'a Cluster,
    person: Person,
}

/// An authorised stream, and the node that serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// Where the node answers calls.
    pub node: SocketAddr,
    /// What it gave.
    pub stream: Stream,
}

impl Watched {
    /// The stream's URL.
    pub fn url(&self) -> &str {
        &self.stream.url
    }
}

impl<'a> Viewer<'a> {
    /// This user, in this cluster.
    pub fn new(cluster: &'a Cluster, person: Person) -> Self {
        Self { cluster, person }
    }

    /// The administrator, in this cluster.
    pub async fn admin(cluster: &'a Cluster) -> Self {
        Self::new(cluster, cluster.admin().await)
    }

    /// Who it is.
    pub fn person(&self) -> &Person {
        &self.person
    }

    /// A fresh token.
    pub async fn token(&self) -> Token {
        let auth = self.cluster.auths[0].address();
        self.cluster.renew_at(auth, &self.person).await.unwrap()
    }

    /// A film, as the first catalogue has it.
    pub async fn tile(&self, id: MediaId) -> Result<TileDetails, CatalogError> {
        let token = self.token().await;
        let catalog = self.cluster.catalogs[0].address();
        let ask = |catalog: CatalogClient, context| {
            let token = token.clone();
            async move { catalog.tile(context, token, id).await }
        };
        self.cluster.at(catalog, ask).await
    }

    /// Finds a film in the catalogue, and authorises a stream at the first node that has it.
    pub async fn watch(&self, id: MediaId) -> Result<Watched, StreamError> {
        let details = self.tile(id).await.unwrap();
        let provider = details.providers.first().expect("a live node");
        let token = self.token().await;
        self.watch_at(provider.endpoint, token, id).await
    }

    /// The same, for players at any address.
    pub async fn watch_anywhere(&self, id: MediaId) -> Result<Watched, StreamError> {
        let details = self.tile(id).await.unwrap();
        let provider = details.providers.first().expect("a live node");
        let token = self.token().await;
        self.stream_at(provider.endpoint, token, StreamId::random(), id, true)
            .await
    }

    /// Authorises a stream at a node, with this token.
    pub async fn watch_at(
        &self,
        node: SocketAddr,
        token: Token,
        id: MediaId,
    ) -> Result<Watched, StreamError> {
        self.stream_at(node, token, StreamId::random(), id, false)
            .await
    }

    /// Authorises a stream of this id at a node, with this token, for players here or anywhere.
    pub async fn stream_at(
        &self,
        node: SocketAddr,
        token: Token,
        stream: StreamId,
        id: MediaId,
        any_host: bool,
    ) -> Result<Watched, StreamError> {
        let ask = |node: StreamingClient, context| {
            let token = token.clone();
            async move { node.get_stream(context, token, stream, id, any_host).await }
        };
        let stream = self.cluster.at(node, ask).await?;
        Ok(Watched { node, stream })
    }

    /// Goes on with a stream.
    pub async fn renew(&self, watched: &Watched) -> Result<(), StreamError> {
        let (token, stream) = (self.token().await, watched.stream.stream);
        let ask = |node: StreamingClient, context| {
            let token = token.clone();
            async move { node.refresh_authentication(context, token, stream).await }
        };
        self.cluster.at(watched.node, ask).await
    }

    /// Ends a stream.
    pub async fn stop(&self, watched: &Watched) -> Result<(), StreamError> {
        let (token, stream) = (self.token().await, watched.stream.stream);
        let ask = |node: StreamingClient, context| {
            let token = token.clone();
            async move { node.stop(context, token, stream).await }
        };
        self.cluster.at(watched.node, ask).await
    }

    /// How a stream is.
    pub async fn status(&self, watched: &Watched) -> Result<StreamStatus, StreamError> {
        let (token, stream) = (self.token().await, watched.stream.stream);
        let ask = |node: StreamingClient, context| {
            let token = token.clone();
            async move { node.status(context, token, stream).await }
        };
        self.cluster.at(watched.node, ask).await
    }

    /// A stream's session description.
    pub async fn sdp(&self, watched: &Watched) -> Result<String, StreamError> {
        let (token, stream) = (self.token().await, watched.stream.stream);
        let ask = |node: StreamingClient, context| {
            let token = token.clone();
            async move { node.sdp(context, token, stream).await }
        };
        self.cluster.at(watched.node, ask).await
    }

    /// The next thing that happens to a stream.
    pub async fn next_event(&self, watched: &Watched) -> Result<StreamEvent, StreamError> {
        let stream = watched.stream.stream;
        let ask =
            |node: StreamingClient, context| async move { node.next_event(context, stream).await };
        self.cluster.at(watched.node, ask).await
    }
}
