//! A neighbour whose link takes nothing any more, though it stands.

use super::*;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
};

/// A cable between two nodes, in whose one direction nothing passes while it is stuck. That
/// somebody hangs up is not passed on.
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

/// What is said on a node's own key, and how much at once.
const PIECE: usize = 256 << 10;

/// No link holds this much: 64 MiB.
const MORE_THAN_A_LINK_HOLDS: usize = (64 << 20) / PIECE;

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_that_takes_nothing_holds_nobody_up() {
    let authority = Authority::create(CLUSTER).unwrap();
    let key = Topics::new(CLUSTER).availability(Kind::Auth, &id("auth-1"));
    let bad = node(&authority, Kind::Catalog, &[]).await;
    let good = node(&authority, Kind::Main, &[]).await;
    let cable = Cable::to(&bad).await;
    let connect = [cable.place.clone(), place(&good)[0].clone()];
    let speaking = node(&authority, Kind::Auth, &connect).await;
    let mut heard = Vec::new();
    for bus in [&bad, &good] {
        heard.push(bus.subscribe(&key).await.unwrap());
    }
    knows(&speaking, 2).await;
    until("both hear", async || {
        speaking.publish(&key, b"hello".to_vec()).await.unwrap();
        heard.iter_mut().all(|it| !drain(it).is_empty())
    })
    .await;

    cable.stuck.send_replace(true);
    // Whoever says something may do something else meanwhile: this gives up waiting.
    let moment = Duration::from_millis(50);
    let mut given_up = false;
    for _ in 0..MORE_THAN_A_LINK_HOLDS {
        let said = speaking.publish(&key, vec![0; PIECE]);
        if tokio::time::timeout(moment, said).await.is_err() {
            given_up = true;
            break;
        }
    }
    assert!(given_up, "the link took everything, or held the caller");

    // The others hear again once the link was given up, and so does the neighbour when it is made
    // anew.
    drain(&mut heard[1]);
    until("who is not stuck hears", async || {
        let said = speaking.publish(&key, b"more".to_vec());
        let _ = tokio::time::timeout(moment, said).await;
        drain(&mut heard[1]).iter().any(|it| it.payload == b"more")
    })
    .await;
    drain(&mut heard[0]);
    cable.stuck.send_replace(false);
    until("who was stuck hears", async || {
        let said = speaking.publish(&key, b"again".to_vec());
        let _ = tokio::time::timeout(moment, said).await;
        drain(&mut heard[0]).iter().any(|it| it.payload == b"again")
    })
    .await;
    for bus in [speaking, good, bad] {
        bus.close().await;
    }
}
