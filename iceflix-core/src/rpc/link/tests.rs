//! Who gets in, and whom a caller believes: over real sockets, with whoever has no business here.

use super::*;
use crate::trust::{Authority, Credential, authority::CERTIFICATE_LIFETIME};
use rustls::{ClientConnection, sign::SingleCertAndKey};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};

/// How long things may take that take milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// How refusals begin that rustls found the reason for.
const NO_GOOD: &str = "invalid peer certificate";

/// Every one has this name: a name is nothing to go by.
fn cluster() -> Authority {
    Authority::create("home").unwrap()
}

fn name(kind: Kind) -> InstanceId {
    format!("{kind}-1").parse().unwrap()
}

fn issued(authority: &Authority, kind: Kind, lifetime: Duration) -> Credential {
    authority.issue(kind, &name(kind), lifetime).unwrap()
}

/// A credential that is over. The times in it are whole seconds, and the last one still counts.
async fn over(authority: &Authority, kind: Kind) -> Credential {
    let credential = issued(authority, kind, Duration::ZERO);
    while crate::trust::now().as_secs() <= credential.ends().as_secs() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    credential
}

fn service(credential: Credential) -> Security {
    Security::service(&Credentials::new(credential)).unwrap()
}

fn member(authority: &Authority, kind: Kind) -> Security {
    service(issued(authority, kind, CERTIFICATE_LIFETIME))
}

fn client(authority: &Authority) -> Security {
    Security::client(authority.fingerprint()).unwrap()
}

/// The certificate of one, sent along with another's authority, and signed for with a third's key.
fn forged(of: &Credential, along: &Credential, key: &Credential) -> Arc<CertifiedKey> {
    let chain = vec![of.certified().cert[0].clone(), along.authority().clone()];
    Arc::new(CertifiedKey::new(chain, Arc::clone(&key.certified().key)))
}

/// Somebody who does what our code does not: shows this at either end, whatever it is worth. All
/// else is as a member does it, so that a refusal is the other end's.
fn stranger(home: &Authority, shown: Arc<CertifiedKey>, protocol: &[u8]) -> Security {
    let member = member(home, Kind::Main);
    let shown = Arc::new(SingleCertAndKey::from(shown));
    let connectors = member.inner.connectors.each_ref().map(|connector| {
        let mut config = ClientConfig::clone(connector.config());
        config.client_auth_cert_resolver = Arc::clone(&shown) as _;
        config.alpn_protocols = vec![protocol.to_vec()];
        TlsConnector::from(Arc::new(config))
    });
    let acceptor = member.inner.acceptor.as_ref().unwrap();
    let mut config = ServerConfig::clone(acceptor.config());
    config.cert_resolver = shown;
    config.alpn_protocols = vec![protocol.to_vec()];
    Security {
        inner: Arc::new(Inner {
            fingerprint: home.fingerprint(),
            connectors,
            acceptor: Some(TlsAcceptor::from(Arc::new(config))),
            expelled: Expelled::default(),
        }),
    }
}

type Connected = io::Result<(Box<dyn Io>, Option<InstanceId>)>;
type Accepted = io::Result<(Box<dyn Io>, Peer)>;

fn refused<T>(result: io::Result<T>, why: &str) {
    let Err(error) = result else {
        panic!("not refused: {why}");
    };
    assert!(error.to_string().contains(why), "{error}, not {why}");
}

/// Accepts one connection after the other, and says what became of each.
struct Server {
    address: SocketAddr,
    accepted: mpsc::UnboundedReceiver<Accepted>,
}

impl Server {
    async fn start(security: &Security) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, accepted) = mpsc::unbounded_channel();
        let security = security.clone();
        // It ends with the test.
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let _ = tell.send(security.accept(tcp).await);
            }
        });
        Self { address, accepted }
    }

    async fn accepted(&mut self) -> Accepted {
        let accepted = tokio::time::timeout(PATIENCE, self.accepted.recv()).await;
        accepted.unwrap().unwrap()
    }

    /// What the caller says of it, and what the server says.
    async fn called_by(&mut self, caller: &Security, kind: Kind) -> (Connected, Accepted) {
        let connected = tokio::time::timeout(PATIENCE, caller.connect(kind, self.address)).await;
        (connected.unwrap(), self.accepted().await)
    }

    /// Whom the caller found, and who the caller was found to be.
    async fn lets_in(&mut self, caller: &Security, kind: Kind) -> (Option<InstanceId>, Peer) {
        let (connected, accepted) = self.called_by(caller, kind).await;
        let ((mut near, instance), (mut far, peer)) = (connected.unwrap(), accepted.unwrap());
        near.write_all(b"?").await.unwrap();
        near.flush().await.unwrap();
        let heard = tokio::time::timeout(PATIENCE, far.read_u8()).await;
        assert_eq!(heard.unwrap().unwrap(), b'?');
        (instance, peer)
    }

    /// What the caller says of it does not count: in TLS 1.3 it is done before the server has
    /// looked at its certificate.
    async fn refuses(&mut self, caller: &Security, why: &str) {
        let (_, accepted) = self.called_by(caller, Kind::Main).await;
        refused(accepted, why);
    }

    /// The caller says nothing to it: the server's end would be open, had it got any further.
    async fn is_refused_by(&mut self, caller: &Security, kind: Kind, why: &str) {
        let (connected, accepted) = self.called_by(caller, kind).await;
        refused(connected, why);
        refused(accepted, "");
    }
}

#[tokio::test]
async fn a_service_is_known_by_its_name_and_a_client_by_none() {
    let home = cluster();
    let mut server = Server::start(&member(&home, Kind::Main)).await;
    for kind in Kind::ALL {
        let (found, peer) = server.lets_in(&member(&home, kind), Kind::Main).await;
        assert_eq!(found, Some(name(Kind::Main)));
        assert_eq!(peer.local, server.address);
        assert_eq!((peer.role, peer.instance), (Some(kind), Some(name(kind))));
    }
    let (found, peer) = server.lets_in(&client(&home), Kind::Main).await;
    assert_eq!(found, Some(name(Kind::Main)));
    assert_eq!((peer.role, peer.instance), (None, None));
    // Whoever has no certificate cannot be called.
    let mut nobody = Server::start(&client(&home)).await;
    nobody.refuses(&client(&home), "answers no calls").await;
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let (home, other) = (cluster(), cluster());
    let own = issued(&home, Kind::Auth, CERTIFICATE_LIFETIME);
    let foreign = issued(&other, Kind::Auth, CERTIFICATE_LIFETIME);
    let mut server = Server::start(&member(&home, Kind::Main)).await;
    let posing = forged(&foreign, &own, &foreign);
    for shown in [foreign.certified(), posing] {
        let caller = stranger(&home, shown, PROTOCOL);
        server.refuses(&caller, NO_GOOD).await;
    }
    // It is not for being a stranger that it was refused.
    let good = stranger(&home, forged(&own, &own, &own), PROTOCOL);
    let (_, peer) = server.lets_in(&good, Kind::Main).await;
    assert_eq!(peer.role, Some(Kind::Auth));
}

#[tokio::test]
async fn a_server_of_another_authority_is_told_nothing() {
    let (home, other) = (cluster(), cluster());
    let own = issued(&home, Kind::Main, CERTIFICATE_LIFETIME);
    let foreign = issued(&other, Kind::Main, CERTIFICATE_LIFETIME);
    let posing = stranger(&home, forged(&foreign, &own, &foreign), PROTOCOL);
    let mut posing = Server::start(&posing).await;
    let good = stranger(&home, forged(&own, &own, &own), PROTOCOL);
    let mut good = Server::start(&good).await;
    let mut elsewhere = Server::start(&service(foreign)).await;
    for caller in [member(&home, Kind::Auth), client(&home)] {
        let why = "another cluster";
        elsewhere.is_refused_by(&caller, Kind::Main, why).await;
        posing.is_refused_by(&caller, Kind::Main, NO_GOOD).await;
        good.lets_in(&caller, Kind::Main).await;
    }
    elsewhere.lets_in(&client(&other), Kind::Main).await;
}

/// Certificates are no secret: whoever connects is shown one.
#[tokio::test]
async fn a_certificate_without_its_key_is_refused() {
    let home = cluster();
    let own = issued(&home, Kind::Main, CERTIFICATE_LIFETIME);
    let foreign = issued(&cluster(), Kind::Main, CERTIFICATE_LIFETIME);
    let thief = stranger(&home, forged(&own, &own, &foreign), PROTOCOL);
    let mut server = Server::start(&service(own)).await;
    server.refuses(&thief, NO_GOOD).await;
    let mut stolen = Server::start(&thief).await;
    for caller in [member(&home, Kind::Auth), client(&home)] {
        stolen.is_refused_by(&caller, Kind::Main, NO_GOOD).await;
        server.lets_in(&caller, Kind::Main).await;
    }
}

#[tokio::test]
async fn no_kind_of_service_is_taken_for_another() {
    let home = cluster();
    for own in Kind::ALL {
        let mut server = Server::start(&member(&home, own)).await;
        for caller in [member(&home, Kind::Main), client(&home)] {
            for wanted in Kind::ALL.into_iter().filter(|wanted| *wanted != own) {
                let why = format!("it is {own}, not {wanted}");
                server.is_refused_by(&caller, wanted, &why).await;
            }
            let (found, _) = server.lets_in(&caller, own).await;
            assert_eq!(found, Some(name(own)));
        }
    }
}

#[tokio::test]
async fn a_certificate_that_is_over_is_refused() {
    let home = cluster();
    let over = over(&home, Kind::Main).await;
    let late = stranger(&home, over.certified(), PROTOCOL);
    let mut server = Server::start(&member(&home, Kind::Main)).await;
    server.refuses(&late, "expired").await;
    let mut late = Server::start(&service(over)).await;
    for caller in [member(&home, Kind::Auth), client(&home)] {
        late.is_refused_by(&caller, Kind::Main, "expired").await;
        server.lets_in(&caller, Kind::Main).await;
    }
}

/// It could not get a new one otherwise.
#[tokio::test]
async fn a_service_whose_certificate_is_over_calls_as_a_client_until_it_is_renewed() {
    let home = cluster();
    let mut server = Server::start(&member(&home, Kind::Main)).await;
    let credentials = Credentials::new(over(&home, Kind::Auth).await);
    let caller = Security::service(&credentials).unwrap();
    let (_, peer) = server.lets_in(&caller, Kind::Main).await;
    assert_eq!((peer.role, peer.instance), (None, None));
    credentials.replace(issued(&home, Kind::Auth, CERTIFICATE_LIFETIME));
    let (_, peer) = server.lets_in(&caller, Kind::Main).await;
    assert_eq!(peer.instance, Some(name(Kind::Auth)));
}

#[tokio::test]
async fn who_was_expelled_is_neither_answered_nor_called() {
    let home = cluster();
    let (main, auth) = (member(&home, Kind::Main), member(&home, Kind::Auth));
    let mut server = Server::start(&main).await;
    server.lets_in(&auth, Kind::Main).await;
    // The server's is a clone of this one, made before.
    main.expel(HashSet::from([name(Kind::Auth)]));
    assert!(main.is_expelled(&name(Kind::Auth)) && !main.is_expelled(&name(Kind::Main)));
    server.refuses(&auth, "auth-1 was expelled").await;
    for other in [member(&home, Kind::Catalog), client(&home)] {
        server.lets_in(&other, Kind::Main).await;
    }
    main.expel(HashSet::new());
    server.lets_in(&auth, Kind::Main).await;
    for caller in [auth, client(&home)] {
        caller.expel(HashSet::from([name(Kind::Main)]));
        let why = "main-1 was expelled";
        server.is_refused_by(&caller, Kind::Main, why).await;
        caller.expel(HashSet::new());
        server.lets_in(&caller, Kind::Main).await;
    }
}

#[tokio::test]
async fn another_protocol_and_plain_bytes_are_refused() {
    let home = cluster();
    let mut server = Server::start(&member(&home, Kind::Main)).await;
    let good = issued(&home, Kind::Auth, CERTIFICATE_LIFETIME).certified();
    let other = stranger(&home, Arc::clone(&good), b"iceflix-rpc/0");
    server.refuses(&other, "known protocol").await;
    for plain in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64][..]] {
        let mut tcp = TcpStream::connect(server.address).await.unwrap();
        tcp.write_all(plain).await.unwrap();
        refused(server.accepted().await, "corrupt message");
    }
    let good = stranger(&home, good, PROTOCOL);
    server.lets_in(&good, Kind::Main).await;
}

/// The extension that offers TLS 1.3 and nothing else (RFC 8446, 4.2.1).
const OFFER: [u8; 7] = [0, 0x2b, 0, 3, 2, 3, 4];

#[tokio::test]
async fn tls_1_2_is_not_spoken() {
    let home = cluster();
    let mut server = Server::start(&member(&home, Kind::Main)).await;
    let client = client(&home);
    // As it is; TLS 1.2 instead; and without a word of versions, as before there was TLS 1.3.
    let (instead, unsaid) = ([0, 0x2b, 0, 3, 2, 3, 3], [0xfa, 0xfa, 0, 3, 2, 3, 4]);
    for (offer, is_refused) in [(OFFER, false), (instead, true), (unsaid, true)] {
        let config = Arc::clone(client.inner.connectors[0].config());
        let name = ServerName::try_from("main").unwrap();
        let mut hello = Vec::new();
        let mut connection = ClientConnection::new(config, name).unwrap();
        connection.write_tls(&mut hello).unwrap();
        let mut pieces = hello.windows(OFFER.len());
        let at = pieces.position(|bytes| bytes == OFFER).unwrap();
        hello[at..at + OFFER.len()].copy_from_slice(&offer);

        let mut tcp = TcpStream::connect(server.address).await.unwrap();
        tcp.write_all(&hello).await.unwrap();
        let mut answer = [0; 7];
        let reading = tokio::time::timeout(PATIENCE, tcp.read_exact(&mut answer)).await;
        reading.unwrap().unwrap();
        match is_refused {
            // An alert: protocol_version.
            true => assert_eq!((answer[0], answer[6]), (21, 70), "{answer:?}"),
            // A handshake that goes on.
            false => assert_eq!(answer[0], 22, "{answer:?}"),
        }
        drop(tcp);
        refused(server.accepted().await, "");
    }
    server.lets_in(&client, Kind::Main).await;
}
