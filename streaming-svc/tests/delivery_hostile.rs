//! Connections that say nothing, nonsense, or more than a player has to, harm no viewer. In a
//! process of its own, so that no other test's connections and memory are counted.

#![allow(
    clippy::unwrap_used,
    reason = "a test that unwraps says where it failed"
)]

mod support;

use iceflix_core::limits::raise_nofile_limit;
use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use streaming_svc::delivery::{Delivery, FilmSource};
use support::{
    clips::{Clip, folder},
    mount,
    rtsp::Player,
    start, wait_for,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// As many as the issue states, if this system lets a process have so many.
fn many() -> usize {
    let limit = usize::try_from(raise_nofile_limit().unwrap()).unwrap();
    (limit / 2).min(10_000)
}

/// Somebody who watches over TCP, from before the others come until after.
struct Viewer {
    stop: Arc<AtomicBool>,
    watching: JoinHandle<u32>,
}

impl Viewer {
    fn start(delivery: &Delivery, film: &FilmSource) -> Self {
        let (_, url) = mount(delivery, film.clone());
        let mut player = Player::connect(&url);
        player.set_up();
        assert_eq!(player.request("PLAY", &[]).status, 200);
        player.read_packets(3);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let watching = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                player.read_packets(1);
            }
            player.packets
        });
        Self { stop, watching }
    }

    /// It went on playing till now.
    fn end(self) {
        assert!(!self.watching.is_finished(), "the viewer's stream ended");
        self.stop.store(true, Ordering::Relaxed);
        assert!(self.watching.join().unwrap() > 3);
    }
}

/// Somebody who comes now gets packets.
fn newcomer(delivery: &Delivery, film: &FilmSource) {
    let (_, url) = mount(delivery, film.clone());
    let mut player = Player::connect(&url);
    player.set_up();
    assert_eq!(player.request("PLAY", &[]).status, 200);
    player.read_packets(3);
}

fn connect(address: SocketAddr) -> TcpStream {
    let connection = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    connection.set_write_timeout(Some(PATIENCE)).unwrap();
    connection
}

/// Waits until the server has closed the connection.
fn until_closed(mut connection: TcpStream) {
    let mut rest = [0; 4096];
    loop {
        match connection.read(&mut rest) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => match error.kind() {
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => return,
                _ => panic!("it was not closed: {error}"),
            },
        }
    }
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// Memory in use, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// A film longer than any of these tests takes.
fn film(folder: &tempfile::TempDir) -> FilmSource {
    Clip::mp4(180).make(folder)
}

/// Descriptors, threads and memory are the process's.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens many connections and says `what` on each; viewers notice nothing, and all are closed.
fn flood(film: &FilmSource, what: &[u8]) {
    let delivery = start();
    let viewer = Viewer::start(&delivery, film);
    newcomer(&delivery, film);
    let (threads_before, memory_before) = (threads(), resident());
    let many = many();
    let mut held = Vec::with_capacity(many);
    for n in 0..many {
        let mut connection = connect(delivery.local_addr());
        // It may be closed already.
        let _ = connection.write_all(what);
        held.push(connection);
        if n % 2000 == 1999 {
            newcomer(&delivery, film);
        }
    }
    newcomer(&delivery, film);
    let (more_threads, more_memory) = (
        threads().saturating_sub(threads_before),
        resident().saturating_sub(memory_before),
    );
    assert!(more_threads < 300, "{more_threads} more threads");
    assert!(more_memory < 300 << 20, "{more_memory} bytes more");
    // Strangers who said something whole are closed after half a minute.
    held.into_iter().for_each(until_closed);
    newcomer(&delivery, film);
    viewer.end();
}

#[test]
fn thousands_of_connections_harm_no_viewer() {
    let _alone = alone();
    let folder = folder();
    let film = film(&folder);
    for what in [
        "",
        "DESCRIBE rtsp://127.0.0.1/x RTSP/1.0\r\nCSeq: 1\r\n",
        "$\0\x7f\x7f\0\x01\x02\x03",
        "OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n",
    ] {
        let begun = Instant::now();
        flood(&film, what.as_bytes());
        println!("{what:?}: {:?}", begun.elapsed());
    }
}

/// Says `first`, then `more` again and again until the connection is closed.
fn endless(address: SocketAddr, first: &[u8], more: &[u8]) {
    let mut connection = connect(address);
    connection.write_all(first).unwrap();
    endless_on(connection, more);
}

fn endless_on(mut connection: TcpStream, more: &[u8]) {
    const TURN: Duration = Duration::from_millis(200);
    connection.set_write_timeout(Some(TURN)).unwrap();
    connection.set_read_timeout(Some(TURN)).unwrap();
    let until = Instant::now() + PATIENCE;
    let mut said = 0;
    while Instant::now() < until {
        match connection.write(more) {
            Ok(written) => said += written,
            // Nobody reads it any more, at least for now.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                match connection.read(&mut [0; 4096]) {
                    Ok(0) => return,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
            Err(_) => return,
        }
    }
    panic!("{said} bytes were taken");
}

#[test]
fn endless_requests_are_cut_off() {
    let _alone = alone();
    let folder = folder();
    let (delivery, film) = (start(), film(&folder));
    let viewer = Viewer::start(&delivery, &film);
    let (_, url) = mount(&delivery, film.clone());
    let known = format!("OPTIONS {url} RTSP/1.0\r\nCSeq: 1\r\n\r\n");
    let describe = format!("{known}DESCRIBE {url} RTSP/1.0\r\nCSeq: 2\r\n");
    let body = format!(
        "{known}SET_PARAMETER {url} RTSP/1.0\r\nCSeq: 2\r\nContent-Length: 4294967295\r\n\r\n"
    );
    let junk = [[b'$', 9, 0x10, 0].as_slice(), &[0; 0x1000]].concat();
    let header = b"X-Y: zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz\r\n".repeat(64);
    let line = [b'x'; 4096];
    let address = delivery.local_addr();
    let before = resident();
    for (first, more) in [
        // A request line, and headers, as the first of the connection …
        ("OPTIONS ", &line[..]),
        ("OPTIONS * RTSP/1.0\r\n", &header[..]),
        // … and when the server reads itself.
        (known.as_str(), &line[..]),
        (describe.as_str(), &header[..]),
        (body.as_str(), &line[..]),
        (known.as_str(), &junk[..]),
    ] {
        endless(address, first.as_bytes(), more);
        newcomer(&delivery, &film);
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 300 << 20, "{grown} bytes more");
    viewer.end();
}

/// The server would take a second connection's bytes for requests of the first, unseen by what
/// counts them.
#[test]
fn endless_requests_through_a_tunnel_are_cut_off() {
    let _alone = alone();
    let folder = folder();
    let (delivery, film) = (start(), film(&folder));
    let viewer = Viewer::start(&delivery, &film);
    let (_, url) = mount(&delivery, film.clone());
    let before = resident();
    let tunnelled = |method: &str| {
        let mut connection = connect(delivery.local_addr());
        let request = format!(
            "OPTIONS {url} RTSP/1.0\r\nCSeq: 1\r\n\r\n{method} /x HTTP/1.0\r\nx-sessioncookie: 0123456789\r\n\
             Accept: application/x-rtsp-tunnelled\r\nContent-Length: 32767\r\n\r\n"
        );
        connection.write_all(request.as_bytes()).unwrap();
        let limit = Some(Duration::from_millis(500));
        connection.set_read_timeout(limit).unwrap();
        let mut answer = [0; 4096];
        // Both answers, or what there is of them.
        while matches!(connection.read(&mut answer), Ok(1..)) {}
        connection
    };
    let listening = tunnelled("GET");
    let speaking = tunnelled("POST");
    // "OPTIONS * RTSP/1.0\r\n" and "X: y\r\n", as a tunnel has it.
    let mut speaking = speaking;
    let _ = speaking.write_all(b"T1BUSU9OUyAqIFJUU1AvMS4wDQo=");
    endless_on(speaking, &b"WDogeQ0K".repeat(512));
    drop(listening);
    newcomer(&delivery, &film);
    let grown = resident().saturating_sub(before);
    assert!(grown < 100 << 20, "{grown} bytes more");
    viewer.end();
}

#[test]
fn thousands_of_setups_take_no_places_from_others() {
    let _alone = alone();
    let folder = folder();
    let (delivery, film) = (start(), film(&folder));
    let viewer = Viewer::start(&delivery, &film);
    let (stream, url) = mount(&delivery, film.clone());
    let mut connection = connect(delivery.local_addr());
    let mut reading = connection.try_clone().unwrap();
    let answers = std::thread::spawn(move || {
        let mut text = Vec::new();
        // It ends by being closed one way or the other.
        let _ = reading.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    for n in 1..3000 {
        let request = format!(
            "SETUP {url}/stream=0 RTSP/1.0\r\nCSeq: {n}\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n\r\n"
        );
        if connection.write_all(request.as_bytes()).is_err() {
            break;
        }
    }
    wait_for("as many sessions as one stream may have", || {
        delivery.players(&stream) >= 16
    });
    newcomer(&delivery, &film);
    assert_eq!(delivery.players(&stream), 16);
    viewer.end();
    let _ = connection.shutdown(std::net::Shutdown::Both);
    let answers = answers.join().unwrap();
    assert_eq!(answers.matches("RTSP/1.0 200 OK").count(), 16);
}
