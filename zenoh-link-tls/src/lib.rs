//! TLS links for zenoh, in place of the crate of the same name that zenoh brings along.
//!
//! That one reads and writes a TLS connection on two tasks at the same time without a lock, which
//! rustls does not allow ([zenoh issue 2557]): now and then a write fails with "handshake not
//! complete" and the link is lost, and worse can happen to the memory. With nodes that say a few
//! words a second, one of twenty links was lost every minute or so. Here a connection is
//! split the way tokio splits streams, with a lock that is held while bytes are encrypted or
//! decrypted and never while anyone waits.
//!
//! Other differences are on purpose, too: a certificate and key are given as text (`…_base64`),
//! not as files; names are never verified, only that the authority signed; sessions are not resumed,
//! so that every link shows its certificate; a failed handshake keeps nobody else from connecting;
//! and when a certificate ends, what its owner still says is not read any more.
//!
//! [zenoh issue 2557]: https://github.com/eclipse-zenoh/zenoh/issues/2557

mod link;
mod manager;
mod settings;

pub use manager::LinkManagerUnicastTls;
pub use settings::TlsConfigurator;

use async_trait::async_trait;
use zenoh_link_commons::LocatorInspector;
use zenoh_protocol::core::Locator;
use zenoh_result::ZResult;

/// How addresses of such links begin: `tls/ADDRESS:PORT`.
pub const TLS_LOCATOR_PREFIX: &str = "tls";

/// Says what addresses of such links promise.
#[derive(Debug, Default, Clone, Copy)]
pub struct TlsLocatorInspector;

#[async_trait]
impl LocatorInspector for TlsLocatorInspector {
    fn protocol(&self) -> &str {
        TLS_LOCATOR_PREFIX
    }

    async fn is_multicast(&self, _: &Locator) -> ZResult<bool> {
        Ok(false)
    }

    fn is_reliable(&self, _: &Locator) -> ZResult<bool> {
        Ok(true)
    }
}
