//! `make bench`: measures, prints a table and writes JSON. See docs/measurements.md.
//!
//! The services that are measured are processes of their own: this program, started once more,
//! runs a service's own `main`, so that what is measured is always what was just built.

mod calls;
mod detection;
mod faults;
mod film;
mod first_packet;
mod hashing;
mod logins;
mod report;
mod revocation;
mod rows;
mod rtsp;
mod stats;
mod titles;
mod usage;
mod viewers;
mod world;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use iceflix_core::{api::Kind, service};
use report::{Figure, Report};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Instant, SystemTime, UNIX_EPOCH},
};
use tokio::signal::unix::{SignalKind, signal};
use world::World;

/// Measures IceFlix; a table on standard output, JSON in target/bench/results.json.
#[derive(Debug, Parser)]
#[command(name = "iceflix-bench")]
struct Options {
    /// Fewer repetitions: to see that it works, not for figures to quote
    #[arg(long)]
    quick: bool,
    /// Only this; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<Part>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// From get_stream to the first RTP packet
    FirstPacket,
    /// Latency and throughput of calls, with 10,000 titles
    Calls,
    /// Hashing, beside sha256sum
    Hashing,
    /// Logins a second, and right ones under a flood of wrong ones
    Logins,
    /// Memory, threads and processor time of viewers
    Viewers,
    /// How soon a revoked token is refused everywhere, and what judging one costs
    Revocation,
    /// Writing shared rows, and joining an instance that has 100,000
    Rows,
    /// How soon everybody knows who is dead, and whether the busy are taken for it
    Detection,
    /// How soon faults are noticed in a cluster of three machines, and what they cost its users
    Faults,
}

fn main() -> ExitCode {
    // The streaming service looks at strangers' files in a process of its own: this program, too.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|arg| arg == "probe-worker")
    {
        return streaming_svc::probe::worker_main();
    }
    if let Ok(kind) = std::env::var(world::SERVICE) {
        return be_service(&kind);
    }
    let options = Options::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no threads to run on: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        // What is dropped here takes its processes and files with it.
        tokio::select! {
            result = run(&options) => result,
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
            _ = terminate.recv() => Err(anyhow::anyhow!("interrupted")),
        }
    });
    // Threads that still read or hash for nobody are not waited for.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Is a service until the process that started this one ends.
fn be_service(kind: &str) -> ExitCode {
    std::thread::spawn(|| {
        // Nothing is ever written to the pipe: it only ends.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    match kind.parse() {
        Ok(Kind::Main) => service::run::<main_svc::MainServer>(),
        Ok(Kind::Auth) => service::run::<auth_svc::AuthServer>(),
        Ok(Kind::Catalog) => service::run::<catalog_svc::CatalogServer>(),
        Ok(Kind::Streaming) => streaming_svc::run(),
        Err(error) => {
            eprintln!("{}: {error}", world::SERVICE);
            ExitCode::from(2)
        }
    }
}

async fn run(options: &Options) -> anyhow::Result<()> {
    let dir = directory()?;
    let mut report = Report {
        started: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        load_before: load(),
        load_after: None,
        quick: options.quick,
        figures: Vec::new(),
    };
    let wanted = |part| options.only.is_empty() || options.only.contains(&part);
    // What is missing is said now, and not when all the rest has been measured.
    let harness = wanted(Part::Faults).then(faults::program).transpose()?;
    if wanted(Part::Hashing) {
        let figures = timed("hashing", hashing::run(options, &dir)).await?;
        report.figures.extend(figures);
    }
    if [Part::FirstPacket, Part::Calls, Part::Logins, Part::Viewers]
        .into_iter()
        .any(wanted)
    {
        let media = film::make(&dir).await?;
        let world = World::start(&media).await.context("starting a cluster")?;
        if wanted(Part::FirstPacket) {
            let figures = timed("first packet", first_packet::run(options, &world)).await?;
            report.figures.extend(figures);
        }
        if wanted(Part::Viewers) {
            let figures = timed("viewers", viewers::run(options, &world, &media)).await?;
            report.figures.extend(figures);
        }
        if wanted(Part::Calls) {
            let figures = timed("calls", calls::run(options, &world)).await?;
            report.figures.extend(figures);
        }
        if wanted(Part::Logins) {
            let figures = timed("logins", logins::run(options, &world)).await?;
            report.figures.extend(figures);
        }
        world.stop().await;
    }
    if wanted(Part::Revocation) {
        let media = film::make(&dir).await?;
        let figures = Box::pin(timed("revocation", revocation::run(options, &media))).await?;
        report.figures.extend(figures);
    }
    if wanted(Part::Rows) {
        let figures = Box::pin(timed("rows", rows::run(options, &dir))).await?;
        report.figures.extend(figures);
    }
    if wanted(Part::Detection) {
        let figures = Box::pin(timed("detection", detection::run(options))).await?;
        report.figures.extend(figures);
    }
    if let Some(program) = &harness {
        let figures = timed("faults", faults::run(options, program)).await?;
        report.figures.extend(figures);
    }
    report.load_after = load();
    let path = dir.join("results.json");
    report.write(&path)?;
    print!("{}", report.table());
    let shown = |load: Option<f64>| load.map_or("unknown".into(), |load| format!("{load:.1}"));
    eprintln!(
        "{} processors, load {} before and {} after; also in {}",
        report.processors,
        shown(report.load_before),
        shown(report.load_after),
        path.display()
    );
    Ok(())
}

/// Says what is being measured, and how long it took.
async fn timed(
    what: &str,
    measuring: impl Future<Output = anyhow::Result<Vec<Figure>>>,
) -> anyhow::Result<Vec<Figure>> {
    let begin = Instant::now();
    let figures = measuring.await.with_context(|| what.to_owned())?;
    let done = match figures.is_empty() {
        true => "nothing measured",
        false => "measured",
    };
    eprintln!("{what}: {done} in {:.0} s", begin.elapsed().as_secs_f64());
    Ok(figures)
}

/// `target/bench`: beside the directory of the profile that this program was built in.
fn directory() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.parent().and_then(Path::parent);
    let dir = target.context("the target directory")?.join("bench");
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    Ok(dir)
}

/// The load average over the last minute.
fn load() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split(' ').next()?.parse().ok()
}
