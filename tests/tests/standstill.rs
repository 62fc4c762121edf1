//! An authenticator that stood still for a while, as a real process: what it knew before counts no
//! more, and nobody who uses the cluster notices.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

use iceflix_core::{
    api::{
        Kind,
        auth::{AuthenticatorClient, Role, Token},
        main::DirectoryView,
    },
    rpc::{CallError, Caller},
};
use iceflix_tests::{
    cluster::{ADMIN_PASSWORD, Cluster, PATIENCE, Person, free_port, wait_for},
    identity,
    person::Home,
    process::{Process, flags},
    tokens::log_out,
};
use nix::sys::signal::Signal;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::JoinHandle};

/// Two authenticators and a catalogue; one of the authenticators is a process of its own.
struct World {
    cluster: Cluster,
    process: Process,
    /// Where the process answers.
    at: SocketAddr,
    directory: watch::Receiver<Arc<DirectoryView>>,
}

impl World {
    async fn new() -> Self {
        let mut cluster = Cluster::start(1, 1, 1, &[]).await;
        let mut config = cluster.auth_config();
        config.common.listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let log = cluster.dir.path().join("auth-2.log");
        let mut world = Self {
            process: Process::service("iceflix-auth", &flags(&config.common), &log),
            at: config.common.listen,
            directory: cluster.view().directory(),
            cluster,
        };
        world.until_listed(true).await;
        world
    }

    fn is_listed(&self) -> bool {
        let view = self.directory.borrow();
        view.instances.iter().any(|it| it.endpoint == self.at)
    }

    /// Waits until the process is in the directory, or is not.
    async fn until_listed(&mut self, listed: bool) {
        let at = self.at;
        let wanted = self
            .directory
            .wait_for(|view| view.instances.iter().any(|it| it.endpoint == at) == listed);
        let seen = tokio::time::timeout(PATIENCE, wanted).await.is_ok();
        assert!(seen, "listed: {listed}? {}", self.process.said());
    }

    /// Ada, with a token that both have taken.
    async fn ada(&self) -> Person {
        let ada = self
            .cluster
            .new_user("ada", "a password of hers", Role::User)
            .await;
        wait_for("the process knows her", async || {
            self.cluster.authorised_at(self.at, &ada.token()).await
        })
        .await;
        ada
    }

    /// Asks the process itself, once, over a connection that is there or a new one.
    fn authorised(&self, token: &Token, new: bool) -> JoinHandle<Result<bool, CallError>> {
        let caller = match new {
            true => Caller::by_address(identity::security(self.cluster.name())),
            false => self.cluster.caller().clone(),
        };
        let (at, token) = (self.at, token.clone());
        tokio::spawn(async move {
            let ask = |auth: AuthenticatorClient, context| {
                let token = token.clone();
                async move { auth.is_authorized(context, token).await }
            };
            caller.call_at(at, PATIENCE, ask).await
        })
    }

    /// Somebody who goes on using the cluster, with the real client, until told to end.
    fn person(&self) -> Commands {
        let home = self.cluster.home();
        let going_on = Arc::new(AtomicBool::new(true));
        let goes_on = Arc::clone(&going_on);
        let thread = std::thread::spawn(move || commands(&home, &goes_on));
        Commands { going_on, thread }
    }
}

/// Commands that are being typed.
struct Commands {
    going_on: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<usize>,
}

impl Commands {
    /// How many there were. None has failed.
    async fn end(self) -> usize {
        self.going_on.store(false, Ordering::Relaxed);
        let ended = tokio::task::spawn_blocking(|| self.thread.join().unwrap());
        ended.await.unwrap()
    }
}

fn commands(home: &Home, going_on: &AtomicBool) -> usize {
    let mut done = 0;
    while going_on.load(Ordering::Relaxed) {
        home.login("admin", ADMIN_PASSWORD).with_code(0);
        home.run(&["user", "list"]).with_code(0);
        home.run(&["search"]).with_code(0);
        home.run(&["session", "list"]).with_code(0);
        home.run(&["logout"]).with_code(0);
        done += 5;
    }
    done
}

/// Whether all threads of a process are stopped: the state is what follows the name in `stat`
/// (proc(5)).
fn stands_still(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat"));
        stat.is_ok_and(|stat| stat.contains(") T "))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_stood_still_for_two_seconds_answers_by_nothing_it_knew_before() {
    let mut world = World::new().await;
    let ada = world.ada().await;
    let person = world.person();
    world.process.signal(Signal::SIGSTOP);
    let stopped = Instant::now();
    // One of its threads takes the signal, and stops the others: until then they may answer, rightly.
    wait_for("it stands still", async || {
        stands_still(world.process.pid())
    })
    .await;
    // These wait in its sockets, over a connection that it knows and over new ones.
    let mut asked: Vec<_> = (0..20)
        .map(|n| world.authorised(&ada.token(), n % 2 == 0))
        .collect();
    log_out(&world.cluster, &ada).await;
    world.until_listed(false).await;
    assert!(stopped.elapsed() < Duration::from_secs(2), "gone too late");
    tokio::time::sleep_until((stopped + Duration::from_secs(2)).into()).await;
    world.process.signal(Signal::SIGCONT);
    let woken = Instant::now();
    // It is asked all the time until it is back by itself …
    while !world.is_listed() || asked.len() < 100 {
        asked.push(world.authorised(&ada.token(), asked.len().is_multiple_of(2)));
        assert!(woken.elapsed() < PATIENCE, "{}", world.process.said());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("it was back after {:?}", woken.elapsed());
    let mut answers = [0; 2];
    for answer in asked {
        match answer.await.unwrap() {
            Ok(authorised) => {
                assert!(!authorised, "it took what was revoked while it stood still");
                answers[0] += 1;
            }
            Err(_) => answers[1] += 1,
        }
    }
    println!("{} were refused, {} got no answer", answers[0], answers[1]);
    // … and then it answers, and does what it is there for.
    assert!(!world.cluster.authorised_at(world.at, &ada.token()).await);
    let again = world
        .cluster
        .login_at(world.at, "ada", "a password of hers")
        .await
        .unwrap();
    assert!(world.cluster.authorised_at(world.at, &again.token()).await);
    let done = person.end().await;
    println!("{done} commands meanwhile");
    drop(world.process);
    world.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_one_that_stood_still_for_half_a_second() {
    let mut world = World::new().await;
    let ada = world.ada().await;
    let person = world.person();
    for _ in 0..5 {
        world.directory.mark_unchanged();
        world.process.signal(Signal::SIGSTOP);
        let asked = world.authorised(&ada.token(), false);
        tokio::time::sleep(Duration::from_millis(500)).await;
        world.process.signal(Signal::SIGCONT);
        // What waited is answered.
        assert!(asked.await.unwrap().unwrap());
        tokio::time::sleep(Duration::from_secs(1)).await;
        let changed = world.directory.has_changed().unwrap();
        assert!(!changed, "{:?}", world.directory.borrow());
    }
    let done = person.end().await;
    println!("{done} commands meanwhile");
    let said = world.process.said();
    assert!(!said.contains("not announced"), "{said}");
    let auths = world.directory.borrow().instances.clone().into_iter();
    assert_eq!(auths.filter(|it| it.kind == Kind::Auth).count(), 2);
    drop(world.process);
    world.cluster.stop().await;
}
