//! What the tests of grants share.

use iceflix_core::{
    api::{
        MediaId, PageRequest, SessionId, StreamHandle,
        auth::{AuthError, AuthenticatorClient, Grant, Granted, Role, Token},
        streaming::{ListedStream, Stream, StreamError, StreamEvent, StreamingClient},
    },
    service::Server,
    trust::{
        Identity,
        grant::{self, Leave},
    },
};
use iceflix_tests::{
    cluster::{Cluster, Person, film},
    players::rtsp::Client,
    tokens::signing_key,
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};
use tempfile::TempDir;

/// Within which a stream is to stop once its grant is gone: the grace, and a second.
pub const ASKED: Duration = Duration::from_secs(6);
pub const PASSWORD: &str = "a password of hers";
pub const HOUR: u64 = 3600;
pub const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// A cluster with two films that are long enough, and a user.
pub struct Scene {
    pub cluster: Cluster,
    _media: TempDir,
    pub films: Vec<MediaId>,
    pub ada: Person,
}

impl Scene {
    pub async fn new() -> Self {
        let media = tempfile::tempdir().unwrap();
        let (first, second) = (
            media.path().join("long.mp4"),
            media.path().join("other.mp4"),
        );
        tokio::task::spawn_blocking(move || {
            film(&first, 60, 440);
            film(&second, 60, 880);
        })
        .await
        .unwrap();
        let cluster = Cluster::start(1, 1, 1, &[media.path()]).await;
        let films = cluster.until_films(2).await;
        let ada = cluster.new_user("ada", PASSWORD, Role::User).await;
        Self {
            films: films.iter().map(|film| film.id).collect(),
            cluster,
            _media: media,
            ada,
        }
    }

    pub fn auth(&self) -> SocketAddr {
        self.cluster.auths[0].address()
    }

    pub fn node(&self) -> SocketAddr {
        self.cluster.nodes[0].address()
    }

    pub async fn token(&self, who: &Person) -> Token {
        self.cluster.renew_at(self.auth(), who).await.unwrap()
    }

    pub async fn grant(&self, id: SessionId, seconds: u64) -> Result<Granted, AuthError> {
        let (token, media) = (self.token(&self.ada).await, self.films[0]);
        let ask = |auth: AuthenticatorClient, context| {
            let token = token.clone();
            async move { auth.grant(context, token, id, media, seconds).await }
        };
        self.cluster.at(self.auth(), ask).await
    }

    pub async fn take_up(&self, grant: &Grant, media: MediaId) -> Result<Stream, StreamError> {
        let ask = |node: StreamingClient, context| {
            let grant = grant.clone();
            async move { node.get_granted_stream(context, grant, media, true).await }
        };
        self.cluster.at(self.node(), ask).await
    }

    /// A stream that plays by a grant for so long.
    pub async fn granted(&self, seconds: u64) -> Stream {
        let granted = self.grant(SessionId::random(), seconds).await.unwrap();
        self.take_up(&granted.grant, self.films[0]).await.unwrap()
    }

    pub async fn next_event(&self, stream: &Stream) -> Result<StreamEvent, StreamError> {
        let stream = stream.stream;
        let ask =
            |node: StreamingClient, context| async move { node.next_event(context, stream).await };
        self.cluster.at(self.node(), ask).await
    }

    pub async fn listed(&self, token: &Token) -> Vec<ListedStream> {
        let ask = |node: StreamingClient, context| {
            let token = token.clone();
            async move { node.streams(context, token, PageRequest::first()).await }
        };
        self.cluster.at(self.node(), ask).await.unwrap().items
    }

    pub async fn stop_listed(
        &self,
        token: &Token,
        handle: StreamHandle,
    ) -> Result<(), StreamError> {
        let ask = |node: StreamingClient, context| {
            let token = token.clone();
            async move { node.stop_listed(context, token, handle).await }
        };
        self.cluster.at(self.node(), ask).await
    }

    /// What an authenticator of this cluster would sign, whatever it is.
    pub fn sign(&self, media: MediaId, until: Duration, at: Duration) -> Grant {
        let identity = Identity {
            user: "ada".into(),
            session: SessionId::random(),
            role: Role::User,
            epoch: 0,
            expires: until,
        };
        let leave = Leave { identity, media };
        grant::issue(&signing_key(&self.cluster), self.cluster.name(), &leave, at).unwrap()
    }
}

/// A player that has got some packets.
pub async fn play(stream: &Stream) -> Client {
    let mut player = Client::connect_from(&stream.url, ELSEWHERE).await.unwrap();
    player.play_interleaved().await.unwrap();
    player.read_packets(20).await.unwrap();
    player
}
