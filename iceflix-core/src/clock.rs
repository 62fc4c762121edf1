//! How far this machine's clock is from the others'.
//!
//! Tokens, proofs and the stamps of shared rows are dated. An instance whose clock is far from the
//! others' would refuse good tokens, take over-age ones, and stamp rows so that they win over
//! later ones: it withdraws, and says so.

mod judgement;

use crate::{
    announcement::{Absence, Absences},
    api::main::DirectoryView,
    awake::running_ms,
    bus::{Bus, Size},
    membership::Membership,
    topics::{Told, Topics},
};
use judgement::FAR;
pub use judgement::{Judgement, Reading, ahead};
use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::watch;

/// How often the others are asked what time it is.
const EVERY: Duration = Duration::from_secs(5);

/// How soon they are asked again after a start, a setting of the clock and another machine's
/// coming; then after twice as long, until it is as seldom as ever. Who was late or not connected
/// yet is heard then.
const SOON: Duration = Duration::from_millis(200);

/// How often they are asked again at a start until two other machines have answered: links come up
/// within half a second.
const STARTING: u32 = 5;

/// How often it is looked whether this clock was set, and whether another machine has come.
const LOOK: Duration = Duration::from_millis(100);

/// How soon they are asked once more when this clock seems to be far off.
const SURE: Duration = Duration::from_millis(200);

/// How long they may take to answer. Half of it is the most that a reading is off by itself.
const TIMEOUT: Duration = Duration::from_millis(500);

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

/// What compares this machine's clock with the others', and keeps the instance away while it is
/// wrong.
pub struct Watch {
    bus: Bus,
    topics: Topics,
    here: IpAddr,
    absences: Absences,
    there: watch::Receiver<Arc<DirectoryView>>,
    /// The other machines in the directory when it was last looked.
    machines: BTreeSet<IpAddr>,
    judgement: Judgement,
    /// Where the clock was when the others were last asked.
    since: Since,
    /// How long it is until they are asked again.
    pause: Duration,
    said: Option<Complaint>,
}

/// Why others are asked what time it is.
enum Why {
    /// It is time to.
    Time,
    /// There is a machine that was not there before.
    Grown,
    /// This clock was set.
    Set,
}

impl Watch {
    /// Asks the others once, before this instance serves anybody: who starts with a wrong clock is
    /// not to be found, and who is the first begins at once.
    pub async fn begin(
        bus: Bus,
        topics: Topics,
        here: IpAddr,
        membership: &Membership,
        absences: Absences,
    ) -> Self {
        let mut there = membership.watch();
        let machines = others(here, &there.borrow_and_update());
        let mut watch = Self {
            bus,
            topics,
            here,
            absences,
            there,
            machines,
            judgement: Judgement::Right,
            since: Since::now(),
            pause: SOON,
            said: None,
        };
        let mut answered = watch.ask().await;
        // On loopback there is no other machine. Elsewhere a node that has just joined the bus may
        // not be connected to the others yet, and two of them can tell who is wrong.
        for _ in 0..STARTING {
            if here.is_loopback() || answered >= 2 {
                break;
            }
            tokio::time::sleep(SOON).await;
            answered = watch.ask().await;
        }
        watch
    }

    /// Goes on comparing for ever. Who sets the clock is not believed before the others were
    /// asked, and who is met is asked at once.
    pub async fn run(mut self) {
        loop {
            match self.until_it_is_time().await {
                Why::Time => self.pause = (self.pause * 2).min(EVERY),
                Why::Grown => self.pause = SOON,
                Why::Set => {
                    tracing::warn!(
                        "this machine's clock was set: asking the others what time it is"
                    );
                    self.pause = SOON;
                    self.said = None;
                    self.judge(self.judgement.set());
                }
            }
            self.ask().await;
        }
    }

    async fn until_it_is_time(&mut self) -> Why {
        let mut waited = Duration::ZERO;
        while waited < self.pause {
            tokio::time::sleep(LOOK).await;
            waited += LOOK;
            if self.since.was_set(Since::now()) {
                return Why::Set;
            }
            if self.has_grown() {
                return Why::Grown;
            }
        }
        Why::Time
    }

    /// Whether a machine came since it was last looked.
    fn has_grown(&mut self) -> bool {
        if !self.there.has_changed().unwrap_or(false) {
            return false;
        }
        let machines = others(self.here, &self.there.borrow_and_update());
        let grown = !machines.is_subset(&self.machines);
        self.machines = machines;
        grown
    }

    /// Asks everybody what time it is, and judges by what they say. How many other machines did.
    async fn ask(&mut self) -> usize {
        self.since = Since::now();
        let mut readings = ask(&self.bus, &self.topics).await;
        if ahead(self.here, &readings).abs() > FAR {
            tokio::time::sleep(SURE).await;
            readings = ask(&self.bus, &self.topics).await;
        }
        self.judge(self.judgement.heard(self.here, &readings));
        let complaint = match self.judgement {
            Judgement::Wrong(_) => Some(Complaint::of(self.here, &readings)),
            Judgement::Right | Judgement::Set => None,
        };
        if self.said != complaint {
            if let Some(complaint) = complaint {
                complaint.say(ahead(self.here, &readings));
            }
            self.said = complaint;
        }
        let machines = readings.iter().map(|(machine, _)| *machine);
        let others: BTreeSet<IpAddr> = machines.filter(|it| *it != self.here).collect();
        others.len()
    }

    fn judge(&mut self, judgement: Judgement) {
        let wrong = judgement != Judgement::Right;
        self.judgement = judgement;
        self.absences.set(Absence::Clock, wrong);
    }
}

/// The machines in the directory, but for this one.
fn others(here: IpAddr, view: &DirectoryView) -> BTreeSet<IpAddr> {
    let machines = view.instances.iter().map(|it| it.endpoint.ip());
    machines.filter(|machine| *machine != here).collect()
}

/// What keeps an instance away whose clock was found wrong: what its owner is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Complaint {
    /// It is far off.
    Off,
    /// No other machine is heard.
    Alone,
    /// Some other machines are, and too few agree.
    Doubted,
}

impl Complaint {
    fn of(here: IpAddr, readings: &[Reading]) -> Self {
        if ahead(here, readings).abs() > FAR {
            return Self::Off;
        }
        match readings.iter().any(|(machine, _)| *machine != here) {
            true => Self::Doubted,
            false => Self::Alone,
        }
    }

    fn say(self, ahead: f64) {
        match self {
            Self::Off => {
                let (by, side) = (ahead.abs(), if ahead < 0.0 { "ahead of" } else { "behind" });
                tracing::error!(
                    "this machine's clock is {by:.1} s {side} the others': set it right (NTP \
                     does, `timedatectl set-ntp true`). Until then this instance stays unannounced"
                );
            }
            Self::Alone => tracing::error!(
                "this machine's clock was found wrong, and nobody is heard who could say that it \
                 is right now: this instance stays unannounced until another machine does. If the \
                 clock is right and no other machine will come, restart this service"
            ),
            Self::Doubted => tracing::error!(
                "this machine's clock was found wrong, and too few other machines agree with it \
                 now: this instance stays unannounced until more do. If the clock is right and \
                 the others are gone for good, restart this service"
            ),
        }
    }
}

/// Asks everybody what time it is.
async fn ask(bus: &Bus, topics: &Topics) -> Vec<Reading> {
    let answers = bus
        .ask_each(&topics.all_availability(), Vec::new(), Size::Small, TIMEOUT)
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
    readings
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn it_is_said_what_keeps_a_wrong_clock_away() {
        let (here, others) = ([192, 0, 2, 1].into(), [[192, 0, 2, 2], [192, 0, 2, 3]]);
        let say = |ahead: f64, machines: &[[u8; 4]]| {
            let machines = machines.iter().map(|machine| IpAddr::from(*machine));
            let readings = machines.chain([here]).map(|machine| match machine == here {
                true => (machine, 0.0),
                false => (machine, ahead),
            });
            Complaint::of(here, &readings.collect::<Vec<_>>())
        };
        assert_eq!(say(3600.0, &others), Complaint::Off);
        assert_eq!(say(3600.0, &others[..1]), Complaint::Doubted);
        assert_eq!(say(3600.0, &[]), Complaint::Alone);
    }
}
