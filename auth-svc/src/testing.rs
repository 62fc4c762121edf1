//! What an authenticator stands on, for tests of its parts.

use crate::{
    accounts::{Accounts, Session},
    status::Status,
};
use iceflix_core::{
    api::{Kind, SessionId},
    config::Common,
    replica::{Replica, RowChange},
    service::Node,
    trust::{
        self, Authority, SESSION_LIFETIME,
        authority::CERTIFICATE_LIFETIME,
        keyring::{Keyring, Schedule},
    },
};
use tempfile::TempDir;
use tokio::sync::mpsc;

/// A node that nobody else can reach, with the rows of an authenticator.
pub struct Desk {
    pub node: Node,
    pub replica: Replica,
    pub accounts: Accounts,
    pub keys: Keyring,
    _changes: mpsc::UnboundedReceiver<Vec<RowChange>>,
    _dir: TempDir,
}

impl Desk {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let common = Common {
            cluster: "desk".parse().unwrap(),
            instance: Some("auth-1".parse().unwrap()),
            state_dir: dir.path().join("state"),
            bus_scouting: false,
            ..Common::default()
        };
        let authority = Authority::create("desk").unwrap();
        let name = "auth-1".parse().unwrap();
        authority
            .equip(&common.identity(), Kind::Auth, &name, CERTIFICATE_LIFETIME)
            .unwrap();
        let node = Node::join(Kind::Auth, &common).await.unwrap();
        let file = node.state_dir.join("auth.sqlite");
        let (bus, topics) = (&node.bus, &node.topics);
        let opened = Replica::open(
            &file,
            bus,
            topics,
            Kind::Auth,
            &node.instance,
            crate::accounts::GROWING,
            std::time::Duration::ZERO,
        )
        .await;
        let (replica, _changes) = opened.unwrap();
        Self {
            accounts: Accounts::new(replica.clone()),
            keys: Keyring::open(&node.state_dir.join("signing.key"), Schedule::default()).unwrap(),
            node,
            replica,
            _changes,
            _dir: dir,
        }
    }

    pub async fn status(&self) -> Status {
        let started = Status::start(&self.node, &self.keys.announced(), &self.accounts).await;
        started.unwrap()
    }

    /// Opens a session of a user's present epoch.
    pub async fn session(&self, user: &str) -> (SessionId, Session) {
        let session = Session {
            user: user.to_owned(),
            key: [7; 32],
            epoch: self.accounts.epoch(user),
            until: (trust::now() + SESSION_LIFETIME).as_secs(),
            opened: trust::now().as_secs(),
            from: None,
            media: None,
        };
        let id = SessionId::random();
        self.accounts.put_session(id, &session).await.unwrap();
        (id, session)
    }
}
