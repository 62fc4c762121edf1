//! A service's certificate: who it is, for how long, and the private key that proves it.
//!
//! The subject's common name is the *role* (`main`, `auth`, `catalog`, `streaming`), which is what
//! the bus's access rules look at; a URI among the alternative names says the instance and the
//! cluster: `iceflix://{cluster}/{kind}/{instance}`.

use super::authority::CertificateError;
use crate::{
    api::{Fingerprint, InstanceId, Kind},
    files::{private_dir, write_private},
};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    crypto::ring::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use sha2::{Digest, Sha256};
use std::{fmt, path::Path, sync::Arc, time::Duration};
use tokio::sync::watch;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The names of its files in a directory.
const AUTHORITY_FILE: &str = "ca.pem";
const CERTIFICATE_FILE: &str = "cert.pem";
const KEY_FILE: &str = "key.pem";

/// Whom a certificate stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name {
    /// What it is: its role.
    pub kind: Kind,
    /// Which instance.
    pub instance: InstanceId,
}

impl Name {
    pub(super) fn uri(&self, cluster: &str) -> String {
        format!("iceflix://{cluster}/{}/{}", self.kind, self.instance)
    }

    fn parse(uri: &str) -> Option<(String, Self)> {
        let mut parts = uri.strip_prefix("iceflix://")?.split('/');
        let (cluster, kind, instance) = (parts.next()?, parts.next()?, parts.next()?);
        let name = Self {
            kind: kind.parse().ok()?,
            instance: instance.parse().ok()?,
        };
        parts.next().is_none().then(|| (cluster.to_owned(), name))
    }
}

/// A new private key, for which a certificate is yet to be had.
pub struct NewKey(KeyPair);

impl NewKey {
    /// A new one.
    ///
    /// # Errors
    /// When the operating system gives no random numbers.
    pub fn generate() -> Result<Self, CertificateError> {
        Ok(Self(KeyPair::generate()?))
    }

    /// The private key, in PEM: a secret, for a file of its owner's.
    pub fn key_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// Asks an authority for a certificate for it (PKCS #10, DER).
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn request(&self) -> Result<Vec<u8>, CertificateError> {
        let request = CertificateParams::default().serialize_request(&self.0)?;
        Ok(request.der().to_vec())
    }

    /// The credential, once there is a certificate.
    ///
    /// # Errors
    /// When the certificate is for another key or of another authority.
    pub fn credential(
        &self,
        authority_pem: &str,
        certificate_pem: &str,
    ) -> Result<Credential, CertificateError> {
        Credential::from_pem(authority_pem, certificate_pem, &self.key_pem())
    }
}

/// A certificate with its private key. Never shown. Cheap to clone.
#[derive(Clone)]
pub struct Credential {
    inner: Arc<Inner>,
}

struct Inner {
    name: Name,
    cluster: String,
    authority: CertificateDer<'static>,
    authority_pem: String,
    certificate_pem: String,
    key_pem: String,
    begins: Duration,
    ends: Duration,
    certified: Arc<CertifiedKey>,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Name { kind, instance } = self.name();
        write!(f, "Credential({kind} {instance}, …)")
    }
}

fn foreign(reason: impl fmt::Display) -> CertificateError {
    CertificateError::Foreign(reason.to_string())
}

/// What a certificate says.
struct Said {
    cluster: String,
    name: Name,
    begins: Duration,
    ends: Duration,
    public_key: Vec<u8>,
}

fn time_of(time: x509_parser::time::ASN1Time) -> Duration {
    Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

fn read(der: &CertificateDer<'_>) -> Result<Said, CertificateError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(foreign)?;
    let names = certificate.subject_alternative_name().map_err(foreign)?;
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let mut uris = names.filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let (cluster, name) = uris
        .next()
        .and_then(Name::parse)
        .ok_or_else(|| foreign("it does not name an instance"))?;
    let role = certificate.subject().iter_common_name().next();
    let role = role.and_then(|role| role.as_str().ok());
    if role != Some(name.kind.as_str()) {
        return Err(foreign("its role is not its instance's"));
    }
    let validity = certificate.validity();
    Ok(Said {
        cluster,
        name,
        begins: time_of(validity.not_before),
        ends: time_of(validity.not_after),
        public_key: certificate.public_key().raw.to_vec(),
    })
}

/// Whom a certificate stands for, and in which cluster. Whether to believe it is not looked at.
///
/// # Errors
/// When it is not a service's.
pub fn name_of(der: &CertificateDer<'_>) -> Result<(String, Name), CertificateError> {
    read(der).map(|said| (said.cluster, said.name))
}

/// What an authority's certificate says.
pub(super) struct AuthoritySaid {
    pub(super) cluster: String,
    pub(super) public_key: Vec<u8>,
}

pub(super) fn authority(der: &CertificateDer<'_>) -> Result<AuthoritySaid, CertificateError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(foreign)?;
    let cluster = certificate.subject().iter_common_name().next();
    let cluster = cluster.and_then(|name| name.as_str().ok());
    match cluster {
        Some(cluster) if certificate.is_ca() => Ok(AuthoritySaid {
            cluster: cluster.to_owned(),
            public_key: certificate.public_key().raw.to_vec(),
        }),
        _ => Err(foreign("it is not an authority's")),
    }
}

/// Whom a certificate stood for that this authority once made, and its public key. It may be over.
pub(super) fn once_good(
    pem: &str,
    by: &CertificateDer<'_>,
) -> Result<(Name, Vec<u8>), CertificateError> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(foreign)?;
    let said = read(&der)?;
    let (_, certificate) = X509Certificate::from_der(&der).map_err(foreign)?;
    let (_, issuer) = X509Certificate::from_der(by).map_err(foreign)?;
    certificate
        .verify_signature(Some(issuer.public_key()))
        .map_err(|_| foreign("this cluster's authority did not sign it"))?;
    match said.cluster == authority(by)?.cluster {
        true => Ok((said.name, said.public_key)),
        false => Err(foreign("it belongs to another cluster")),
    }
}

/// What an authority's certificate is known by.
pub fn fingerprint(der: &CertificateDer<'_>) -> Fingerprint {
    Fingerprint::from_bytes(Sha256::digest(der).into())
}

/// What the cluster is known by whose certificate is in a directory.
///
/// # Errors
/// When it is missing or damaged.
pub fn fingerprint_in(dir: &Path) -> Result<Fingerprint, CertificateError> {
    let path = dir.join(AUTHORITY_FILE);
    let text = std::fs::read(&path).map_err(CertificateError::file(&path))?;
    CertificateDer::from_pem_slice(&text)
        .map(|der| fingerprint(&der))
        .map_err(|error| CertificateError::damaged(&path, error))
}

impl Credential {
    /// The credential of these three texts, in PEM: the authority's certificate, the service's, and
    /// the service's private key.
    ///
    /// # Errors
    /// When they are damaged or do not belong together.
    pub fn from_pem(
        authority_pem: &str,
        certificate_pem: &str,
        key_pem: &str,
    ) -> Result<Self, CertificateError> {
        let authority =
            CertificateDer::from_pem_slice(authority_pem.as_bytes()).map_err(foreign)?;
        let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(foreign)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(foreign)?;
        once_good(certificate_pem, &authority)?;
        let said = read(&der)?;
        let key = any_supported_type(&key).map_err(foreign)?;
        // The authority is sent along: that is what clients know the cluster by.
        let certified = CertifiedKey::new(vec![der, authority.clone()], key);
        certified.keys_match().map_err(foreign)?;
        Ok(Self {
            inner: Arc::new(Inner {
                name: said.name,
                cluster: said.cluster,
                authority,
                authority_pem: authority_pem.to_owned(),
                certificate_pem: certificate_pem.to_owned(),
                key_pem: key_pem.to_owned(),
                begins: said.begins,
                ends: said.ends,
                certified: Arc::new(certified),
            }),
        })
    }

    /// Whether a directory holds one.
    pub fn is_in(dir: &Path) -> bool {
        dir.join(CERTIFICATE_FILE).exists()
    }

    /// The one in a directory.
    ///
    /// # Errors
    /// When its files are missing or damaged.
    pub fn load(dir: &Path) -> Result<Self, CertificateError> {
        let read = |name| {
            let path = dir.join(name);
            std::fs::read_to_string(&path).map_err(CertificateError::file(&path))
        };
        let (authority, key) = (read(AUTHORITY_FILE)?, read(KEY_FILE)?);
        Self::from_pem(&authority, &read(CERTIFICATE_FILE)?, &key)
            .map_err(|error| CertificateError::damaged(&dir.join(CERTIFICATE_FILE), error))
    }

    /// Writes it into a directory, for its owner only.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn save(&self, dir: &Path) -> Result<(), CertificateError> {
        private_dir(dir).map_err(CertificateError::file(dir))?;
        // The certificate last, which is what says that there is one. A renewed one is for the key
        // that is there.
        for (name, text) in [
            (AUTHORITY_FILE, &self.inner.authority_pem),
            (KEY_FILE, &self.inner.key_pem),
            (CERTIFICATE_FILE, &self.inner.certificate_pem),
        ] {
            let path = dir.join(name);
            write_private(&path, text.as_bytes()).map_err(CertificateError::file(&path))?;
        }
        Ok(())
    }

    /// Whom it stands for.
    pub fn name(&self) -> &Name {
        &self.inner.name
    }

    /// The cluster it belongs to.
    pub fn cluster(&self) -> &str {
        &self.inner.cluster
    }

    /// Since when it is good, since 1970.
    pub fn begins(&self) -> Duration {
        self.inner.begins
    }

    /// When it is over, since 1970.
    pub fn ends(&self) -> Duration {
        self.inner.ends
    }

    /// What the cluster is known by.
    pub fn fingerprint(&self) -> Fingerprint {
        fingerprint(&self.inner.authority)
    }

    /// The authority's certificate.
    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.inner.authority
    }

    /// The authority's certificate, in PEM.
    pub fn authority_pem(&self) -> &str {
        &self.inner.authority_pem
    }

    /// The certificate itself, in PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.inner.certificate_pem
    }

    /// Its private key, in PEM: for the bus.
    pub(crate) fn key_pem(&self) -> &str {
        &self.inner.key_pem
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.inner.certified)
    }

    /// Asks an authority for another certificate for the same key (PKCS #10, DER).
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn request(&self) -> Result<Vec<u8>, CertificateError> {
        NewKey(KeyPair::from_pem(&self.inner.key_pem)?).request()
    }

    /// The same with a new certificate.
    ///
    /// # Errors
    /// When it is for another key, another instance or of another authority.
    pub fn with_certificate(&self, certificate_pem: &str) -> Result<Self, CertificateError> {
        let inner = &self.inner;
        let renewed = Self::from_pem(&inner.authority_pem, certificate_pem, &inner.key_pem)?;
        match renewed.name() == self.name() {
            true => Ok(renewed),
            false => Err(foreign("it is another instance's")),
        }
    }
}

/// A service's present credential: everyone who holds this sees a renewed one. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Credentials {
    current: watch::Sender<Credential>,
}

impl Credentials {
    /// Begins with this one.
    pub fn new(first: Credential) -> Self {
        Self {
            current: watch::Sender::new(first),
        }
    }

    /// The present one.
    pub fn now(&self) -> Credential {
        self.current.borrow().clone()
    }

    /// Puts a renewed one in its place.
    pub fn replace(&self, renewed: Credential) {
        self.current.send_replace(renewed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::authority::{Authority, CERTIFICATE_LIFETIME};
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    fn streaming(authority: &Authority) -> Credential {
        let instance = "streaming-1".parse().unwrap();
        authority
            .issue(Kind::Streaming, &instance, CERTIFICATE_LIFETIME)
            .unwrap()
    }

    #[test]
    fn a_credential_is_kept_for_its_owner_only() {
        let authority = Authority::create("home").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let made = streaming(&authority);
        assert!(!Credential::is_in(dir.path()));
        made.save(dir.path()).unwrap();
        let read = Credential::load(dir.path()).unwrap();
        assert_eq!(read.name(), made.name());
        assert_eq!(read.cluster(), "home");
        assert_eq!(read.fingerprint(), authority.fingerprint());
        let day = read.ends() - read.begins();
        assert!(day >= CERTIFICATE_LIFETIME && day < CERTIFICATE_LIFETIME * 2);
        let key = std::fs::metadata(dir.path().join(KEY_FILE)).unwrap();
        assert_eq!(key.permissions().mode() & 0o777, 0o600);
        assert!(!format!("{made:?}").contains("PRIVATE"));
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let authority = Authority::create("home").unwrap();
        let (one, other) = (streaming(&authority), streaming(&authority));
        let foreign = streaming(&Authority::create("home").unwrap());
        let mixed = |authority: &str, certificate: &str, key: &str| {
            Credential::from_pem(authority, certificate, key).is_err()
        };
        assert!(mixed(
            one.authority_pem(),
            one.certificate_pem(),
            other.key_pem()
        ));
        assert!(mixed(
            foreign.authority_pem(),
            one.certificate_pem(),
            one.key_pem()
        ));
        assert!(mixed(
            one.authority_pem(),
            one.authority_pem(),
            one.key_pem()
        ));
        assert!(one.with_certificate(other.certificate_pem()).is_err());
        let dir = tempfile::tempdir().unwrap();
        one.save(dir.path()).unwrap();
        std::fs::write(dir.path().join(CERTIFICATE_FILE), "nonsense").unwrap();
        let error = Credential::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("cert.pem is damaged"), "{error}");
    }

    proptest! {
        #[test]
        fn names_read_back(cluster in "[a-z0-9-]{1,20}", instance in "[a-z0-9-]{1,64}", n in 0usize..4) {
            let name = Name { kind: Kind::ALL[n], instance: instance.parse().unwrap() };
            prop_assert_eq!(Name::parse(&name.uri(&cluster)), Some((cluster, name)));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = name_of(&CertificateDer::from(bytes));
        }
    }
}
