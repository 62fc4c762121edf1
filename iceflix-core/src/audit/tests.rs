use super::*;
use proptest::prelude::*;
use serde_json::Value;
use std::{fs, path::PathBuf, time::Instant};
use tempfile::TempDir;

fn place() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    (dir, path)
}

fn auth_1() -> InstanceId {
    "auth-1".parse().unwrap()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn a_line_says_who_did_what_to_what_from_where_and_how_it_ended() {
    let (dir, path) = place();
    let audit = Audit::open(dir.path(), Kind::Auth, &auth_1()).unwrap();
    let session = SessionId::from_bytes([0xab; 16]);
    let stream = StreamId::from_bytes([0xcd; 16]);
    let event = Event::refused("rename", "not_admin")
        .user("ada")
        .session(session);
    audit.record(&event.from("::ffff:10.0.0.7".parse().unwrap()));
    let film = MediaId::from_bytes([7; 32]);
    audit.record(
        &Event::ended("stream", "stopped")
            .on_film(film)
            .stream(&stream),
    );
    audit.record(&Event::done("add_user").on_user("bob"));
    audit.flush().await;
    let said = lines(&path);
    let text = |n: usize, field: &str| said[n][field].as_str().unwrap_or("-").to_owned();
    for (field, value) in [
        ("service", "auth"),
        ("instance", "auth-1"),
        ("action", "rename"),
        ("outcome", "refused"),
        ("reason", "not_admin"),
        ("user", "ada"),
        ("session", "abababab"),
        ("from", "10.0.0.7"),
        ("object", "-"),
    ] {
        assert_eq!(text(0, field), value, "{field}");
    }
    let time = text(0, "time");
    assert!(time.starts_with("20") && time.ends_with('Z'), "{time}");
    assert_eq!(text(1, "object"), format!("film:{film}"));
    assert_eq!(text(1, "stream").len(), 8);
    assert_ne!(text(1, "stream"), "cdcdcdcd");
    assert_eq!(text(2, "object"), "user:bob");
    assert_eq!(said.len(), 3);
}

#[tokio::test]
async fn a_slow_disk_holds_nobody_up_and_what_was_lost_is_counted() {
    let (_dir, path) = place();
    let file = LogFile::open(&path, LONGEST, OLD_FILES).unwrap();
    // A disk that does nothing at all: nobody runs what writes.
    let (audit, writing) = Audit::prepare(file, 10, Kind::Auth, &auth_1());
    let start = Instant::now();
    for _ in 0..10_000 {
        audit.record(&Event::done("login").user("ada"));
    }
    assert!(start.elapsed() < Duration::from_secs(5));
    // It is back.
    std::thread::spawn(writing);
    audit.flush().await;
    audit.record(&Event::done("logout").user("ada"));
    audit.flush().await;
    let said = lines(&path);
    let lost: u64 = said.iter().filter_map(|line| line["count"].as_u64()).sum();
    let logins = said.iter().filter(|line| line["action"] == "login").count();
    assert_eq!((lost, logins, said.len()), (9_990, 10, 12));
}

#[tokio::test]
async fn a_disk_that_fails_for_a_while_leaves_whole_lines_and_a_count() {
    let (dir, path) = place();
    let audit = Audit::open(dir.path(), Kind::Auth, &auth_1()).unwrap();
    audit.record(&Event::done("login"));
    audit.flush().await;
    // Not even root can write to what is a directory.
    fs::rename(&path, dir.path().join("kept")).unwrap();
    fs::create_dir(&path).unwrap();
    for _ in 0..3 {
        audit.record(&Event::done("login"));
    }
    audit.flush().await;
    fs::remove_dir(&path).unwrap();
    audit.record(&Event::done("logout"));
    audit.flush().await;
    let said = lines(&path);
    assert_eq!(
        (&said[0]["outcome"], &said[0]["count"]),
        (&"lost".into(), &3.into())
    );
    assert_eq!((&said[1]["action"], said.len()), (&"logout".into(), 2));
}

#[tokio::test]
async fn a_request_is_written_once_also_when_nobody_waits_for_its_end() {
    let (dir, path) = place();
    let audit = Audit::open(dir.path(), Kind::Auth, &auth_1()).unwrap();
    let begin = |action| audit.begin(action, |event| event.user("ada"));
    begin("login").ends(None);
    begin("logout").ends(Some("session_ended"));
    drop(begin("add_user"));
    audit.flush().await;
    let said = lines(&path);
    for (line, outcome) in said.iter().zip(["done", "refused", "abandoned"]) {
        assert_eq!(
            (&line["outcome"], &line["user"]),
            (&outcome.into(), &"ada".into())
        );
    }
    assert_eq!(said.len(), 3);
}

#[test]
fn a_million_bytes_of_name_are_one_short_line() {
    for name in [
        "\n".repeat(1 << 20),
        "\u{1b}[31m".repeat(1 << 18),
        "ü".repeat(1 << 20),
    ] {
        let line = encode(
            Kind::Auth,
            &auth_1(),
            &Event::done("login").user(&name).name(&name),
        );
        assert!(line.len() < 1000, "{}", line.len());
        assert!(serde_json::from_slice::<Value>(&line).is_ok());
    }
}

proptest! {
    #[test]
    fn whatever_the_names_are_it_is_one_line_that_shows_no_other(name in "\\PC*|.*|[\\x00-\\x7f\\u{202e}\\u{2028}]*") {
        let event = Event::done("login").user(&name).on_user(&name).name(&name);
        let line = String::from_utf8(encode(Kind::Auth, &auth_1(), &event)).unwrap();
        let odd = |c: char| c.is_control() || ('\u{2028}'..='\u{202e}').contains(&c);
        prop_assert!(!line.contains(odd), "{}", line);
        let read: Value = serde_json::from_str(&line).unwrap();
        prop_assert!(read["user"].as_str().unwrap().chars().count() <= LONGEST_TEXT + 1);
        prop_assert_eq!(&read["action"], "login");
    }
}

#[tokio::test]
async fn a_flood_of_refusals_does_not_rotate_out_what_was_done() {
    let (dir, path) = place();
    let audit = Audit::open(dir.path(), Kind::Auth, &auth_1()).unwrap();
    audit.record(&Event::done("set_role").on_user("mallory"));
    // Three times what all files of the log hold.
    for n in 0..1_000_000u32 {
        audit.record(&Event::refused("login", "wrong_credentials").from([10, 0, 0, 7].into()));
        if n % 10_000 == 0 {
            audit.flush().await;
        }
    }
    audit.flush().await;
    let said = lines(&path);
    assert_eq!(said[0]["action"], "set_role");
    let one_by_one = said.iter().filter(|line| line["action"] == "login").count();
    let counted = said.iter().filter(|line| line["outcome"] == "refused");
    let counted: u64 = counted.filter_map(|line| line["count"].as_u64()).sum();
    assert!((500..10_000).contains(&one_by_one), "{one_by_one}");
    assert_eq!(one_by_one as u64 + counted, 1_000_000);
}
