//! Processes that are killed.

use super::{
    processes::{signal, supervisor},
    round::Round,
    world::ODD,
};
use iceflix_core::api::Kind;
use nix::sys::signal::Signal::{SIGCONT, SIGKILL, SIGSTOP};
use std::time::{Duration, Instant};

/// How long it is waited until a killed process is missed.
const NOTICED: Duration = Duration::from_secs(3);

/// How long two are left, and then one.
const ALONE: Duration = Duration::from_secs(3);

/// How long a machine stays dead.
const DEAD: Duration = Duration::from_secs(5);

/// The machine whose services are killed one by one.
const ONE: u32 = 2;

/// The machine that dies as a whole: the cluster's first.
const WHOLE: u32 = 1;

/// kill -9 of one service, which its machine's supervisor starts again.
pub async fn service(round: &mut Round<'_>, kind: Kind) -> anyhow::Result<()> {
    let victim = round.world.instance(ONE, kind)?;
    let begun = Instant::now();
    signal(victim.pid, SIGKILL)?;
    let elsewhere = if kind == Kind::Main { &[ONE][..] } else { &[] };
    round.made(begun, &[victim], elsewhere);
    round.noticed(NOTICED).await;
    round.over();
    Ok(())
}

/// kill -9 of one of two: of the three of a kind one is dead already, and has been missed. Nobody
/// starts either again until the last has been alone for a while.
pub async fn of_two(round: &mut Round<'_>, kind: Kind) -> anyhow::Result<()> {
    let machines = [ODD, ONE].map(|number| round.world.machine(number));
    let keepers = machines.map(supervisor);
    let [first, second] = keepers;
    let keepers = [first?, second?];
    let killed = kill_both(round, kind, keepers).await;
    for keeper in keepers {
        signal(keeper, SIGCONT)?;
    }
    round.over();
    killed
}

async fn kill_both(round: &mut Round<'_>, kind: Kind, keepers: [u32; 2]) -> anyhow::Result<()> {
    for (machine, keeper) in [ODD, ONE].into_iter().zip(keepers) {
        let victim = round.world.instance(machine, kind)?;
        signal(keeper, SIGSTOP)?;
        let begun = Instant::now();
        signal(victim.pid, SIGKILL)?;
        round.made(begun, &[victim], &[]);
        round.noticed(NOTICED).await;
        tokio::time::sleep(ALONE).await;
    }
    Ok(())
}

/// kill -9 of everything on a machine, which is started again.
pub async fn machine(round: &mut Round<'_>) -> anyhow::Result<()> {
    let victims = round.world.at_machine(WHOLE)?;
    let begun = Instant::now();
    signal(supervisor(round.world.machine(WHOLE))?, SIGKILL)?;
    for victim in &victims {
        signal(victim.pid, SIGKILL)?;
    }
    round.made(begun, &victims, &[WHOLE]);
    round.noticed(NOTICED).await;
    tokio::time::sleep(DEAD).await;
    round.over();
    round.world.start_machine(WHOLE, &[])
}
