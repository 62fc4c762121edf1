//! A bare RTSP client that shows what goes over the wire, from any address of this machine.

use super::PATIENCE;
use anyhow::{Context, Result, bail, ensure};
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpSocket, TcpStream, UdpSocket},
    time::timeout,
};

/// A server's answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status code.
    pub status: u16,
    /// Its headers, by lower-case name.
    pub headers: HashMap<String, String>,
    /// Its body.
    pub body: String,
}

impl Answer {
    /// A part of the Transport header: `server_port`, say.
    pub fn transport(&self, part: &str) -> Option<&str> {
        let mut parts = self.headers.get("transport")?.split(';');
        parts.find_map(|word| word.strip_prefix(part)?.strip_prefix('='))
    }
}

/// What the server sent.
#[derive(Debug)]
enum Sent {
    Answer(Answer),
    Packet(u8),
}

/// A connection to an RTSP server, and its session.
pub struct Client {
    stream: BufReader<TcpStream>,
    url: String,
    sequence: u32,
    session: Option<String>,
    /// Interleaved RTP packets that came so far, of all tracks.
    pub packets: usize,
}

impl Client {
    /// Connects to a URL's server from one of this machine's addresses.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect_from(url: &str, from: IpAddr) -> Result<Self> {
        let server = server_of(url)?;
        let socket = match server {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        socket.bind(SocketAddr::new(from, 0))?;
        let stream = socket.connect(server).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::new(stream),
            url: url.to_owned(),
            sequence: 0,
            session: None,
            packets: 0,
        })
    }

    /// Connects to a URL's server, from its own address.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(url: &str) -> Result<Self> {
        Self::connect_from(url, server_of(url)?.ip()).await
    }

    /// Sends a request about the stream, or about a `part` of it, and waits for the answer.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn request(&mut self, method: &str, part: &str, headers: &[&str]) -> Result<Answer> {
        self.sequence += 1;
        let mut text = format!(
            "{method} {}{part} RTSP/1.0\r\nCSeq: {}\r\n",
            self.url, self.sequence
        );
        if let Some(session) = &self.session {
            text.push_str(&format!("Session: {session}\r\n"));
        }
        for header in headers {
            text.push_str(&format!("{header}\r\n"));
        }
        text.push_str("\r\n");
        self.stream.write_all(text.as_bytes()).await?;
        loop {
            if let Sent::Answer(answer) = self.next().await? {
                return Ok(answer);
            }
        }
    }

    /// DESCRIBE: the session description.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn describe(&mut self) -> Result<String> {
        let answer = self
            .request("DESCRIBE", "", &["Accept: application/sdp"])
            .await?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(answer.body)
    }

    /// SETUP of a track with these words of a Transport header.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn set_up(&mut self, track: usize, transport: &str) -> Result<Answer> {
        let header = format!("Transport: {transport}");
        let answer = self
            .request("SETUP", &format!("/stream={track}"), &[&header])
            .await?;
        ensure!(answer.status == 200, "{answer:?}");
        let session = answer.headers.get("session").context("no session")?;
        self.session = session.split(';').next().map(str::to_owned);
        Ok(answer)
    }

    /// Sets two tracks up inside this connection, and plays.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn play_interleaved(&mut self) -> Result<()> {
        self.describe().await?;
        for track in 0..2 {
            let channels = format!("{}-{}", 2 * track, 2 * track + 1);
            let transport = format!("RTP/AVP/TCP;unicast;interleaved={channels}");
            self.set_up(track, &transport).await?;
        }
        self.play().await
    }

    /// PLAY from the beginning.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn play(&mut self) -> Result<()> {
        let answer = self.request("PLAY", "", &["Range: npt=0-"]).await?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    }

    /// Reads so many more packets.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn read_packets(&mut self, count: usize) -> Result<()> {
        let until = self.packets + count;
        while self.packets < until {
            self.next().await?;
        }
        Ok(())
    }

    /// Reads on for a time; whether the connection is still open then.
    pub async fn read_for(&mut self, time: Duration) -> bool {
        let ended = timeout(time, async { while self.next().await.is_ok() {} });
        ended.await.is_err()
    }

    async fn next(&mut self) -> Result<Sent> {
        let sent = timeout(PATIENCE, self.read()).await;
        let sent = sent.context("the server says nothing")??;
        if let Sent::Packet(channel) = sent {
            // The odd channels are RTCP's.
            self.packets += usize::from(channel % 2 == 0);
        }
        Ok(sent)
    }

    async fn read(&mut self) -> Result<Sent> {
        let first = self.stream.read_u8().await?;
        if first == b'$' {
            let channel = self.stream.read_u8().await?;
            let mut packet = vec![0; usize::from(self.stream.read_u16().await?)];
            self.stream.read_exact(&mut packet).await?;
            return Ok(Sent::Packet(channel));
        }
        let mut line = String::new();
        self.stream.read_line(&mut line).await?;
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let mut headers = HashMap::new();
        loop {
            line.clear();
            self.stream.read_line(&mut line).await?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").map_or("0", String::as_str);
        let mut body = vec![0; length.parse()?];
        self.stream.read_exact(&mut body).await?;
        Ok(Sent::Answer(Answer {
            status: status.context("no status line")?,
            headers,
            body: String::from_utf8(body)?,
        }))
    }
}

/// The address in an RTSP URL.
///
/// # Errors
/// When it is no such URL.
pub fn server_of(url: &str) -> Result<SocketAddr> {
    let rest = url.strip_prefix("rtsp://").context("an RTSP URL")?;
    let Some(authority) = rest.split('/').next() else {
        bail!("{url}");
    };
    Ok(authority.parse()?)
}

/// A pair of neighbouring UDP ports, the lower one even, as RTP has them.
///
/// # Errors
/// When there is none.
pub async fn udp_pair(address: IpAddr) -> Result<[UdpSocket; 2]> {
    for _ in 0..100 {
        let low = UdpSocket::bind(SocketAddr::new(address, 0)).await?;
        let port = low.local_addr()?.port();
        if port % 2 == 0 && port < u16::MAX {
            let high = UdpSocket::bind(SocketAddr::new(address, port + 1)).await;
            if let Ok(high) = high {
                return Ok([low, high]);
            }
        }
    }
    bail!("no two neighbouring ports are free");
}
