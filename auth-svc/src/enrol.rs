//! Letting machines in: invitations, certificates for those who were invited, their renewal, and
//! expelling.
//!
//! An invitation is kept by the authenticator that made it and by no other, in a file of its own:
//! so it cannot be redeemed at two of them at once.

use iceflix_core::{
    api::{
        InstanceId, Kind,
        auth::{AuthError, CertificateRequest, Welcome},
    },
    files::write_private,
    membership::Membership,
    renewal::Contacts,
    trust::{
        self, Authority, authority::CertificateError, credentials::Name,
        invitation::InvitationSecret,
    },
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::Mutex;

/// The file of the invitations in the state directory.
const FILE: &str = "invitations.json";

/// How long an invitation may be good, in seconds: a minute to a week.
const LIFETIMES: std::ops::RangeInclusive<u64> = 60..=7 * 24 * 3600;

/// How many instances one machine may have.
pub const MOST_INSTANCES: usize = 64;

/// How many invitations may be open at a time.
const MOST_INVITATIONS: usize = 1000;

/// An invitation that was made here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Made {
    /// The hash of its secret.
    hash: [u8; 32],
    roles: BTreeSet<Kind>,
    /// When it is over, in seconds since 1970.
    until: u64,
    /// By which requests it was redeemed: their hash.
    redeemed: Option<[u8; 32]>,
}

/// Lets machines in. Cheap to clone.
#[derive(Clone)]
pub struct Enrolment {
    inner: Arc<Inner>,
}

struct Inner {
    authority: Authority,
    lifetime: Duration,
    membership: Membership,
    bus: Vec<String>,
    file: PathBuf,
    made: Mutex<Vec<Made>>,
}

/// Enrolment cannot begin.
#[derive(Debug, thiserror::Error)]
#[error("the invitations in {path} cannot be read; remove the file to forget them")]
pub struct DamagedInvitations {
    path: PathBuf,
    #[source]
    source: io::Error,
}

fn failed(error: impl std::fmt::Display) -> AuthError {
    tracing::error!(%error, "a certificate could not be made");
    AuthError::Internal
}

fn refused(error: CertificateError) -> AuthError {
    match error {
        CertificateError::Request(_) | CertificateError::Foreign(_) => {
            AuthError::BadRequest(error.to_string())
        }
        error => failed(error),
    }
}

fn read(path: &Path) -> io::Result<Vec<Made>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Requests that are the same give the same.
fn fingerprint(requests: &[CertificateRequest]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for CertificateRequest {
        kind,
        instance,
        request,
    } in requests
    {
        for part in [
            kind.as_str().as_bytes(),
            instance.as_str().as_bytes(),
            request,
        ] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    hash.finalize().into()
}

impl Enrolment {
    /// Signs with this authority, for so long; the invitations are kept in the state directory.
    /// `bus` is where a machine that joins meets the cluster.
    ///
    /// # Errors
    /// When the invitations that are there cannot be read.
    pub fn open(
        authority: Authority,
        lifetime: Duration,
        membership: Membership,
        bus: Vec<String>,
        state_dir: &Path,
    ) -> Result<Self, DamagedInvitations> {
        let file = state_dir.join(FILE);
        let made = read(&file).map_err(|source| DamagedInvitations {
            path: file.clone(),
            source,
        })?;
        Ok(Self {
            inner: Arc::new(Inner {
                authority,
                lifetime,
                membership,
                bus,
                file,
                made: Mutex::new(made),
            }),
        })
    }

    /// Makes an invitation.
    pub async fn invite(
        &self,
        secret: &InvitationSecret,
        roles: Vec<Kind>,
        seconds: u64,
    ) -> Result<(), AuthError> {
        if !LIFETIMES.contains(&seconds) || roles.is_empty() {
            let why = "an invitation is for at least one role, and good for a minute to a week";
            return Err(AuthError::BadRequest(why.into()));
        }
        let now = trust::now().as_secs();
        let made = Made {
            hash: secret.hash(),
            roles: roles.into_iter().collect(),
            until: now + seconds,
            redeemed: None,
        };
        let mut all = self.inner.made.lock().await;
        let mut changed: Vec<Made> = all
            .iter()
            .filter(|made| made.until > now)
            .cloned()
            .collect();
        if changed.iter().any(|known| known.hash == made.hash) {
            // The same request again: its first answer was lost.
            return Ok(());
        }
        if changed.len() >= MOST_INVITATIONS {
            return Err(AuthError::BadRequest(
                "too many invitations are open".into(),
            ));
        }
        changed.push(made);
        self.write(&changed).await?;
        *all = changed;
        Ok(())
    }

    /// Redeems an invitation.
    pub async fn join(
        &self,
        secret: &InvitationSecret,
        requests: &[CertificateRequest],
        is_expelled: impl Fn(&InstanceId) -> bool,
    ) -> Result<Welcome, AuthError> {
        let (hash, by) = (secret.hash(), fingerprint(requests));
        let now = trust::now().as_secs();
        let mut all = self.inner.made.lock().await;
        let position = all
            .iter()
            .position(|made| made.hash == hash && made.until > now)
            .filter(|at| all[*at].redeemed.is_none_or(|earlier| earlier == by))
            .ok_or(AuthError::NotInvited)?;
        self.check(&all[position], requests, is_expelled)?;
        let mut certificates = Vec::new();
        for request in requests {
            let name = Name {
                kind: request.kind,
                instance: request.instance.clone(),
            };
            let (authority, lifetime) = (&self.inner.authority, self.inner.lifetime);
            let made = authority.sign(&request.request, &name, lifetime);
            certificates.push(made.map_err(refused)?);
        }
        // Used before it is answered: whatever happens from here on, it is good for nobody else.
        let mut changed = all.clone();
        changed[position].redeemed = Some(by);
        self.write(&changed).await?;
        *all = changed;
        let authority = &self.inner.authority;
        let is_authenticator = requests.iter().any(|request| request.kind == Kind::Auth);
        Ok(Welcome {
            authority: authority.pem().to_owned(),
            certificates,
            authority_key: is_authenticator.then(|| authority.key_pem()),
            contacts: Contacts::of(&self.inner.membership.now()).instances,
            bus: self.inner.bus.clone(),
        })
    }

    /// Whether these may be let in by this invitation.
    fn check(
        &self,
        made: &Made,
        requests: &[CertificateRequest],
        is_expelled: impl Fn(&InstanceId) -> bool,
    ) -> Result<(), AuthError> {
        let bad = |why: String| Err(AuthError::BadRequest(why));
        if requests.is_empty() || requests.len() > MOST_INSTANCES {
            return bad(format!("a machine has 1 to {MOST_INSTANCES} instances"));
        }
        let there = self.inner.membership.now();
        let mut names = BTreeSet::new();
        for request in requests {
            let name = &request.instance;
            if !made.roles.contains(&request.kind) {
                return Err(AuthError::NotForRole(request.kind));
            }
            // A name is known by once: one that left may return, and nobody else as it.
            let known = there.instances.iter().any(|known| known.instance == *name);
            if known || !names.insert(name) || is_expelled(name) {
                return bad(format!("there is an instance called {name} already"));
            }
        }
        Ok(())
    }

    /// A new certificate for the key of an earlier one.
    pub fn renew(
        &self,
        request: &[u8],
        earlier: &str,
        is_expelled: impl Fn(&InstanceId) -> bool,
    ) -> Result<(Name, String), AuthError> {
        let (authority, lifetime) = (&self.inner.authority, self.inner.lifetime);
        let (name, pem) = authority
            .renew(request, earlier, lifetime)
            .map_err(refused)?;
        match is_expelled(&name.instance) {
            false => Ok((name, pem)),
            true => Err(AuthError::Expelled),
        }
    }

    async fn write(&self, made: &[Made]) -> Result<(), AuthError> {
        let bytes = serde_json::to_vec(made).map_err(failed)?;
        let file = self.inner.file.clone();
        tokio::task::spawn_blocking(move || write_private(&file, &bytes))
            .await
            .map_err(failed)?
            .map_err(failed)
    }
}

#[cfg(test)]
mod tests;
