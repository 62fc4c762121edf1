//! Machines whose clock is not the others', as far as they are asked what time it is.

use iceflix_core::{
    api::{Kind, PROTOCOL},
    bus::{Answering, Bus},
    clock,
    topics::{Description, Told, Topics},
};
use std::{net::SocketAddr, time::Duration};

/// On which key such a machine is asked: that of a Main of its own.
pub fn key(cluster: &str, machine: u8) -> String {
    let name = format!("main-{machine}").parse().unwrap();
    Topics::new(cluster).availability(Kind::Main, &name)
}

/// Answers for a machine, 192.0.2.`machine`, whose clock is so far ahead, until it is dropped.
pub async fn answering(bus: &Bus, cluster: &str, machine: u8, ahead: Duration) -> Answering {
    let ahead_us = u64::try_from(ahead.as_micros()).unwrap();
    let answer = move |_question| -> futures::future::BoxFuture<'static, Vec<Vec<u8>>> {
        let told = Told {
            description: Description {
                endpoint: SocketAddr::from(([192, 0, 2, machine], 1)),
                pid: 1,
                protocol: PROTOCOL,
                load: 0,
                draining: false,
            },
            clock_us: Some(clock::now_us() + ahead_us),
        };
        let told = serde_json::to_vec(&told).unwrap();
        Box::pin(std::future::ready(vec![told]))
    };
    bus.answer(&key(cluster, machine), answer).await.unwrap()
}
