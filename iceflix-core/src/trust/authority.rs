//! The cluster's own certificate authority: what makes a machine one of the cluster's.
//!
//! Every authenticator holds its key, so that any of them can renew a certificate and none is
//! special. What that means for who can be trusted is in `docs/security.md`.

use super::credentials::{self, Credential, Name};
use crate::{
    api::{Fingerprint, InstanceId, Kind},
    files::{private_dir, write_private},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, pem::PemObject};
use std::{fmt, io, path::Path, sync::Arc, time::Duration};
use time::OffsetDateTime;

/// How long a service's certificate is good unless configured otherwise.
pub const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// How far in the past certificates begin: a machine whose clock is that much behind can use a
/// new one at once.
pub const BACKDATED: Duration = Duration::from_secs(3600);

/// How long the authority's own certificate is good. It cannot be replaced without inviting every
/// machine and client anew.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// The names of its two files in a directory.
const CERTIFICATE_FILE: &str = "ca.pem";
const KEY_FILE: &str = "ca.key";

/// A certificate could not be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The file system refused.
    #[error("{path} cannot be used: {source}")]
    File {
        /// Which file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} is damaged ({reason}); restore it, or remove its directory and join anew")]
    Damaged {
        /// Which file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A text is not a certificate of the cluster's.
    #[error("not a certificate of this cluster: {0}")]
    Foreign(String),
    /// A request for a certificate is malformed, or not signed with the key that it names.
    #[error("not a request for a certificate: {0}")]
    Request(String),
    /// The certificate could not be made.
    #[error("a certificate could not be made: {0}")]
    Make(#[from] rcgen::Error),
}

impl CertificateError {
    pub(super) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::File { path, source }
    }

    pub(super) fn damaged(path: &Path, reason: impl ToString) -> Self {
        Self::Damaged {
            path: path.display().to_string(),
            reason: reason.to_string(),
        }
    }
}

/// A certificate authority: its certificate and its private key. Never shown. Cheap to clone.
#[derive(Clone)]
pub struct Authority {
    inner: Arc<Inner>,
}

struct Inner {
    cluster: String,
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({}, …)", self.fingerprint())
    }
}

fn date(since_1970: Duration) -> OffsetDateTime {
    let seconds = i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX);
    // Only a clock beyond the year 9999 gets the other date, and nothing holds then.
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn dated(now: Duration, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date(now.saturating_sub(BACKDATED));
    params.not_after = date(now + lifetime);
    // 127 random bits: positive, and of at most 20 octets (RFC 5280, 4.1.2.2).
    let mut serial: [u8; 16] = rand::random();
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// When the operating system gives no random numbers.
    pub fn create(cluster: &str) -> Result<Self, CertificateError> {
        let key = KeyPair::generate()?;
        let mut params = dated(super::now(), AUTHORITY_LIFETIME);
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "IceFlix");
        params.distinguished_name.push(DnType::CommonName, cluster);
        // It signs services' certificates and no other authority's.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key)?.pem();
        Self::from_pem(&pem, &key.serialize_pem())
    }

    /// The authority whose certificate and key these are.
    ///
    /// # Errors
    /// When they are damaged or do not belong together.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, CertificateError> {
        let foreign = |error: &dyn fmt::Display| CertificateError::Foreign(error.to_string());
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|error| foreign(&error))?;
        let key = KeyPair::from_pem(key)?;
        let known = credentials::authority(&der)?;
        if known.public_key != key.subject_public_key_info() {
            return Err(foreign(&"its key is another one's"));
        }
        let issuer = Issuer::from_ca_cert_der(&der, key)?;
        Ok(Self {
            inner: Arc::new(Inner {
                cluster: known.cluster,
                pem: certificate.to_owned(),
                der,
                issuer,
            }),
        })
    }

    /// Whether a directory holds one.
    pub fn is_in(dir: &Path) -> bool {
        dir.join(KEY_FILE).exists()
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
        Self::from_pem(&read(CERTIFICATE_FILE)?, &read(KEY_FILE)?)
            .map_err(|error| CertificateError::damaged(&dir.join(KEY_FILE), error))
    }

    /// Writes it into a directory, for its owner only.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn save(&self, dir: &Path) -> Result<(), CertificateError> {
        private_dir(dir).map_err(CertificateError::file(dir))?;
        let write = |name, text: &str| {
            let path = dir.join(name);
            write_private(&path, text.as_bytes()).map_err(CertificateError::file(&path))
        };
        // The key last: it is what says that there is an authority.
        write(CERTIFICATE_FILE, self.pem())?;
        write(KEY_FILE, &self.key_pem())
    }

    /// The cluster whose it is.
    pub fn cluster(&self) -> &str {
        &self.inner.cluster
    }

    /// Its certificate, in PEM.
    pub fn pem(&self) -> &str {
        &self.inner.pem
    }

    /// Its private key, in PEM: for another authenticator only.
    pub fn key_pem(&self) -> String {
        self.inner.issuer.key().serialize_pem()
    }

    /// What a client and a joining machine know it by.
    pub fn fingerprint(&self) -> Fingerprint {
        credentials::fingerprint(&self.inner.der)
    }

    /// A certificate for the instance of that name, on a new key.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn issue(
        &self,
        kind: Kind,
        instance: &InstanceId,
        lifetime: Duration,
    ) -> Result<Credential, CertificateError> {
        let key = KeyPair::generate()?;
        let pem = self.certify(&key, kind, instance, super::now(), lifetime)?;
        Credential::from_pem(self.pem(), &pem, &key.serialize_pem())
    }

    /// Writes a new certificate for the instance of that name into a directory; into an
    /// authenticator's the authority, too.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub fn equip(
        &self,
        dir: &Path,
        kind: Kind,
        instance: &InstanceId,
        lifetime: Duration,
    ) -> Result<Credential, CertificateError> {
        let credential = self.issue(kind, instance, lifetime)?;
        if kind == Kind::Auth {
            self.save(dir)?;
        }
        credential.save(dir)?;
        Ok(credential)
    }

    /// A certificate (PEM) for a request: its signature proves that whoever asks has the key. Of
    /// what else it asks for nothing is taken over.
    ///
    /// # Errors
    /// When it is malformed or its signature does not hold.
    pub fn sign(
        &self,
        request: &[u8],
        name: &Name,
        lifetime: Duration,
    ) -> Result<String, CertificateError> {
        let request = CertificateSigningRequestDer::from(request);
        let request = CertificateSigningRequestParams::from_der(&request)
            .map_err(|error| CertificateError::Request(error.to_string()))?;
        self.certify(
            &request.public_key,
            name.kind,
            &name.instance,
            super::now(),
            lifetime,
        )
    }

    /// A new certificate (PEM) for a request with the same key as an earlier one's, which may be
    /// over: a machine may have slept for weeks.
    ///
    /// # Errors
    /// When the earlier certificate is not of this cluster, or the request is another key's.
    pub fn renew(
        &self,
        request: &[u8],
        earlier: &str,
        lifetime: Duration,
    ) -> Result<(Name, String), CertificateError> {
        let (name, key) = credentials::once_good(earlier, &self.inner.der)?;
        let der = CertificateSigningRequestDer::from(request);
        let parsed = CertificateSigningRequestParams::from_der(&der)
            .map_err(|error| CertificateError::Request(error.to_string()))?;
        if parsed.public_key.subject_public_key_info() != key {
            return Err(CertificateError::Request("its key is another one".into()));
        }
        Ok((name.clone(), self.sign(request, &name, lifetime)?))
    }

    fn certify(
        &self,
        key: &impl PublicKeyData,
        kind: Kind,
        instance: &InstanceId,
        now: Duration,
        lifetime: Duration,
    ) -> Result<String, CertificateError> {
        let mut params = dated(now, lifetime);
        params.distinguished_name = DistinguishedName::new();
        // The role: what the bus's access rules look at.
        params
            .distinguished_name
            .push(DnType::CommonName, kind.as_str());
        let name = Name {
            kind,
            instance: instance.clone(),
        };
        params.subject_alt_names = vec![SanType::URI(name.uri(self.cluster()).try_into()?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(key, &self.inner.issuer)?.pem())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn auth(n: u32) -> InstanceId {
        format!("auth-{n}").parse().unwrap()
    }

    #[test]
    fn an_authority_is_kept_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let made = Authority::create("home").unwrap();
        let place = dir.path().join("ca");
        assert!(!Authority::is_in(&place));
        made.save(&place).unwrap();
        let read = Authority::load(&place).unwrap();
        assert_eq!(read.fingerprint(), made.fingerprint());
        assert_eq!(read.cluster(), "home");
        let mode = std::fs::metadata(place.join(KEY_FILE)).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
        assert!(!format!("{made:?}").contains("PRIVATE"));

        let other = Authority::create("home").unwrap();
        std::fs::write(place.join(KEY_FILE), other.key_pem()).unwrap();
        let error = Authority::load(&place).unwrap_err().to_string();
        assert!(
            error.contains("ca.key") && error.contains("another"),
            "{error}"
        );
    }

    #[test]
    fn a_certificate_is_renewed_for_its_own_key_only_and_when_it_is_over_too() {
        let authority = Authority::create("home").unwrap();
        let over = authority
            .issue(Kind::Auth, &auth(1), Duration::ZERO)
            .unwrap();
        let request = over.request().unwrap();
        let (name, pem) = authority
            .renew(&request, over.certificate_pem(), CERTIFICATE_LIFETIME)
            .unwrap();
        assert_eq!((name.kind, name.instance), (Kind::Auth, auth(1)));
        let renewed = over.with_certificate(&pem).unwrap();
        assert!(renewed.ends() > over.ends());

        let another = authority
            .issue(Kind::Auth, &auth(2), CERTIFICATE_LIFETIME)
            .unwrap();
        let stolen = authority.renew(
            &another.request().unwrap(),
            over.certificate_pem(),
            CERTIFICATE_LIFETIME,
        );
        assert!(matches!(stolen, Err(CertificateError::Request(_))));

        let elsewhere = Authority::create("home").unwrap();
        let foreign = elsewhere.renew(&request, over.certificate_pem(), CERTIFICATE_LIFETIME);
        assert!(matches!(foreign, Err(CertificateError::Foreign(_))));
    }

    #[test]
    fn a_request_without_its_key_is_refused() {
        let authority = Authority::create("home").unwrap();
        let credential = authority
            .issue(Kind::Auth, &auth(1), CERTIFICATE_LIFETIME)
            .unwrap();
        let mut request = credential.request().unwrap();
        let last = request.len() - 1;
        request[last] ^= 1;
        for request in [request, vec![], b"nonsense".to_vec()] {
            let name = credential.name().clone();
            let made = authority.sign(&request, &name, CERTIFICATE_LIFETIME);
            assert!(matches!(made, Err(CertificateError::Request(_))));
        }
    }
}
