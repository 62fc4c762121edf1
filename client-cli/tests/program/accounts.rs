//! Sessions, and who may log in as what, as the program does it.

use crate::fake::{Fate, PASSWORD, home::Home};
use iceflix_core::api::SessionId;
use iceflix_core::api::auth::Role;
use serde_json::{Value, json};

fn login(home: &Home, user: &str, password: &str) -> i32 {
    let told = home.with_stdin(&["login", user, "--password-stdin"], password);
    told.code
}

/// How many sessions are kept in files here.
fn kept(home: &Home) -> usize {
    let dir = home.dir.path().join(".local/state/iceflix/sessions");
    let files = std::fs::read_dir(dir).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|name| name == "json"))
        .count()
}

/// Opens sessions with these ids for a user, as from other machines.
fn elsewhere(home: &Home, user: &str, ids: &[[u8; 16]]) {
    home.cluster.state(|state| {
        for id in ids {
            let session = (user.to_owned(), [0; 32]);
            state.sessions.insert(SessionId::from_bytes(*id), session);
        }
    });
}

#[test]
fn sessions_are_listed_and_ended_by_any_unique_beginning() {
    let home = Home::logged_in();
    let (mut a, mut b) = ([0xab; 16], [0xab; 16]);
    (a[15], b[15]) = (0, 1);
    elsewhere(&home, "admin", &[a, b]);
    elsewhere(&home, "ann", &[[0xcd; 16]]);
    let list = home.run(&["session", "list", "--json"]).json();
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), 3);
    assert_eq!(list.iter().filter(|row| row["current"] == true).count(), 1);
    let row = list.iter().find(|row| row["current"] == false).unwrap();
    assert_eq!(
        (&row["from"], &row["user"]),
        (&json!("10.0.0.7"), &json!("admin"))
    );
    let told = home.run(&["session", "list"]);
    assert_eq!(
        told.stdout.matches("this one").count(),
        1,
        "{}",
        told.stdout
    );
    assert!(told.stdout.contains(&hex::encode(a)), "{}", told.stdout);

    let several = home.run(&["session", "end", "abab"]);
    assert_eq!(several.code, 3);
    assert!(
        several.stderr.contains("several sessions"),
        "{}",
        several.stderr
    );
    assert_eq!(home.run(&["session", "end", "ffff"]).code, 3);
    assert_eq!(home.run(&["session", "end", &"ff".repeat(16)]).code, 3);
    let told = home.run(&["session", "end", &hex::encode(a)[..32], "--json"]);
    assert_eq!((told.code, told.json()), (0, json!({"id": hex::encode(a)})));
    assert_eq!(home.run(&["session", "end", "ABAB"]).code, 0);
    let left = home.cluster.state(|state| state.sessions.len());
    assert_eq!((left, kept(&home)), (2, 1), "one's own and ann's");

    // An admin sees and ends others'.
    let list = home.run(&["session", "list", "ann", "--json"]).json();
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(home.run(&["session", "end", "cdcd"]).code, 3);
    let told = home.run(&["session", "end", "cdcd", "--user", "ann"]);
    assert_eq!(told.code, 0, "{}", told.stderr);
}

#[test]
fn ending_the_present_session_is_a_logout() {
    let home = Home::logged_in();
    let list = home.run(&["session", "list", "--json"]).json();
    let id = list[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(home.run(&["session", "end", &id[..6]]).code, 0);
    assert!(home.cluster.state(|state| state.sessions.is_empty()));
    assert_eq!(kept(&home), 0, "what has ended is not kept");
    let after = home.run(&["session", "list"]);
    assert_eq!(after.code, 4);
    assert!(after.stderr.contains("not logged in"), "{}", after.stderr);
}

#[test]
fn the_prompt_lists_and_ends_sessions_too() {
    let home = Home::new();
    elsewhere(&home, "admin", &[[0xab; 16]]);
    let lines = format!(
        "login admin --password-stdin\n{PASSWORD}\nsession list --json\nsession end abab\n\
         session list --json"
    );
    let told = home.with_stdin(&[], &lines);
    let lists: Vec<Value> = told
        .stdout
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let counts: Vec<usize> = lists
        .iter()
        .map(|list| list.as_array().unwrap().len())
        .collect();
    assert_eq!(counts, [2, 1], "{}", told.stderr);
}

#[test]
fn users_are_disabled_and_enabled_and_given_roles() {
    let home = Home::logged_in();
    let add = ["user", "add", "ann", "--password-stdin"];
    assert_eq!(home.with_stdin(&add, "secret").code, 0);
    let told = home.run(&["user", "disable", "ann", "--json"]);
    assert_eq!((told.code, told.json()), (0, json!({"name": "ann"})));
    let list = home.run(&["user", "list", "--json"]).json();
    assert_eq!(list[1]["disabled"], true);
    let list = home.run(&["user", "list"]).stdout;
    assert!(list.contains("disabled"), "{list}");
    let anns = Home::beside(&home);
    let told = anns.with_stdin(&["login", "ann", "--password-stdin"], "secret");
    assert_eq!(told.code, 4);
    assert!(told.stderr.contains("ask an admin"), "{}", told.stderr);
    assert_eq!(home.run(&["user", "enable", "ann"]).code, 0);
    assert_eq!(login(&anns, "ann", "secret"), 0);
    // Whoever is no admin may none of that.
    for words in [
        &["user", "disable", "admin"][..],
        &["user", "enable", "ann"],
        &["user", "role", "ann", "admin"],
        &["session", "list", "admin"],
    ] {
        assert_eq!(anns.run(words).code, 4, "{words:?}");
    }
    let told = home.run(&["user", "role", "ann", "admin", "--json"]);
    assert_eq!(told.json(), json!({"name": "ann", "role": "admin"}));
    assert_eq!(
        home.cluster.state(|state| state.users["ann"].1),
        Role::Admin
    );
    for words in [
        &["user", "disable", "x"][..],
        &["user", "role", "x", "user"],
    ] {
        assert_eq!(home.run(words).code, 3, "{words:?}");
    }
}

#[test]
fn a_role_of_ones_own_that_stays_ends_nothing() {
    let home = Home::logged_in();
    assert_eq!(home.run(&["user", "role", "admin", "admin"]).code, 0);
    assert_eq!(kept(&home), 1);
    assert_eq!(home.run(&["user", "list"]).code, 0);
    // Another one does, also when the first answer was lost.
    home.cluster
        .state(|state| state.fates = vec![Fate::AnswerLost]);
    let told = home.run(&["user", "role", "admin", "user"]);
    assert_eq!((told.code, kept(&home)), (0, 0), "{}", told.stderr);
}

#[test]
fn who_tries_too_early_is_told_when_to_try_again() {
    let home = Home::new();
    home.cluster.state(|state| state.early = Some(64));
    let told = home.with_stdin(&["login", "admin", "--password-stdin"], PASSWORD);
    assert_eq!((told.code, told.stdout.as_str()), (4, ""));
    assert!(told.stderr.contains("try again in 64 s"), "{}", told.stderr);
}
