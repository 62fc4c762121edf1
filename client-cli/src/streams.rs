//! What a client asks about streams of the whole cluster: grants, and who is watching what.

use crate::client::Client;
use crate::error::{Error, Refusal};
use crate::stream::{CALL, LiveStream};
use futures::future::join_all;
use iceflix_core::api::auth::{AuthError, AuthenticatorClient, Granted, Token};
use iceflix_core::api::catalog::TileDetails;
use iceflix_core::api::streaming::{ListedStream, StreamError, StreamingClient};
use iceflix_core::api::{Instance, Kind, MediaId, PageRequest, SessionId};
use iceflix_core::rpc::{CallError, Effort};
use iceflix_core::span::Span;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tarpc::client::RpcError;
use tarpc::context::Context;

/// How long a node may take to list its streams. One that hangs shall not hide the others' for long.
const LIST: Duration = Duration::from_secs(2);

/// A stream, and the node that serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The node.
    pub node: Instance,
    /// The stream.
    pub stream: ListedStream,
}

/// The streams of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Streams {
    /// Those of the nodes that answered, the oldest first.
    pub found: Vec<Found>,
    /// The nodes that did not.
    pub silent: Vec<String>,
}

impl Client {
    /// Grants oneself a stream of a film for so long, and has a node take the grant up. Any player
    /// may fetch it. Also says when it ends, in seconds since 1970.
    ///
    /// # Errors
    /// When the time is longer than the cluster allows, or no live node delivers the film.
    pub async fn granted_stream(
        &self,
        details: &TileDetails,
        lasting: Span,
    ) -> Result<(LiveStream, u64), Error> {
        let (id, media) = (SessionId::random(), details.tile.id);
        let granted = self.grant(id, media, lasting).await?;
        let granted_there = &granted;
        let taken_up = self.at_a_provider(details, |node, patience| async move {
            let made = self.at(&node, patience, |node: StreamingClient, ctx| {
                let grant = granted_there.grant.clone();
                async move { node.get_granted_stream(ctx, grant, media, true).await }
            });
            Ok(made.await??)
        });
        match taken_up.await {
            Ok(live) => Ok((live, granted.until)),
            Err(error) => {
                // Nothing plays by it. If this fails, it is over by itself.
                if let Err(error) = self.end_grant(id).await {
                    tracing::info!(%error, "a grant that nobody took up could not be ended");
                }
                Err(error)
            }
        }
    }

    async fn grant(&self, id: SessionId, media: MediaId, span: Span) -> Result<Granted, Error> {
        let seconds = span.as_secs();
        self.authorised(|token| {
            self.caller()
                .call_with(Effort::Write, move |auth: AuthenticatorClient, ctx| {
                    let token = token.clone();
                    async move { auth.grant(ctx, token, id, media, seconds).await }
                })
        })
        .await
    }

    /// Ends a grant. One that is over is no error.
    async fn end_grant(&self, id: SessionId) -> Result<(), Error> {
        self.authorised(|token| async move {
            let ended =
                self.caller()
                    .call_with(Effort::Write, move |auth: AuthenticatorClient, ctx| {
                        let token = token.clone();
                        async move { auth.end_grant(ctx, token, id).await }
                    });
            match ended.await? {
                Err(AuthError::UnknownGrant) => Ok(Ok(())),
                ended => Ok(ended),
            }
        })
        .await
    }

    /// The streams of all live nodes: one's own, for an admin everybody's.
    ///
    /// # Errors
    /// When there is no session, or there are nodes and none of them answers.
    pub async fn streams(&self) -> Result<Streams, Error> {
        // Once, so that not every question renews it.
        self.token().await?;
        let view = self.directory().borrow().clone();
        let nodes = view.instances.iter();
        let nodes: Vec<&Instance> = nodes.filter(|it| it.kind == Kind::Streaming).collect();
        let asked = nodes.iter().map(|node| self.streams_at(node));
        let mut streams = Streams::default();
        let mut failure = None;
        for (node, answer) in nodes.iter().zip(join_all(asked).await) {
            match answer {
                Ok(found) => streams.found.extend(found),
                Err(error) if error.is_refusal() => return Err(error),
                Err(error) => {
                    tracing::info!(node = %node.instance, %error, "its streams are not known");
                    streams.silent.push(node.instance.to_string());
                    failure = Some(error);
                }
            }
        }
        match failure {
            Some(error) if streams.silent.len() == nodes.len() => Err(error),
            _ => {
                streams
                    .found
                    .sort_by_key(|found| (found.stream.since, found.stream.handle));
                Ok(streams)
            }
        }
    }

    async fn streams_at(&self, node: &Instance) -> Result<Vec<Found>, Error> {
        let mut found = Vec::new();
        let mut request = PageRequest::first();
        loop {
            let page = self
                .ask_node(node, LIST, |node, ctx, token| {
                    let request = request.clone();
                    async move { node.streams(ctx, token, request).await }
                })
                .await?;
            found.extend(page.items.into_iter().map(|stream| Found {
                node: node.clone(),
                stream,
            }));
            match page.next {
                Some(next) => request.after = Some(next),
                None => return Ok(found),
            }
        }
    }

    /// Ends a stream of the list, and the grant it plays by: for all nodes, before any other takes
    /// it up.
    ///
    /// # Errors
    /// When its node, or every authenticator, does not answer; the other half is done all the same.
    pub async fn stop_found(&self, found: &Found) -> Result<(), Error> {
        let ended = match found.stream.grant {
            Some(grant) => self.end_grant(grant).await,
            None => Ok(()),
        };
        let handle = found.stream.handle;
        self.ask_node(&found.node, CALL, |node, ctx, token| async move {
            node.stop_listed(ctx, token, handle).await
        })
        .await?;
        ended
    }

    /// What films are called, as far as that can be found out.
    pub async fn names(&self, films: BTreeSet<MediaId>) -> BTreeMap<MediaId, String> {
        let asked = films.into_iter().map(async |film| {
            let details = self.tile(film).await.ok()?;
            Some((film, details.tile.name))
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    async fn ask_node<R, F, Fut>(
        &self,
        node: &Instance,
        deadline: Duration,
        ask: F,
    ) -> Result<R, Error>
    where
        StreamError: Refusal,
        F: Fn(StreamingClient, Context, Token) -> Fut,
        Fut: Future<Output = Result<Result<R, StreamError>, RpcError>>,
    {
        let ask = &ask;
        self.authorised(|token| async move {
            let answer: Result<Result<R, StreamError>, CallError> = self
                .at(node, deadline, |node, ctx| ask(node, ctx, token.clone()))
                .await;
            answer
        })
        .await
    }
}
