//! The real client program against a whole cluster: what a person relies on.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

mod scripts;
mod setting;
mod streams;

use iceflix_core::{
    api::{Kind, SessionId, auth::Role},
    trust::{self, password::prehash, token},
};
use iceflix_tests::{
    cluster::{ADMIN_PASSWORD, PATIENCE, film, until_listed, wait_at_most, wait_for},
    person::{Home, Staying, contains, holding},
    tokens::signing_key,
    wire::{Ear, tokens_in},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use setting::{Setting, edit_session, let_the_token_expire, process, session};
use std::{os::unix::fs::PermissionsExt, path::Path};

#[tokio::test(flavor = "multi_thread")]
async fn it_moves_on_when_an_instance_of_any_kind_dies_between_commands() {
    let mut setting = Setting::new().await;
    let media = format!("--media={}", setting.media.path().display());
    let cluster = &mut setting.cluster;
    let first = cluster.main_addresses()[0];
    let mut doomed = Vec::new();
    let mut mains = vec![first];
    for (kind, more) in [
        (Kind::Streaming, vec![media]),
        (Kind::Catalog, vec![]),
        (Kind::Auth, vec![]),
        (Kind::Main, vec![]),
    ] {
        let (process, common) = process(cluster, kind, &more);
        until_listed(cluster.name(), first, |all| {
            all.iter().any(|i| i.endpoint == common.listen)
        })
        .await;
        if kind == Kind::Main {
            mains.push(common.listen);
        }
        doomed.push((kind, process));
    }
    until_listed(cluster.name(), mains[1], |all| all.len() == 8).await;
    let home = Home::new(cluster.name(), &mains);
    home.login("admin", ADMIN_PASSWORD).with_code(0);
    wait_for("both nodes have the film", async || {
        home.run(&["show", &setting.id, "--json"]).json()["providers"] == 2
    })
    .await;

    for (kind, mut process) in doomed {
        process.signal(Signal::SIGKILL);
        // At once, and again when everybody has noticed: no command may feel it.
        for round in 0..3 {
            let tag = format!("{kind}-{round}");
            let_the_token_expire(&home);
            for words in [
                &["status"][..],
                &["search", "amelie"],
                &["show", &setting.id],
                &["tag", "add", &setting.id, &tag],
                &["user", "list"],
                &["sdp", &setting.id],
            ] {
                let told = home.run(words);
                assert_eq!(told.code, 0, "{kind} died, then {words:?}: {told:?}");
            }
        }
        process.ends();
    }
    setting.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_renews_by_itself() {
    let setting = Setting::new().await;
    let home = setting.admin();
    let before = session(&home);
    // The token is still good: nothing is asked for.
    home.run(&["tag", "add", &setting.id, "one"]).with_code(0);
    assert_eq!(session(&home), before);
    // It is over: the command gets another, and keeps it for the next.
    let_the_token_expire(&home);
    home.run(&["tag", "add", &setting.id, "two"]).with_code(0);
    let after = session(&home);
    assert_ne!(after["token"], before["token"]);
    assert_eq!(after["id"], before["id"]);
    // It is over, and this machine's clock does not know.
    let key = signing_key(&setting.cluster);
    let id: SessionId = after["id"].as_str().unwrap().parse().unwrap();
    let long_ago = trust::now() - std::time::Duration::from_secs(3600);
    let name = setting.cluster.name();
    let old = token::issue(&key, name, "admin", id, Role::Admin, 0, long_ago).unwrap();
    edit_session(&home, |session| session["token"]["token"] = json!(old.0));
    home.run(&["tag", "add", &setting.id, "three"]).with_code(0);
    let shown = home.run(&["show", &setting.id, "--json"]).with_code(0);
    assert_eq!(shown.json()["tags"], json!(["one", "three", "two"]));
    setting.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refreshing_on_one_client_never_makes_others_refresh() {
    let setting = Setting::new().await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let (door, ear, home) = setting.overheard().await;
        home.login("admin", ADMIN_PASSWORD).with_code(0);
        assert_eq!(ear.tokens_given(), 1);
        clients.push((door, ear, home));
    }
    for round in 0..5 {
        let_the_token_expire(&clients[0].2);
        let tag = format!("tag-{round}");
        clients[0]
            .2
            .run(&["tag", "add", &setting.id, &tag])
            .with_code(0);
    }
    assert_eq!(clients[0].1.tokens_given(), 6);
    for (_, ear, home) in &clients[1..] {
        home.run(&["show", &setting.id]).with_code(0);
        assert_eq!(ear.tokens_given(), 1, "its first token is still good");
    }
    setting.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_idle_clients_issue_three_tokens_a_lifetime() {
    let setting = Setting::new().await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let (door, ear, home) = setting.overheard().await;
        home.login("admin", ADMIN_PASSWORD).with_code(0);
        // Nobody does anything with it, but its stream must be kept alive.
        let mut url = Staying::start(home.command(&["url", &setting.id, "--json"]));
        assert!(url.line().contains("rtsp://"));
        clients.push((ear, url, door, home));
    }
    let given = |clients: &Vec<(Ear, _, _, _)>| -> Vec<usize> {
        clients
            .iter()
            .map(|client| client.0.tokens_given())
            .collect()
    };
    // Everybody logged in with one; two lifetimes later everybody has had two more.
    wait_at_most(4 * PATIENCE, "everybody renewed twice", async || {
        given(&clients).iter().all(|tokens| *tokens >= 3)
    })
    .await;
    let tokens: usize = given(&clients).iter().sum();
    println!("three idle clients were given {:?} tokens", given(&clients));
    // 9; one or two more may have been asked for again on a busy machine. If one's renewal made
    // others renew, it were 3 + 9 + 27.
    assert!(tokens <= 12, "{:?}", given(&clients));
    for (_, mut url, _, _) in clients {
        assert!(url.runs());
        assert_eq!(url.interrupt(), 0);
    }
    setting.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_password_is_never_shown_stored_or_sent_in_the_clear() {
    let setting = Setting::new().await;
    let (_door, ear, home) = setting.overheard().await;
    let (ada, new) = ("swordfish in the sea", "another sea, another fish");
    let mut words = vec![home.login("admin", ADMIN_PASSWORD).with_code(0)];
    let add = ["user", "add", "ada", "--password-stdin"];
    words.push(home.with_stdin(&add, &format!("{ada}\n")).with_code(0));
    words.push(home.login("ada", "swordfish in the lake").with_code(4));
    words.push(home.login("ada", ada).with_code(0));
    let passwd = ["user", "passwd", "--password-stdin"];
    words.push(
        home.with_stdin(&passwd, &format!("{ada}\n{new}\n"))
            .with_code(0),
    );
    let verbose = ["-vvv", "login", "ada", "--password-stdin", "--json"];
    words.push(home.with_stdin(&verbose, &format!("{new}\n")).with_code(0));
    // At the prompt, too.
    let typed = format!("login ada --password-stdin\n{new}\nstatus\nexit\n");
    words.push(home.with_stdin(&[], &typed));

    let heard = ear.heard();
    let all: Vec<&Vec<u8>> = heard.asked.iter().chain(&heard.answered).collect();
    assert!(tokens_in(&heard.answered.concat()) >= 3, "the ear hears");
    for password in [ADMIN_PASSWORD, ada, new, "swordfish in the lake"] {
        let bytes = password.as_bytes();
        assert!(!all.iter().any(|said| contains(said, bytes)), "it was sent");
        let kept = holding(home.dir.path(), bytes);
        assert!(kept.is_empty(), "it is kept in {kept:?}");
        for told in &words {
            let shown = told.stdout.contains(password) || told.stderr.contains(password);
            assert!(!shown, "it was shown: {told:?}");
        }
    }
    // Nor is what opens a session in its place kept or shown.
    for (user, password) in [("admin", ADMIN_PASSWORD), ("ada", ada), ("ada", new)] {
        let hash = prehash(user, password).0;
        let hex = hex::encode(hash);
        assert!(holding(home.dir.path(), &hash).is_empty());
        assert!(holding(home.dir.path(), hex.as_bytes()).is_empty());
        assert!(!words.iter().any(|told| told.stderr.contains(&hex)));
    }
    let file = home.session_file();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file), 0o600);
    assert_eq!(mode(file.parent().unwrap()), 0o700);
    setting.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn search_by_name_works_before_login() {
    let setting = Setting::new().await;
    let home = setting.stranger();
    for text in ["", "amelie", "PARIS", "lie a par"] {
        let told = home.run(&["search", text, "--json"]).with_code(0);
        assert_eq!(told.json()[0]["name"], "Amélie à Paris", "{text}");
    }
    let exact = home.run(&["search", "--exact", "amelie a paris", "--json"]);
    assert_eq!(exact.with_code(0).json().as_array().unwrap().len(), 1);
    let nothing = home.run(&["search", "--exact", "amelie", "--json"]);
    assert_eq!(nothing.with_code(0).json(), json!([]));
    // Everything else wants a login, and says so.
    for words in [
        &["show", &setting.id][..],
        &["search", "--tag", "drama"],
        &["tag", "add", &setting.id, "drama"],
        &["rename", &setting.id, "Other"],
        &["url", &setting.id],
        &["sdp", &setting.id],
        &["user", "list"],
        &["revoke", "admin"],
    ] {
        let told = home.run(words).with_code(4);
        assert!(told.stderr.contains("iceflix login"), "{words:?}: {told:?}");
        assert_eq!(told.stdout, "");
    }
    setting.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_results_stay_selectable() {
    let mut setting = Setting::new().await;
    let second = tempfile::tempdir().unwrap();
    film(&second.path().join("Zazie.mp4"), 2, 880);
    setting.cluster.add_node(second.path()).await;
    setting.cluster.until_complete().await;
    let films = setting.cluster.until_films(2).await;
    let home = setting.admin();
    // Another search that finds nothing, and other commands, leave the results as they were.
    let lines = "search\nsearch nothing like this\nstatus --json\nshow 2 --json\nselect 1\n\
                 tag add chosen\nshow --json\nshow 3\ndeselect\nshow\nshow 1 --json\nexit\n";
    let told = home.with_stdin(&[], lines);
    let shown: Vec<Value> = told
        .stdout
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(Value::is_object)
        .collect();
    let names: Vec<&str> = shown
        .iter()
        .filter_map(|film| film["name"].as_str())
        .collect();
    let (first, second) = (films[0].name.as_str(), films[1].name.as_str());
    assert_eq!(names, [second, first, first], "{told:?}");
    assert_eq!(shown[1]["tags"], json!(["chosen"]));
    setting.cluster.stop().await;
}
