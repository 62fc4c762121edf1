use super::*;
use crate::{
    api::{
        Instance,
        main::{DirectoryVersion, DirectoryView, Main, MainError, MainRequest},
    },
    rpc::door::Limits,
};
use tarpc::{ClientMessage, Request, context, server::Channel as _};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    task::JoinHandle,
};
use tokio_serde::Serializer;

const MOMENT: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone)]
struct Desk;

impl Main for Desk {
    async fn authenticator(self, _: context::Context) -> Result<Instance, MainError> {
        Err(MainError::TemporarilyUnavailable)
    }

    async fn catalog(self, _: context::Context) -> Result<Instance, MainError> {
        panic!("a handler that breaks");
    }

    async fn provider(self, _: context::Context) -> Result<Instance, MainError> {
        std::future::pending().await
    }

    /// An answer of about 100 kB.
    async fn directory(
        self,
        _: context::Context,
        _: Option<DirectoryVersion>,
    ) -> Result<DirectoryView, MainError> {
        let instance = Instance {
            kind: crate::api::Kind::Main,
            instance: "m".repeat(60).parse().unwrap(),
            endpoint: ([127, 0, 0, 1], 1).into(),
            pid: 1,
            load: 0,
            draining: false,
        };
        Ok(DirectoryView {
            version: DirectoryVersion {
                counter: 0,
                number: 0,
            },
            instances: vec![instance; 1000],
        })
    }
}

/// A listener's inside, with short times.
struct World {
    door: Door,
    stop: CancellationToken,
    requests: TaskTracker,
    _look_after: tokio_util::task::AbortOnDropHandle<()>,
}

impl World {
    fn new(change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = Limits {
            introduce: PATIENCE * 10,
            frame: PATIENCE * 10,
            write: PATIENCE * 10,
            idle: PATIENCE * 10,
            ..Limits::default()
        };
        change(&mut limits);
        let door = Door::with(limits);
        let sweeping = door.clone();
        Self {
            door,
            stop: CancellationToken::new(),
            requests: TaskTracker::new(),
            _look_after: tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
                sweeping.look_after().await
            })),
        }
    }

    fn connect(&self) -> (DuplexStream, JoinHandle<()>) {
        let (near, far) = tokio::io::duplex(4096);
        let address = ([127, 0, 0, 1], 1).into();
        let peer = Peer {
            address,
            local: address,
            role: None,
            instance: None,
        };
        let pass = Arc::new(self.door.enter(address.ip()));
        let (stop, requests) = (self.stop.clone(), self.requests.clone());
        let task = tokio::spawn(async move {
            let closed = pass.closed();
            let serving = Serving {
                caller: None,
                awake: None,
                absent: None,
                stop,
                requests,
                pass,
            };
            let handle = |_, link| channel(link).execute(Desk.serve());
            let serving = serving.run(Box::new(far), peer, handle);
            tokio::select! {
                () = closed => {}
                () = serving => {}
            }
        });
        (near, task)
    }
}

fn request(id: u64, message: MainRequest, deadline: Duration) -> Vec<u8> {
    let mut context = context::current();
    context.deadline = Instant::now() + deadline;
    let message = ClientMessage::Request(Request {
        context,
        id,
        message,
    });
    let frame = Pin::new(&mut super::super::codec::ClientCodec)
        .serialize(&message)
        .unwrap();
    let mut bytes = u32::try_from(frame.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(&frame);
    bytes
}

fn ask(id: u64) -> Vec<u8> {
    request(id, MainRequest::Authenticator {}, PATIENCE)
}

/// Reads one answer.
async fn answer(client: &mut DuplexStream) -> Vec<u8> {
    let reading = async {
        let length = client.read_u32().await.unwrap();
        let mut frame = vec![0; length as usize];
        client.read_exact(&mut frame).await.unwrap();
        frame
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap()
}

async fn ended(task: JoinHandle<()>) {
    tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
}

#[tokio::test]
async fn silence_is_closed_and_a_connection_that_asks_is_not() {
    let world = World::new(|limits| limits.introduce = MOMENT);
    let (_silent, task) = world.connect();
    let (mut client, other) = world.connect();
    client.write_all(&ask(1)).await.unwrap();
    answer(&mut client).await;
    ended(task).await;
    client.write_all(&ask(2)).await.unwrap();
    answer(&mut client).await;
    assert!(!other.is_finished());
}

#[tokio::test]
async fn half_a_request_is_closed_before_and_after_whole_ones() {
    let world = World::new(|limits| limits.frame = MOMENT);
    let whole = ask(1);
    for half in [&whole[..2], &whole[..4], &whole[..whole.len() - 1]] {
        let (mut client, task) = world.connect();
        client.write_all(&whole).await.unwrap();
        answer(&mut client).await;
        client.write_all(half).await.unwrap();
        ended(task).await;
        let (mut client, task) = world.connect();
        client.write_all(half).await.unwrap();
        ended(task).await;
    }
}

#[tokio::test]
async fn a_request_in_small_pieces_is_answered() {
    let world = World::new(|_| {});
    let (mut client, _task) = world.connect();
    for byte in ask(1) {
        client.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    answer(&mut client).await;
}

#[tokio::test]
async fn absurd_lengths_and_garbage_end_their_connection_at_once() {
    let world = World::new(|_| {});
    let huge = [&u32::MAX.to_be_bytes()[..], b"x"].concat();
    let nonsense = [&8u32.to_be_bytes()[..], b"nonsense"].concat();
    for bytes in [huge, nonsense, b"GET / HTTP/1.1\r\n\r\n".to_vec()] {
        let (mut client, task) = world.connect();
        client.write_all(&bytes).await.unwrap();
        ended(task).await;
    }
}

#[tokio::test]
async fn an_absurd_deadline_ends_nothing() {
    let world = World::new(|_| {});
    let (mut client, _task) = world.connect();
    let deadline = Duration::from_secs(100_000_000);
    let asked = request(1, MainRequest::Authenticator {}, deadline);
    client.write_all(&asked).await.unwrap();
    answer(&mut client).await;
    client.write_all(&ask(2)).await.unwrap();
    answer(&mut client).await;
}

#[tokio::test]
async fn whoever_does_not_take_answers_is_closed() {
    let world = World::new(|limits| limits.write = MOMENT);
    let (mut deaf, task) = world.connect();
    for id in 0..10 {
        let long = MainRequest::Directory { since: None };
        let bytes = request(id, long, PATIENCE);
        // The connection may be closed while it is still asking.
        if deaf.write_all(&bytes).await.is_err() {
            break;
        }
    }
    ended(task).await;
}

#[tokio::test]
async fn slow_readers_are_served() {
    let world = World::new(|limits| limits.write = MOMENT * 4);
    let (mut slow, _task) = world.connect();
    let long = MainRequest::Directory { since: None };
    slow.write_all(&request(1, long, PATIENCE * 3))
        .await
        .unwrap();
    let length = slow.read_u32().await.unwrap() as usize;
    let mut left = length;
    let mut piece = [0; 8 << 10];
    // In all more than twice the time in which some of it has to be taken.
    while left > 0 {
        tokio::time::sleep(MOMENT / 2).await;
        let room = left.min(piece.len());
        slow.read_exact(&mut piece[..room]).await.unwrap();
        left -= room;
    }
    assert!(length > 80_000, "{length}");
}

#[tokio::test]
async fn a_connection_that_waits_for_an_answer_is_not_idle() {
    let world = World::new(|limits| limits.idle = MOMENT);
    let (mut waiting, task) = world.connect();
    let never = request(1, MainRequest::Provider {}, PATIENCE);
    waiting.write_all(&never).await.unwrap();
    let (mut idle, closed) = world.connect();
    idle.write_all(&ask(1)).await.unwrap();
    ended(closed).await;
    tokio::time::sleep(MOMENT * 3).await;
    assert!(!task.is_finished());
}

#[tokio::test]
async fn what_a_closed_connection_asked_is_given_up() {
    let world = World::new(|limits| {
        limits.known = 1;
        limits.at_work = Duration::ZERO;
    });
    let (mut first, task) = world.connect();
    let never = request(1, MainRequest::Provider {}, PATIENCE);
    first.write_all(&never).await.unwrap();
    let working = async {
        while world.requests.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, working).await.unwrap();
    world.door.shed();
    assert!(!task.is_finished(), "those at work are not shed");
    let (mut second, other) = world.connect();
    second.write_all(&ask(1)).await.unwrap();
    answer(&mut second).await;
    ended(task).await;
    drop(second);
    ended(other).await;
    world.requests.close();
    tokio::time::timeout(PATIENCE, world.requests.wait())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_handler_that_panics_takes_nothing_with_it() {
    let world = World::new(|_| {});
    let (mut client, _task) = world.connect();
    let breaks = request(1, MainRequest::Catalog {}, PATIENCE);
    client.write_all(&breaks).await.unwrap();
    client.write_all(&ask(2)).await.unwrap();
    answer(&mut client).await;
}
