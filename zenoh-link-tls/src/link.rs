//! One link: a TLS connection and what is known of its other end.

use crate::TLS_LOCATOR_PREFIX;
use async_trait::async_trait;
use rustls::pki_types::CertificateDer;
use std::{
    fmt, io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    net::TcpStream,
    sync::Mutex,
    task::AbortHandle,
};
use tokio_rustls::TlsStream;
use tokio_util::sync::CancellationToken;
use zenoh_link_commons::{LinkAuthId, LinkUnicastTrait, get_ip_interface_names};
use zenoh_protocol::{
    core::{Locator, Priority},
    transport::BatchSize,
};
use zenoh_result::{ZResult, bail, zerror};
use zenoh_runtime::ZRuntime;

/// The most that zenoh gives a link at once, in bytes: it writes lengths with 16 bits.
const MTU: BatchSize = BatchSize::MAX;

/// How long saying goodbye to the other end may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// How often the clock is looked at while a certificate is good: timers stand still while a
/// machine sleeps.
const LOOK: Duration = Duration::from_secs(10);

type Stream = TlsStream<TcpStream>;

/// A link to another node.
pub(crate) struct TlsLink {
    reader: Mutex<ReadHalf<Stream>>,
    writer: Mutex<WriteHalf<Stream>>,
    address: SocketAddr,
    source: Locator,
    destination: Locator,
    peer: LinkAuthId,
    /// The other end's certificate is over.
    over: CancellationToken,
    watching: Option<AbortHandle>,
}

impl TlsLink {
    /// A link over a connection whose handshake is done; with `until_expiry` it ends with the other
    /// end's certificate.
    pub(crate) fn new(stream: Stream, until_expiry: bool) -> ZResult<Arc<Self>> {
        let (tcp, tls) = stream.get_ref();
        let (address, to) = (tcp.local_addr()?, tcp.peer_addr()?);
        // Small messages do not wait for large ones.
        tcp.set_nodelay(true)?;
        let locator =
            |address: SocketAddr| Locator::new(TLS_LOCATOR_PREFIX, address.to_string(), "");
        let certificates = tls.peer_certificates().unwrap_or_default();
        let peer = LinkAuthId::Tls(common_name(certificates)?);
        let over = CancellationToken::new();
        let ends = match until_expiry {
            true => ends(certificates)?,
            false => None,
        };
        let watching = ends.map(|ends| {
            let over = over.clone();
            let watching = ZRuntime::Acceptor.spawn(async move {
                while let Ok(left) = ends.duration_since(SystemTime::now()) {
                    tokio::time::sleep(left.min(LOOK)).await;
                }
                tracing::info!(peer = %to, "a node's certificate is over");
                over.cancel();
            });
            watching.abort_handle()
        });
        let (source, destination) = (locator(address)?, locator(to)?);
        let (reader, writer) = tokio::io::split(stream);
        Ok(Arc::new(Self {
            reader: Mutex::new(reader),
            writer: Mutex::new(writer),
            address,
            source,
            destination,
            peer,
            over,
            watching,
        }))
    }

    /// Does something on the connection, unless the other end's certificate is over.
    async fn while_good<T>(&self, doing: impl Future<Output = io::Result<T>>) -> ZResult<T> {
        tokio::select! {
            biased;
            () = self.over.cancelled() => bail!("{self}: the certificate is over"),
            done = doing => done.map_err(|error| zerror!("{self}: {error}").into()),
        }
    }
}

impl Drop for TlsLink {
    fn drop(&mut self) {
        if let Some(watching) = &self.watching {
            watching.abort();
        }
    }
}

impl fmt::Display for TlsLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} => {}", self.source, self.destination)
    }
}

#[async_trait]
impl LinkUnicastTrait for TlsLink {
    fn get_mtu(&self) -> BatchSize {
        MTU
    }

    fn get_src(&self) -> &Locator {
        &self.source
    }

    fn get_dst(&self) -> &Locator {
        &self.destination
    }

    fn is_reliable(&self) -> bool {
        true
    }

    fn is_streamed(&self) -> bool {
        true
    }

    fn get_interface_names(&self) -> Vec<String> {
        get_ip_interface_names(&self.address)
    }

    fn get_auth_id(&self) -> &LinkAuthId {
        &self.peer
    }

    async fn write(&self, buffer: &[u8], _: Option<Priority>) -> ZResult<usize> {
        let mut writer = self.writer.lock().await;
        self.while_good(writer.write(buffer)).await
    }

    async fn write_all(&self, buffer: &[u8], _: Option<Priority>) -> ZResult<()> {
        let mut writer = self.writer.lock().await;
        self.while_good(async {
            writer.write_all(buffer).await?;
            // What is encrypted may wait for room in the socket; a link has no other moment for it.
            writer.flush().await
        })
        .await
    }

    async fn read(&self, buffer: &mut [u8], _: Option<Priority>) -> ZResult<usize> {
        let mut reader = self.reader.lock().await;
        self.while_good(reader.read(buffer)).await
    }

    async fn read_exact(&self, buffer: &mut [u8], _: Option<Priority>) -> ZResult<()> {
        let mut reader = self.reader.lock().await;
        self.while_good(reader.read_exact(buffer)).await?;
        Ok(())
    }

    async fn close(&self) -> ZResult<()> {
        let goodbye = async { self.writer.lock().await.shutdown().await };
        match tokio::time::timeout(GOODBYE, goodbye).await {
            Ok(done) => done.map_err(|error| zerror!("{self}: {error}").into()),
            // The connection is closed when the link is dropped.
            Err(_) => bail!("{self}: the other end does not take a goodbye"),
        }
    }
}

/// The common name in the certificate of who is at the other end, if one was shown.
fn common_name(certificates: &[CertificateDer<'_>]) -> ZResult<Option<String>> {
    let Some(certificate) = certificates.first() else {
        return Ok(None);
    };
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate)?;
    let name = certificate.subject().iter_common_name().next();
    Ok(name.and_then(|name| name.as_str().ok()).map(str::to_owned))
}

/// When the first of these certificates ends.
fn ends(certificates: &[CertificateDer<'_>]) -> ZResult<Option<SystemTime>> {
    let mut first = None;
    for certificate in certificates {
        let (_, certificate) = x509_parser::parse_x509_certificate(certificate)?;
        let ends = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or_default();
        let ends = SystemTime::UNIX_EPOCH + Duration::from_secs(ends);
        first = Some(first.map_or(ends, |first: SystemTime| first.min(ends)));
    }
    Ok(first)
}
