//! Requests that are asked again, as by a client whose answer got lost: at the same authenticator,
//! at another, and at both at once.

use crate::{WRONG, authenticators, desk::Desk};
use iceflix_core::{
    api::{
        SessionId, TokenError,
        auth::{AuthError, AuthenticatorClient, Login, Role, SessionProof, Token},
    },
    service::Server,
    trust::{Purpose, SessionKey, password::prehash},
};
use iceflix_tests::cluster::{Cluster, Person, wait_for};

/// A login as it goes over the connection.
struct Request {
    user: &'static str,
    password: &'static str,
    session: SessionId,
    key: SessionKey,
}

impl Request {
    fn new(user: &'static str, password: &'static str) -> Self {
        let (session, key) = (SessionId::random(), SessionKey::generate().unwrap());
        Self {
            user,
            password,
            session,
            key,
        }
    }

    async fn ask(&self, cluster: &Cluster, n: usize) -> Result<Login, AuthError> {
        let hash = prehash(self.user, self.password);
        let (id, public) = (self.session, self.key.public());
        let ask = |auth: AuthenticatorClient, context| {
            let user = self.user.to_owned();
            async move { auth.login(context, user, hash, id, public).await }
        };
        cluster.at(cluster.auths[n].address(), ask).await
    }
}

async fn renew(cluster: &Cluster, n: usize, proof: &SessionProof) -> Result<Token, AuthError> {
    let ask = |auth: AuthenticatorClient, context| {
        let proof = proof.clone();
        async move { auth.refresh_authorization(context, proof).await }
    };
    cluster.at(cluster.auths[n].address(), ask).await
}

async fn log_out(cluster: &Cluster, n: usize, proof: &SessionProof) -> Result<(), AuthError> {
    let ask = |auth: AuthenticatorClient, context| {
        let proof = proof.clone();
        async move { auth.logout(context, proof).await }
    };
    cluster.at(cluster.auths[n].address(), ask).await
}

/// Waits until the users are these at both authenticators.
async fn until_users(cluster: &Cluster, names: &[&str]) {
    for n in [0, 1] {
        let desk = Desk::at(cluster, n).await;
        wait_for("the users agree", async || {
            desk.users().await.unwrap() == names
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_asked_again_is_the_same_session() {
    let cluster = authenticators(2).await;
    cluster.new_user("ada", "engine", Role::User).await;
    let request = Request::new("ada", "engine");
    let (here, there) = tokio::join!(request.ask(&cluster, 0), request.ask(&cluster, 1));
    let mut logins = vec![here.unwrap(), there.unwrap()];
    for n in [0, 0, 1] {
        logins.push(request.ask(&cluster, n).await.unwrap());
    }
    for login in &logins {
        assert_eq!(login.session, request.session);
        for auth in &cluster.auths {
            assert!(cluster.authorised_at(auth.address(), &login.token).await);
        }
    }
    // Whoever learned its id cannot take it over, nor ask for it with a wrong password.
    let thief = Request {
        key: SessionKey::generate().unwrap(),
        ..Request::new("ada", "engine")
    };
    let session = request.session;
    let taken = Request { session, ..thief };
    assert_eq!(taken.ask(&cluster, 0).await.map(drop), WRONG);
    let wrong = Request {
        password: "guess",
        session,
        ..Request::new("ada", "engine")
    };
    assert_eq!(wrong.ask(&cluster, 0).await.map(drop), WRONG);

    // Ended once, all of it is over; and the login, asked once more, does not bring it back.
    let ada = Person {
        key: request.key.clone(),
        login: logins[0].clone(),
    };
    let proof = ada.proof(Purpose::Logout);
    log_out(&cluster, 1, &proof).await.unwrap();
    for n in [0, 1] {
        wait_for("the login is refused", async || {
            request.ask(&cluster, n).await.map(drop) == Err(AuthError::SessionEnded)
        })
        .await;
        for login in &logins {
            let address = cluster.auths[n].address();
            assert!(!cluster.authorised_at(address, &login.token).await);
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_and_a_logout_asked_again_do_no_harm() {
    let cluster = authenticators(2).await;
    let ada = cluster.new_user("ada", "engine", Role::User).await;
    let other = cluster.login("ada", "engine").await.unwrap();
    let proof = ada.proof(Purpose::Renew);
    for n in [0, 0, 1, 1] {
        let token = renew(&cluster, n, &proof).await.unwrap();
        for auth in &cluster.auths {
            assert!(cluster.authorised_at(auth.address(), &token).await);
        }
    }
    let end = ada.proof(Purpose::Logout);
    let (here, there) = tokio::join!(log_out(&cluster, 0, &end), log_out(&cluster, 1, &end));
    assert_eq!((here, there), (Ok(()), Ok(())));
    for n in [0, 1, 0] {
        assert_eq!(log_out(&cluster, n, &end).await, Ok(()));
        let ended = renew(&cluster, n, &proof).await;
        assert_eq!(ended, Err(AuthError::SessionEnded));
        let address = cluster.auths[n].address();
        assert!(!cluster.authorised_at(address, &ada.token()).await);
        assert!(cluster.authorised_at(address, &other.token()).await);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admins_requests_asked_again_are_done_once() {
    let cluster = authenticators(2).await;
    let desks = [Desk::at(&cluster, 0).await, Desk::at(&cluster, 1).await];
    let [here, there] = &desks;
    let both = tokio::join!(
        here.add_user("ada", "engine", Role::User),
        there.add_user("ada", "engine", Role::User),
    );
    assert_eq!(both, (Ok(()), Ok(())));
    until_users(&cluster, &["ada", "admin"]).await;
    let ada = cluster.login("ada", "engine").await.unwrap();
    for desk in &desks {
        let again = desk.add_user("Ada", "engine", Role::User).await;
        assert_eq!(again, Ok(()));
        // Another user of that name is not the same request.
        for (password, role) in [("other", Role::User), ("engine", Role::Admin)] {
            let other = desk.add_user("ada", password, role).await;
            assert_eq!(other, Err(AuthError::UserExists));
        }
    }
    // It was done once: who logged in between the first and the second goes on.
    for auth in &cluster.auths {
        cluster.renew_at(auth.address(), &ada).await.unwrap();
    }

    let both = tokio::join!(
        here.change_password("ada", None, "changed"),
        there.change_password("ada", None, "changed"),
    );
    assert_eq!(both, (Ok(()), Ok(())));
    for desk in &desks {
        desk.change_password("ada", None, "changed").await.unwrap();
        desk.revoke_user("ada").await.unwrap();
        desk.revoke_user("ada").await.unwrap();
    }
    for auth in &cluster.auths {
        wait_for("the new password is right", async || {
            let login = cluster.login_at(auth.address(), "ada", "changed").await;
            login.is_ok()
        })
        .await;
        let old = cluster.login_at(auth.address(), "ada", "engine").await;
        assert_eq!(old.map(drop), WRONG);
    }

    let both = tokio::join!(here.remove_user("ada"), there.remove_user("ada"));
    assert_eq!(both, (Ok(()), Ok(())));
    for desk in &desks {
        assert_eq!(desk.remove_user("ada").await, Ok(()));
        let unknown = Err(AuthError::UnknownUser);
        assert_eq!(desk.revoke_user("ada").await, unknown);
        assert_eq!(desk.change_password("ada", None, "x").await, unknown);
    }
    until_users(&cluster, &["admin"]).await;
    // The name is free again, and a new user of that name is a new one.
    here.add_user("ada", "anew", Role::User).await.unwrap();
    until_users(&cluster, &["ada", "admin"]).await;
    for auth in &cluster.auths {
        let ended = cluster.renew_at(auth.address(), &ada).await;
        assert_eq!(ended, Err(AuthError::SessionEnded));
        cluster
            .login_at(auth.address(), "ada", "anew")
            .await
            .unwrap();
    }
    drop(desks);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ones_own_new_password_asked_again_keeps_the_session() {
    let cluster = authenticators(2).await;
    let ada = cluster.new_user("ada", "0", Role::User).await;
    let refused = Err(AuthError::Unauthorized(TokenError::Revoked));
    for round in 0..8 {
        let (old, new) = (round.to_string(), (round + 1).to_string());
        let token = renew(&cluster, 0, &ada.proof(Purpose::Renew))
            .await
            .unwrap();
        let [here, there] = [0, 1].map(|n| Desk::with(&cluster, n, &token));
        let (first, second) = tokio::join!(
            here.change_password("ada", Some(&old), &new),
            there.change_password("ada", Some(&old), &new),
        );
        // The token ends with what it stood for; a client renews it and asks again.
        for answer in [&first, &second] {
            assert!(*answer == Ok(()) || *answer == refused, "{answer:?}");
        }
        assert!(first == Ok(()) || second == Ok(()));
        for n in [0, 1] {
            let address = cluster.auths[n].address();
            wait_for("the session goes on", async || {
                let Ok(token) = renew(&cluster, n, &ada.proof(Purpose::Renew)).await else {
                    return false;
                };
                let desk = Desk::with(&cluster, n, &token);
                desk.change_password("ada", Some(&old), &new).await == Ok(())
            })
            .await;
            let desk = Desk::with(&cluster, n, &token);
            let stale = desk.change_password("ada", Some(&old), &new).await;
            assert_eq!(stale, refused);
            cluster.login_at(address, "ada", &new).await.unwrap();
            let before = cluster.login_at(address, "ada", &old).await;
            assert_eq!(before.map(drop), WRONG);
        }
    }
    cluster.stop().await;
}
