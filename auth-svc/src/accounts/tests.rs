use super::*;
use crate::testing::Desk;
use iceflix_core::announcement::Absence;
use serde_json::json;

fn user(role: Role) -> User {
    User {
        password: "scheme$hash".to_owned(),
        role,
        created: 1,
    }
}

fn page(after: Option<&str>, limit: u32) -> PageRequest {
    PageRequest {
        after: after.map(str::to_owned),
        limit,
    }
}

fn days(n: u64) -> Duration {
    trust::now() + Duration::from_secs(n * 24 * 3600)
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_are_over_are_cleared_away_and_no_others() {
    let desk = Desk::new().await;
    let accounts = &desk.accounts;
    let (stays, session) = desk.session("ada").await;
    let (over, _) = desk.session("ada").await;
    let until = session.until - 100;
    let short = Session { until, ..session };
    accounts.put_session(over, &short).await.unwrap();
    accounts.clear_expired(Duration::from_secs(until - 1)).await;
    assert!(accounts.session_here(over).is_some());
    accounts.clear_expired(Duration::from_secs(until)).await;
    assert_eq!(desk.replica.get(&session_key(over)), None);
    assert!(accounts.session(stays).await.is_some());
    assert!(!accounts.was_ended(over), "it ended by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_cleared_away_by_a_clock_that_is_wrong() {
    let desk = Desk::new().await;
    let absences = &desk.node.absences;
    let (id, _) = desk.session("ada").await;
    absences.set(Absence::Clock, true);
    crate::clear(&desk.accounts, absences, days(1000)).await;
    assert!(desk.accounts.session_here(id).is_some());
    absences.set(Absence::Clock, false);
    crate::clear(&desk.accounts, absences, days(1000)).await;
    assert!(desk.accounts.session_here(id).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_session_is_remembered_for_longer_than_it_would_have_lasted() {
    let desk = Desk::new().await;
    let accounts = &desk.accounts;
    let (id, session) = desk.session("ada").await;
    accounts.end_session(id).await.unwrap();
    assert!(accounts.session(id).await.is_none());
    // Another authenticator, which has not heard of it, writes the session once more.
    accounts.put_session(id, &session).await.unwrap();
    assert!(accounts.session(id).await.is_none());
    accounts
        .clear_expired(trust::now() + SESSION_LIFETIME)
        .await;
    assert!(accounts.was_ended(id) && accounts.ended() == [id]);
    accounts.clear_expired(days(9)).await;
    assert!(!accounts.was_ended(id) && accounts.ended().is_empty());
    assert_eq!(desk.replica.scan("session/"), []);
    // Ending it twice, or one that there never was, harms nothing.
    accounts.end_session(id).await.unwrap();
    accounts.end_session(id).await.unwrap();
    assert!(accounts.was_ended(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_counts_for_nothing_and_is_kept() {
    let desk = Desk::new().await;
    let accounts = &desk.accounts;
    let id = SessionId::random();
    let strange = vec![
        (session_key(id), Some(json!({ "later": "version" }))),
        (ended_key(id), Some(json!("later version"))),
        (user_key("eve"), Some(json!(7))),
    ];
    desk.replica.put(strange.clone()).await.unwrap();
    assert!(accounts.session(id).await.is_none());
    assert!(accounts.was_ended(id), "what says an end, ends");
    assert!(accounts.user("eve").await.is_none());
    assert!(accounts.list(&PageRequest::first()).items.is_empty());
    accounts.clear_expired(days(1000)).await;
    for (key, value) in strange {
        assert_eq!(desk.replica.get(&key), value, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_admin_is_made_when_there_never_was_a_user() {
    let desk = Desk::new().await;
    let accounts = &desk.accounts;
    accounts.make_first_admin("one").await.unwrap();
    let admin = accounts.user_here(FIRST_ADMIN).unwrap();
    assert_eq!(admin.role, Role::Admin);
    let one = password::prehash(FIRST_ADMIN, "one");
    assert!(accounts.verify(&admin, one).await.unwrap());
    accounts.make_first_admin("two").await.unwrap();
    assert_eq!(accounts.user_here(FIRST_ADMIN), Some(admin));

    accounts
        .put_user("grace", &user(Role::Admin))
        .await
        .unwrap();
    accounts.remove_user(FIRST_ADMIN).await.unwrap();
    accounts.make_first_admin("three").await.unwrap();
    assert_eq!(accounts.user_here(FIRST_ADMIN), None);
    // Whoever was removed does not come back because nobody else is left.
    accounts.remove_user("grace").await.unwrap();
    accounts.make_first_admin("four").await.unwrap();
    assert_eq!(accounts.user_here(FIRST_ADMIN), None);
    assert!(accounts.was_removed(FIRST_ADMIN) && !accounts.was_removed("nobody"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_revocation_ends_what_was_opened_before_it() {
    let desk = Desk::new().await;
    let accounts = &desk.accounts;
    accounts.put_user("ada", &user(Role::User)).await.unwrap();
    let (other, _) = desk.session("adah").await;
    // Faster than the clock's milliseconds.
    for _ in 0..20 {
        let (id, _) = desk.session("ada").await;
        assert!(accounts.session_here(id).is_some());
        accounts.revoke("ada").await.unwrap();
        assert!(accounts.session_here(id).is_none());
    }
    let (kept, session) = desk.session("ada").await;
    let (ended, _) = desk.session("ada").await;
    let keep = Some((kept, session));
    accounts
        .put_password("ada", &user(Role::User), keep)
        .await
        .unwrap();
    assert!(accounts.session_here(kept).is_some());
    assert!(accounts.session_here(ended).is_none());
    accounts.remove_user("ada").await.unwrap();
    assert!(accounts.session_here(kept).is_none());
    assert!(accounts.session_here(other).is_some());
    assert_eq!(
        accounts.epochs(),
        [("ada".to_owned(), accounts.epoch("ada"))]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_listed_by_name_in_pages() {
    let desk = Desk::new().await;
    let accounts = &desk.accounts;
    let names = ["a", "a/b", "ab", "b", "é"];
    for name in names.iter().rev() {
        accounts.put_user(name, &user(Role::User)).await.unwrap();
    }
    for limit in 1..=6 {
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let part = accounts.list(&page(after.as_deref(), limit));
            assert!(part.items.len() <= limit as usize);
            listed.extend(part.items.into_iter().map(|user| user.name));
            match part.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        assert_eq!(listed, names, "{limit} a page");
    }
    // Where the page before ended may be gone by now.
    let rest = accounts.list(&page(Some("ac"), 9));
    assert_eq!(rest.items.len(), 2);
    assert_eq!(accounts.list(&page(Some("z\u{10ffff}"), 9)).items.len(), 1);
    assert_eq!(accounts.list(&page(Some("é"), 9)).items, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_admin_is_known() {
    let desk = Desk::new().await;
    let accounts = &desk.accounts;
    accounts.put_user("ada", &user(Role::Admin)).await.unwrap();
    accounts.put_user("bob", &user(Role::User)).await.unwrap();
    assert!(accounts.is_last_admin("ada"));
    accounts
        .put_user("grace", &user(Role::Admin))
        .await
        .unwrap();
    assert!(!accounts.is_last_admin("ada") && !accounts.is_last_admin("grace"));
    accounts.remove_user("ada").await.unwrap();
    assert!(accounts.is_last_admin("grace"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_that_cannot_be_read_revives_nothing() {
    let desk = Desk::new().await;
    let accounts = &desk.accounts;
    let (revoked, _) = desk.session("ada").await;
    accounts.revoke("ada").await.unwrap();
    let (good, _) = desk.session("ada").await;
    let damaged = vec![(epoch_key("ada"), Some(json!({ "later": "version" })))];
    desk.replica.put(damaged).await.unwrap();
    for id in [revoked, good] {
        assert!(accounts.session_here(id).is_none());
    }
    assert_eq!(accounts.epochs(), [("ada".to_owned(), UNREADABLE)]);
    // A new one is an epoch like any other: what is opened in it can be ended.
    let epoch = accounts.mended_epoch("ada").await.unwrap();
    assert!(epoch < UNREADABLE && accounts.mended_epoch("ada").await.unwrap() == epoch);
    assert!(accounts.session_here(revoked).is_none());
    let (new, _) = desk.session("ada").await;
    assert!(accounts.session_here(new).is_some());
    accounts.revoke("ada").await.unwrap();
    assert!(accounts.session_here(new).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_never_goes_back() {
    let desk = Desk::new().await;
    let accounts = &desk.accounts;
    accounts.revoke("ada").await.unwrap();
    let earlier = accounts.epoch("ada");
    let (revoked, _) = desk.session("ada").await;
    accounts.revoke("ada").await.unwrap();
    let later = accounts.epoch("ada");
    assert!(later > earlier);
    // As another authenticator's that has not heard of it, and writes last.
    let row = write(epoch_key("ada"), &earlier);
    desk.replica.put(vec![row]).await.unwrap();
    assert_eq!(accounts.epoch("ada"), later);
    assert!(accounts.session_here(revoked).is_none());
    // A row that was removed says that there was one.
    let removed = vec![(epoch_key("ada"), None)];
    desk.replica.put(removed).await.unwrap();
    assert!(accounts.session_here(revoked).is_none());
    assert!(accounts.mended_epoch("ada").await.unwrap() > later);
    assert!(accounts.session_here(revoked).is_none());
    // One that no clock can have said is mended like one that cannot be read.
    let row = write(epoch_key("ada"), &(UNREADABLE - 1));
    desk.replica.put(vec![row]).await.unwrap();
    assert_eq!(accounts.epoch("ada"), UNREADABLE);
    let mended = accounts.mended_epoch("ada").await.unwrap();
    assert!(mended > later && mended < UNREADABLE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_user_stays_so_whatever_else_is_written() {
    let desk = Desk::new().await;
    let accounts = &desk.accounts;
    accounts.put_user("ada", &user(Role::User)).await.unwrap();
    let (session, _) = desk.session("ada").await;
    accounts.disable("ada").await.unwrap();
    assert!(accounts.session_here(session).is_none());
    // As another authenticator's that has not heard of it.
    let row = write(user_key("ada"), &user(Role::Admin));
    desk.replica.put(vec![row]).await.unwrap();
    accounts
        .put_password("ada", &user(Role::Admin), None)
        .await
        .unwrap();
    assert!(accounts.is_disabled("ada"));
    let listed = accounts.list(&PageRequest::first()).items;
    assert!(listed[0].disabled);
    accounts.enable("ada").await.unwrap();
    assert!(!accounts.is_disabled("ada"));
    // What cannot be read disables, too.
    let strange = vec![(standing::disabled_key("ada"), Some(json!("later version")))];
    desk.replica.put(strange).await.unwrap();
    assert!(accounts.is_disabled("ada"));
    // A new user of a removed one's name is not disabled.
    accounts.remove_user("ada").await.unwrap();
    accounts.put_user("ada", &user(Role::User)).await.unwrap();
    assert!(!accounts.is_disabled("ada"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_admin_is_no_admin_that_is_left() {
    let desk = Desk::new().await;
    let accounts = &desk.accounts;
    for name in ["ada", "grace"] {
        accounts.put_user(name, &user(Role::Admin)).await.unwrap();
    }
    accounts.disable("grace").await.unwrap();
    assert!(accounts.is_last_admin("ada") && accounts.is_admin_left().await);
    accounts.disable("ada").await.unwrap();
    assert!(!accounts.is_admin_left().await);
    accounts.enable("grace").await.unwrap();
    let demoted = user(Role::User);
    accounts.put_role("ada", &demoted).await.unwrap();
    assert!(accounts.is_last_admin("grace"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_sessions_are_listed_in_pages_and_others_are_not() {
    let desk = Desk::new().await;
    let accounts = &desk.accounts;
    let mut own = Vec::new();
    for _ in 0..5 {
        own.push(desk.session("ada").await.0);
        desk.session("adah").await;
    }
    let (ended, _) = desk.session("ada").await;
    accounts.end_session(ended).await.unwrap();
    own.sort_unstable();
    for limit in 1..=6 {
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let part = accounts.sessions_of("ada", own[2], &page(after.as_deref(), limit));
            assert!(part.items.len() <= limit as usize);
            listed.extend(part.items);
            match part.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let ids: Vec<SessionId> = listed.iter().map(|session| session.id).collect();
        assert_eq!(ids, own, "{limit} a page");
        let current = listed.iter().filter(|session| session.current);
        assert_eq!(current.map(|of| of.id).collect::<Vec<_>>(), [own[2]]);
    }
    accounts.revoke("ada").await.unwrap();
    let none = accounts.sessions_of("ada", ended, &PageRequest::first());
    assert_eq!(none.items, []);
}

#[test]
fn a_session_from_before_its_beginning_was_noted_is_read() {
    let row = json!({ "user": "ada", "key": vec![7; 32], "epoch": 3, "until": 4 });
    let session: Session = serde_json::from_value(row).unwrap();
    assert_eq!((session.opened, session.from), (0, None));
}
