//! Who is connected, and who has to go: counts and clocks only, no sockets.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// A connection's number, in the order of arrival.
pub type Id = u64;

/// How much there may be of what, and for how long.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections that have not brought a complete request yet.
    pub new: usize,
    /// Connections that have.
    pub known: usize,
    /// Of these, idle ones of one address (for IPv6: of one /64 network).
    pub idle_of_one: usize,
    /// Connections with a long request on its way.
    pub long_frames: usize,
    /// Requests in flight on all connections together.
    pub requests: usize,
    /// From being accepted to the first complete request.
    pub introduce: Duration,
    /// From a request's first byte to its last.
    pub frame: Duration,
    /// How long an answer may wait without any of it being taken.
    pub write: Duration,
    /// Without a request.
    pub idle: Duration,
    /// So long must a connection have been at work before it may be closed for another.
    pub at_work: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            new: 1024,
            known: 3072,
            idle_of_one: 1024,
            long_frames: 64,
            requests: 32 << 10,
            // A handshake and a request take milliseconds on a LAN, a second on a busy machine.
            introduce: Duration::from_secs(5),
            // A request of the longest length, 1 MiB, over a link of 1 Mb/s.
            frame: Duration::from_secs(10),
            write: Duration::from_secs(15),
            idle: Duration::from_secs(300),
            at_work: Duration::from_secs(2),
        }
    }
}

impl Limits {
    /// For a process that may have so many files open: connections get a quarter of them at most.
    pub fn within(descriptors: u64) -> Self {
        let limits = Self::default();
        let all = usize::try_from(descriptors / 4).unwrap_or(usize::MAX);
        Self {
            new: limits.new.min(all / 4).max(16),
            known: limits.known.min(all / 4 * 3).max(48),
            ..limits
        }
    }
}

/// Why a connection was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It did not bring a request in time, or others that did not either came after it.
    Silent,
    /// A request of its began and did not end in time, or more long ones began after it.
    HalfRequest,
    /// It does not take its answers.
    NotReading,
    /// It had nothing to ask for long, or there were too many such.
    Idle,
    /// It kept others out with what it had asked.
    Greedy,
}

#[derive(Debug)]
struct Guest {
    net: IpAddr,
    /// When it came, was last done with something, or began to be at work.
    since: Instant,
    /// It has brought a complete request.
    known: bool,
    in_flight: usize,
    /// When the request that is on its way began, and whether it is a long one.
    frame: Option<(Instant, bool)>,
    /// Since when no byte of an answer was taken.
    stuck: Option<Instant>,
    close: CancellationToken,
}

/// Some of the connections, by network and in the order of their time.
#[derive(Debug, Default)]
struct Queue {
    of: HashMap<IpAddr, BTreeSet<(Instant, Id)>>,
    length: usize,
}

impl Queue {
    fn insert(&mut self, net: IpAddr, since: Instant, id: Id) {
        if self.of.entry(net).or_default().insert((since, id)) {
            self.length += 1;
        }
    }

    fn remove(&mut self, net: IpAddr, since: Instant, id: Id) {
        if let Some(members) = self.of.get_mut(&net) {
            if members.remove(&(since, id)) {
                self.length -= 1;
            }
            if members.is_empty() {
                self.of.remove(&net);
            }
        }
    }

    fn oldest_of(&self, net: IpAddr) -> Option<Id> {
        self.of.get(&net)?.first().map(|(_, id)| *id)
    }

    /// The oldest of the network that has the most: whoever comes in numbers drops its own.
    fn oldest(&self) -> Option<Id> {
        let most = self.of.values().max_by_key(|members| members.len())?;
        most.first().map(|(_, id)| *id)
    }
}

/// Everybody who is connected.
#[derive(Debug)]
pub struct Guests {
    limits: Limits,
    last: Id,
    all: BTreeMap<Id, Guest>,
    new: Queue,
    idle: Queue,
    long_frames: BTreeSet<(Instant, Id)>,
    known: usize,
    in_flight: usize,
    closed: BTreeMap<Reason, u64>,
}

/// What counts as one address: for IPv6 the network of 64 bits, all of which one machine can use.
fn net(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

impl Guests {
    /// Nobody yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            last: 0,
            all: BTreeMap::new(),
            new: Queue::default(),
            idle: Queue::default(),
            long_frames: BTreeSet::new(),
            known: 0,
            in_flight: 0,
            closed: BTreeMap::new(),
        }
    }

    /// Lets somebody in: its number, and what is cancelled when it has to go.
    pub fn enter(&mut self, address: IpAddr, now: Instant) -> (Id, CancellationToken) {
        if self.new.length >= self.limits.new
            && let Some(oldest) = self.new.oldest()
        {
            self.close(oldest, Reason::Silent);
        }
        self.last += 1;
        let close = CancellationToken::new();
        let net = net(address);
        self.new.insert(net, now, self.last);
        let guest = Guest {
            net,
            since: now,
            known: false,
            in_flight: 0,
            frame: None,
            stuck: None,
            close: close.clone(),
        };
        self.all.insert(self.last, guest);
        (self.last, close)
    }

    /// A request of its is complete and being handled.
    pub fn begin(&mut self, id: Id, now: Instant) {
        if let Some(guest) = self.all.get(&id).filter(|guest| !guest.known)
            && self.known >= self.limits.known
        {
            self.make_room(guest.net, now);
        }
        let Some(guest) = self.all.get_mut(&id) else {
            return;
        };
        if !guest.known {
            self.new.remove(guest.net, guest.since, id);
            guest.known = true;
            self.known += 1;
        } else if guest.in_flight == 0 {
            self.idle.remove(guest.net, guest.since, id);
        }
        if guest.in_flight == 0 {
            guest.since = now;
        }
        guest.in_flight += 1;
        self.in_flight += 1;
        if self.known > self.limits.known {
            // All others are at work: none for long, and none of them for an address that has more.
            self.close(id, Reason::Greedy);
        }
        if self.in_flight > self.limits.requests {
            let busiest = self.all.iter().max_by_key(|(_, guest)| guest.in_flight);
            if let Some((&busiest, _)) = busiest {
                self.close(busiest, Reason::Greedy);
            }
        }
    }

    /// A request of its was handled.
    pub fn done(&mut self, id: Id, now: Instant) {
        let Some(guest) = self.all.get_mut(&id) else {
            return;
        };
        if guest.in_flight == 0 {
            return;
        }
        guest.in_flight -= 1;
        self.in_flight -= 1;
        if guest.in_flight > 0 {
            return;
        }
        guest.since = now;
        let net = guest.net;
        self.idle.insert(net, now, id);
        let idle = self.idle.of.get(&net).map_or(0, BTreeSet::len);
        if idle > self.limits.idle_of_one
            && let Some(oldest) = self.idle.oldest_of(net)
        {
            self.close(oldest, Reason::Idle);
        }
    }

    /// A request of its has begun and is not complete: whether what there is of it is long. `None`
    /// when it is complete.
    pub fn frame(&mut self, id: Id, begun: Option<bool>, now: Instant) {
        let Some(guest) = self.all.get_mut(&id) else {
            return;
        };
        let since = guest.frame.map_or(now, |(since, _)| since);
        if guest.frame.is_some_and(|(_, long)| long) {
            self.long_frames.remove(&(since, id));
        }
        guest.frame = begun.map(|long| (since, long));
        if begun == Some(true) {
            self.long_frames.insert((since, id));
        }
        if self.long_frames.len() > self.limits.long_frames
            && let Some(&(_, oldest)) = self.long_frames.first()
        {
            self.close(oldest, Reason::HalfRequest);
        }
    }

    /// None of its answers was taken since `since`; `None` when some was.
    pub fn stuck(&mut self, id: Id, since: Option<Instant>) {
        if let Some(guest) = self.all.get_mut(&id) {
            guest.stuck = since;
        }
    }

    /// It is gone.
    pub fn leave(&mut self, id: Id) {
        let Some(guest) = self.all.remove(&id) else {
            return;
        };
        if !guest.known {
            self.new.remove(guest.net, guest.since, id);
        } else if guest.in_flight == 0 {
            self.idle.remove(guest.net, guest.since, id);
        }
        if let Some((since, true)) = guest.frame {
            self.long_frames.remove(&(since, id));
        }
        self.known -= usize::from(guest.known);
        self.in_flight -= guest.in_flight;
    }

    /// Closes those whose time is over.
    pub fn sweep(&mut self, now: Instant) {
        let limits = &self.limits;
        let over = |since: Instant, limit| now.saturating_duration_since(since) >= limit;
        let late = self.all.iter().filter_map(|(&id, guest)| {
            let reason = if !guest.known && over(guest.since, limits.introduce) {
                Reason::Silent
            } else if guest.frame.is_some_and(|(at, _)| over(at, limits.frame)) {
                Reason::HalfRequest
            } else if guest.stuck.is_some_and(|at| over(at, limits.write)) {
                Reason::NotReading
            } else if guest.known && guest.in_flight == 0 && over(guest.since, limits.idle) {
                Reason::Idle
            } else {
                return None;
            };
            Some((id, reason))
        });
        for (id, reason) in late.collect::<Vec<_>>() {
            self.close(id, reason);
        }
    }

    /// Closes one for a newcomer: the longest idle, or else, of the address that has most at work,
    /// the one that is at work for longest. Where the newcomer's has as many, those at work for a
    /// short time stay.
    fn make_room(&mut self, newcomer: IpAddr, now: Instant) {
        if let Some(idle) = self.idle.oldest() {
            return self.close(idle, Reason::Idle);
        }
        let mut at_work: HashMap<IpAddr, (usize, (Instant, Id))> = HashMap::new();
        for (&id, guest) in self.all.iter().filter(|(_, guest)| guest.in_flight > 0) {
            let (count, longest) = at_work.entry(guest.net).or_insert((0, (guest.since, id)));
            *count += 1;
            *longest = (*longest).min((guest.since, id));
        }
        let own = at_work.get(&newcomer).map_or(0, |(count, _)| *count);
        // Of those with as many, the one whose longest has been at it for longest.
        let most = at_work
            .values()
            .max_by_key(|(count, longest)| (*count, Reverse(*longest)));
        if let Some(&(count, (since, longest))) = most
            && (count > own + 1 || now.saturating_duration_since(since) >= self.limits.at_work)
        {
            self.close(longest, Reason::Greedy);
        }
    }

    /// Closes so many of those that are not at work: the process is out of file descriptors.
    pub fn shed(&mut self, count: usize) {
        for _ in 0..count {
            let (oldest, reason) = match (self.new.oldest(), self.idle.oldest()) {
                (Some(new), _) => (new, Reason::Silent),
                (None, Some(idle)) => (idle, Reason::Idle),
                (None, None) => return,
            };
            self.close(oldest, reason);
        }
    }

    fn close(&mut self, id: Id, reason: Reason) {
        if let Some(guest) = self.all.get(&id) {
            guest.close.cancel();
            *self.closed.entry(reason).or_default() += 1;
        }
        self.leave(id);
    }

    /// How many were closed since this was last asked, and why.
    pub fn closed(&mut self) -> BTreeMap<Reason, u64> {
        std::mem::take(&mut self.closed)
    }
}

#[cfg(test)]
mod tests;
