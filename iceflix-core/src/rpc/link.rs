//! Connections, as bytes: the seam at which they become encrypted and the other end gets a role.

use crate::api::Kind;
use std::{io, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// How long opening a connection may take. On a LAN an answer takes milliseconds; a machine that
/// is gone does not answer at all.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// How connections are protected.
///
/// Today they are plain, which is why services listen on loopback only. With certificates this
/// becomes the holder of them; nothing outside this file will notice but for [`Peer::role`].
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub enum Security {
    /// Plain TCP.
    #[default]
    Plain,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// The address of ours that it reached us by.
    pub local: SocketAddr,
    /// The role its certificate gives it; `None` for clients, and for everybody while
    /// connections are plain.
    pub role: Option<Kind>,
}

/// A stream of bytes, encrypted or not.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Security {
    /// Takes over a connection that was accepted.
    pub(super) async fn accept(self, tcp: TcpStream) -> io::Result<(Box<dyn Io>, Peer)> {
        // Requests are small and somebody waits for the answer.
        tcp.set_nodelay(true)?;
        let peer = Peer {
            address: tcp.peer_addr()?,
            local: tcp.local_addr()?,
            role: None,
        };
        match self {
            Security::Plain => Ok((Box::new(tcp), peer)),
        }
    }

    /// Opens a connection.
    pub(super) async fn connect(self, address: SocketAddr) -> io::Result<Box<dyn Io>> {
        let tcp = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        tcp.set_nodelay(true)?;
        match self {
            Security::Plain => Ok(Box::new(tcp)),
        }
    }
}
