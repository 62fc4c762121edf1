//! Replicas on a network that loses, delays, overtakes and repeats what they say, on virtual time:
//! their real messages and their real merging, over turmoil's datagrams. One dies for good, one
//! falls and rises again, and for a while two halves do not hear each other. Of some writes nothing
//! is broadcast at all: there is only the peer that was asked to keep them.

use super::{
    digest::Digest,
    exchange::{Answer, Question, pieces},
    rows::{Row, Rows, clock_id},
};
use crate::{
    api::InstanceId,
    feed::{Changes, Follower, Heard, Piece, Todo, assemble, decode, split},
    topics::Entries,
};
use proptest::prelude::*;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    rc::Rc,
    sync::Mutex,
    time::Duration,
};
use turmoil::{Sim, net::UdpSocket};

const HOSTS: [&str; 4] = ["auth-1", "auth-2", "auth-3", "auth-4"];

/// The one that dies for good.
const DEAD: usize = 3;

const PORT: u16 = 7447;

const GROWING: &[&str] = &["epoch/"];

/// Until when rows are written, and when the network is whole again.
const WRITING: Duration = Duration::from_secs(40);

/// How long it may take from then on until all have the same: each compares its rows with one other
/// every five seconds, and any message may still be lost.
const WHOLE: Duration = Duration::from_secs(60);

/// What travels.
#[derive(Serialize, Deserialize)]
enum Said {
    Changes(Changes),
    /// Say everything.
    Ask,
    Everything(Piece),
    /// Questions are numbered, and their answers alike.
    Question(u64, Question),
    Answer(u64, Answer),
    Rows(Piece),
}

/// What outlives a fall.
#[derive(Default)]
struct Disk {
    rows: Rows,
    /// Every row as it was written here.
    written: Vec<(String, Row)>,
    /// Those of them that a peer has said it keeps.
    acknowledged: Vec<(String, Row)>,
    /// How many of these were never broadcast.
    unsaid: usize,
}

/// A write that waits for a peer to keep it.
struct Unkept {
    key: String,
    row: Row,
    said: bool,
}

type Shared = Rc<Mutex<Disk>>;

struct Host {
    socket: UdpSocket,
    own: &'static str,
    disk: Shared,
    follower: Follower,
    rng: StdRng,
    incarnation: u64,
    number: u64,
    question: u64,
    unkept: BTreeMap<u64, Unkept>,
    /// How far its clock is from the others', in seconds from 1970.
    clock: u64,
}

impl Host {
    async fn run(own: &'static str, disk: Shared, seed: u64) -> turmoil::Result {
        // Another life has other numbers.
        let started = turmoil::sim_elapsed().unwrap_or_default().as_secs();
        let mut rng = StdRng::seed_from_u64(seed ^ started << 40);
        let mut host = Self {
            socket: UdpSocket::bind((IpAddr::from(Ipv4Addr::UNSPECIFIED), PORT)).await?,
            own,
            disk,
            follower: Follower::default(),
            incarnation: rng.random(),
            number: 0,
            // No earlier life's answers are taken for this one's.
            question: rng.random_range(0..u64::MAX / 2),
            unkept: BTreeMap::new(),
            // Hours apart.
            clock: 1_800_000_000 + rng.random_range(0..10_000),
            rng,
        };
        let mut heartbeat = tokio::time::interval(Duration::from_secs(2));
        let mut compare = tokio::time::interval(Duration::from_secs(5));
        let mut datagram = vec![0; 1 << 20];
        let mut writes = tokio::time::Instant::now();
        loop {
            tokio::select! {
                received = host.socket.recv_from(&mut datagram) => {
                    let (length, from) = received?;
                    let from = turmoil::reverse_lookup(from.ip()).unwrap_or_default();
                    if let Some(said) = decode(&datagram[..length]) {
                        host.hear(&from.parse()?, said).await?;
                    }
                }
                _ = heartbeat.tick() => host.tell(Vec::new()).await?,
                _ = compare.tick() => {
                    // Whoever has not answered by now is asked anew when it is heard next.
                    for peer in host.peers() {
                        host.follower.silent(&peer.parse()?);
                    }
                    if let Some(peer) = host.peers().choose(&mut host.rng).copied() {
                        host.ask(peer, Question::Digest).await?;
                    }
                }
                () = tokio::time::sleep_until(writes) => {
                    writes += Duration::from_millis(host.rng.random_range(20..400));
                    if turmoil::sim_elapsed().is_some_and(|time| time < WRITING) {
                        host.write().await?;
                    }
                }
            }
        }
    }

    fn peers(&self) -> Vec<&'static str> {
        HOSTS.into_iter().filter(|host| *host != self.own).collect()
    }

    /// Some of it is said twice.
    async fn send(&mut self, to: &str, said: &Said) -> turmoil::Result {
        for _ in 0..1 + usize::from(self.rng.random_bool(0.25)) {
            let at = (turmoil::lookup(to), PORT);
            self.socket.send_to(&serde_json::to_vec(said)?, at).await?;
        }
        Ok(())
    }

    async fn ask(&mut self, peer: &str, question: Question) -> turmoil::Result {
        self.question += 1;
        let question = Said::Question(self.question, question);
        self.send(peer, &question).await
    }

    async fn tell(&mut self, changes: Vec<(String, Option<Value>)>) -> turmoil::Result {
        self.number += u64::from(!changes.is_empty());
        let (incarnation, number) = (self.incarnation, self.number);
        let said = Said::Changes(Changes {
            incarnation,
            number,
            changes,
        });
        for peer in self.peers() {
            self.send(peer, &said).await?;
        }
        Ok(())
    }

    /// Sets or removes a row, as `Replica::put` does. It is acknowledged when a peer keeps it.
    async fn write(&mut self) -> turmoil::Result {
        let n = self.rng.random_range(0..12);
        let (key, value) = match self.rng.random_range(0..4) {
            0 => (format!("user/{n}"), None),
            1 => (
                format!("epoch/{n}"),
                Some(json!(self.rng.random_range(0..1000))),
            ),
            _ => (format!("user/{n}"), Some(json!(self.rng.random::<u32>()))),
        };
        let time = Duration::from_secs(self.clock) + turmoil::elapsed();
        let id = clock_id(&self.own.parse()?);
        let time = uhlc::Timestamp::new(uhlc::NTP64::from(time), id);
        let row = {
            let mut disk = disk(&self.disk);
            let stamp = disk.rows.give_stamp([&key].into_iter(), &time);
            disk.rows.settle([&key].into_iter());
            let row = Row { stamp, value };
            disk.rows.merge([(key.clone(), row.clone())]);
            disk.written.push((key.clone(), row.clone()));
            row
        };
        let value = row.to_value();
        let said = self.rng.random_bool(0.7);
        match said {
            true => self.tell(vec![(key.clone(), Some(value.clone()))]).await?,
            // It has its number; nobody hears of it before the next.
            false => self.number += 1,
        }
        self.question += 1;
        let rows = Entries::from([(key.clone(), value)]);
        let question = Said::Question(self.question, Question::Keep(rows));
        for peer in self.peers() {
            self.send(peer, &question).await?;
        }
        let unkept = Unkept { key, row, said };
        self.unkept.insert(self.question, unkept);
        Ok(())
    }

    /// A peer keeps what it was asked to.
    fn kept(&mut self, question: u64) {
        if let Some(Unkept { key, row, said }) = self.unkept.remove(&question) {
            let mut disk = disk(&self.disk);
            disk.acknowledged.push((key, row));
            disk.unsaid += usize::from(!said);
        }
    }

    fn merge(&self, entries: Entries) {
        let rows = entries.into_iter();
        let rows = rows.filter_map(|(key, value)| Some((key, Row::from_value(&value)?)));
        disk(&self.disk).rows.merge(rows);
    }

    async fn hear(&mut self, from: &InstanceId, said: Said) -> turmoil::Result {
        match said {
            Said::Changes(changes) => {
                let todo = self.follower.changes(from, changes);
                self.carry_out(todo).await?;
            }
            Said::Everything(piece) => {
                if let Some(snapshot) = assemble(vec![piece]) {
                    let todo = self.follower.snapshot(from, snapshot);
                    self.carry_out(todo).await?;
                }
            }
            Said::Ask => {
                let all = disk(&self.disk).rows.entries();
                for piece in split(self.incarnation, self.number, all) {
                    let piece = decode(&piece).expect("what was just made");
                    self.send(from.as_str(), &Said::Everything(piece)).await?;
                }
            }
            Said::Question(number, Question::Digest) => {
                let digest = disk(&self.disk).rows.digest().clone();
                let answer = Said::Answer(number, Answer::Digest(digest));
                self.send(from.as_str(), &answer).await?;
            }
            Said::Answer(_, Answer::Digest(theirs)) => {
                let differing = self.differing(&theirs);
                if !differing.is_empty() {
                    let question = Question::Buckets(differing);
                    self.ask(from.as_str(), question).await?;
                }
            }
            Said::Question(number, Question::Keep(rows)) => {
                self.merge(rows);
                let kept = Said::Answer(number, Answer::Kept);
                self.send(from.as_str(), &kept).await?;
            }
            Said::Answer(number, Answer::Kept) => self.kept(number),
            Said::Question(_, Question::Buckets(buckets)) => {
                let rows = disk(&self.disk).rows.in_buckets(&buckets);
                for piece in pieces(rows) {
                    let piece = decode(&piece).expect("what was just made");
                    self.send(from.as_str(), &Said::Rows(piece)).await?;
                }
            }
            Said::Rows(piece) => {
                if let Some(snapshot) = assemble(vec![piece]) {
                    self.merge(snapshot.entries);
                }
            }
            Said::Question(_, Question::Writable) | Said::Answer(_, Answer::Writable) => {}
        }
        Ok(())
    }

    fn differing(&self, theirs: &Digest) -> Vec<u8> {
        disk(&self.disk).rows.digest().differing(theirs)
    }

    async fn carry_out(&mut self, todo: Vec<Todo>) -> turmoil::Result {
        for todo in todo {
            match todo {
                Todo::Ask(speaker) => self.send(speaker.as_str(), &Said::Ask).await?,
                Todo::Tell(Heard::Everything(_, entries)) => self.merge(entries),
                Todo::Tell(Heard::Changed(_, changes)) => {
                    let set = changes.into_iter();
                    self.merge(set.filter_map(|(key, value)| Some((key, value?))).collect());
                }
                Todo::Tell(Heard::Gone(_)) => {}
            }
        }
        Ok(())
    }
}

fn disk(disk: &Shared) -> std::sync::MutexGuard<'_, Disk> {
    disk.lock().expect("nobody panicked with it")
}

fn until(sim: &mut Sim, time: Duration) {
    while sim.elapsed() < time {
        sim.step().expect("no host fails");
    }
}

/// What each of them has in the end.
fn simulate(seed: u64) -> Vec<Shared> {
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .simulation_duration(WRITING + WHOLE * 2)
        .tick_duration(Duration::from_millis(10))
        .max_message_latency(Duration::from_millis(1500))
        .fail_rate(0.05)
        .repair_rate(0.2)
        .udp_capacity(10_000)
        .build();
    let disks: Vec<Shared> = HOSTS
        .into_iter()
        .enumerate()
        .map(|(n, own)| {
            let kept = Shared::default();
            disk(&kept).rows = Rows::new(GROWING);
            let shared = Rc::clone(&kept);
            sim.host(own, move || {
                Host::run(own, Rc::clone(&shared), seed + n as u64)
            });
            kept
        })
        .collect();
    let second = Duration::from_secs;
    until(&mut sim, second(5));
    // Two halves; meanwhile one of them falls and rises again.
    for one in &HOSTS[..2] {
        for other in &HOSTS[2..] {
            sim.partition(*one, *other);
        }
    }
    until(&mut sim, second(9));
    sim.crash(HOSTS[0]);
    until(&mut sim, second(12));
    sim.bounce(HOSTS[0]);
    until(&mut sim, second(18));
    for one in &HOSTS[..2] {
        for other in &HOSTS[2..] {
            sim.repair(*one, *other);
        }
    }
    // Some have heard its last words, some have not.
    until(&mut sim, second(30));
    sim.crash(HOSTS[DEAD]);
    until(&mut sim, WRITING + WHOLE);
    disks
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn all_that_live_come_to_have_the_same_rows(seed in any::<u32>()) {
        let disks = simulate(seed.into());
        let living = || disks.iter().take(DEAD).map(disk);
        // All that those who live have ever written; and of the dead one's what was acknowledged,
        // and what anybody has.
        let mut wanted = Rows::new(GROWING);
        for disk in living() {
            wanted.merge(disk.written.clone());
        }
        {
            let dead = disk(&disks[DEAD]);
            prop_assert!(dead.acknowledged.len() > 50, "{}", dead.acknowledged.len());
            prop_assert!(dead.unsaid > 10, "{}", dead.unsaid);
            wanted.merge(dead.acknowledged.clone());
        }
        let mut greatest: BTreeMap<String, u64> = BTreeMap::new();
        for disk in living() {
            let all = disk.rows.entries();
            wanted.merge(all.iter().map(|(key, row)| {
                (key.clone(), Row::from_value(row).expect("what was just made"))
            }));
            for (key, row) in disk.written.iter().filter(|(key, _)| key.starts_with("epoch/")) {
                let number = row.value.as_ref().and_then(Value::as_u64).unwrap_or(0);
                let greatest = greatest.entry(key.clone()).or_default();
                *greatest = number.max(*greatest);
            }
        }
        prop_assert!(living().all(|disk| disk.written.len() > 50), "there was something to lose");
        for (host, disk) in HOSTS.iter().zip(living()) {
            prop_assert_eq!(&disk.rows, &wanted, "{}", host);
            prop_assert_eq!(disk.rows.digest(), wanted.digest());
            for (key, number) in &greatest {
                let here = disk.rows.get(key).and_then(Value::as_u64);
                prop_assert!(here >= Some(*number), "{key}: {here:?} of {number}");
            }
        }
    }
}
