//! Whatever revokes a token, every service refuses it from then on.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

use futures::future::join_all;
use iceflix_core::{
    api::{
        MediaId, PageRequest, StreamId, TokenError,
        auth::{AuthError, AuthenticatorClient, Role, Token},
        catalog::{CatalogClient, CatalogError, Query},
        streaming::{StreamError, StreamingClient},
    },
    service::Server,
    trust::password::prehash,
};
use iceflix_tests::{
    cluster::{Cluster, Person, wait_for},
    tokens::log_out,
};

/// What ends a token before its time.
#[derive(Debug, Clone, Copy)]
enum How {
    Logout,
    Revoke,
    NewPassword,
    NewRole,
    Disabling,
    EndOfSession,
    Removal,
}

async fn end(cluster: &Cluster, how: How, who: &Person) {
    let admin = cluster.admin().await.token();
    let ask = |auth: AuthenticatorClient, context| {
        let (admin, user) = (admin.clone(), who.login.user.clone());
        let session = who.session();
        async move {
            match how {
                How::Revoke => auth.revoke_user(context, admin, user).await,
                How::Removal => auth.remove_user(context, admin, user).await,
                How::NewRole => auth.set_role(context, admin, user, Role::Admin).await,
                How::Disabling => auth.disable_user(context, admin, user).await,
                How::EndOfSession => auth.end_session(context, admin, session).await,
                How::Logout | How::NewPassword => {
                    let new = prehash(&user, "another");
                    auth.change_password(context, admin, user, None, new).await
                }
            }
        }
    };
    match how {
        How::Logout => log_out(cluster, who).await,
        _ => cluster.at(cluster.auths[0].address(), ask).await.unwrap(),
    }
}

/// What each service of the cluster says to a token: the authenticators, the catalogues, the nodes.
async fn said(cluster: &Cluster, token: &Token) -> Vec<Option<TokenError>> {
    let mut said = Vec::new();
    for auth in &cluster.auths {
        let ask = |auth: AuthenticatorClient, context| {
            let token = token.clone();
            async move { auth.whois(context, token).await }
        };
        said.push(match cluster.at(auth.address(), ask).await {
            Ok(_) => None,
            Err(AuthError::Unauthorized(error)) => Some(error),
            other => panic!("{other:?}"),
        });
    }
    for catalog in &cluster.catalogs {
        let ask = |catalog: CatalogClient, context| {
            let (token, all) = (Some(token.clone()), Query::default());
            async move {
                let first = PageRequest::first();
                catalog.search(context, token, all, first).await
            }
        };
        said.push(match cluster.at(catalog.address(), ask).await {
            Ok(_) => None,
            Err(CatalogError::Unauthorized(error)) => Some(error),
            other => panic!("{other:?}"),
        });
    }
    for node in &cluster.nodes {
        let ask = |node: StreamingClient, context| {
            let (token, film) = (token.clone(), MediaId::from_bytes([0; 32]));
            async move {
                node.get_stream(context, token, StreamId::random(), film, false)
                    .await
            }
        };
        said.push(match cluster.at(node.address(), ask).await {
            // There is no such film, and only who may know is told.
            Err(StreamError::UnknownMedia) => None,
            Err(StreamError::Unauthorized(error)) => Some(error),
            other => panic!("{other:?}"),
        });
    }
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_ends_a_session_every_service_refuses_its_token() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cluster = Cluster::start(1, 2, 2, &[one.path(), two.path()]).await;
    let other = cluster.new_user("other", "x", Role::User).await;
    let ways = [
        How::Logout,
        How::Revoke,
        How::NewPassword,
        How::NewRole,
        How::Disabling,
        How::EndOfSession,
        How::Removal,
    ];
    for how in ways {
        let name = format!("{how:?}").to_lowercase();
        let who = cluster.new_user(&name, "x", Role::User).await;
        wait_for("it is good everywhere", async || {
            said(&cluster, &who.token()).await == [None; 6]
        })
        .await;
        end(&cluster, how, &who).await;
        wait_for("it is refused everywhere", async || {
            said(&cluster, &who.token()).await == [Some(TokenError::Revoked); 6]
        })
        .await;
        // No other's is, and it stays so.
        let other = cluster
            .renew_at(cluster.auths[1].address(), &other)
            .await
            .unwrap();
        assert_eq!(said(&cluster, &other).await, [None; 6], "{how:?}");
        let token = who.token();
        let again = join_all((0..5).map(|_| said(&cluster, &token))).await;
        assert!(
            again
                .iter()
                .all(|said| *said == [Some(TokenError::Revoked); 6])
        );
    }
    cluster.stop().await;
}
