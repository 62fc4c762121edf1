//! Disks that are full, read-only or slow, and databases that are damaged or gone.

use super::{
    processes::{signal, supervisor},
    round::{ASKED, HEALING, Round},
    world::{ODD, World},
};
use anyhow::{Context as _, ensure};
use iceflix_core::api::{Kind, catalog::CatalogClient};
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
const FSYNC: Duration = Duration::from_millis(700);

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

/// What a power cut leaves: the end of the last record is missing. Behind it the log may hold what
/// an earlier turn of it left, which SQLite does not look at.
pub async fn torn(round: &mut Round<'_>, kind: Kind) -> anyhow::Result<()> {
    damage(round, kind, |database| {
        let log = beside(database, "-wal");
        let end = end_of_log(&std::fs::read(&log)?);
        let end = end.with_context(|| format!("{} holds nothing", log.display()))?;
        let file = OpenOptions::new().write(true).open(&log)?;
        Ok(file.set_len(end - 100)?)
    })
    .await
}

/// Where the last frame ends that counts in a write-ahead log of SQLite: after the log's header come
/// frames of a header and a page each, which count as long as they have the log's own salts
/// (<https://www.sqlite.org/fileformat2.html#walformat>). `None` when there is none.
fn end_of_log(log: &[u8]) -> Option<u64> {
    const HEADER: usize = 32;
    const FRAME: usize = 24;
    let page = u32::from_be_bytes(log.get(8..12)?.try_into().ok()?);
    let salts = log.get(16..24)?;
    let frames = log.get(HEADER..)?.chunks_exact(FRAME + page as usize);
    let counting = frames.take_while(|frame| frame[8..16] == *salts).count();
    let end = HEADER + counting * (FRAME + page as usize);
    (counting > 0).then_some(end as u64)
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

/// Has the catalogue with the odd disk write something.
async fn writes_at_odd(round: &Round<'_>) -> anyhow::Result<()> {
    let at = round.world.instance(ODD, Kind::Catalog)?.endpoint;
    let (_, film) = *round.world.films.first().context("there are no films")?;
    let admin = &round.world.admin;
    let written = admin.authorised(|token| {
        let ask = move |catalog: CatalogClient, context| {
            let (token, tags) = (token.clone(), vec!["slow".to_owned()]);
            async move { catalog.add_tags(context, token, film, tags).await }
        };
        admin.caller().call_at(at, ASKED, ask)
    });
    Ok(written.await?)
}

/// Every fsync of a machine's services takes long.
pub async fn slow(round: &mut Round<'_>) -> anyhow::Result<()> {
    let delay = delay(round.world);
    let begun = Instant::now();
    std::fs::write(&delay, FSYNC.as_millis().to_string())?;
    round.made(begun, &[], &[]);
    let asked = Instant::now();
    let written = writes_at_odd(round).await;
    let took = asked.elapsed();
    tokio::time::sleep(SLOW.saturating_sub(took)).await;
    std::fs::write(&delay, "0")?;
    round.over();
    round.check(took >= FSYNC, || {
        format!("its disk was not slow: a tag was written there in {took:.2?}")
    });
    round.world.whole(HEALING).await?;
    round.healed_by_now();
    round.tidying();
    round.world.stop_machine(ODD)?;
    round.world.start_machine(ODD, &[])?;
    written
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

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    #[test]
    fn the_last_record_is_torn_and_no_other_though_the_log_was_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("database");
        let copy = dir.path().join("copy");
        let database = Connection::open(&path).unwrap();
        let run = |words: &str| database.execute_batch(words).unwrap();
        run("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE rows (n);");
        for n in 0..50 {
            run(&format!("INSERT INTO rows VALUES ({n})"));
        }
        // From here on the log is written from its beginning again.
        run("PRAGMA wal_checkpoint(RESTART); INSERT INTO rows VALUES (50)");
        run("INSERT INTO rows VALUES (51)");
        let log = std::fs::read(beside(&path, "-wal")).unwrap();
        let end = end_of_log(&log).unwrap();
        assert!(end < log.len() as u64 / 4, "{end} of {}", log.len());

        std::fs::copy(&path, &copy).unwrap();
        let torn = usize::try_from(end).unwrap() - 100;
        std::fs::write(beside(&copy, "-wal"), &log[..torn]).unwrap();
        let copy = Connection::open(&copy).unwrap();
        let last = copy.query_one("SELECT max(n) FROM rows", [], |row| row.get::<_, u32>(0));
        assert_eq!(last.unwrap(), 50);
        assert_eq!(end_of_log(&log[..32]), None);
        assert_eq!(end_of_log(b""), None);
    }
}
