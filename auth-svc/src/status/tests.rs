use super::*;
use crate::testing::Desk;
use iceflix_core::{
    api::{
        SessionId, TokenError,
        auth::{Role, Token},
    },
    feed,
    trust::{now, token},
};
use serde_json::json;
use std::time::Duration;

/// What is said now, by name.
async fn said(desk: &Desk) -> Vec<String> {
    let all = desk.node.topics.authentication().all();
    let answers = desk.node.bus.ask(
        &all,
        Vec::new(),
        iceflix_core::bus::Size::Large,
        Duration::from_secs(60),
    );
    let answers = answers.await.unwrap();
    let pieces = answers
        .iter()
        .map(|answer| serde_json::from_slice(&answer.payload).unwrap());
    let snapshot = feed::assemble(pieces.collect()).unwrap();
    snapshot.entries.into_keys().collect()
}

fn token_of(desk: &Desk, session: SessionId, epoch: u64) -> Token {
    token::issue(
        &desk.keys.current(),
        "desk",
        "ada",
        session,
        Role::User,
        epoch,
        now(),
    )
    .unwrap()
}

fn ended(session: SessionId) -> AuthenticationFact {
    AuthenticationFact::SessionEnded { session }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_session_is_spoken_of_until_no_token_can_rest_on_it() {
    let desk = Desk::new().await;
    let status = desk.status().await;
    let (first, second) = (SessionId::random(), SessionId::random());
    let token = token_of(&desk, first, 0);
    assert!(desk.node.verifier.check_now(&token).is_ok());
    let start = Instant::now();
    status.revoked(&ended(first));
    assert_eq!(
        desk.node.verifier.check_now(&token),
        Err(TokenError::Revoked)
    );

    // Its last token was issued at the latest when it ended.
    status.forget_old(start + TOKEN_LIFETIME * 2, |_| false);
    assert!(said(&desk).await.contains(&ended(first).name()));
    assert_eq!(
        desk.node.verifier.check_now(&token),
        Err(TokenError::Revoked)
    );
    status.revoked(&ended(second));
    status.forget_old(Instant::now() + TOKEN_LIFETIME * 4, |_| false);
    let rest = said(&desk).await;
    let keys = rest.iter().filter(|name| name.starts_with("key/")).count();
    assert_eq!((rest.len(), keys), (2, 2), "{rest:?}");
    status.forget_old(Instant::now() + TOKEN_LIFETIME * 40, |_| false);
    assert_eq!(said(&desk).await, rest, "its keys are not forgotten so");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_revoked_before_the_start_is_said_from_the_start() {
    let desk = Desk::new().await;
    let (session, _) = desk.session("ada").await;
    desk.accounts.end_session(session).await.unwrap();
    desk.accounts.revoke("bob").await.unwrap();
    let status = desk.status().await;
    let token = token_of(&desk, session, 0);
    assert_eq!(
        desk.node.verifier.check_now(&token),
        Err(TokenError::Revoked)
    );
    let all = said(&desk).await;
    // Two keys, the session and the user.
    assert_eq!(all.len(), 4, "{all:?}");
    assert!(all.contains(&ended(session).name()));
    // The session passes, the user's epoch does not.
    status.forget_old(Instant::now() + TOKEN_LIFETIME * 4, |_| false);
    let rest = said(&desk).await;
    assert!(
        rest.len() == 3 && rest.contains(&"user/bob".to_owned()),
        "{rest:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_other_authenticators_revoke_here_at_once() {
    let desk = Desk::new().await;
    let status = desk.status().await;
    let (session, other) = (SessionId::random(), SessionId::random());
    let tokens =
        [(session, 5), (other, 5), (other, 9)].map(|(id, epoch)| token_of(&desk, id, epoch));
    let good = || {
        tokens
            .each_ref()
            .map(|token| desk.node.verifier.check_now(token).is_ok())
    };
    assert_eq!(good(), [true; 3]);
    status.rows_changed(&[
        (format!("ended/{session}"), Some(json!(1))),
        // These say nothing: a row cleared away, and what makes no sense.
        (format!("ended/{other}"), None),
        ("ended/nonsense".into(), Some(json!(1))),
        (format!("session/{other}"), Some(json!(1))),
        ("nonsense".into(), Some(json!(1))),
    ]);
    assert_eq!(good(), [false, true, true]);
    let began = ("epoch/ada".to_owned(), Some(json!(9)));
    desk.replica.put(vec![began.clone()]).await.unwrap();
    status.rows_changed(&[began]);
    assert_eq!(good(), [false, false, true]);
    assert_eq!(said(&desk).await.len(), 4);
}

/// As at the next start: an epoch that cannot be read ends all sessions until there is a new one.
#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_that_cannot_be_read_is_said_as_it_counts_here() {
    for value in [Some(json!({ "later": "version" })), Some(json!("x")), None] {
        let desk = Desk::new().await;
        desk.accounts.revoke("ada").await.unwrap();
        let (status, began) = (desk.status().await, desk.accounts.epoch("ada"));
        let token = |epoch| token_of(&desk, SessionId::random(), epoch);
        let check = |epoch| desk.node.verifier.check_now(&token(epoch));
        let row = ("epoch/ada".to_owned(), value);
        desk.replica.put(vec![row.clone()]).await.unwrap();
        assert!(check(began).is_ok(), "nobody has said it yet");
        status.rows_changed(&[row]);
        let revoked = Err(TokenError::Revoked);
        for epoch in [began, began + 3_600_000] {
            assert_eq!(check(epoch).map(drop), revoked, "{epoch}");
        }
        // A word that comes late says what has become of it meanwhile.
        let mended = desk.accounts.mended_epoch("ada").await.unwrap();
        status.rows_changed(&[("epoch/ada".to_owned(), Some(json!("late")))]);
        assert!(check(mended).is_ok());
        assert_eq!(check(mended - 1).map(drop), revoked);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_grant_is_spoken_of_until_it_would_have_been_over() {
    let desk = Desk::new().await;
    let status = desk.status().await;
    let (grant, session) = (SessionId::random(), SessionId::random());
    let (_, row) = desk.session("ada").await;
    desk.accounts.put_grant(grant, &row).await.unwrap();
    for id in [grant, session] {
        desk.accounts.end_session(id).await.unwrap();
        status.revoked(&ended(id));
    }
    // A node that was cut off meanwhile still plays by it, and hears of it when it is back.
    let granted = |id| desk.accounts.is_granted(id);
    status.forget_old(Instant::now() + TOKEN_LIFETIME * 40, granted);
    let rest = said(&desk).await;
    assert!(rest.contains(&ended(grant).name()), "{rest:?}");
    assert!(!rest.contains(&ended(session).name()), "{rest:?}");

    let over = Duration::from_secs(row.until);
    desk.accounts.clear_expired(over).await;
    status.forget_old(Instant::now() + TOKEN_LIFETIME * 40, granted);
    assert!(!said(&desk).await.contains(&ended(grant).name()));
}
