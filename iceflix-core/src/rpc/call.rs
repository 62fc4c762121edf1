//! Calling: live instances in turn, and another one when a call fails.

use super::{
    codec::{self, ClientCodec},
    link::{Io, Security},
};
use crate::{
    api::{
        Instance, InstanceId, Kind, auth::AuthenticatorClient, catalog::CatalogClient,
        main::DirectoryView, main::MainClient, streaming::StreamingClient,
    },
    directory::Turns,
};
use dashmap::DashMap;
use rand::Rng;
use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tarpc::{client::RpcError, context};
use tokio::sync::{OnceCell, watch};

/// How long a caller waits for an instance of a kind to appear when there is none: about as long
/// as a killed one takes to be restarted.
const WAIT_FOR_ONE: Duration = Duration::from_secs(2);

/// How many attempts a call gets in all.
const ATTEMPTS: u32 = 5;

/// After so many failures in a row an instance is passed over for a while.
const FAILURES: u32 = 3;

/// How long it is passed over at first; doubled each time, up to 30 s.
const EJECTION: Duration = Duration::from_secs(1);

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
    fn first(self) -> Duration {
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
}

/// An open connection, and whose certificate is at its other end.
struct Open<S> {
    stub: S,
    instance: Option<InstanceId>,
}

/// Whose turn it is, and who is passed over.
#[derive(Debug, Default)]
struct Health {
    turns: Turns,
    started: BTreeSet<Kind>,
    failed: BTreeMap<SocketAddr, Failed>,
}

#[derive(Debug, Default)]
struct Failed {
    in_a_row: u32,
    ejections: u32,
    until: Option<Instant>,
}

impl Health {
    fn pick(&mut self, kind: Kind, alive: &[Instance], now: Instant) -> Option<Instance> {
        let of_kind: Vec<Instance> = alive.iter().filter(|i| i.kind == kind).cloned().collect();
        let well: Vec<Instance> = of_kind
            .iter()
            .filter(|instance| {
                let failed = self.failed.get(&instance.endpoint);
                failed
                    .and_then(|failed| failed.until)
                    .is_none_or(|until| until <= now)
            })
            .cloned()
            .collect();
        // Never the last one: a sick instance is better than none.
        let candidates = if well.is_empty() { of_kind } else { well };
        if !candidates.is_empty() && self.started.insert(kind) {
            // A new caller begins anywhere, so that many of them spread.
            for _ in 0..rand::rng().random_range(0..candidates.len()) {
                self.turns.pick(kind, &candidates);
            }
        }
        self.turns.pick(kind, &candidates)
    }

    fn succeeded(&mut self, endpoint: SocketAddr) {
        self.failed.remove(&endpoint);
    }

    fn failed(&mut self, endpoint: SocketAddr, now: Instant) {
        let failed = self.failed.entry(endpoint).or_default();
        failed.in_a_row += 1;
        if failed.in_a_row >= FAILURES {
            let time = EJECTION * 2u32.pow(failed.ejections.min(5));
            failed.until = Some(now + time.min(Duration::from_secs(30)));
            failed.ejections += 1;
            failed.in_a_row = 0;
        }
    }
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
    /// the next one, with growing pauses. The question may so be asked more than once.
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
        for attempt in 0..ATTEMPTS {
            let Some(instance) = self.pick(S::KIND).await else {
                return Err(last.unwrap_or(CallError::NoneAlive(S::KIND)));
            };
            let deadline = effort.first() * 2u32.pow(attempt.min(3));
            match self.attempt(instance.endpoint, deadline, &ask).await {
                Ok(answer) => return Ok(answer),
                Err(source) => {
                    tracing::debug!(kind = %S::KIND, endpoint = %instance.endpoint, %source, "trying another");
                    last = Some(CallError::Unreachable {
                        kind: S::KIND,
                        endpoint: instance.endpoint,
                        source,
                    });
                }
            }
            // 0, 20, 40, 80 ms with jitter: the first try elsewhere is at once.
            let pause = (10u64 << attempt) * u64::from(attempt > 0);
            let jitter = rand::rng().random_range(0..=pause / 2);
            tokio::time::sleep(Duration::from_millis(pause + jitter)).await;
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

    async fn pick(&self, kind: Kind) -> Option<Instance> {
        let mut directory = self.inner.directory.clone();
        let alive =
            directory.wait_for(|view| view.instances.iter().any(|instance| instance.kind == kind));
        let view = tokio::time::timeout(WAIT_FOR_ONE, alive).await;
        let view = Arc::clone(&*view.ok()?.ok()?);
        let mut health = self.health();
        health.pick(kind, &view.instances, Instant::now())
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
            let opening = tokio::time::timeout_at(deadline.into(), self.stub::<S>(endpoint));
            let opened = opening.await.unwrap_or_else(|late| Err(late.into()));
            let (stub, fresh) = match opened {
                Ok(found) => found,
                Err(error) => {
                    self.health().failed(endpoint, Instant::now());
                    return Err(AttemptError::Connect(error));
                }
            };
            let mut context = context::current();
            context.deadline = deadline;
            match ask(stub, context).await {
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
                    self.inner.links.remove(&(S::KIND, endpoint));
                    if slow || fresh {
                        self.health().failed(endpoint, Instant::now());
                        return Err(AttemptError::Call(error));
                    }
                }
            }
        }
    }

    /// A stub on an open connection, and whether it was opened just now.
    async fn stub<S: Stub>(&self, endpoint: SocketAddr) -> io::Result<(S, bool)> {
        let cell = Arc::clone(
            &*self
                .inner
                .links
                .entry((S::KIND, endpoint))
                .or_insert_with(|| Arc::new(OnceCell::<Open<S>>::new())),
        );
        let Ok(cell) = cell.downcast::<OnceCell<Open<S>>>() else {
            // Each kind has one type of stub.
            return Err(io::Error::other("a connection of another kind"));
        };
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
                self.inner.links.remove(&(S::KIND, endpoint));
                Err(io::Error::other(format!("{instance} was expelled")))
            }
            _ => Ok((open.stub.clone(), fresh)),
        }
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        // Counters only: a panic elsewhere cannot have left them unusable.
        self.inner
            .health
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instances(n: u16) -> Vec<Instance> {
        (1..=n)
            .map(|n| Instance {
                kind: Kind::Auth,
                instance: format!("auth-{n}").parse().unwrap(),
                endpoint: ([127, 0, 0, 1], n).into(),
                pid: 1,
                load: 0,
                draining: false,
            })
            .collect()
    }

    #[test]
    fn a_failing_instance_is_passed_over_and_comes_back() {
        let now = Instant::now();
        let mut health = Health::default();
        let alive = instances(2);
        for _ in 0..FAILURES {
            health.failed(alive[0].endpoint, now);
        }
        for _ in 0..4 {
            let picked = health.pick(Kind::Auth, &alive, now).unwrap();
            assert_eq!(picked.endpoint, alive[1].endpoint);
        }
        let later = now + EJECTION;
        let picked: Vec<_> = (0..2)
            .map(|_| health.pick(Kind::Auth, &alive, later).unwrap().endpoint)
            .collect();
        assert!(picked.contains(&alive[0].endpoint));
    }

    #[test]
    fn the_last_instance_is_never_passed_over() {
        let now = Instant::now();
        let mut health = Health::default();
        let alive = instances(2);
        for instance in &alive {
            for _ in 0..FAILURES {
                health.failed(instance.endpoint, now);
            }
        }
        assert!(health.pick(Kind::Auth, &alive, now).is_some());
    }

    #[test]
    fn each_ejection_is_longer() {
        let now = Instant::now();
        let mut health = Health::default();
        let endpoint = instances(1)[0].endpoint;
        let mut before = now;
        for _ in 0..4 {
            for _ in 0..FAILURES {
                health.failed(endpoint, now);
            }
            let until = health.failed[&endpoint].until.unwrap();
            assert!(until > before);
            before = until;
        }
    }
}
