//! Services that run and should not be found: whose own requests hang, whose threads do.

#![allow(
    clippy::unwrap_used,
    reason = "a test that unwraps says where it failed"
)]

use iceflix_core::{
    api::{
        Instance, Kind,
        main::{DirectoryVersion, DirectoryView, Main, MainError, MainRequest},
    },
    bus::{Bus, BusConfig},
    config::Common,
    membership::Membership,
    rpc::serve,
    service::{Node, Running},
    topics::Topics,
    trust::{Authority, authority::CERTIFICATE_LIFETIME},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tarpc::{context::Context, server::Channel as _};
use tempfile::TempDir;

const CLUSTER: &str = "presence";

/// How long anything may take before a test gives up: much longer than it ever does.
const PATIENCE: Duration = Duration::from_secs(30);

/// A service that answers while it is not told to hang.
#[derive(Clone, Default)]
struct Desk {
    hangs: Arc<AtomicBool>,
}

impl Main for Desk {
    async fn authenticator(self, _: Context) -> Result<Instance, MainError> {
        Err(MainError::TemporarilyUnavailable)
    }

    async fn catalog(self, _: Context) -> Result<Instance, MainError> {
        Err(MainError::TemporarilyUnavailable)
    }

    async fn provider(self, _: Context) -> Result<Instance, MainError> {
        Err(MainError::TemporarilyUnavailable)
    }

    async fn directory(
        self,
        _: Context,
        _: Option<DirectoryVersion>,
    ) -> Result<DirectoryView, MainError> {
        while self.hangs.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(DirectoryView::empty())
    }
}

/// Who looks on, and what is looked at.
struct World {
    dir: TempDir,
    authority: Authority,
    onlooker: Bus,
    seen: Membership,
}

impl World {
    async fn new() -> Self {
        let authority = Authority::create(CLUSTER).unwrap();
        let name = "onlooker".parse().unwrap();
        let config = BusConfig::new(
            CLUSTER,
            authority
                .issue(Kind::Catalog, &name, CERTIFICATE_LIFETIME)
                .unwrap(),
            vec!["tls/127.0.0.1:0".into()],
            Vec::new(),
        );
        let onlooker = Bus::open(&config).await.unwrap();
        let seen = Membership::follow(&onlooker, &Topics::new(CLUSTER)).await;
        Self {
            dir: tempfile::tempdir().unwrap(),
            authority,
            seen: seen.unwrap(),
            onlooker,
        }
    }

    /// What a Main is told that is beside the one who looks on.
    fn common(&self) -> Common {
        let common = Common {
            cluster: CLUSTER.parse().unwrap(),
            instance: Some("main-1".parse().unwrap()),
            state_dir: self.dir.path().join("main-1"),
            bus_listen: vec!["tls/127.0.0.1:0".into()],
            bus_connect: self.onlooker.listens_at(),
            bus_scouting: false,
            ..Common::default()
        };
        let name = common.instance.clone().unwrap();
        self.authority
            .equip(&common.identity(), Kind::Main, &name, CERTIFICATE_LIFETIME)
            .unwrap();
        common
    }

    /// Waits until the service is listed, or is not.
    async fn until_listed(&self, listed: bool) {
        let mut seen = self.seen.watch();
        let wanted = seen.wait_for(|view| view.instances.is_empty() != listed);
        let waited = tokio::time::timeout(PATIENCE, wanted).await;
        assert!(waited.is_ok(), "never listed: {listed}");
    }
}

async fn serve(common: &Common, desk: Desk) -> Running {
    let node = Node::join(Kind::Main, common).await.unwrap();
    let question = || MainRequest::Directory { since: None };
    node.serve(question, move |_, link| {
        serve::channel(link).execute(desk.clone().serve())
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_requests_hang_withdraws_and_returns() {
    let world = World::new().await;
    let desk = Desk::default();
    let running = serve(&world.common(), desk.clone()).await;
    world.until_listed(true).await;
    for _ in 0..2 {
        desk.hangs.store(true, Ordering::SeqCst);
        world.until_listed(false).await;
        desk.hangs.store(false, Ordering::SeqCst);
        world.until_listed(true).await;
    }
    running.shutdown().await;
    world.until_listed(false).await;
}

/// The bus's own threads go on and would keep it listed.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_threads_hang_withdraws_and_returns() {
    let world = World::new().await;
    let (common, hang) = (world.common(), Duration::from_secs(6));
    let (begin, began) = tokio::sync::oneshot::channel::<()>();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let service = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let running = serve(&common, Desk::default()).await;
            began.await.unwrap();
            // The one thread there is for requests.
            tokio::spawn(async move { std::thread::sleep(hang) })
                .await
                .unwrap();
            ended.await.unwrap();
            running.shutdown().await;
        });
    });
    world.until_listed(true).await;
    let since = Instant::now();
    begin.send(()).unwrap();
    world.until_listed(false).await;
    assert!(since.elapsed() < hang, "it withdrew while it hung");
    world.until_listed(true).await;
    end.send(()).unwrap();
    world.until_listed(false).await;
    service.join().unwrap();
}

/// Thirty-two loops beside it, on however few cores.
#[tokio::test(flavor = "multi_thread")]
async fn busy_cores_are_not_taken_for_a_hang() {
    let world = World::new().await;
    let running = serve(&world.common(), Desk::default()).await;
    world.until_listed(true).await;
    let busy = Arc::new(AtomicBool::new(true));
    let loops: Vec<_> = (0..32)
        .map(|_| {
            let busy = Arc::clone(&busy);
            std::thread::spawn(move || while busy.load(Ordering::Relaxed) {})
        })
        .collect();
    let mut seen = world.seen.watch();
    seen.mark_unchanged();
    let changed = tokio::time::timeout(Duration::from_secs(10), seen.changed()).await;
    busy.store(false, Ordering::Relaxed);
    for one in loops {
        one.join().unwrap();
    }
    assert!(changed.is_err(), "{:?}", seen.borrow());
    running.shutdown().await;
}
