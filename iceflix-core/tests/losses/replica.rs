//! Replicas that miss what others wrote.

use crate::world::{Cable, Hand, id, node, rows, wait_for};
use iceflix_core::{
    api::Kind,
    bus::Bus,
    replica::{Replica, Stamp},
    topics::Topics,
};
use serde_json::{Value, json};
use std::path::Path;

async fn open(bus: &Bus, dir: &Path, name: &str) -> Replica {
    let (file, topics) = (dir.join(format!("{name}.sqlite")), Topics::new("losses"));
    let opened = Replica::open(
        &file,
        bus,
        &topics,
        Kind::Auth,
        &id(name),
        std::time::Duration::ZERO,
    )
    .await;
    opened.unwrap().0
}

fn change(key: &str, value: u32) -> (String, Option<Value>) {
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
