//! Which faults there are.

use super::world::{ODD, PEOPLE};
use iceflix_core::api::Kind;
use std::time::Duration;

/// Within what time who was killed must be missed by all Mains elsewhere. Asked for are 100 ms for 99
/// of 100, which `make bench` measures; here the people and all machines share some cores.
const KILLED: Duration = Duration::from_secs(1);

/// The same of who hangs or is cut off. Asked for are 1.2 s; and see there.
const SILENT: Duration = Duration::from_secs(2);

/// The same of who has another time: it is looked at every 5 s, twice when it seems wrong, and
/// libfaketime takes a second.
const CLOCK: Duration = Duration::from_secs(12);

/// A fault.
#[derive(Debug)]
pub struct Fault {
    /// What it is called.
    pub name: &'static str,
    /// What happens, for people.
    pub about: &'static str,
    /// It is among those of `make test`.
    pub quick: bool,
    pub(super) what: What,
    /// The machines whose streaming nodes are hit: a film plays there, which may go on elsewhere.
    pub(super) hits: &'static [u32],
    /// Within what time the last Main must miss what is gone; `None`: nothing has to be.
    pub(super) noticed: Option<Duration>,
}

impl Fault {
    fn new(name: &'static str, about: &'static str, what: What) -> Self {
        Self {
            name,
            about,
            quick: false,
            what,
            hits: &[],
            noticed: None,
        }
    }

    /// It is part of `make test`.
    fn quick(self) -> Self {
        Self {
            quick: true,
            ..self
        }
    }

    /// What it does must be noticed within this time.
    fn within(self, time: Duration) -> Self {
        Self {
            noticed: Some(time),
            ..self
        }
    }

    /// It hits the streaming nodes of these machines.
    fn hits(self, hits: &'static [u32]) -> Self {
        Self { hits, ..self }
    }
}

/// What happens.
#[derive(Debug, Clone, Copy)]
pub(super) enum What {
    Kill(Kind),
    KillOfTwo(Kind),
    KillMachine,
    Stop(Kind, Duration),
    Cable,
    Flap,
    Silence(&'static [u32]),
    Split,
    Clock(i32),
    DiskFull,
    ReadOnly,
    TornRecord(Kind),
    LostDatabase(Kind),
    SlowDisk,
    Storm(Duration),
}

/// All faults, in the order in which they are made, with a restart storm that lasts so long.
pub fn all(storm: Duration) -> Vec<Fault> {
    let fault = Fault::new;
    let stop = |kind, tenths: u64| What::Stop(kind, Duration::from_millis(100 * tenths));
    vec![
        fault("kill-main", "kill -9 of a Main", What::Kill(Kind::Main)).within(KILLED),
        fault(
            "kill-auth",
            "kill -9 of an authenticator",
            What::Kill(Kind::Auth),
        )
        .within(KILLED)
        .quick(),
        fault(
            "kill-catalog",
            "kill -9 of a catalogue",
            What::Kill(Kind::Catalog),
        )
        .within(KILLED),
        fault(
            "kill-auth-of-two",
            "kill -9 of one of two authenticators; one is left for 3 s",
            What::KillOfTwo(Kind::Auth),
        )
        .within(KILLED),
        fault(
            "kill-catalog-of-two",
            "kill -9 of one of two catalogues; one is left for 3 s",
            What::KillOfTwo(Kind::Catalog),
        )
        .within(KILLED)
        .quick(),
        fault(
            "kill-streaming",
            "kill -9 of a streaming node",
            What::Kill(Kind::Streaming),
        )
        .hits(&[2])
        .within(KILLED)
        .quick(),
        fault(
            "kill-machine",
            "kill -9 of all processes of a machine",
            What::KillMachine,
        )
        .hits(&[1])
        .within(KILLED),
        fault(
            "stop-auth-0.5s",
            "SIGSTOP of an authenticator for 0.5 s",
            stop(Kind::Auth, 5),
        ),
        fault(
            "stop-auth-2s",
            "SIGSTOP of an authenticator for 2 s",
            stop(Kind::Auth, 20),
        )
        .within(SILENT),
        fault(
            "stop-auth-15s",
            "SIGSTOP of an authenticator for 15 s",
            stop(Kind::Auth, 150),
        )
        .within(SILENT),
        fault(
            "stop-catalog-0.5s",
            "SIGSTOP of a catalogue for 0.5 s",
            stop(Kind::Catalog, 5),
        ),
        fault(
            "stop-catalog-2s",
            "SIGSTOP of a catalogue for 2 s",
            stop(Kind::Catalog, 20),
        )
        .within(SILENT)
        .quick(),
        fault(
            "stop-catalog-15s",
            "SIGSTOP of a catalogue for 15 s",
            stop(Kind::Catalog, 150),
        )
        .within(SILENT),
        fault(
            "stop-main-0.5s",
            "SIGSTOP of a Main for 0.5 s, while a catalogue dies",
            stop(Kind::Main, 5),
        )
        .within(KILLED),
        fault(
            "stop-main-2s",
            "SIGSTOP of a Main for 2 s, while a catalogue dies",
            stop(Kind::Main, 20),
        )
        .within(SILENT)
        .quick(),
        fault(
            "stop-main-15s",
            "SIGSTOP of a Main for 15 s, while a catalogue dies",
            stop(Kind::Main, 150),
        )
        .within(SILENT),
        fault(
            "stop-streaming-15s",
            "SIGSTOP of a streaming node for 15 s",
            stop(Kind::Streaming, 150),
        )
        .hits(&[2])
        .within(SILENT)
        .quick(),
        fault(
            "cable",
            "a machine's cable out for 8 s, and in",
            What::Cable,
        )
        .hits(&[ODD])
        .within(SILENT)
        .quick(),
        fault(
            "flapping",
            "a machine's cable out and in, 12 times in 16 s",
            What::Flap,
        )
        .hits(&[ODD])
        .quick(),
        fault(
            "silence",
            "what a machine sends is lost for 8 s",
            What::Silence(&[1, 2, PEOPLE]),
        )
        .hits(&[ODD])
        .within(SILENT)
        .quick(),
        fault(
            "silence-pair",
            "what a machine sends to one other is lost for 8 s",
            What::Silence(&[2]),
        ),
        fault(
            "split",
            "one machine apart from two for 10 s, with conflicting writes on both sides",
            What::Split,
        )
        .hits(&[ODD])
        .within(SILENT)
        .quick(),
        fault("clock+5s", "a machine's clock 5 s ahead", What::Clock(5))
            .hits(&[ODD])
            .within(CLOCK)
            .quick(),
        fault("clock-5s", "a machine's clock 5 s behind", What::Clock(-5))
            .hits(&[ODD])
            .within(CLOCK),
        fault(
            "clock+1h",
            "a machine's clock an hour ahead",
            What::Clock(3600),
        )
        .hits(&[ODD])
        .within(CLOCK),
        fault(
            "clock-1h",
            "a machine's clock an hour behind",
            What::Clock(-3600),
        )
        .hits(&[ODD])
        .within(CLOCK),
        fault("slow-disk", "a machine's fsync takes 0.7 s", What::SlowDisk)
            .hits(&[ODD])
            .quick(),
        fault(
            "torn-auth",
            "the end of an authenticator's last record is missing",
            What::TornRecord(Kind::Auth),
        )
        .within(KILLED),
        fault(
            "torn-catalog",
            "the end of a catalogue's last record is missing",
            What::TornRecord(Kind::Catalog),
        )
        .within(KILLED)
        .quick(),
        fault(
            "lost-auth",
            "an authenticator's database is gone",
            What::LostDatabase(Kind::Auth),
        )
        .within(KILLED)
        .quick(),
        fault(
            "lost-catalog",
            "a catalogue's database is gone",
            What::LostDatabase(Kind::Catalog),
        )
        .within(KILLED),
        fault(
            "disk-full",
            "a machine's disk is full for 12 s",
            What::DiskFull,
        )
        .hits(&[ODD])
        .quick(),
        fault(
            "read-only",
            "a catalogue's file system is read-only for 10 s",
            What::ReadOnly,
        )
        .within(KILLED)
        .quick(),
        fault(
            "storm",
            "instances of all kinds killed at random",
            What::Storm(storm),
        )
        .hits(&[1, 2, 3])
        .quick(),
    ]
}
