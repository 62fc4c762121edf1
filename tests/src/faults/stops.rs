//! Processes that stand still, and go on.

use super::{oracles::renewal, processes::signal, round::Round};
use client_cli::session::Session;
use iceflix_core::{
    api::{
        Instance, Kind, MediaId, StreamId,
        auth::{AuthenticatorClient, Token},
        catalog::CatalogClient,
        streaming::StreamingClient,
    },
    rpc::Caller,
};
use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
use std::time::{Duration, Instant};

/// The machine whose service stands still.
pub const WHERE: u32 = 2;

/// How long what is revoked may be accepted at a node that runs: so long it takes to get everywhere.
/// And a process that stood still for less counts as one that ran.
pub const SHORT: Duration = Duration::from_secs(1);

/// For how long the one that goes on is asked.
pub const AFTER: Duration = Duration::from_secs(3);

/// How long it may take to answer: who asks while it stands still waits until it goes on.
pub const ZOMBIE: Duration = Duration::from_secs(18);

/// A service stands still and goes on. What was revoked meanwhile it must not accept: neither from
/// requests that waited for it nor from later ones.
pub async fn service(round: &mut Round<'_>, kind: Kind, time: Duration) -> anyhow::Result<()> {
    let victim = round.world.instance(WHERE, kind)?;
    let Some((_, film)) = round.world.films.first().copied() else {
        anyhow::bail!("there are no films");
    };
    let zombie = Zombie::new(round, &victim, film).await?;
    anyhow::ensure!(
        zombie.judges().await == Some(true),
        "the token is not good to begin with"
    );
    let stopped = Instant::now();
    signal(victim.pid, SIGSTOP)?;
    // It counts as gone when nothing was heard of it for a second.
    let gone = if time > SHORT {
        vec![victim.clone()]
    } else {
        Vec::new()
    };
    round.made(stopped, &gone, &[]);
    let wakes = async {
        tokio::time::sleep(time.saturating_sub(stopped.elapsed())).await;
        (signal(victim.pid, SIGCONT), Instant::now())
    };
    let (stale, (woken, went_on)) = tokio::join!(zombie.stale(round, time), wakes);
    woken?;
    // It was asked on for a while.
    round.over_since(went_on);
    match stale? {
        0 => {}
        stale => round.fail(format!("it accepted what was revoked, {stale} times")),
    }
    if time > SHORT {
        round.noticed(AFTER).await;
    }
    Ok(())
}

/// The one that stood still, and a session to ask it with.
struct Zombie {
    instance: Instance,
    film: MediaId,
    caller: Caller,
    token: Token,
    session: Session,
    user: String,
}

impl Zombie {
    async fn new(round: &Round<'_>, instance: &Instance, film: MediaId) -> anyhow::Result<Self> {
        let client = round.newcomer("zombie").await?;
        let token = client.token().await?;
        let Some(session) = client.session().await? else {
            anyhow::bail!("there is no session");
        };
        Ok(Self {
            instance: instance.clone(),
            film,
            caller: client.caller().clone(),
            token,
            user: session.user.clone(),
            session,
        })
    }

    /// Asks it, so long that the answer may come after it went on. Whether it takes the session for
    /// good; `None` when it does not answer, and for a Main, which judges no session.
    async fn judges(&self) -> Option<bool> {
        let (at, token) = (self.instance.endpoint, &self.token);
        let catalog = |stub: CatalogClient, context| {
            let (token, film) = (token.clone(), self.film);
            async move { stub.tile(context, token, film).await }
        };
        let whois = |stub: AuthenticatorClient, context| {
            let token = token.clone();
            async move { stub.whois(context, token).await }
        };
        match self.instance.kind {
            Kind::Catalog => {
                let asked = self.caller.call_at(at, ZOMBIE, catalog);
                Some(asked.await.ok()?.is_ok())
            }
            Kind::Auth => {
                let proof = renewal(&self.session)?;
                let renew = |stub: AuthenticatorClient, context| {
                    let proof = proof.clone();
                    async move { stub.refresh_authorization(context, proof).await }
                };
                let (named, renewed) = tokio::join!(
                    self.caller.call_at(at, ZOMBIE, whois),
                    self.caller.call_at(at, ZOMBIE, renew)
                );
                let judged = [
                    named.ok().map(|answer| answer.is_ok()),
                    renewed.ok().map(|answer| answer.is_ok()),
                ];
                judged
                    .into_iter()
                    .flatten()
                    .reduce(|one, other| one | other)
            }
            Kind::Streaming => {
                let stream = |stub: StreamingClient, context| {
                    let (token, film) = (token.clone(), self.film);
                    async move {
                        stub.get_stream(context, token, StreamId::random(), film, false)
                            .await
                    }
                };
                let asked = self.caller.call_at(at, ZOMBIE, stream);
                Some(asked.await.ok()?.is_ok())
            }
            Kind::Main => None,
        }
    }

    /// Ends the session elsewhere, and asks the one that stands still from then on until a while
    /// after it went on, and until it answers again. How often it took the session for good although
    /// it should not.
    async fn stale(&self, round: &Round<'_>, time: Duration) -> anyhow::Result<usize> {
        let begun = Instant::now();
        tokio::time::sleep(Duration::from_millis(50)).await;
        round.world.admin.revoke(&self.user).await?;
        let revoked = Instant::now();
        let excused = if time > SHORT { Duration::ZERO } else { SHORT };
        let ask = async |pause: Duration| {
            tokio::time::sleep(pause).await;
            let judged = self.judges().await;
            judged.filter(|_| revoked.elapsed() > excused)
        };
        // Some wait while it stands still; others come when it goes on.
        let left = (time + AFTER).saturating_sub(begun.elapsed());
        let times = (0..60).map(|n| left * n / 60);
        let mut judged = futures::future::join_all(times.map(ask)).await;
        let asked = Instant::now();
        loop {
            // Asked when it had gone on for a while.
            let last = ask(Duration::from_millis(50)).await;
            judged.push(last);
            if last.is_some() {
                break;
            }
            anyhow::ensure!(asked.elapsed() < ZOMBIE, "it does not answer any more");
        }
        Ok(judged.into_iter().filter(|it| *it == Some(true)).count())
    }
}
