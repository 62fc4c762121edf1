use super::*;
use crate::{accounts::MOST_SESSIONS, attempts::Lane, testing::Desk};
use iceflix_core::{
    api::TokenError,
    trust::{SessionKey, password::prehash},
};
use serde_json::json;
use std::time::Duration;
use tokio::task::JoinSet;

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
    AuthService::new(&desk.node, key, accounts, status).with_longest_grant(Span::from_secs(60))
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
    // Each of these compares the old one and the new one.
    for _ in 0..3 {
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

#[test]
fn that_something_is_wrong_is_said_in_steps_of_time() {
    let millis = Duration::from_millis;
    for (took, said) in [(0, 200), (199, 200), (200, 200), (201, 400), (601, 800)] {
        assert_eq!(login::said_after(millis(took)), millis(said), "{took}");
    }
}

#[tokio::test]
async fn only_that_something_is_wrong_is_held_back() {
    let begin = tokio::time::Instant::now();
    let wrong = login::in_steps(async { Err::<(), _>(Failed(AuthError::WrongCredentials)) });
    assert!(wrong.await.is_err());
    assert!(begin.elapsed() >= login::said_after(Duration::ZERO));
    // This never waits, so it is there at once.
    let mut other = Box::pin(login::in_steps(async {
        Err::<(), _>(Failed(AuthError::NotAdmin))
    }));
    let now = tokio::time::timeout(Duration::ZERO, &mut other).await;
    assert!(now.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_names_at_once_do_not_tell_which_of_them_are_users() {
    let desk = Desk::new().await;
    let service = with_ada(&desk).await;
    let accounts = &desk.accounts;
    let ada = accounts.user_here("ada").unwrap();
    for n in 0..6 {
        accounts
            .put_user(&format!("known-{n}"), &ada)
            .await
            .unwrap();
    }
    // So much was wrong from there that what comes next waits in the crowded lane.
    let here = from(&service, 9);
    for n in 0..20 {
        drop(
            here.guard
                .begin(&format!("made-up-{n}"), here.client)
                .unwrap(),
        );
    }
    let mut cores = Vec::new();
    for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
        cores.push(accounts.turn(Lane::Clear).await.unwrap());
    }
    let room = accounts.hashing.room(Lane::Crowded);
    let mut asked = JoinSet::new();
    for n in 0..5 {
        for name in [format!("known-{n}"), format!("unknown-{n}")] {
            let here = here.clone();
            asked.spawn(async move { log_in(&here, &name, "guess").await.map(drop) });
            // None is answered before it was its turn.
            let standing = asked.len();
            while accounts.hashing.room(Lane::Crowded) > room - standing {
                assert!(asked.try_join_next().is_none(), "{n}");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
    // Nor does it tell anything that others do not get into the lane.
    let full = Err(AuthError::TooManyAttempts { retry_after_s: 1 });
    for name in ["known-5", "unknown-5"] {
        assert_eq!(log_in(&here, name, "guess").await.map(drop), full);
    }
    drop(cores);
    for answer in asked.join_all().await {
        assert_eq!(answer, Err(AuthError::WrongCredentials));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_password_is_as_many_guesses_as_it_compares() {
    let desk = Desk::new().await;
    let service = with_ada(&desk).await;
    let (thief, owner) = (from(&service, 1), from(&service, 2));
    let token = log_in(&owner, "ada", "right").await.unwrap().token;
    let change = async |who: &AuthService, old: &str, new: &str| {
        let (old, new) = (Some(prehash("ada", old)), prehash("ada", new));
        answer(who.try_change_password(&token, "ada", old, new).await)
    };
    // Of these, five guesses are free: the sixth is not looked at, though it is the right one.
    for (old, new) in [("one", "two"), ("three", "four"), ("five", "right")] {
        let wrong = change(&thief, old, new).await;
        assert_eq!(wrong, Err(AuthError::WrongCredentials), "{old}, {new}");
    }
    let early = Err(AuthError::TooManyAttempts { retry_after_s: 1 });
    assert_eq!(change(&thief, "right", "mine").await, early);
    // A repeated request that was done already is no guess.
    for _ in 0..10 {
        assert_eq!(change(&owner, "before", "right").await, Ok(()));
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

/// Lets a request run until it has to wait for something.
async fn begin<T>(request: &mut (impl Future<Output = T> + Unpin)) {
    tokio::select! {
        biased;
        _ = request => panic!("it has ended"),
        () = std::future::ready(()) => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_admin_asked_for_is_not_done_once_they_are_revoked() {
    let desk = Desk::new().await;
    let service = with_ada(&desk).await;
    let accounts = &desk.accounts;
    for (n, demoted) in [false, true].into_iter().enumerate() {
        let admin = format!("admin-{n}");
        let password = accounts.hash(prehash(&admin, "secret")).await.unwrap();
        let role = Role::Admin;
        let user = User {
            password,
            role,
            created: 1,
        };
        accounts.put_user(&admin, &user).await.unwrap();
        let ada = log_in(&service, "ada", "right").await.unwrap();
        let token = log_in(&service, &admin, "secret").await.unwrap().token;
        // All of these were allowed when they came, and wait for their turn.
        let deciding = accounts.decide().await;
        let new = prehash("eve", "x");
        let mut add = Box::pin(service.try_add_user(&token, "eve", new, Role::Admin));
        let mut revoke = Box::pin(service.try_revoke_user(&token, "ada"));
        let film = MediaId::from_bytes([1; 32]);
        let mut grant = Box::pin(service.try_grant(&token, SessionId::random(), film, 1));
        let mut end = Box::pin(service.try_end_session(&token, ada.session));
        begin(&mut add).await;
        begin(&mut revoke).await;
        begin(&mut grant).await;
        begin(&mut end).await;
        match demoted {
            true => {
                let role = Role::User;
                let user = User { role, ..user };
                accounts.put_role(&admin, &user).await.unwrap();
            }
            false => accounts.revoke(&admin).await.unwrap(),
        }
        service.say_epoch(admin.clone());
        drop(deciding);
        let refused = Err(AuthError::Unauthorized(TokenError::Revoked));
        let (add, revoke, grant, end) = tokio::join!(add, revoke, grant, end);
        assert_eq!(answer(add), refused);
        assert_eq!(answer(revoke), refused);
        assert_eq!(answer(grant.map(drop)), refused);
        assert_eq!(answer(end), refused);
        assert!(accounts.user_here("eve").is_none());
        assert!(accounts.session_here(ada.session).is_some());
        assert_eq!(accounts.grants_of(&admin), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_oldest_session_ends_when_there_are_too_many() {
    let desk = Desk::new().await;
    let service = with_ada(&desk).await;
    let accounts = &desk.accounts;
    let (others, _) = desk.session("bob").await;
    let mut opened = Vec::new();
    let now = trust::now().as_secs();
    for age in (1..=MOST_SESSIONS as u64).rev() {
        let (id, session) = desk.session("ada").await;
        let session = Session {
            opened: now - age,
            ..session
        };
        accounts.put_session(id, &session).await.unwrap();
        opened.push((id, service.token(id, &session, Role::User).unwrap()));
    }
    // A grant is not counted, however old.
    let (grant, session) = desk.session("ada").await;
    let granted = Session {
        opened: 1,
        media: Some(MediaId::from_bytes([1; 32])),
        ..session
    };
    accounts.put_grant(grant, &granted).await.unwrap();

    let (id, public) = (
        SessionId::random(),
        SessionKey::generate().unwrap().public(),
    );
    let right = prehash("ada", "right");
    // A repeated login is the same session, and ends no other.
    for _ in 0..3 {
        let login = service.try_login("ada", right, id, public).await;
        assert!(answer(login).is_ok());
    }
    for (n, (session, token)) in opened.iter().enumerate() {
        let stays = n > 0;
        assert_eq!(accounts.was_ended(*session), !stays, "{n}");
        assert_eq!(service.verifier.check(token).await.is_ok(), stays, "{n}");
    }
    for stays in [others, grant, id] {
        assert!(accounts.session_here(stays).is_some());
    }
    log_in(&service, "ada", "right").await.unwrap();
    let left = opened
        .iter()
        .filter(|(id, _)| accounts.session_here(*id).is_some());
    assert_eq!(left.count(), MOST_SESSIONS - 2);
    assert!(accounts.was_ended(opened[1].0));
}

#[test]
fn a_full_disk_is_told_from_what_broke() {
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    for (error, told) in [
        (StoreError::Write(Arc::new(full)), AuthError::CannotWrite),
        (StoreError::Closed, AuthError::Internal),
    ] {
        let failed = Failed::from(AccountsError::from(error));
        assert_eq!(answer::<()>(Err(failed)), Err(told));
    }
}
