//! A machine whose clock is wrong: libfaketime, in its services alone. Only the time of day is: the
//! clocks by which time is measured run on.

use super::{
    oracles::tile_at,
    round::{HEALING, Round},
    world::{ODD, World},
};
use anyhow::Context as _;
use iceflix_core::api::Kind;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

/// Where the library is: Debian's package `libfaketime`, for programs with threads.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// How long the clock is wrong: it is compared every 5 s.
const WRONG: Duration = Duration::from_secs(15);

/// How long a name may take to be known everywhere.
const SPREAD: Duration = Duration::from_secs(3);

/// What the second film is called.
const FIRST: &str = "Red Fire";

/// Starts the machine's services anew, with a clock that can be set.
pub async fn prepare(world: &World) -> anyhow::Result<()> {
    let library = library().context("libfaketime is not installed: scripts/bootstrap --test")?;
    set(world, 0)?;
    world.stop_machine(ODD)?;
    let text = |path: PathBuf| path.display().to_string();
    let env = [
        ("LD_PRELOAD", text(library)),
        ("FAKETIME_TIMESTAMP_FILE", text(offset(world))),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("FAKETIME_CACHE_DURATION", "1".to_owned()),
    ];
    world.start_machine(ODD, &env)?;
    world.whole(HEALING).await
}

/// The file that says how wrong the clock is.
fn offset(world: &World) -> PathBuf {
    world.machine(ODD).home.join("clock")
}

fn set(world: &World, seconds: i32) -> std::io::Result<()> {
    std::fs::write(offset(world), format!("{seconds:+}s\n"))
}

/// A machine's clock jumps by so many seconds, and later back. It must withdraw, and what was
/// written meanwhile must not stand in the way of later writes.
pub async fn wrong(round: &mut Round<'_>, seconds: i32) -> anyhow::Result<()> {
    let gone = round.world.at_machine(ODD)?;
    let begun = Instant::now();
    set(round.world, seconds)?;
    round.made(begun, &gone, &[ODD]);
    tokio::join!(round.noticed(WRONG), tokio::time::sleep(WRONG));
    let left: Vec<_> = round
        .world
        .at_machine(ODD)?
        .into_iter()
        .map(|it| it.instance)
        .collect();
    round.check(left.is_empty(), || {
        format!("it does not stay away: {left:?}")
    });
    for name in ["Clockwork", FIRST] {
        name_stands(round, name).await?;
    }
    set(round.world, 0)?;
    round.over();
    round.world.whole(HEALING).await?;
    round.healed_by_now();
    // The next fault finds the machine as it was.
    round.tidying();
    round.world.stop_machine(ODD)?;
    round.world.start_machine(ODD, &[])?;
    round.world.whole(HEALING).await?;
    name_stands(round, FIRST).await
}

/// The second film is called so everywhere soon after it was named so, whatever was written by the
/// wrong clock.
async fn name_stands(round: &mut Round<'_>, name: &str) -> anyhow::Result<()> {
    let (_, id) = *round.world.films.last().context("there are no films")?;
    let admin = &round.world.admin;
    admin.rename(id, name).await?;
    let end = Instant::now() + SPREAD;
    let catalogues = admin.directory().borrow().clone();
    let catalogues = catalogues
        .instances
        .iter()
        .filter(|it| it.kind == Kind::Catalog);
    for catalogue in catalogues {
        loop {
            let shown = tile_at(admin, catalogue.endpoint, id).await?.name;
            if shown == name {
                break;
            }
            if Instant::now() > end {
                let instance = &catalogue.instance;
                round.fail(format!("named {name}, it is called {shown} by {instance}"));
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

fn library() -> Option<PathBuf> {
    let dirs = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from);
    let architectures = std::fs::read_dir("/usr/lib")
        .ok()?
        .flatten()
        .map(|entry| entry.path());
    let mut found = dirs
        .into_iter()
        .chain(architectures)
        .map(|dir| dir.join(LIBRARY));
    found.find(|path| path.is_file())
}
