//! A node: what stands around the pure parts, in few words. It is found, calls and is called, and
//! judges tokens; an authenticator makes and revokes them, too.

use super::{
    CLOCK, CLUSTER, HANGING, HANGS, HOSTS, LAST, LEAVES, LEAVING, SESSIONS, Shared,
    calls::Calling,
    elapsed,
    facts::{Facts, Issued},
    hearing::Listening,
    presence::Finding,
    session, user, world,
};
use crate::{
    api::{Instance, InstanceId, Kind, SessionId, TokenError, auth::Role, auth::Token},
    feed::{Changes, Piece, decode},
    topics::{AuthenticationFact, Description},
    trust::{TOKEN_LIFETIME, keys::SigningKey, token},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};
use tokio::time::Instant;
use turmoil::net::UdpSocket;

const PORT: u16 = 7447;

/// How often it looks after what is late.
const LOOK: Duration = Duration::from_millis(50);

/// What travels.
#[derive(Serialize, Deserialize)]
pub(super) enum Said {
    /// Alive, or, with the goodbye, no more: which life it is, and how often it said something there.
    Alive(u64, u64, bool),
    /// How it is reached, unasked; numbered as the above.
    Described(u64, u64, Description),
    /// How is it reached? With the life of the one who asks, and the one for which that is asked.
    How(u64, u64),
    Told(u64, u64, Description),
    Changes(Changes),
    /// Say everything. Questions are numbered.
    Ask(u64),
    Everything(u64, Piece),
    Call(u64, Token),
    Answer(u64),
}

pub(super) struct Node {
    pub n: usize,
    pub own: InstanceId,
    pub world: Shared,
    pub rng: StdRng,
    bus: UdpSocket,
    door: UdpSocket,
    /// How far its clock is ahead of the others'.
    ahead: Duration,
    pub finding: Finding,
    pub listening: Listening,
    pub calling: Calling,
    makes: Instant,
    revokes: Instant,
}

pub(super) fn kind(name: &str) -> Kind {
    match name.starts_with("auth") {
        true => Kind::Auth,
        false => Kind::Catalog,
    }
}

impl Node {
    pub async fn run(n: usize, shared: Shared, seed: u64) -> turmoil::Result {
        let mut node = Self::start(n, shared, seed).await?;
        let mut look = tokio::time::interval(LOOK);
        let mut datagrams = [vec![0; 1 << 16], vec![0; 1 << 16]];
        let [at_bus, at_door] = &mut datagrams;
        loop {
            tokio::select! {
                received = node.bus.recv_from(at_bus) => {
                    let (length, from) = received?;
                    let from = turmoil::reverse_lookup(from.ip()).unwrap_or_default();
                    if let Some(said) = decode(&at_bus[..length]) {
                        node.hear(&from.parse()?, said).await?;
                    }
                }
                received = node.door.recv_from(at_door) => {
                    let (length, from) = received?;
                    match decode(&at_door[..length]) {
                        Some(Said::Call(number, token)) => node.answer(from, number, &token).await?,
                        Some(Said::Answer(number)) => node.calling.answered(number, from),
                        _ => {}
                    }
                }
                _ = look.tick() => {
                    if node.n == LEAVES && elapsed() >= LEAVING[1] {
                        // Whoever does not hear it notices that nothing more comes.
                        node.say_goodbye().await?;
                        world(&node.world).living.remove(&node.n);
                        return Ok(());
                    }
                    node.look_after_presence().await?;
                    node.look_after_feeds().await?;
                    node.look_after_calls().await?;
                    node.make_and_revoke().await?;
                }
            }
        }
    }

    async fn start(n: usize, shared: Shared, seed: u64) -> turmoil::Result<Self> {
        let own: InstanceId = HOSTS[n].parse()?;
        // Another life has other numbers, and another port.
        let life = elapsed().as_millis() as u64;
        let mut rng = StdRng::seed_from_u64(seed ^ life << 40);
        let any = IpAddr::from(Ipv4Addr::UNSPECIFIED);
        let port = {
            let mut world = world(&shared);
            world.lives[n] += 1;
            1000 + world.lives[n]
        };
        let finding = Finding::new(life);
        let listening = Listening::new(&mut rng);
        {
            let mut world = world(&shared);
            world.verifiers.insert(n, listening.verifier.clone());
            world.shown.insert(n, Vec::new());
            world.living.insert(
                n,
                Instance {
                    kind: kind(HOSTS[n]),
                    instance: own.clone(),
                    endpoint: (turmoil::lookup(HOSTS[n]), port).into(),
                    pid: port.into(),
                    load: rng.random_range(0..1000),
                    draining: false,
                },
            );
            if kind(HOSTS[n]) == Kind::Auth {
                world.keys.insert(n, SigningKey::generate()?);
            }
        }
        let mut node = Self {
            n,
            own,
            world: shared,
            bus: UdpSocket::bind((any, PORT)).await?,
            door: UdpSocket::bind((any, port)).await?,
            ahead: Duration::from_millis(rng.random_range(0..1000)),
            finding,
            listening,
            calling: Calling::default(),
            makes: Instant::now(),
            revokes: Instant::now() + Duration::from_secs(3),
            rng,
        };
        node.begin_to_speak();
        Ok(node)
    }

    /// What time it is here.
    pub fn clock(&self) -> Duration {
        CLOCK + elapsed() + self.ahead
    }

    pub fn is_authenticator(&self) -> bool {
        kind(HOSTS[self.n]) == Kind::Auth
    }

    pub fn peers(&self) -> Vec<&'static str> {
        let all = HOSTS.into_iter();
        all.filter(|host| *host != self.own.as_str()).collect()
    }

    /// Some of it is said twice.
    pub async fn send(&mut self, to: &str, said: &Said) -> turmoil::Result {
        for _ in 0..1 + usize::from(self.rng.random_bool(0.2)) {
            let at = (turmoil::lookup(to), PORT);
            self.bus.send_to(&serde_json::to_vec(said)?, at).await?;
        }
        Ok(())
    }

    pub async fn tell_all(&mut self, said: &Said) -> turmoil::Result {
        for peer in self.peers() {
            self.send(peer, said).await?;
        }
        Ok(())
    }

    pub async fn send_at(&self, at: SocketAddr, said: &Said) -> turmoil::Result {
        self.door.send_to(&serde_json::to_vec(said)?, at).await?;
        Ok(())
    }

    async fn hear(&mut self, from: &InstanceId, said: Said) -> turmoil::Result {
        match said {
            Said::Alive(life, number, alive) => self.seen(from, life, number, alive).await,
            Said::Described(life, number, said) => {
                self.described(from, life, number, said);
                Ok(())
            }
            Said::How(asking, life) => {
                let told = Said::Told(asking, life, self.description());
                self.send(from.as_str(), &told).await
            }
            // What an earlier life asked nobody waits for, though its numbers were the same.
            Said::Told(asking, ..) if asking != self.finding.life => Ok(()),
            Said::Told(_, life, said) => {
                self.told(from, life, said);
                Ok(())
            }
            Said::Changes(changes) => self.hear_changes(from, changes).await,
            Said::Ask(number) => self.say_everything(from, number).await,
            Said::Everything(number, piece) => self.hear_everything(from, number, piece).await,
            Said::Call(..) | Said::Answer(_) => Ok(()),
        }
    }

    async fn answer(&mut self, from: SocketAddr, number: u64, token: &Token) -> turmoil::Result {
        let hangs = HANGING[0] <= elapsed() && elapsed() < HANGING[1];
        if self.n == HANGS && hangs {
            return Ok(());
        }
        self.judge(token).await?;
        self.send_at(from, &Said::Answer(number)).await
    }

    /// Judges a token as any service does; and judges the judgement.
    async fn judge(&mut self, token: &Token) -> turmoil::Result {
        let now = self.clock();
        let judged = self.listening.verifier.check_at(token, now);
        {
            let mut world = world(&self.world);
            let issued = world.tokens.iter().find(|it| it.token == token.0);
            let issued = issued.expect("somebody made it").clone();
            let revoked = self.listening.heard.revoke(&issued);
            match &judged {
                Ok(_) => world.judged[0] += 1,
                Err(_) if revoked => world.judged[1] += 1,
                Err(_) => {}
            }
            let (at, own, over) = (elapsed(), &self.own, now >= issued.made + TOKEN_LIFETIME);
            if judged.is_ok() && revoked {
                let wrong = format!("{at:?}: {own} accepted what it knew to be revoked");
                world.wrong.push(wrong);
            }
            // It says its one key in this one life; when it is dead it is remembered.
            let signer = AuthenticationFact::key(&world.keys[&issued.signer].public());
            if judged == Err(TokenError::UnknownSigner)
                && world.lives[issued.signer] == 1
                && self.listening.heard.keys.contains(&signer.name())
            {
                let wrong = format!("{at:?}: {own} forgot whose tokens are good");
                world.wrong.push(wrong);
            }
            if judged.is_ok() && over {
                world
                    .wrong
                    .push(format!("{at:?}: {own} accepted what is over"));
            }
        }
        self.doubt_signer(&judged).await
    }

    /// As an authenticator does: tokens for those whom it knows no reason to refuse.
    async fn make_and_revoke(&mut self) -> turmoil::Result {
        if !self.is_authenticator() || elapsed() >= LAST {
            return Ok(());
        }
        let now = Instant::now();
        if self.makes <= now {
            self.makes = now + Duration::from_millis(self.rng.random_range(300..1500));
            let n = self.rng.random_range(0..SESSIONS);
            self.make(session(n), user(n));
        }
        if self.revokes <= now {
            self.revokes = now + Duration::from_millis(self.rng.random_range(2_000..8_000));
            let n = self.rng.random_range(0..SESSIONS);
            let fact = match self.rng.random_bool(0.5) {
                true => AuthenticationFact::SessionEnded {
                    session: session(n),
                },
                false => AuthenticationFact::UserEpoch {
                    epoch: self.epoch(&user(n)) + 1,
                    user: user(n),
                },
            };
            self.revoke(vec![fact]).await?;
        }
        self.expel_in_time().await
    }

    fn epoch(&self, user: &str) -> u64 {
        let world = world(&self.world);
        world.facts[self.n].epochs.get(user).copied().unwrap_or(0)
    }

    fn make(&self, session: SessionId, user: String) {
        let (epoch, now) = (self.epoch(&user), self.clock());
        let mut world = world(&self.world);
        let mut issued = Issued::new(session, user, epoch, now);
        issued.signer = self.n;
        let knows: &Facts = &world.facts[self.n];
        if knows.revoke(&issued) {
            return;
        }
        let (key, role) = (&world.keys[&self.n], Role::User);
        let token = token::issue(key, CLUSTER, &issued.user, session, role, epoch, now);
        issued.token = token.expect("the clock is right").0;
        world.tokens.push(issued);
    }
}
