//! A directory whose node stood still, so that it may not have seen who died.

use crate::world::{id, node, wait_for};
use iceflix_core::{
    api::{InstanceId, Kind, PROTOCOL},
    bus::{Answering, Bus, Size},
    membership::Membership,
    topics::{Description, Topics},
};
use std::time::Duration;

/// Says how to reach an instance, to whoever asks.
async fn describes(bus: &Bus, topics: &Topics, name: &str) -> Answering {
    let description = Description {
        endpoint: ([127, 0, 0, 1], 1).into(),
        pid: 1,
        protocol: PROTOCOL,
        load: 0,
        draining: false,
    };
    let said = vec![serde_json::to_vec(&description).unwrap()];
    let answer = move |_| -> futures::future::BoxFuture<'static, Vec<Vec<u8>>> {
        Box::pin(std::future::ready(said.clone()))
    };
    let key = topics.availability(Kind::Auth, &id(name));
    bus.answer(&key, answer).await.unwrap()
}

fn listed(membership: &Membership) -> Vec<InstanceId> {
    let view = membership.now();
    let instances = view.instances.iter();
    instances.map(|it| it.instance.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_answer_after_a_standstill_is_not_handed_out() {
    let topics = Topics::new("losses");
    let (far, port) = node(Kind::Auth, &[]).await;
    let (near, _) = node(Kind::Main, &[port]).await;
    let membership = Membership::follow(&near, &topics).await.unwrap();
    let _one = describes(&far, &topics, "auth-1").await;
    let two = describes(&far, &topics, "auth-2").await;
    let mut tokens = Vec::new();
    for name in ["auth-1", "auth-2"] {
        let key = topics.availability(Kind::Auth, &id(name));
        tokens.push(far.declare_alive(&key).await.unwrap());
    }
    let both = [id("auth-1"), id("auth-2")];
    wait_for("both are listed", || listed(&membership) == both).await;

    // Whoever answers stays.
    membership.catch_up().await;
    wait_for("both are there still", || listed(&membership) == both).await;

    // It is dead, and nobody has said so.
    drop(two);
    let key = topics.availability(Kind::Auth, &id("auth-2"));
    let ask = || near.ask(&key, Vec::new(), Size::Small, Duration::from_secs(1));
    while !ask().await.unwrap().is_empty() {}
    membership.catch_up().await;
    assert!(!listed(&membership).contains(&id("auth-2")));
    // It was only slow.
    let _two = describes(&far, &topics, "auth-2").await;
    wait_for("it is listed again", || listed(&membership) == both).await;
}
