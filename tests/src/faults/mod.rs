//! Faults, made for real: processes that are killed or stopped, cables that are pulled, clocks that
//! are wrong, disks that are full, in a cluster of three machines (network namespaces) which people
//! on a fourth use all the while. `make faults` runs them and prints what became of each:
//!
//! | column | what it says |
//! |---|---|
//! | commands, errors | how many commands were given from before the fault until after it, and how many failed |
//! | hidden | how many searches showed a film as not available that live nodes have |
//! | written, lost | how many writes (and logouts, of many 50 to 100) were acknowledged, and how many of those some live instance does not know of afterwards |
//! | whole | how long it took, once the fault was over, until every Main's directory was the same and complete and all instances had the same rows |
//! | rows | whether all instances of a kind had the very same rows at the end |
//! | noticed | how long the last Main took to miss what was gone |
//! | longest | the longest that any command took |
//! | film | the longest that a film stood still which plays at a node that the fault does not touch |
//! | hit film | the same of one that plays at a node which the fault hits, and may go on at another |
//! | p99 ms / calm | the time that 99 of 100 commands did not exceed from when the fault was made until the cluster was whole, and the same before it |

mod clocks;
mod disks;
mod films;
mod founding;
mod kills;
mod latency;
mod leaks;
mod list;
mod load;
mod mains;
mod network;
mod oracles;
mod people;
mod processes;
mod report;
mod round;
mod rows;
mod stops;
mod storm;
mod tally;
mod watch;
mod world;

pub use list::{Fault, all};
pub use report::{Line, table};

use crate::lan::Lan;
use iceflix_core::api::Kind;
use list::What;
use round::{Round, perform};
use std::{path::Path, sync::Arc, time::Duration};
use world::{PEOPLE, Plan, World};

/// How many machines the LAN of the faults has.
pub fn machines() -> u32 {
    PEOPLE
}

/// Makes these faults, one after another, on a LAN of [`machines`], with everything below `dir`. To
/// be run on the people's machine of that LAN. People use the cluster for so long `before` each.
/// `said` gets each line as it is known.
///
/// # Errors
/// When the cluster does not start or a round cannot be carried out.
pub async fn run(
    lan: &str,
    dir: &Path,
    faults: &[Fault],
    before: Duration,
    mut said: impl FnMut(Line),
) -> anyhow::Result<()> {
    // What libfaketime leaves behind goes with this process.
    founding::mount(Path::new("/dev/shm"), "size=16m")?;
    let lan = Arc::new(Lan::existing(lan));
    let mut number = 0;
    // The storm needs more instances than the others.
    let calm = Plan {
        per_machine: 1,
        films: &founding::FILMS,
        seconds: 240,
    };
    let mut plans = vec![("three", calm, false)];
    // The storm needs more instances than the others, and films that last.
    plans.extend(faults.iter().find_map(storm_of).map(|time| {
        let storm = Plan {
            per_machine: 2,
            films: &founding::FILMS_OF_STORMS,
            seconds: u32::try_from(time.as_secs()).unwrap_or(u32::MAX / 2) + 480,
        };
        ("storm", storm, true)
    }));
    for (place, plan, stormy) in plans {
        let chosen = faults
            .iter()
            .filter(|fault| storm_of(fault).is_some() == stormy);
        let mut chosen = chosen.peekable();
        if chosen.peek().is_none() {
            continue;
        }
        let mut world = None;
        for fault in chosen {
            number += 1;
            let started = match world.take() {
                Some(started) => started,
                None => {
                    let dir = dir.join(format!("{place}-{number}"));
                    std::fs::create_dir_all(&dir)?;
                    World::start(Arc::clone(&lan), &dir, &plan).await?
                }
            };
            let line = perform(&started, fault, before, number).await?;
            if !line.passed() {
                started.keep_logs()?;
            }
            // What a fault broke for good is no matter of the next one.
            if line.whole.is_some() && line.equal {
                world = Some(started);
            }
            said(line);
        }
    }
    Ok(())
}

/// How long it lasts, if it is a storm.
fn storm_of(fault: &Fault) -> Option<Duration> {
    match fault.what {
        What::Storm(time) => Some(time),
        _ => None,
    }
}

/// What has to be done before people come.
async fn prepare(what: What, world: &World) -> anyhow::Result<()> {
    match what {
        What::Clock(_) => clocks::prepare(world).await,
        What::SlowDisk => disks::prepare_slow(world).await,
        _ => Ok(()),
    }
}

async fn make(what: What, round: &mut Round<'_>) -> anyhow::Result<()> {
    match what {
        What::Kill(kind) => kills::service(round, kind).await,
        What::KillOfTwo(kind) => kills::of_two(round, kind).await,
        What::KillMachine => kills::machine(round).await,
        What::Stop(Kind::Main, time) => mains::stands_still(round, time).await,
        What::Stop(kind, time) => stops::service(round, kind, time).await,
        What::Cable => network::cable(round).await,
        What::Flap => network::flapping(round).await,
        What::Silence(to) => network::silence(round, to).await,
        What::Split => network::split(round).await,
        What::Clock(seconds) => clocks::wrong(round, seconds).await,
        What::DiskFull => disks::full(round).await,
        What::ReadOnly => disks::read_only(round).await,
        What::TornRecord(kind) => disks::torn(round, kind).await,
        What::LostDatabase(kind) => disks::lost(round, kind).await,
        What::SlowDisk => disks::slow(round).await,
        What::Storm(time) => storm::storm(round, time).await,
    }
}
