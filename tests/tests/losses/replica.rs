//! Replicas that miss what others wrote.

use crate::world::{Cable, Hand, id, node, rows, wait_for};
use iceflix_core::{
    api::Kind,
    bus::{AliveToken, Bus, Size},
    feed::split,
    replica::{Grown, Replica, Row, Rows, Sqlite, Stamp, Store, StoreError},
    topics::Topics,
};
use serde_json::{Value, json};
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// As an authenticator's epochs are.
const GROWING: &[&str] = &["epoch/"];

async fn open(bus: &Bus, dir: &Path, name: &str) -> Replica {
    let (file, topics) = (dir.join(format!("{name}.sqlite")), Topics::new("losses"));
    let opened = Replica::open(
        &file,
        bus,
        &topics,
        Kind::Auth,
        &id(name),
        GROWING,
        Duration::ZERO,
    )
    .await;
    opened.unwrap().0
}

pub fn change(key: &str, value: u32) -> (String, Option<Value>) {
    (key.to_owned(), Some(json!(value)))
}

/// A row as it travels, written so many seconds after 1970.
fn row(seconds: u64, value: Option<u32>) -> Option<Value> {
    let stamp = format!("{:016x}-{:032x}", seconds << 32, 1);
    assert!(Stamp::parse(&stamp).is_some());
    Some(json!({ "s": stamp, "v": value }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_missed_a_peers_rows_takes_them_all() {
    let (dir, topics) = (tempfile::tempdir().unwrap(), Topics::new("losses"));
    let (far, port) = node(Kind::Auth, &[]).await;
    let hand = Hand::start(&far, &topics, &rows(&topics), "auth-2").await;
    hand.lose("old", row(1, Some(1)));
    let (near, _) = node(Kind::Auth, &[port]).await;
    let replica = open(&near, dir.path(), "auth-1").await;
    wait_for("the first rows", || replica.get("old").is_some()).await;
    replica.put(vec![change("ours", 1)]).await.unwrap();

    hand.lose("lost", row(2, Some(2)));
    hand.lose("old", row(2, None));
    // An earlier write of theirs to a row that was written here.
    hand.lose("ours", row(3, Some(3)));
    hand.say("said", row(4, Some(4))).await;
    wait_for("what was said", || replica.get("said").is_some()).await;
    assert_eq!(replica.get("lost"), Some(json!(2)));
    assert_eq!(replica.get("old"), None);
    assert_eq!(replica.get("ours"), Some(json!(1)), "the later write wins");

    // It returns from an older copy of its database: what it no longer has stays written here.
    let mut older = hand.entries();
    older.retain(|key, _| key == "old");
    older.insert("old".into(), row(1, Some(1)).unwrap());
    older.insert("new".into(), row(5, Some(5)).unwrap());
    hand.start_anew(older);
    hand.heartbeat().await;
    wait_for("the new row", || replica.get("new").is_some()).await;
    assert_eq!(replica.get("lost"), Some(json!(2)));
    assert_eq!(replica.get("old"), None, "a removal is not undone");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_missed_each_others_writes_agree() {
    let dir = tempfile::tempdir().unwrap();
    let (far, port) = node(Kind::Auth, &[]).await;
    let cable = Cable::to(port).await;
    let (near, _) = node(Kind::Auth, &[cable.port]).await;
    let one = open(&far, dir.path(), "auth-1").await;
    let two = open(&near, dir.path(), "auth-2").await;
    one.put(vec![change("both", 0), change("gone", 0)])
        .await
        .unwrap();
    wait_for("the first row arrives", || two.get("both").is_some()).await;
    two.put(vec![change("back", 0)]).await.unwrap();
    wait_for("and one comes back", || one.get("back").is_some()).await;

    for round in 1..=3 {
        cable.cut();
        for n in 0..10 {
            one.put(vec![change(&format!("one-{round}-{n}"), n)])
                .await
                .unwrap();
            two.put(vec![change(&format!("two-{round}-{n}"), n)])
                .await
                .unwrap();
        }
        one.put(vec![change("both", round)]).await.unwrap();
        two.put(vec![change("both", round + 100)]).await.unwrap();
        two.put(vec![("gone".into(), None)]).await.unwrap();
        one.put(vec![change(&format!("again-{round}"), 1)])
            .await
            .unwrap();
        assert_eq!(two.get(&format!("one-{round}-0")), None);
        assert_eq!(one.get(&format!("two-{round}-0")), None);
        cable.mend();
        wait_for("they agree", || {
            let all = one.scan("");
            all == two.scan("") && all.iter().any(|(key, _)| *key == format!("two-{round}-9"))
        })
        .await;
        // The write that was made later stands.
        assert_eq!(one.get("both"), Some(json!(round + 100)));
        assert_eq!(one.get("gone"), None);
        assert!(two.get(&format!("one-{round}-9")).is_some());
        assert!(two.get(&format!("again-{round}")).is_some());
        // And they follow each other again.
        one.put(vec![change("followed", round)]).await.unwrap();
        wait_for("it is followed", || {
            two.get("followed") == Some(json!(round))
        })
        .await;
    }

    // So it is on their disks.
    let agreed = one.scan("");
    drop((one, two));
    far.close().await;
    near.close().await;
    for name in ["auth-1", "auth-2"] {
        let (alone, _) = node(Kind::Auth, &[]).await;
        let replica = open(&alone, dir.path(), name).await;
        assert_eq!(replica.scan(""), agreed, "{name}");
        alone.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_reaches_a_row_that_only_a_peer_has() {
    let (dir, topics) = (tempfile::tempdir().unwrap(), Topics::new("losses"));
    let (far, port) = node(Kind::Auth, &[]).await;
    let hand = Hand::start(&far, &topics, &rows(&topics), "auth-2").await;
    hand.lose("known", row(1, Some(1)));
    let (near, _) = node(Kind::Auth, &[port]).await;
    let replica = open(&near, dir.path(), "auth-1").await;
    wait_for("the first rows", || replica.get("known").is_some()).await;
    // Written there a moment ago, and not heard here yet.
    hand.lose("unheard", row(2, Some(2)));
    let removals = ["unheard", "nowhere"].map(|key| (key.to_owned(), None));
    replica.put(removals.to_vec()).await.unwrap();
    hand.heartbeat().await;
    hand.say("after", row(3, Some(3))).await;
    wait_for("what followed", || replica.get("after").is_some()).await;
    assert_eq!(replica.get("unheard"), None, "the removal stands");
    assert_eq!(replica.get("known"), Some(json!(1)));
}

/// The rows' owners are announced, as services are.
async fn announced(bus: &Bus, name: &str) -> AliveToken {
    let key = Topics::new("losses").availability(Kind::Auth, &id(name));
    bus.declare_alive(&key).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_at_a_peer_already() {
    let dir = tempfile::tempdir().unwrap();
    let (far, port) = node(Kind::Auth, &[]).await;
    let (near, _) = node(Kind::Auth, &[port]).await;
    let (one, two) = (
        open(&far, dir.path(), "auth-1").await,
        open(&near, dir.path(), "auth-2").await,
    );
    // Alone it is acknowledged, too, and at once.
    one.put(vec![change("alone", 0)]).await.unwrap();
    let _tokens = (
        announced(&far, "auth-1").await,
        announced(&near, "auth-2").await,
    );
    // They have met when the first is.
    let until = Instant::now() + Duration::from_secs(60);
    for n in 0.. {
        one.put(vec![change("met", n)]).await.unwrap();
        if two.get("met") == Some(json!(n)) {
            break;
        }
        assert!(Instant::now() < until, "never acknowledged by the other");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for n in 0..100 {
        one.put(vec![change("a", n)]).await.unwrap();
        assert_eq!(two.get("a"), Some(json!(n)));
        two.put(vec![change("b", n)]).await.unwrap();
        assert_eq!(one.get("b"), Some(json!(n)));
    }
}

/// Rows on a disk that takes its time.
struct Slow(Sqlite);

impl Store for Slow {
    fn rows(&mut self) -> Result<Rows, StoreError> {
        self.0.rows()
    }

    fn write(&mut self, rows: &[(String, Row)]) -> Result<(), StoreError> {
        std::thread::sleep(Duration::from_millis(200));
        self.0.write(rows)
    }

    fn probe(&mut self) -> Result<(), StoreError> {
        self.0.probe()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_caught_up_has_what_it_missed_however_slow_its_disk_is() {
    let (dir, topics) = (tempfile::tempdir().unwrap(), Topics::new("losses"));
    let (far, port) = node(Kind::Auth, &[]).await;
    let hand = Hand::start(&far, &topics, &rows(&topics), "auth-2").await;
    let (near, _) = node(Kind::Auth, &[port]).await;
    let file = dir.path().join("auth-1.sqlite");
    let slow = move || Ok(Slow(Sqlite::open(&file, GROWING)?));
    let name = id("auth-1");
    let opened = Replica::open_in(slow, &near, &topics, Kind::Auth, &name, Duration::ZERO);
    let replica = opened.await.unwrap().0;
    for n in 1..=5 {
        // This is being written …
        let busy = format!("busy-{n}");
        hand.say(&busy, row(1, Some(n))).await;
        wait_for("it is heard", || replica.get(&busy).is_some()).await;
        // … and what follows has to wait.
        let missed = format!("missed-{n}");
        hand.lose(&missed, row(1, Some(n)));
        replica.catch_up(Duration::from_secs(60)).await;
        assert_eq!(replica.get(&missed), Some(json!(n)));
    }
}

/// A message of over 4 MiB is dropped by the bus.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_of_many_megabytes_is_at_a_peer_when_it_is_acknowledged() {
    const ROWS: usize = 18;
    let dir = tempfile::tempdir().unwrap();
    let (far, port) = node(Kind::Auth, &[]).await;
    let (near, _) = node(Kind::Auth, &[port]).await;
    let (one, two) = (
        open(&far, dir.path(), "auth-1").await,
        open(&near, dir.path(), "auth-2").await,
    );
    let _tokens = (
        announced(&far, "auth-1").await,
        announced(&near, "auth-2").await,
    );
    let until = Instant::now() + Duration::from_secs(60);
    let mut in_a_row = 0;
    for n in 0.. {
        one.put(vec![change("met", n)]).await.unwrap();
        let there = two.get("met") == Some(json!(n));
        in_a_row = if there { in_a_row + 1 } else { 0 };
        if in_a_row == 5 {
            break;
        }
        assert!(Instant::now() < until, "never acknowledged by the other");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // A peer has a second to keep it: on a disk that is slower the write goes on without. Not each
    // time.
    let mut quick = 0;
    for letter in 'a'..='j' {
        let large = json!(letter.to_string().repeat(256 << 10));
        let rows = (0..ROWS).map(|n| (format!("large-{letter}-{n}"), Some(large.clone())));
        let begun = Instant::now();
        one.put(rows.collect()).await.unwrap();
        let there = two.scan(&format!("large-{letter}-"));
        if begun.elapsed() < Duration::from_millis(900) {
            assert_eq!(there.len(), ROWS, "{letter}");
            assert!(there.iter().all(|(_, value)| *value == large));
            quick += 1;
        }
        if quick == 2 {
            return;
        }
    }
    panic!("none was kept in time: {quick} of ten");
}

/// The writer died when one peer had acknowledged its row and before anybody else heard of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_peer_kept_of_a_dead_writer_reaches_the_others() {
    let (dir, topics) = (tempfile::tempdir().unwrap(), Topics::new("losses"));
    let (far, port) = node(Kind::Auth, &[]).await;
    let (near, _) = node(Kind::Auth, &[port]).await;
    let (one, two) = (
        open(&far, dir.path(), "auth-1").await,
        open(&near, dir.path(), "auth-2").await,
    );
    let _tokens = (
        announced(&far, "auth-1").await,
        announced(&near, "auth-2").await,
    );
    let (writer, _) = node(Kind::Auth, &[port]).await;
    let key = topics.exchange(Kind::Auth).of(&id("auth-1"));
    let keep = json!({ "keep": { "left": row(7, Some(7)) } });
    let question = serde_json::to_vec(&keep).unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while one.get("left").is_none() {
        assert!(Instant::now() < until, "never asked");
        let answers = writer.ask(&key, question.clone(), Size::Small, Duration::from_secs(1));
        let answers = answers.await.unwrap();
        assert!(answers.iter().all(|answer| answer.payload == b"\"kept\""));
    }
    writer.close().await;
    wait_for("the other has it", || two.get("left") == Some(json!(7))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_epochs_begun_apart_the_greater_stands() {
    let dir = tempfile::tempdir().unwrap();
    let (far, port) = node(Kind::Auth, &[]).await;
    let cable = Cable::to(port).await;
    let (near, _) = node(Kind::Auth, &[cable.port]).await;
    let one = open(&far, dir.path(), "auth-1").await;
    let two = open(&near, dir.path(), "auth-2").await;
    one.put(vec![change("epoch/ada", 1)]).await.unwrap();
    wait_for("they have met", || two.get("epoch/ada").is_some()).await;
    cable.cut();
    one.put(vec![change("epoch/ada", 9)]).await.unwrap();
    // The later write, at a machine whose clock was behind when it chose.
    two.put(vec![change("epoch/ada", 5)]).await.unwrap();
    one.put(vec![change("healed", 1)]).await.unwrap();
    cable.mend();
    for replica in [&one, &two] {
        wait_for("they agree", || {
            replica.get("healed").is_some() && replica.get("epoch/ada") == Some(json!(9))
        })
        .await;
    }
    two.put(vec![change("epoch/ada", 5)]).await.unwrap();
    assert_eq!(two.get("epoch/ada"), Some(json!(9)));

    // What a later version writes there is a beginning, too: of when it was written. Numbers from
    // before then that come afterwards undo it as little as each other.
    cable.cut();
    let strange = json!({ "later": "version" });
    let row = ("epoch/ada".to_owned(), Some(strange.clone()));
    one.put(vec![row]).await.unwrap();
    let begun = one.grown("epoch/ada").unwrap();
    assert!(!begun.readable && begun.since > 9);
    two.put(vec![change("epoch/ada", 20)]).await.unwrap();
    two.put(vec![change("healed", 2)]).await.unwrap();
    cable.mend();
    for replica in [&one, &two] {
        wait_for("they agree once more", || {
            replica.get("healed") == Some(json!(2))
                && replica.get("epoch/ada").as_ref() == Some(&strange)
        })
        .await;
    }
    // And what begins after it stands over it.
    let next = Grown {
        since: begun.since + 1,
        readable: true,
    };
    let row = ("epoch/ada".to_owned(), Some(json!(next.since)));
    two.put(vec![row]).await.unwrap();
    wait_for("the next is heard", || {
        [&one, &two].map(|replica| replica.grown("epoch/ada")) == [Some(next); 2]
    })
    .await;
}

/// A peer that has so many rows that it cannot say them all in the time that a question has.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_for_one_answer_is_taken_a_part_at_a_time() {
    let (dir, topics) = (tempfile::tempdir().unwrap(), Topics::new("losses"));
    let (far, port) = node(Kind::Auth, &[]).await;
    let _hand = Hand::start(&far, &topics, &rows(&topics), "auth-2").await;
    let key = topics.exchange(Kind::Auth).of(&id("auth-2"));
    let answering = far.answer(&key, |question| {
        let question: Value = serde_json::from_slice(&question).unwrap();
        let asked = question["buckets"].as_array();
        let answer = match asked.map(Vec::as_slice) {
            // It differs from everybody in each bucket.
            None => vec![serde_json::to_vec(&json!({ "digest": vec![1; 256] })).unwrap()],
            Some(some @ [first, ..]) if some.len() <= 32 => {
                let of_them = (format!("from-{first}"), row(1, Some(1)).unwrap());
                split(0, 0, [of_them].into())
            }
            Some(_) => Vec::new(),
        };
        Box::pin(std::future::ready(answer))
    });
    let _answering = answering.await.unwrap();
    let (near, _) = node(Kind::Auth, &[port]).await;
    let replica = open(&near, dir.path(), "auth-1").await;
    wait_for("the first and the last part", || {
        let parts = replica.scan("from-");
        parts.len() >= 8 && parts.iter().any(|(key, _)| key == "from-0")
    })
    .await;
}

/// Whether two have the same rows.
fn same(one: &Replica, other: &Replica) -> bool {
    one.scan("") == other.scan("") && one.scan_grown("epoch/") == other.scan_grown("epoch/")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_late_or_was_away_for_long_has_everything_and_brings_what_it_wrote() {
    const ROWS: u32 = 3_000;
    let dir = tempfile::tempdir().unwrap();
    let (far, port) = node(Kind::Auth, &[]).await;
    let one = open(&far, dir.path(), "auth-1").await;
    let many = |from: u32, value: u32| {
        let keys = (from..from + ROWS).map(|n| format!("row-{n}"));
        keys.map(|key| (key, Some(json!(value)))).collect()
    };
    one.put(many(0, 1)).await.unwrap();
    // It joins when all of them are there.
    let cable = Cable::to(port).await;
    let (near, _) = node(Kind::Auth, &[cable.port]).await;
    let two = open(&near, dir.path(), "auth-2").await;
    wait_for("the late one has all", || same(&one, &two)).await;
    assert_eq!(two.scan("row-").len(), 3_000);

    // What it wrote last before it went nobody heard.
    cable.cut();
    two.put(vec![change("unheard", 1), change("row-0", 7)])
        .await
        .unwrap();
    drop(two);
    near.close().await;
    // Meanwhile a third of the rows is written anew, a third is removed, and as many come.
    one.put(many(ROWS - 1_000, 2)).await.unwrap();
    let removed = (1..=1_000).map(|n| (format!("row-{n}"), None));
    one.put(removed.collect()).await.unwrap();
    one.put(vec![change("epoch/ada", 9)]).await.unwrap();
    cable.mend();
    let (near, _) = node(Kind::Auth, &[cable.port]).await;
    let two = open(&near, dir.path(), "auth-2").await;
    wait_for("the one that returns has all", || {
        same(&one, &two) && one.get("unheard").is_some()
    })
    .await;
    assert_eq!(two.scan("row-").len(), 4_000, "what was removed stays so");
    assert_eq!(one.get("row-0"), Some(json!(7)));
    assert_eq!(two.get("row-2500"), Some(json!(2)));
    assert_eq!(two.get("epoch/ada"), Some(json!(9)));
}

/// One of three is cut off, and everybody writes and removes the same rows.
#[tokio::test(flavor = "multi_thread")]
async fn three_that_were_split_agree_on_every_row_that_both_sides_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let (first, port) = node(Kind::Auth, &[]).await;
    let cables = [Cable::to(port).await, Cable::to(port).await];
    let (second, second_port) = node(Kind::Auth, &[cables[0].port]).await;
    let (third, _) = node(Kind::Auth, &[cables[1].port, second_port]).await;
    let all = [
        open(&first, dir.path(), "auth-1").await,
        open(&second, dir.path(), "auth-2").await,
        open(&third, dir.path(), "auth-3").await,
    ];
    let key = |n: usize| format!("row-{n}");
    all[0].put(vec![change("met", 0)]).await.unwrap();
    for n in 0..24 {
        all[n % 3].put(vec![change(&key(n), 0)]).await.unwrap();
    }
    wait_for("they have met", || {
        all.iter().all(|replica| replica.scan("row-").len() == 24)
    })
    .await;
    cables.iter().for_each(Cable::cut);
    // The last to write a row, and whether it is removed, is another one for each.
    let mut stands = [None; 24];
    for (turn, value) in (1..=5).enumerate() {
        for (n, stands) in stands.iter_mut().enumerate() {
            let writer = (n + turn * (1 + n % 2)) % 3;
            let value = (!(n + turn).is_multiple_of(3)).then_some(value * 100 + writer);
            let row = (key(n), value.map(|value| json!(value)));
            all[writer].put(vec![row]).await.unwrap();
            *stands = value;
        }
    }
    cables.iter().for_each(Cable::mend);
    for (n, replica) in all.iter().enumerate() {
        wait_for(&format!("{n} has what was written last"), || {
            let rows = stands.iter().enumerate();
            rows.clone()
                .all(|(n, value)| replica.get(&key(n)) == value.map(|value| json!(value)))
        })
        .await;
    }
    assert!(same(&all[0], &all[1]) && same(&all[0], &all[2]));
}

/// The rows are those of an authenticator's users.
#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_user_stays_so_whatever_the_other_side_of_a_split_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let (far, port) = node(Kind::Auth, &[]).await;
    let cable = Cable::to(port).await;
    let (near, _) = node(Kind::Auth, &[cable.port]).await;
    let one = open(&far, dir.path(), "auth-1").await;
    let two = open(&near, dir.path(), "auth-2").await;
    one.put(vec![change("user/ada", 0), change("epoch/ada", 5)])
        .await
        .unwrap();
    wait_for("they have met", || two.get("epoch/ada").is_some()).await;
    cable.cut();
    // Disabled here, and afterwards given a role, a password and an earlier epoch there.
    one.put(vec![change("disabled/ada", 1), change("epoch/ada", 9)])
        .await
        .unwrap();
    for n in 1..=3 {
        two.put(vec![change("user/ada", n), change("epoch/ada", 5 + n)])
            .await
            .unwrap();
    }
    cable.mend();
    wait_for("they agree", || {
        same(&one, &two) && two.get("disabled/ada").is_some()
    })
    .await;
    assert_eq!(one.get("user/ada"), Some(json!(3)), "the later write");
    assert_eq!(one.get("epoch/ada"), Some(json!(9)), "the later epoch");
    assert_eq!(one.get("disabled/ada"), Some(json!(1)));
}
