//! What zenoh's configuration says about TLS. zenoh hands it to a link as text, a part of the
//! link's address that is never sent.

use base64::{Engine, prelude::BASE64_STANDARD};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    version::TLS13,
};
use secrecy::ExposeSecret;
use std::{sync::Arc, time::Duration};
use zenoh_link_commons::{
    ConfigurationInspector,
    tls::{WebPkiVerifierAnyServerName, config},
};
use zenoh_protocol::core::{endpoint::Config, parameters};
use zenoh_result::{ZResult, bail, zerror};

/// Makes text of the settings under `transport/link/tls`.
#[derive(Debug, Default, Clone, Copy)]
pub struct TlsConfigurator;

impl ConfigurationInspector<zenoh_config::Config> for TlsConfigurator {
    fn inspect_config(&self, all: &zenoh_config::Config) -> ZResult<String> {
        let tls = all.transport().link().tls();
        let files = [
            tls.root_ca_certificate(),
            tls.listen_certificate(),
            tls.listen_private_key(),
            tls.connect_certificate(),
            tls.connect_private_key(),
        ];
        if files.into_iter().any(Option::is_some) {
            bail!(
                "certificates and keys are taken as text only: use the settings that end with _base64"
            );
        }
        if tls.verify_name_on_connect().unwrap_or(true) {
            bail!("names are not verified: set verify_name_on_connect to false");
        }
        let texts = [
            (
                config::TLS_ROOT_CA_CERTIFICATE_BASE64,
                tls.root_ca_certificate_base64(),
            ),
            (
                config::TLS_LISTEN_CERTIFICATE_BASE64,
                tls.listen_certificate_base64(),
            ),
            (
                config::TLS_LISTEN_PRIVATE_KEY_BASE64,
                tls.listen_private_key_base64(),
            ),
            (
                config::TLS_CONNECT_CERTIFICATE_BASE64,
                tls.connect_certificate_base64(),
            ),
            (
                config::TLS_CONNECT_PRIVATE_KEY_BASE64,
                tls.connect_private_key_base64(),
            ),
        ];
        let texts = texts.iter().filter_map(|(key, text)| {
            let text = text.as_ref()?.expose_secret();
            Some((*key, text.as_str()))
        });
        let switch = |on: Option<bool>| {
            if on.unwrap_or_default() {
                "true"
            } else {
                "false"
            }
        };
        let switches = [
            (config::TLS_ENABLE_MTLS, switch(*tls.enable_mtls())),
            (
                config::TLS_CLOSE_LINK_ON_EXPIRATION,
                switch(*tls.close_link_on_expiration()),
            ),
        ];
        Ok(parameters::from_iter(texts.chain(switches)))
    }
}

/// Which of the two ends of a link this is.
#[derive(Debug, Clone, Copy)]
enum End {
    Listening,
    Connecting,
}

/// The settings of a link, from the text.
pub(crate) struct Settings<'a>(pub Config<'a>);

impl Settings<'_> {
    /// Whether both ends show a certificate.
    fn is_mutual(&self) -> bool {
        self.0.get(config::TLS_ENABLE_MTLS) == Some("true")
    }

    /// Whether a link ends with the other end's certificate.
    pub(crate) fn ends_with_certificate(&self) -> bool {
        self.0.get(config::TLS_CLOSE_LINK_ON_EXPIRATION) == Some("true")
    }

    /// How long the other end may take to show its certificate.
    pub(crate) fn handshake_timeout(&self) -> ZResult<Duration> {
        let millis = match self.0.get(config::TLS_HANDSHAKE_TIMEOUT_MS) {
            Some(text) => text.parse().map_err(|error| {
                zerror!("{} = {text}: {error}", config::TLS_HANDSHAKE_TIMEOUT_MS)
            })?,
            None => config::TLS_HANDSHAKE_TIMEOUT_MS_DEFAULT,
        };
        Ok(Duration::from_millis(millis))
    }

    /// For the end that listens.
    pub(crate) fn server(&self) -> ZResult<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| zerror!("{error}"))?;
        let builder = match self.is_mutual() {
            true => {
                let roots = Arc::new(self.roots()?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
                builder.with_client_cert_verifier(
                    verifier.build().map_err(|error| zerror!("{error}"))?,
                )
            }
            false => builder.with_no_client_auth(),
        };
        let (certificates, key) = self.own(End::Listening)?;
        let mut server = builder
            .with_single_cert(certificates, key)
            .map_err(|error| zerror!("the certificate to listen with: {error}"))?;
        // No session is resumed: every link shows a certificate, which may have been renewed.
        server.send_tls13_tickets = 0;
        Ok(server)
    }

    /// For the end that connects.
    pub(crate) fn client(&self) -> ZResult<ClientConfig> {
        let verifier = WebPkiVerifierAnyServerName::new(self.roots()?);
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| zerror!("{error}"))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut client = match self.is_mutual() {
            true => {
                let (certificates, key) = self.own(End::Connecting)?;
                builder
                    .with_client_auth_cert(certificates, key)
                    .map_err(|error| zerror!("the certificate to connect with: {error}"))?
            }
            false => builder.with_no_client_auth(),
        };
        client.resumption = Resumption::disabled();
        Ok(client)
    }

    /// Whose signatures are good.
    fn roots(&self) -> ZResult<RootCertStore> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates(config::TLS_ROOT_CA_CERTIFICATE_BASE64)? {
            roots
                .add(certificate)
                .map_err(|error| zerror!("the authority's certificate: {error}"))?;
        }
        Ok(roots)
    }

    fn own(&self, end: End) -> ZResult<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let (certificate, key) = match end {
            End::Listening => (
                config::TLS_LISTEN_CERTIFICATE_BASE64,
                config::TLS_LISTEN_PRIVATE_KEY_BASE64,
            ),
            End::Connecting => (
                config::TLS_CONNECT_CERTIFICATE_BASE64,
                config::TLS_CONNECT_PRIVATE_KEY_BASE64,
            ),
        };
        // Of a private key, no more is said than that it is none.
        let read = PrivateKeyDer::from_pem_slice(&self.text(key)?)
            .map_err(|_| zerror!("{key} is no private key in PEM"))?;
        Ok((self.certificates(certificate)?, read))
    }

    fn certificates(&self, key: &str) -> ZResult<Vec<CertificateDer<'static>>> {
        let text = self.text(key)?;
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        match certificates {
            Ok(certificates) if !certificates.is_empty() => Ok(certificates),
            _ => bail!("{key} holds no certificate in PEM"),
        }
    }

    fn text(&self, key: &str) -> ZResult<Vec<u8>> {
        let Some(encoded) = self.0.get(key) else {
            bail!("{key} is missing");
        };
        BASE64_STANDARD
            .decode(encoded)
            .map_err(|_| zerror!("{key} is not base64").into())
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
