//! A service's way to itself: connections that come through its listener like all others, but not
//! over the network. What answers there answers everybody; what floods the door does not stand in
//! the way.

use super::{
    codec::{self, ClientCodec},
    link::Io,
};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use tarpc::{
    RequestName,
    client::{self, RpcError},
    context,
};
use tokio::{io::DuplexStream, sync::mpsc, time::timeout};

/// How many bytes wait in a connection to oneself: questions and answers have a few.
const ROOM: usize = 16 << 10;

/// How often a service asks itself something.
const EVERY: Duration = Duration::from_millis(250);

/// How long it may take to answer. Twice as long as the bus takes to notice a process that hangs
/// altogether: that a machine is busy shall not look like this.
const PATIENCE: Duration = Duration::from_secs(2);

/// When an answer is noticed to be late only so much after [`PATIENCE`], the whole process stood
/// still, the one who waits too: that says nothing of the service.
const STOOD_STILL: Duration = Duration::from_millis(500);

/// Opens connections to a listener from inside.
#[derive(Debug, Clone)]
pub struct Inside(mpsc::Sender<DuplexStream>);

/// Where they arrive.
pub(super) type Arriving = mpsc::Receiver<DuplexStream>;

/// Whether one can be opened.
enum Opening {
    Open(DuplexStream),
    /// Those opened before were not taken yet.
    NotTaken,
    /// There is no listener any more.
    Over,
}

impl Inside {
    pub(super) fn new() -> (Self, Arriving) {
        let (sender, arriving) = mpsc::channel(1);
        (Self(sender), arriving)
    }

    fn open(&self) -> Opening {
        let (ours, theirs) = tokio::io::duplex(ROOM);
        match self.0.try_send(theirs) {
            Ok(()) => Opening::Open(ours),
            Err(mpsc::error::TrySendError::Full(_)) => Opening::NotTaken,
            Err(mpsc::error::TrySendError::Closed(_)) => Opening::Over,
        }
    }

    /// Asks the service again and again, and tells `hung` whether it does not answer. Ends with
    /// the listener. What is answered does not matter.
    pub async fn watch<Req, Resp>(self, question: impl Fn() -> Req, hung: impl Fn(bool))
    where
        Req: Serialize + RequestName + Send + 'static,
        Resp: for<'a> Deserialize<'a> + Send + 'static,
    {
        let mut channel: Option<client::Channel<Req, Resp>> = None;
        loop {
            tokio::time::sleep(EVERY).await;
            let open = match channel.take() {
                Some(open) => open,
                None => match self.open() {
                    Opening::Over => return,
                    Opening::NotTaken => {
                        hung(true);
                        continue;
                    }
                    Opening::Open(pipe) => {
                        let io: Box<dyn Io> = Box::new(pipe);
                        let transport = tarpc::serde_transport::new(codec::framed(io), ClientCodec);
                        client::new(client::Config::default(), transport).spawn()
                    }
                },
            };
            let asked = Instant::now();
            let mut context = context::current();
            context.deadline = asked + PATIENCE;
            // Its own clock is tarpc's; this one is for a dispatch that never began.
            let answered = timeout(PATIENCE, open.call(context, question())).await;
            let took = asked.elapsed();
            match answered {
                Ok(Ok(_) | Err(RpcError::Server(_))) => {
                    hung(false);
                    channel = Some(open);
                }
                // It ended the connection, which it may. The next one tells.
                Ok(Err(error)) if took < PATIENCE => {
                    tracing::debug!(%error, "a connection to itself ended");
                }
                _ if took > PATIENCE + STOOD_STILL => {}
                _ => hung(true),
            }
        }
    }
}
