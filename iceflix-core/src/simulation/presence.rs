//! Who is there: signs of life in the place of the bus's tokens, and the directory, kept as
//! `Membership` keeps it.

use super::{
    DOUBTS, HOSTS, LAST, LEAVES, LEAVING, WATCH, WHOLE, elapsed,
    node::{Node, Said, kind},
    world,
};
use crate::{
    api::{Instance, InstanceId, Kind, PROTOCOL},
    directory::Directory,
    topics::Description,
};
use rand::Rng as _;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// How often one gives a sign of life, and after which silence it is taken for dead, as a link is.
const SIGN: Duration = Duration::from_millis(250);
const SILENCE: Duration = Duration::from_secs(1);

/// How long one may take to say how to reach it, before it is asked again.
const ASK: Duration = Duration::from_millis(500);

pub(super) struct Finding {
    pub directory: Directory,
    pub life: u64,
    number: u64,
    links: BTreeMap<InstanceId, Link>,
    asked: Vec<(Instant, InstanceId, u64)>,
    signs: Instant,
    /// When it stands still next, but for the one time for all, and until when the others may answer then.
    stands_still: Instant,
    until: Option<Instant>,
    doubted: bool,
}

/// What is said over one link keeps its order.
struct Link {
    life: u64,
    number: u64,
    last: Option<Instant>,
}

impl Finding {
    pub fn new(life: u64) -> Self {
        let now = Instant::now();
        Self {
            directory: Directory::default(),
            life,
            number: 0,
            links: BTreeMap::new(),
            asked: Vec::new(),
            signs: now,
            stands_still: now + Duration::from_secs(4),
            until: None,
            // Who comes to life later asks anyway.
            doubted: elapsed() >= DOUBTS,
        }
    }

    /// Whether this is not overtaken; and whether it is of a life of which nothing was heard yet.
    fn in_order(&mut self, from: &InstanceId, life: u64, number: u64) -> Option<bool> {
        let known = self.links.get(from).map(|it| (it.life, it.number));
        if known >= Some((life, number)) {
            return None;
        }
        let link = self.links.entry(from.clone()).or_insert(Link {
            life,
            number,
            last: None,
        });
        (link.life, link.number) = (life, number);
        Some(known.is_none_or(|known| known.0 < life))
    }
}

impl Node {
    pub fn description(&self) -> Description {
        let world = world(&self.world);
        let here = &world.living[&self.n];
        Description {
            endpoint: here.endpoint,
            pid: here.pid,
            protocol: PROTOCOL,
            load: here.load,
            draining: here.draining,
        }
    }

    fn number(&mut self) -> (u64, u64) {
        self.finding.number += 1;
        (self.finding.life, self.finding.number)
    }

    pub async fn say_goodbye(&mut self) -> turmoil::Result {
        let (life, number) = self.number();
        self.tell_all(&Said::Alive(life, number, false)).await
    }

    /// A sign of life, or a goodbye.
    pub async fn seen(
        &mut self,
        from: &InstanceId,
        life: u64,
        number: u64,
        alive: bool,
    ) -> turmoil::Result {
        let Some(new) = self.finding.in_order(from, life, number) else {
            return Ok(());
        };
        let now = Instant::now();
        let link = self.finding.links.get_mut(from).expect("just made");
        let before = std::mem::replace(&mut link.last, alive.then_some(now)).is_some();
        // The end of its earlier life may be noticed first, or not at all.
        if before && (!alive || new && self.rng.random_bool(0.5)) {
            self.went(from).await?;
        }
        if alive && (new || !before) {
            self.came(from).await?;
        }
        Ok(())
    }

    async fn came(&mut self, instance: &InstanceId) -> turmoil::Result {
        let kind = kind(instance.as_str());
        let life = self.finding.directory.alive(kind, instance);
        self.ask(instance.clone(), life).await?;
        self.speaker_came(instance).await
    }

    async fn went(&mut self, instance: &InstanceId) -> turmoil::Result {
        let kind = kind(instance.as_str());
        self.finding.directory.gone(kind, instance);
        self.speaker_went(instance).await
    }

    async fn ask(&mut self, instance: InstanceId, life: u64) -> turmoil::Result {
        if instance == self.own {
            self.told(&instance, life, self.description());
            return Ok(());
        }
        let how = Said::How(self.finding.life, life);
        self.send(instance.as_str(), &how).await?;
        let again = Instant::now() + ASK;
        self.finding.asked.push((again, instance, life));
        Ok(())
    }

    /// Also what comes after it was asked again.
    pub fn told(&mut self, from: &InstanceId, life: u64, said: Description) {
        let kind = kind(from.as_str());
        self.finding.directory.answered(kind, from, life, said);
    }

    pub fn described(&mut self, from: &InstanceId, life: u64, number: u64, said: Description) {
        // Of a life that was not seen to begin nothing is heard: its link is not there yet.
        let link = self.finding.links.get(from);
        if link.is_some_and(|link| link.life == life && link.last.is_some())
            && self.finding.in_order(from, life, number).is_some()
        {
            let kind = kind(from.as_str());
            self.finding.directory.described(kind, from, said);
        }
    }

    pub async fn look_after_presence(&mut self) -> turmoil::Result {
        let now = Instant::now();
        if self.finding.signs <= now {
            self.finding.signs = now + SIGN;
            let (life, number) = self.number();
            if number == 1 {
                self.came(&self.own.clone()).await?;
            }
            self.tell_all(&Said::Alive(life, number, true)).await?;
        }
        self.describe().await?;
        let silent = |link: &Link| link.last.is_some_and(|last| now - last > SILENCE);
        let links = self.finding.links.iter_mut();
        let mut gone = Vec::new();
        for (instance, link) in links.filter(|(_, link)| silent(link)) {
            link.last = None;
            gone.push(instance.clone());
        }
        for instance in gone {
            self.went(&instance).await?;
        }
        let asked = std::mem::take(&mut self.finding.asked);
        for (again, instance, life) in asked {
            let kind = kind(instance.as_str());
            if !self.finding.directory.wanted(kind, &instance, life) {
                continue;
            }
            match again <= now {
                true => self.ask(instance, life).await?,
                false => self.finding.asked.push((again, instance, life)),
            }
        }
        self.stand_still(now).await?;
        let shown = self.finding.directory.instances();
        world(&self.world).shown.insert(self.n, shown);
        Ok(())
    }

    /// Says that it is leaving. What else there is to say of itself stays as it is in one life.
    async fn describe(&mut self) -> turmoil::Result {
        let leaves = self.n == LEAVES && elapsed() >= LEAVING[0];
        {
            let mut world = world(&self.world);
            let here = world.living.get_mut(&self.n).expect("it lives");
            if std::mem::replace(&mut here.draining, leaves) == leaves {
                return Ok(());
            }
        }
        let said = self.description();
        let kind = kind(self.own.as_str());
        let directory = &mut self.finding.directory;
        directory.described(kind, &self.own, said.clone());
        let (life, number) = self.number();
        self.tell_all(&Said::Described(life, number, said)).await
    }

    /// Now and then it does not know for how long it did not run, and asks all once more.
    async fn stand_still(&mut self, now: Instant) -> turmoil::Result {
        let mut stands_still = self.finding.stands_still <= now && elapsed() < LAST;
        if stands_still {
            let pause = Duration::from_millis(self.rng.random_range(3_000..8_000));
            self.finding.stands_still = now + pause;
        }
        if elapsed() >= DOUBTS && elapsed() < WHOLE {
            stands_still |= !std::mem::replace(&mut self.finding.doubted, true);
        }
        if stands_still && !WATCH.contains(&self.n) {
            self.finding.until = Some(now + ASK);
            for (_, instance, life) in self.finding.directory.doubt() {
                self.ask(instance, life).await?;
            }
        }
        if self.finding.until.is_some_and(|until| until <= now) {
            self.finding.until = None;
            self.finding.directory.drop_doubted();
        }
        Ok(())
    }

    /// Those who can be called now.
    pub fn found(&self) -> Vec<Instance> {
        self.finding.directory.instances()
    }
}

/// Those of whom tokens and revocations are heard.
pub(super) fn authenticators() -> impl Iterator<Item = &'static str> {
    HOSTS.into_iter().filter(|host| kind(host) == Kind::Auth)
}
