//! Serving: accept, answer, and on the way out answer what was asked before leaving.

use super::{
    codec::ServerCodec,
    door::{Door, Pass},
    frames::{Frames, STEP},
    inside::{Arriving, Inside},
    link::{Io, Peer, Security},
};
use crate::{
    announcement::{Absence, Absences},
    api::InstanceId,
    awake::Awake,
    limits::raise_nofile_limit,
};
use futures::{Sink, Stream, StreamExt, ready};
use serde::{Deserialize, Serialize};
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tarpc::{ClientMessage, Response, server::BaseChannel};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{
    bytes::BytesMut,
    codec::Framed,
    sync::{CancellationToken, PollSemaphore, WaitForCancellationFutureOwned},
    task::TaskTracker,
};

/// How many requests of one connection are handled at once; more are not read until some are
/// answered.
const MAX_IN_FLIGHT: usize = 256;

/// How long the requests in flight may take to finish once the service is stopping.
const DRAIN: Duration = Duration::from_secs(10);

/// How many connections may wait to be accepted, if the system lets them: it drops those beyond,
/// whose senders then try again only after a second.
const BACKLOG: u32 = 4096;

/// How long accepting pauses when the system has no room for another connection.
const NO_ROOM: Duration = Duration::from_millis(100);

/// How often, at most, it is logged that connections cannot be accepted.
const TELL: Duration = Duration::from_secs(10);

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
    inside: Inside,
    arriving: Arriving,
    awake: Option<Awake>,
    absent: Option<Absent>,
}

/// When whoever comes from outside is not answered: while any of these speaks against the service.
#[derive(Debug, Clone)]
struct Absent {
    absences: Absences,
    those: &'static [Absence],
}

impl Absent {
    fn is(&self) -> bool {
        self.absences.has(self.those)
    }
}

/// Messages over frames over a connection.
type Messages<Req, Resp> = tokio_serde::Framed<
    Framed<Box<dyn Io>, Frames>,
    ClientMessage<Req>,
    Response<Resp>,
    ServerCodec,
>;

/// A connection as tarpc takes it: requests in, responses out. Ends when the service stops.
pub struct ServerLink<Req, Resp> {
    inner: Messages<Req, Resp>,
    /// The service that calls, if it is one: it may be expelled while it is connected.
    caller: Option<(InstanceId, Security)>,
    awake: Option<Awake>,
    absent: Option<Absent>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    stopped: bool,
    room: PollSemaphore,
    place: Option<OwnedSemaphorePermit>,
    pass: Arc<Pass>,
    /// Whether a request is on its way, and a long one: what the door was told.
    frame: Option<bool>,
    /// How many bytes of answers there have been.
    answered: u64,
    /// How many of these were taken when it was last waited for; `None` when all were.
    taken: Option<u64>,
}

/// A request's place among those in flight, given back when it is done (or panics).
struct Place {
    room: Arc<Semaphore>,
    pass: Arc<Pass>,
}

impl Place {
    fn take(room: &Arc<Semaphore>, pass: &Arc<Pass>) -> Self {
        pass.begin();
        Self {
            room: Arc::clone(room),
            pass: Arc::clone(pass),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.add_permits(1);
        self.pass.done();
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

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // So that a service that was just stopped can start again at its address.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

impl Listener {
    /// Listens on an address; port 0 takes a free one. Raises the process's limit of open files,
    /// each connection being one.
    ///
    /// # Errors
    /// When the address is taken or not this machine's.
    pub async fn bind(address: SocketAddr, security: Security) -> Result<Self, BindError> {
        let failed = |source| BindError { address, source };
        if let Err(error) = raise_nofile_limit() {
            tracing::warn!(%error, "the limit of open files could not be raised");
        }
        let tcp = listen(address).map_err(failed)?;
        let address = tcp.local_addr().map_err(failed)?;
        let (inside, arriving) = Inside::new();
        Ok(Self {
            tcp,
            address,
            security,
            inside,
            arriving,
            awake: None,
            absent: None,
        })
    }

    /// Answers nothing while the service has to catch up after a standstill. Without this it never
    /// has to.
    #[must_use]
    pub fn while_awake(self, awake: Awake) -> Self {
        Self {
            awake: Some(awake),
            ..self
        }
    }

    /// Answers nobody from outside while any of these speaks against the service: connections are
    /// closed when they ask for something, or are to be answered, so that whoever asks turns to
    /// another instance.
    #[must_use]
    pub fn unless(self, absences: Absences, those: &'static [Absence]) -> Self {
        Self {
            absent: Some(Absent { absences, those }),
            ..self
        }
    }

    /// The service's way to itself.
    pub fn inside(&self) -> Inside {
        self.inside.clone()
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
    pub async fn serve<Req, Resp, H, S, F>(mut self, stop: CancellationToken, handle: H)
    where
        Req: for<'a> Deserialize<'a> + Send + 'static,
        Resp: Serialize + Send + 'static,
        H: Fn(Peer, ServerLink<Req, Resp>) -> S + Clone + Send + 'static,
        S: Stream<Item = F> + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let connections = TaskTracker::new();
        let door = Door::for_this_process();
        let accepting = async {
            tokio::select! {
                () = self.accept_all(&connections, &door, &stop, &handle) => {}
                () = door.look_after() => {}
            }
        };
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
        &mut self,
        connections: &TaskTracker,
        door: &Door,
        stop: &CancellationToken,
        handle: &H,
    ) where
        Req: for<'a> Deserialize<'a> + Send + 'static,
        Resp: Serialize + Send + 'static,
        H: Fn(Peer, ServerLink<Req, Resp>) -> S + Clone + Send + 'static,
        S: Stream<Item = F> + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let mut told: Option<Instant> = None;
        // Nobody else comes in there, and nobody who is there has to go.
        let own_door = Door::for_this_process();
        loop {
            door.room().await;
            let accepted = tokio::select! {
                accepted = self.tcp.accept() => accepted,
                Some(pipe) = self.arriving.recv() => {
                    let peer = Peer {
                        address: self.address,
                        local: self.address,
                        role: None,
                        instance: None,
                    };
                    let serving = Serving {
                        caller: None,
                        awake: self.awake.clone(),
                        // It asks itself whether it would answer.
                        absent: None,
                        stop: stop.clone(),
                        requests: connections.clone(),
                        pass: Arc::new(own_door.enter(self.address.ip())),
                    };
                    connections.spawn(serving.run(Box::new(pipe), peer, handle.clone()));
                    continue;
                }
            };
            let (tcp, address) = match accepted {
                Ok(accepted) => accepted,
                // It left again before it was its turn.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    // Most likely there are no file descriptors left.
                    if told.is_none_or(|told| told.elapsed() >= TELL) {
                        tracing::warn!(%error, "connections cannot be accepted; closing some");
                        told = Some(Instant::now());
                    }
                    door.shed();
                    tokio::time::sleep(NO_ROOM).await;
                    continue;
                }
            };
            let pass = Arc::new(door.enter(address.ip()));
            let (security, stop, handle) = (self.security.clone(), stop.clone(), handle.clone());
            let (requests, awake) = (connections.clone(), self.awake.clone());
            let absent = self.absent.clone();
            connections.spawn(async move {
                let closed = pass.closed();
                let serving = async {
                    // One that has asked nothing yet is not waited for at the end.
                    let opened = stop.run_until_cancelled(security.accept(tcp)).await;
                    let Some(opened) = opened else { return Ok(()) };
                    let (io, peer) = opened?;
                    let service = peer.instance.clone();
                    let serving = Serving {
                        caller: service.map(|instance| (instance, security.clone())),
                        awake,
                        absent,
                        stop,
                        requests,
                        pass,
                    };
                    serving.run(io, peer, handle).await;
                    Ok::<(), io::Error>(())
                };
                tokio::select! {
                    // What it has asked is given up: nobody is there to hear the answers, or
                    // nobody is to.
                    () = closed => {}
                    served = serving => if let Err(error) = served {
                        tracing::debug!(%error, "a connection failed before it was used");
                    }
                }
            });
        }
    }
}

/// What one connection is served with.
struct Serving {
    caller: Option<(InstanceId, Security)>,
    awake: Option<Awake>,
    absent: Option<Absent>,
    stop: CancellationToken,
    requests: TaskTracker,
    pass: Arc<Pass>,
}

impl Serving {
    async fn run<Req, Resp, H, S, F>(self, io: Box<dyn Io>, peer: Peer, handle: H)
    where
        Req: for<'a> Deserialize<'a>,
        Resp: Serialize,
        H: Fn(Peer, ServerLink<Req, Resp>) -> S,
        S: Stream<Item = F>,
        F: Future<Output = ()> + Send + 'static,
    {
        let room = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
        let link = ServerLink {
            caller: self.caller,
            awake: self.awake,
            absent: self.absent,
            inner: tokio_serde::Framed::new(super::codec::framed_from_anybody(io), ServerCodec),
            stop: Box::pin(self.stop.cancelled_owned()),
            stopped: false,
            room: PollSemaphore::new(Arc::clone(&room)),
            place: None,
            pass: Arc::clone(&self.pass),
            frame: None,
            answered: 0,
            taken: None,
        };
        // The stream is polled until its last request is answered: it is what writes the answers.
        let mut handling = std::pin::pin!(handle(peer, link));
        while let Some(request) = handling.next().await {
            let place = Place::take(&room, &self.pass);
            self.requests.spawn(async move {
                let _place = place;
                request.await;
            });
        }
    }
}

impl<Req, Resp> ServerLink<Req, Resp> {
    /// Tells the door whether a request has begun that is not complete.
    fn tell_of_frame(&mut self) {
        let frames = self.inner.get_ref();
        let unread = frames.read_buffer();
        let begun = frames.codec().begun(unread);
        let frame = begun.then_some(unread.len() > STEP);
        if frame != self.frame {
            self.frame = frame;
            self.pass.frame(frame);
        }
    }

    /// Tells the door whether answers are being taken.
    fn tell_of_writing(&mut self, written: &Poll<io::Result<()>>) {
        let waiting = self.inner.get_ref().write_buffer().len() as u64;
        let taken = written
            .is_pending()
            .then(|| self.answered.saturating_sub(waiting));
        if taken != self.taken {
            self.taken = taken;
            self.pass.stuck(taken.is_some());
        }
        if taken.is_none() {
            // A long answer's buffer is not kept.
            let buffer = self.inner.get_mut().write_buffer_mut();
            if buffer.is_empty() && buffer.capacity() > STEP {
                *buffer = BytesMut::new();
            }
        }
    }
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
        let next = Pin::new(&mut this.inner).poll_next(cx);
        this.tell_of_frame();
        let next = ready!(next);
        let expelled = this.caller.as_ref();
        if expelled.is_some_and(|(instance, security)| security.is_expelled(instance))
            // Who asked while this process stood still has long turned to another instance.
            || this.awake.as_ref().is_some_and(|awake| !awake.is())
            || this.absent.as_ref().is_some_and(Absent::is)
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
        let this = self.get_mut();
        if this.absent.as_ref().is_some_and(Absent::is) {
            let why = "this instance answers nobody just now";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, why)));
        }
        let ready = Pin::new(&mut this.inner).poll_ready(cx);
        // It is also ready when only most of the answers were taken.
        if ready.is_pending() {
            this.tell_of_writing(&ready);
        }
        ready
    }

    fn start_send(self: Pin<&mut Self>, item: Response<Resp>) -> io::Result<()> {
        let this = self.get_mut();
        let before = this.inner.get_ref().write_buffer().len();
        let sent = Pin::new(&mut this.inner).start_send(item);
        let after = this.inner.get_ref().write_buffer().len();
        this.answered += after.saturating_sub(before) as u64;
        sent
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.inner).poll_flush(cx);
        this.tell_of_writing(&flushed);
        flushed
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_close(cx)
    }
}

#[cfg(test)]
mod tests;
