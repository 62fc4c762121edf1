//! Opens links: by connecting, and by listening.

use crate::{link::TlsLink, settings::Settings};
use async_trait::async_trait;
use rustls::pki_types::ServerName;
use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;
use zenoh_link_commons::{
    BIND_INTERFACE, LinkManagerUnicastTrait, LinkUnicast, LinkUnicastTrait, ListenersUnicastIP,
    NewLinkChannelSender,
    tcp::{TcpSocketConfig, get_tcp_addrs},
};
use zenoh_protocol::core::{EndPoint, Locator, endpoint::Address};
use zenoh_result::{ZResult, zerror};

/// How many may show their certificates at a time; when there are more, the one that has been at
/// it for longest goes. Members need a few milliseconds.
const HANDSHAKES: usize = 1024;

/// How long accepting pauses when the system has no room for another connection.
const NO_ROOM: Duration = Duration::from_millis(100);

/// Opens TLS links for zenoh.
pub struct LinkManagerUnicastTls {
    new_links: NewLinkChannelSender,
    listeners: ListenersUnicastIP,
}

impl LinkManagerUnicastTls {
    /// Sends the links that others open to this node to `new_links`.
    pub fn new(new_links: NewLinkChannelSender) -> Self {
        Self {
            new_links,
            listeners: ListenersUnicastIP::new(),
        }
    }
}

/// The address to listen on.
async fn address(address: Address<'_>) -> ZResult<SocketAddr> {
    let unknown = zerror!("{address} is no address of this machine");
    let mut all = get_tcp_addrs(address).await?;
    Ok(all.next().ok_or(unknown)?)
}

#[async_trait]
impl LinkManagerUnicastTrait for LinkManagerUnicastTls {
    async fn new_link(&self, endpoint: EndPoint) -> ZResult<LinkUnicast> {
        let config = endpoint.config();
        let settings = Settings(endpoint.config());
        let connector = TlsConnector::from(Arc::new(settings.client()?));
        let sockets = TcpSocketConfig::new(None, None, config.get(BIND_INTERFACE), None, None);
        let addresses = get_tcp_addrs(endpoint.address()).await?;
        let (tcp, _, to) = sockets.new_link_first_reachable(addresses).await?;
        // Not verified: that the authority signed is what counts.
        let name = ServerName::IpAddress(to.ip().into());
        let stream = connector.connect(name, tcp).await;
        let stream = stream.map_err(|error| zerror!("TLS with {to}: {error}"))?;
        let link = TlsLink::new(stream.into(), settings.ends_with_certificate())?;
        Ok(LinkUnicast::from(link as Arc<dyn LinkUnicastTrait>))
    }

    async fn new_listener(&self, endpoint: EndPoint) -> ZResult<Locator> {
        let config = endpoint.config();
        let settings = Settings(endpoint.config());
        let sockets = TcpSocketConfig::new(None, None, config.get(BIND_INTERFACE), None, None);
        let wanted = address(endpoint.address()).await?;
        let greeting = Greeting {
            acceptor: TlsAcceptor::from(Arc::new(settings.server()?)),
            timeout: settings.handshake_timeout()?,
            until_expiry: settings.ends_with_certificate(),
            new_links: self.new_links.clone(),
        };
        let (listener, bound) = sockets.new_listener(&wanted)?;
        // The port may have been open; the host stays as it was said.
        let host = endpoint
            .address()
            .as_str()
            .rsplit_once(':')
            .map_or("", |(host, _)| host)
            .to_owned();
        let locator = Locator::new(
            endpoint.protocol(),
            format!("{host}:{}", bound.port()),
            endpoint.metadata(),
        )?;
        let listening = EndPoint::new(
            locator.protocol(),
            locator.address(),
            locator.metadata(),
            endpoint.config(),
        )?;
        let stop = self.listeners.token.child_token();
        let accepting = accept(listener, greeting, stop.clone());
        self.listeners
            .add_listener(listening, bound, accepting, stop)
            .await?;
        Ok(locator)
    }

    async fn del_listener(&self, endpoint: &EndPoint) -> ZResult<()> {
        let address = address(endpoint.address()).await?;
        self.listeners.del_listener(address).await
    }

    async fn get_listeners(&self) -> Vec<EndPoint> {
        self.listeners.get_endpoints()
    }

    async fn get_locators(&self) -> Vec<Locator> {
        self.listeners.get_locators()
    }

    async fn get_locators_noloopback(&self) -> Vec<Locator> {
        self.listeners.get_locators_noloopback()
    }
}

/// What is done with a connection that was accepted.
#[derive(Clone)]
struct Greeting {
    acceptor: TlsAcceptor,
    timeout: Duration,
    until_expiry: bool,
    new_links: NewLinkChannelSender,
}

impl Greeting {
    async fn greet(self, tcp: TcpStream, from: SocketAddr) {
        let stream = match tokio::time::timeout(self.timeout, self.acceptor.accept(tcp)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%from, %error, "somebody is no member");
                return;
            }
            Err(_) => {
                tracing::debug!(%from, "somebody shows no certificate");
                return;
            }
        };
        match TlsLink::new(stream.into(), self.until_expiry) {
            Ok(link) => {
                let link = LinkUnicast::from(link as Arc<dyn LinkUnicastTrait>);
                // Nobody takes it when the session is being closed.
                let _ = self.new_links.send_async(link).await;
            }
            Err(error) => tracing::debug!(%from, %error, "a link could not be opened"),
        }
    }
}

/// Accepts until it is told to stop. Nobody waits for another's handshake.
async fn accept(listener: TcpListener, greeting: Greeting, stop: CancellationToken) -> ZResult<()> {
    let mut greeted = JoinSet::new();
    // In the order in which they came.
    let mut order: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(_) = greeted.join_next() => {
                while order.front().is_some_and(AbortHandle::is_finished) {
                    order.pop_front();
                }
            }
            accepted = listener.accept() => match accepted {
                Ok((tcp, from)) => {
                    order.push_back(greeted.spawn(greeting.clone().greet(tcp, from)));
                    if order.len() > HANDSHAKES
                        && let Some(oldest) = order.pop_front()
                    {
                        oldest.abort();
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "a node's connection was not accepted");
                    tokio::time::sleep(NO_ROOM).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
