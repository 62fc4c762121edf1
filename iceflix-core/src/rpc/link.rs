//! Connections: TLS 1.3, both ends of the same cluster, and who is at the other end.
//!
//! A service shows its certificate to whoever connects, and is shown the caller's if that is a
//! service, too. A client has none: it knows the cluster by its authority's fingerprint, which is
//! checked before a byte is sent. Whoever calls a kind of service takes no other kind for it.

use crate::{
    api::{Fingerprint, InstanceId, Kind},
    trust::{
        Credentials,
        credentials::{self, Name},
    },
};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, ServerConfig,
    SignatureScheme,
    client::{
        ResolvesClientCert, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert,
        WebPkiClientVerifier,
    },
    sign::CertifiedKey,
    version::TLS13,
};
use std::{
    collections::HashSet,
    fmt, io,
    net::SocketAddr,
    sync::{Arc, LazyLock, PoisonError, RwLock},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// How long opening a TCP connection may take. On a LAN an answer takes milliseconds; a machine that
/// is gone does not answer at all. How long the rest may take is the caller's to bound.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// What is spoken inside TLS (ALPN, RFC 7301).
const PROTOCOL: &[u8] = b"iceflix-rpc/1";

static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));

/// How connections are protected. Cheap to clone; clones share what is known of who was expelled.
#[derive(Clone)]
pub struct Security {
    inner: Arc<Inner>,
}

struct Inner {
    fingerprint: Fingerprint,
    /// One for each kind of service to be called, in the order of [`Kind::ALL`].
    connectors: [TlsConnector; 4],
    acceptor: Option<TlsAcceptor>,
    expelled: Expelled,
}

type Expelled = Arc<RwLock<HashSet<InstanceId>>>;

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Security({:?})", self.inner.fingerprint)
    }
}

/// A connection cannot be protected: most likely a credential that is damaged.
#[derive(Debug, thiserror::Error)]
#[error("connections cannot be encrypted: {0}")]
pub struct SecurityError(String);

fn unusable(error: impl fmt::Display) -> SecurityError {
    SecurityError(error.to_string())
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// The address of ours that it reached us by.
    pub local: SocketAddr,
    /// The role its certificate gives it; `None` for clients.
    pub role: Option<Kind>,
    /// Which instance its certificate names; `None` for clients.
    pub instance: Option<InstanceId>,
}

/// A stream of bytes, encrypted.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Security {
    /// That of a client, who knows the cluster by its fingerprint.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn client(fingerprint: Fingerprint) -> Result<Self, SecurityError> {
        Self::new(fingerprint, None)
    }

    /// That of a service. A renewed credential is used from the next connection on.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn service(credentials: &Credentials) -> Result<Self, SecurityError> {
        Self::new(credentials.now().fingerprint(), Some(credentials))
    }

    fn new(
        fingerprint: Fingerprint,
        credentials: Option<&Credentials>,
    ) -> Result<Self, SecurityError> {
        let expelled = Expelled::default();
        let shown = credentials.map(|credentials| Arc::new(Shown(credentials.clone())));
        let mut connectors = Vec::with_capacity(4);
        for kind in Kind::ALL {
            let verifier = Arc::new(Expecting {
                kind,
                fingerprint,
                expelled: Arc::clone(&expelled),
            });
            let config = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
                .with_protocol_versions(&[&TLS13])
                .map_err(unusable)?
                .dangerous()
                .with_custom_certificate_verifier(verifier);
            let mut config = match &shown {
                Some(shown) => config.with_client_cert_resolver(Arc::clone(shown) as _),
                None => config.with_no_client_auth(),
            };
            config.alpn_protocols = vec![PROTOCOL.to_vec()];
            // Who was expelled since must not come in by an earlier handshake.
            config.resumption = Resumption::disabled();
            connectors.push(TlsConnector::from(Arc::new(config)));
        }
        let connectors = connectors
            .try_into()
            .map_err(|_| unusable("a kind is missing"))?;
        let acceptor = match (credentials, shown) {
            (Some(credentials), Some(shown)) => Some(acceptor(credentials, shown)?),
            _ => None,
        };
        Ok(Self {
            inner: Arc::new(Inner {
                fingerprint,
                connectors,
                acceptor,
                expelled,
            }),
        })
    }

    /// What the cluster is known by.
    pub fn fingerprint(&self) -> Fingerprint {
        self.inner.fingerprint
    }

    /// Neither calls these instances nor answers them from now on.
    pub fn expel(&self, instances: HashSet<InstanceId>) {
        *self
            .inner
            .expelled
            .write()
            .unwrap_or_else(PoisonError::into_inner) = instances;
    }

    /// Whether an instance was expelled.
    pub fn is_expelled(&self, instance: &InstanceId) -> bool {
        is_expelled(&self.inner.expelled, instance)
    }

    /// Takes over a connection that was accepted. For how long is the caller's to bound: the other
    /// end may never say a word.
    ///
    /// # Errors
    /// When the other end is none of the cluster's, was expelled, or breaks off.
    pub async fn accept(&self, tcp: TcpStream) -> io::Result<(Box<dyn Io>, Peer)> {
        // Requests are small and somebody waits for the answer.
        tcp.set_nodelay(true)?;
        let (address, local) = (tcp.peer_addr()?, tcp.local_addr()?);
        let acceptor = self.inner.acceptor.as_ref();
        let acceptor = acceptor.ok_or_else(|| io::Error::other("a client answers no calls"))?;
        let tls = acceptor.accept(tcp).await?;
        let shown = tls.get_ref().1.peer_certificates();
        let name = match shown.and_then(<[CertificateDer]>::first) {
            Some(certificate) => Some(self.welcome(certificate)?),
            None => None,
        };
        let peer = Peer {
            address,
            local,
            role: name.as_ref().map(|name| name.kind),
            instance: name.map(|name| name.instance),
        };
        Ok((Box::new(tls), peer))
    }

    /// Whose certificate this is; its signature was checked.
    fn welcome(&self, certificate: &CertificateDer<'_>) -> io::Result<Name> {
        let (_, name) = credentials::name_of(certificate).map_err(io::Error::other)?;
        match self.is_expelled(&name.instance) {
            false => Ok(name),
            true => Err(io::Error::other(format!("{} was expelled", name.instance))),
        }
    }

    /// Opens a connection to a service of this kind, and says which instance it is.
    ///
    /// # Errors
    /// When nobody answers there in time, or somebody else than wanted.
    pub async fn connect(
        &self,
        kind: Kind,
        address: SocketAddr,
    ) -> io::Result<(Box<dyn Io>, Option<InstanceId>)> {
        let tcp = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        tcp.set_nodelay(true)?;
        // Not looked at: the certificate is to name the kind.
        let name = ServerName::try_from(kind.as_str()).map_err(io::Error::other)?;
        let connector = &self.inner.connectors[kind as usize];
        let tls = connector.connect(name, tcp).await?;
        let shown = tls.get_ref().1.peer_certificates();
        let name = shown
            .and_then(<[CertificateDer]>::first)
            .and_then(|certificate| credentials::name_of(certificate).ok());
        Ok((Box::new(tls), name.map(|(_, name)| name.instance)))
    }
}

fn is_expelled(expelled: &Expelled, instance: &InstanceId) -> bool {
    expelled
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .contains(instance)
}

fn acceptor(credentials: &Credentials, shown: Arc<Shown>) -> Result<TlsAcceptor, SecurityError> {
    let mut roots = RootCertStore::empty();
    roots
        .add(credentials.now().authority().clone())
        .map_err(unusable)?;
    // A client has no certificate; a service that shows one must show a good one.
    let callers =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&PROVIDER))
            .allow_unauthenticated()
            .build()
            .map_err(unusable)?;
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(&[&TLS13])
        .map_err(unusable)?
        .with_client_cert_verifier(callers)
        .with_cert_resolver(shown);
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Shows the present certificate, renewed or not.
#[derive(Debug)]
struct Shown(Credentials);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.now().certified())
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let now = self.0.now();
        // One that is over would be refused. Without any it is still a client, and may renew.
        (now.ends() > crate::trust::now()).then(|| now.certified())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Believes a service of one kind, of the cluster that the fingerprint is of.
#[derive(Debug)]
struct Expecting {
    kind: Kind,
    fingerprint: Fingerprint,
    expelled: Expelled,
}

impl Expecting {
    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        sent_along: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), String> {
        let authority = sent_along
            .iter()
            .find(|der| credentials::fingerprint(der) == self.fingerprint)
            .ok_or("it belongs to another cluster")?;
        let mut roots = RootCertStore::empty();
        let text = |error: TlsError| error.to_string();
        roots.add(authority.clone().into_owned()).map_err(text)?;
        let parsed = ParsedCertificate::try_from(certificate).map_err(text)?;
        let algorithms = PROVIDER.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], now, algorithms)
            .map_err(text)?;
        let (_, name) = credentials::name_of(certificate).map_err(|error| error.to_string())?;
        if name.kind != self.kind {
            return Err(format!("it is {}, not {}", name.kind, self.kind));
        }
        match is_expelled(&self.expelled, &name.instance) {
            true => Err(format!("{} was expelled", name.instance)),
            false => Ok(()),
        }
    }
}

impl ServerCertVerifier for Expecting {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        sent_along: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        self.check(certificate, sent_along, now)
            .map(|()| ServerCertVerified::assertion())
            .map_err(TlsError::General)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &PROVIDER.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests;
