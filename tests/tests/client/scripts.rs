//! What a script relies on: exit codes, JSON, files, and other commands at the same time.

use crate::setting::{Setting, let_the_token_expire, session};
use iceflix_core::service::Server;
use iceflix_tests::{
    cluster::ADMIN_PASSWORD,
    person::{Home, Staying, told},
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, path::Path, process::Stdio};

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_say_what_happened() {
    let mut setting = Setting::new().await;
    let (admin, id) = (setting.admin(), setting.id.clone());
    let user = |home: &Home, words: &[&str], password: &str, code| {
        home.with_stdin(words, &format!("{password}\n"))
            .with_code(code)
    };
    // 0, done.
    admin.run(&["search", "no such film"]).with_code(0);
    let add = ["user", "add", "ada", "--password-stdin"];
    user(&admin, &add, "engine", 0);
    // 1, failed.
    let told = user(&admin, &add, "other", 1);
    assert!(told.stderr.contains("exists"), "{told:?}");
    let told = admin.run(&["user", "remove", "admin"]).with_code(1);
    assert!(told.stderr.contains("last admin"), "{told:?}");
    // 2, wrong usage.
    for words in [
        &["shwo"][..],
        &["show"],
        &["show", "not-an-id"],
        &["search", "--limit", "0"],
        &["rename", &id, ""],
        &["tag", "add", &id, ""],
        &["--main", "nowhere", "status"],
    ] {
        admin.run(words).with_code(2);
    }
    // 3, not found.
    let unknown = "0".repeat(64);
    for words in [
        &["show", &unknown][..],
        &["tag", "add", &unknown, "x"],
        &["rename", &unknown, "x"],
        &["url", &unknown],
        &["user", "remove", "nobody"],
        &["revoke", "nobody"],
    ] {
        let told = admin.run(words).with_code(3);
        assert!(!told.stderr.is_empty(), "{words:?}");
    }
    // 4, not authorised.
    let ada = setting.stranger();
    ada.login("ada", "wrong").with_code(4);
    ada.login("nobody", "engine").with_code(4);
    ada.login("ada", "engine").with_code(0);
    for words in [
        &["user", "list"][..],
        &["rename", &id, "Mine"],
        &["user", "remove", "admin"],
        &["revoke", "admin"],
    ] {
        ada.run(words).with_code(4);
    }
    admin.run(&["revoke", "ada"]).with_code(0);
    let told = ada.run(&["show", &id]).with_code(4);
    assert!(told.stderr.contains("ended"), "{told:?}");
    admin.run(&["logout"]).with_code(0);
    admin.run(&["user", "list"]).with_code(4);
    admin.login("admin", ADMIN_PASSWORD).with_code(0);
    // Ending one's own sessions is done, and leaves none behind.
    admin.run(&["revoke", "admin"]).with_code(0);
    let told = admin.run(&["user", "list"]).with_code(4);
    assert!(told.stderr.contains("not logged in"), "{told:?}");
    admin.login("admin", ADMIN_PASSWORD).with_code(0);

    // 5, nothing available: one kind after another goes.
    let cluster = &mut setting.cluster;
    cluster.nodes.remove(0).shutdown().await;
    let told = admin.run(&["url", &id]).with_code(5);
    assert!(told.stderr.contains("no live node"), "{told:?}");
    let told = admin.run(&["show", &id, "--json"]).with_code(0);
    assert_eq!(told.json()["available"], false);
    cluster.catalogs.remove(0).shutdown().await;
    let told = admin.run(&["search"]).with_code(5);
    assert!(told.stderr.contains("catalog"), "{told:?}");
    cluster.auths.remove(0).shutdown().await;
    let_the_token_expire(&admin);
    admin.run(&["user", "list"]).with_code(5);
    cluster.mains.remove(0).shutdown().await;
    let told = admin.run(&["status"]).with_code(5);
    assert!(told.stderr.contains("make run-cluster"), "{told:?}");
    setting.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn json_has_the_shapes_that_scripts_expect() {
    let setting = Setting::new().await;
    let (home, cluster) = (setting.admin(), &setting.cluster);
    let before = home.run(&["--json", "status"]).with_code(0);
    assert_eq!(before.json(), home.run(&["status", "--json"]).json());
    assert_eq!(before.stdout.lines().count(), 1, "one document");
    let pid = std::process::id();
    let row = |kind: &str, at: std::net::SocketAddr| json!({"kind": kind, "instance": format!("{kind}-1"), "endpoint": at.to_string(), "pid": pid});
    assert_eq!(
        before.json(),
        json!([
            row("main", cluster.mains[0].address()),
            row("auth", cluster.auths[0].address()),
            row("catalog", cluster.catalogs[0].address()),
            row("streaming", cluster.nodes[0].address()),
        ])
    );

    home.run(&["tag", "add", &setting.id, "b", "a", "b"])
        .with_code(0);
    let found = home.run(&["search", "--json"]).with_code(0).json();
    let film = &found[0];
    let keys: BTreeSet<&str> = film
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let wanted = ["id", "name", "tags", "duration_s", "providers", "available"];
    assert_eq!(keys, BTreeSet::from(wanted));
    assert_eq!(film["id"], setting.id);
    assert_eq!(film["tags"], json!(["a", "b"]));
    assert!(
        (film["duration_s"].as_f64().unwrap() - 20.0).abs() < 0.5,
        "{film}"
    );
    assert_eq!(
        (&film["providers"], &film["available"]),
        (&json!(1), &json!(true))
    );
    for words in [
        ["--json", "search", "nothing"],
        ["search", "nothing", "--json"],
    ] {
        assert_eq!(home.run(&words).with_code(0).stdout, "[]\n");
    }

    // Printed at once, though the program keeps running.
    let mut url = Staying::start(home.command(&["url", &setting.id, "--json"]));
    let line: Value = serde_json::from_str(&url.line()).unwrap();
    assert!(url.runs());
    assert_eq!(line.as_object().unwrap().len(), 2);
    let (at, stream) = (
        line["url"].as_str().unwrap(),
        line["stream"].as_str().unwrap(),
    );
    assert!(
        at.starts_with("rtsp://127.0.0.1:") && at.ends_with(stream),
        "{line}"
    );
    assert_eq!(url.interrupt(), 0);
    // What is told are the tags that the film has then, as the catalogue keeps them.
    let tag = ["--json", "tag", "add", &setting.id, " zither ", "accordion"];
    let told = home.run(&tag).with_code(0).json();
    assert_eq!(told["id"], setting.id);
    let shown = home.run(&["show", &setting.id, "--json"]).with_code(0);
    assert_eq!(told["tags"], shown.json()["tags"]);
    let tags = told["tags"].as_array().unwrap();
    assert!(tags.contains(&json!("zither")) && tags.contains(&json!("accordion")));
    setting.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_commands_at_the_same_time_share_one_session() {
    let setting = Setting::new().await;
    let home = setting.admin();
    let before = session(&home);
    let_the_token_expire(&home);
    let started: Vec<_> = (0..20)
        .map(|n| {
            let tag = format!("tag-{n:02}");
            home.command(&["tag", "add", &setting.id, &tag])
                .spawn()
                .unwrap()
        })
        .collect();
    for child in started {
        told(child).with_code(0);
    }
    assert_eq!(session(&home)["id"], before["id"]);
    let shown = home
        .run(&["show", &setting.id, "--json"])
        .with_code(0)
        .json();
    let tags: Vec<String> = (0..20).map(|n| format!("tag-{n:02}")).collect();
    assert_eq!(shown["tags"], json!(tags));
    setting.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_pipe_is_no_error() {
    let setting = Setting::new().await;
    let home = setting.admin();
    for words in [
        &["search"][..],
        &["status", "--json"],
        &["show", &setting.id],
    ] {
        let mut child = home.command(words).stdout(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let told = told(child).with_code(0);
        assert_eq!(told.stderr, "", "{words:?}");
    }
    setting.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_config_file_is_found_where_it_is_said() {
    let setting = Setting::new().await;
    let (cluster, home) = (&setting.cluster, Home::new("", &[]));
    let told = home.run(&["status"]).with_code(2);
    assert!(told.stderr.contains("make run-cluster"), "{told:?}");
    // A dead Main in the list is passed over.
    let text = format!(
        "cluster = \"{}\"\nca = \"{}\"\nmains = [\"127.0.0.1:1\", \"{}\"]\n",
        cluster.name(),
        iceflix_tests::identity::authority(cluster.name()).fingerprint(),
        cluster.main_addresses()[0]
    );
    let put = |path: &Path| {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &text).unwrap();
    };
    let elsewhere = home.dir.path().join("elsewhere.toml");
    put(&elsewhere);
    let file = elsewhere.to_str().unwrap();
    home.run(&["--config", file, "status"]).with_code(0);
    let mut by_variable = home.command(&["status"]);
    told_ok(by_variable.env("ICEFLIX_CONFIG", file));
    for usual in [".iceflix/client.toml", "config/iceflix/client.toml"] {
        let path = home.dir.path().join(usual);
        put(&path);
        home.run(&["status"]).with_code(0);
        std::fs::remove_file(path).unwrap();
    }
    setting.cluster.stop().await;
}

fn told_ok(command: &mut std::process::Command) {
    told(command.spawn().unwrap()).with_code(0);
}
