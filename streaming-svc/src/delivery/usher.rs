//! The usher: gives connections from the lobby a seat with the RTSP server, and keeps an eye on
//! them.
//!
//! Whoever names a stream that may be fetched from where they are knows its secret id; everybody
//! else is a stranger, also who read the id of another address's stream off the network. There is room
//! for a few strangers only, for a short time, and the oldest goes for the newest, so that they
//! take no seats from viewers. Of anybody, no more is read than a player has to say: the server
//! itself reads requests without end.

use super::{
    lobby::Arrived,
    player::{PlayerClient, PlayerServer},
};
use gst::glib::{self, prelude::*};
use gst_rtsp_server::{gio, prelude::*};
use iceflix_core::api::StreamId;
use nix::{getsockopt_impl, libc, sockopt_impl, sys::socket::getsockopt};
use std::{
    net::{IpAddr, Shutdown, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// How often connections are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// The most strangers; fewer where there are few seats.
const STRANGERS: usize = 64;

/// How long somebody may stay a stranger.
const STRANGE: Duration = Duration::from_secs(30);

/// How long a connection that knows a stream may have no session: a player sets one up at once,
/// and what had one is closed by the server itself.
const WITHOUT_SESSION: Duration = Duration::from_secs(60);

/// The most connections that name the same stream. A player has one or two.
const OF_ONE_STREAM: usize = 32;

/// What a connection may send at once, in bytes: some thousand requests.
const BURST: u64 = 256 << 10;

/// What it may send a second in the long run, in bytes. Players send some 100: an RTCP report
/// every 5 s, a request every 30.
const RATE: u64 = 8 << 10;

/// Whether there is such a stream for players at an address.
type IsOpen = dyn Fn(&StreamId, IpAddr) -> bool + Send + Sync;

/// The connections that have a seat.
#[derive(Clone)]
pub(super) struct Usher {
    server: PlayerServer,
    is_open: Arc<IsOpen>,
    strangers: usize,
    seats: Arc<Mutex<Seats>>,
}

#[derive(Default)]
struct Seats {
    last: u64,
    /// In the order in which they were taken.
    all: Vec<Arc<Seat>>,
}

struct Seat {
    number: u64,
    client: glib::WeakRef<PlayerClient>,
    /// Another handle to its connection; gone with it, so that its other end hears of that.
    socket: TcpStream,
    /// Where its other end is.
    address: IpAddr,
    /// The stream that its first request named, if there was such a stream for it.
    stream: Option<StreamId>,
    arrived: Instant,
    /// It was told to go, which its thread has not noticed yet.
    going: AtomicBool,
    habits: Mutex<Habits>,
}

struct Habits {
    /// When it last had a session.
    with_session: Instant,
    meter: Meter,
}

impl Seat {
    /// Closes the connection whatever its thread is doing, which notices at once and goes.
    fn close(&self, why: &'static str) {
        if self.going.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::debug!(why, "a player's connection was closed");
        // It fails when the other end was first.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl Usher {
    /// For this server, which seats so many. `is_open` says whether there is such a stream for
    /// players at an address.
    pub(super) fn new(
        server: PlayerServer,
        seats: usize,
        is_open: impl Fn(&StreamId, IpAddr) -> bool + Send + Sync + 'static,
    ) -> Self {
        let usher = Self {
            server,
            is_open: Arc::new(is_open),
            strangers: (seats / 8).clamp(2, STRANGERS),
            seats: Arc::default(),
        };
        let seats = Arc::clone(&usher.seats);
        // The client is made while its connection is handed over, before it is served: the last
        // seat is its.
        usher.server.connect_client_connected(move |_, client| {
            let seat = lock(&seats).all.last().cloned();
            if let (Some(seat), Some(player)) = (seat, client.downcast_ref::<PlayerClient>()) {
                seat.client.set(Some(player));
                let (seats, number) = (Arc::clone(&seats), seat.number);
                player.connect_closed(move |_| leave(&seats, number));
            }
        });
        usher
    }

    /// Looks at the connections from now on; to be attached to the server's context.
    pub(super) fn looking(&self) -> glib::Source {
        let usher = self.clone();
        glib::timeout_source_new(
            LOOK,
            Some("rtsp-usher"),
            glib::Priority::DEFAULT,
            move || {
                usher.look(Instant::now());
                glib::ControlFlow::Continue
            },
        )
    }

    /// Gives a connection to the server; to be called in the server's context.
    pub(super) fn admit(&self, arrived: Arrived) {
        let address = arrived.peer.ip();
        let is_open = |stream: &StreamId| (self.is_open)(stream, address);
        let stream = arrived.stream.filter(is_open);
        if !self.make_room(stream) {
            return;
        }
        let (Ok(socket), Ok(given)) = (
            arrived.socket.try_clone(),
            gio::Socket::from_fd(arrived.socket.into()),
        ) else {
            return;
        };
        let number = self.seat(socket, address, stream);
        let taken = self.server.take(&given, arrived.peer, &arrived.said);
        if taken.is_err() {
            // There was no seat, which was logged.
            leave(&self.seats, number);
        }
    }

    /// A new seat for a connection, by its number.
    fn seat(&self, socket: TcpStream, address: IpAddr, stream: Option<StreamId>) -> u64 {
        let now = Instant::now();
        let mut seats = lock(&self.seats);
        seats.last += 1;
        let number = seats.last;
        seats.all.push(Arc::new(Seat {
            number,
            client: glib::WeakRef::new(),
            socket,
            address,
            stream,
            arrived: now,
            going: AtomicBool::new(false),
            habits: Mutex::new(Habits {
                with_session: now,
                meter: Meter::new(now),
            }),
        }));
        number
    }

    /// The seats that are taken, the oldest first. Nothing is asked of a connection while they
    /// are locked.
    fn seats(&self) -> Vec<Arc<Seat>> {
        lock(&self.seats).all.clone()
    }

    /// Whether it has nothing to do with any stream that there is for it.
    fn is_stranger(&self, seat: &Seat) -> bool {
        let mut known = seat.stream.into_iter().chain(
            // It may have asked for one since.
            seat.client
                .upgrade()
                .map(|player| player.asked())
                .unwrap_or_default(),
        );
        !known.any(|stream| (self.is_open)(&stream, seat.address))
    }

    /// Closes somebody when there are too many of the newcomer's sort; false when nobody can go.
    fn make_room(&self, stream: Option<StreamId>) -> bool {
        let mut same = self.seats();
        same.retain(|seat| match stream {
            Some(_) => seat.stream == stream,
            None => self.is_stranger(seat),
        });
        let most = if stream.is_some() {
            OF_ONE_STREAM
        } else {
            self.strangers
        };
        let going = same.len();
        same.retain(|seat| !seat.going.load(Ordering::Acquire));
        let going = going - same.len();
        if same.len() < most {
            return going < most;
        }
        same.retain(|seat| !has_session(seat));
        if let Some(oldest) = same.first() {
            oldest.close("there are too many like it");
        }
        // Those on their way out still have their seats.
        going < most && !same.is_empty()
    }

    fn look(&self, now: Instant) {
        let late = |since: Instant, limit| now.saturating_duration_since(since) >= limit;
        for seat in self.seats() {
            let with_session = has_session(&seat);
            // There is nothing to count when the other end closed it just now.
            let received = bytes_received(&seat.socket).unwrap_or_default();
            let mut habits = lock(&seat.habits);
            if with_session {
                habits.with_session = now;
            }
            if habits.meter.is_too_much(received, now) {
                seat.close("it says more than a player has to");
            } else if late(habits.with_session, WITHOUT_SESSION) {
                seat.close("it sets up no session");
            } else if late(seat.arrived, STRANGE) && self.is_stranger(&seat) {
                seat.close("it asks for no stream that there is");
            }
        }
    }
}

/// Takes a seat back. Its connection ends with that, also where the server would go on reading from
/// it: what is tunnelled through HTTP comes on a second connection, whose client ends at once.
fn leave(seats: &Mutex<Seats>, number: u64) {
    let mut seats = lock(seats);
    let Some(position) = seats.all.iter().position(|seat| seat.number == number) else {
        return;
    };
    let seat = seats.all.remove(position);
    drop(seats);
    seat.close("its client has ended");
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn has_session(seat: &Seat) -> bool {
    seat.client
        .upgrade()
        .is_some_and(|player| !player.session_filter(None).is_empty())
}

/// How much a connection says: a burst now and then, and little in the long run.
#[derive(Debug)]
struct Meter {
    received: u64,
    left: u64,
    at: Instant,
}

impl Meter {
    fn new(now: Instant) -> Self {
        Self {
            received: 0,
            left: BURST,
            at: now,
        }
    }

    /// Whether so many bytes since the beginning are too much. To be asked twice a second or so.
    fn is_too_much(&mut self, received: u64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_millis();
        let more = u64::try_from(passed)
            .unwrap_or(u64::MAX)
            .saturating_mul(RATE)
            / 1000;
        self.at = now;
        self.left = self.left.saturating_add(more).min(BURST);
        let new = received.saturating_sub(self.received);
        self.received = self.received.max(received);
        let too_much = new > self.left;
        self.left = self.left.saturating_sub(new);
        too_much
    }
}

sockopt_impl!(
    /// The beginning of the system's `tcp_info` (linux/tcp.h, since Linux 4.1), as numbers of 64 bits.
    TcpInfo,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    [u64; 17]
);

/// How many bytes have come on a connection since its beginning.
fn bytes_received(socket: &TcpStream) -> Option<u64> {
    // `tcpi_bytes_received` is at byte 128.
    getsockopt(socket, TcpInfo).ok().map(|info| info[16])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    #[test]
    fn players_do_not_say_too_much_and_endless_requests_do() {
        let mut now = Instant::now();
        let mut meter = Meter::new(now);
        let mut sent = 0;
        for _ in 0..10_000 {
            now += LOOK;
            sent += 500;
            assert!(!meter.is_too_much(sent, now));
        }
        // Hasty seeks.
        assert!(!meter.is_too_much(sent + 200_000, now));
        assert!(meter.is_too_much(sent + 300_000, now));
        // A little more than allowed, for long.
        let mut meter = Meter::new(now);
        let closed = (1..1000).find(|turn| {
            now += LOOK;
            meter.is_too_much(turn * RATE, now)
        });
        assert!(closed.is_some());
    }

    #[test]
    fn what_came_is_counted() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        near.write_all(&[7; 12_345]).unwrap();
        far.read_exact(&mut [0; 12_345]).unwrap();
        assert_eq!(bytes_received(&far), Some(12_345));
    }
}
