//! Each wrong kind of token, at every method that takes one: at the authenticator, at the
//! catalogue and at a streaming node.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

use iceflix_core::{
    api::{
        PageRequest, SessionId, StreamId,
        auth::{AuthError, AuthenticatorClient, Role},
        catalog::{CatalogClient, CatalogError, Query},
        streaming::{StreamError, StreamingClient},
    },
    service::Server,
    trust::password::prehash,
};
use iceflix_tests::{
    cluster::{ADMIN_PASSWORD, Cluster, film, wait_for},
    tokens::Wrong,
};

/// Asks one method, and compares its answer with the refusal.
macro_rules! refused {
    ($cluster:ident, $address:expr, $client:ident, $token:ident, $refusal:expr,
     $($method:ident($($argument:expr),*))*) => {$(
        let answer = $cluster
            .at($address, |service: $client, context| {
                let token = $token.clone();
                async move { service.$method(context, token $(, $argument)*).await.map(|a| a.map(drop)) }
            })
            .await;
        assert_eq!(answer, Err($refusal), "{}", stringify!($method));
    )*};
}

async fn at_the_authenticator(wrong: Wrong) {
    let cluster = Cluster::start(1, 2, 0, &[]).await;
    let token = wrong.make(&cluster).await;
    for auth in &cluster.auths {
        let address = auth.address();
        // What one authenticator revoked takes a moment to the other.
        wait_for("the token is refused", async || {
            !cluster.authorised_at(address, &token).await
        })
        .await;
        let (hash, session) = (prehash("eve", "x"), SessionId::random());
        refused!(
            cluster, address, AuthenticatorClient, token, AuthError::Unauthorized(wrong.refusal()),
            whois()
            is_admin()
            change_password("admin".into(), Some(prehash("admin", ADMIN_PASSWORD)), hash)
            add_user("eve".into(), hash, Role::Admin)
            remove_user("admin".into())
            list_users(PageRequest::first())
            revoke_user("admin".into())
            sessions(None, PageRequest::first())
            sessions(Some("admin".into()), PageRequest::first())
            end_session(session)
            disable_user("admin".into())
            enable_user("admin".into())
            set_role("admin".into(), Role::User)
        );
    }
    // Nothing of that happened.
    cluster.admin().await;
    assert!(cluster.login("eve", "x").await.is_err());
    cluster.stop().await;
}

async fn at_the_catalogue(wrong: Wrong) {
    let media = tempfile::tempdir().unwrap();
    film(&media.path().join("film.mp4"), 1, 440);
    let cluster = Cluster::start(1, 1, 1, &[media.path()]).await;
    let id = cluster.until_films(1).await[0].id;
    let catalog = cluster.catalogs[0].address();
    let token = wrong.make(&cluster).await;
    let page = PageRequest::first;
    wait_for("the token is refused", async || {
        let ask = |catalog: CatalogClient, context| {
            let token = token.clone();
            async move { catalog.tile(context, token, id).await }
        };
        cluster.at(catalog, ask).await.is_err()
    })
    .await;
    let refusal = || CatalogError::Unauthorized(wrong.refusal());
    let tags = || vec!["tag".to_owned()];
    refused!(
        cluster, catalog, CatalogClient, token, refusal(),
        tile(id)
        tiles_by_tags(tags(), false, page())
        add_tags(id, tags())
        remove_tags(id, tags())
        rename_tile(id, "Other".into())
    );
    // A bad token is not as good as none.
    let some = Some(token);
    refused!(
        cluster, catalog, CatalogClient, some, refusal(),
        tiles_by_name("film".into(), true, page())
        search(Query::default(), page())
    );
    let film = &cluster.films().await.unwrap()[0];
    assert_eq!((film.name.as_str(), film.tags.len()), ("film", 0));
    cluster.stop().await;
}

async fn at_a_streaming_node(wrong: Wrong) {
    let media = tempfile::tempdir().unwrap();
    film(&media.path().join("film.mp4"), 2, 440);
    let cluster = Cluster::start(1, 1, 1, &[media.path()]).await;
    let id = cluster.until_films(1).await[0].id;
    let node = cluster.nodes[0].address();
    let good = cluster.admin().await.token();
    let stream = cluster
        .at(node, |node: StreamingClient, context| {
            let good = good.clone();
            async move {
                node.get_stream(context, good, StreamId::random(), id, false)
                    .await
            }
        })
        .await
        .unwrap()
        .stream;
    let token = wrong.make(&cluster).await;
    wait_for("the token is refused", async || {
        cluster
            .at(node, |node: StreamingClient, context| {
                let token = token.clone();
                async move { node.sdp(context, token, stream).await }
            })
            .await
            .is_err()
    })
    .await;
    refused!(
        cluster, node, StreamingClient, token, StreamError::Unauthorized(wrong.refusal()),
        get_stream(StreamId::random(), id, false)
        sdp(stream)
        refresh_authentication(stream)
        stop(stream)
        status(stream)
    );
    // The stream that another token opened was not stopped.
    let admin = cluster.admin().await.token();
    cluster
        .at(node, |node: StreamingClient, context| {
            let admin = admin.clone();
            async move { node.status(context, admin, stream).await }
        })
        .await
        .unwrap();
    cluster.stop().await;
}

macro_rules! each_wrong_kind {
    ($($name:ident $wrong:ident;)*) => {
        mod the_authenticator_refuses {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                at_the_authenticator(Wrong::$wrong).await;
            })*
        }
        mod the_catalogue_refuses {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                at_the_catalogue(Wrong::$wrong).await;
            })*
        }
        mod a_streaming_node_refuses {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                at_a_streaming_node(Wrong::$wrong).await;
            })*
        }
    };
}

each_wrong_kind! {
    no_token Empty;
    a_token_that_is_nonsense Nonsense;
    a_truncated_token Truncated;
    a_forged_token Forged;
    an_expired_token Expired;
    a_token_from_the_future NotYet;
    a_token_of_a_foreign_cluster ForeignCluster;
    a_token_of_an_unknown_signer UnknownSigner;
    a_token_of_an_ended_session LoggedOut;
    a_token_of_a_revoked_user Revoked;
}
