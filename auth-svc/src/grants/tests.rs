use super::*;
use crate::{service::AuthService, testing::Desk};
use iceflix_core::{
    api::{
        TokenError,
        auth::{AuthError, Authenticator, Grant, SessionProof},
    },
    trust::{Purpose, SessionKey, token},
};
use std::sync::Arc;
use tarpc::context;

const HOUR: u64 = 3600;

/// An authenticator that grants up to two hours, and tokens of `ada` and of the admin `root`.
struct Scene {
    desk: Desk,
    service: AuthService,
    ada: Token,
    root: Token,
}

impl Scene {
    async fn new() -> Self {
        let desk = Desk::new().await;
        let status = Arc::new(desk.status().await);
        let (keys, accounts) = (desk.keys.clone(), desk.accounts.clone());
        let service = AuthService::new(&desk.node, keys, accounts, status)
            .with_longest_grant(Span::from_secs(2 * HOUR));
        let token = |user: &str, role| {
            let session = SessionId::random();
            token::issue(
                &desk.keys.current(),
                "desk",
                user,
                session,
                role,
                0,
                trust::now(),
            )
            .unwrap()
        };
        let (ada, root) = (token("ada", Role::User), token("root", Role::Admin));
        Self {
            desk,
            service,
            ada,
            root,
        }
    }

    async fn grant(&self, id: SessionId, seconds: u64) -> Result<Granted, AuthError> {
        let (service, token) = (self.service.clone(), self.ada.clone());
        service
            .grant(context::current(), token, id, film(), seconds)
            .await
    }

    async fn end(&self, token: &Token, id: SessionId) -> Result<(), AuthError> {
        let service = self.service.clone();
        service
            .end_grant(context::current(), token.clone(), id)
            .await
    }

    async fn check(&self, grant: &Grant) -> Result<Leave, TokenError> {
        self.desk.node.verifier.check_grant(grant).await
    }
}

fn film() -> MediaId {
    MediaId::from_bytes([5; 32])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_is_one_users_for_one_film_and_asking_again_changes_nothing() {
    let scene = Scene::new().await;
    let id = SessionId::random();
    let granted = scene.grant(id, HOUR).await.unwrap();
    let leave = scene.check(&granted.grant).await.unwrap();
    assert_eq!((leave.media, leave.identity.session), (film(), id));
    assert_eq!(leave.identity.user, "ada");
    assert_eq!(leave.identity.expires.as_secs(), granted.until);
    let lasts = granted.until - trust::now().as_secs();
    assert!((HOUR - 5..=HOUR).contains(&lasts), "{lasts}");

    let again = scene.grant(id, 2 * HOUR).await.unwrap();
    assert_eq!(again.until, granted.until);
    assert_eq!(scene.desk.accounts.grants_of("ada"), 1);
    // Nobody takes over what is another's, nor makes it one for another film.
    let (service, root) = (scene.service.clone(), scene.root.clone());
    let others = service.grant(context::current(), root, id, film(), HOUR);
    assert_eq!(others.await, Err(AuthError::UnknownGrant));
    let (service, ada) = (scene.service.clone(), scene.ada.clone());
    let other = MediaId::from_bytes([6; 32]);
    let other = service.grant(context::current(), ada, id, other, HOUR);
    assert_eq!(other.await, Err(AuthError::UnknownGrant));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_more_time_or_more_grants_than_there_are_for_anyone() {
    let scene = Scene::new().await;
    for seconds in [0, 2 * HOUR + 1, u64::MAX] {
        let refused = scene.grant(SessionId::random(), seconds).await;
        assert_eq!(refused, Err(AuthError::GrantTooLong(2 * HOUR)), "{seconds}");
    }
    let error = AuthError::GrantTooLong(2 * HOUR).to_string();
    assert!(error.contains("2h"), "{error}");
    let mut last = SessionId::random();
    for _ in 0..MOST {
        last = SessionId::random();
        scene.grant(last, HOUR).await.unwrap();
    }
    let more = scene.grant(SessionId::random(), HOUR).await;
    assert_eq!(more, Err(AuthError::TooManyGrants));
    assert!(scene.grant(last, HOUR).await.is_ok(), "it is there already");
    scene.end(&scene.ada, last).await.unwrap();
    assert!(scene.grant(SessionId::random(), HOUR).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_its_owner_and_admins_end_a_grant_and_it_stays_ended() {
    let scene = Scene::new().await;
    let id = SessionId::random();
    let granted = scene.grant(id, HOUR).await.unwrap();
    let session = SessionId::random();
    let stranger = token::issue(
        &scene.desk.keys.current(),
        "desk",
        "eve",
        session,
        Role::User,
        0,
        trust::now(),
    );
    let strangers = scene.end(&stranger.unwrap(), id).await;
    assert_eq!(strangers, Err(AuthError::UnknownGrant));
    assert!(scene.check(&granted.grant).await.is_ok());
    assert_eq!(scene.end(&scene.root, id).await, Ok(()));
    assert_eq!(scene.end(&scene.ada, id).await, Ok(()), "again is no error");
    let refused = scene.check(&granted.grant).await;
    assert_eq!(refused, Err(TokenError::Revoked));
    assert_eq!(scene.grant(id, HOUR).await, Err(AuthError::SessionEnded));
    // A login session is no grant.
    let (session, _) = scene.desk.session("ada").await;
    assert_eq!(
        scene.end(&scene.ada, session).await,
        Err(AuthError::UnknownGrant)
    );
    assert!(scene.desk.accounts.session_here(session).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_a_users_sessions_ends_their_grants() {
    let scene = Scene::new().await;
    let granted = scene.grant(SessionId::random(), HOUR).await.unwrap();
    let service = scene.service.clone();
    let user = crate::accounts::User {
        password: String::new(),
        role: Role::User,
        created: 1,
    };
    scene.desk.accounts.put_user("ada", &user).await.unwrap();
    let revoked = service.revoke_user(context::current(), scene.ada.clone(), "ada".into());
    revoked.await.unwrap();
    let refused = scene.check(&granted.grant).await;
    assert_eq!(refused, Err(TokenError::Revoked));
    assert_eq!(scene.desk.accounts.grants_of("ada"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_renewed_or_logged_out_with_a_grant() {
    let scene = Scene::new().await;
    let id = SessionId::random();
    let granted = scene.grant(id, HOUR).await.unwrap();
    for purpose in [Purpose::Renew, Purpose::Logout] {
        let key = SessionKey::generate().unwrap();
        let proof: SessionProof = key.prove(id, "desk", purpose, trust::now()).unwrap();
        let service = scene.service.clone();
        let refused = match purpose {
            Purpose::Renew => service
                .refresh_authorization(context::current(), proof)
                .await
                .map(drop),
            _ => service.logout(context::current(), proof).await,
        };
        assert_eq!(refused, Err(AuthError::SessionEnded), "{purpose:?}");
    }
    assert!(scene.check(&granted.grant).await.is_ok(), "it goes on");
}

#[test]
fn the_configured_limit_is_from_a_minute_to_seven_days() {
    for (limit, good) in [
        ("59s", false),
        ("1m", true),
        ("12h", true),
        ("7d", true),
        ("169h", false),
    ] {
        let checked = check_longest(limit.parse().unwrap());
        assert_eq!(checked.is_ok(), good, "{limit}: {checked:?}");
    }
}
