//! The program against services that answer as the contracts say: results, exit codes, sessions.

use crate::fake::home::{Home, told};
use crate::fake::{Fate, PASSWORD};
use iceflix_core::api::auth::Role;
use iceflix_core::trust::password::prehash;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Child;

#[test]
fn status_lists_the_live_instances() {
    let home = Home::new();
    let rows = home.run(&["status", "--json"]).json();
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 6);
    assert_eq!(rows[0]["kind"], "main");
    assert_eq!(rows[0]["endpoint"], home.cluster.main.to_string());
    assert_eq!(rows[0]["pid"], std::process::id());
    let told = home.run(&["status"]);
    assert_eq!(told.stdout.lines().count(), 7, "{}", told.stdout);
}

#[test]
fn a_session_is_kept_between_commands_and_can_be_ended() {
    let home = Home::new();
    let wrong = home.with_stdin(&["login", "admin", "--password-stdin"], "guess");
    assert_eq!((wrong.code, wrong.stdout.as_str()), (4, ""));
    let right = home.with_stdin(&["login", "Admin", "--password-stdin", "--json"], PASSWORD);
    assert_eq!(right.json(), json!({"user": "admin", "role": "admin"}));
    assert_eq!(home.run(&["user", "list"]).code, 0);
    assert_eq!(
        home.cluster.state(|state| state.issued),
        1,
        "the token was kept"
    );
    // Nothing that is kept is the password or its hash, and only its owner can read it.
    let hash = hex::encode(prehash("admin", PASSWORD).0);
    for path in sessions(&home) {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(path).unwrap();
        assert!(!text.contains(PASSWORD) && !text.contains(&hash));
    }
    assert_eq!(home.run(&["logout"]).code, 0);
    assert!(home.cluster.state(|state| state.sessions.is_empty()));
    let after = home.run(&["user", "list"]);
    assert_eq!((after.code, after.stdout.as_str()), (4, ""));
    assert!(after.stderr.contains("iceflix login"), "{}", after.stderr);
    assert_eq!(home.run(&["logout"]).code, 0);
}

#[test]
fn a_logout_ends_a_session_that_some_authenticators_have_not_heard_of() {
    let home = Home::new();
    let login = home.with_stdin(&["login", "admin", "--password-stdin"], PASSWORD);
    assert_eq!(login.code, 0, "{login:?}");
    home.cluster.state(|state| state.unheard = 3);
    assert_eq!(home.run(&["logout"]).code, 0);
    assert!(home.cluster.state(|state| state.sessions.is_empty()));
}

#[test]
fn who_is_logged_in_stays_so_where_some_authenticators_have_not_heard_of_it() {
    let home = Home::logged_in();
    home.cluster.film([0xab; 32], "film");
    home.cluster.state(|state| {
        state.tokens.clear();
        state.unheard = 3;
    });
    let told = home.run(&["show", "ab"]);
    assert_eq!(told.code, 0, "{told:?}");
    // Where none has, it is over, and a logout says that nobody was told.
    home.cluster.state(|state| {
        state.tokens.clear();
        state.unheard = 100;
    });
    let told = home.run(&["show", "ab"]);
    assert_eq!(told.code, 4, "{told:?}");
    assert!(told.stderr.contains("iceflix login"), "{}", told.stderr);
    let told = home.run(&["logout"]);
    assert_eq!(told.code, 3, "{told:?}");
    assert!(told.stderr.contains("forgotten here"), "{}", told.stderr);
    assert_eq!(home.run(&["logout"]).code, 0, "there is none any more");
}

#[test]
fn a_password_is_not_asked_for_without_a_terminal() {
    let home = Home::new();
    let told = home.run(&["login", "admin"]);
    assert_eq!(told.code, 2);
    assert!(told.stderr.contains("--password-stdin"), "{}", told.stderr);
    let told = home.run(&["login", "--password-stdin"]);
    assert_eq!(told.code, 2);
    assert!(told.stderr.contains("Password of admin"), "{}", told.stderr);
}

#[test]
fn a_refused_token_is_renewed_and_an_ended_session_says_so() {
    let home = Home::logged_in();
    let id = home.cluster.film([0xab; 32], "film");
    home.cluster.state(|state| state.tokens.clear());
    assert_eq!(home.run(&["show", "ab"]).code, 0);
    home.cluster.state(|state| state.sessions.clear());
    let told = home.run(&["show", "ab"]);
    assert_eq!(told.code, 4);
    assert!(told.stderr.contains("iceflix login"), "{}", told.stderr);
    // A search by name still works, as it does for anyone.
    let told = home.run(&["search", "--json"]);
    assert_eq!(
        (told.code, &told.json()[0]["id"]),
        (0, &json!(id.to_string()))
    );
    assert!(told.stderr.contains("ended"), "{}", told.stderr);
}

#[test]
fn commands_at_the_same_time_share_one_session() {
    let home = Home::logged_in();
    home.cluster.film([0xab; 32], "film");
    home.cluster.state(|state| state.tokens.clear());
    let children: Vec<Child> = (0..8)
        .map(|_| home.command(&["show", "ab", "--json"]).spawn().unwrap())
        .collect();
    for child in children {
        let told = told(child);
        assert_eq!(told.code, 0, "{}", told.stderr);
    }
    assert_eq!(home.run(&["show", "ab"]).code, 0);
}

#[test]
fn a_search_works_before_login_and_brings_all_pages() {
    let home = Home::new();
    assert_eq!(home.run(&["search", "--json"]).stdout, "[]\n");
    assert_eq!(home.run(&["search"]).stdout, "");
    for n in 0..1203u32 {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&n.to_be_bytes());
        home.cluster.film(id, &format!("film {n}"));
    }
    let all = home.run(&["--json", "search"]);
    assert_eq!((all.code, all.json().as_array().unwrap().len()), (0, 1203));
    assert_eq!(home.cluster.state(|state| state.pages), 5);
    let some = home
        .run(&["search", "film", "12", "--limit", "7", "--json"])
        .json();
    assert_eq!(some.as_array().unwrap().len(), 7);
    let one = home.run(&["search", "--exact", "film 1", "--json"]).json();
    assert_eq!(one[0]["name"], "film 1");
    assert_eq!(one.as_array().unwrap().len(), 1);
    assert_eq!(home.run(&["search", "--tag", "x", "--json"]).code, 4);
    assert_eq!(home.run(&["search", "nothing has this"]).code, 0);
}

#[test]
fn films_are_shown_tagged_and_named_by_any_unique_prefix() {
    let home = Home::logged_in();
    let id = home.cluster.film([0xab; 32], "film").to_string();
    home.cluster.film([0xac; 32], "other");
    assert_eq!(home.run(&["show", "a"]).code, 3);
    let told = home.run(&["show", "a"]);
    assert!(
        told.stderr.contains(&id) && told.stdout.is_empty(),
        "{}",
        told.stderr
    );
    assert_eq!(home.run(&["show", "ff"]).code, 3);
    assert_eq!(home.run(&["show", &"ff".repeat(32)]).code, 3);
    assert_eq!(home.run(&["show", &id, "--json"]).json()["name"], "film");
    // What is told is what the catalogue keeps.
    let told = home.run(&["tag", "add", "ab", " b ", "a", "b", "--json"]);
    assert_eq!(told.json(), json!({"id": id, "tags": ["a", "b"]}));
    let told = home.run(&["tag", "remove", "ab", "absent", "--json"]);
    assert_eq!(told.json(), json!({"id": id, "tags": ["a", "b"]}));
    let told = home.run(&["tag", "remove", "ac", "absent"]);
    assert!(told.stderr.contains("no tags"), "{}", told.stderr);
    assert_eq!(
        home.run(&["search", "--tag", "a", "--json"]).json()[0]["id"],
        *id
    );
    assert_eq!(home.run(&["tag", "remove", "AB", "a"]).code, 0);
    assert_eq!(
        home.run(&["search", "--tag", "a", "--json"]).json(),
        json!([])
    );
    assert_eq!(home.run(&["tag", "add", &"ff".repeat(32), "a"]).code, 3);
    assert_eq!(home.run(&["rename", "ab", "New name"]).code, 0);
    assert_eq!(
        home.run(&["show", "ab", "--json"]).json()["name"],
        "New name"
    );
}

#[test]
fn users_are_managed_by_admins_only() {
    let home = Home::logged_in();
    let add = ["user", "add", "ann", "--password-stdin", "--json"];
    let told = home.with_stdin(&add, "secret");
    assert_eq!(told.json(), json!({"name": "ann", "role": "user"}));
    let list = home.run(&["user", "list", "--json"]).json();
    assert_eq!(
        list[1],
        json!({"name": "ann", "role": "user", "created": 1, "disabled": false})
    );
    assert_eq!(
        home.with_stdin(&["user", "passwd", "ann", "--password-stdin"], "new")
            .code,
        0
    );
    let own = ["user", "passwd", "admin", "--password-stdin"];
    assert_eq!(home.with_stdin(&own, "one line").code, 2);
    assert_eq!(home.with_stdin(&own, "wrong\nnew").code, 4);
    assert_eq!(home.with_stdin(&own, &format!("{PASSWORD}\nnew")).code, 0);
    let new = prehash("admin", "new");
    assert_eq!(
        home.cluster.state(|state| state.users["admin"]),
        (new, Role::Admin)
    );
    assert_eq!(home.run(&["user", "remove", "nobody"]).code, 3);

    assert_eq!(
        home.with_stdin(&["login", "ann", "--password-stdin"], "new")
            .code,
        0
    );
    home.cluster.film([0xab; 32], "film");
    assert_eq!(home.run(&["user", "list"]).code, 4);
    assert_eq!(home.run(&["rename", "ab", "x"]).code, 4);
    assert_eq!(home.run(&["revoke", "admin"]).code, 4);
}

#[test]
fn a_revoked_user_has_no_session_left() {
    let home = Home::logged_in();
    let told = home.run(&["revoke", "Admin", "--json"]);
    assert_eq!((told.code, told.json()), (0, json!({"name": "Admin"})));
    assert!(home.cluster.state(|state| state.sessions.is_empty()));
    assert!(sessions(&home).is_empty(), "what has ended is not kept");
    // Somebody else's end is not one's own.
    let home = Home::logged_in();
    assert_eq!(home.run(&["revoke", "ann"]).code, 0);
    assert_eq!(sessions(&home).len(), 1);
}

/// The session files.
fn sessions(home: &Home) -> Vec<PathBuf> {
    let dir = home.dir.path().join(".local/state/iceflix/sessions");
    let entries = std::fs::read_dir(dir).unwrap();
    let files = entries.map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|name| name == "json"))
        .collect()
}

#[test]
fn ones_own_revocation_is_done_although_its_answer_is_lost() {
    let (own, other) = (&["revoke", "admin"], &["revoke", "ann"]);
    let removal = &["user", "remove", "admin"];
    // At the same time: each waits for an answer that does not come.
    std::thread::scope(|cases| {
        for (words, fates, code) in [
            (&own[..], vec![Fate::AnswerLost], 0),
            (own, vec![Fate::Lost], 0),
            (own, vec![Fate::Lost, Fate::AnswerLost], 0),
            (removal, vec![Fate::AnswerLost], 0),
            // Nobody knows whether that was done.
            (other, vec![Fate::Overtaken], 4),
        ] {
            cases.spawn(move || {
                let home = Home::logged_in();
                home.cluster.state(|state| state.fates.clone_from(&fates));
                let told = home.run(words);
                assert_eq!(told.code, code, "{words:?} {fates:?}: {}", told.stderr);
                assert!(home.cluster.state(|state| state.sessions.is_empty()));
                assert_eq!(sessions(&home).is_empty(), code == 0, "{words:?}");
            });
        }
    });
    // A session that had ended before has not been ended by this.
    for words in [&own[..], removal] {
        let home = Home::logged_in();
        home.cluster.state(|state| state.sessions.clear());
        let told = home.run(words);
        assert_eq!(told.code, 4, "{words:?}: {}", told.stderr);
        assert!(told.stderr.contains("has ended"), "{}", told.stderr);
    }
}

#[test]
fn the_prompt_remembers_results_and_the_selected_film() {
    let home = Home::new();
    home.cluster.film([0xab; 32], "Alpha");
    home.cluster.film([0xac; 32], "Beta");
    let told = home.with_stdin(
        &[],
        &format!(
            "search\nshow 2\nlogin admin --password-stdin\n{PASSWORD}\nsearch no such film\n\
             show 2 --json\nselect 1\nshow --json\ntag add good 'very good'\nrename Gamma\n\
             show --json\ntag add 2 seen\nsdp\nurl\nstop\nstop\ndeselect\nshow\nexit"
        ),
    );
    assert_eq!(told.code, 0, "{}", told.stderr);
    let shown: Vec<Value> = told
        .stdout
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(Value::is_object)
        .collect();
    let names: Vec<&str> = shown
        .iter()
        .map(|film| film["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["Beta", "Alpha", "Gamma"], "{}", told.stdout);
    assert_eq!(shown[2]["tags"], json!(["good", "very good"]));
    assert_eq!(
        home.run(&["search", "--tag", "seen", "--json"]).json()[0]["name"],
        "Beta"
    );
    assert!(told.stdout.contains("rtsp://"), "{}", told.stdout);
    for words in [
        "not logged in",
        "stopped Gamma",
        "nothing is being watched",
        "which film?",
    ] {
        assert!(told.stderr.contains(words), "{words}: {}", told.stderr);
    }
    assert!(!told.stderr.contains(PASSWORD));
    assert!(home.cluster.state(|state| state.streams.is_empty()));
}

#[test]
fn the_prompt_speaks_its_own_language() {
    let home = Home::logged_in();
    home.cluster.film([0xab; 32], "Alpha");
    for (lines, said) in [
        (
            "show 7",
            "the last result list has no number 7, and no film's id",
        ),
        ("search\nshow 2", "the last result list has no number 2"),
        ("shwo 1", "`help` lists the commands"),
        ("search --limit many", "a whole number from 1"),
        (
            "select ab\nrename New name",
            "a name of several words wants quotes",
        ),
        (
            "select ab\nrename New name of it",
            "a name of several words wants quotes",
        ),
        ("connect 127.0.0.1:1", "with `connect HOST:PORT`"),
    ] {
        let told = home.with_stdin(&[], lines);
        assert!(told.stderr.contains(said), "{lines}: {}", told.stderr);
        for of_the_shell in ["Usage: iceflix", "--help", "--main"] {
            assert!(
                !told.stderr.contains(of_the_shell),
                "{lines}: {}",
                told.stderr
            );
        }
    }
    // Outside the prompt there is no result list.
    let told = home.run(&["show", "7"]);
    assert_eq!(told.code, 3);
    assert!(!told.stderr.contains("list"), "{}", told.stderr);
}
