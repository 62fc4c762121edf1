//! What goes over a connection, overheard by one who has a certificate of the cluster's; and a Main
//! that says what it is told, so that clients come to where it is overheard.

use crate::identity;
use iceflix_core::{
    api::{
        Instance, Kind,
        main::{DirectoryVersion, DirectoryView, Main, MainError},
    },
    rpc::{Listener, Security, patience, serve},
    trust::Credentials,
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};
use tarpc::{context::Context, server::Channel};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// What went through, both ways.
#[derive(Debug, Default, Clone)]
pub struct Heard {
    /// From the clients to the service, connection by connection.
    pub asked: Vec<Vec<u8>>,
    /// From the service to the clients.
    pub answered: Vec<Vec<u8>>,
}

/// Stands between clients and a service, and writes down what they say.
pub struct Ear {
    /// Where clients connect.
    pub address: SocketAddr,
    heard: Arc<Mutex<Heard>>,
    _task: AbortOnDropHandle<()>,
}

impl Ear {
    /// Stands before this authenticator of a cluster, with a certificate as good as its own.
    pub async fn before(cluster: &str, service: SocketAddr) -> Self {
        let own = identity::credential(cluster, Kind::Auth, &"ear".parse().unwrap());
        let facing = Security::service(&Credentials::new(own)).unwrap();
        let beyond = identity::security(cluster);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::<Mutex<Heard>>::default();
        let writer = Arc::clone(&heard);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok((client, _)) = facing.accept(client).await else {
                    continue;
                };
                let Ok((service, _)) = beyond.connect(Kind::Auth, service).await else {
                    continue;
                };
                let number = {
                    let mut heard = writer.lock().unwrap();
                    heard.asked.push(Vec::new());
                    heard.answered.push(Vec::new());
                    heard.asked.len() - 1
                };
                let (from_client, to_client) = tokio::io::split(client);
                let (from_service, to_service) = tokio::io::split(service);
                let log = Arc::clone(&writer);
                tokio::spawn(pass_on(from_client, to_service, move |bytes| {
                    log.lock().unwrap().asked[number].extend_from_slice(bytes);
                }));
                let log = Arc::clone(&writer);
                tokio::spawn(pass_on(from_service, to_client, move |bytes| {
                    log.lock().unwrap().answered[number].extend_from_slice(bytes);
                }));
            }
        });
        Self {
            address,
            heard,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// What was said until now.
    pub fn heard(&self) -> Heard {
        self.heard.lock().unwrap().clone()
    }

    /// How many tokens the service has given out until now, on all connections.
    pub fn tokens_given(&self) -> usize {
        let heard = self.heard();
        heard.answered.iter().map(|bytes| tokens_in(bytes)).sum()
    }
}

/// How many tokens (or proofs) are in these bytes: each begins with the name of its kind.
pub fn tokens_in(bytes: &[u8]) -> usize {
    let start = b"v4.public.";
    bytes
        .windows(start.len())
        .filter(|window| window == start)
        .count()
}

async fn pass_on(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    note: impl Fn(&[u8]),
) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        note(&buffer[..length]);
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    // Whoever was to hear more may be gone already.
    let _ = to.shutdown().await;
}

/// A Main whose directory is what the test says.
pub struct Door {
    /// Where it answers.
    pub address: SocketAddr,
    stop: CancellationToken,
}

#[derive(Clone)]
struct Told(DirectoryView);

impl Door {
    /// A directory with these instances and the door itself.
    pub async fn open(cluster: &str, mut instances: Vec<Instance>) -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let door = identity::credential(cluster, Kind::Main, &"door".parse().unwrap());
        let security = Security::service(&Credentials::new(door)).unwrap();
        let listener = Listener::bind(any, security).await.unwrap();
        let address = listener.address();
        instances.push(instance(Kind::Main, "door", address));
        let told = Told(DirectoryView {
            version: DirectoryVersion {
                counter: 1,
                number: 1,
            },
            instances,
        });
        let stop = CancellationToken::new();
        tokio::spawn(listener.serve(stop.clone(), move |_, link| {
            serve::channel(link).execute(told.clone().serve())
        }));
        Self { address, stop }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// An instance, as directories list it.
pub fn instance(kind: Kind, name: &str, endpoint: SocketAddr) -> Instance {
    Instance {
        kind,
        instance: name.parse().unwrap(),
        endpoint,
        pid: std::process::id(),
        load: 0,
        draining: false,
    }
}

impl Told {
    fn first(&self, kind: Kind) -> Result<Instance, MainError> {
        let mut all = self.0.instances.iter();
        let found = all.find(|instance| instance.kind == kind);
        found.cloned().ok_or(MainError::TemporarilyUnavailable)
    }
}

impl Main for Told {
    async fn authenticator(self, _: Context) -> Result<Instance, MainError> {
        self.first(Kind::Auth)
    }

    async fn catalog(self, _: Context) -> Result<Instance, MainError> {
        self.first(Kind::Catalog)
    }

    async fn provider(self, _: Context) -> Result<Instance, MainError> {
        self.first(Kind::Streaming)
    }

    async fn directory(
        self,
        context: Context,
        since: Option<DirectoryVersion>,
    ) -> Result<DirectoryView, MainError> {
        if since == Some(self.0.version) {
            tokio::time::sleep(patience(&context)).await;
        }
        Ok(self.0)
    }
}
