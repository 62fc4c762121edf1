//! Shared rows: what an acknowledged write takes, alone and with peers, and how soon an instance
//! that joins has what is there.
//!
//! The instances are in this process, each with a bus session and a database of its own.

use crate::{
    Options,
    report::Figure,
    stats::{median, ms, percentile},
    world::PATIENCE,
};
use anyhow::{Context as _, ensure};
use futures::future::try_join_all;
use iceflix_core::{
    api::{InstanceId, Kind},
    bus::{AliveToken, Bus, BusConfig},
    replica::{Replica, RowChange},
    topics::Topics,
    trust::{Authority, authority::CERTIFICATE_LIFETIME},
};
use serde_json::json;
use std::{
    path::Path,
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, time::timeout};

const CLUSTER: &str = "bench-rows";

/// How many writes are under way at once where it is about their rate.
const IN_FLIGHT: u32 = 64;

/// How many rows are written at once to have many.
const BATCH: usize = 1000;

/// How long it may take to join: many times as long as it does.
const JOINING: Duration = Duration::from_secs(300);

/// An instance with rows.
struct Instance {
    replica: Replica,
    changes: mpsc::UnboundedReceiver<Vec<RowChange>>,
    bus: Bus,
    /// Others count on those that are announced.
    _alive: AliveToken,
}

/// All instances of a run: a directory on the disk, and who signs for them.
struct Place<'a> {
    dir: &'a Path,
    authority: Authority,
}

impl Place<'_> {
    /// Starts one that finds these.
    async fn start(&self, number: u32, others: &[&Instance]) -> anyhow::Result<Instance> {
        let name: InstanceId = format!("auth-{number}").parse()?;
        let topics = Topics::new(CLUSTER);
        let bus = Bus::open(&BusConfig::new(
            CLUSTER,
            self.authority
                .issue(Kind::Auth, &name, CERTIFICATE_LIFETIME)?,
            vec!["tls/127.0.0.1:0".to_owned()],
            others.iter().flat_map(|it| it.bus.listens_at()).collect(),
        ))
        .await?;
        let database = self.dir.join(format!("{name}.sqlite"));
        let opened = Replica::open(
            &database,
            &bus,
            &topics,
            Kind::Auth,
            &name,
            &[],
            Duration::ZERO,
        );
        let (replica, changes) = opened.await?;
        let alive = topics.availability(Kind::Auth, &name);
        Ok(Instance {
            replica,
            changes,
            _alive: bus.declare_alive(&alive).await?,
            bus,
        })
    }
}

/// Measures both.
///
/// # Errors
/// When a row cannot be written, or does not arrive.
pub async fn run(options: &Options, dir: &Path) -> anyhow::Result<Vec<Figure>> {
    // On the disk that the target directory is on: what is acknowledged is written through.
    let dir = tempfile::tempdir_in(dir)?;
    let authority = Authority::create(CLUSTER)?;
    let dir = dir.path();
    let place = Place { dir, authority };
    let one = place.start(1, &[]).await?;
    let mut figures = writes(options, "rows.alone", &one).await?;

    let two = place.start(2, &[&one]).await?;
    let three = place.start(3, &[&one, &two]).await?;
    met(&one, [&two, &three]).await?;
    figures.extend(writes(options, "rows.two_peers", &one).await?);
    for instance in [one, two, three] {
        instance.bus.close().await;
    }
    figures.extend(joining(options, &place).await?);
    Ok(figures)
}

/// A row like that of a session.
fn row(key: String, n: u32) -> RowChange {
    let value = json!({ "user": "ada", "key": vec![7; 32], "epoch": n, "until": 1_800_000_000 });
    (key, Some(value))
}

/// Waits until both take part in what the first one writes.
async fn met(one: &Instance, others: [&Instance; 2]) -> anyhow::Result<()> {
    let meeting = async {
        for n in 0.. {
            one.replica.put(vec![row("met".to_owned(), n)]).await?;
            let here = one.replica.get("met");
            // At one when it is acknowledged, and at all a moment later.
            let kept = others.iter().any(|it| it.replica.get("met") == here);
            tokio::time::sleep(Duration::from_millis(20)).await;
            if kept && others.iter().all(|it| it.replica.get("met") == here) {
                break;
            }
        }
        anyhow::Ok(())
    };
    timeout(PATIENCE, meeting).await.context("they never met")?
}

/// Writes of one row each: one after another, and many at once.
async fn writes(options: &Options, name: &str, one: &Instance) -> anyhow::Result<Vec<Figure>> {
    let (singles, each) = if options.quick {
        (100, 10)
    } else {
        (3_000, 150)
    };
    let mut times = Vec::new();
    for n in 0..singles + singles / 10 {
        let begin = Instant::now();
        one.replica.put(vec![row(format!("single-{n}"), n)]).await?;
        // The first tenth is there to warm up.
        if n >= singles / 10 {
            times.push(ms(begin.elapsed()));
        }
    }
    let begin = Instant::now();
    try_join_all((0..IN_FLIGHT).map(|lane| async move {
        for n in 0..each {
            let key = format!("lane-{lane}-{n}");
            one.replica.put(vec![row(key, n)]).await?;
        }
        anyhow::Ok(())
    }))
    .await?;
    let rate = f64::from(IN_FLIGHT * each) / begin.elapsed().as_secs_f64();
    let single = times.len() as f64 * 1e3 / times.iter().sum::<f64>();
    Ok(vec![
        Figure::new(format!("{name}.single.p50"), "ms", median(&times)),
        Figure::new(format!("{name}.single.p99"), "ms", percentile(&times, 99.0)),
        Figure::new(format!("{name}.single.rate"), "writes/s", single),
        Figure::new(
            format!("{name}.in_flight_{IN_FLIGHT}.rate"),
            "writes/s",
            rate,
        ),
    ])
}

/// An instance without any rows joins one that has many.
async fn joining(options: &Options, place: &Place<'_>) -> anyhow::Result<Vec<Figure>> {
    let rows: usize = if options.quick { 10_000 } else { 100_000 };
    let full = place.start(4, &[]).await?;
    let all: Vec<RowChange> = (0..rows).map(|n| row(format!("row-{n}"), 1)).collect();
    for batch in all.chunks(BATCH) {
        full.replica.put(batch.to_vec()).await?;
    }
    let begin = Instant::now();
    let mut fresh = place.start(5, &[&full]).await?;
    let arriving = async {
        let mut arrived = 0;
        while arrived < rows {
            let changes = fresh.changes.recv().await.context("it ended")?;
            arrived += changes.len();
        }
        anyhow::Ok(())
    };
    let arrived = timeout(JOINING, arriving).await;
    arrived.context("the rows did not arrive")??;
    let whole = begin.elapsed().as_secs_f64();
    // Written after them, and so on disk after them.
    let last = row("last".to_owned(), 1);
    fresh.replica.put(vec![last]).await?;
    let kept = begin.elapsed().as_secs_f64();
    let same = fresh.replica.scan("row-") == full.replica.scan("row-");
    ensure!(same, "it has other rows than the one it joined");
    for instance in [full, fresh] {
        instance.bus.close().await;
    }
    Ok(vec![
        Figure::new("rows.join.rows", "rows", rows as f64),
        Figure::new("rows.join.whole", "s", whole),
        Figure::new("rows.join.on_disk", "s", kept),
        Figure::new("rows.join.rate", "rows/s", rows as f64 / whole),
    ])
}
