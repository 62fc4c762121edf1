//! The keys that sign tokens take turns while requests go on; and what services do before there is
//! an authenticator, and after the last one is gone.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

use auth_svc::AuthServer;
use futures::future::join_all;
use iceflix_core::{
    api::{
        Kind, PageRequest, SessionId, TokenError,
        auth::{Role, Token},
        catalog::{CatalogClient, CatalogError, Query},
    },
    service::{Node, Server},
    trust::{TOKEN_LIFETIME, Verifier, keyring::Schedule, now, token},
};
use iceflix_tests::{
    cluster::{Cluster, until_listed, wait_for},
    tokens::{log_out, signing_key},
};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// Turns every two seconds. A key is kept for longer than a token is good.
const QUICK: Schedule = Schedule {
    lifetime: Duration::from_secs(2),
    lead: Duration::from_secs(1),
    keep: Duration::from_secs(40),
};

/// A Main, a catalogue, and an authenticator whose keys take turns quickly.
async fn quick() -> (Cluster, auth_svc::Config) {
    let mut cluster = Cluster::empty();
    cluster.add_main().await;
    let config = cluster.auth_config();
    let auth = AuthServer::bind_with(config.clone(), QUICK).await;
    cluster.auths.push(auth.unwrap());
    cluster.add_catalog().await;
    cluster.until_complete().await;
    (cluster, config)
}

/// What a catalogue says to a token.
async fn shown(cluster: &Cluster, catalog: usize, token: &Token) -> Result<(), CatalogError> {
    let ask = |catalog: CatalogClient, context| {
        let token = Some(token.clone());
        async move {
            let (all, first) = (Query::default(), PageRequest::first());
            catalog.search(context, token, all, first).await
        }
    };
    let address = cluster.catalogs[catalog].address();
    cluster.at(address, ask).await.map(drop)
}

/// A token of nobody that has only so long left.
fn token_with(cluster: &Cluster, session: SessionId, left: Duration) -> Token {
    let (key, made) = (signing_key(cluster), now() + left - TOKEN_LIFETIME);
    token::issue(&key, cluster.name(), "ada", session, Role::User, 0, made).unwrap()
}

/// Waits until a verifier has heard the authenticators it is to hear.
async fn until_accepted(verifier: &Verifier, token: &Token) {
    wait_for("the token is accepted", async || {
        verifier.check_now(token).is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_take_turns_under_load_and_no_request_fails() {
    let (mut cluster, _) = quick().await;
    // It hears what is announced, and never asks: only what was announced ahead is good here.
    let common = cluster.common(Kind::Catalog);
    let hearer = Node::join(Kind::Catalog, &common).await.unwrap();
    let admin = cluster.admin().await;
    let (first, begin) = (admin.token(), Instant::now());
    until_accepted(&hearer.verifier, &first).await;
    let auth = cluster.auths[0].address();
    let lane = async |n: u32| {
        let (mut signers, mut asked) = (BTreeSet::new(), 0);
        // Until the first token's last moments; its key has not signed for long then.
        while begin.elapsed() < TOKEN_LIFETIME - Duration::from_secs(2) {
            let token = cluster.renew_at(auth, &admin).await.unwrap();
            hearer.verifier.check_now(&token).unwrap();
            for token in [&token, &first] {
                shown(&cluster, 0, token).await.unwrap();
                assert!(cluster.authorised_at(auth, token).await);
                hearer.verifier.check_now(token).unwrap();
            }
            signers.insert(signing_key(&cluster).public());
            asked += 1;
            tokio::time::sleep(Duration::from_millis(20) * n).await;
        }
        (signers, asked)
    };
    for (signers, asked) in join_all((1..=4).map(lane)).await {
        println!("{asked} rounds, {} keys", signers.len());
        assert!(signers.len() >= 8, "only {} keys", signers.len());
    }
    hearer.bus.close().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_forgets_no_key_that_is_still_needed() {
    let (mut cluster, config) = quick().await;
    let old = cluster.admin().await.token();
    let signed = signing_key(&cluster).public();
    wait_for("another key signs", async || {
        signing_key(&cluster).public() != signed
    })
    .await;
    cluster.auths.remove(0).shutdown().await;
    let auth = AuthServer::bind_with(config, QUICK).await.unwrap();
    cluster.auths.push(auth);
    // This one has heard nothing of the life before.
    cluster.add_catalog().await;
    cluster.until_complete().await;
    for catalog in 0..2 {
        shown(&cluster, catalog, &old).await.unwrap();
    }
    let new = cluster.admin().await.token();
    shown(&cluster, 1, &new).await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_does_not_know_what_is_revoked_stays_unannounced_and_refuses() {
    let mut cluster = Cluster::start(1, 0, 0, &[]).await;
    let media = tempfile::tempdir().unwrap();
    cluster.add_catalog().await;
    cluster.add_node(media.path()).await;
    cluster.add_catalog().await;
    // They can be reached by who knows where they are, and believe nobody.
    let key = iceflix_core::trust::keys::SigningKey::generate().unwrap();
    let id = SessionId::random();
    let token = token::issue(&key, cluster.name(), "ada", id, Role::Admin, 0, now()).unwrap();
    let refused = Err(CatalogError::Unauthorized(TokenError::UnknownSigner));
    assert_eq!(shown(&cluster, 0, &token).await, refused);
    // One stops before it was announced.
    cluster.catalogs.remove(1).shutdown().await;
    let main = cluster.main_addresses()[0];
    until_listed(cluster.name(), main, |all| all.len() == 1).await;
    let mut seen = cluster.view().directory();
    assert_eq!(seen.borrow_and_update().instances.len(), 1);

    cluster.add_auth().await;
    cluster.until_complete().await;
    let named = |name: &str| {
        let view = seen.borrow().clone();
        view.instances.iter().any(|i| i.instance.as_str() == name)
    };
    assert!(named("catalog-1") && named("streaming-1") && !named("catalog-2"));
    let token = cluster.admin().await.token();
    shown(&cluster, 0, &token).await.unwrap();
    // What is announced leaves as ever.
    cluster.catalogs.remove(0).shutdown().await;
    cluster.until_complete().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_authenticator_tokens_hold_until_they_expire_and_what_was_revoked_stays_so() {
    let mut cluster = Cluster::start(1, 0, 0, &[]).await;
    let config = cluster.add_auth().await;
    cluster.add_catalog().await;
    cluster.until_complete().await;
    let common = cluster.common(Kind::Catalog);
    let hearer = Node::join(Kind::Catalog, &common).await.unwrap();
    let verifier = &hearer.verifier;
    let ended = cluster.admin().await;
    until_accepted(verifier, &ended.token()).await;
    wait_for("it is heard", async || verifier.silent_since().is_none()).await;
    log_out(&cluster, &ended).await;
    let revoked = Err(CatalogError::Unauthorized(TokenError::Revoked));
    wait_for("it is refused", async || {
        shown(&cluster, 0, &ended.token()).await == revoked
            && verifier.check_now(&ended.token()) == Err(TokenError::Revoked)
    })
    .await;

    let token = token_with(&cluster, SessionId::random(), Duration::from_secs(8));
    let begin = tokio::time::Instant::now();
    cluster.auths.remove(0).shutdown().await;
    wait_for("nobody is left", async || verifier.silent_since().is_some()).await;
    assert!(verifier.silent_since().unwrap() >= begin);
    shown(&cluster, 0, &token).await.unwrap();
    verifier.check_now(&token).unwrap();
    assert_eq!(shown(&cluster, 0, &ended.token()).await, revoked);
    let expired = Err(CatalogError::Unauthorized(TokenError::Expired));
    wait_for("it expires", async || {
        let said = shown(&cluster, 0, &token).await;
        assert!(said == Ok(()) || said == expired, "{said:?}");
        said == expired
    })
    .await;
    assert!(begin.elapsed() >= Duration::from_secs(7));

    let auth = AuthServer::bind(config).await.unwrap();
    cluster.auths.push(auth);
    wait_for("it is back", async || verifier.silent_since().is_none()).await;
    hearer.bus.close().await;
    cluster.stop().await;
}
