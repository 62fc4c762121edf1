//! The lobby: where a connection waits until it has brought its first request.
//!
//! Each connection that the RTSP server handles takes a thread and one of a limited number of
//! seats, and the server reads requests without end to their length or their time. So it gets only
//! those connections whose first request has come; one that says nothing, or nonsense, or half a
//! request, waits here, where it takes next to nothing, and not for long.

use super::request::{FirstRequest, first_request};
use iceflix_core::{
    api::StreamId,
    rpc::door::{Door, Limits},
};
use nix::sys::socket::{Backlog, setsockopt, sockopt};
use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};
use tokio::{io::AsyncReadExt as _, net::TcpStream};
use tokio_util::sync::CancellationToken;

/// How many connections may wait here; when there are more, the oldest goes.
const MOST: usize = 512;

/// How much of what players say the system keeps for us to read, in bytes. They say little; and
/// what a connection has left there is still read when it is cut off.
const UNREAD: usize = 32 << 10;

/// How long accepting pauses when the system has no room for another connection.
const NO_ROOM: Duration = Duration::from_millis(100);

/// A connection that has brought its first request.
pub(super) struct Arrived {
    /// The connection.
    pub socket: std::net::TcpStream,
    /// Its other end.
    pub peer: SocketAddr,
    /// What was read from it.
    pub said: String,
    /// The stream that it asked for, if its request names one.
    pub stream: Option<StreamId>,
}

/// The lobby's thread. Ends when this is dropped.
pub(super) struct Lobby {
    stop: CancellationToken,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Lobby {
    /// Accepts from now on, and hands each connection on once its first request has come.
    pub(super) fn open(
        listener: TcpListener,
        hand_on: impl Fn(Arrived) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let thread = std::thread::Builder::new()
            .name("rtsp-lobby".to_owned())
            .spawn(move || {
                let accepting = accept(listener, Arc::new(hand_on));
                // What waits here ends with the runtime.
                runtime.block_on(stopped.run_until_cancelled(accepting));
            })?;
        Ok(Self {
            stop,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Closes it: nobody is accepted any more, and those that wait are sent away.
    pub(super) fn close(&self) {
        self.stop.cancel();
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            // It waits for nobody, so this takes a moment at most.
            let _ = thread.join();
        }
    }
}

impl Drop for Lobby {
    fn drop(&mut self) {
        self.close();
    }
}

/// Sets up the listening socket. Options set here are inherited by every connection.
pub(super) fn prepare(listener: &TcpListener, backlog: u16) -> io::Result<()> {
    nix::sys::socket::listen(listener, Backlog::new(i32::from(backlog))?)?;
    listener.set_nonblocking(true)?;
    // Without this, small packets wait up to 40 ms for an acknowledgement.
    setsockopt(listener, sockopt::TcpNoDelay, &true)?;
    // A player whose machine or cable is gone is noticed within about a minute.
    setsockopt(listener, sockopt::KeepAlive, &true)?;
    setsockopt(listener, sockopt::TcpKeepIdle, &30)?;
    setsockopt(listener, sockopt::TcpKeepInterval, &10)?;
    setsockopt(listener, sockopt::TcpKeepCount, &3)?;
    setsockopt(listener, sockopt::RcvBuf, &UNREAD)?;
    Ok(())
}

async fn accept(
    listener: tokio::net::TcpListener,
    hand_on: Arc<impl Fn(Arrived) + Send + Sync + 'static>,
) {
    let door = Door::with(Limits {
        new: MOST,
        ..Limits::default()
    });
    let sweeping = door.clone();
    tokio::spawn(async move { sweeping.look_after().await });
    loop {
        door.room().await;
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                tracing::debug!(%error, "a player's connection was not accepted");
                door.shed();
                tokio::time::sleep(NO_ROOM).await;
                continue;
            }
        };
        let pass = door.enter(peer.ip());
        let hand_on = Arc::clone(&hand_on);
        tokio::spawn(async move {
            tokio::select! {
                () = pass.closed() => {}
                arrived = wait(stream, peer) => if let Some(arrived) = arrived {
                    hand_on(arrived);
                }
            }
        });
    }
}

/// Reads until the first request is there; `None` when none is coming.
async fn wait(mut stream: TcpStream, peer: SocketAddr) -> Option<Arrived> {
    let mut said = Vec::with_capacity(1 << 10);
    let mut piece = [0; 1 << 10];
    let stream_id = loop {
        let read = stream
            .read(&mut piece)
            .await
            .ok()
            .filter(|&read| read > 0)?;
        said.extend_from_slice(&piece[..read]);
        match first_request(&said) {
            FirstRequest::Incomplete => {}
            FirstRequest::Nonsense => return None,
            FirstRequest::Complete { stream } => break stream,
        }
    };
    // The RTSP server takes what was read as text; what is none is no request.
    let said = String::from_utf8(said)
        .ok()
        .filter(|said| !said.contains('\0'))?;
    let socket = stream.into_std().ok()?;
    Some(Arrived {
        socket,
        peer,
        said,
        stream: stream_id,
    })
}
