//! Streams of the real program: for whom they are, grants, and the list of all.

use crate::setting::Setting;
use iceflix_core::api::auth::Role;
use iceflix_tests::{
    cluster::{ADMIN_PASSWORD, wait_for},
    person::Staying,
    players::rtsp::Client,
};
use std::net::{IpAddr, Ipv4Addr};

const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// What the node answers to a player there who asks for a description.
async fn status(url: &str, from: IpAddr) -> u16 {
    let mut player = Client::connect_from(url, from).await.unwrap();
    player.request("DESCRIBE", "", &[]).await.unwrap().status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_is_for_this_machine_and_with_any_host_for_all() {
    let setting = Setting::new().await;
    let home = setting.admin();
    for (option, elsewhere) in [(None, 404), (Some("--any-host"), 200)] {
        let mut words = vec!["url", &setting.id];
        words.extend(option);
        let mut url = Staying::start(home.command(&words));
        let line = url.line();
        assert_eq!(status(line.trim(), Ipv4Addr::LOCALHOST.into()).await, 200);
        assert_eq!(status(line.trim(), ELSEWHERE).await, elsewhere);
        assert_eq!(url.interrupt(), 0);
    }
    // The description of a bound stream comes from the node itself.
    assert!(
        home.run(&["sdp", &setting.id])
            .with_code(0)
            .stdout
            .contains("m=video")
    );
    setting.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_granted_url_plays_elsewhere_after_the_logout_until_it_is_stopped() {
    let setting = Setting::new().await;
    setting
        .cluster
        .new_user("ada", "a password of hers", Role::User)
        .await;
    let home = setting.stranger();
    home.login("ada", "a password of hers").with_code(0);
    let too_long = home.run(&["url", &setting.id, "--for", "13h"]).with_code(2);
    assert!(too_long.stderr.contains("at most 12h"), "{too_long:?}");
    let granted = home.run(&["url", &setting.id, "--for", "4h", "--json"]);
    let granted = granted.with_code(0).json();
    let url = granted["url"].as_str().unwrap().to_owned();
    home.run(&["logout"]).with_code(0);
    let mut player = Client::connect_from(&url, ELSEWHERE).await.unwrap();
    player.play_interleaved().await.unwrap();
    player.read_packets(20).await.unwrap();

    // Who is somebody else does not see it; an admin does, and stops it.
    setting
        .cluster
        .new_user("bob", "a password of his", Role::User)
        .await;
    home.login("bob", "a password of his").with_code(0);
    let nothing = home.run(&["stream", "list", "--json"]).with_code(0);
    assert_eq!(nothing.json(), serde_json::json!([]));
    let handle = granted["handle"].as_str().unwrap();
    home.run(&["stream", "stop", handle]).with_code(3);
    home.login("admin", ADMIN_PASSWORD).with_code(0);
    let listed = home.run(&["stream", "list", "--json"]).with_code(0).json();
    assert_eq!(listed[0]["handle"], handle);
    assert_eq!(listed[0]["name"], "Amélie à Paris");
    assert_eq!(listed[0]["players"], 1);
    assert_eq!(listed[0]["until"], granted["until"]);
    home.run(&["stream", "stop", &handle[..12]]).with_code(0);
    wait_for("the URL is dead", async || {
        status(&url, ELSEWHERE).await == 404
    })
    .await;
    assert!(!player.read_for(std::time::Duration::from_secs(5)).await);
    setting.cluster.stop().await;
}
