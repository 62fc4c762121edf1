//! Disks that are full, read-only or slow, and databases that are damaged or gone.

use super::{
    processes::{signal, supervisor},
    round::{HEALING, Round},
    world::{ODD, World},
};
use anyhow::{Context as _, ensure};
use iceflix_core::api::Kind;
use nix::sys::signal::Signal::{SIGCONT, SIGKILL, SIGSTOP};
use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// How long a disk is full, slow or read-only.
const FULL: Duration = Duration::from_secs(12);
const SLOW: Duration = Duration::from_secs(12);
const READ_ONLY: Duration = Duration::from_secs(10);

/// How long one fsync takes on a slow disk.
const FSYNC_MS: &str = "700";

/// How long a killed process may take to be gone, or to be missed.
const PATIENCE: Duration = Duration::from_secs(3);

/// The machine whose databases are damaged.
const DAMAGED: u32 = 2;

/// The disk of a machine is full for a while.
pub async fn full(round: &mut Round<'_>) -> anyhow::Result<()> {
    let state = round.world.machine(ODD).state();
    let fillers = [state.join("filler"), state.join("catalog-1/filler")];
    // Who cannot write withdraws; nobody else is to be missed.
    let mut writers = round.world.at_machine(ODD)?;
    writers.retain(|it| matches!(it.kind, Kind::Auth | Kind::Catalog));
    round.may_miss(&writers, &[]);
    for filler in &fillers {
        fill(filler)?;
    }
    tokio::time::sleep(FULL).await;
    for filler in &fillers {
        std::fs::remove_file(filler)?;
    }
    round.over();
    Ok(())
}

/// Writes until nothing more goes in.
fn fill(path: &Path) -> anyhow::Result<()> {
    let mut file = File::create(path)?;
    for size in [1 << 20, 4096, 1] {
        let block = vec![0; size];
        while file.write_all(&block).is_ok() {}
    }
    Ok(())
}

/// A catalogue's file system becomes read-only while it is being started again.
pub async fn read_only(round: &mut Round<'_>) -> anyhow::Result<()> {
    let dir = round.world.machine(ODD).state().join("catalog-1");
    let keeper = supervisor(round.world.machine(ODD))?;
    let victim = round.world.instance(ODD, Kind::Catalog)?;
    signal(keeper, SIGSTOP)?;
    let begun = Instant::now();
    signal(victim.pid, SIGKILL)?;
    round.made(begun, std::slice::from_ref(&victim), &[]);
    let remounted = read_only_soon(&dir).await;
    signal(keeper, SIGCONT)?;
    remounted?;
    tokio::time::sleep(READ_ONLY).await;
    let view = round.world.lives();
    round.check(
        !view
            .iter()
            .any(|(instance, _)| *instance == victim.instance),
        || "a catalogue that cannot write is announced".into(),
    );
    remount(&dir, "rw")?;
    round.over();
    Ok(())
}

/// Files that a killed process had open for writing are in the way for a moment.
async fn read_only_soon(dir: &Path) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        match remount(dir, "ro") {
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            done => return done,
        }
    }
}

fn remount(dir: &Path, how: &str) -> anyhow::Result<()> {
    let options = format!("remount,{how}");
    let told = Command::new("mount")
        .args(["-o", &options])
        .arg(dir)
        .output()?;
    let said = String::from_utf8_lossy(&told.stderr);
    ensure!(
        told.status.success(),
        "cannot remount {}: {said}",
        dir.display()
    );
    Ok(())
}

/// What a power cut leaves: the end of the last record is missing.
pub async fn torn(round: &mut Round<'_>, kind: Kind) -> anyhow::Result<()> {
    damage(round, kind, |database| {
        let log = beside(database, "-wal");
        let length = std::fs::metadata(&log)?.len();
        ensure!(length > 100, "{} is empty", log.display());
        let file = OpenOptions::new().write(true).open(&log)?;
        Ok(file.set_len(length - 100)?)
    })
    .await
}

/// The database is gone, with all that belongs to it.
pub async fn lost(round: &mut Round<'_>, kind: Kind) -> anyhow::Result<()> {
    damage(round, kind, |database| {
        std::fs::remove_file(database)?;
        for end in ["-wal", "-shm"] {
            // They may not be there.
            let _ = std::fs::remove_file(beside(database, end));
        }
        Ok(())
    })
    .await
}

fn beside(database: &Path, end: &str) -> PathBuf {
    PathBuf::from(format!("{}{end}", database.display()))
}

/// Kills a service, does something to its database, and lets it be started again.
async fn damage(
    round: &mut Round<'_>,
    kind: Kind,
    how: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let machine = round.world.machine(DAMAGED);
    let keeper = supervisor(machine)?;
    let victim = round.world.instance(DAMAGED, kind)?;
    let databases = super::rows::databases(&machine.state(), kind);
    let database = databases.first().context("it has no database")?;
    signal(keeper, SIGSTOP)?;
    let begun = Instant::now();
    signal(victim.pid, SIGKILL)?;
    round.made(begun, std::slice::from_ref(&victim), &[]);
    let damaged = ended(victim.pid).await.and_then(|()| how(database));
    round.noticed(PATIENCE).await;
    signal(keeper, SIGCONT)?;
    round.over();
    damaged
}

/// Waits until a killed process has let go of its files: what its parent has not yet looked at has.
async fn ended(pid: u32) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    let open = || {
        std::fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|mut files| files.next().is_some())
    };
    while open() {
        ensure!(Instant::now() < end, "process {pid} does not end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Starts a machine's services anew with a library in front of the system's, which can make every
/// fsync take long.
pub async fn prepare_slow(world: &World) -> anyhow::Result<()> {
    let home = &world.machine(ODD).home;
    let library = compile(home)?;
    let delay = delay(world);
    std::fs::write(&delay, "0")?;
    let env = [
        ("LD_PRELOAD", library.display().to_string()),
        ("SLOW_FSYNC", delay.display().to_string()),
    ];
    world.stop_machine(ODD)?;
    world.start_machine(ODD, &env)?;
    world.whole(HEALING).await
}

/// The file that says how long an fsync takes.
fn delay(world: &World) -> PathBuf {
    world.machine(ODD).home.join("fsync-ms")
}

/// Every fsync of a machine's services takes long.
pub async fn slow(round: &mut Round<'_>) -> anyhow::Result<()> {
    let delay = delay(round.world);
    let begun = Instant::now();
    std::fs::write(&delay, FSYNC_MS)?;
    round.made(begun, &[], &[]);
    tokio::time::sleep(SLOW).await;
    std::fs::write(&delay, "0")?;
    round.over();
    round.world.whole(HEALING).await?;
    round.healed_by_now();
    round.tidying();
    round.world.stop_machine(ODD)?;
    round.world.start_machine(ODD, &[])
}

fn compile(dir: &Path) -> anyhow::Result<PathBuf> {
    let source = dir.join("slow_fsync.c");
    std::fs::write(&source, include_str!("slow_fsync.c"))?;
    let library = dir.join("slow_fsync.so");
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .arg("-ldl");
    let told = cc.output().context("cc cannot be started")?;
    let said = String::from_utf8_lossy(&told.stderr);
    ensure!(told.status.success(), "cc: {said}");
    Ok(library)
}
