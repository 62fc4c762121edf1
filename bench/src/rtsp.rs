//! A bare RTSP player: as little as possible between the wire and the clock.

use anyhow::{Context as _, bail, ensure};
use std::{
    io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{TcpStream, UdpSocket},
    time::{Duration, Instant},
};

/// How long the server may take for anything.
const PATIENCE: Duration = Duration::from_secs(10);

/// How packets come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Within the RTSP connection.
    Tcp,
    /// As datagrams.
    Udp,
}

impl Transport {
    /// Its name in figures.
    pub fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        }
    }
}

/// When the steps to a film were done.
#[derive(Debug, Clone, Copy)]
pub struct Steps {
    /// Connected, OPTIONS and DESCRIBE answered.
    pub described: Instant,
    /// Each track's SETUP answered.
    pub set_up: Instant,
    /// The first RTP packet was there, be it before or after PLAY's answer.
    pub packet: Instant,
}

/// A connection on which a film plays.
pub struct Player {
    server: BufReader<TcpStream>,
    /// RTP and RTCP of all tracks.
    sockets: Option<(UdpSocket, UdpSocket)>,
    url: String,
    session: Option<String>,
    sequence: u32,
    packet: Option<Instant>,
}

struct Answer {
    headers: Vec<(String, String)>,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter();
        found.find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value.as_str()))
    }
}

impl Player {
    /// Does what players do until the first packet is there.
    ///
    /// # Errors
    /// When the server refuses or is silent.
    pub fn play(url: &str, transport: Transport) -> anyhow::Result<(Self, Steps)> {
        let address = url
            .strip_prefix("rtsp://")
            .and_then(|u| u.split('/').next());
        let stream = TcpStream::connect(address.context("an RTSP URL")?)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let sockets = match transport {
            Transport::Tcp => None,
            Transport::Udp => Some((socket()?, socket()?)),
        };
        let mut player = Self {
            server: BufReader::with_capacity(1 << 16, stream),
            sockets,
            url: url.to_owned(),
            session: None,
            sequence: 0,
            packet: None,
        };
        player.ask("OPTIONS", url, "")?;
        let described = player.ask("DESCRIBE", url, "Accept: application/sdp\r\n")?;
        let base = described.header("Content-Base").unwrap_or(url);
        let tracks = controls(base, &described.body);
        ensure!(!tracks.is_empty(), "the film has no tracks");
        let described = Instant::now();
        for (n, track) in tracks.iter().enumerate() {
            let wanted = match &player.sockets {
                None => format!("RTP/AVP/TCP;unicast;interleaved={}-{}", 2 * n, 2 * n + 1),
                Some((rtp, rtcp)) => {
                    let ports = (rtp.local_addr()?.port(), rtcp.local_addr()?.port());
                    format!("RTP/AVP;unicast;client_port={}-{}", ports.0, ports.1)
                }
            };
            let answer = player.ask("SETUP", track, &format!("Transport: {wanted}\r\n"))?;
            let session = answer.header("Session").context("a session")?;
            player.session = session.split(';').next().map(str::to_owned);
        }
        let set_up = Instant::now();
        player.ask("PLAY", url, "Range: npt=0-\r\n")?;
        let packet = player.first_packet()?;
        Ok((
            player,
            Steps {
                described,
                set_up,
                packet,
            },
        ))
    }

    /// Reads what comes next, an unknown number of packets, and gives its size in bytes; 0 when
    /// nothing came for a while.
    ///
    /// # Errors
    /// When the server hung up.
    pub fn read_some(&mut self, buffer: &mut [u8]) -> anyhow::Result<usize> {
        let read = match &self.sockets {
            // What the buffer still holds comes first.
            None => self.server.read(buffer),
            Some((rtp, _)) => rtp.recv(buffer),
        };
        match read {
            Ok(0) => bail!("the server hung up"),
            Ok(size) => Ok(size),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(0),
            Err(e) => Err(e.into()),
        }
    }

    /// Says goodbye. The answer is not waited for.
    ///
    /// # Errors
    /// When the server has hung up.
    pub fn tear_down(mut self) -> anyhow::Result<()> {
        let url = self.url.clone();
        self.send("TEARDOWN", &url, "")
    }

    fn send(&mut self, method: &str, url: &str, headers: &str) -> anyhow::Result<()> {
        self.sequence += 1;
        let session = match &self.session {
            Some(session) => format!("Session: {session}\r\n"),
            None => String::new(),
        };
        let sequence = self.sequence;
        let text = format!("{method} {url} RTSP/1.0\r\nCSeq: {sequence}\r\n{session}{headers}\r\n");
        Ok(self.server.get_mut().write_all(text.as_bytes())?)
    }

    fn ask(&mut self, method: &str, url: &str, headers: &str) -> anyhow::Result<Answer> {
        self.send(method, url, headers)?;
        loop {
            // Packets may come before PLAY's answer.
            if self.server.fill_buf()?.first() == Some(&b'$') {
                self.interleaved()?;
                continue;
            }
            return self
                .answer()
                .with_context(|| format!("the answer to {method}"));
        }
    }

    fn answer(&mut self) -> anyhow::Result<Answer> {
        let mut line = String::new();
        self.server.read_line(&mut line)?;
        ensure!(line.starts_with("RTSP/1.0 200"), "it is {:?}", line.trim());
        let mut headers = Vec::new();
        loop {
            line.clear();
            self.server.read_line(&mut line)?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let mut answer = Answer {
            headers,
            body: String::new(),
        };
        let length: usize = answer.header("Content-Length").unwrap_or("0").parse()?;
        let mut body = vec![0; length];
        self.server.read_exact(&mut body)?;
        answer.body = String::from_utf8(body)?;
        Ok(answer)
    }

    /// Reads one packet from the connection.
    fn interleaved(&mut self) -> anyhow::Result<()> {
        let mut head = [0; 4];
        self.server.read_exact(&mut head)?;
        let mut packet = vec![0; usize::from(u16::from_be_bytes([head[2], head[3]]))];
        self.server.read_exact(&mut packet)?;
        // Even channels carry RTP, odd ones RTCP, as asked for in SETUP.
        if head[1] % 2 == 0 {
            self.packet.get_or_insert_with(Instant::now);
        }
        Ok(())
    }

    fn first_packet(&mut self) -> anyhow::Result<Instant> {
        if let Some((rtp, _)) = &self.sockets {
            let mut packet = [0; 2048];
            rtp.recv(&mut packet).context("no packet came")?;
            return Ok(Instant::now());
        }
        loop {
            if let Some(packet) = self.packet {
                return Ok(packet);
            }
            let next = self.server.fill_buf()?.first().copied();
            ensure!(next == Some(b'$'), "something else than a packet came");
            self.interleaved()?;
        }
    }
}

fn socket() -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind(("127.0.0.1", 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// The URLs by which the tracks of a session description are set up.
fn controls(base: &str, sdp: &str) -> Vec<String> {
    sdp.split("\nm=")
        .skip(1)
        .filter_map(|track| {
            let mut lines = track.lines();
            lines.find_map(|line| line.trim_end().strip_prefix("a=control:"))
        })
        .map(|control| {
            if control.starts_with("rtsp://") {
                control.to_owned()
            } else {
                format!("{}/{control}", base.trim_end_matches('/'))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_track_has_its_control_url() {
        let sdp = "v=0\r\na=control:*\r\nm=video 0 RTP/AVP 96\r\na=control:stream=0\r\n\
                   m=audio 0 RTP/AVP 97\r\na=control:rtsp://h/x/stream=1\r\n";
        let expected = ["rtsp://h:1/x/stream=0", "rtsp://h/x/stream=1"];
        assert_eq!(controls("rtsp://h:1/x/", sdp), expected);
        assert_eq!(controls("rtsp://h:1/x", sdp), expected);
        assert!(controls("rtsp://h:1/x", "v=0\r\n").is_empty());
    }
}
