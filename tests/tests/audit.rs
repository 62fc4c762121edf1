//! The audit log of a whole cluster of real programs. That no secret is in it is in `secrets.rs`.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

use iceflix_core::{
    api::{
        Kind, MediaId, PageRequest, SessionId, StreamId,
        auth::{AuthError, AuthenticatorClient, Role, Token},
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
use std::{fs, net::SocketAddr, path::Path};

/// Programs, and a Main in this process.
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
            match kind {
                Kind::Auth => {
                    let file = dir.join("admin.password");
                    flags.push(format!("--admin-password-file={}", file.display()));
                }
                Kind::Streaming => {
                    flags.push(format!("--media={}", media.display()));
                    // Its streams end when it is told to, and for that reason.
                    flags.push("--drain-grace=0s".into());
                }
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

#[tokio::test(flavor = "multi_thread")]
async fn all_that_matters_is_written_down() {
    let media = tempfile::tempdir().unwrap();
    film(&media.path().join("film.mp4"), 1, 440);
    let mut programs = Programs::start(media.path()).await;
    let [auth, _, node] = programs.at;
    let cluster = &programs.cluster;

    // Users.
    let admin = programs.login("admin", ADMIN_PASSWORD).await.unwrap();
    assert!(programs.login("admin", "a wrong guess").await.is_err());
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
            async move {
                node.get_stream(context, token, StreamId::random(), id, false)
                    .await
            }
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
    watch(&ada, id).await.unwrap();
    let again = |node: StreamingClient, context| {
        let token = Some(token.clone());
        async move { node.reannounce_media(context, token).await }
    };
    cluster.at(node, again).await.unwrap();

    // Their ends.
    let logout = ada.proof(Purpose::Logout);
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
    programs.cluster.stop().await;
}
