//! Letting machines in: invitations, certificates for those who were invited, their renewal, and
//! expelling.
//!
//! An invitation is kept by the authenticator that made it and by no other, in a file of its own:
//! so it cannot be redeemed at two of them at once.

use crate::accounts::Accounts;
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

fn bad(why: impl Into<String>) -> AuthError {
    AuthError::BadRequest(why.into())
}

fn taken(name: &InstanceId) -> AuthError {
    bad(format!(
        "there is, or was, an instance called {name}. A machine that lost its certificate gets \
         another name when that one is removed from the cluster.toml in its state directory"
    ))
}

/// Whether an invitation is for these.
fn check(made: &Made, requests: &[CertificateRequest]) -> Result<(), AuthError> {
    if requests.is_empty() || requests.len() > MOST_INSTANCES {
        return Err(bad(format!(
            "a machine has 1 to {MOST_INSTANCES} instances"
        )));
    }
    let mut names = BTreeSet::new();
    for request in requests {
        if !made.roles.contains(&request.kind) {
            return Err(AuthError::NotForRole(request.kind));
        }
        if !names.insert(&request.instance) {
            return Err(bad(format!("{} is there twice", request.instance)));
        }
    }
    Ok(())
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
            return Err(bad(why));
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
            return Err(bad("too many invitations are open"));
        }
        changed.push(made);
        self.write(&changed).await?;
        *all = changed;
        Ok(())
    }

    /// Redeems an invitation. Of two machines that are given one name at two authenticators within
    /// the same moment both get it; the names that machines make up are not so alike.
    pub async fn join(
        &self,
        secret: &InvitationSecret,
        requests: &[CertificateRequest],
        accounts: &Accounts,
    ) -> Result<Welcome, AuthError> {
        let (hash, by) = (secret.hash(), fingerprint(requests));
        let now = trust::now().as_secs();
        let mut all = self.inner.made.lock().await;
        let position = all
            .iter()
            .position(|made| made.hash == hash && made.until > now)
            .filter(|at| all[*at].redeemed.is_none_or(|earlier| earlier == by))
            .ok_or(AuthError::NotInvited)?;
        check(&all[position], requests)?;
        self.check_names(requests, accounts).await?;
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
        accounts.name_instances(requests).await.map_err(failed)?;
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

    /// Whether these names are nobody's, or were given for these very requests. A name is somebody's
    /// for ever, since it is by its name that an instance is expelled.
    async fn check_names(
        &self,
        requests: &[CertificateRequest],
        accounts: &Accounts,
    ) -> Result<(), AuthError> {
        let names = requests.iter().map(|request| &request.instance);
        accounts.look_up_instances(names).await;
        for request in requests {
            let name = &request.instance;
            if accounts.is_expelled(name) {
                return Err(taken(name));
            }
            let is_known = accounts.is_named(name) || self.is_there(name);
            if is_known && !accounts.is_named_by(request) {
                return Err(taken(name));
            }
        }
        Ok(())
    }

    /// Whether an instance of that name is running.
    pub fn is_there(&self, instance: &InstanceId) -> bool {
        let there = self.inner.membership.now();
        there
            .instances
            .iter()
            .any(|known| known.instance == *instance)
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
