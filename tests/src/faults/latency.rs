//! How long commands took while a fault lasted, beside how long they took before it.
//!
//! Commands differ: a search is answered from memory, a tag waits for disks, a login hashes a
//! password. To take reads and writes apart would not be enough, for a login is a write as a tag is;
//! and when logins are held up there are fewer of them, so that percentiles of all together would
//! fall. So each command is compared with its own kind: what it took more than the median of its
//! kind before the fault is its excess. What a fault adds is the percentile of the excesses during
//! it, less the same percentile of those before it, which is what the machine adds on its own. Every
//! command counts once, so kinds weigh as often as people give them.

use super::report::second;
use serde::Serialize;
use std::{collections::BTreeMap, time::Duration};

/// A command that was carried out. Times are since the load's beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Which.
    pub command: &'static str,
    /// When it was given.
    pub at: Duration,
    /// How long it took, whether or not it failed: somebody waited so long.
    pub took: Duration,
}

/// When it was calm, and when the fault was there; since the load's beginning.
#[derive(Debug, Clone)]
pub struct Phases {
    /// From when on everything ran as it does.
    pub calm: Duration,
    /// When the fault was made.
    pub made: Duration,
    /// When the cluster was whole again, or was given up.
    pub whole: Duration,
}

/// How long commands took: all times in seconds. Of less than a hundred commands `p99` is the
/// longest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// How many there were.
    pub count: usize,
    /// The time that half of them did not exceed.
    #[serde(serialize_with = "second")]
    pub p50: Duration,
    /// The time that 99 of 100 did not exceed.
    #[serde(serialize_with = "second")]
    pub p99: Duration,
    /// The longest.
    #[serde(serialize_with = "second")]
    pub longest: Duration,
}

/// How long commands took before a fault, and during it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Latency {
    /// Those that had ended when the fault was made; `None`: there were none.
    pub calm: Option<Spread>,
    /// Those that were under way at any time from then until the cluster was whole, also if they had
    /// been given before; `None`: there were none.
    pub during: Option<Spread>,
    /// What the fault added to the 50th percentile, each command beside its own kind, in seconds;
    /// `None`: there was nothing to compare. A kind that was not seen before the fault is left out.
    pub added_p50: Option<f64>,
    /// The same of the 99th. Below zero the machine itself had been slower before.
    pub added_p99: Option<f64>,
    /// The same two of each kind of command.
    pub by_command: BTreeMap<&'static str, Kinds>,
}

/// One kind of command before a fault, and during it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Kinds {
    /// Before.
    pub calm: Option<Spread>,
    /// During.
    pub during: Option<Spread>,
}

impl Latency {
    /// Of these commands, in these phases.
    pub fn of(calls: &[Call], phases: &Phases) -> Self {
        let ended = |call: &Call| call.at + call.took;
        let calm = calls
            .iter()
            .filter(|call| call.at >= phases.calm && ended(call) <= phases.made);
        let during = calls
            .iter()
            .filter(|call| ended(call) > phases.made && call.at < phases.whole);
        let (calm, during): (Vec<&Call>, Vec<&Call>) = (calm.collect(), during.collect());
        let mut by_command: BTreeMap<&'static str, Kinds> = BTreeMap::new();
        for call in calm.iter().chain(&during) {
            by_command.entry(call.command).or_default();
        }
        for (command, kinds) in &mut by_command {
            kinds.calm = Spread::of(calm.iter().filter(|call| call.command == *command));
            kinds.during = Spread::of(during.iter().filter(|call| call.command == *command));
        }
        let excesses = |calls: &[&Call]| {
            let excess = |call: &&Call| {
                let usual = by_command.get(call.command)?.calm.as_ref()?.p50;
                Some(call.took.as_secs_f64() - usual.as_secs_f64())
            };
            let mut excesses: Vec<f64> = calls.iter().filter_map(excess).collect();
            excesses.sort_by(f64::total_cmp);
            excesses
        };
        let (before, meanwhile) = (excesses(&calm), excesses(&during));
        let added = |percent| Some(ranked(&meanwhile, percent)? - ranked(&before, percent)?);
        Self {
            calm: Spread::of(calm.iter()),
            during: Spread::of(during.iter()),
            added_p50: added(50),
            added_p99: added(99),
            by_command,
        }
    }
}

impl Spread {
    fn of<'c>(calls: impl Iterator<Item = &'c &'c Call>) -> Option<Self> {
        let mut times: Vec<Duration> = calls.map(|call| call.took).collect();
        times.sort();
        Some(Self {
            count: times.len(),
            p50: ranked(&times, 50)?,
            p99: ranked(&times, 99)?,
            longest: ranked(&times, 100)?,
        })
    }
}

/// The value below or at which `percent` of the values lie (nearest rank), of values in order.
fn ranked<T: Copy>(sorted: &[T], percent: usize) -> Option<T> {
    let rank = (percent * sorted.len()).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn call(command: &'static str, at: u64, took: u64) -> Call {
        let (at, took) = (MS(at), MS(took));
        Call { command, at, took }
    }

    /// Calm from 1 s on, a fault at 5 s, whole at 7 s.
    fn phases() -> Phases {
        let [calm, made, whole] = [1000, 5000, 7000].map(MS);
        Phases { calm, made, whole }
    }

    #[test]
    fn a_value_that_was_measured_is_the_percentile() {
        let values: Vec<u32> = (1..=200).collect();
        let of = |values: &[u32]| [50, 99, 100].map(|percent| ranked(values, percent));
        assert_eq!(of(&values), [Some(100), Some(198), Some(200)]);
        assert_eq!(of(&values[..99]), [Some(50), Some(99), Some(99)]);
        assert_eq!(of(&values[..1]), [Some(1); 3]);
        assert_eq!(of(&[]), [None; 3]);
    }

    #[test]
    fn a_command_that_a_fault_catches_is_its_own() {
        let calls = [
            // While all began; before; caught; during; longer than it; and when it was over.
            call("search", 900, 400),
            call("search", 1000, 10),
            call("search", 4990, 10),
            call("search", 4990, 11),
            call("search", 6000, 20),
            call("search", 6990, 30),
            call("search", 7000, 500),
        ];
        let latency = Latency::of(&calls, &phases());
        let calm = latency.calm.unwrap();
        assert_eq!((calm.count, calm.longest), (2, MS(10)));
        let during = latency.during.unwrap();
        assert_eq!(
            (during.count, during.p50, during.longest),
            (3, MS(20), MS(30))
        );
    }

    #[test]
    fn fewer_slow_commands_do_not_hide_what_a_fault_adds() {
        // Before it every second one is a login.
        let mut calls = Vec::new();
        for n in 0..100 {
            calls.push(call("search", 1000 + 30 * n, 4));
            calls.push(call("login", 1001 + 30 * n, 80));
        }
        // During it hardly one is, and all take 10 ms more.
        calls.extend((0..50).map(|n| call("search", 5000 + 20 * n, 14)));
        calls.push(call("login", 5500, 90));
        let latency = Latency::of(&calls, &phases());
        let (calm, during) = (latency.calm.unwrap(), latency.during.unwrap());
        assert_eq!((calm.p99, during.p99), (MS(80), MS(90)));
        let near = |added: Option<f64>| (added.unwrap() - 0.010).abs() < 1e-9;
        assert!(near(latency.added_p50) && near(latency.added_p99));
        let login = latency.by_command["login"].during.clone().unwrap();
        assert_eq!((login.count, login.p99), (1, MS(90)));
    }

    #[test]
    fn what_takes_long_before_a_fault_as_well_is_not_the_faults() {
        let mut calls: Vec<Call> = (0..50).map(|n| call("tag", 1000 + 50 * n, 5)).collect();
        calls.push(call("tag", 4000, 400));
        calls.extend((0..10).map(|n| call("tag", 5000 + 50 * n, 5)));
        calls.push(call("tag", 6000, 300));
        let latency = Latency::of(&calls, &phases());
        assert_eq!(latency.added_p50, Some(0.0));
        assert!((latency.added_p99.unwrap() + 0.1).abs() < 1e-9);
    }

    #[test]
    fn what_there_is_nothing_to_compare_with_is_left_out() {
        let calls = [call("search", 2000, 4), call("new writer", 5100, 900)];
        let latency = Latency::of(&calls, &phases());
        assert_eq!(latency.during.unwrap().longest, MS(900));
        assert_eq!((latency.added_p50, latency.added_p99), (None, None));
        let nothing = Latency::of(&[], &phases());
        assert!(nothing.calm.is_none() && nothing.during.is_none());
        assert_eq!(nothing.added_p99, None);
    }
}
