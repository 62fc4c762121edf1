//! A restart storm: instances of all kinds, killed at random and started again by their machines.

use super::{
    processes::{signal, supervisor},
    round::{HEALING, Round},
    watch::{Life, lives},
};
use iceflix_core::api::{Instance, Kind};
use nix::sys::signal::Signal::SIGKILL;
use rand::{Rng as _, seq::IndexedRandom as _};
use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

/// The pause between two deaths: more than an instance takes to be started again, mostly.
const PAUSE: std::ops::Range<u64> = 300..1700;

/// How many instances of a kind are left alone at least.
const LEFT: usize = 2;

/// How long what is held for connections that were lost may be held.
const CALM: Duration = Duration::from_secs(10);

/// What a process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    files: usize,
    threads: usize,
    memory_kb: usize,
}

impl Held {
    /// What a process holds now; `None` when it is gone.
    fn by(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        Some(Self {
            files: fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count(),
            threads: number("Threads:")?,
            memory_kb: number("VmRSS:")?,
        })
    }

    /// Whether it is more than another by what cannot be chance: half as much again, and some.
    fn exceeds(self, before: Self) -> bool {
        self.files > before.files * 3 / 2 + 20
            || self.threads > before.threads * 3 / 2 + 8
            || self.memory_kb > before.memory_kb * 3 / 2 + 20_000
    }
}

/// Kills instances at random for so long.
pub async fn storm(round: &mut Round<'_>, time: Duration) -> anyhow::Result<()> {
    let before = held(round);
    let supervisors: Vec<u32> = (1..=3)
        .map(|n| supervisor(round.world.machine(n)))
        .collect::<anyhow::Result<_>>()?;
    let keeping: Vec<Option<Held>> = supervisors.iter().map(|pid| Held::by(*pid)).collect();
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
    tokio::time::sleep(CALM).await;
    for (name, now) in held(round) {
        let of_kind = name.split('-').next().unwrap_or_default().to_owned();
        let most = before
            .iter()
            .filter(|(other, _)| other.starts_with(&of_kind));
        let most = most
            .map(|(_, held)| *held)
            .max_by_key(|held| held.memory_kb);
        round.check(most.is_none_or(|most| !now.exceeds(most)), || {
            format!("{name} holds {now:?}; before it was {most:?}")
        });
    }
    for (pid, before) in supervisors.into_iter().zip(keeping) {
        let leaked = Held::by(pid)
            .zip(before)
            .is_none_or(|(now, before)| now.exceeds(before));
        round.check(!leaked, || {
            format!("a supervisor holds {:?}, before {before:?}", Held::by(pid))
        });
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

/// What every instance holds.
fn held(round: &Round<'_>) -> BTreeMap<String, Held> {
    let view = round.world.admin.directory().borrow().clone();
    let all: Vec<Life> = lives(&view).into_iter().collect();
    let kind = |life: &Life| {
        view.instances
            .iter()
            .find(|it| it.instance == life.0)
            .map(|it| it.kind)
    };
    all.iter()
        .filter_map(|life| Some((format!("{}-{}", kind(life)?, life.0), Held::by(life.1)?)))
        .collect()
}
