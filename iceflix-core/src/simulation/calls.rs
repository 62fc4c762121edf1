//! Callers: they ask in turn whom they find, with another try elsewhere, as `Caller` does.

use super::{
    SETTLED, WHOLE, elapsed,
    node::{Node, Said},
    world,
};
use crate::{
    api::{
        Instance, Kind,
        auth::Token,
        main::{DirectoryVersion, DirectoryView},
    },
    rpc::{
        Effort,
        call::{ATTEMPTS, pause},
        health::Health,
    },
};
use rand::Rng as _;
use std::{collections::BTreeMap, net::SocketAddr, time::Duration};
use tokio::time::Instant;

/// Who asked whom, and when.
pub(super) struct Pick {
    pub at: Duration,
    pub caller: usize,
    pub kind: Kind,
    pub endpoint: SocketAddr,
}

#[derive(Default)]
pub(super) struct Calling {
    health: Health,
    /// Attempts are numbered; a late answer to an earlier one counts for nothing.
    calls: BTreeMap<u64, Call>,
    number: u64,
    next: Option<Instant>,
}

struct Call {
    kind: Kind,
    token: Token,
    tried: Vec<SocketAddr>,
    /// Who is asked; nobody while it pauses.
    asked: Option<SocketAddr>,
    until: Instant,
}

impl Calling {
    pub fn answered(&mut self, number: u64, from: SocketAddr) {
        let call = self.calls.get(&number);
        if call.is_some_and(|call| call.asked == Some(from)) {
            self.calls.remove(&number);
            self.health.succeeded(from);
        }
    }
}

impl Node {
    pub async fn look_after_calls(&mut self) -> turmoil::Result {
        let now = Instant::now();
        let begins = *self.calling.next.get_or_insert(now);
        if begins <= now {
            let often = match elapsed() {
                // Nothing new until those who were passed over are asked again.
                time if WHOLE <= time && time < SETTLED => 1500..3000,
                time if SETTLED <= time => 150..300,
                _ => 300..1100,
            };
            let pause = Duration::from_millis(self.rng.random_range(often));
            self.calling.next = Some(now + pause);
            self.begin(now).await?;
        }
        let calls = std::mem::take(&mut self.calling.calls);
        for (number, mut call) in calls {
            if call.until > now {
                self.calling.calls.insert(number, call);
                continue;
            }
            let Some(late) = call.asked.take() else {
                self.attempt(call, now).await?;
                continue;
            };
            self.calling.health.failed(late, now.into_std());
            world(&self.world).failures += 1;
            call.tried.push(late);
            let attempts = call.tried.len() as u32;
            if attempts < ATTEMPTS {
                call.until = now + pause(attempts).unwrap_or_default();
                self.attempt_later(call);
            }
        }
        Ok(())
    }

    async fn begin(&mut self, now: Instant) -> turmoil::Result {
        let token = {
            let world = world(&self.world);
            let lately = world.tokens.len().saturating_sub(40);
            match world.tokens.len() - lately {
                0 => return Ok(()),
                n => world.tokens[lately + self.rng.random_range(0..n)]
                    .token
                    .clone(),
            }
        };
        let kind = match self.rng.random_bool(0.5) {
            true => Kind::Auth,
            false => Kind::Catalog,
        };
        let call = Call {
            kind,
            token: Token(token),
            tried: Vec::new(),
            asked: None,
            until: now,
        };
        self.attempt(call, now).await
    }

    fn attempt_later(&mut self, call: Call) {
        self.calling.number += 1;
        self.calling.calls.insert(self.calling.number, call);
    }

    /// Asks whose turn it is; when nobody is found, the call has failed.
    async fn attempt(&mut self, mut call: Call, now: Instant) -> turmoil::Result {
        let instances: Vec<Instance> = self.found();
        let number = self.finding.directory.number();
        let version = DirectoryVersion { counter: 0, number };
        let view = DirectoryView { version, instances };
        let health = &mut self.calling.health;
        health.forget_all_but(&view);
        let (kind, alive) = (call.kind, &view.instances);
        let Some(picked) = health.pick(kind, alive, &call.tried, now.into_std()) else {
            return Ok(());
        };
        let attempts = call.tried.len() as u32;
        call.until = now + Effort::Read.first() * 2u32.pow(attempts.min(3));
        call.asked = Some(picked.endpoint);
        world(&self.world).picks.push(Pick {
            at: elapsed(),
            caller: self.n,
            kind,
            endpoint: picked.endpoint,
        });
        let token = call.token.clone();
        self.attempt_later(call);
        let said = Said::Call(self.calling.number, token);
        self.send_at(picked.endpoint, &said).await
    }
}
