use super::*;
use std::{fs, os::unix::fs::PermissionsExt as _, thread::sleep};

const QUICK: Schedule = Schedule {
    lifetime: Duration::from_millis(40),
    lead: Duration::from_millis(30),
    keep: Duration::from_millis(100),
};

/// Does what is due until a key has had its turn.
fn turn(keys: &Keyring) -> VerifyingKey {
    let before = keys.current().public();
    while keys.current().public() == before {
        sleep(keys.step().unwrap().wait);
    }
    keys.current().public()
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("signing.key");
    (dir, path)
}

#[test]
fn a_ring_is_private_and_goes_on_after_a_restart() {
    let (_dir, path) = place();
    let keys = Keyring::open(&path, QUICK).unwrap();
    let first = keys.announced();
    assert_eq!(first.len(), 2);
    let second = turn(&keys);
    assert_eq!(second, first[1], "the one that was announced");
    let before = keys.announced();
    assert!(before.contains(&first[0]), "it is still announced");
    drop(keys);
    let again = Keyring::open(&path, QUICK).unwrap();
    assert_eq!(again.announced(), before);
    assert_eq!(again.current().public(), second);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    turn(&again);
    while again.announced().contains(&first[0]) {
        sleep(again.step().unwrap().wait);
    }
    let text = fs::read_to_string(&path).unwrap();
    assert!(!text.contains(&hex::encode(first[0].0)), "it is forgotten");
}

#[test]
fn what_a_step_says_is_what_changed() {
    let (_dir, path) = place();
    let keys = Keyring::open(&path, QUICK).unwrap();
    let mut known = keys.announced();
    for _ in 0..20 {
        let step = keys.step().unwrap();
        known.retain(|key| !step.unsaid.contains(key));
        known.extend(&step.said);
        let mut said = keys.announced();
        known.sort();
        said.sort();
        assert_eq!(known, said);
        sleep(step.wait);
    }
}

#[test]
fn a_bare_key_of_an_earlier_release_is_taken_over() {
    let (_dir, path) = place();
    let key = SigningKey::generate().unwrap();
    fs::write(&path, format!("{}\n", hex::encode(key.to_bytes()))).unwrap();
    let keys = Keyring::open(&path, Schedule::default()).unwrap();
    assert_eq!(keys.current().public(), key.public());
    let announced = keys.announced();
    assert_eq!(announced.len(), 2);
    let again = Keyring::open(&path, Schedule::default()).unwrap();
    assert_eq!(again.announced(), announced, "the next one is kept, too");
}

#[test]
fn a_damaged_file_is_not_replaced() {
    let (_dir, path) = place();
    Keyring::open(&path, QUICK).unwrap();
    let good = fs::read_to_string(&path).unwrap();
    let later = good.replace("\"version\":1", "\"version\":2");
    for bad in ["", "nonsense", "{}", &good[..good.len() / 2], &later] {
        fs::write(&path, bad).unwrap();
        let opened = Keyring::open(&path, QUICK);
        assert!(matches!(opened, Err(KeyError::Malformed(_))), "{bad}");
        assert_eq!(fs::read_to_string(&path).unwrap(), bad);
    }
}

#[test]
fn a_clock_that_was_set_while_it_was_down_breaks_nothing() {
    let (_dir, path) = place();
    let schedule = Schedule {
        lifetime: Duration::from_secs(3600),
        ..QUICK
    };
    Keyring::open(&path, schedule).unwrap();
    let good = fs::read_to_string(&path).unwrap();
    let mut stored: Stored = serde_json::from_str(&good).unwrap();
    // The file is of the year 2286, or of 1970; and of a time that no clock shows.
    for (since, turns) in [(9_999_999_999, false), (u64::MAX, false), (0, true)] {
        stored.since = since;
        fs::write(&path, serde_json::to_vec(&stored).unwrap()).unwrap();
        let keys = Keyring::open(&path, schedule).unwrap();
        let first = keys.announced();
        assert_eq!(keys.step().unwrap().said, [], "nobody knows the next yet");
        sleep(QUICK.lead);
        keys.step().unwrap();
        assert_eq!(keys.current().public() != first[0], turns, "{since}");
    }
}

#[test]
fn a_full_disk_leaves_the_key_that_signs() {
    let (dir, path) = place();
    let keys = Keyring::open(&path, QUICK).unwrap();
    let before = keys.announced();
    sleep(QUICK.lifetime);
    // Not even root writes into a directory that is not there.
    fs::rename(dir.path(), dir.path().with_extension("away")).unwrap();
    assert!(matches!(keys.step(), Err(KeyError::File { .. })));
    assert_eq!(keys.announced(), before);
    fs::rename(dir.path().with_extension("away"), dir.path()).unwrap();
    assert_eq!(keys.step().unwrap().said.len(), 1);
    assert_eq!(keys.current().public(), before[1]);
}
