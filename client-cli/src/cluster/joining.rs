//! What a machine that takes up an invitation writes down before it shows the secret: so whatever
//! interrupts it, it can ask again for the very same, which the authenticator answers again.

use super::{
    plan::{Entry, Record},
    services::write_toml,
    state::State,
};
use anyhow::{Context, anyhow, ensure};
use iceflix_core::{
    api::{Fingerprint, auth::CertificateRequest},
    trust::{Credential, credentials::NewKey, invitation::InvitationSecret},
};
use serde::{Deserialize, Serialize};
use std::{fs, io};

/// What `STATE/joining.toml` holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Joining {
    /// The hash of the invitation's secret, in hexadecimal digits.
    invitation: String,
    /// The record as it will be.
    pub record: Record,
    /// The instances that are to get a certificate.
    pub wanted: Vec<Wanted>,
}

/// An instance that is to get a certificate.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// The request (PKCS #10, DER), in hexadecimal digits. Making it again would not give the same.
    request: String,
    /// Its private key, in PEM.
    key: String,
    /// Which instance.
    pub entry: Entry,
}

impl Wanted {
    /// Makes a key for an instance.
    pub fn new(entry: Entry) -> anyhow::Result<Self> {
        let key = NewKey::generate()?;
        Ok(Self {
            request: hex::encode(key.request()?),
            key: key.key_pem(),
            entry,
        })
    }

    /// What the authenticator is asked for.
    pub fn request(&self) -> anyhow::Result<CertificateRequest> {
        Ok(CertificateRequest {
            kind: self.entry.kind,
            instance: self.entry.instance.parse()?,
            request: hex::decode(&self.request)?,
        })
    }

    /// The credential, once there are certificates: only if it is for this instance, of the cluster
    /// that is known by this fingerprint.
    pub fn credential(
        &self,
        authority_pem: &str,
        certificate_pem: &str,
        fingerprint: Fingerprint,
    ) -> anyhow::Result<Credential> {
        let credential = Credential::from_pem(authority_pem, certificate_pem, &self.key)
            .context("the certificate that came is not for this machine")?;
        ensure!(
            credential.fingerprint() == fingerprint,
            "the certificate that came is of another cluster"
        );
        ensure!(
            self.entry.is_named_in(&credential),
            "the certificate that came is for another instance"
        );
        Ok(credential)
    }
}

impl Joining {
    /// With this invitation, for these instances.
    pub fn new(secret: &InvitationSecret, record: Record, wanted: Vec<Wanted>) -> Self {
        Self {
            invitation: hex::encode(secret.hash()),
            record,
            wanted,
        }
    }

    /// What was begun with this very invitation and not finished.
    pub fn load(state: &State, secret: &InvitationSecret) -> anyhow::Result<Option<Self>> {
        let path = state.joining();
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let begun: Self = toml::from_str(&text)
            .map_err(|_| anyhow!("{} is damaged; remove it", path.display()))?;
        let same = begun.invitation == hex::encode(secret.hash());
        Ok(same.then_some(begun))
    }

    /// Writes it down.
    pub fn save(&self, state: &State) -> anyhow::Result<()> {
        let comment = "What this machine joins a cluster with. It is removed when that is done.";
        write_toml(&state.joining(), comment, self)
    }

    /// Removes it: it is done.
    pub fn done(state: &State) -> anyhow::Result<()> {
        let path = state.joining();
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iceflix_core::{
        api::Kind,
        trust::{Authority, authority::CERTIFICATE_LIFETIME, credentials::Name},
    };
    use std::os::unix::fs::PermissionsExt;

    fn entry(kind: Kind) -> Entry {
        Entry {
            kind,
            number: 1,
            instance: format!("{kind}-1-0a"),
            port: 1,
            bus_port: 2,
            rtsp_port: None,
            media: None,
        }
    }

    #[test]
    fn what_was_begun_is_asked_for_again_word_by_word() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(dir.path().to_owned());
        let secret = InvitationSecret::random();
        assert!(Joining::load(&state, &secret).unwrap().is_none());
        let wanted = Wanted::new(entry(Kind::Catalog)).unwrap();
        let begun = Joining::new(&secret, Record::new("home".into()), vec![wanted]);
        begun.save(&state).unwrap();
        let mode = fs::metadata(state.joining()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = Joining::load(&state, &secret).unwrap().unwrap();
        assert_eq!(again.record, begun.record);
        let request = begun.wanted[0].request().unwrap();
        assert_eq!(again.wanted[0].request().unwrap(), request);
        // With another invitation it is another matter.
        let other = InvitationSecret::random();
        assert!(Joining::load(&state, &other).unwrap().is_none());

        // The key that was kept is the one that the certificate is for.
        let authority = Authority::create("home").unwrap();
        let certify = |name: &str| {
            let name = Name {
                kind: Kind::Catalog,
                instance: name.parse().unwrap(),
            };
            let made = authority.sign(&request.request, &name, CERTIFICATE_LIFETIME);
            let known = authority.fingerprint();
            again.wanted[0].credential(authority.pem(), &made.unwrap(), known)
        };
        assert!(certify("catalog-1-0a").is_ok());
        let error = certify("catalog-2-0b").unwrap_err().to_string();
        assert!(error.contains("another instance"), "{error}");

        Joining::done(&state).unwrap();
        assert!(Joining::load(&state, &secret).unwrap().is_none());
    }
}
