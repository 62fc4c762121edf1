//! The program itself: what it keeps, what it never keeps, and how it says that it cannot start.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

use iceflix_core::{
    api::{
        Kind, PageRequest, SessionId,
        auth::{AuthenticatorClient, Login, Role},
        main::{DirectoryVersion, DirectoryView},
    },
    rpc::{Caller, Security},
    trust::{
        self, Authority, Purpose, SessionKey, authority::CERTIFICATE_LIFETIME, password::prehash,
    },
};
use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::sync::watch;

/// How long anything may take before a test gives up: much longer than it ever does.
const PATIENCE: Duration = Duration::from_secs(60);

const PASSWORD: &str = "correct horse battery staple";

/// An authenticator of its own cluster.
struct Auth {
    dir: TempDir,
    address: SocketAddr,
    child: Option<Child>,
    caller: Caller,
    _directory: watch::Sender<Arc<DirectoryView>>,
}

impl Auth {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("admin.password"), format!("{PASSWORD}\n")).unwrap();
        let authority = Authority::create("program").unwrap();
        let (place, name) = (dir.path().join("state/identity"), "auth-1".parse().unwrap());
        authority
            .equip(&place, Kind::Auth, &name, CERTIFICATE_LIFETIME)
            .unwrap();
        // Called by its address: it has to stay the same over restarts.
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let version = DirectoryVersion {
            counter: 0,
            number: 0,
        };
        let (_directory, nobody) = watch::channel(Arc::new(DirectoryView {
            version,
            instances: Vec::new(),
        }));
        Self {
            dir,
            address: free.local_addr().unwrap(),
            child: None,
            caller: Caller::new(nobody, Security::client(authority.fingerprint()).unwrap()),
            _directory,
        }
    }

    fn command(&self) -> Command {
        self.command_at(self.address)
    }

    fn command_at(&self, address: SocketAddr) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_iceflix-auth"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ICEFLIX_") {
                command.env_remove(name);
            }
        }
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        command
            .arg("--cluster=program")
            .arg(format!("--listen={address}"))
            .arg(format!("--state-dir={}", at("state")))
            .arg(format!("--admin-password-file={}", at("admin.password")))
            .args(["--bus-scouting=false", "--instance=auth-1", "--log=trace"])
            .stdin(Stdio::null())
            .stdout(File::create(at("stdout")).unwrap())
            .stderr(File::create(at("stderr")).unwrap());
        command
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.path().join("stderr")).unwrap()).into_owned()
    }

    /// Starts it, and waits until it can be reached.
    async fn start(&mut self) {
        self.child = Some(self.command().spawn().unwrap());
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(self.address).is_err() || !self.said().contains("is ready") {
            assert!(Instant::now() < until, "{}", self.said());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What becomes of one that cannot start.
    fn fails(&self, command: &mut Command) -> String {
        let status = ended(&mut command.spawn().unwrap());
        assert_eq!(status.code(), Some(1), "{}", self.said());
        self.said()
    }

    async fn login(&self, user: &str, password: &str) -> Option<(Login, SessionKey)> {
        let key = SessionKey::generate().unwrap();
        let (id, public, hash) = (SessionId::random(), key.public(), prehash(user, password));
        let ask = |auth: AuthenticatorClient, context| {
            let user = user.to_owned();
            async move { auth.login(context, user, hash, id, public).await }
        };
        let login = self.caller.call_at(self.address, PATIENCE, ask).await;
        Some((login.unwrap().ok()?, key))
    }

    async fn add_user(&self, admin: &Login, name: &str, password: &str) {
        let hash = prehash(name, password);
        let ask = |auth: AuthenticatorClient, context| {
            let (token, name) = (admin.token.clone(), name.to_owned());
            async move { auth.add_user(context, token, name, hash, Role::User).await }
        };
        let added = self.caller.call_at(self.address, PATIENCE, ask).await;
        added.unwrap().unwrap();
    }

    /// Ends it with a signal.
    fn signal(&mut self, signal: &str) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let sent = Command::new("kill")
            .args([signal, &child.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
        ended(&mut child)
    }
}

impl Drop for Auth {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn ended(child: &mut Child) -> ExitStatus {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > until {
            // Not to be left behind.
            let _ = child.kill();
            let _ = child.wait();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_outlives_a_kill() {
    let mut auth = Auth::new();
    auth.start().await;
    let (admin, _) = auth.login("admin", PASSWORD).await.unwrap();
    auth.add_user(&admin, "ada", "engine").await;
    let (ada, key) = auth.login("ada", "engine").await.unwrap();
    auth.signal("-KILL");
    // The first admin's password is not needed again.
    fs::write(auth.dir.path().join("admin.password"), "another\n").unwrap();
    auth.start().await;
    assert!(auth.login("ada", "engine").await.is_some());
    assert!(auth.login("admin", PASSWORD).await.is_some());
    assert!(auth.login("admin", "another").await.is_none());
    let proof = key.prove(ada.session, "program", Purpose::Renew, trust::now());
    let ask = |auth: AuthenticatorClient, context| {
        let proof = proof.clone().unwrap();
        async move { auth.refresh_authorization(context, proof).await }
    };
    let renewed = auth.caller.call_at(auth.address, PATIENCE, ask).await;
    assert!(renewed.unwrap().is_ok(), "the session goes on");
    assert!(auth.signal("-TERM").success(), "{}", auth.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_logged_or_kept() {
    let mut auth = Auth::new();
    auth.start().await;
    let (admin, key) = auth.login("admin", PASSWORD).await.unwrap();
    auth.add_user(&admin, "ada", "difference engine").await;
    auth.login("ada", "difference engine").await.unwrap();
    assert!(auth.login("ada", "analytical engine").await.is_none());
    let ask = |auth: AuthenticatorClient, context| {
        let token = admin.token.clone();
        async move { auth.list_users(context, token, PageRequest::first()).await }
    };
    let users = auth.caller.call_at(auth.address, PATIENCE, ask).await;
    assert_eq!(users.unwrap().unwrap().items.len(), 2);
    let proof = key.prove(admin.session, "program", Purpose::Logout, trust::now());
    let ask = |auth: AuthenticatorClient, context| {
        let proof = proof.clone().unwrap();
        async move { auth.logout(context, proof).await }
    };
    let ended = auth.caller.call_at(auth.address, PATIENCE, ask).await;
    ended.unwrap().unwrap();
    assert!(auth.signal("-INT").success(), "{}", auth.said());

    let log = auth.said();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "a full log");
    fs::remove_file(auth.dir.path().join("admin.password")).unwrap();
    let mut secrets: Vec<Vec<u8>> = Vec::new();
    for part in [&admin.token.0[..], &proof.unwrap().0] {
        // A part of the claims tells as much as the whole.
        secrets.push(part.as_bytes()[10..50].to_vec());
    }
    for (user, password) in [
        ("admin", PASSWORD),
        ("ada", "difference engine"),
        ("ada", "analytical engine"),
    ] {
        let hash = prehash(user, password).0;
        let numbers: Vec<String> = hash[..8].iter().map(u8::to_string).collect();
        secrets.push(password.into());
        secrets.push(hash.to_vec());
        secrets.push(hex::encode(hash).into());
        secrets.push(numbers.join(",").into());
        secrets.push(numbers.join(", ").into());
    }
    for file in files(auth.dir.path()) {
        let bytes = fs::read(&file).unwrap();
        for (number, secret) in secrets.iter().enumerate() {
            let found = bytes.windows(secret.len()).any(|part| part == secret);
            assert!(!found, "secret {number} is in {}", file.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_cannot_start_says_why() {
    let mut auth = Auth::new();
    fs::remove_file(auth.dir.path().join("admin.password")).unwrap();
    let said = auth.fails(&mut auth.command());
    assert!(said.contains("admin.password"), "{said}");

    // Another instance has the state directory, whatever its address.
    fs::write(auth.dir.path().join("admin.password"), PASSWORD).unwrap();
    auth.start().await;
    let elsewhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let said = auth.fails(&mut auth.command_at(elsewhere));
    assert!(said.contains("in use by another instance"), "{said}");
    let file = auth.dir.path().join("state/auth.sqlite");
    assert!(auth.signal("-TERM").success());

    // Its database is not one. (What SQLite keeps beside it would mend it.)
    for beside in ["-wal", "-shm"] {
        // A clean stop may have taken them away.
        let _ = fs::remove_file(format!("{}{beside}", file.display()));
    }
    fs::write(&file, "this is no database ".repeat(100)).unwrap();
    let said = auth.fails(&mut auth.command());
    assert!(said.contains("auth.sqlite"), "{said}");
}
