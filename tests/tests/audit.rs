//! The audit log of a whole cluster of real programs; and that no secret is in it, nor in anything
//! else that is logged or stored.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

use base64::{Engine as _, prelude::BASE64_STANDARD};
use iceflix_core::{
    api::{
        Kind, MediaId, PageRequest, SessionId,
        auth::{AuthError, AuthenticatorClient, Role, SessionProof, Token},
        catalog::{CatalogClient, CatalogError},
        streaming::{StreamError, StreamingClient},
    },
    trust::{Purpose, password::prehash},
};
use iceflix_tests::{
    cluster::{ADMIN_PASSWORD, Cluster, Person, film, free_port, wait_for},
    process::{Process, flags},
};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// What somebody types as a name who means a password.
const TYPED_AS_NAME: &str = "swordfish in the wrong field";

/// Programs that log all they can, and a Main in this process.
struct Programs {
    cluster: Cluster,
    running: Vec<Process>,
    at: [SocketAddr; 3],
}

impl Programs {
    async fn start(media: &Path) -> Self {
        let mut cluster = Cluster::start(1, 0, 0, &[]).await;
        let kinds = [Kind::Auth, Kind::Catalog, Kind::Streaming];
        let mut at = kinds.map(|_| SocketAddr::from(([127, 0, 0, 1], free_port())));
        let mut running = Vec::new();
        for (kind, at) in kinds.into_iter().zip(&mut at) {
            let mut common = cluster.common(kind);
            common.listen = *at;
            let dir = cluster.dir.path();
            let mut flags = flags(&common);
            flags.push("--log=trace".into());
            match kind {
                Kind::Auth => {
                    let file = dir.join("admin.password");
                    flags.push(format!("--admin-password-file={}", file.display()));
                }
                Kind::Streaming => flags.push(format!("--media={}", media.display())),
                _ => {}
            }
            let log = dir.join(format!("{kind}.log"));
            running.push(Process::service(&format!("iceflix-{kind}"), &flags, &log));
        }
        let mut directory = cluster.view().directory();
        let all = directory.wait_for(|view| view.instances.len() == 4);
        tokio::time::timeout(iceflix_tests::cluster::PATIENCE, all)
            .await
            .expect("all are announced")
            .unwrap();
        Self {
            cluster,
            running,
            at,
        }
    }

    fn directory(&self) -> &Path {
        self.cluster.dir.path()
    }

    async fn login(&self, user: &str, password: &str) -> Result<Person, AuthError> {
        self.cluster.login_at(self.at[0], user, password).await
    }

    async fn add_user(&self, token: &Token, name: &str, password: &str) -> Result<(), AuthError> {
        let hash = prehash(name, password);
        let ask = |auth: AuthenticatorClient, context| {
            let (token, name) = (token.clone(), name.to_owned());
            async move { auth.add_user(context, token, name, hash, Role::User).await }
        };
        self.cluster.at(self.at[0], ask).await
    }

    async fn rename(&self, token: &Token, id: MediaId, name: &str) -> Result<(), CatalogError> {
        let ask = |catalog: CatalogClient, context| {
            let (token, name) = (token.clone(), name.to_owned());
            async move { catalog.rename_tile(context, token, id, name).await }
        };
        self.cluster.at(self.at[1], ask).await
    }

    /// What the services wrote down, once they have stopped.
    fn written(&self, kind: Kind) -> Vec<Value> {
        let file = self.directory().join(format!("{kind}-1/audit.jsonl"));
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.ends_with('\n'));
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// Whether a line says so. Of what is not given, nothing is asked.
fn says(line: &Value, wanted: &[(&str, &str)]) -> bool {
    wanted.iter().all(|(field, value)| line[*field] == *value)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => files(&path),
            false => vec![path],
        })
        .collect()
}

/// Bytes, in the ways in which programs print them.
fn shown(bytes: &[u8]) -> Vec<Vec<u8>> {
    let numbers: Vec<String> = bytes[..8].iter().map(u8::to_string).collect();
    vec![
        bytes.to_vec(),
        hex::encode(bytes).into(),
        numbers.join(",").into(),
        numbers.join(", ").into(),
    ]
}

/// Whether it is a private key's own file.
fn is_key(file: &Path) -> bool {
    file.ends_with("key.pem") || file.ends_with("ca.key")
}

/// A part of the claims and of the signature: either tells as much as the whole.
fn parts(text: &str) -> Vec<Vec<u8>> {
    let bytes = text.as_bytes();
    vec![
        bytes[10..50].to_vec(),
        bytes[bytes.len() / 2..][..40].to_vec(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_matters_is_written_down_and_no_secret_anywhere() {
    let media = tempfile::tempdir().unwrap();
    film(&media.path().join("film.mp4"), 1, 440);
    let mut programs = Programs::start(media.path()).await;
    let [auth, _, node] = programs.at;
    let cluster = &programs.cluster;

    // Users.
    let admin = programs.login("admin", ADMIN_PASSWORD).await.unwrap();
    assert!(programs.login("admin", "a wrong guess").await.is_err());
    assert!(programs.login(TYPED_AS_NAME, "whatever").await.is_err());
    let token = admin.token();
    programs
        .add_user(&token, "ada", "difference engine")
        .await
        .unwrap();
    let hostile = format!("eve\u{1b}[2J\n{}", "x".repeat(300_000));
    let refused = programs.add_user(&token, &hostile, "x").await;
    assert_eq!(refused, Err(AuthError::InvalidName));
    let ada = programs.login("ada", "difference engine").await.unwrap();
    let denied = programs.add_user(&ada.token(), "eve", "trojan horse").await;
    assert_eq!(denied, Err(AuthError::NotAdmin));
    let list = |auth: AuthenticatorClient, context| {
        let token = ada.token();
        async move { auth.list_users(context, token, PageRequest::first()).await }
    };
    assert!(cluster.at(auth, list).await.is_err());

    // Films.
    let id = cluster.until_films(1).await[0].id;
    let denied = programs.rename(&ada.token(), id, "Mine").await;
    assert_eq!(denied, Err(CatalogError::NotAdmin));
    programs.rename(&token, id, "Metropolis").await.unwrap();
    let watch = async |who: &Person, id: MediaId| {
        let ask = |node: StreamingClient, context| {
            let token = who.token();
            async move { node.get_stream(context, token, id, false).await }
        };
        cluster.at(node, ask).await
    };
    let unknown = watch(&ada, MediaId::from_bytes([9; 32])).await;
    assert_eq!(unknown.map(drop), Err(StreamError::UnknownMedia));
    let stream = watch(&ada, id).await.unwrap().stream;
    let stop = |node: StreamingClient, context| {
        let token = token.clone();
        async move { node.stop(context, token, stream).await }
    };
    cluster.at(node, stop).await.unwrap();
    let lasting = watch(&ada, id).await.unwrap().stream;
    let again = |node: StreamingClient, context| {
        let token = Some(token.clone());
        async move { node.reannounce_media(context, token).await }
    };
    cluster.at(node, again).await.unwrap();

    // Their ends.
    let logout = ada.proof(Purpose::Logout);
    let proofs: Vec<SessionProof> = vec![ada.proof(Purpose::Renew), logout.clone()];
    let ask = |auth: AuthenticatorClient, context| {
        let logout = logout.clone();
        async move { auth.logout(context, logout).await }
    };
    cluster.at(auth, ask).await.unwrap();
    assert!(cluster.renew_at(auth, &ada).await.is_err());
    let change = |auth: AuthenticatorClient, context| {
        let (token, new) = (token.clone(), prehash("ada", "analytical engine"));
        async move {
            auth.change_password(context, token, "ada".into(), None, new)
                .await
        }
    };
    cluster.at(auth, change).await.unwrap();
    let revoke = |auth: AuthenticatorClient, context| {
        let token = token.clone();
        async move { auth.revoke_user(context, token, "ada".into()).await }
    };
    cluster.at(auth, revoke).await.unwrap();
    let remove = |auth: AuthenticatorClient, context| {
        let token = token.clone();
        async move { auth.remove_user(context, token, "ada".into()).await }
    };
    cluster.at(auth, remove).await.unwrap();
    wait_for("the token is refused", async || {
        let refused = watch(&ada, id).await;
        matches!(refused, Err(StreamError::Unauthorized(_)))
    })
    .await;
    for process in programs.running.iter().rev() {
        process.signal(Signal::SIGTERM);
    }
    for process in &mut programs.running {
        assert!(process.ends().success(), "{}", process.said());
    }

    let film = format!("film:{id}");
    let (ada_is, admin_is) = (("user", "ada"), ("user", "admin"));
    let cut = |session: SessionId| session.to_string()[..8].to_owned();
    let (ada_session, admin_session) = (cut(ada.session()), cut(admin.session()));
    let on_ada = ("object", "user:ada");
    let lines: &[(Kind, &[(&str, &str)])] = &[
        (
            Kind::Auth,
            &[
                ("action", "login"),
                ("outcome", "done"),
                admin_is,
                ("session", &admin_session),
                ("from", "127.0.0.1"),
            ],
        ),
        (
            Kind::Auth,
            &[
                ("action", "login"),
                ("outcome", "refused"),
                ("reason", "wrong_credentials"),
                admin_is,
            ],
        ),
        (
            Kind::Auth,
            &[
                ("action", "login"),
                ("outcome", "done"),
                ada_is,
                ("session", &ada_session),
            ],
        ),
        (
            Kind::Auth,
            &[
                ("action", "add_user"),
                ("outcome", "done"),
                admin_is,
                on_ada,
            ],
        ),
        (
            Kind::Auth,
            &[("action", "add_user"), ("reason", "invalid_name"), admin_is],
        ),
        (
            Kind::Auth,
            &[
                ("action", "add_user"),
                ("reason", "not_admin"),
                ada_is,
                ("object", "user:eve"),
            ],
        ),
        (
            Kind::Auth,
            &[("action", "list_users"), ("reason", "not_admin"), ada_is],
        ),
        (
            Kind::Auth,
            &[("action", "logout"), ("outcome", "done"), ada_is],
        ),
        (
            Kind::Auth,
            &[("action", "refresh"), ("reason", "session_ended")],
        ),
        (
            Kind::Auth,
            &[
                ("action", "change_password"),
                ("outcome", "done"),
                admin_is,
                on_ada,
            ],
        ),
        (
            Kind::Auth,
            &[
                ("action", "revoke_user"),
                ("outcome", "done"),
                admin_is,
                on_ada,
            ],
        ),
        (
            Kind::Auth,
            &[
                ("action", "remove_user"),
                ("outcome", "done"),
                admin_is,
                on_ada,
            ],
        ),
        (
            Kind::Catalog,
            &[
                ("action", "rename"),
                ("reason", "not_admin"),
                ada_is,
                ("object", &film),
                ("name", "Mine"),
            ],
        ),
        (
            Kind::Catalog,
            &[
                ("action", "rename"),
                ("outcome", "done"),
                admin_is,
                ("object", &film),
                ("name", "Metropolis"),
            ],
        ),
        (
            Kind::Streaming,
            &[
                ("action", "stream"),
                ("outcome", "done"),
                ada_is,
                ("object", &film),
                ("from", "127.0.0.1"),
            ],
        ),
        (
            Kind::Streaming,
            &[("action", "stream"), ("reason", "unknown_media"), ada_is],
        ),
        (
            Kind::Streaming,
            &[("action", "stream"), ("reason", "token_revoked"), ada_is],
        ),
        (
            Kind::Streaming,
            &[
                ("action", "stop_stream"),
                ("outcome", "done"),
                admin_is,
                ("object", &film),
            ],
        ),
        (
            Kind::Streaming,
            &[
                ("action", "stream"),
                ("outcome", "ended"),
                ("reason", "stopped"),
                ada_is,
            ],
        ),
        (
            Kind::Streaming,
            &[
                ("action", "stream"),
                ("outcome", "ended"),
                ("reason", "shutdown"),
                ada_is,
            ],
        ),
        (
            Kind::Streaming,
            &[
                ("action", "reannounce"),
                ("outcome", "done"),
                ("from", "127.0.0.1"),
            ],
        ),
    ];
    for (kind, wanted) in lines {
        let written = programs.written(*kind);
        let instance = format!("{kind}-1");
        let mut there = written.iter().filter(|line| says(line, wanted));
        let line = there.next();
        let line = line.unwrap_or_else(|| panic!("{wanted:?} is missing in {written:#?}"));
        let whose = [("service", kind.as_str()), ("instance", &instance)];
        assert!(says(line, &whose), "{line}");
        assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
        assert!(line.to_string().len() < 1000);
    }

    // No secret is anywhere but in its own file.
    let mut secrets: Vec<Vec<u8>> = vec![TYPED_AS_NAME.into()];
    for who in [&admin, &ada] {
        secrets.extend(parts(&who.token().0));
        let key = who.key.to_bytes();
        secrets.extend(shown(&key[..32]));
    }
    secrets.extend(proofs.iter().flat_map(|proof| parts(&proof.0)));
    for (user, password) in [
        ("admin", ADMIN_PASSWORD),
        ("admin", "a wrong guess"),
        ("ada", "difference engine"),
        ("ada", "analytical engine"),
        ("eve", "trojan horse"),
    ] {
        secrets.push(password.into());
        secrets.extend(shown(&prehash(user, password).0));
    }
    let keys = fs::read_to_string(programs.directory().join("auth-1/signing.key")).unwrap();
    let keys: Value = serde_json::from_str(&keys).unwrap();
    for key in ["current", "next"] {
        let key = hex::decode(keys[key].as_str().unwrap()).unwrap();
        secrets.extend(shown(&key[..32]));
    }
    // The keys of the certificates, and the authority's: as they are kept, and as the bus gets them.
    let key_files = files(programs.directory())
        .into_iter()
        .filter(|file| is_key(file));
    let mut keys = 0;
    for file in key_files {
        let pem = fs::read(&file).unwrap();
        let text = String::from_utf8(pem.clone()).unwrap();
        let line = text.lines().nth(1).unwrap();
        assert!(line.len() >= 40, "{}", file.display());
        secrets.push(line.into());
        secrets.extend(shown(&BASE64_STANDARD.decode(line).unwrap()));
        // Not its beginning, which is that of every key.
        secrets.push(BASE64_STANDARD.encode(&pem)[80..140].into());
        keys += 1;
    }
    assert!(keys >= 5, "of four services and the authority");
    let own = [Path::new("admin.password"), Path::new("auth-1/signing.key")];
    let mut scanned = 0;
    for file in files(programs.directory()) {
        let name = file.strip_prefix(programs.directory()).unwrap();
        if own.contains(&name) || is_key(name) {
            continue;
        }
        let bytes = fs::read(&file).unwrap();
        scanned += bytes.len();
        let holds = |secret: &[u8]| bytes.windows(secret.len()).any(|part| part == secret);
        for (number, secret) in secrets.iter().enumerate() {
            assert!(!holds(secret), "secret {number} is in {}", name.display());
        }
        if name.ends_with("audit.jsonl") {
            for stream in [stream, lasting] {
                assert!(!holds(stream.to_string().as_bytes()), "a stream's id");
            }
        }
    }
    let log = fs::read_to_string(programs.directory().join("auth.log")).unwrap();
    assert!(log.contains("logged in") && scanned > 100_000, "a full log");
    programs.cluster.stop().await;
}
