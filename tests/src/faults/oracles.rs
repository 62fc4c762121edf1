//! What is asked of every instance after a fault.

use super::round::{ASKED, Round};
use anyhow::Context as _;
use client_cli::{client::Client, error::Error, session::Session};
use iceflix_core::{
    api::{
        Kind, MediaId, PageRequest,
        auth::{AuthError, AuthenticatorClient, SessionProof},
        catalog::{CatalogClient, Tile},
    },
    trust::{self, Purpose, SessionKey},
};
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

/// A user's name, and a tag of theirs.
type Tag = (String, String);

/// How long rows may take to be the same everywhere when nothing is written any more.
const EQUAL: Duration = Duration::from_secs(30);

/// Whether all instances come to have the very same rows, when nothing is written any more.
pub async fn equal_rows(round: &mut Round<'_>) -> bool {
    let end = Instant::now() + EQUAL;
    loop {
        match round.world.rows(None) {
            Ok(()) => return true,
            Err(error) if Instant::now() > end => {
                round.fail(format!("after {} s: {error:#}", EQUAL.as_secs()));
                return false;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// How many of these are missing somewhere.
pub async fn lost(round: &mut Round<'_>, written: &[Tag], users: &[String]) -> usize {
    let tags = written.iter().map(|(user, tag)| named(user, tag)).collect();
    let users = users.iter().cloned().collect();
    let writers: BTreeSet<&String> = written.iter().map(|(user, _)| user).collect();
    let mut lost = BTreeSet::new();
    let instances = round.world.instances.clone();
    for ((kind, name), endpoint) in instances {
        let there = match kind {
            Kind::Catalog => tags_at(round, endpoint, &writers)
                .await
                .map(|there| (there, &tags)),
            Kind::Auth => users_at(round, endpoint).await.map(|there| (there, &users)),
            Kind::Main | Kind::Streaming => continue,
        };
        let (there, wanted): (BTreeSet<String>, &BTreeSet<String>) = match there {
            Ok(found) => found,
            Err(error) => {
                round.fail(format!("{name} does not say what it has: {error:#}"));
                continue;
            }
        };
        let missing: Vec<String> = wanted.difference(&there).cloned().collect();
        round.check(missing.is_empty(), || {
            format!(
                "{name} lacks {} that were acknowledged: {:?}",
                missing.len(),
                missing.first()
            )
        });
        lost.extend(missing);
    }
    lost.len()
}

/// How many of these sessions, which had ended, some authenticator takes for good.
pub async fn revived(round: &mut Round<'_>, ended: &[Session]) -> usize {
    let mut revived = BTreeSet::new();
    let instances = round.world.instances.clone();
    let authenticators = instances.iter();
    for ((_, name), at) in authenticators.filter(|((kind, _), _)| *kind == Kind::Auth) {
        for session in ended {
            let Some(proof) = renewal(session) else {
                round.fail(format!("no key is kept of session {}", session.id));
                continue;
            };
            let renew = |stub: AuthenticatorClient, context| {
                let proof = proof.clone();
                async move { stub.refresh_authorization(context, proof).await }
            };
            let caller = round.world.admin.caller();
            match caller.call_at(*at, ASKED, renew).await {
                Ok(Err(AuthError::SessionEnded)) => {}
                Ok(Ok(_)) => {
                    revived.insert(session.id.to_string());
                }
                Ok(Err(error)) => round.fail(format!("{name} says of an ended session: {error}")),
                Err(error) => {
                    round.fail(format!("{name} does not judge sessions: {error}"));
                    break;
                }
            }
        }
    }
    round.check(revived.is_empty(), || {
        let times = revived.len();
        format!("{times} sessions go on after their logout was acknowledged")
    });
    revived.len()
}

/// What proves a session that asks for a fresh token.
pub fn renewal(session: &Session) -> Option<SessionProof> {
    let key = SessionKey::from_bytes(&hex::decode(&session.key).ok()?)?;
    key.prove(session.id, &session.cluster, Purpose::Renew, trust::now())
}

async fn tags_at(
    round: &Round<'_>,
    at: SocketAddr,
    writers: &BTreeSet<&String>,
) -> anyhow::Result<BTreeSet<String>> {
    let (_, id) = *round.world.films.first().context("there are no films")?;
    let mut tags = BTreeSet::new();
    for user in writers {
        let client = round.world.people.client(user).await?;
        let tile = tile_at(&client, at, id).await?;
        tags.extend(tile.tags.iter().map(|tag| named(user, tag)));
    }
    Ok(tags)
}

fn named(user: &str, tag: &str) -> String {
    format!("{user}: {tag}")
}

/// A film as one catalogue has it for somebody.
pub async fn tile_at(client: &Client, at: SocketAddr, film: MediaId) -> Result<Tile, Error> {
    let details = client.authorised(|token| {
        let ask = move |catalog: CatalogClient, context| {
            let token = token.clone();
            async move { catalog.tile(context, token, film).await }
        };
        client.caller().call_at(at, ASKED, ask)
    });
    Ok(details.await?.tile)
}

async fn users_at(round: &Round<'_>, at: SocketAddr) -> anyhow::Result<BTreeSet<String>> {
    let admin = &round.world.admin;
    let mut users = BTreeSet::new();
    let mut page = PageRequest::first();
    loop {
        let asked = &page;
        let found = admin.authorised(|token| {
            let ask = move |auth: AuthenticatorClient, context| {
                let (token, page) = (token.clone(), asked.clone());
                async move { auth.list_users(context, token, page).await }
            };
            admin.caller().call_at(at, ASKED, ask)
        });
        let found = found.await?;
        users.extend(found.items.into_iter().map(|user| user.name));
        match found.next {
            Some(next) => page.after = Some(next),
            None => return Ok(users),
        }
    }
}
