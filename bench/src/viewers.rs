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
use iceflix_core::api::{MediaId, StreamId, auth::Token};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

/// How long after the last viewer left the node is looked at again.
const AFTERWARDS: Duration = Duration::from_secs(6);

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

/// Lets many watch the film at once, over TCP and then over UDP: at a node that makes its packets once
/// for all, and at one that reads the file for each of them.
///
/// # Errors
/// When one of them cannot.
pub async fn run(options: &Options, world: &World, media: &Path) -> anyhow::Result<Vec<Figure>> {
    let mut figures = of(options, world, "viewers").await?;
    let each = World::start_with(media, &["--packet-memory", "0"]).await?;
    let of_each = of(options, &each, "viewers.each_its_own").await;
    each.stop().await;
    figures.extend(of_each?);
    for transport in [Transport::Tcp, Transport::Udp] {
        let cost = |subject: &str| {
            let name = format!("{subject}.{}.cpu_per_gb", transport.name());
            let cost = figures.iter().find(|figure| figure.name == name);
            cost.map(|cost| cost.value).context("it was measured")
        };
        let ratio = cost("viewers.each_its_own")? / cost("viewers")?;
        let name = format!("viewers.{}.cpu_ratio", transport.name());
        figures.push(Figure::new(name, "times", ratio));
    }
    Ok(figures)
}

async fn of(options: &Options, world: &World, subject: &str) -> anyhow::Result<Vec<Figure>> {
    let (count, seconds) = if options.quick { (5, 4) } else { (20, 12) };
    let film = world.film().await?;
    let mut figures = Vec::new();
    for transport in [Transport::Tcp, Transport::Udp] {
        let time = Duration::from_secs(seconds);
        let seen = watch(world, film, transport, count, time).await?;
        let name = format!("{subject}.{}", transport.name());
        let each = f64::from(count);
        let mut add = |what: &str, unit, value| {
            figures.push(Figure::new(format!("{name}.{what}"), unit, value));
        };
        add("count", "viewers", each + 1.0);
        let memory = seen.many.memory_mib - seen.one.memory_mib;
        add("memory_each", "MiB", memory / each);
        let threads = f64::from(seen.many.threads) - f64::from(seen.one.threads);
        add("threads_each", "threads", threads / each);
        let rate = seen.bytes * 8e-6 / seen.seconds / (each + 1.0);
        add("rate_each", "Mb/s", rate);
        add("cpu_per_gb", "s/GB", seen.cpu_s / (seen.bytes * 1e-9));
        add("memory_after", "MiB", seen.after.memory_mib);
        add("threads_after", "threads", f64::from(seen.after.threads));
    }
    let idle = world.streaming_idle();
    for (what, unit, value) in [
        ("memory", "MiB", idle.memory_mib),
        ("threads", "threads", f64::from(idle.threads)),
    ] {
        figures.push(Figure::new(format!("{subject}.before.{what}"), unit, value));
    }
    Ok(figures)
}

/// What was seen of the streaming node.
struct Seen {
    /// With one viewer: the others' cost is what is added to it, so that what is there once for
    /// all of them does not count.
    one: Usage,
    /// With all the others, too.
    many: Usage,
    /// When all had gone.
    after: Usage,
    /// What follows was measured in the middle, when all were watching.
    seconds: f64,
    bytes: f64,
    cpu_s: f64,
}

/// Lets one watch, then `count` others with it.
async fn watch(
    world: &World,
    film: MediaId,
    transport: Transport,
    count: u32,
    time: Duration,
) -> anyhow::Result<Seen> {
    let pid = world.streaming_pid();
    let shared = Arc::new(Shared::default());
    let received = || shared.bytes.load(Ordering::Relaxed);
    // Its 30 seconds are longer than the whole takes.
    let token = world.token().await?;
    let mut viewers = vec![join(world, &token, film, transport, &shared).await?];
    // Queues fill at the start, and what is sent ahead then does not count either.
    tokio::time::sleep(time / 4).await;
    let one = usage(pid)?;
    for _ in 0..count {
        viewers.push(join(world, &token, film, transport, &shared).await?);
    }
    tokio::time::sleep(time / 4).await;
    let (begin, bytes, first) = (Instant::now(), received(), usage(pid)?);
    tokio::time::sleep(time).await;
    let (seconds, bytes, many) = (begin.elapsed(), received() - bytes, usage(pid)?);

    shared.stop.store(true, Ordering::Relaxed);
    let token = world.token().await?;
    let leaving = viewers.into_iter().map(|viewer| {
        let token = token.clone();
        async move {
            viewer.reading.await?.context("a viewer")?;
            world.stop_stream(&token, viewer.stream).await
        }
    });
    try_join_all(leaving).await?;
    // Threads and memory are given back by and by; GLib keeps some threads for a while.
    tokio::time::sleep(AFTERWARDS).await;
    Ok(Seen {
        one,
        many,
        after: usage(pid)?,
        seconds: seconds.as_secs_f64(),
        // A run delivers far less than the 2^53 bytes that a double counts.
        bytes: bytes as f64,
        cpu_s: many.cpu_s - first.cpu_s,
    })
}

async fn join(
    world: &World,
    token: &Token,
    film: MediaId,
    transport: Transport,
    shared: &Arc<Shared>,
) -> anyhow::Result<Viewer> {
    let stream = world.get_stream(token, film).await?;
    let (url, shared) = (stream.url, Arc::clone(shared));
    let playing = tokio::task::spawn_blocking(move || Player::play(&url, transport));
    let (player, _) = playing.await??;
    Ok(Viewer {
        stream: stream.stream,
        reading: tokio::task::spawn_blocking(move || read(player, &shared)),
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
