//! The program itself, where no cluster is needed: usage, configs, exit codes, streams of output.

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The program in an empty directory, with an environment of its own.
fn iceflix(dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iceflix"));
    command
        .args(words)
        .current_dir(dir)
        .env_clear()
        .env("HOME", dir)
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null());
    command
}

fn run(words: &[&str]) -> (i32, String, String) {
    let dir = tempfile::tempdir().unwrap();
    told(iceflix(dir.path(), words).output().unwrap())
}

fn told(output: Output) -> (i32, String, String) {
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

/// An address where nobody listens.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn wrong_usage_exits_with_2_and_says_so_on_stderr() {
    for words in [
        &["nonsense"][..],
        &["show"],
        &["show", "xyz"],
        &["--main", "127.0.0.1:1", "show", "xyz"],
        &["--main", "127.0.0.1:1", "tag", "add", "not-an-id", "x"],
        &["--main", "127.0.0.1:1", "rename", "ü", "x"],
        &["--main", "127.0.0.1:1", "session", "end", "xyz"],
        &["user", "role", "ann", "king"],
        &["user", "disable"],
        &["--main", "127.0.0.1", "status"],
        &["--main", "127.0.0.1:1", "status"],
        &["--main", "127.0.0.1:1", "--ca", "12", "status"],
        &["--config", "absent.toml", "status"],
        &["search", "--limit", "0"],
        &["url"],
        &["tag", "add", "ab"],
        &["status", "--jsonn"],
    ] {
        let (code, stdout, stderr) = run(words);
        assert_eq!((code, stdout.as_str()), (2, ""), "{words:?}: {stderr}");
        assert!(!stderr.is_empty(), "{words:?}");
    }
}

#[test]
fn without_a_cluster_it_says_what_to_do() {
    for words in [
        &["status"][..],
        &["status", "--json"],
        &["search"],
        &["logout"],
    ] {
        let (code, stdout, stderr) = run(words);
        assert_eq!((code, stdout.as_str()), (2, ""), "{words:?}");
        assert!(stderr.contains("make run-cluster"), "{stderr}");
        assert!(stderr.contains("--main"), "{stderr}");
    }
}

#[test]
fn without_a_live_main_nothing_is_available() {
    let main = nobody();
    let ca = "00".repeat(32);
    for words in [
        &["status", "--main", &main][..],
        &["--json", "--main", &main, "status"],
        &["search", "--main", &main],
        &["--main", &main, "show", "ab"],
        &["--main", "name.invalid:7000", "status"],
    ] {
        let (code, stdout, stderr) = run(&[words, &["--ca", &ca]].concat());
        assert_eq!((code, stdout.as_str()), (5, ""), "{words:?}: {stderr}");
        assert!(stderr.contains("Main"), "{stderr}");
    }
}

#[test]
fn an_unknown_key_is_named_with_the_nearest() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join(".iceflix")).unwrap();
    let file = dir.path().join(".iceflix/client.toml");
    std::fs::write(&file, "mians = [\"127.0.0.1:1\"]\n").unwrap();
    let (code, _, stderr) = told(iceflix(dir.path(), &["status"]).output().unwrap());
    assert_eq!(code, 2);
    assert!(
        stderr.contains("`mians`") && stderr.contains("`mains`"),
        "{stderr}"
    );
    assert!(stderr.contains("client.toml"), "{stderr}");
}

/// A machine's invitation, which nobody made.
fn invitation(roles: &str) -> String {
    let (ca, secret) = ("0a".repeat(32), "0b".repeat(16));
    format!("iceflix1/home/{roles}/{}/{ca}/{secret}", nobody())
}

#[test]
fn an_invitation_to_stream_without_films_is_not_used_and_makes_nothing() {
    let line = invitation("streaming");
    let join = format!("--join={line}");
    for words in [
        &["cluster", "join", &line][..],
        &["cluster", "run", "--detach", &join],
        &["cluster", "run", &join],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (code, _, stderr) = told(iceflix(dir.path(), words).output().unwrap());
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains("MEDIA=DIR"), "{stderr}");
        assert!(!dir.path().join(".iceflix").exists(), "{words:?}");
    }
}

#[test]
fn who_was_not_let_in_makes_no_cluster_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let at = |words: &[&str]| told(iceflix(dir.path(), words).output().unwrap());
    // Its authenticator does not answer.
    let (code, _, stderr) = at(&["cluster", "join", &invitation("catalog")]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("secret was not sent"), "{stderr}");
    let (code, _, stderr) = at(&["cluster", "run"]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("JOIN=LINE"), "{stderr}");
    for made in ["ca", "cluster.toml", "client.toml"] {
        assert!(!dir.path().join(".iceflix").join(made).exists(), "{made}");
    }
}

#[test]
fn a_new_cluster_takes_no_invitation() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = iceflix(dir.path(), &["cluster", "init"]);
    command.env("ICEFLIX_JOIN", invitation("catalog"));
    let (code, _, stderr) = told(command.output().unwrap());
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("cluster join"), "{stderr}");
    assert!(!dir.path().join(".iceflix").exists());
}

#[test]
fn a_client_gets_to_know_a_cluster_and_forgets_none() {
    let dir = tempfile::tempdir().unwrap();
    let line = |ca: &str, main: &str| format!("iceflix1/home/client/{main}/{}", ca.repeat(32));
    let join = |words: &[&str], vars: &[(&str, &str)]| {
        let words = [&["cluster", "join"], words].concat();
        let mut command = iceflix(dir.path(), &words);
        told(command.envs(vars.iter().copied()).output().unwrap())
    };
    let own = dir.path().join(".config/iceflix/client.toml");
    let read = |file: &Path| std::fs::read_to_string(file).unwrap();
    let (code, _, stderr) = join(&[&line("0a", "10.0.0.1:7")], &[]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.trim_end().ends_with("iceflix login"), "{stderr}");
    assert!(read(&own).contains("10.0.0.1:7"));
    // The same cluster, elsewhere now.
    let (code, _, stderr) = join(&[&line("0a", "10.0.0.2:7")], &[]);
    assert_eq!(code, 0, "{stderr}");
    assert!(read(&own).contains("10.0.0.2:7"));
    // Another one does not take its place.
    let other = line("0b", "10.0.0.3:7");
    let (code, _, stderr) = join(&[&other], &[]);
    assert_eq!(code, 2, "{stderr}");
    assert!(
        stderr.contains(&"0a".repeat(32)) && stderr.contains("--config"),
        "{stderr}"
    );
    assert!(read(&own).contains("10.0.0.2:7"));
    let (code, _, stderr) = join(&[&other, "--config", "other.toml"], &[]);
    assert_eq!(code, 0, "{stderr}");
    assert!(read(&dir.path().join("other.toml")).contains("10.0.0.3:7"));
    assert!(
        stderr.trim_end().ends_with("login --config ./other.toml"),
        "{stderr}"
    );
    // Where another file comes first, that is said.
    let (code, _, stderr) = join(
        &[&line("0a", "10.0.0.2:7")],
        &[("ICEFLIX_CONFIG", "other.toml")],
    );
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("other.toml counts here"), "{stderr}");
    assert!(
        stderr.trim_end().ends_with("iceflix/client.toml"),
        "{stderr}"
    );
}

#[test]
fn help_and_version_go_to_stdout() {
    for words in [
        &["--help"][..],
        &["help", "search"],
        &["--version"],
        &["url", "--help"],
    ] {
        let (code, stdout, stderr) = run(words);
        assert_eq!((code, stderr.as_str()), (0, ""), "{words:?}");
        assert!(!stdout.is_empty());
    }
    let (_, help, _) = run(&["--help"]);
    for command in [
        "status", "login", "logout", "search", "show", "play", "url", "sdp", "tag", "rename",
        "user", "session", "revoke",
    ] {
        assert!(help.contains(command), "{command}");
    }
}

#[test]
fn a_closed_output_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = iceflix(dir.path(), &[]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    use std::io::Write;
    // It may have gone already, which is what is asked of it.
    let _ = child.stdin.take().unwrap().write_all(b"help\nhelp\nhelp\n");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_prompt_without_a_terminal_reads_lines_and_survives_errors() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = iceflix(dir.path(), &["--ca", &"00".repeat(32)]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    use std::io::Write;
    let mut stdin = child.stdin.take().unwrap();
    let main = nobody();
    let lines = format!(
        "nonsense\nstatus\nshow\nrename 'open\nselect\nconnect {main}\n\n# a remark\ndeselect\nstop\n\
         help select\nexit\nnever\n"
    );
    stdin.write_all(lines.as_bytes()).unwrap();
    drop(stdin);
    let (code, stdout, stderr) = told(child.wait_with_output().unwrap());
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("Choose a film"), "{stdout}");
    for words in [
        "nonsense",
        "not connected",
        "a quote is not closed",
        "no Main",
        "nothing is being",
    ] {
        assert!(stderr.contains(words), "{words}: {stderr}");
    }
    assert!(!stderr.contains("never"), "{stderr}");
}
