//! A restart storm: instances of all kinds, killed at random and started again by their machines.

use super::{
    leaks::Processes,
    processes::signal,
    round::{HEALING, Round},
    world::MACHINES,
};
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

/// How long what is held for connections that were lost may be held.
const CALM: Duration = Duration::from_secs(10);

/// How long a process is under load until it holds what one like it holds.
const WARM: Duration = Duration::from_secs(60);

/// Kills instances at random for so long.
pub async fn storm(round: &mut Round<'_>, time: Duration) -> anyhow::Result<()> {
    let before = Processes::now(round.world)?;
    let mut killed: BTreeMap<Kind, usize> = BTreeMap::new();
    let end = Instant::now() + time;
    while Instant::now() < end {
        let view = round.world.admin.directory().borrow().instances.clone();
        if let Some(victim) = choose(&view) {
            // It may have ended by itself, or be listed still.
            if signal(victim.pid, SIGKILL).is_ok() {
                *killed.entry(victim.kind).or_default() += 1;
            }
        }
        let pause = rand::rng().random_range(PAUSE);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    round.over();
    round.note(format!("killed: {killed:?}"));
    round.world.whole(HEALING).await?;
    round.healed_by_now();
    tokio::time::sleep(CALM).await;
    let after = Processes::now(round.world)?;
    if after.grown_since(&before).next().is_none() {
        return Ok(());
    }
    // They hold what people wrote meanwhile, and have been busy for longer: is it more than what those
    // hold that begin now with the same rows, under the same load?
    for machine in 1..=MACHINES {
        for instance in round.world.at_machine(machine)? {
            signal(instance.pid, SIGKILL)?;
        }
        round.world.whole(HEALING).await?;
    }
    tokio::time::sleep(WARM).await;
    let fresh = Processes::now(round.world)?;
    for (old, fresh) in after.grown_since(&fresh) {
        round.fail(format!(
            "{} holds {:?}, one that began after it {fresh:?}",
            old.name, old.held
        ));
    }
    Ok(())
}

/// One of a kind of which enough are left.
fn choose(view: &[Instance]) -> Option<Instance> {
    let others = |it: &&Instance| view.iter().filter(|other| other.kind == it.kind).count() > LEFT;
    let victims: Vec<&Instance> = view.iter().filter(others).collect();
    victims
        .choose(&mut rand::rng())
        .map(|victim| (*victim).clone())
}
