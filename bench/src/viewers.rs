//! What a viewer costs the streaming node.

use crate::{
    Options,
    report::Figure,
    rtsp::{Player, Transport},
    usage::{Usage, usage},
    world::World,
};
use anyhow::Context as _;
use futures::future::try_join_all;
use iceflix_core::api::{MediaId, StreamId};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

/// What the viewers share with who watches them.
#[derive(Default)]
struct Shared {
    bytes: AtomicU64,
    stop: AtomicBool,
}

struct Viewer {
    stream: StreamId,
    reading: JoinHandle<anyhow::Result<()>>,
}

/// Lets many watch the film at once, over TCP and then over UDP.
///
/// # Errors
/// When one of them cannot.
pub async fn run(options: &Options, world: &World) -> anyhow::Result<Vec<Figure>> {
    let (viewers, seconds) = if options.quick { (5, 4) } else { (20, 12) };
    let film = world.film().await?;
    let mut figures = Vec::new();
    for transport in [Transport::Tcp, Transport::Udp] {
        // One before the others, so that what is kept for good is there already.
        watch(world, film, transport, 1, Duration::ZERO).await?;
        let time = Duration::from_secs(seconds);
        let seen = watch(world, film, transport, viewers, time).await?;
        let name = format!("viewers.{}", transport.name());
        let each = f64::from(viewers);
        let mut add = |what: &str, unit, value| {
            figures.push(Figure::new(format!("{name}.{what}"), unit, value));
        };
        add("count", "viewers", each);
        let memory = seen.during.memory_mib - seen.before.memory_mib;
        add("memory_each", "MiB", memory / each);
        let threads = f64::from(seen.during.threads) - f64::from(seen.before.threads);
        add("threads_each", "threads", threads / each);
        add("rate_each", "Mb/s", seen.bytes * 8e-6 / seen.seconds / each);
        add("cpu_per_gb", "s/GB", seen.cpu_s / (seen.bytes * 1e-9));
        let left = f64::from(seen.after.threads) - f64::from(seen.before.threads);
        add("threads_left", "threads", left);
        let left = seen.after.memory_mib - seen.before.memory_mib;
        add("memory_left", "MiB", left);
    }
    let idle = usage(world.streaming_pid())?;
    figures.push(Figure::new("viewers.none.memory", "MiB", idle.memory_mib));
    figures.push(Figure::new(
        "viewers.none.threads",
        "threads",
        f64::from(idle.threads),
    ));
    Ok(figures)
}

struct Seen {
    before: Usage,
    during: Usage,
    after: Usage,
    /// What follows was measured in the middle, when all were watching.
    seconds: f64,
    bytes: f64,
    cpu_s: f64,
}

async fn watch(
    world: &World,
    film: MediaId,
    transport: Transport,
    count: u32,
    time: Duration,
) -> anyhow::Result<Seen> {
    let pid = world.streaming_pid();
    let before = usage(pid)?;
    let shared = Arc::new(Shared::default());
    // Its 30 seconds are longer than the whole takes.
    let token = world.token().await?;
    let mut viewers = Vec::new();
    for _ in 0..count {
        let stream = world.get_stream(&token, film).await?;
        let shared = Arc::clone(&shared);
        let url = stream.url;
        let playing = tokio::task::spawn_blocking(move || Player::play(&url, transport));
        let (player, _) = playing.await??;
        let reading = tokio::task::spawn_blocking(move || read(player, &shared));
        let stream = stream.stream;
        viewers.push(Viewer { stream, reading });
    }
    // What is sent ahead at the start does not count.
    tokio::time::sleep(time / 6).await;
    let (begin, bytes, first) = (
        Instant::now(),
        shared.bytes.load(Ordering::Relaxed),
        usage(pid)?,
    );
    tokio::time::sleep(time).await;
    let (elapsed, all, during) = (
        begin.elapsed(),
        shared.bytes.load(Ordering::Relaxed),
        usage(pid)?,
    );

    shared.stop.store(true, Ordering::Relaxed);
    let token = world.token().await?;
    let stopped = viewers.into_iter().map(|viewer| {
        let token = token.clone();
        async move {
            viewer.reading.await?.context("a viewer")?;
            world.stop_stream(&token, viewer.stream).await
        }
    });
    try_join_all(stopped).await?;
    // Threads and memory are given back by and by.
    let deadline = Instant::now() + Duration::from_secs(3);
    let mut after = usage(pid)?;
    while after.threads > before.threads && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
        after = usage(pid)?;
    }
    Ok(Seen {
        before,
        during,
        after,
        seconds: elapsed.as_secs_f64(),
        // A run delivers far less than the 2^53 bytes that a double counts.
        bytes: (all - bytes) as f64,
        cpu_s: during.cpu_s - first.cpu_s,
    })
}

/// Watches until it is told to stop.
fn read(mut player: Player, shared: &Shared) -> anyhow::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    while !shared.stop.load(Ordering::Relaxed) {
        let size = player.read_some(&mut buffer)?;
        shared.bytes.fetch_add(size as u64, Ordering::Relaxed);
    }
    player.tear_down()
}
