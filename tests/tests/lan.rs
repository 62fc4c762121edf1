//! Clusters of several machines, as people make them: the first starts one, the second is let in with
//! a line, the third only watches.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

use iceflix_tests::{
    cluster::{film, wait_for},
    lan::Lan,
    machine::Machine,
    person::{Staying, told},
};
use std::{fs::File, path::Path, process::Stdio, sync::Arc};

#[tokio::test(flavor = "multi_thread")]
async fn a_film_on_one_machine_is_found_and_played_from_another() {
    let Some(lan) = Lan::new("ifl", 3) else {
        return;
    };
    let lan = Arc::new(lan);
    let dir = tempfile::tempdir().unwrap();
    let [first, second, third] =
        [1, 2, 3].map(|number| Machine::new(Some(Arc::clone(&lan)), number, dir.path()));
    let films = second.home.join("films");
    film(&films.join("Blue Ice.mp4"), 3, 440);

    // The first machine has no films. It answers where others reach it.
    let started = first.starts(&["--host", &first.address()], None);
    started.with_code(0);
    let invitation = first.invites(&["--role", "streaming,catalog"]);
    assert!(invitation.starts_with("iceflix1/"), "{invitation}");

    // A line that was tampered with shows its secret to nobody.
    let fingerprint = invitation.split('/').nth(4).unwrap();
    let forged = invitation.replace(fingerprint, &"00".repeat(32));
    let media = films.to_str().unwrap();
    let refused = second.types(&["cluster", "join", &forged, "--media", media]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(
        refused.stderr.contains("secret was not sent"),
        "{refused:?}"
    );

    let joined = second.starts(&["--media", media], Some(&invitation));
    let said = joined.with_code(0).stderr;
    assert!(said.contains("has joined"), "{said}");
    // It is good once.
    let again = third.types(&["cluster", "join", &invitation, "--media", media]);
    assert_eq!(again.code, 1, "{again:?}");
    assert!(again.stderr.contains("not good"), "{again:?}");

    // The third machine gets to know the cluster, and has no certificate.
    let known = first.invites(&["--client"]);
    third.types(&["cluster", "join", &known]).with_code(0);
    let mut login = third.command(&["login", "admin", "--password-stdin"]);
    let password = first.home.join(".iceflix/admin.password");
    let login = login.stdin(File::open(password).unwrap()).spawn();
    told(login.unwrap()).with_code(0);
    let status = third.types(&["status", "--json"]).with_code(0).json();
    let on = |machine: &Machine| {
        let all = status.as_array().unwrap().iter();
        let endpoints = all.map(|live| live["endpoint"].as_str().unwrap().to_owned());
        endpoints
            .filter(|at| at.starts_with(&machine.address()))
            .count()
    };
    assert_eq!((on(&first), on(&second)), (3, 2), "{status}");
    let mut id = String::new();
    wait_for("the film is found", async || {
        let found = third
            .types(&["search", "blue", "--json"])
            .with_code(0)
            .json();
        id = found[0]["id"].as_str().unwrap_or_default().to_owned();
        found[0]["available"] == true
    })
    .await;
    let mut url = Staying::start(third.command(&["url", &id]));
    let rtsp = url.line().trim().to_owned();
    assert!(rtsp.starts_with("rtsp://10.77.0.2:"), "{rtsp}");
    let play = |machine: &Machine| {
        let mut ffmpeg = lan.on(machine.number(), Path::new("ffmpeg"));
        ffmpeg
            .args([
                "-nostdin",
                "-v",
                "error",
                "-rtsp_transport",
                "tcp",
                "-i",
                &rtsp,
            ])
            .args(["-f", "null", "-progress", "-", "-"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        told(ffmpeg.spawn().unwrap())
    };
    let played = play(&third).with_code(0);
    let mut frames = played
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix("frame="));
    assert_eq!(frames.next_back(), Some("75"), "{played:?}");
    // It was made for the third machine.
    let elsewhere = play(&first);
    assert_ne!(elsewhere.code, 0);
    assert!(elsewhere.stderr.contains("404"), "{elsewhere:?}");
    assert_eq!(url.interrupt(), 0);

    // The second machine starts again without any line, and is expelled.
    second.types(&["cluster", "stop"]).with_code(0);
    second.starts(&["--media", media], None).with_code(0);
    let status = third.types(&["status", "--json"]).with_code(0).json();
    let all = status.as_array().unwrap().iter();
    let node = all
        .clone()
        .find(|live| live["kind"] == "streaming")
        .unwrap();
    let name = node["instance"].as_str().unwrap().to_owned();
    first.types(&["cluster", "expel", &name]).with_code(0);
    wait_for("it is gone", async || {
        let told = third.types(&["status", "--json"]);
        told.code == 0 && !told.stdout.contains(&name)
    })
    .await;
    let gone = third.types(&["play", &id]);
    assert_eq!(gone.code, 5, "{gone:?}");
    // Invited again, it returns under a new name with what it had.
    second.types(&["cluster", "stop"]).with_code(0);
    let invitation = first.invites(&["--role", "streaming"]);
    let joined = second.starts(&["--media", media], Some(&invitation));
    let said = joined.with_code(0).stderr;
    assert!(said.contains("has joined"), "{said}");
    assert!(
        said.contains("with streaming-1."),
        "the catalogue has a good certificate: {said}"
    );
    wait_for("the film is found again", async || {
        let found = third.types(&["search", "blue", "--json"]);
        found.code == 0 && found.json()[0]["available"] == true
    })
    .await;
    let status = third.types(&["status", "--json"]).with_code(0);
    assert!(!status.stdout.contains(&name), "{status:?}");
}

#[test]
fn a_join_that_was_interrupted_goes_on_with_the_same_line() {
    let dir = tempfile::tempdir().unwrap();
    let [first, second, third] = [1, 2, 3].map(|number| Machine::new(None, number, dir.path()));
    first.starts(&[], None).with_code(0);
    // Nobody has been told where other machines would reach it.
    let client = first.types(&["cluster", "invite", "--client"]);
    let said = client.with_code(0).stderr;
    assert!(said.contains("HOST=ADDRESS"), "{said}");
    let invitation = first.invites(&["--role", "catalog"]);
    let join = ["cluster", "join", invitation.as_str(), "--instances", "1"];

    // It ends after the invitation was redeemed and before anything of that is kept.
    let obstacle = second.state().join("cluster.toml.new");
    std::fs::create_dir_all(&obstacle).unwrap();
    let interrupted = second.types(&join).with_code(1);
    assert!(
        interrupted.stderr.contains("cluster.toml"),
        "{interrupted:?}"
    );
    std::fs::remove_dir(&obstacle).unwrap();
    let thief = third.types(&join).with_code(1);
    assert!(thief.stderr.contains("not good"), "{thief:?}");

    // A start makes no cluster of its own meanwhile.
    let alone = second.starts(&[], None).with_code(1);
    assert!(alone.stderr.contains("JOIN=LINE"), "{alone:?}");
    for made in ["ca", "client.toml"] {
        assert!(!second.state().join(made).exists(), "{made}");
    }

    let joined = second.types(&join).with_code(0);
    assert!(joined.stderr.contains("has joined"), "{joined:?}");
    let record = second.record();
    assert!(record.contains(&second.instance()), "{record}");
    assert!(!second.state().join("joining.toml").exists());
    // Taken up once more it changes nothing, and the machine is one of the cluster.
    let again = second.starts(&[], Some(&invitation)).with_code(0);
    assert!(again.stderr.contains("was not used"), "{again:?}");
    let status = first.types(&["status", "--json"]).with_code(0).json();
    assert_eq!(status.as_array().unwrap().len(), 4, "{status}");
    assert_eq!(second.record(), record);
}

#[test]
fn a_machine_that_lost_its_record_is_invited_again() {
    let dir = tempfile::tempdir().unwrap();
    let [first, second] = [1, 2].map(|number| Machine::new(None, number, dir.path()));
    first.starts(&[], None).with_code(0);
    let join = |invitation: &str| {
        let words = ["cluster", "join", invitation, "--instances", "1"];
        second.types(&words)
    };
    join(&first.invites(&["--role", "catalog"])).with_code(0);
    let before = second.instance();
    std::fs::remove_file(second.state().join("cluster.toml")).unwrap();
    let alone = second.starts(&[], None).with_code(1);
    assert!(alone.stderr.contains("JOIN=LINE"), "{alone:?}");
    assert!(!second.state().join("ca").exists());

    // This time it is interrupted when the record is there and the certificate is not.
    let invitation = first.invites(&["--role", "catalog"]);
    let identity = second.state().join("catalog-1/identity");
    let obstacle = identity.join("cert.pem.new");
    std::fs::create_dir(&obstacle).unwrap();
    let interrupted = join(&invitation).with_code(1);
    assert!(interrupted.stderr.contains("cert.pem"), "{interrupted:?}");
    let record = second.record();
    let alone = second.starts(&[], None).with_code(1);
    assert!(alone.stderr.contains("same JOIN=LINE"), "{alone:?}");
    std::fs::remove_dir(&obstacle).unwrap();
    join(&invitation).with_code(0);
    let now = second.instance();
    assert_ne!(now, before);
    assert!(record.contains(&now), "{record}");
    second.starts(&[], None).with_code(0);
    let status = first.types(&["status", "--json"]).with_code(0).json();
    let all = status.as_array().unwrap().iter();
    assert_eq!(
        all.filter(|live| live["instance"] == *now).count(),
        1,
        "{status}"
    );
}
