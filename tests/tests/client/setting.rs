//! What the client's tests share.

use iceflix_core::{api::Kind, config::Common, service::Server};
use iceflix_tests::{
    cluster::{ADMIN_PASSWORD, Cluster, film, free_port},
    person::Home,
    process::{Process, flags},
    wire::{Door, Ear, instance},
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A cluster of one instance of each kind, with one film.
pub struct Setting {
    pub cluster: Cluster,
    pub media: TempDir,
    pub id: String,
}

impl Setting {
    pub async fn new() -> Self {
        let media = tempfile::tempdir().unwrap();
        film(&media.path().join("Amélie à Paris.mp4"), 20, 440);
        let cluster = Cluster::start(1, 1, 1, &[media.path()]).await;
        let id = cluster.until_films(1).await[0].id.to_string();
        Self { cluster, media, id }
    }

    /// Somebody who knows where the Main is.
    pub fn stranger(&self) -> Home {
        self.cluster.home()
    }

    /// Somebody who is logged in as `admin`.
    pub fn admin(&self) -> Home {
        let home = self.stranger();
        home.login("admin", ADMIN_PASSWORD).with_code(0);
        home
    }

    /// A Main that sends clients to the authenticator through an ear of their own, and to the
    /// other services straight.
    pub async fn overheard(&self) -> (Door, Ear, Home) {
        let ear = Ear::before(self.cluster.name(), self.cluster.auths[0].address()).await;
        let others = [
            instance(
                Kind::Catalog,
                "catalog-1",
                self.cluster.catalogs[0].address(),
            ),
            instance(
                Kind::Streaming,
                "streaming-1",
                self.cluster.nodes[0].address(),
            ),
        ];
        let mut all = vec![instance(Kind::Auth, "auth-1", ear.address)];
        all.extend(others);
        let door = Door::open(self.cluster.name(), all).await;
        let home = Home::new(self.cluster.name(), &[door.address]);
        (door, ear, home)
    }
}

/// Changes the session's file.
pub fn edit_session(home: &Home, change: impl FnOnce(&mut Value)) {
    let file = home.session_file();
    let mut session: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    change(&mut session);
    std::fs::write(&file, session.to_string()).unwrap();
}

pub fn session(home: &Home) -> Value {
    serde_json::from_slice(&std::fs::read(home.session_file()).unwrap()).unwrap()
}

/// As if the session had been left alone for longer than a token lives.
pub fn let_the_token_expire(home: &Home) {
    edit_session(home, |session| session["token"]["expires_ms"] = json!(0));
}

/// An instance that is a process of its own, on a port of its own.
pub fn process(cluster: &mut Cluster, kind: Kind, more: &[String]) -> (Process, Common) {
    let mut common = cluster.common(kind);
    common.listen.set_port(free_port());
    let mut words = flags(&common);
    words.extend_from_slice(more);
    let log = cluster.dir.path().join(format!("{kind}.log"));
    let process = Process::service(&format!("iceflix-{kind}"), &words, &log);
    (process, common)
}
