//! How soon everybody knows that an instance is dead, hangs, came or went; what that costs those who
//! call meanwhile; and whether anybody is taken for dead who is only busy.

use crate::{
    Options,
    report::{Asked, Figure},
    stats::{median, ms, percentile},
    world::{PATIENCE, service},
};
use anyhow::{Context as _, bail, ensure};
use iceflix_core::{
    api::{
        InstanceId, Kind, PageRequest,
        catalog::{CatalogClient, Query},
        main::DirectoryView,
    },
    bus::{Bus, BusConfig},
    membership::Membership,
    rpc::{Caller, Cluster, Security},
    topics::Topics,
    trust::{Authority, authority::CERTIFICATE_LIFETIME},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{process::Child, sync::watch, task::JoinHandle};
use tokio_util::task::AbortOnDropHandle;

/// How many Mains there are, each with its clients.
const MAINS: u32 = 2;

/// How many loops keep the processors busy.
const LOOPS: usize = 64;

/// Some time between two faults, not always the same: what happens every so often shall not always
/// fall on the same moment. The steps are prime to one another's multiples.
const APART: [u64; 5] = [31, 97, 173, 211, 257];

/// Measures all of it in a cluster of its own.
///
/// # Errors
/// When a service does not come up, or is never missed.
pub async fn run(options: &Options) -> anyhow::Result<Vec<Figure>> {
    let mut scene = Scene::start().await?;
    let (kills, hangs) = if options.quick { (5, 2) } else { (120, 40) };
    let calm = Duration::from_secs(if options.quick { 2 } else { 30 });
    let mut figures = scene.calm(calm).await.context("leaving alone")?;
    figures.extend(scene.kills(kills).await.context("killing")?);
    figures.extend(scene.hangs(hangs).await.context("stopping")?);
    let busy = Duration::from_secs(if options.quick { 5 } else { 60 });
    figures.extend(scene.busy(busy).await.context("keeping busy")?);
    scene.stop().await;
    Ok(figures)
}

/// Two Mains, two authenticators, a catalogue that stays and one to which things happen, each a
/// process of its own; and nodes in this process, whose directories can be looked into.
struct Scene {
    dir: TempDir,
    authority: Authority,
    name: String,
    meeting: String,
    staying: Vec<Child>,
    buses: Vec<Bus>,
    _memberships: Vec<Membership>,
    clusters: Vec<Cluster>,
    /// What each Main tells its clients, then what each node here knows.
    directories: Vec<watch::Receiver<Arc<DirectoryView>>>,
    victim: InstanceId,
}

impl Scene {
    async fn start() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let name = format!("detection-{}", std::process::id());
        let authority = Authority::create(&name)?;
        let topics = Topics::new(&name);
        let (mut buses, mut memberships, mut meeting) = (Vec::new(), Vec::new(), String::new());
        for (n, kind) in [Kind::Main, Kind::Catalog, Kind::Streaming]
            .into_iter()
            .enumerate()
        {
            let bus = Bus::open(&BusConfig::new(
                &name,
                authority.issue(
                    kind,
                    &format!("onlooker-{n}").parse()?,
                    CERTIFICATE_LIFETIME,
                )?,
                vec!["tls/127.0.0.1:0".to_owned()],
                buses.iter().flat_map(Bus::listens_at).collect(),
            ))
            .await?;
            memberships.push(Membership::follow(&bus, &topics).await?);
            if meeting.is_empty() {
                meeting = bus.listens_at().concat();
            }
            buses.push(bus);
        }
        let mut scene = Self {
            dir,
            authority,
            name,
            meeting,
            staying: Vec::new(),
            buses,
            directories: memberships.iter().map(Membership::watch).collect(),
            _memberships: memberships,
            clusters: Vec::new(),
            victim: format!("{}-2", Kind::Catalog).parse()?,
        };
        let staying = [
            (Kind::Main, 1),
            (Kind::Main, 2),
            (Kind::Auth, 1),
            (Kind::Auth, 2),
        ];
        for (kind, number) in staying.into_iter().chain([(Kind::Catalog, 1)]) {
            let child = scene.spawn(kind, number)?;
            scene.staying.push(child);
        }
        scene.until(|view| view.instances.len() == 5).await?;
        let view = scene.directories[0].borrow().clone();
        for main in view.instances.iter().filter(|it| it.kind == Kind::Main) {
            let security = Security::client(scene.authority.fingerprint())?;
            let cluster = Cluster::connect(vec![main.endpoint], security).await?;
            scene.directories.insert(0, cluster.directory());
            scene.clusters.push(cluster);
        }
        ensure!(
            scene.clusters.len() == MAINS as usize,
            "the Mains are there"
        );
        scene.until(|view| view.instances.len() == 5).await?;
        Ok(scene)
    }

    fn spawn(&self, kind: Kind, number: u32) -> anyhow::Result<Child> {
        let mut service = service(kind, number, self.dir.path(), &self.authority)?;
        service.args(["--cluster", &self.name, "--bus-connect", &self.meeting]);
        if kind == Kind::Auth {
            let password = self.dir.path().join("password");
            std::fs::write(&password, "only for benchmarks")?;
            service.arg("--admin-password-file").arg(&password);
        }
        let child = service.spawn();
        child.with_context(|| format!("starting the {kind} service"))
    }

    /// Waits until every directory is as wanted; when the first and the last of them was.
    async fn until(
        &self,
        wanted: impl Fn(&DirectoryView) -> bool + Copy,
    ) -> anyhow::Result<(Instant, Instant)> {
        let each = self
            .directories
            .iter()
            .cloned()
            .map(|mut directory| async move {
                directory.wait_for(|view| wanted(view)).await?;
                anyhow::Ok(Instant::now())
            });
        let seen = tokio::time::timeout(PATIENCE, futures::future::try_join_all(each)).await;
        let Ok(seen) = seen else {
            bail!("the directories stayed as they were");
        };
        let seen = seen?;
        let (first, last) = (seen.iter().min(), seen.iter().max());
        let both = first.copied().zip(last.copied());
        both.context("there are directories")
    }

    fn has_victim(&self) -> impl Fn(&DirectoryView) -> bool + Copy + use<'_> {
        |view| view.instances.iter().any(|it| it.instance == self.victim)
    }

    /// Starts the one to which things happen; how long after the first everybody had it.
    async fn victim(&self) -> anyhow::Result<(Child, f64)> {
        let child = self.spawn(Kind::Catalog, 2)?;
        let (first, last) = self.until(self.has_victim()).await?;
        Ok((child, ms(last - first)))
    }

    /// Nothing happens: what calls take then is what they are to be compared with.
    async fn calm(&mut self, time: Duration) -> anyhow::Result<Vec<Figure>> {
        let (mut child, _) = self.victim().await?;
        let calls = Calls::start(self.clusters[0].caller().clone());
        tokio::time::sleep(time).await;
        let figures = calls.end("calm").await?;
        child.kill().await?;
        self.until(|view| !self.has_victim()(view)).await?;
        Ok(figures)
    }

    /// Kills it again and again.
    async fn kills(&mut self, times: usize) -> anyhow::Result<Vec<Figure>> {
        let (mut noticed, mut same) = (Vec::new(), Vec::new());
        let calls = Calls::start(self.clusters[0].caller().clone());
        for n in 0..times {
            let (mut child, spread) = self.victim().await?;
            same.push(spread);
            tokio::time::sleep(Duration::from_millis(APART[n % APART.len()])).await;
            let killed = Instant::now();
            child.start_kill()?;
            let (first, last) = self.until(|view| !self.has_victim()(view)).await?;
            noticed.push(ms(last - killed));
            same.push(ms(last - first));
            child.wait().await?;
        }
        let mut figures = vec![
            Figure::new("detection.kill.p50", "ms", median(&noticed)),
            Figure::new("detection.kill.p99", "ms", percentile(&noticed, 99.0))
                .asked(Asked::AtMost(100.0)),
            Figure::new("detection.kill.worst", "ms", percentile(&noticed, 100.0)),
            Figure::new(
                "detection.same_directory.p99",
                "ms",
                percentile(&same, 99.0),
            ),
            Figure::new(
                "detection.same_directory.worst",
                "ms",
                percentile(&same, 100.0),
            )
            .asked(Asked::AtMost(1000.0)),
        ];
        figures.extend(calls.end("kill").await?);
        Ok(figures)
    }

    /// Stops it again and again, as a hang does, and lets it go on.
    async fn hangs(&mut self, times: usize) -> anyhow::Result<Vec<Figure>> {
        let (mut noticed, mut back) = (Vec::new(), Vec::new());
        let (mut child, _) = self.victim().await?;
        let pid = child.id().context("it runs")?;
        let pid = Pid::from_raw(i32::try_from(pid)?);
        let calls = Calls::start(self.clusters[0].caller().clone());
        for n in 0..times {
            tokio::time::sleep(Duration::from_millis(APART[n % APART.len()])).await;
            let stopped = Instant::now();
            kill(pid, Signal::SIGSTOP)?;
            let (_, last) = self.until(|view| !self.has_victim()(view)).await?;
            noticed.push(ms(last - stopped));
            let going_on = Instant::now();
            kill(pid, Signal::SIGCONT)?;
            let (_, last) = self.until(self.has_victim()).await?;
            back.push(ms(last - going_on));
        }
        let mut figures = vec![
            Figure::new("detection.hang.p50", "ms", median(&noticed)),
            Figure::new("detection.hang.p99", "ms", percentile(&noticed, 99.0)),
            Figure::new("detection.hang.worst", "ms", percentile(&noticed, 100.0))
                .asked(Asked::AtMost(1200.0)),
            Figure::new("detection.back.p50", "ms", median(&back)),
            Figure::new("detection.back.worst", "ms", percentile(&back, 100.0)),
        ];
        figures.extend(calls.end("hang").await?);
        child.kill().await?;
        self.until(|view| !self.has_victim()(view)).await?;
        Ok(figures)
    }

    /// Keeps all processors busy; how often a directory changed meanwhile, though nothing happened.
    async fn busy(&mut self, time: Duration) -> anyhow::Result<Vec<Figure>> {
        let busy = Arc::new(AtomicBool::new(true));
        let loops: Vec<_> = (0..LOOPS)
            .map(|_| {
                let busy = Arc::clone(&busy);
                std::thread::spawn(move || while busy.load(Ordering::Relaxed) {})
            })
            .collect();
        let counting = self
            .directories
            .iter()
            .cloned()
            .map(|mut directory| async move {
                directory.mark_unchanged();
                let mut changes = 0u32;
                let all = async {
                    while directory.changed().await.is_ok() {
                        changes += 1;
                    }
                };
                let _ = tokio::time::timeout(time, all).await;
                changes
            });
        let calls = Calls::start(self.clusters[0].caller().clone());
        let changes = futures::future::join_all(counting).await;
        busy.store(false, Ordering::Relaxed);
        for one in loops {
            one.join().ok().context("a loop ends")?;
        }
        let mut figures = vec![
            Figure::new("detection.busy.for", "s", time.as_secs_f64()),
            Figure::new(
                "detection.busy.false_alarms",
                "changes",
                changes.iter().sum::<u32>().into(),
            )
            .asked(Asked::AtMost(0.0)),
        ];
        figures.extend(calls.end("busy").await?);
        Ok(figures)
    }

    async fn stop(self) {
        drop(self.clusters);
        for mut child in self.staying {
            // It has ended by itself when this fails.
            let _ = child.kill().await;
        }
        for bus in self.buses {
            bus.close().await;
        }
    }
}

/// Somebody who searches all the time.
struct Calls {
    took: Arc<Mutex<Vec<Result<f64, String>>>>,
    task: AbortOnDropHandle<()>,
}

impl Calls {
    fn start(caller: Caller) -> Self {
        let took = Arc::<Mutex<Vec<_>>>::default();
        let times = Arc::clone(&took);
        let task: JoinHandle<()> = tokio::spawn(async move {
            loop {
                let asked = Instant::now();
                let search = |catalog: CatalogClient, context| async move {
                    let (all, page) = (Query::default(), PageRequest::first());
                    catalog.search(context, None, all, page).await
                };
                let time = match caller.call(search).await {
                    Ok(Ok(_)) => Ok(ms(asked.elapsed())),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(error) => Err(error.to_string()),
                };
                times
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(time);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        Self {
            took,
            task: AbortOnDropHandle::new(task),
        }
    }

    /// How long calls took meanwhile.
    async fn end(self, what: &str) -> anyhow::Result<Vec<Figure>> {
        drop(self.task);
        let took = std::mem::take(&mut *self.took.lock().unwrap_or_else(PoisonError::into_inner));
        for failed in took.iter().filter_map(|time| time.as_ref().err()) {
            eprintln!("a call failed: {failed}");
        }
        let times: Vec<f64> = took.iter().flatten().copied().collect();
        let failed = took.len() - times.len();
        Ok(vec![
            Figure::new(format!("detection.{what}.call.p50"), "ms", median(&times)),
            Figure::new(
                format!("detection.{what}.call.p99"),
                "ms",
                percentile(&times, 99.0),
            ),
            Figure::new(
                format!("detection.{what}.call.worst"),
                "ms",
                percentile(&times, 100.0),
            ),
            Figure::new(
                format!("detection.{what}.call.failed"),
                "calls",
                failed as f64,
            )
            .asked(Asked::AtMost(0.0)),
        ])
    }
}
