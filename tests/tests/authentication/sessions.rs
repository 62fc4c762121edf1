//! Sessions, seen and ended one by one, at two authenticators.

use crate::{authenticators, desk::Desk, until_good};
use iceflix_core::{
    api::{
        SessionId,
        auth::{AuthError, Role, SessionInfo},
    },
    service::Server,
    trust::{SESSION_LIFETIME, now},
};
use iceflix_tests::cluster::{Cluster, Person, wait_for};
use std::net::IpAddr;

/// The sessions as authenticator `n` lists them, once it lists so many.
async fn listed(
    cluster: &Cluster,
    n: usize,
    who: &Person,
    of: Option<&str>,
    count: usize,
) -> Vec<SessionInfo> {
    let desk = Desk::with(cluster, n, &who.token());
    let mut sessions = Vec::new();
    wait_for("the sessions are listed", async || {
        sessions = desk.sessions(of).await.unwrap();
        sessions.len() == count
    })
    .await;
    sessions
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_listed_with_when_and_from_where_they_were_opened() {
    let cluster = authenticators(2).await;
    let before = now().as_secs();
    let ada = cluster.new_user("ada", "engine", Role::User).await;
    let there = cluster.auths[1].address();
    let other = cluster.login_at(there, "ada", "engine").await.unwrap();
    let admin = cluster.admin().await;
    for n in [0, 1] {
        for (who, of) in [(&ada, None), (&ada, Some("ADA")), (&admin, Some("ada"))] {
            let sessions = listed(&cluster, n, who, of, 2).await;
            let mut wanted = [ada.session(), other.session()];
            wanted.sort_unstable();
            let ids = sessions.iter().map(|session| session.id);
            assert_eq!(ids.collect::<Vec<_>>(), wanted);
            for session in sessions {
                assert_eq!(session.user, "ada");
                assert_eq!(session.from, Some(IpAddr::from([127, 0, 0, 1])));
                assert!((before..=now().as_secs()).contains(&session.opened));
                let lifetime = session.until - session.opened;
                assert_eq!(lifetime, SESSION_LIFETIME.as_secs());
                assert_eq!(session.current, session.id == who.session());
            }
        }
        let desk = Desk::with(&cluster, n, &ada.token());
        let others = desk.sessions(Some("admin")).await;
        assert_eq!(others, Err(AuthError::NotAdmin));
        let desk = Desk::with(&cluster, n, &admin.token());
        let nobodys = desk.sessions(Some("nobody")).await;
        assert_eq!(nobodys, Err(AuthError::UnknownUser));
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ending_a_session_ends_that_one_everywhere() {
    let cluster = authenticators(2).await;
    let ada = cluster.new_user("ada", "engine", Role::User).await;
    let lost = cluster.login("ada", "engine").await.unwrap();
    let bob = cluster.new_user("bob", "builder", Role::User).await;

    // At the authenticator that did not open it; twice, as when an answer is lost.
    let desk = Desk::with(&cluster, 1, &ada.token());
    desk.end_session(lost.session()).await.unwrap();
    desk.end_session(lost.session()).await.unwrap();
    until_good(&cluster, &lost, &lost.token(), false).await;
    until_good(&cluster, &ada, &ada.token(), true).await;
    assert_eq!(
        listed(&cluster, 0, &ada, None, 1).await[0].id,
        ada.session()
    );
    Desk::with(&cluster, 0, &ada.token())
        .end_session(lost.session())
        .await
        .unwrap();

    // Nobody else's, and what there is of others is not told.
    let desk = Desk::with(&cluster, 0, &ada.token());
    for session in [bob.session(), SessionId::random()] {
        let refused = desk.end_session(session).await;
        assert_eq!(refused, Err(AuthError::UnknownSession));
    }
    until_good(&cluster, &bob, &bob.token(), true).await;

    // But an admin anybody's; and anybody their own present one.
    let desk = Desk::at(&cluster, 0).await;
    desk.end_session(bob.session()).await.unwrap();
    until_good(&cluster, &bob, &bob.token(), false).await;
    let own = Desk::with(&cluster, 0, &ada.token());
    own.end_session(ada.session()).await.unwrap();
    until_good(&cluster, &ada, &ada.token(), false).await;
    cluster.login("ada", "engine").await.unwrap();
    cluster.stop().await;
}
