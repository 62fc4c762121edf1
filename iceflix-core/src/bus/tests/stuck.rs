//! A neighbour whose link takes nothing any more, though it stands.

use super::*;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
};

/// A cable between two nodes. While it is stuck nothing passes to the far end, and the near end is
/// not told that the far one hangs up.
struct Cable {
    place: String,
    stuck: watch::Sender<bool>,
    carrying: AbortHandle,
}

impl Cable {
    async fn to(neighbour: &Bus) -> Self {
        let there = place(neighbour)[0].trim_start_matches("tls/").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = format!("tls/{}", listener.local_addr().unwrap());
        let (stuck, stuck_now) = watch::channel(false);
        let carrying = tokio::spawn(async move {
            let mut links = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(&there).await.unwrap();
                links.spawn(carry(near, far, stuck_now.clone()));
            }
        });
        Self {
            place,
            stuck,
            carrying: carrying.abort_handle(),
        }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.carrying.abort();
    }
}

async fn carry(near: TcpStream, far: TcpStream, mut stuck: watch::Receiver<bool>) {
    let (mut near_reads, mut near_writes) = near.into_split();
    let (mut far_reads, mut far_writes) = far.into_split();
    let there = async {
        let mut piece = vec![0; 64 << 10];
        loop {
            let _ = stuck.wait_for(|stuck| !stuck).await;
            match near_reads.read(&mut piece).await {
                Ok(read) if read > 0 => {
                    let _ = stuck.wait_for(|stuck| !stuck).await;
                    let _ = far_writes.write_all(&piece[..read]).await;
                }
                _ => return,
            }
        }
    };
    let back = async {
        let _ = tokio::io::copy(&mut far_reads, &mut near_writes).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = there => {}
        () = back => {}
    }
}

/// How much an answer is: no link holds so much.
const ANSWER: usize = 64 << 20;

/// Within what time that is done which waits for nobody: it takes a millisecond.
const AT_ONCE: Duration = Duration::from_secs(1);

/// How long the speaker waits for a link: longer than [`AT_ONCE`], to tell who waits from who does not.
const PATIENCE: Duration = Duration::from_secs(5);

/// It is done, and did not wait for the stuck link.
async fn at_once<T>(what: &str, done: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(AT_ONCE, done).await;
    done.unwrap_or_else(|_| panic!("{what} waited for the neighbour"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_that_takes_nothing_holds_nobody_up() {
    let authority = Authority::create(CLUSTER).unwrap();
    let topics = Topics::new(CLUSTER);
    let key = topics.availability(Kind::Auth, &id("auth-1"));
    let bad = node(&authority, Kind::Catalog, &[]).await;
    let good = node(&authority, Kind::Main, &[]).await;
    let cable = Cable::to(&bad).await;
    let connect = [cable.place.clone(), place(&good)[0].clone()];
    let speaking = BusConfig {
        link_patience: PATIENCE,
        ..config(&authority, Kind::Auth, ANYWHERE, &connect)
    };
    let speaking = Bus::open(&speaking).await.unwrap();
    let mut heard = Vec::new();
    for bus in [&bad, &good] {
        heard.push(bus.subscribe(&key).await.unwrap());
    }
    let answered = Arc::new(AtomicBool::new(false));
    let is_answered = Arc::clone(&answered);
    let answer = move |_| {
        is_answered.store(true, Ordering::SeqCst);
        Box::pin(std::future::ready(vec![vec![0u8; BATCH]; ANSWER / BATCH])) as _
    };
    let _answering = speaking.answer(&key, answer).await.unwrap();
    let own = topics.directory(Kind::Main, &id("main-1"));
    let here = |_| Box::pin(std::future::ready(vec![b"here".to_vec()])) as _;
    let _here = good.answer(&own, here).await.unwrap();
    knows(&speaking, 2).await;
    until("one answers", async || {
        let asked = speaking.ask(&own, Vec::new(), Size::Small, AT_ONCE);
        asked.await.unwrap().len() == 1
    })
    .await;
    until("both hear", async || {
        speaking.publish(&key, b"hello".to_vec()).await.unwrap();
        heard.iter_mut().all(|it| !drain(it).is_empty())
    })
    .await;

    // The neighbour asks for more than the link takes, and then takes nothing.
    let asking = {
        let (bad, key) = (bad.clone(), key.clone());
        tokio::spawn(async move {
            let patience = Duration::from_secs(10);
            bad.ask(&key, Vec::new(), Size::Large, patience).await
        })
    };
    cable.stuck.send_replace(true);
    until("it is answered", async || answered.load(Ordering::SeqCst)).await;
    // The sockets on the way hold some MiB first.
    let mut waits = 0;
    until("the answer waits", async || {
        waits = if speaking.inner.aside.sends_large() {
            waits + 1
        } else {
            0
        };
        waits > 15
    })
    .await;

    // Whoever says, asks or declares something meanwhile need not wait, and the other one hears it:
    // of messages more than may wait for a link.
    for n in 0..15_u32 {
        let message = n.to_le_bytes().repeat(BATCH / 4);
        at_once("a message", speaking.publish(&key, message.clone()))
            .await
            .unwrap();
        while at_once("its hearer", heard[1].next())
            .await
            .unwrap()
            .payload
            != message
        {}
        let asked = speaking.ask(&own, Vec::new(), Size::Small, AT_ONCE * 2);
        assert_eq!(at_once("a question", asked).await.unwrap().len(), 1);
        let declared = at_once("a declaration", speaking.declare_alive(&key)).await;
        at_once("a withdrawal", declared.unwrap().withdraw()).await;
    }

    // When the cable is mended, the neighbour hears again, over that link or a new one.
    drain(&mut heard[0]);
    cable.stuck.send_replace(false);
    until("who was stuck hears", async || {
        let said = speaking.publish(&key, b"again".to_vec());
        at_once("a message", said).await.unwrap();
        drain(&mut heard[0]).iter().any(|it| it.payload == b"again")
    })
    .await;
    asking.abort();
    for bus in [speaking, good, bad] {
        bus.close().await;
    }
}
