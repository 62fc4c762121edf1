//! The authenticators, over real connections: users, sessions, and what two of them agree on.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

mod again;
mod agreement;
mod attempts;
mod desk;
mod sessions;
mod users;

use desk::Desk;
use iceflix_core::{
    api::{
        SessionId, StreamId, TokenError,
        auth::{AuthError, AuthenticatorClient, Role, SessionProof, Token},
        catalog::CatalogClient,
        streaming::StreamingClient,
    },
    service::Server,
    trust::{Purpose, SessionKey, TOKEN_LIFETIME, now, password::prehash, token},
};
use iceflix_tests::{
    cluster::{ADMIN_PASSWORD, Cluster, Person, film, wait_for},
    person::holding,
    tokens::log_out,
};
use std::time::Duration;

const WRONG: Result<(), AuthError> = Err(AuthError::WrongCredentials);

async fn login_fails(cluster: &Cluster, user: &str, password: &str) -> Result<(), AuthError> {
    cluster.login(user, password).await.map(drop)
}

/// A cluster of authenticators, and a Main to find them by.
async fn authenticators(count: usize) -> Cluster {
    Cluster::start(1, count, 0, &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_added_and_removed_and_kept_over_a_restart() {
    let mut cluster = Cluster::start(1, 0, 0, &[]).await;
    let config = cluster.add_auth().await;
    cluster.until_complete().await;
    let desk = Desk::at(&cluster, 0).await;
    desk.add_user("Ada", "engine", Role::User).await.unwrap();
    desk.add_user("grace", "cobol", Role::Admin).await.unwrap();
    desk.add_user("gone", "soon", Role::User).await.unwrap();
    // The same request once more is no error; another user of that name is.
    desk.add_user("ada", "engine", Role::User).await.unwrap();
    let other = desk.add_user("ada", "other", Role::User).await;
    assert_eq!(other, Err(AuthError::UserExists));
    let nameless = desk.add_user(" ", "x", Role::User).await;
    assert_eq!(nameless, Err(AuthError::InvalidName));
    desk.remove_user("gone").await.unwrap();
    desk.remove_user("gone").await.unwrap();
    let nobody = desk.remove_user("nobody").await;
    assert_eq!(nobody, Err(AuthError::UnknownUser));
    assert_eq!(desk.users().await.unwrap(), ["ada", "admin", "grace"]);
    let ada = cluster.login("ada", "engine").await.unwrap();

    let (auth, before) = (cluster.auths.remove(0), ada.token());
    auth.shutdown().await;
    let auth = auth_svc::AuthServer::bind(config).await.unwrap();
    cluster.auths.push(auth);
    cluster.until_complete().await;
    let desk = Desk::at(&cluster, 0).await;
    assert_eq!(desk.users().await.unwrap(), ["ada", "admin", "grace"]);
    assert_eq!(login_fails(&cluster, "gone", "soon").await, WRONG);
    let address = cluster.auths[0].address();
    assert!(cluster.authorised_at(address, &before).await, "tokens too");
    cluster.renew_at(address, &ada).await.expect("and sessions");
    let grace = cluster.login("grace", "cobol").await.unwrap();
    assert_eq!(grace.login.role, Role::Admin);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_admin_stays() {
    let cluster = authenticators(1).await;
    let desk = Desk::at(&cluster, 0).await;
    assert_eq!(desk.remove_user("admin").await, Err(AuthError::LastAdmin));
    desk.add_user("grace", "cobol", Role::Admin).await.unwrap();
    desk.remove_user("admin").await.unwrap();
    assert_eq!(login_fails(&cluster, "admin", ADMIN_PASSWORD).await, WRONG);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_password_logs_in_and_no_other_does() {
    let cluster = authenticators(1).await;
    let ada = cluster.new_user("ada", "engine", Role::User).await;
    assert_eq!(
        (ada.login.user.as_str(), ada.login.role),
        ("ada", Role::User)
    );
    assert_eq!(ada.login.cluster, cluster.name());
    // A name is the same however it is written; a password is not.
    cluster.login("ADA", "engine").await.unwrap();
    for (user, password) in [
        ("ada", "Engine"),
        ("ada", ""),
        ("ada", ADMIN_PASSWORD),
        ("admin", "engine"),
        ("nobody", "engine"),
        ("", ""),
        ("a\nb", "engine"),
    ] {
        assert_eq!(
            login_fails(&cluster, user, password).await,
            WRONG,
            "{user:?}"
        );
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn is_authorized_whois_and_is_admin_say_whose_a_token_is() {
    let cluster = authenticators(2).await;
    let ada = cluster.new_user("ada", "engine", Role::User).await;
    let admin = cluster.admin().await;
    // The one that issued it knows it at once, the other as soon as it has heard of its key.
    for n in [0, 1] {
        let address = cluster.auths[n].address();
        assert!(cluster.authorised_at(address, &ada.token()).await, "{n}");
        let desk = Desk::with(&cluster, n, &ada.token());
        assert_eq!(desk.whois().await.as_deref(), Ok("ada"));
        assert_eq!(desk.is_admin().await, Ok(false));
        let desk = Desk::with(&cluster, n, &admin.token());
        assert_eq!(desk.whois().await.as_deref(), Ok("admin"));
        assert_eq!(desk.is_admin().await, Ok(true));
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn admins_methods_are_refused_to_users() {
    let cluster = authenticators(1).await;
    let ada = cluster.new_user("ada", "engine", Role::User).await;
    let desk = Desk::with(&cluster, 0, &ada.token());
    let not_admin = Err(AuthError::NotAdmin);
    assert_eq!(desk.add_user("eve", "x", Role::User).await, not_admin);
    assert_eq!(desk.remove_user("admin").await, not_admin);
    assert_eq!(desk.revoke_user("admin").await, not_admin);
    assert_eq!(desk.change_password("admin", None, "x").await, not_admin);
    assert_eq!(desk.users().await, Err(AuthError::NotAdmin));
    // One's own password takes the old one, an admin's session or not.
    let own = desk.change_password("ada", None, "new").await;
    assert_eq!(own, WRONG);
    cluster.admin().await;
    cluster.login("ada", "engine").await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_ends_by_itself_after_30_seconds() {
    let cluster = authenticators(1).await;
    let (before, admin) = (now(), cluster.admin().await);
    let token = admin.token();
    let judged = |at| token::verify(&token, cluster.name(), |_| true, at);
    let expires = judged(now()).unwrap().expires;
    assert!(expires >= before + TOKEN_LIFETIME && expires <= now() + TOKEN_LIFETIME);
    assert!(judged(expires - Duration::from_millis(1)).is_ok());
    assert_eq!(judged(expires), Err(TokenError::Expired));

    // And so it is in real time, without anybody doing anything.
    let address = cluster.auths[0].address();
    wait_for("the token ends", async || {
        !cluster.authorised_at(address, &token).await
    })
    .await;
    assert!(now() >= expires, "it ended early");
    let desk = Desk::with(&cluster, 0, &token);
    let expired = Err(AuthError::Unauthorized(TokenError::Expired));
    assert_eq!(desk.whois().await, expired);
    // The session goes on.
    let token = cluster.renew_at(address, &admin).await.unwrap();
    assert!(cluster.authorised_at(address, &token).await);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_login_ends_no_other_session() {
    let cluster = authenticators(1).await;
    let first = cluster.new_user("ada", "engine", Role::User).await;
    let mut sessions = vec![first];
    for _ in 0..4 {
        sessions.push(cluster.login("ada", "engine").await.unwrap());
    }
    let address = cluster.auths[0].address();
    for session in &sessions {
        assert!(cluster.authorised_at(address, &session.token()).await);
        cluster.renew_at(address, session).await.unwrap();
    }
    cluster.stop().await;
}

/// Whether a session and its token are good at both authenticators; they must be of one mind
/// before a minute is over.
async fn until_good(cluster: &Cluster, who: &Person, token: &Token, good: bool) {
    for auth in &cluster.auths {
        wait_for("the authenticators are of one mind", async || {
            let token = cluster.authorised_at(auth.address(), token).await;
            let session = cluster.renew_at(auth.address(), who).await.is_ok();
            (token, session) == (good, good)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_ends_exactly_what_it_names() {
    let cluster = authenticators(2).await;
    let ada = cluster.new_user("ada", "engine", Role::User).await;
    let other = cluster.login("ada", "engine").await.unwrap();
    let bob = cluster.new_user("bob", "builder", Role::User).await;

    log_out(&cluster, &ada).await;
    until_good(&cluster, &ada, &ada.token(), false).await;
    until_good(&cluster, &other, &other.token(), true).await;
    until_good(&cluster, &bob, &bob.token(), true).await;
    // Logging out twice is no error, and brings nothing back.
    log_out(&cluster, &ada).await;

    let desk = Desk::at(&cluster, 1).await;
    desk.revoke_user("ada").await.unwrap();
    until_good(&cluster, &other, &other.token(), false).await;
    until_good(&cluster, &bob, &bob.token(), true).await;
    let ada = cluster.login("ada", "engine").await.unwrap();
    until_good(&cluster, &ada, &ada.token(), true).await;

    // A new password ends the user's other sessions, a removal all of them.
    let other = cluster.login("ada", "engine").await.unwrap();
    let desk = Desk::with(&cluster, 0, &ada.token());
    desk.change_password("ada", Some("engine"), "difference")
        .await
        .unwrap();
    until_good(&cluster, &other, &other.token(), false).await;
    let token = cluster.renew_at(cluster.auths[0].address(), &ada).await;
    until_good(&cluster, &ada, &token.unwrap(), true).await;
    assert_eq!(login_fails(&cluster, "ada", "engine").await, WRONG);
    let other = cluster.login("ada", "difference").await.unwrap();
    let desk = Desk::at(&cluster, 0).await;
    desk.remove_user("ada").await.unwrap();
    until_good(&cluster, &other, &other.token(), false).await;
    until_good(&cluster, &bob, &bob.token(), true).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_passwords_are_never_stored() {
    let media = tempfile::tempdir().unwrap();
    film(&media.path().join("film.mp4"), 1, 440);
    let cluster = Cluster::start(1, 2, 1, &[media.path()]).await;
    let ada = cluster
        .new_user("ada", "analytical engine", Role::User)
        .await;
    let mut tokens = vec![ada.token()];
    for auth in &cluster.auths {
        tokens.push(cluster.renew_at(auth.address(), &ada).await.unwrap());
    }
    let admin = cluster.admin().await;
    tokens.push(admin.token());
    log_out(&cluster, &admin).await;
    // The other services have seen some, too.
    let id = cluster.until_films(1).await[0].id;
    let token = &tokens[0];
    cluster
        .at(
            cluster.catalogs[0].address(),
            |catalog: CatalogClient, context| {
                let (token, tags) = (token.clone(), vec!["a tag of hers".to_owned()]);
                async move { catalog.add_tags(context, token, id, tags).await }
            },
        )
        .await
        .unwrap();
    cluster
        .at(
            cluster.nodes[0].address(),
            |node: StreamingClient, context| {
                let token = token.clone();
                async move {
                    node.get_stream(context, token, StreamId::random(), id, false)
                        .await
                }
            },
        )
        .await
        .unwrap();

    let nowhere = |part: &[u8], what: &str| {
        let found = holding(cluster.dir.path(), part);
        assert!(found.is_empty(), "{what} is in {found:?}");
    };
    for token in &tokens {
        nowhere(token.0.as_bytes(), "a token");
        // Its claims are as telling as the whole.
        nowhere(&token.0.as_bytes()[10..60], "a token's claims");
    }
    for (user, password) in [("ada", "analytical engine"), ("admin", ADMIN_PASSWORD)] {
        let hash = prehash(user, password).0;
        nowhere(&hash, "a pre-hash");
        nowhere(hex::encode(hash).as_bytes(), "a pre-hash");
        nowhere(hex::encode_upper(hash).as_bytes(), "a pre-hash");
        // As a list of numbers, which is how JSON would have it.
        let numbers: Vec<String> = hash[..8].iter().map(u8::to_string).collect();
        nowhere(numbers.join(",").as_bytes(), "a pre-hash");
    }
    nowhere(b"analytical engine", "a password");
    nowhere(&ada.key.to_bytes()[..32], "a session's private key");
    // The search itself finds what is there.
    for there in [ada.session().to_string(), "a tag of hers".to_owned()] {
        assert!(!holding(cluster.dir.path(), there.as_bytes()).is_empty());
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_takes_the_sessions_own_fresh_proof() {
    let cluster = authenticators(1).await;
    let ada = cluster.new_user("ada", "engine", Role::User).await;
    let address = cluster.auths[0].address();
    let renew = async |proof: Option<SessionProof>| {
        let proof = proof.unwrap();
        let ask = |auth: AuthenticatorClient, context| {
            let proof = proof.clone();
            async move { auth.refresh_authorization(context, proof).await }
        };
        cluster.at(address, ask).await.map(drop)
    };
    let refused = |error| Err(AuthError::Unauthorized(error));
    let (id, name) = (ada.session(), cluster.name());
    let thief = SessionKey::generate().unwrap();
    let minutes = Duration::from_secs(600);
    for (proof, answer) in [
        (
            thief.prove(id, name, Purpose::Renew, now()),
            refused(TokenError::Invalid),
        ),
        (
            ada.key.prove(id, name, Purpose::Logout, now()),
            refused(TokenError::WrongAudience),
        ),
        (
            ada.key.prove(id, "elsewhere", Purpose::Renew, now()),
            refused(TokenError::WrongAudience),
        ),
        (
            ada.key.prove(id, name, Purpose::Renew, now() - minutes),
            refused(TokenError::Expired),
        ),
        (
            ada.key
                .prove(SessionId::random(), name, Purpose::Renew, now()),
            Err(AuthError::UnknownSession),
        ),
        (
            Some(SessionProof(ada.token().0)),
            refused(TokenError::Invalid),
        ),
        (ada.key.prove(id, name, Purpose::Renew, now()), Ok(())),
    ] {
        assert_eq!(renew(proof).await, answer);
    }
    cluster.stop().await;
}
