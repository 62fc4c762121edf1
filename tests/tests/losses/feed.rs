//! A hearer, and a speaker whose messages get lost.

use crate::world::{Hand, id, node, wait_for};
use iceflix_core::{
    api::{Kind, SessionId, auth::Role},
    bus::Bus,
    feed::{Heard, Hearer, Inbox},
    topics::{AuthenticationFact, Entries, Topics},
    trust::{Identity, Verifier},
};
use serde_json::{Value, json};
use std::time::Duration;

/// A speaker and a hearer on two nodes.
struct Setting {
    hand: Hand,
    heard: Inbox,
    /// What the hearer knows of the speaker.
    known: Entries,
    hearer: Hearer,
    _buses: [Bus; 2],
}

impl Setting {
    async fn new() -> Self {
        let topics = Topics::new("losses");
        let (far, port) = node(Kind::Streaming, &[]).await;
        let hand = Hand::start(&far, &topics, &topics.media(), "node-1").await;
        hand.lose("a", Some(json!(1)));
        let (near, _) = node(Kind::Catalog, &[port]).await;
        let following = Hearer::follow(&near, &topics, topics.media(), None).await;
        let (hearer, heard) = following.unwrap();
        let mut setting = Self {
            hand,
            heard,
            known: Entries::new(),
            hearer,
            _buses: [far, near],
        };
        setting.until_whole().await;
        // Words spoken before the hearer was there may still be on their way; what follows counts.
        setting.say("settled", 1).await;
        setting
    }

    fn take_in(&mut self) {
        while let Ok(heard) = self.heard.try_recv() {
            match heard {
                Heard::Everything(speaker, entries) => {
                    assert_eq!(speaker, id("node-1"));
                    self.known = entries;
                }
                Heard::Changed(_, changes) => {
                    for (name, value) in changes {
                        match value {
                            Some(value) => self.known.insert(name, value),
                            None => self.known.remove(&name),
                        };
                    }
                }
                Heard::Gone(_) => {}
            }
        }
    }

    /// Waits until the hearer knows all that the speaker has.
    async fn until_whole(&mut self) {
        let wanted = self.hand.entries();
        wait_for(&format!("all of {} entries", wanted.len()), || {
            self.take_in();
            self.known == wanted
        })
        .await;
    }

    async fn say(&mut self, name: &str, value: u32) {
        self.hand.say(name, Some(json!(value))).await;
        self.until_whole().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_change_brings_a_snapshot_and_nothing_else_does() {
    let mut setting = Setting::new().await;
    let asked = setting.hand.asked();
    setting.say("b", 2).await;
    setting.hand.say("a", None).await;
    setting.until_whole().await;
    setting.hand.heartbeat().await;
    // Said twice, or overtaken by what came after it: known already.
    let stale = iceflix_core::feed::Changes {
        number: 1,
        ..setting.hand.now(vec![("a".into(), Some(json!("stale")))])
    };
    setting.hand.tell(stale).await;
    setting.say("c", 3).await;
    assert_eq!(setting.hand.asked(), asked, "nothing was lost");

    // One in the middle is noticed by the next …
    setting.hand.lose("b", None);
    setting.hand.lose("lost", Some(json!(1)));
    setting.say("d", 4).await;
    assert_eq!(setting.hand.asked(), asked + 1);
    // … and the last one by the heartbeat.
    setting.hand.lose("lost", Some(json!(2)));
    setting.hand.heartbeat().await;
    setting.until_whole().await;
    assert_eq!(setting.hand.asked(), asked + 2);
    setting.say("e", 5).await;
    assert_eq!(setting.hand.asked(), asked + 2, "it follows again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_speaker_that_returns_with_a_new_start_is_heard_anew() {
    let mut setting = Setting::new().await;
    for n in 0..5 {
        setting.say("a", n).await;
    }
    let before = setting.hand.now(vec![("ghost".into(), Some(json!(1)))]);
    let fresh = |n: u32| Entries::from([("z".to_owned(), Value::from(n))]);
    // Its numbers begin again, and what it no longer has is gone.
    setting.hand.start_anew(fresh(1));
    setting.hand.heartbeat().await;
    setting.until_whole().await;
    // A late word of its earlier life counts for nothing.
    let late = iceflix_core::feed::Changes {
        number: before.number + 1,
        ..before
    };
    setting.hand.tell(late).await;
    setting.say("b", 2).await;
    // It starts anew with as many changes as it had, so that only the life tells them apart.
    let number = setting.hand.now(vec![]).number;
    setting.hand.start_anew(fresh(2));
    for _ in 0..number {
        setting.hand.lose("c", Some(json!(3)));
    }
    setting.hand.heartbeat().await;
    setting.until_whole().await;
    setting.say("d", 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_lost_a_piece_is_asked_for_again() {
    let mut setting = Setting::new().await;
    // About 2 MiB: eight pieces.
    for n in 0..200 {
        let value = json!("x".repeat(10 << 10));
        setting.hand.lose(&format!("large-{n}"), Some(value));
    }
    setting.hand.lose_piece(3);
    let asked = setting.hand.asked();
    setting.hand.heartbeat().await;
    let hand = &setting.hand;
    wait_for("the first answer", || hand.asked() > asked).await;
    setting.take_in();
    assert!(setting.known.len() < 200, "half a snapshot was believed");
    // Nobody knows when the half answer has arrived: it goes on saying where it is.
    let wanted = setting.hand.entries();
    while setting.known != wanted {
        setting.hand.heartbeat().await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        setting.take_in();
    }
    assert!(setting.hand.asked() >= asked + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_anew_is_told_when_what_was_missed_is_taken_in() {
    let mut setting = Setting::new().await;
    for n in 0..3 {
        setting.hand.lose("missed", Some(json!(n)));
        let asked = setting.hand.asked();
        {
            let mut refreshed = std::pin::pin!(setting.hearer.refresh());
            tokio::select! {
                _ = &mut refreshed => panic!("not taken in"),
                () = wait_for("it is asked", || setting.hand.asked() > asked) => {}
            }
            // Long after the answer has come: nobody has read it.
            let early = tokio::time::timeout(Duration::from_millis(300), &mut refreshed);
            assert!(early.await.is_err(), "not taken in");
            let reading = async {
                loop {
                    match setting.heard.recv().await {
                        Some(Heard::Everything(_, entries)) => setting.known = entries,
                        other => panic!("{other:?}"),
                    }
                }
            };
            tokio::select! {
                answered = refreshed => assert!(answered),
                () = reading => {}
            }
        }
        assert_eq!(setting.known.get("missed"), Some(&json!(n)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_caught_up_refuses_what_was_revoked_meanwhile() {
    let topics = Topics::new("losses");
    let (far, port) = node(Kind::Auth, &[]).await;
    let hand = Hand::start(&far, &topics, &topics.authentication(), "auth-1").await;
    let (near, _) = node(Kind::Catalog, &[port]).await;
    let verifier = Verifier::follow(&near, &topics, None).await.unwrap();
    while !verifier.ears().is_some_and(|ears| ears.heard_any()) {
        hand.heartbeat().await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for _ in 0..50 {
        let session = SessionId::random();
        let fact = AuthenticationFact::SessionEnded { session };
        hand.lose(&fact.name(), serde_json::to_value(&fact).ok());
        verifier.catch_up(Duration::from_secs(60)).await;
        let identity = Identity {
            user: "ada".into(),
            session,
            role: Role::User,
            epoch: 0,
            expires: Duration::ZERO,
        };
        assert!(verifier.is_revoked(&identity));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_again_has_given_a_sign_though_nothing_was_heard_of_it() {
    let topics = Topics::new("losses");
    let (far, port) = node(Kind::Streaming, &[]).await;
    let (near, _) = node(Kind::Catalog, &[port]).await;
    let following = Hearer::follow(&near, &topics, topics.media(), None).await;
    let (hearer, _heard) = following.unwrap();
    let ears = hearer.ears();
    let key = topics.availability(Kind::Streaming, &id("mute"));
    let mut signs = Vec::new();
    for _ in 0..3 {
        let alive = far.declare_alive(&key).await.unwrap();
        wait_for("it is there", || ears.speakers().len() == 1).await;
        wait_for("it has come", || ears.speakers()[0].1.is_some()).await;
        signs.push(ears.speakers()[0].1);
        alive.withdraw().await;
        wait_for("it is gone", || ears.speakers().is_empty()).await;
    }
    assert!(signs[0] < signs[1] && signs[1] < signs[2], "{signs:?}");
    assert!(!ears.heard_any());
}
