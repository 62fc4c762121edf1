//! How soon every service refuses a token that was revoked and its stream is told, and what judging
//! a token costs.

use crate::{
    Options,
    report::{Asked, Figure},
    stats::{median, ms, percentile},
    world::{PATIENCE, Person, World},
};
use anyhow::{Context as _, ensure};
use futures::future::try_join3;
use iceflix_core::{
    api::{
        Instance, Kind, MediaId, PageRequest, SessionId, StreamId, TokenError,
        auth::{AuthenticatorClient, Role, Token},
        catalog::{CatalogClient, CatalogError, Query},
        streaming::{StreamError, StreamEvent, StreamingClient},
    },
    feed::Heard,
    rpc::Caller,
    topics::AuthenticationFact,
    trust::{self, Purpose, Verifier, keys::SigningKey, token},
};
use std::{path::Path, time::Instant};

/// Measures both, the first in a cluster of its own with two authenticators.
///
/// # Errors
/// When a service does not answer, or goes on accepting what was revoked.
pub async fn run(options: &Options, media: &Path) -> anyhow::Result<Vec<Figure>> {
    let mut figures = verification(options)?;
    let mut world = World::start(media).await.context("starting a cluster")?;
    figures.extend(Box::pin(revocations(options, &mut world)).await?);
    world.stop().await;
    Ok(figures)
}

/// What judging one token costs: its signature, its claims, and whether it was revoked.
fn verification(options: &Options) -> anyhow::Result<Vec<Figure>> {
    let key = SigningKey::generate()?;
    let verifier = Verifier::deaf("bench");
    let fact = AuthenticationFact::key(&key.public());
    let said = vec![(fact.name(), Some(serde_json::to_value(&fact)?))];
    verifier.learn(Heard::Changed("auth-1".parse()?, said));
    let id = SessionId::random();
    let token = token::issue(&key, "bench", "ada", id, Role::User, 0, trust::now());
    let token = token.context("a date within all calendars")?;
    let mut times = Vec::new();
    for _ in 0..if options.quick { 1_000 } else { 50_000 } {
        let begin = Instant::now();
        let judged = verifier.check_now(&token);
        times.push(ms(begin.elapsed()) * 1e3);
        ensure!(judged.is_ok(), "a good token was refused");
    }
    Ok(vec![
        Figure::new("token.verify.p50", "µs", median(&times)).asked(Asked::AtMost(60.0)),
        Figure::new("token.verify.p99", "µs", percentile(&times, 99.0)),
    ])
}

/// From before a session is ended at one authenticator until the other one, the catalogue and the
/// streaming node have all refused its token; and until the controller of its stream was told.
async fn revocations(options: &Options, world: &mut World) -> anyhow::Result<Vec<Figure>> {
    let second = world.add_auth().await?;
    let [first, catalog, node] = [Kind::Auth, Kind::Catalog, Kind::Streaming].map(|k| world.one(k));
    let (first, catalog, node) = (first?, catalog?, node?);
    let caller = world.caller();
    let film = world.film().await?;
    let (mut times, mut notices) = (Vec::new(), Vec::new());
    for _ in 0..if options.quick { 20 } else { 1_000 } {
        let who = world.login_at(first.endpoint).await?;
        // All of them know the session's key, and have taken the token.
        let good = try_join3(
            refused(&caller, &second, &who.token),
            refused(&caller, &catalog, &who.token),
            refused(&caller, &node, &who.token),
        );
        ensure!(
            good.await? == (false, false, false),
            "a good token was refused"
        );
        let stream = world.get_stream(&who.token, film).await?.stream;
        let begin = Instant::now();
        let (_, last, told) = tokio::try_join!(
            log_out(&caller, world.name(), &first, &who),
            until_refused(&caller, [&second, &catalog, &node], &who.token),
            until_told(&caller, &node, stream),
        )?;
        times.push(ms(last - begin));
        notices.push(ms(told - begin));
    }
    Ok(vec![
        Figure::new("revocation.p50", "ms", median(&times)),
        Figure::new("revocation.p99", "ms", percentile(&times, 99.0)).asked(Asked::AtMost(250.0)),
        Figure::new("revocation.worst", "ms", percentile(&times, 100.0)),
        Figure::new("revocation.notice.p50", "ms", median(&notices)),
        Figure::new("revocation.notice.p99", "ms", percentile(&notices, 99.0))
            .asked(Asked::AtMost(250.0)),
        Figure::new("revocation.notice.worst", "ms", percentile(&notices, 100.0)),
    ])
}

async fn log_out(
    caller: &Caller,
    cluster: &str,
    auth: &Instance,
    who: &Person,
) -> anyhow::Result<()> {
    let proof = who
        .key
        .prove(who.session, cluster, Purpose::Logout, trust::now());
    let proof = proof.context("a date within all calendars")?;
    let ask = |auth: AuthenticatorClient, context| {
        let proof = proof.clone();
        async move { auth.logout(context, proof).await }
    };
    Ok(caller.call_at(auth.endpoint, PATIENCE, ask).await??)
}

/// Asks them all again and again, side by side; when the last of them refused.
async fn until_refused(
    caller: &Caller,
    services: [&Instance; 3],
    token: &Token,
) -> anyhow::Result<Instant> {
    let until = async |service| {
        let begin = Instant::now();
        while !refused(caller, service, token).await? {
            ensure!(begin.elapsed() < PATIENCE, "a revoked token is accepted");
        }
        anyhow::Ok(Instant::now())
    };
    let [a, b, c] = services;
    let (a, b, c) = try_join3(until(a), until(b), until(c)).await?;
    Ok(a.max(b).max(c))
}

/// When the controller of a stream was told that it has to be renewed.
async fn until_told(caller: &Caller, node: &Instance, stream: StreamId) -> anyhow::Result<Instant> {
    let ask =
        |node: StreamingClient, context| async move { node.next_event(context, stream).await };
    let told = caller.call_at(node.endpoint, PATIENCE, ask).await??;
    ensure!(told == StreamEvent::RenewalWanted, "the stream ended first");
    Ok(Instant::now())
}

/// Whether a service refuses a token because it was revoked.
async fn refused(caller: &Caller, service: &Instance, token: &Token) -> anyhow::Result<bool> {
    let (at, revoked) = (service.endpoint, TokenError::Revoked);
    Ok(match service.kind {
        Kind::Auth => {
            let ask = |auth: AuthenticatorClient, context| {
                let token = token.clone();
                async move { auth.is_authorized(context, token).await }
            };
            !caller.call_at(at, PATIENCE, ask).await?
        }
        Kind::Catalog => {
            let ask = |catalog: CatalogClient, context| {
                let (token, first) = (Some(token.clone()), PageRequest::first());
                async move {
                    catalog
                        .search(context, token, Query::default(), first)
                        .await
                }
            };
            let said = caller.call_at(at, PATIENCE, ask).await?;
            said.err() == Some(CatalogError::Unauthorized(revoked))
        }
        Kind::Streaming => {
            let ask = |node: StreamingClient, context| {
                // Who may know hears that there is no such film.
                let (token, film) = (token.clone(), MediaId::from_bytes([0; 32]));
                async move {
                    node.get_stream(context, token, StreamId::random(), film, false)
                        .await
                }
            };
            let said = caller.call_at(at, PATIENCE, ask).await?;
            said.err() == Some(StreamError::Unauthorized(revoked))
        }
        Kind::Main => false,
    })
}
