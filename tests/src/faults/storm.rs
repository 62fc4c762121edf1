//! A restart storm: instances of all kinds, killed at random and started again by their machines.

use super::{
    leaks::Processes,
    load::{Load, Wanted},
    processes::signal,
    round::{HEALING, Round},
    world::MACHINES,
};
use anyhow::Context as _;
use iceflix_core::api::{Instance, Kind};
use nix::sys::signal::Signal::SIGKILL;
use rand::{Rng as _, seq::IndexedRandom as _};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// The pause between two deaths: more than an instance takes to be started again, mostly.
const PAUSE: std::ops::Range<u64> = 300..1700;

/// How many instances of a kind are left alone at least.
const LEFT: usize = 2;

/// Of so many instances all but one live on average, at least.
const MOST: usize = 5;

/// How long what is held for connections that were lost may be held.
const CALM: Duration = Duration::from_secs(10);

/// How long a process has to be under load until it holds what one like it holds.
const WARM: Duration = Duration::from_secs(60);

/// Kills instances at random for so long, the node of a film first: a film has to go on elsewhere at
/// least once, which chance alone would not see to in a short storm.
pub async fn storm(round: &mut Round<'_>, time: Duration) -> anyhow::Result<()> {
    let before = Processes::now(round.world)?;
    let mut killed: BTreeMap<Kind, usize> = BTreeMap::new();
    let end = Instant::now() + time;
    let mut next = Some(node_of_a_film(round)?);
    let all = round.world.instances.len();
    let (mut looks, mut alive) = (0, 0);
    while Instant::now() < end {
        let victim = next.take().or_else(|| {
            let view = round.world.admin.directory().borrow().clone();
            (looks, alive) = (looks + 1, alive + view.instances.len());
            choose(&view.instances)
        });
        if let Some(victim) = victim {
            // It may have ended by itself, or be listed still.
            if signal(victim.pid, SIGKILL).is_ok() {
                *killed.entry(victim.kind).or_default() += 1;
            }
        }
        let pause = rand::rng().random_range(PAUSE);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    round.over();
    let average = alive / looks.max(1);
    round.note(format!(
        "killed: {killed:?}; of {all} instances {average} lived on average"
    ));
    // Where most wait to be started, the storm is over.
    round.in_time(alive * MOST >= looks * all * (MOST - 1), || {
        format!("of {all} instances only {average} lived on average")
    });
    round.world.whole(HEALING).await?;
    round.healed_by_now();
    tokio::time::sleep(CALM).await;
    let after = Processes::now(round.world)?;
    if after.grown_since(&before).next().is_some() {
        round.have_grown(after);
    }
    Ok(())
}

/// Whether they hold more memory than those that begin now. They had to hold what people wrote
/// meanwhile, and were busy for longer; so do these, with the same rows and under the same load.
///
/// # Errors
/// When that cannot be told.
pub async fn beside_new(
    round: &mut Round<'_>,
    old: &Processes,
    wanted: Wanted,
) -> anyhow::Result<()> {
    let load = Load::start(wanted).await?;
    for machine in 1..=MACHINES {
        for instance in round.world.at_machine(machine)? {
            // It may have ended by itself, or be listed still.
            let _ = signal(instance.pid, SIGKILL);
        }
        round.world.whole(HEALING).await?;
    }
    tokio::time::sleep(WARM).await;
    let new = Processes::now(round.world)?;
    load.stop()?;
    let grown: Vec<String> = old
        .grown_since(&new)
        .map(|(old, new)| {
            let (name, held) = (&old.name, old.held);
            format!("{name} held {held:?} after the storm, a new one under the same load {new:?}")
        })
        .collect();
    round.note("memory was compared with that of new processes");
    for what in grown {
        round.fail(what);
    }
    Ok(())
}

/// The streaming node where the first film begins.
fn node_of_a_film(round: &Round<'_>) -> anyhow::Result<Instance> {
    let machines: Vec<u32> = (1..=MACHINES).collect();
    let showings = round.world.showings(&machines)?;
    let film = showings.first().context("no film plays")?;
    let view = round.world.admin.directory().borrow().clone();
    let mut nodes = view.instances.iter();
    let node = nodes.find(|it| it.kind == Kind::Streaming && it.endpoint.ip() == film.at);
    Ok(node.context("the film's node is not listed")?.clone())
}

/// One of a kind of which enough are left.
fn choose(view: &[Instance]) -> Option<Instance> {
    let others = |it: &&Instance| view.iter().filter(|other| other.kind == it.kind).count() > LEFT;
    let victims: Vec<&Instance> = view.iter().filter(others).collect();
    victims
        .choose(&mut rand::rng())
        .map(|victim| (*victim).clone())
}
