//! Processes that are killed.

use super::{
    processes::{signal, supervisor},
    round::Round,
};
use iceflix_core::api::Kind;
use nix::sys::signal::Signal::SIGKILL;
use std::time::Duration;

/// How long it may take until a killed process is missed; it is started again after 0.2 s or more.
const NOTICED: Duration = Duration::from_secs(3);

/// How long a machine stays dead.
const DEAD: Duration = Duration::from_secs(5);

/// The machine whose services are killed one by one.
const ONE: u32 = 2;

/// The machine that dies as a whole: the cluster's first.
const WHOLE: u32 = 1;

/// kill -9 of one service, which its machine's supervisor starts again.
pub async fn service(round: &mut Round<'_>, kind: Kind) -> anyhow::Result<()> {
    let victim = round.world.instance(ONE, kind)?;
    signal(victim.pid, SIGKILL)?;
    let elsewhere = if kind == Kind::Main { &[ONE][..] } else { &[] };
    round.made(&[victim], elsewhere);
    let noticed = round.noticed(NOTICED).await;
    round.check(noticed, || "its death was not noticed".into());
    round.over();
    Ok(())
}

/// kill -9 of everything on a machine, which is started again.
pub async fn machine(round: &mut Round<'_>) -> anyhow::Result<()> {
    let victims = round.world.at_machine(WHOLE)?;
    signal(supervisor(round.world.machine(WHOLE))?, SIGKILL)?;
    for victim in &victims {
        signal(victim.pid, SIGKILL)?;
    }
    round.made(&victims, &[WHOLE]);
    let noticed = round.noticed(NOTICED).await;
    round.check(noticed, || "its death was not noticed".into());
    tokio::time::sleep(DEAD).await;
    round.over();
    round.world.start_machine(WHOLE, &[])
}
