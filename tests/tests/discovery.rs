//! Nodes that find each other with nothing configured: by multicast, on one machine and on a LAN.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

use iceflix_core::{
    api::Kind,
    bus::{Bus, BusConfig},
    config::Common,
    service::Server,
};
use iceflix_tests::{
    cluster::{ADMIN_PASSWORD, Cluster, PATIENCE, film, until_listed, wait_for},
    identity,
    lan::{Lan, multicast_works, skipped},
    person::{Staying, told},
    process::{Process, program},
};
use main_svc::MainServer;
use std::{
    fs::File,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

#[tokio::test(flavor = "multi_thread")]
async fn nodes_on_one_machine_find_each_other_with_nothing_configured() {
    if let Err(error) = multicast_works() {
        skipped(&format!("this machine has no multicast: {error}"));
        return;
    }
    let mut cluster = Cluster::empty();
    let mut alone = |kind| {
        let mut common = cluster.common(kind);
        common.bus_listen = vec!["tls/127.0.0.1:0".into()];
        common.bus_connect.clear();
        common.bus_scouting = true;
        common
    };
    let (main, auth, catalog) = (alone(Kind::Main), alone(Kind::Auth), alone(Kind::Catalog));
    // A cluster of another name beside it stays apart: on its bus there is nobody of ours.
    let mut foreign = alone(Kind::Main);
    foreign.cluster = format!("{}-x", cluster.name()).parse().unwrap();
    foreign.identity_dir = Some(cluster.dir.path().join("foreign"));
    identity::equip(Kind::Main, &foreign);
    let (name, is) = (foreign.cluster.as_str(), "beside".parse().unwrap());
    let beside = BusConfig {
        scouting: true,
        interface: "lo".to_owned(),
        ..BusConfig::new(
            name,
            identity::credential(name, Kind::Main, &is),
            foreign.bus_listen.clone(),
            Vec::new(),
        )
    };
    let beside = Bus::open(&beside).await.unwrap();
    let mut there = beside.watch_alive("iceflix/**").await.unwrap();
    let common = main;
    let main = MainServer::bind(main_svc::Config { common }).await.unwrap();
    let foreign = main_svc::Config { common: foreign };
    let foreign = MainServer::bind(foreign).await.unwrap();
    let auth = auth_svc::Config {
        common: auth,
        ..auth_svc::Config::default()
    };
    let auth = auth_svc::AuthServer::bind(auth).await.unwrap();
    let catalog = catalog_svc::Config { common: catalog };
    let catalog = catalog_svc::CatalogServer::bind(catalog).await.unwrap();
    let took = until_listed(cluster.name(), main.address(), |all| all.len() == 3).await;
    println!("all found each other by multicast after {took:?}");
    let seen = tokio::time::timeout(PATIENCE, there.next()).await;
    let seen = seen.expect("the foreign Main is found").unwrap().key;
    let theirs = format!("iceflix/{}-x/", cluster.name());
    assert!(seen.starts_with(&theirs), "{seen}");
    // All of ours have been there for longer.
    let more = tokio::time::timeout(Duration::from_millis(500), there.next()).await;
    assert!(more.is_err(), "{more:?}");
    beside.close().await;
    catalog.shutdown().await;
    auth.shutdown().await;
    foreign.shutdown().await;
    main.shutdown().await;
}

/// The cluster on these machines.
const CLUSTER: &str = "lan";

/// Services and clients on the machines of a LAN.
trait Machines {
    /// A service on one of the machines, told nothing but its address.
    fn service(&self, machine: u32, kind: Kind, dir: &Path, more: &[String]) -> Process;
    /// The client on one of the machines, which knows the Main of a machine.
    fn client(&self, machine: u32, main: u32, home: &Path, words: &[&str]) -> Command;
    /// How many instances the Main of a machine lists.
    fn listed(&self, main: u32, home: &Path) -> usize;
}

impl Machines for Lan {
    /// A service on one of the machines, told nothing but its address.
    fn service(&self, machine: u32, kind: Kind, dir: &Path, more: &[String]) -> Process {
        let name = format!("{kind}-{machine}");
        let common = Common {
            cluster: CLUSTER.parse().unwrap(),
            instance: Some(name.parse().unwrap()),
            state_dir: dir.join(&name),
            ..Common::default()
        };
        identity::equip(kind, &common);
        let mut command = self.on(machine, &program(&format!("iceflix-{kind}")));
        let port = if kind == Kind::Main { 7070 } else { 0 };
        command
            .arg(format!("--instance={name}"))
            .arg(format!("--listen=10.77.0.{machine}:{port}"))
            .arg(format!("--cluster={CLUSTER}"))
            .arg(format!("--bus-listen=tls/10.77.0.{machine}:0"))
            .arg(format!("--state-dir={}", dir.join(&name).display()))
            .args(more);
        Process::start(command, &dir.join(format!("{name}.log")))
    }

    /// The client on one of the machines, which knows the Main of a machine.
    fn client(&self, machine: u32, main: u32, home: &Path, words: &[&str]) -> Command {
        let mut command = self.on(machine, &program("iceflix"));
        command
            .args(["--main", &format!("10.77.0.{main}:7070")])
            .args([
                "--ca",
                &identity::authority(CLUSTER).fingerprint().to_string(),
            ])
            .args(words)
            .env("HOME", home)
            .env("XDG_STATE_HOME", home)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// How many instances the Main of a machine lists.
    fn listed(&self, main: u32, home: &Path) -> usize {
        let mut status = self.client(main, main, home, &["status", "--json"]);
        let told = told(status.spawn().unwrap());
        match told.code {
            0 => told.json().as_array().unwrap().len(),
            _ => 0,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_on_a_lan_find_each_other_with_nothing_but_their_addresses() {
    let Some(lan) = Lan::new("ifa", 3) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let kinds = [
        (1, Kind::Main),
        (2, Kind::Auth),
        (3, Kind::Catalog),
        (3, Kind::Main),
    ];
    let _processes: Vec<Process> = kinds
        .into_iter()
        .map(|(machine, kind)| lan.service(machine, kind, dir.path(), &[]))
        .collect();
    for main in [1, 3] {
        let took = wait_for("every machine's services are listed", async || {
            lan.listed(main, dir.path()) == 4
        })
        .await;
        println!("machine {main} lists all four after {took:?}");
    }
    // The one whose cable is pulled is gone for the others, and returns.
    let cable = |state: &str| {
        let mut command = Command::new("ip");
        command.args([
            "-n",
            &format!("{}-2", lan.name()),
            "link",
            "set",
            "eth0",
            state,
        ]);
        assert!(command.status().unwrap().success());
    };
    cable("down");
    let took = wait_for("the unreachable one is gone", async || {
        lan.listed(1, dir.path()) == 3 && lan.listed(3, dir.path()) == 3
    })
    .await;
    println!("a machine whose cable was pulled is gone after {took:?}");
    cable("up");
    let took = wait_for("it is back", async || {
        lan.listed(1, dir.path()) == 4 && lan.listed(3, dir.path()) == 4
    })
    .await;
    println!("and listed again {took:?} after it was put back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_film_plays_on_another_machine_of_the_lan() {
    let Some(lan) = Lan::new("ifb", 2) else {
        return;
    };
    let (dir, media) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    film(&media.path().join("film.mp4"), 5, 440);
    let password = dir.path().join("admin.password");
    std::fs::write(&password, ADMIN_PASSWORD).unwrap();
    let auth = [format!("--admin-password-file={}", password.display())];
    let streaming = [
        format!("--media={}", media.path().display()),
        "--rtsp-listen=10.77.0.1:0".to_owned(),
    ];
    let _processes = [
        lan.service(1, Kind::Main, dir.path(), &[]),
        lan.service(1, Kind::Auth, dir.path(), &auth),
        lan.service(1, Kind::Catalog, dir.path(), &[]),
        lan.service(1, Kind::Streaming, dir.path(), &streaming),
    ];
    // The viewer is on the other machine.
    let client = |words: &[&str]| lan.client(2, 1, dir.path(), words);
    wait_for("the services are listed", async || {
        lan.listed(1, dir.path()) == 4
    })
    .await;
    let mut login = client(&["login", "admin", "--password-stdin"]);
    let login = login.stdin(File::open(&password).unwrap()).spawn();
    told(login.unwrap()).with_code(0);
    let mut id = String::new();
    wait_for("the film is found", async || {
        let found = told(client(&["search", "film", "--json"]).spawn().unwrap());
        let found = found.with_code(0).json();
        id = found[0]["id"].as_str().unwrap_or_default().to_owned();
        found[0]["available"] == true
    })
    .await;
    let mut url = Staying::start(client(&["url", &id]));
    let line = url.line();
    let rtsp = line.trim();
    assert!(rtsp.starts_with("rtsp://10.77.0.1:"), "{rtsp}");
    // The description comes from the film, the node's address and the client's.
    let sdp = told(client(&["sdp", &id]).spawn().unwrap())
        .with_code(0)
        .stdout;
    let says = |what: &dyn Fn(&str) -> bool| sdp.lines().any(what);
    assert!(says(&|line| line == "s=film"), "{sdp}");
    assert!(says(&|line| line == "c=IN IP4 10.77.0.2"), "{sdp}");
    assert!(
        says(&|line| line.starts_with("o=") && line.ends_with("IN IP4 10.77.0.1")),
        "{sdp}"
    );
    for transport in ["tcp", "udp"] {
        let mut ffmpeg = lan.on(2, Path::new("ffmpeg"));
        ffmpeg
            .args(["-nostdin", "-v", "error", "-rtsp_transport", transport])
            .args(["-i", rtsp, "-t", "2", "-f", "null", "-progress", "-", "-"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let played = told(ffmpeg.spawn().unwrap()).with_code(0);
        let mut frames = played
            .stdout
            .lines()
            .filter_map(|line| line.strip_prefix("frame="));
        let frames: u32 = frames
            .next_back()
            .expect("a count of frames")
            .parse()
            .unwrap();
        assert!(frames >= 40, "{transport}: {played:?}");
    }
    assert_eq!(url.interrupt(), 0);
}
