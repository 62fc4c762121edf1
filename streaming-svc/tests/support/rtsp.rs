//! A small RTSP client that shows what goes over the wire.

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};
use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

/// A server's answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    /// Its status code.
    pub status: u16,
    /// Its headers, by lower-case name.
    pub headers: HashMap<String, String>,
    /// Its body.
    pub body: Vec<u8>,
}

/// A connection to an RTSP server.
pub struct Player {
    stream: BufReader<TcpStream>,
    sequence: u32,
    /// The session that the server opened, once it did.
    pub session: Option<String>,
    url: String,
    /// RTP packets that came so far, on channel 0.
    pub packets: u32,
    /// Those on channel 2.
    second_track: u32,
    /// When the first of them came.
    pub first_packet: Option<Instant>,
    /// Whether RTCP said that the first track ended.
    pub ended: bool,
}

impl Player {
    /// Connects to the URL's server.
    pub fn connect(url: &str) -> Self {
        Self::over(
            TcpStream::connect(server_of(url)).expect("the server listens"),
            url,
        )
    }

    /// The same, from one of this machine's addresses (IPv4).
    pub fn connect_from(url: &str, from: IpAddr) -> Self {
        let (family, kind) = (AddressFamily::Inet, SockType::Stream);
        let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
        let (from, to) = (SocketAddr::new(from, 0), server_of(url));
        bind(socket.as_raw_fd(), &SockaddrStorage::from(from)).unwrap();
        connect(socket.as_raw_fd(), &SockaddrStorage::from(to)).unwrap();
        Self::over(TcpStream::from(socket), url)
    }

    fn over(stream: TcpStream, url: &str) -> Self {
        stream.set_nodelay(true).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        Self {
            stream: BufReader::new(stream),
            sequence: 0,
            session: None,
            url: url.to_owned(),
            packets: 0,
            second_track: 0,
            first_packet: None,
            ended: false,
        }
    }

    /// Sends a request to the stream's URL and waits for its answer.
    pub fn request(&mut self, method: &str, headers: &[&str]) -> Response {
        let url = self.url.clone();
        self.request_to(method, &url, headers)
    }

    /// Sends a request to the stream's URL, and does not wait.
    pub fn send(&mut self, method: &str, headers: &[&str]) {
        let url = self.url.clone();
        self.send_to(method, &url, headers);
    }

    /// Sends a request and waits for its answer; packets that come first are counted.
    pub fn request_to(&mut self, method: &str, url: &str, headers: &[&str]) -> Response {
        self.send_to(method, url, headers);
        loop {
            if let Some(response) = self.read().expect("an answer") {
                return response;
            }
        }
    }

    fn send_to(&mut self, method: &str, url: &str, headers: &[&str]) {
        self.sequence += 1;
        let mut text = format!("{method} {url} RTSP/1.0\r\nCSeq: {}\r\n", self.sequence);
        if let Some(session) = &self.session {
            text.push_str(&format!("Session: {session}\r\n"));
        }
        for header in headers {
            text.push_str(&format!("{header}\r\n"));
        }
        text.push_str("\r\n");
        self.stream.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// DESCRIBE and SETUP of both tracks over this connection.
    pub fn set_up(&mut self) {
        let described = self.request("DESCRIBE", &["Accept: application/sdp"]);
        assert_eq!(described.status, 200, "{described:?}");
        self.set_up_undescribed();
    }

    /// SETUP of both tracks over this connection.
    pub fn set_up_undescribed(&mut self) {
        self.set_up_with(|track| {
            let (rtp, rtcp) = (2 * track, 2 * track + 1);
            format!("RTP/AVP/TCP;unicast;interleaved={rtp}-{rtcp}")
        });
    }

    /// SETUP of both tracks over UDP, both to the same port.
    pub fn set_up_udp(&mut self, port: u16) {
        self.set_up_with(|_| format!("RTP/AVP;unicast;client_port={port}-{port}"));
    }

    fn set_up_with(&mut self, transport: impl Fn(u32) -> String) {
        for track in 0..2 {
            let url = format!("{}/stream={track}", self.url);
            let transport = format!("Transport: {}", transport(track));
            let answer = self.request_to("SETUP", &url, &[&transport]);
            assert_eq!(answer.status, 200, "{answer:?}");
            let session = &answer.headers["session"];
            self.session = session.split(';').next().map(str::to_owned);
        }
    }

    /// Reads packets until so many have come.
    pub fn read_packets(&mut self, count: u32) {
        let until = self.packets + count;
        while self.packets < until {
            assert!(self.read().expect("packets").is_none(), "not asked for");
        }
    }

    /// Reads until so many packets of each of two tracks have come.
    pub fn read_both_tracks(&mut self, count: u32) {
        let (first, second) = (self.packets + count, self.second_track + count);
        while self.packets < first || self.second_track < second {
            let read = self.read();
            let read = read.unwrap_or_else(|error| {
                let (first, second) = (
                    first.saturating_sub(self.packets),
                    second.saturating_sub(self.second_track),
                );
                panic!("{first} and {second} packets are missing, then {error}")
            });
            assert!(read.is_none(), "not asked for");
        }
    }

    /// Reads on until so many answers came, and gives the last one's status.
    pub fn read_answers(&mut self, count: usize) -> u16 {
        let mut status = 0;
        for answers in 0..count {
            status = loop {
                match self.read() {
                    Ok(Some(answer)) => break answer.status,
                    Ok(None) => {}
                    Err(error) => panic!("{answers} answers, then {error}"),
                }
            };
        }
        status
    }

    /// Reads until the server says goodbye (RTCP BYE) for the first track.
    pub fn read_to_bye(&mut self) {
        while !self.ended {
            assert!(self.read().expect("packets").is_none(), "not asked for");
        }
    }

    /// Reads until the server closes the connection. An answer nobody asked for is passed over.
    pub fn read_to_end(&mut self) {
        while self.read().is_ok() {}
    }

    /// Whether an answer comes, and not the connection's end.
    pub fn try_answer(&mut self) -> bool {
        matches!(self.read(), Ok(Some(_)))
    }

    /// Reads one thing: an answer, or (`None`) an interleaved packet.
    fn read(&mut self) -> io::Result<Option<Response>> {
        let mut first = [0];
        self.stream.read_exact(&mut first)?;
        if first[0] == b'$' {
            let mut head = [0; 3];
            self.stream.read_exact(&mut head)?;
            let mut packet = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
            self.stream.read_exact(&mut packet)?;
            if head[0] == 0 {
                self.packets += 1;
                self.first_packet.get_or_insert_with(Instant::now);
            } else if head[0] == 2 {
                self.second_track += 1;
            } else if head[0] == 1 {
                self.ended |= has_bye(&packet);
            }
            return Ok(None);
        }
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let mut headers = HashMap::new();
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").map_or("0", String::as_str);
        let mut body = vec![0; length.parse().unwrap()];
        self.stream.read_exact(&mut body)?;
        Ok(Some(Response {
            status: status.expect("a status line"),
            headers,
            body,
        }))
    }
}

/// The address in a URL.
pub fn server_of(url: &str) -> SocketAddr {
    let authority = url.strip_prefix("rtsp://").unwrap().split('/').next();
    authority.unwrap().parse().unwrap()
}

/// Whether a compound RTCP packet has a BYE (type 203) in it.
fn has_bye(mut compound: &[u8]) -> bool {
    while let [_, kind, high, low, ..] = *compound {
        if kind == 203 {
            return true;
        }
        let length = 4 * (usize::from(u16::from_be_bytes([high, low])) + 1);
        compound = compound.get(length..).unwrap_or(&[]);
    }
    false
}
