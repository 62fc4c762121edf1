//! Serving: accept, answer, and on the way out answer what was asked before leaving.

use super::{
    codec::ServerCodec,
    link::{Io, Peer, Security},
};
use crate::api::InstanceId;
use futures::{Sink, Stream, StreamExt, ready};
use serde::{Deserialize, Serialize};
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tarpc::{ClientMessage, Response, server::BaseChannel};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{
    codec::{Framed, LengthDelimitedCodec},
    sync::{CancellationToken, PollSemaphore, WaitForCancellationFutureOwned},
    task::TaskTracker,
};

/// How many connections one listener holds at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 4096;

/// How many requests of one connection are handled at once; more are not read until some are
/// answered.
const MAX_IN_FLIGHT: usize = 256;

/// How long the requests in flight may take to finish once the service is stopping.
const DRAIN: Duration = Duration::from_secs(10);

/// An address could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}; choose another with `listen`, or port 0 for any")]
pub struct BindError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// A bound listener: clients that connect from now on are answered once it serves.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    address: SocketAddr,
    security: Security,
}

/// Messages over frames over a connection.
type Messages<Req, Resp> = tokio_serde::Framed<
    Framed<Box<dyn Io>, LengthDelimitedCodec>,
    ClientMessage<Req>,
    Response<Resp>,
    ServerCodec,
>;

/// A connection as tarpc takes it: requests in, responses out. Ends when the service stops.
pub struct ServerLink<Req, Resp> {
    inner: Messages<Req, Resp>,
    /// The service that calls, if it is one: it may be expelled while it is connected.
    caller: Option<(InstanceId, Security)>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    stopped: bool,
    room: PollSemaphore,
    place: Option<OwnedSemaphorePermit>,
}

/// A request's place among those in flight, given back when it is done (or panics).
struct Place(Arc<Semaphore>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

/// Wraps a link into the tarpc channel on which a service's generated `serve()` is executed.
pub fn channel<Req, Resp>(
    link: ServerLink<Req, Resp>,
) -> BaseChannel<Req, Resp, ServerLink<Req, Resp>>
where
    Req: for<'a> Deserialize<'a>,
    Resp: Serialize,
{
    BaseChannel::with_defaults(link)
}

impl Listener {
    /// Listens on an address; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address is taken or not this machine's.
    pub async fn bind(address: SocketAddr, security: Security) -> Result<Self, BindError> {
        let failed = |source| BindError { address, source };
        let tcp = TcpListener::bind(address).await.map_err(failed)?;
        let address = tcp.local_addr().map_err(failed)?;
        Ok(Self {
            tcp,
            address,
            security,
        })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`, then until the requests in flight are answered (10 s at most).
    ///
    /// `handle` makes of each connection its stream of requests being handled:
    /// `|peer, link| serve::channel(link).execute(Service { peer, … }.serve())`.
    /// Each runs as a task of its own, so that one that panics takes nothing with it.
    pub async fn serve<Req, Resp, H, S, F>(self, stop: CancellationToken, handle: H)
    where
        Req: for<'a> Deserialize<'a> + Send + 'static,
        Resp: Serialize + Send + 'static,
        H: Fn(Peer, ServerLink<Req, Resp>) -> S + Clone + Send + 'static,
        S: Stream<Item = F> + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let connections = TaskTracker::new();
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let accepting = self.accept_all(&connections, &room, &stop, &handle);
        stop.run_until_cancelled(accepting).await;
        // Whoever knocks now is refused at once, and turns to another instance.
        drop(self);
        connections.close();
        if tokio::time::timeout(DRAIN, connections.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                open = connections.len(),
                "requests were not finished in time"
            );
        }
    }

    async fn accept_all<Req, Resp, H, S, F>(
        &self,
        connections: &TaskTracker,
        room: &Arc<Semaphore>,
        stop: &CancellationToken,
        handle: &H,
    ) where
        Req: for<'a> Deserialize<'a> + Send + 'static,
        Resp: Serialize + Send + 'static,
        H: Fn(Peer, ServerLink<Req, Resp>) -> S + Clone + Send + 'static,
        S: Stream<Item = F> + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        loop {
            // The semaphore is never closed.
            let Ok(place) = Arc::clone(room).acquire_owned().await else {
                return;
            };
            let tcp = match self.tcp.accept().await {
                Ok((tcp, _)) => tcp,
                Err(error) => {
                    // Out of file descriptors, or a client that left again: go on shortly.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (security, stop, handle) = (self.security.clone(), stop.clone(), handle.clone());
            let requests = connections.clone();
            connections.spawn(async move {
                let _place = place;
                if let Err(error) = connection(tcp, security, stop, handle, requests).await {
                    tracing::debug!(%error, "a connection failed before it was used");
                }
            });
        }
    }
}

async fn connection<Req, Resp, H, S, F>(
    tcp: TcpStream,
    security: Security,
    stop: CancellationToken,
    handle: H,
    requests: TaskTracker,
) -> io::Result<()>
where
    Req: for<'a> Deserialize<'a>,
    Resp: Serialize,
    H: Fn(Peer, ServerLink<Req, Resp>) -> S,
    S: Stream<Item = F>,
    F: Future<Output = ()> + Send + 'static,
{
    let (io, peer) = security.clone().accept(tcp).await?;
    let room = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
    let caller = peer.instance.clone().map(|instance| (instance, security));
    let link = ServerLink {
        caller,
        inner: tokio_serde::Framed::new(super::codec::framed(io), ServerCodec),
        stop: Box::pin(stop.cancelled_owned()),
        stopped: false,
        room: PollSemaphore::new(Arc::clone(&room)),
        place: None,
    };
    // The stream is polled until its last request is answered: it is what writes the answers.
    let mut handling = std::pin::pin!(handle(peer, link));
    while let Some(request) = handling.next().await {
        let place = Place(Arc::clone(&room));
        requests.spawn(async move {
            let _place = place;
            request.await;
        });
    }
    Ok(())
}

impl<Req, Resp> Stream for ServerLink<Req, Resp>
where
    Req: for<'a> Deserialize<'a>,
{
    type Item = io::Result<ClientMessage<Req>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if !this.stopped && this.stop.as_mut().poll(cx).is_ready() {
            this.stopped = true;
        }
        if this.stopped {
            return Poll::Ready(None);
        }
        if this.place.is_none() {
            this.place = ready!(this.room.poll_acquire(cx));
        }
        let next = ready!(Pin::new(&mut this.inner).poll_next(cx));
        if let Some((instance, security)) = &this.caller
            && security.is_expelled(instance)
        {
            this.stopped = true;
            return Poll::Ready(None);
        }
        match &next {
            None => this.stopped = true,
            Some(Ok(ClientMessage::Request(_))) => {
                if let Some(place) = this.place.take() {
                    // `Place` gives it back.
                    place.forget();
                }
            }
            Some(_) => {}
        }
        Poll::Ready(next)
    }
}

impl<Req, Resp> Sink<Response<Resp>> for ServerLink<Req, Resp>
where
    Resp: Serialize,
{
    type Error = io::Error;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_ready(cx)
    }

    fn start_send(self: Pin<&mut Self>, item: Response<Resp>) -> io::Result<()> {
        Pin::new(&mut self.get_mut().inner).start_send(item)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_close(cx)
    }
}
