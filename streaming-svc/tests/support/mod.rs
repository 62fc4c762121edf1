//! What the tests of delivery share: clips, and a small RTSP client.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test uses a part of it, and a test that unwraps says where it failed"
)]

pub mod clips;
pub mod rtsp;

use iceflix_core::api::StreamId;
use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};
use streaming_svc::delivery::{Access, Delivery, DeliveryConfig, FilmSource};

/// Where the tests' servers listen.
pub const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A server on a free port.
pub fn start() -> Delivery {
    Delivery::start(DeliveryConfig::default()).unwrap()
}

/// Mounts a film on a new stream and gives the stream's id and URL.
pub fn mount(delivery: &Delivery, film: FilmSource) -> (StreamId, String) {
    let stream = StreamId::random();
    add(delivery, stream, film);
    let url = delivery.url(&stream, LOCALHOST);
    (stream, url)
}

/// Mounts a film on a stream, for players anywhere.
pub fn add(delivery: &Delivery, stream: StreamId, film: FilmSource) {
    delivery.add_stream(stream, film, Access::Anyone).unwrap();
}

/// Waits until the condition holds; fails the test if it does not within 20 seconds.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
