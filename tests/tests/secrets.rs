//! No secret is in anything that is logged, nor in any file but its own: in a cluster of two machines
//! whose programs say all they can, and in the homes of those who use it.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

use base64::{Engine as _, prelude::BASE64_STANDARD};
use iceflix_core::{
    api::{
        Kind, MediaId, SessionId, StreamId,
        auth::{AuthenticatorClient, Token},
        streaming::StreamingClient,
    },
    rpc::{Caller, Security},
    trust::{self, Authority, Purpose, SessionKey, password::prehash},
};
use iceflix_tests::{
    cluster::{PATIENCE, film, wait_for},
    person::{Home, Staying, Told, files, holding, told},
    players::rtsp::Client,
};
use serde_json::Value;
use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File},
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    slice,
};

/// What somebody types as a name who means a password.
const TYPED_AS_NAME: &str = "swordfish in the wrong field";

/// How every token, proof and grant begins.
const SIGNED: &[u8] = b"v4.public.";

/// What stands above every private key.
const PRIVATE: &[u8] = b"PRIVATE KEY";

/// By how many first bytes a secret is found.
const FIRST: usize = 8;

/// A machine of the cluster, and somebody at its terminal.
struct Machine {
    home: Home,
}

impl Machine {
    fn new() -> Self {
        Self {
            home: Home::new("", &[]),
        }
    }

    fn dir(&self) -> &Path {
        self.home.dir.path()
    }

    fn state(&self) -> PathBuf {
        self.dir().join(".iceflix")
    }

    /// Types a command, with something on its standard input. It says all it can, as do services
    /// that it starts, and what it says is kept like a log.
    fn types(&self, words: &[&str], input: &str) -> Told {
        let mut command = self.home.command(words);
        command.arg("-vvv").env("ICEFLIX_LOG", "trace");
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        // It may not want to read it all.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let told = told(child);
        let mut log = File::options();
        log.create(true).append(true);
        let mut log = log.open(self.dir().join("said.log")).unwrap();
        log.write_all(told.stderr.as_bytes()).unwrap();
        told
    }

    fn login(&self, user: &str, password: &str) -> Told {
        let input = format!("{password}\n");
        self.types(&["login", user, "--password-stdin"], &input)
    }

    fn session(&self) -> Value {
        serde_json::from_slice(&fs::read(self.home.session_file()).unwrap()).unwrap()
    }

    /// As if the session had been left alone for longer than a token lives.
    fn let_the_token_expire(&self) {
        let mut session = self.session();
        session["token"]["expires_ms"] = Value::from(0);
        fs::write(self.home.session_file(), session.to_string()).unwrap();
    }

    /// What a service of its has logged.
    fn log(&self, service: &str) -> String {
        let file = self.state().join(format!("log/{service}.log"));
        fs::read_to_string(file).unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Nothing may be left running, whatever became of the test.
        let told = self.home.run(&["cluster", "stop"]);
        if told.code != 0 {
            eprintln!("{told:?}");
        }
    }
}

/// A secret in one of the ways in which it may show.
struct Secret {
    what: String,
    bytes: Vec<u8>,
    /// The files that are there for it.
    own: Vec<PathBuf>,
}

/// All secrets, by their first bytes: so a log of megabytes is gone through once.
#[derive(Default)]
struct Secrets(HashMap<Vec<u8>, Vec<Secret>>);

impl Secrets {
    fn add(&mut self, what: &str, own: &[PathBuf], forms: Vec<Vec<u8>>) {
        for bytes in forms {
            let first = bytes[..FIRST].to_vec();
            self.0.entry(first).or_default().push(Secret {
                what: what.to_owned(),
                bytes,
                own: own.to_vec(),
            });
        }
    }

    fn add_session(&mut self, session: &Value, own: &[PathBuf]) {
        let token = session["token"]["token"].as_str().unwrap();
        self.add("a token", own, signature(token));
        let key = hex::decode(session["key"].as_str().unwrap()).unwrap();
        self.add("a session's key", own, shown(&key[..32]));
    }

    /// The files that are there for secrets.
    fn places(&self) -> BTreeSet<PathBuf> {
        let all = self.0.values().flatten();
        all.flat_map(|secret| secret.own.clone()).collect()
    }

    /// Whether a file holds secrets that are its own.
    ///
    /// # Panics
    /// When it holds others.
    fn are_in(&self, file: &Path, bytes: &[u8]) -> bool {
        let mut own = false;
        for (at, first) in bytes.windows(FIRST).enumerate() {
            let known = self.0.get(first).into_iter().flatten();
            for secret in known.filter(|secret| bytes[at..].starts_with(&secret.bytes)) {
                let allowed = secret.own.iter().any(|own| own == file);
                assert!(allowed, "{} is in {}", secret.what, file.display());
                own = true;
            }
        }
        own
    }
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

/// Two parts of a signature: what makes a token, a proof or a grant good.
fn signature(text: &str) -> Vec<Vec<u8>> {
    let signed = text.split('.').nth(2).unwrap().as_bytes();
    let end = signed.len();
    vec![
        signed[end - 80..end - 40].to_vec(),
        signed[end - 40..].to_vec(),
    ]
}

fn mode(file: &Path) -> u32 {
    fs::metadata(file).unwrap().permissions().mode() & 0o777
}

async fn play(url: &str) {
    let mut player = Client::connect(url).await.unwrap();
    player.play_interleaved().await.unwrap();
    player.read_packets(20).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_anywhere_but_in_its_own_file() {
    let media = tempfile::tempdir().unwrap();
    film(&media.path().join("film.mp4"), 20, 440);
    let (first, second) = (Machine::new(), Machine::new());
    let run = ["cluster", "run", "--detach", "--instances", "1"];
    let films = ["--media", media.path().to_str().unwrap()];
    first
        .types(&[&run[..], &films[..]].concat(), "")
        .with_code(0);
    let mut secrets = Secrets::default();

    // A machine joins. It is interrupted when it has its keys, and the authority's.
    let invite = first.types(&["cluster", "invite", "--role", "auth"], "");
    let line = invite.with_code(0).stdout.trim().to_owned();
    let secret = line.rsplit('/').next().unwrap();
    let join = ["cluster", "join", &line, "--instances", "1"];
    let obstacle = second.state().join("cluster.toml.new");
    fs::create_dir_all(&obstacle).unwrap();
    second.types(&join, "").with_code(1);
    let joining = second.state().join("joining.toml");
    assert_eq!(mode(&joining), 0o600);
    assert_eq!(holding(second.dir(), PRIVATE), [joining]);
    assert!(holding(second.dir(), secret.as_bytes()).is_empty());
    fs::remove_dir(&obstacle).unwrap();
    second.types(&join, "").with_code(0);
    second.types(&run, "").with_code(0);
    let secret = hex::decode(secret).unwrap();
    secrets.add("the invitation's secret", &[], shown(&secret));

    // Users.
    let password_file = first.state().join("admin.password");
    let initial = fs::read_to_string(&password_file).unwrap();
    let initial = initial.trim_end();
    first.login(TYPED_AS_NAME, "whatever it is").with_code(4);
    first.login("admin", "a wrong guess").with_code(4);
    first.login("admin", initial).with_code(0);
    let add = |name| ["user", "add", name, "--password-stdin"];
    first.types(&add("ada"), "difference engine\n").with_code(0);
    first.types(&add("bob"), "a garden shed\n").with_code(0);
    let passwd = ["user", "passwd", "bob", "--password-stdin"];
    first.types(&passwd, "another shed\n").with_code(0);
    first.types(&["revoke", "bob"], "").with_code(0);
    first.types(&["user", "remove", "bob"], "").with_code(0);
    secrets.add_session(&first.session(), &[]);
    first.types(&["logout"], "").with_code(0);
    first.login("admin", initial).with_code(0);
    second.login("ada", "difference engine").with_code(0);
    second.types(&add("eve"), "trojan horse\n").with_code(4);
    let mut id = String::new();
    wait_for("the film is found", async || {
        let found = second.types(&["search", "--json"], "").with_code(0).json();
        id = found[0]["id"].as_str().unwrap_or_default().to_owned();
        found[0]["available"] == true
    })
    .await;
    let earlier = second.session();
    second.let_the_token_expire();
    second.types(&["tag", "add", &id, "steam"], "").with_code(0);
    let earlier = earlier["token"]["token"].as_str().unwrap();
    secrets.add("an earlier token", &[], signature(earlier));
    let passwd = ["user", "passwd", "--password-stdin"];
    second
        .types(&passwd, "difference engine\nanalytical engine\n")
        .with_code(0);

    // Streams, and grants.
    let mut url = Staying::start(second.home.command(&["url", &id, "--json"]));
    let watched: Value = serde_json::from_str(&url.line()).unwrap();
    let granted = second.types(&["url", &id, "--for", "1h", "--json"], "");
    let granted = granted.with_code(0).json();
    second.types(&["stream", "list"], "").with_code(0);
    for made in [&watched, &granted] {
        play(made["url"].as_str().unwrap()).await;
        let stream: StreamId = made["stream"].as_str().unwrap().parse().unwrap();
        secrets.add("a stream's id", &[], shown(stream.as_bytes()));
    }

    // What the client does not show: a proof, the token for it, and a grant.
    let session = second.session();
    let key = hex::decode(session["key"].as_str().unwrap()).unwrap();
    let key = SessionKey::from_bytes(&key).unwrap();
    let of: SessionId = session["id"].as_str().unwrap().parse().unwrap();
    let cluster = session["cluster"].as_str().unwrap();
    let proof = key
        .prove(of, cluster, Purpose::Renew, trust::now())
        .unwrap();
    let authority = Authority::load(&first.state().join("ca")).unwrap();
    let caller = Caller::by_address(Security::client(authority.fingerprint()).unwrap());
    let status = second.types(&["status", "--json"], "").with_code(0).json();
    let at = |kind: Kind| -> SocketAddr {
        let mut all = status.as_array().unwrap().iter();
        let live = all.find(|live| live["kind"] == kind.as_str()).unwrap();
        live["endpoint"].as_str().unwrap().parse().unwrap()
    };
    let renew = |auth: AuthenticatorClient, context| {
        let proof = proof.clone();
        async move { auth.refresh_authorization(context, proof).await }
    };
    let renewed = caller.call_at(at(Kind::Auth), PATIENCE, renew).await;
    let token: Token = renewed.unwrap().unwrap();
    let (grant_id, media_id) = (SessionId::random(), id.parse::<MediaId>().unwrap());
    let ask = |auth: AuthenticatorClient, context| {
        let token = token.clone();
        async move { auth.grant(context, token, grant_id, media_id, 3600).await }
    };
    let made = caller.call_at(at(Kind::Auth), PATIENCE, ask).await;
    let grant = made.unwrap().unwrap().grant;
    let take_up = |node: StreamingClient, context| {
        let grant = grant.clone();
        async move {
            node.get_granted_stream(context, grant, media_id, true)
                .await
        }
    };
    let taken_up = caller.call_at(at(Kind::Streaming), PATIENCE, take_up).await;
    let stream = taken_up.unwrap().unwrap();
    play(&stream.url).await;
    secrets.add("a stream's id", &[], shown(stream.stream.as_bytes()));
    for (what, text) in [
        ("a proof", &proof.0),
        ("a token", &token.0),
        ("a grant", &grant.0),
    ] {
        secrets.add(what, &[], signature(text));
    }
    let handle = granted["handle"].as_str().unwrap();
    second.types(&["stream", "stop", handle], "").with_code(0);
    assert_eq!(url.interrupt(), 0);
    for machine in [&second, &first] {
        machine.types(&["cluster", "stop"], "").with_code(0);
    }

    // What was typed, and what is sent in its place.
    for (user, password) in [
        ("admin", "a wrong guess"),
        ("ada", "difference engine"),
        ("ada", "analytical engine"),
        ("bob", "a garden shed"),
        ("bob", "another shed"),
        ("eve", "trojan horse"),
    ] {
        secrets.add(password, &[], vec![password.into()]);
        secrets.add("a pre-hash", &[], shown(&prehash(user, password).0));
    }
    secrets.add("a typed name", &[], vec![TYPED_AS_NAME.into()]);
    let own = slice::from_ref(&password_file);
    secrets.add("the first password", own, vec![initial.into()]);
    let hash = prehash("admin", initial).0;
    secrets.add("the first password's pre-hash", &[], shown(&hash));
    // The sessions that are open.
    let sessions = [&first, &second].map(|machine| machine.home.session_file());
    secrets.add("something signed", &sessions, vec![SIGNED.to_vec()]);
    for (machine, file) in [&first, &second].into_iter().zip(&sessions) {
        secrets.add_session(&machine.session(), slice::from_ref(file));
        let file = machine.state().join("auth-1/signing.key");
        let keys: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        for name in ["current", "next"] {
            let key = hex::decode(keys[name].as_str().unwrap()).unwrap();
            let own = slice::from_ref(&file);
            secrets.add("a signing key", own, shown(&key[..32]));
        }
    }
    // The keys of the certificates, and the authority's: as they are kept, and as the bus gets them.
    let all = [&first, &second].map(|machine| files(machine.dir()));
    let is_key = |file: &&PathBuf| file.ends_with("key.pem") || file.ends_with("ca.key");
    let keys: Vec<PathBuf> = all.iter().flatten().filter(is_key).cloned().collect();
    secrets.add("a private key", &keys, vec![PRIVATE.to_vec()]);
    for file in &keys {
        let pem = fs::read_to_string(file).unwrap();
        let line = pem.lines().nth(1).unwrap();
        let same = |other: &&PathBuf| fs::read_to_string(other).unwrap().contains(line);
        let own: Vec<PathBuf> = keys.iter().filter(same).cloned().collect();
        // The authority's is beside its certificate and in the authenticator's directory, on both.
        let times = if file.ends_with("ca.key") { 4 } else { 1 };
        assert_eq!(own.len(), times, "{own:?}");
        // Not its beginning, which is that of every key.
        let mut forms = shown(&BASE64_STANDARD.decode(line).unwrap()[36..]);
        forms.push(line.into());
        let on_the_bus = BASE64_STANDARD.encode(&pem);
        forms.push(on_the_bus.as_bytes()[80..140].to_vec());
        secrets.add(&format!("what is in {}", file.display()), &own, forms);
    }
    assert_eq!(keys.len(), 9, "five services', four copies: {keys:?}");

    let mut kept = BTreeSet::new();
    for file in all.into_iter().flatten() {
        if secrets.are_in(&file, &fs::read(&file).unwrap()) {
            assert_eq!(mode(&file), 0o600, "{}", file.display());
            kept.insert(file);
        }
    }
    assert_eq!(kept, secrets.places(), "each is where it belongs");
    for service in ["main-1", "auth-1", "catalog-1", "streaming-1"] {
        assert!(first.log(service).contains(" TRACE "), "{service}");
    }
    assert!(second.log("auth-1").contains(" TRACE "));
    let both = first.log("auth-1") + &second.log("auth-1");
    assert!(both.contains("logged in") && both.contains("granted"));
}
