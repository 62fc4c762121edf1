//! How far this machine's clock is from the others'.
//!
//! Tokens, proofs and the stamps of shared rows are dated. An instance whose clock is far from the
//! others' would refuse good tokens, take over-age ones, and stamp rows so that they win over
//! later ones: it withdraws, and says so.

use crate::{
    announcement::{Absence, Absences},
    awake::running_ms,
    bus::Bus,
    topics::{Told, Topics},
};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// How far a clock may be from the others' median, in seconds: an instance that is further off
/// withdraws. Tokens allow for 2 s between two clocks.
const FAR: f64 = 1.5;

/// How near it must be, in seconds, for the instance to return.
const NEAR: f64 = 1.0;

/// How often the others are asked what time it is.
const EVERY: Duration = Duration::from_secs(5);

/// How often it is looked whether this clock was set.
const LOOK: Duration = Duration::from_millis(100);

/// How soon they are asked once more when this clock seems to be far off.
const SURE: Duration = Duration::from_millis(200);

/// How long they may take to answer. Half of it is the most that a reading is off by itself.
const TIMEOUT: Duration = Duration::from_millis(500);

/// What another instance's clock says: on which machine, and how many seconds it is ahead.
pub type Reading = (IpAddr, f64);

/// How many seconds the cluster's clocks are ahead of this one, on this machine: the median of the
/// machines' medians, this instance among them. Of two in the middle the one nearer to this clock:
/// where it is one against one, nobody can tell who is wrong.
pub fn ahead(here: IpAddr, readings: &[Reading]) -> f64 {
    let mut machines = BTreeMap::from([(here, vec![0.0])]);
    for &(machine, ahead) in readings {
        machines.entry(machine).or_default().push(ahead);
    }
    median(machines.into_values().map(median).collect())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else {
        return 0.0;
    };
    let (lower, upper) = (values[last / 2], values[last.div_ceil(2)]);
    if lower.abs() <= upper.abs() {
        lower
    } else {
        upper
    }
}

/// The time of this machine's clock, in microseconds since 1970.
pub fn now_us() -> u64 {
    us(SystemTime::now())
}

fn us(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// How far this clock is from one that nobody sets: how long the machine has been on.
#[derive(Debug, Clone, Copy)]
struct Since {
    off_us: i128,
}

impl Since {
    fn now() -> Self {
        Self::of(now_us(), running_ms())
    }

    fn of(clock_us: u64, running_ms: u64) -> Self {
        Self {
            off_us: i128::from(clock_us) - i128::from(running_ms) * 1000,
        }
    }

    /// Whether the clock was set in between, so far that it matters.
    fn was_set(self, later: Self) -> bool {
        let by = (later.off_us - self.off_us).abs();
        Duration::from_micros(u64::try_from(by).unwrap_or(u64::MAX)).as_secs_f64() > FAR
    }
}

/// Waits until it is time to ask again. Whether this clock was set meanwhile: then it is.
async fn until_it_is_time(since: Since) -> bool {
    let mut waited = Duration::ZERO;
    while waited < EVERY {
        tokio::time::sleep(LOOK).await;
        waited += LOOK;
        if since.was_set(Since::now()) {
            return true;
        }
    }
    false
}

/// Compares this clock with the others' for ever, and says when it is too far off. Who sets it is
/// not believed before the others were asked.
pub async fn watch(bus: Bus, topics: Topics, here: IpAddr, absences: Absences) {
    let mut said = false;
    loop {
        let since = Since::now();
        let mut off = ask(&bus, &topics, here).await;
        if off.abs() > FAR {
            tokio::time::sleep(SURE).await;
            off = ask(&bus, &topics, here).await;
        }
        if off.abs() > FAR {
            absences.set(Absence::Clock, true);
        }
        if off.abs() > FAR && !std::mem::replace(&mut said, true) {
            let (by, side) = (off.abs(), if off < 0.0 { "ahead of" } else { "behind" });
            tracing::error!(
                "this machine's clock is {by:.1} s {side} the others': set it right (NTP does, \
                 `timedatectl set-ntp true`). Until then this instance stays unannounced"
            );
        } else if off.abs() < NEAR {
            said = false;
            absences.set(Absence::Clock, false);
        }
        if until_it_is_time(since).await {
            tracing::warn!("this machine's clock was set: asking the others what time it is");
            absences.set(Absence::Clock, true);
        }
    }
}

/// Asks everybody what time it is.
async fn ask(bus: &Bus, topics: &Topics, here: IpAddr) -> f64 {
    let answers = bus
        .ask_each(&topics.all_availability(), Vec::new(), TIMEOUT)
        .await;
    let mut readings = Vec::new();
    if let Ok(mut answers) = answers {
        while let Some(answer) = answers.recv().await {
            if let Ok(told) = serde_json::from_slice::<Told>(&answer.message.payload)
                && let Some(clock) = told.clock_us
            {
                // Microseconds of this century: a float has them exactly. The clock was read, as
                // far as can be known, halfway between the question and the answer.
                let since = (clock as f64 - us(answer.came) as f64) / 1e6;
                let ahead = since + answer.after.as_secs_f64() / 2.0;
                readings.push((told.description.endpoint.ip(), ahead));
            }
        }
    }
    ahead(here, &readings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn machine(n: u8) -> IpAddr {
        [192, 0, 2, n].into()
    }

    #[test]
    fn one_machine_of_three_is_the_one_that_is_wrong() {
        let right = [(machine(2), 0.01), (machine(3), 5.0)];
        assert!(ahead(machine(1), &right).abs() < 0.1);
        let wrong = [(machine(1), -5.0), (machine(2), -4.99), (machine(2), -4.98)];
        assert!(ahead(machine(3), &wrong) < -4.9);
    }

    #[test]
    fn many_instances_on_a_machine_do_not_outvote_two_other_machines() {
        let mut readings = vec![(machine(2), 60.0); 6];
        readings.push((machine(3), 0.0));
        assert!(ahead(machine(1), &readings).abs() < 0.1);
    }

    #[test]
    fn a_clock_that_is_set_is_noticed_and_one_that_drifts_is_not() {
        let (time, running) = (1_800_000_000_000_000u64, 5_000_000u64);
        let since = Since::of(time, running);
        for ms in [0, 100, 5_000, 60_000] {
            let drifted = time + ms * 1_000 + ms / 10;
            assert!(!since.was_set(Since::of(drifted, running + ms)), "{ms}");
        }
        for by in [5i64, -5, 3600, -3600] {
            let set = (time + 100_000).saturating_add_signed(by * 1_000_000);
            assert!(since.was_set(Since::of(set, running + 100)), "{by}");
        }
    }

    #[test]
    fn where_it_is_one_against_one_nobody_withdraws() {
        assert_eq!(ahead(machine(1), &[(machine(2), 3600.0)]), 0.0);
        assert_eq!(ahead(machine(1), &[]), 0.0);
    }

    #[test]
    fn on_one_machine_the_instance_that_is_alone_is_wrong() {
        let readings = [(machine(1), 5.0), (machine(1), 5.1), (machine(1), 4.9)];
        assert!(ahead(machine(1), &readings) > 4.0);
    }

    proptest! {
        /// Whoever agrees with more than half of the machines stays, whatever the rest say.
        #[test]
        fn the_greater_half_stays(
            right in 1u8..6, wrong in proptest::collection::vec(-1e6f64..1e6, 0..6), jitter in -0.4f64..0.4
        ) {
            prop_assume!(wrong.len() <= usize::from(right));
            let mut readings: Vec<Reading> = (2..=right).map(|n| (machine(n), jitter)).collect();
            readings.extend(wrong.iter().enumerate().map(|(n, ahead)| (machine(100 + n as u8), *ahead)));
            prop_assert!(ahead(machine(1), &readings).abs() <= FAR);
        }

        /// And whoever is far from more than half of them goes.
        #[test]
        fn the_smaller_half_goes(
            wrong in 1u8..6, more in 1u8..6, off in prop_oneof![-1e6f64..-2.0, 2.0f64..1e6], jitter in -0.2f64..0.2
        ) {
            let mut readings: Vec<Reading> = (2..=wrong).map(|n| (machine(n), 0.0)).collect();
            readings.extend((0..wrong + more).map(|n| (machine(100 + n), off + jitter)));
            prop_assert!(ahead(machine(1), &readings).abs() > FAR);
        }
    }
}
