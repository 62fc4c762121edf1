use super::*;
use crate::testing::Desk;
use iceflix_core::trust::{SessionKey, password::prehash};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_login_survives_that_another_first_admin_replaces_ours() {
    let desk = Desk::new().await;
    let status = Arc::new(desk.status().await);
    let (keys, accounts) = (desk.keys.clone(), desk.accounts.clone());
    let service = AuthService::new(&desk.node, keys, accounts.clone(), status);
    accounts.make_first_admin("secret").await.unwrap();
    let hash = prehash("admin", "secret");
    let public = SessionKey::generate().unwrap().public();
    // Wherever in the login it happens: checking a password takes some 20 ms.
    for n in 0..12 {
        let login = {
            let service = service.clone();
            let id = SessionId::random();
            tokio::spawn(async move { answer(service.try_login("admin", hash, id, public).await) })
        };
        // The same password, with another salt.
        let mut admin = accounts.user_here("admin").unwrap();
        admin.password = accounts.hash(hash).await.unwrap();
        tokio::time::sleep(Duration::from_millis(n * 2)).await;
        accounts.put_user("admin", &admin).await.unwrap();
        assert!(login.await.unwrap().is_ok(), "round {n}");
    }
    // Another password does not pass, whenever it is set.
    for n in 0..12 {
        let mut admin = accounts.user_here("admin").unwrap();
        admin.password = accounts.hash(hash).await.unwrap();
        accounts.put_user("admin", &admin).await.unwrap();
        let login = {
            let service = service.clone();
            let id = SessionId::random();
            tokio::spawn(async move { answer(service.try_login("admin", hash, id, public).await) })
        };
        tokio::time::sleep(Duration::from_millis(n * 2)).await;
        let other = prehash("admin", &format!("changed {n}"));
        admin.password = accounts.hash(other).await.unwrap();
        accounts.put_password("admin", &admin, None).await.unwrap();
        if let Ok(login) = login.await.unwrap() {
            assert!(accounts.session_here(login.session).is_none(), "round {n}");
        }
    }
}

/// A service with the user `ada`, whose password is "right".
async fn with_ada(desk: &Desk) -> AuthService {
    let status = Arc::new(desk.status().await);
    let (key, accounts) = (desk.keys.clone(), desk.accounts.clone());
    let password = accounts.hash(prehash("ada", "right")).await.unwrap();
    let ada = User {
        password,
        role: Role::User,
        created: 1,
    };
    accounts.put_user("ada", &ada).await.unwrap();
    AuthService::new(&desk.node, key, accounts, status)
}

fn from(service: &AuthService, host: u8) -> AuthService {
    AuthService {
        client: IpAddr::from([10, 0, 0, host]),
        ..service.clone()
    }
}

async fn log_in(service: &AuthService, user: &str, password: &str) -> Result<Login, AuthError> {
    let public = SessionKey::generate().unwrap().public();
    let (hash, id) = (prehash(user, password), SessionId::random());
    answer(service.try_login(user, hash, id, public).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_are_refused_unseen_and_only_where_they_come_from() {
    let desk = Desk::new().await;
    let service = with_ada(&desk).await;
    let (thief, owner) = (from(&service, 1), from(&service, 2));
    let mut wrong = 0;
    let refused = loop {
        match log_in(&thief, "ada", "guess").await.map(drop) {
            Err(AuthError::WrongCredentials) => wrong += 1,
            refused => break refused,
        }
        assert!(wrong < 100);
    };
    let early = Err(AuthError::TooManyAttempts { retry_after_s: 1 });
    assert_eq!((wrong, refused.clone()), (5, early.clone()));
    // The right password is not looked at either: it would tell that it is right.
    assert_eq!(log_in(&thief, "ada", "right").await.map(drop), early);
    // The same for one's own password, with the old one to be guessed.
    let login = log_in(&owner, "ada", "right").await.unwrap();
    let guessing = |old: &str| {
        let (old, new) = (Some(prehash("ada", old)), prehash("ada", "mine"));
        let (thief, token) = (thief.clone(), login.token.clone());
        async move { answer(thief.try_change_password(&token, "ada", old, new).await) }
    };
    assert_eq!(guessing("right").await, early);
    log_in(&from(&service, 3), "nobody", "x").await.unwrap_err();
    for _ in 0..5 {
        let stranger = from(&service, 3);
        let stolen = login.token.clone();
        let (old, new) = (Some(prehash("ada", "no")), prehash("ada", "mine"));
        let change = stranger.try_change_password(&stolen, "ada", old, new).await;
        assert_eq!(answer(change), Err(AuthError::WrongCredentials));
    }
    let there = log_in(&from(&service, 3), "ada", "right").await.map(drop);
    assert_eq!(there, early);
    log_in(&owner, "ada", "right").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_user_is_refused_like_a_wrong_password() {
    let desk = Desk::new().await;
    let service = with_ada(&desk).await;
    let here = from(&service, 7);
    for user in ["ada", "nobody", "a\nb"] {
        for _ in 0..5 {
            let wrong = log_in(&here, user, "wrong").await.map(drop);
            assert_eq!(wrong, Err(AuthError::WrongCredentials), "{user:?}");
        }
        let early = log_in(&here, user, "wrong").await.map(drop);
        let expected = Err(AuthError::TooManyAttempts { retry_after_s: 1 });
        assert_eq!(early, expected, "{user:?}");
    }
}

#[tokio::test]
async fn that_something_is_wrong_is_said_in_steps_of_time() {
    let wrong = async || Err::<(), _>(Failed(AuthError::WrongCredentials));
    let slow = async || {
        tokio::time::sleep(Duration::from_millis(250)).await;
        wrong().await
    };
    for (work, millis) in [(false, 200), (true, 400)] {
        let begin = tokio::time::Instant::now();
        let answer = match work {
            true => login::in_steps(slow()).await,
            false => login::in_steps(wrong()).await,
        };
        assert!(answer.is_err());
        assert!(begin.elapsed() >= Duration::from_millis(millis));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_mends_an_epoch_that_cannot_be_read() {
    let desk = Desk::new().await;
    let service = with_ada(&desk).await;
    let old = log_in(&service, "ada", "right").await.unwrap();
    let damaged = vec![("epoch/ada".to_owned(), Some(json!("damaged")))];
    desk.replica.put(damaged).await.unwrap();
    let new = log_in(&service, "ada", "right").await.unwrap();
    assert!(desk.accounts.session_here(old.session).is_none());
    assert!(desk.accounts.session_here(new.session).is_some());
    assert!(service.verifier.check(&new.token).await.is_ok());
    assert!(service.verifier.check(&old.token).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_user_hears_so_with_the_right_password_only() {
    let desk = Desk::new().await;
    let service = with_ada(&desk).await;
    desk.accounts.disable("ada").await.unwrap();
    let right = log_in(&service, "ada", "right").await.map(drop);
    assert_eq!(right, Err(AuthError::Disabled));
    let wrong = log_in(&service, "ada", "wrong").await.map(drop);
    assert_eq!(wrong, Err(AuthError::WrongCredentials));
    // Knowing the password is no attempt to guess it.
    for _ in 0..10 {
        let right = log_in(&service, "ada", "right").await.map(drop);
        assert_eq!(right, Err(AuthError::Disabled));
    }
}
