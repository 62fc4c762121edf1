//! Calling: live instances in turn, and another one when a call fails.

use super::{
    codec::{self, ClientCodec},
    health::Health,
    link::{Io, Security},
};
use crate::api::{
    Instance, InstanceId, Kind, auth::AuthenticatorClient, catalog::CatalogClient,
    main::DirectoryVersion, main::DirectoryView, main::MainClient, streaming::StreamingClient,
};
use dashmap::DashMap;
use rand::Rng;
use std::{
    any::Any,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tarpc::{client::RpcError, context};
use tokio::sync::{OnceCell, watch};

/// How long a caller waits for an instance of a kind to appear when there is none: about as long
/// as a killed one takes to be restarted.
pub(super) const WAIT_FOR_ONE: Duration = Duration::from_secs(2);

/// How many attempts a call gets in all.
pub(crate) const ATTEMPTS: u32 = 5;

/// A client stub that tarpc generated, and how to make it of a connection.
pub trait Stub: Clone + Send + Sync + 'static {
    /// The kind of service it calls.
    const KIND: Kind;
    /// Speaks over an open connection.
    #[doc(hidden)]
    fn over(link: Link) -> Self;
}

/// An open connection, before it carries requests.
pub struct Link(Box<dyn Io>);

macro_rules! stub {
    ($($client:ident $kind:ident;)*) => {$(
        impl Stub for $client {
            const KIND: Kind = Kind::$kind;

            fn over(link: Link) -> Self {
                let transport = tarpc::serde_transport::new(codec::framed(link.0), ClientCodec);
                $client::new(tarpc::client::Config::default(), transport).spawn()
            }
        }
    )*};
}
stub! {
    MainClient Main;
    AuthenticatorClient Auth;
    CatalogClient Catalog;
    StreamingClient Streaming;
}

/// How long one attempt may take before the next instance is asked. Each further attempt of a
/// call gets twice the time, so that a busy machine is not taken for a dead one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Reads: 500 ms.
    Read,
    /// Logins and writes, which hash and go to disk: 2 s.
    Write,
}

impl Effort {
    pub(crate) fn first(self) -> Duration {
        match self {
            Effort::Read => Duration::from_millis(500),
            Effort::Write => Duration::from_secs(2),
        }
    }
}

/// A call that got no answer from anybody.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No instance of that kind is alive.
    #[error("no {0} service is alive just now")]
    NoneAlive(Kind),
    /// Every attempt failed; the last one so.
    #[error("the {kind} service at {endpoint} could not be reached: {source}")]
    Unreachable {
        /// What was called.
        kind: Kind,
        /// Where the last attempt went.
        endpoint: SocketAddr,
        /// What went wrong there.
        #[source]
        source: AttemptError,
    },
    /// No Main answered at any of these addresses.
    #[error("no Main answered at {}", list(.0))]
    NoMain(Vec<SocketAddr>),
}

fn list(addresses: &[SocketAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    texts.join(", ")
}

/// What went wrong in one attempt.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// The connection could not be opened.
    #[error("{0}")]
    Connect(#[source] io::Error),
    /// The connection broke, or no answer came in time.
    #[error("{0}")]
    Call(#[source] RpcError),
}

/// Calls the services of a directory. Cheap to clone.
#[derive(Clone)]
pub struct Caller {
    inner: Arc<Inner>,
}

struct Inner {
    directory: watch::Receiver<Arc<DirectoryView>>,
    security: Security,
    /// Open connections, by what they speak and where to. Each cell holds a stub.
    links: DashMap<(Kind, SocketAddr), Arc<dyn Any + Send + Sync>>,
    health: Mutex<Health>,
    /// Which state of the directory was last looked at.
    seen: Mutex<Option<DirectoryVersion>>,
}

/// An open connection, and whose certificate is at its other end.
struct Open<S> {
    stub: S,
    instance: Option<InstanceId>,
}

impl Caller {
    /// Calls what is in this directory.
    pub fn new(directory: watch::Receiver<Arc<DirectoryView>>, security: Security) -> Self {
        Self {
            inner: Arc::new(Inner {
                directory,
                security,
                links: DashMap::new(),
                health: Mutex::default(),
                seen: Mutex::default(),
            }),
        }
    }

    /// Calls by address only: its directory is empty.
    pub fn by_address(security: Security) -> Self {
        let (_, nobody) = watch::channel(Arc::new(DirectoryView::empty()));
        Self::new(nobody, security)
    }

    /// Asks something that is quick to answer. See [`Caller::call_with`].
    ///
    /// # Errors
    /// When nobody is alive or every attempt failed.
    pub async fn call<S, R, F, Fut>(&self, ask: F) -> Result<R, CallError>
    where
        S: Stub,
        F: Fn(S, context::Context) -> Fut,
        Fut: Future<Output = Result<R, RpcError>>,
    {
        self.call_with(Effort::Read, ask).await
    }

    /// Asks a live instance of the stub's kind, each in its turn; when it fails or is too slow,
    /// the next one, with growing pauses, five times in all. The question may so be asked more than
    /// once.
    ///
    /// # Errors
    /// When nobody is alive or every attempt failed.
    pub async fn call_with<S, R, F, Fut>(&self, effort: Effort, ask: F) -> Result<R, CallError>
    where
        S: Stub,
        F: Fn(S, context::Context) -> Fut,
        Fut: Future<Output = Result<R, RpcError>>,
    {
        let mut last = None;
        let mut tried = Vec::new();
        for attempt in 0..ATTEMPTS {
            if let Some(pause) = pause(attempt) {
                tokio::time::sleep(pause).await;
            }
            let Some(instance) = self.pick(S::KIND, &tried).await else {
                return Err(last.unwrap_or(CallError::NoneAlive(S::KIND)));
            };
            let deadline = effort.first() * 2u32.pow(attempt.min(3));
            match self.attempt(instance.endpoint, deadline, &ask).await {
                Ok(answer) => return Ok(answer),
                Err(source) => {
                    tracing::debug!(kind = %S::KIND, endpoint = %instance.endpoint, %source, "trying another");
                    tried.push(instance.endpoint);
                    last = Some(CallError::Unreachable {
                        kind: S::KIND,
                        endpoint: instance.endpoint,
                        source,
                    });
                }
            }
        }
        Err(last.unwrap_or(CallError::NoneAlive(S::KIND)))
    }

    /// Asks the instance at one address, once. A connection that turns out to be a dead one left
    /// over from before is opened anew.
    ///
    /// # Errors
    /// When it cannot be reached or does not answer within `deadline`.
    pub async fn call_at<S, R, F, Fut>(
        &self,
        endpoint: SocketAddr,
        deadline: Duration,
        ask: F,
    ) -> Result<R, CallError>
    where
        S: Stub,
        F: Fn(S, context::Context) -> Fut,
        Fut: Future<Output = Result<R, RpcError>>,
    {
        self.attempt(endpoint, deadline, &ask)
            .await
            .map_err(|source| CallError::Unreachable {
                kind: S::KIND,
                endpoint,
                source,
            })
    }

    async fn pick(&self, kind: Kind, tried: &[SocketAddr]) -> Option<Instance> {
        let mut directory = self.inner.directory.clone();
        let alive =
            directory.wait_for(|view| view.instances.iter().any(|instance| instance.kind == kind));
        let view = tokio::time::timeout(WAIT_FOR_ONE, alive).await;
        let view = Arc::clone(&*view.ok()?.ok()?);
        self.follow(&view);
        let mut health = self.health();
        health.pick(kind, &view.instances, tried, Instant::now())
    }

    /// Lets go of what belongs to instances that have left.
    fn follow(&self, view: &DirectoryView) {
        let before = lock(&self.inner.seen).replace(view.version);
        if before == Some(view.version) {
            return;
        }
        self.health().forget_all_but(view);
        // Calls in flight hold their connection themselves.
        let is_there = |at| view.instances.iter().any(|it| it.endpoint == at);
        self.inner.links.retain(|(_, at), _| is_there(*at));
    }

    async fn attempt<S, R, F, Fut>(
        &self,
        endpoint: SocketAddr,
        time: Duration,
        ask: &F,
    ) -> Result<R, AttemptError>
    where
        S: Stub,
        F: Fn(S, context::Context) -> Fut,
        Fut: Future<Output = Result<R, RpcError>>,
    {
        let deadline = Instant::now() + time;
        loop {
            let cell = self.cell::<S>(endpoint)?;
            let opening = tokio::time::timeout_at(deadline.into(), self.stub(&cell, endpoint));
            let opened = opening.await.unwrap_or_else(|late| Err(late.into()));
            let (stub, fresh) = match opened {
                Ok(found) => found,
                Err(error) => {
                    self.drop_link(endpoint, &cell);
                    self.health().failed(endpoint, Instant::now());
                    return Err(AttemptError::Connect(error));
                }
            };
            let mut context = context::current();
            context.deadline = deadline;
            // tarpc watches the deadline from when a request is sent; so many may be waiting to be
            // that this one is not in time.
            let asked = tokio::time::timeout_at(deadline.into(), ask(stub, context)).await;
            match asked.unwrap_or(Err(RpcError::DeadlineExceeded)) {
                Ok(answer) => {
                    self.health().succeeded(endpoint);
                    return Ok(answer);
                }
                // The service answered, though not with what was asked.
                Err(error @ RpcError::Server(_)) => return Err(AttemptError::Call(error)),
                Err(error) => {
                    let slow = matches!(error, RpcError::DeadlineExceeded);
                    // A connection on which nothing comes back may be one into nowhere. Calls in
                    // flight on it hold it themselves.
                    self.drop_link(endpoint, &cell);
                    if slow || fresh {
                        self.health().failed(endpoint, Instant::now());
                        return Err(AttemptError::Call(error));
                    }
                }
            }
        }
    }

    /// Where the connection to an endpoint is, or will be.
    fn cell<S: Stub>(&self, endpoint: SocketAddr) -> Result<Arc<OnceCell<Open<S>>>, AttemptError> {
        let entry = self.inner.links.entry((S::KIND, endpoint));
        let cell = Arc::clone(&*entry.or_insert_with(|| Arc::new(OnceCell::<Open<S>>::new())));
        cell.downcast().map_err(|_| {
            // Each kind has one type of stub.
            AttemptError::Connect(io::Error::other("a connection of another kind"))
        })
    }

    /// Uses this connection no more, unless another has taken its place already.
    fn drop_link<S: Stub>(&self, endpoint: SocketAddr, cell: &Arc<OnceCell<Open<S>>>) {
        let is_it = |link: &Arc<dyn Any + Send + Sync>| {
            std::ptr::addr_eq(Arc::as_ptr(link), Arc::as_ptr(cell))
        };
        let links = &self.inner.links;
        links.remove_if(&(S::KIND, endpoint), |_, link| is_it(link));
    }

    /// A stub on an open connection, and whether it was opened just now.
    async fn stub<S: Stub>(
        &self,
        cell: &OnceCell<Open<S>>,
        endpoint: SocketAddr,
    ) -> io::Result<(S, bool)> {
        let mut fresh = false;
        let open = cell
            .get_or_try_init(|| async {
                fresh = true;
                let (io, instance) = self.inner.security.connect(S::KIND, endpoint).await?;
                let stub = S::over(Link(io));
                Ok::<_, io::Error>(Open { stub, instance })
            })
            .await?;
        match &open.instance {
            // Since the connection was opened.
            Some(instance) if self.inner.security.is_expelled(instance) => {
                Err(io::Error::other(format!("{instance} was expelled")))
            }
            _ => Ok((open.stub.clone(), fresh)),
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        lock(&self.inner.health)
    }
}

/// Counters only: a panic elsewhere cannot have left them unusable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a call waits after so many attempts that failed: after the first not at all, since the
/// next instance may be well; then 20, 40, 80 ms, and up to half as long again, so that callers who
/// failed together do not come back together.
pub(crate) fn pause(attempts: u32) -> Option<Duration> {
    let pause = match attempts {
        0 | 1 => return None,
        _ => 5 << attempts.min(5),
    };
    let jitter = rand::rng().random_range(0..=pause / 2);
    Some(Duration::from_millis(pause + jitter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_not_all_the_same() {
        assert_eq!([pause(0), pause(1)], [None; 2]);
        for (attempts, least) in [(2, 20), (3, 40), (4, 80)] {
            let times = (0..200).map(|_| pause(attempts).unwrap().as_millis());
            let times: Vec<u128> = times.collect();
            assert!(times.iter().all(|ms| (least..=least * 3 / 2).contains(ms)));
            assert!(times.iter().any(|ms| *ms != times[0]), "jitter");
        }
    }
}
