use super::*;
use crate::TlsConfigurator;
use base64::{Engine, prelude::BASE64_STANDARD};
use rand::RngCore;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::io::Write;
use zenoh_link_commons::ConfigurationInspector;

/// How long things may take that take milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn create() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { pem, issuer }
    }

    /// A certificate that ends so many seconds from now, and its key.
    fn certificate(&self, name: &str, seconds: i64) -> (String, String) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        let now = time::OffsetDateTime::now_utc();
        params.not_before = now - time::Duration::hours(1);
        params.not_after = now + time::Duration::seconds(seconds);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        (certificate, key.serialize_pem())
    }

    /// How a node is set up that this authority signed for.
    fn settings(&self, name: &str, seconds: i64) -> String {
        let (certificate, key) = self.certificate(name, seconds);
        settings(&[
            ("root_ca_certificate", &self.pem),
            ("listen_certificate", &certificate),
            ("listen_private_key", &key),
            ("connect_certificate", &certificate),
            ("connect_private_key", &key),
        ])
        .unwrap()
    }
}

/// What zenoh hands to a link for these texts.
fn settings(texts: &[(&str, &str)]) -> ZResult<String> {
    let mut all = zenoh_config::Config::default();
    let mut set = |key: &str, value: &str| {
        let key = format!("transport/link/tls/{key}");
        all.insert_json5(&key, value).unwrap();
    };
    for (key, text) in texts {
        let text = BASE64_STANDARD.encode(text);
        set(&format!("{key}_base64"), &format!("\"{text}\""));
    }
    set("enable_mtls", "true");
    set("verify_name_on_connect", "false");
    set("close_link_on_expiration", "true");
    TlsConfigurator.inspect_config(&all)
}

struct Node {
    manager: LinkManagerUnicastTls,
    new_links: flume::Receiver<LinkUnicast>,
    settings: String,
}

impl Node {
    fn new(settings: String) -> Self {
        let (sender, new_links) = flume::unbounded();
        Self {
            manager: LinkManagerUnicastTls::new(sender),
            new_links,
            settings,
        }
    }

    fn endpoint(&self, address: &str) -> EndPoint {
        EndPoint::new("tls", address, "", &self.settings).unwrap()
    }

    async fn listen(&self) -> String {
        let locator = self.manager.new_listener(self.endpoint("127.0.0.1:0"));
        locator.await.unwrap().address().as_str().to_owned()
    }

    async fn accepted(&self) -> LinkUnicast {
        let accepted = self.new_links.recv_async();
        tokio::time::timeout(PATIENCE, accepted)
            .await
            .unwrap()
            .unwrap()
    }

    async fn connect(&self, address: &str) -> ZResult<LinkUnicast> {
        let connecting = self.manager.new_link(self.endpoint(address));
        tokio::time::timeout(PATIENCE, connecting).await.unwrap()
    }
}

async fn pair(authority: &Authority) -> (LinkUnicast, LinkUnicast) {
    let (one, other) = (
        Node::new(authority.settings("one", 3600)),
        Node::new(authority.settings("other", 3600)),
    );
    let address = one.listen().await;
    let connected = other.connect(&address).await.unwrap();
    (one.accepted().await, connected)
}

/// Says many messages of all sizes, while as many are heard.
async fn talk(link: LinkUnicast, messages: u32) {
    let saying = {
        let link = link.clone();
        tokio::spawn(async move {
            for number in 0..messages {
                let length = message_length(number);
                let message = vec![number.to_le_bytes()[0]; length];
                link.write_all(&message, None).await.unwrap();
            }
        })
    };
    for number in 0..messages {
        let mut message = vec![0; message_length(number)];
        link.read_exact(&mut message, None).await.unwrap();
        let wanted = number.to_le_bytes()[0];
        assert!(
            message.iter().all(|&byte| byte == wanted),
            "message {number}"
        );
    }
    saying.await.unwrap();
}

fn message_length(number: u32) -> usize {
    match number % 50 {
        0 => 60_000,
        other => 1 + other as usize * 7,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ends_say_and_hear_at_the_same_time() {
    let authority = Authority::create();
    let (one, other) = pair(&authority).await;
    let both = async { tokio::join!(talk(one, 20_000), talk(other, 20_000)) };
    tokio::time::timeout(3 * PATIENCE, both).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_says_who_is_at_its_other_end() {
    let authority = Authority::create();
    let (accepted, connected) = pair(&authority).await;
    assert_eq!(accepted.get_auth_id().get_cert_common_name(), Some("other"));
    assert_eq!(connected.get_auth_id().get_cert_common_name(), Some("one"));
    assert_eq!(accepted.get_src(), connected.get_dst());
    assert_eq!(accepted.get_dst(), connected.get_src());
    // What was said before the goodbye still arrives, and then the end.
    connected.write_all(b"bye", None).await.unwrap();
    connected.close().await.unwrap();
    let mut heard = [0; 3];
    accepted.read_exact(&mut heard, None).await.unwrap();
    assert_eq!(&heard, b"bye");
    assert!(accepted.read_exact(&mut heard, None).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_no_good_certificate_gets_no_link() {
    let (authority, another) = (Authority::create(), Authority::create());
    let node = Node::new(authority.settings("one", 3600));
    let address = node.listen().await;
    // Of an authority of its own, though it trusts this one.
    let (certificate, key) = another.certificate("one", 3600);
    let foreign = settings(&[
        ("root_ca_certificate", &authority.pem),
        ("connect_certificate", &certificate),
        ("connect_private_key", &key),
    ])
    .unwrap();
    let none = foreign.replace("enable_mtls=true", "enable_mtls=false");
    for settings in [foreign, none, authority.settings("late", -1)] {
        let stranger = Node::new(settings);
        // It may hear only later that it was turned away.
        if let Ok(link) = stranger.connect(&address).await {
            let reading = link.read(&mut [0; 1], None).await;
            assert!(reading.is_err(), "{reading:?}");
        }
    }
    // And nobody connects to a node that the authority did not sign for.
    let foreign = Node::new(another.settings("one", 3600));
    let elsewhere = foreign.listen().await;
    let member = Node::new(authority.settings("other", 3600));
    assert!(member.connect(&elsewhere).await.is_err());
    // Members are let in all the while.
    member.connect(&address).await.unwrap();
    assert_eq!(
        node.accepted().await.get_auth_id().get_cert_common_name(),
        Some("other")
    );
    assert!(node.new_links.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_the_handshakes_of_others() {
    let authority = Authority::create();
    let node = Node::new(authority.settings("one", 3600));
    let address = node.listen().await;
    let member = Node::new(authority.settings("other", 3600));
    let mut held = Vec::new();
    let mut nonsense = [0; 64];
    rand::rng().fill_bytes(&mut nonsense);
    // More than may be at it, so that some go to make room.
    for number in 0..HANDSHAKES + 100 {
        let mut connection = std::net::TcpStream::connect(&address).unwrap();
        if number % 2 == 0 {
            let _ = connection.write_all(&nonsense);
        }
        held.push(connection);
    }
    member.connect(&address).await.unwrap();
    node.accepted().await;
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_ends_with_the_certificate_of_either_end() {
    let authority = Authority::create();
    for (listening, connecting) in [(3600, 3), (3, 3600)] {
        let one = Node::new(authority.settings("one", listening));
        let other = Node::new(authority.settings("other", connecting));
        let address = one.listen().await;
        let connected = other.connect(&address).await.unwrap();
        let accepted = one.accepted().await;
        let (expiring, lasting) = match listening < connecting {
            true => (accepted, connected),
            false => (connected, accepted),
        };
        expiring.write_all(b"!", None).await.unwrap();
        lasting.read_exact(&mut [0; 1], None).await.unwrap();
        let hearing = async { while lasting.read(&mut [0; 1], None).await.is_ok() {} };
        tokio::time::timeout(PATIENCE, hearing).await.unwrap();
        // Whatever it still says is not heard, and nothing is said to it.
        let _ = expiring.write_all(b"!", None).await;
        assert!(lasting.read(&mut [0; 1], None).await.is_err());
        assert!(lasting.write_all(b"!", None).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_was_deleted_takes_nobody() {
    let authority = Authority::create();
    let node = Node::new(authority.settings("one", 3600));
    let address = node.listen().await;
    let listening = node.manager.get_listeners().await;
    assert_eq!(listening.len(), 1);
    assert_eq!(node.manager.get_locators().await.len(), 1);
    node.manager.del_listener(&listening[0]).await.unwrap();
    assert!(node.manager.get_listeners().await.is_empty());
    let member = Node::new(authority.settings("other", 3600));
    assert!(member.connect(&address).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_settings_are_refused_without_showing_a_key() {
    let authority = Authority::create();
    let (certificate, key) = authority.certificate("one", 3600);
    let whole = [
        ("root_ca_certificate", authority.pem.as_str()),
        ("listen_certificate", certificate.as_str()),
        ("listen_private_key", key.as_str()),
    ];
    for missing in 0..whole.len() {
        let mut texts = whole.to_vec();
        let (name, _) = texts.remove(missing);
        let node = Node::new(settings(&texts).unwrap());
        let error = node
            .manager
            .new_listener(node.endpoint("127.0.0.1:0"))
            .await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("missing"), "{error}");
    }
    // A certificate where the key should be, and the other way round.
    let mut swapped = whole.to_vec();
    swapped[1].1 = &key;
    swapped[2].1 = &certificate;
    let node = Node::new(settings(&swapped).unwrap());
    let error = node
        .manager
        .new_listener(node.endpoint("127.0.0.1:0"))
        .await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("no private key") && !error.contains("BEGIN"),
        "{error}"
    );

    let mut files = zenoh_config::Config::default();
    files
        .insert_json5("transport/link/tls/listen_private_key", "\"x\"")
        .unwrap();
    files
        .insert_json5("transport/link/tls/verify_name_on_connect", "false")
        .unwrap();
    let error = TlsConfigurator.inspect_config(&files).unwrap_err();
    assert!(error.to_string().contains("_base64"), "{error}");
    let named = TlsConfigurator.inspect_config(&zenoh_config::Config::default());
    assert!(
        named
            .unwrap_err()
            .to_string()
            .contains("verify_name_on_connect")
    );
}
