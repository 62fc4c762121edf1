//! Bad input gets a clear error that says what to do, and harms nothing.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

use iceflix_core::{
    api::{
        Kind, MediaId, StreamId,
        auth::Token,
        streaming::{Stream, StreamError, StreamingClient},
    },
    config::{self, Common, ServiceConfig},
    service::Server,
};
use iceflix_tests::{
    cluster::{ADMIN_PASSWORD, Cluster, PATIENCE, film, wait_for},
    identity,
    person::Home,
    process::{Process, clean, program},
};
use sha2::{Digest, Sha256};
use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

const KINDS: [&str; 4] = ["main", "auth", "catalog", "streaming"];

/// Two films whose ids begin alike, in a directory.
fn two_alike(media: &Path) -> (MediaId, MediaId) {
    let first = film(&media.join("first.mp4"), 1, 440);
    let content = std::fs::read(first).unwrap();
    let id = |content: &[u8]| MediaId::from_bytes(Sha256::digest(content).into());
    let wanted = id(&content);
    for number in 0..u32::MAX {
        let mut other = content.clone();
        // An empty box after the others: 4 bytes of length, its name, what it holds.
        other.extend_from_slice(&12_u32.to_be_bytes());
        other.extend_from_slice(b"free");
        other.extend_from_slice(&number.to_be_bytes());
        let found = id(&other);
        if found.to_string()[..2] == wanted.to_string()[..2] {
            std::fs::write(media.join("second.mp4"), other).unwrap();
            return (wanted, found);
        }
    }
    unreachable!("one of 256 begins alike")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_or_ambiguous_id_is_told_apart_from_a_good_one() {
    let media = tempfile::tempdir().unwrap();
    let (first, second) = two_alike(media.path());
    let cluster = Cluster::start(1, 1, 1, &[media.path()]).await;
    cluster.until_films(2).await;
    let home = cluster.home();
    home.login("admin", ADMIN_PASSWORD).with_code(0);
    let (first, second) = (first.to_string(), second.to_string());
    for command in ["show", "url", "sdp", "play"] {
        let told = home.run(&[command, &first[..2]]).with_code(3);
        assert!(told.stderr.contains(&first) && told.stderr.contains(&second));
        let unknown = home.run(&[command, &"0".repeat(60)]).with_code(3);
        assert!(unknown.stderr.contains("no film"), "{unknown:?}");
        let nonsense = home.run(&[command, "first.mp4"]).with_code(2);
        assert!(nonsense.stderr.contains("hexadecimal"), "{nonsense:?}");
    }
    let common = first
        .chars()
        .zip(second.chars())
        .take_while(|(a, b)| a == b);
    let enough = common.count() + 1;
    let shown = home.run(&["show", &first[..enough].to_uppercase(), "--json"]);
    assert_eq!(shown.with_code(0).json()["id"], *first);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_refused_without_saying_what_was_wrong() {
    let cluster = Cluster::start(1, 1, 0, &[]).await;
    let home = cluster.home();
    let wrong = home.login("admin", "wrong").with_code(4);
    let nobody = home.login("nobody", "wrong").with_code(4);
    assert_eq!(wrong.stderr, nobody.stderr);
    assert!(wrong.stderr.contains("wrong user name or password"));
    assert_eq!(wrong.stdout, "");
    home.run(&["user", "list"]).with_code(4);
    cluster.stop().await;
}

/// How a service ends that cannot start: its exit code and what it said.
fn cannot_start(kind: &str, words: &[String]) -> (i32, String) {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut process = Process::service(&format!("iceflix-{kind}"), words, log.path());
    let code = process.ends().code().unwrap_or(-1);
    assert_ne!(code, 0, "{}", process.said());
    (code, process.said())
}

#[test]
fn an_unknown_config_key_is_named_with_the_nearest_known_one() {
    let dir = tempfile::tempdir().unwrap();
    for kind in KINDS {
        let file = dir.path().join(format!("{kind}.toml"));
        std::fs::write(&file, "bus_lisen = []\n").unwrap();
        let words = [format!("--config={}", file.display())];
        let (code, said) = cannot_start(kind, &words);
        assert_eq!(code, 2);
        for part in ["`bus_lisen`", "`bus_listen`", file.to_str().unwrap()] {
            assert!(said.contains(part), "{kind}: {said}");
        }
        let (code, said) = cannot_start(kind, &["--bus-lisen=x".to_owned()]);
        assert_eq!(code, 2);
        assert!(said.contains("--bus-listen"), "{kind}: {said}");
    }
    let own = [
        (
            "auth",
            "admin_pasword_file = \"x\"",
            "`admin_password_file`",
        ),
        ("streaming", "rtsp_lisen = \"x\"", "`rtsp_listen`"),
    ];
    for (kind, line, nearest) in own {
        let file = dir.path().join("own.toml");
        std::fs::write(&file, line).unwrap();
        let (_, said) = cannot_start(kind, &[format!("--config={}", file.display())]);
        assert!(said.contains(nearest), "{said}");
    }
    // The client's, too.
    let home = Home::new("", &[]);
    let file = home.dir.path().join("client.toml");
    std::fs::write(&file, "main = [\"127.0.0.1:1\"]\n").unwrap();
    let told = home.run(&["--config", file.to_str().unwrap(), "status"]);
    let told = told.with_code(2);
    assert!(
        told.stderr.contains("`main`") && told.stderr.contains("`mains`"),
        "{told:?}"
    );
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    for kind in KINDS {
        let quiet = || {
            vec![
                format!("--state-dir={}", dir.path().join(kind).display()),
                "--bus-scouting=false".to_owned(),
                "--cluster=in-use".to_owned(),
            ]
        };
        let common = Common {
            cluster: "in-use".parse().unwrap(),
            state_dir: dir.path().join(kind),
            ..Common::default()
        };
        identity::equip(kind.parse().unwrap(), &common);
        let mut keys = vec![
            (format!("--listen={address}"), "listen"),
            (format!("--bus-listen=tls/{address}"), "bus_listen"),
        ];
        if kind == "streaming" {
            keys.push((format!("--rtsp-listen={address}"), "rtsp_listen"));
        }
        for (flag, key) in keys {
            let mut words = quiet();
            words.push(flag);
            let (code, said) = cannot_start(kind, &words);
            assert_eq!(code, 1, "{kind} {key}: {said}");
            assert!(said.contains(&address.to_string()), "{kind} {key}: {said}");
            assert!(
                said.contains("in use") || said.contains(key),
                "{kind} {key}: {said}"
            );
        }
    }
}

/// The commented configuration of a kind.
fn example(kind: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    root.join(format!("configs/{kind}.toml"))
}

#[test]
fn the_repositorys_configs_are_loaded_by_their_services() {
    fn load<C: ServiceConfig>() -> C {
        let file = example(C::KIND.as_str());
        let text = std::fs::read_to_string(&file).unwrap();
        // Each key is there, with its explanation before it.
        for key in config::COMMON_KEYS.iter().chain(C::KEYS) {
            let line = match key.name {
                // Each cluster has its own; the certificate says it.
                "instance" => "\n# instance = ".to_owned(),
                name => format!("\n{name} = "),
            };
            let (before, _) = text.split_once(&line).expect(key.name);
            assert!(
                before.lines().last().unwrap().starts_with('#'),
                "{}",
                key.name
            );
        }
        let arguments = ["x".into(), "--config".into(), OsString::from(file)];
        config::load(arguments).unwrap_or_else(|error| panic!("{error}"))
    }
    assert_eq!(load::<main_svc::Config>().common.listen.port(), 7070);
    assert!(load::<auth_svc::Config>().admin_password_file.is_some());
    assert_eq!(
        load::<catalog_svc::Config>().common.cluster.as_str(),
        "iceflix"
    );
    assert_eq!(load::<streaming_svc::Config>().media.len(), 1);
}

#[test]
fn the_repositorys_configs_start_a_cluster_that_was_made_as_they_say() {
    let home = Home::new("", &[]);
    for kind in KINDS {
        let text = std::fs::read_to_string(example(kind)).unwrap();
        let command = text
            .lines()
            .find_map(|line| line.strip_prefix("#     iceflix "));
        let words: Vec<&str> = command.expect(kind).split(' ').collect();
        let _ = home.run(&words).with_code(0);
        let log = home.dir.path().join(format!("{kind}.log"));
        let mut command = clean(Command::new(program(&format!("iceflix-{kind}"))));
        // Other tests run beside this one: of all that the files say, a fixed port alone is changed.
        command
            .args(["--listen", "127.0.0.1:0", "--config"])
            .arg(example(kind))
            .current_dir(home.dir.path());
        let service = Process::start(command, &log);
        let until = Instant::now() + PATIENCE;
        while !service.said().contains(&format!("{kind} is ready")) {
            assert!(Instant::now() < until, "{kind}: {}", service.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn an_instance_without_a_certificate_says_where_they_come_from() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join(kind);
        let words = [
            format!("--state-dir={}", state.display()),
            "--bus-scouting=false".to_owned(),
        ];
        let (code, said) = cannot_start(kind, &words);
        assert_eq!(code, 1);
        for part in ["identity", "cluster init", "cluster join"] {
            assert!(said.contains(part), "{said}");
        }
        // Another's is not good enough.
        let other = if kind == "main" {
            Kind::Auth
        } else {
            Kind::Main
        };
        let common = Common {
            cluster: "in-use".parse().unwrap(),
            state_dir: state,
            ..Common::default()
        };
        identity::equip(other, &common);
        let (_, said) = cannot_start(kind, &[&words[..], &["--cluster=in-use".into()]].concat());
        assert!(said.contains(&format!("is for {other} ")), "{said}");
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for kind in KINDS {
        for flag in ["--help", "--version"] {
            let mut command = clean(Command::new(program(&format!("iceflix-{kind}"))));
            let told = command.arg(flag).output().unwrap();
            assert!(told.status.success());
            assert!(String::from_utf8_lossy(&told.stdout).contains(&format!("iceflix-{kind}")));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_catalogue_alive_is_said_with_exit_code_5() {
    let cluster = Cluster::start(1, 1, 0, &[]).await;
    let home = cluster.home();
    home.login("admin", ADMIN_PASSWORD).with_code(0);
    for words in [&["search"][..], &["show", "ab"], &["tag", "add", "ab", "x"]] {
        let told = home.run(words).with_code(5);
        assert!(told.stderr.contains("no catalog"), "{told:?}");
        assert_eq!(told.stdout, "");
    }
    cluster.stop().await;
}

/// The status code that an RTSP server gives to a DESCRIBE of this URL.
fn described(url: &str) -> u16 {
    let rest = url.strip_prefix("rtsp://").unwrap();
    let address: SocketAddr = rest[..rest.find('/').unwrap()].parse().unwrap();
    let mut connection = TcpStream::connect(address).unwrap();
    let request = format!("DESCRIBE {url} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n\r\n");
    connection.write_all(request.as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(connection).read_line(&mut line).unwrap();
    let code = line.split(' ').nth(1).expect("a status line");
    code.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn rtsp_requests_for_unknown_or_ended_streams_get_404() {
    let media = tempfile::tempdir().unwrap();
    film(&media.path().join("film.mp4"), 5, 440);
    let cluster = Cluster::start(1, 1, 1, &[media.path()]).await;
    let id = cluster.until_films(1).await[0].id;
    let (node, token) = (cluster.nodes[0].address(), cluster.admin().await.token());
    let open = async || -> Stream {
        let ask = |node: StreamingClient, context| {
            let token: Token = token.clone();
            async move {
                node.get_stream(context, token, StreamId::random(), id, false)
                    .await
            }
        };
        cluster.at(node, ask).await.unwrap()
    };
    let (stopped, revoked) = (open().await, open().await);
    assert_eq!(described(&stopped.url), 200);
    let base = stopped.url.rsplit_once('/').unwrap().0;
    let unknown = StreamId::random();
    for path in [
        format!("{base}/{unknown}"),
        format!("{base}/"),
        format!("{base}/../{}", stopped.stream),
        format!("{base}/{}/more", stopped.stream),
        format!("{base}/{id}"),
    ] {
        assert!(matches!(described(&path), 401 | 404), "{path}");
    }
    let stream = stopped.stream;
    let ask = |node: StreamingClient, context| {
        let token = token.clone();
        async move { node.stop(context, token, stream).await }
    };
    cluster.at(node, ask).await.unwrap();
    assert!(matches!(described(&stopped.url), 401 | 404));
    let gone = cluster
        .at(node, |node: StreamingClient, context| {
            let token = token.clone();
            async move { node.refresh_authentication(context, token, stream).await }
        })
        .await;
    assert_eq!(gone, Err(StreamError::UnknownStream));
    assert_eq!(described(&revoked.url), 200, "the other goes on");
    // It ends by itself, some seconds after nobody may watch it any more.
    iceflix_tests::tokens::Wrong::Revoked.make(&cluster).await;
    wait_for("the stream of a revoked user ends", async || {
        matches!(described(&revoked.url), 401 | 404)
    })
    .await;
    cluster.stop().await;
}
