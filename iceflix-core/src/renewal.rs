//! Certificates renew themselves: an authenticator signs its own, every other service asks any
//! authenticator, also after its machine has slept for weeks.

use crate::{
    api::{
        Instance, Kind,
        auth::{AuthError, AuthenticatorClient},
        main::DirectoryView,
    },
    bus::{Bus, BusError},
    files::write_private,
    membership::Membership,
    rpc::{CallError, Caller, Security},
    trust::{
        Authority, Credential, Credentials,
        authority::{BACKDATED, CertificateError},
    },
};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// How often the wall clock is looked at: it goes on while a machine sleeps, other clocks do not.
const LOOK: Duration = Duration::from_secs(30);

/// How long one authenticator may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// The file, beside the certificate, that says where authenticators and Mains were last.
const CONTACTS_FILE: &str = "contacts.json";

/// A certificate was not renewed.
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    /// Nobody who could do it is known.
    #[error("no authenticator is known")]
    Nobody,
    /// Nobody who could do it answered; the last one so.
    #[error(transparent)]
    Unreachable(#[from] CallError),
    /// An authenticator refused.
    #[error(transparent)]
    Refused(#[from] AuthError),
    /// What it gave is no certificate for this instance, or could not be kept.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The bus did not take it up.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The thread that wrote is gone.
    #[error("writing it down was interrupted")]
    Interrupted,
}

/// Where the cluster's authenticators and Mains were when they were last seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contacts {
    /// The instances.
    pub instances: Vec<Instance>,
}

impl Contacts {
    /// Those of a directory that are worth remembering.
    pub fn of(view: &DirectoryView) -> Self {
        let instances = view.instances.iter();
        let known = instances.filter(|instance| matches!(instance.kind, Kind::Auth | Kind::Main));
        Self {
            instances: known.cloned().collect(),
        }
    }

    /// Those remembered beside a certificate; none when nothing was, or it cannot be read.
    pub fn load(dir: &Path) -> Self {
        std::fs::read(dir.join(CONTACTS_FILE))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    /// Remembers them beside a certificate.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn save(&self, dir: &Path) -> std::io::Result<()> {
        write_private(&dir.join(CONTACTS_FILE), &serde_json::to_vec(self)?)
    }

    fn has_authenticator(&self) -> bool {
        self.instances.iter().any(|known| known.kind == Kind::Auth)
    }
}

/// Whether a certificate is to be renewed at a time (since 1970): between half and three quarters of
/// its life, by the instance's name, so that a cluster that was started at once does not renew at
/// once. It is asked for again and again from then on, so hours may go by without an authenticator.
pub fn is_due(credential: &Credential, now: Duration) -> bool {
    let made = credential.begins() + BACKDATED;
    let life = credential.ends().saturating_sub(made);
    let spread = Sha256::digest(credential.name().instance.as_str())[0];
    now >= made + life / 2 + life / 4 * u32::from(spread) / 256
}

/// What renews an instance's certificate.
pub(crate) struct Renewal {
    /// Where it is kept.
    pub dir: PathBuf,
    /// What is renewed.
    pub credentials: Credentials,
    /// How authenticators are called.
    pub security: Security,
    /// In an authenticator: what signs.
    pub authority: Option<Authority>,
    /// In an authenticator: for how long.
    pub lifetime: Duration,
}

impl Renewal {
    /// A renewed credential, kept on disk and shown from the next connection on.
    pub async fn renew(&self, contacts: &Contacts) -> Result<Credential, RenewalError> {
        let present = self.credentials.now();
        // An authenticator asks nobody, so nobody would tell it.
        if self.security.is_expelled(&present.name().instance) {
            return Err(AuthError::Expelled.into());
        }
        let pem = match &self.authority {
            Some(authority) => {
                let request = present.request()?;
                let certificate = present.certificate_pem();
                authority.renew(&request, certificate, self.lifetime)?.1
            }
            None => self.ask(&present, contacts).await?,
        };
        let renewed = present.with_certificate(&pem)?;
        let (dir, kept) = (self.dir.clone(), renewed.clone());
        tokio::task::spawn_blocking(move || kept.save(&dir))
            .await
            .map_err(|_| RenewalError::Interrupted)??;
        self.credentials.replace(renewed.clone());
        Ok(renewed)
    }

    async fn ask(&self, present: &Credential, contacts: &Contacts) -> Result<String, RenewalError> {
        let caller = Caller::by_address(self.security.clone());
        let request = present.request()?;
        let known = contacts.instances.iter();
        let mut known: Vec<_> = known.filter(|known| known.kind == Kind::Auth).collect();
        known.shuffle(&mut rand::rng());
        let mut failed = RenewalError::Nobody;
        for authenticator in known {
            let asked = caller.call_at(
                authenticator.endpoint,
                PATIENCE,
                |auth: AuthenticatorClient, context| {
                    let (request, earlier) =
                        (request.clone(), present.certificate_pem().to_owned());
                    async move { auth.renew_certificate(context, request, earlier).await }
                },
            );
            failed = match asked.await {
                Ok(Ok(pem)) => return Ok(pem),
                // The others know the same.
                Ok(Err(AuthError::Expelled)) => return Err(AuthError::Expelled.into()),
                Ok(Err(error)) => error.into(),
                Err(error) => error.into(),
            };
        }
        Err(failed)
    }

    /// Renews until it is good: for a start after the certificate is over.
    pub async fn until_good(&self) -> Result<(), RenewalError> {
        let contacts = Contacts::load(&self.dir);
        if self.authority.is_none() && !contacts.has_authenticator() {
            return Err(RenewalError::Nobody);
        }
        let mut pause = Duration::from_millis(250);
        loop {
            match self.renew(&contacts).await {
                Ok(_) => return Ok(()),
                Err(error @ RenewalError::Unreachable(_)) => {
                    tracing::warn!(%error, "the certificate is over and could not be renewed yet; trying again");
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK);
        }
    }

    /// Goes on renewing for as long as the service lives.
    pub async fn run(self, bus: Bus, membership: Membership) {
        let mut contacts = Contacts::load(&self.dir);
        let mut directory = membership.watch();
        // What the bus was opened with, should it once not take a renewed one up.
        let mut on_the_bus = self.credentials.now().ends();
        loop {
            let seen = Contacts::of(&directory.borrow_and_update());
            if seen.has_authenticator() && seen != contacts {
                contacts = seen;
                self.remember(&contacts).await;
            }
            let present = self.credentials.now();
            let now = crate::trust::now();
            let result = if is_due(&present, now) {
                self.renew(&contacts).await.map(drop)
            } else {
                Ok(())
            };
            let present = self.credentials.now();
            let result = match result {
                Ok(()) if on_the_bus != present.ends() => {
                    let taken_up = bus.renew(present.clone()).await;
                    taken_up.map_err(RenewalError::from)
                }
                result => result,
            };
            match result {
                Ok(()) if on_the_bus != present.ends() => {
                    on_the_bus = present.ends();
                    tracing::info!("the certificate was renewed");
                }
                Ok(()) => {}
                Err(error @ RenewalError::Refused(AuthError::Expelled)) => {
                    tracing::error!("{error}");
                    return;
                }
                Err(error) => tracing::warn!(%error, "the certificate was not renewed yet"),
            }
            // Often enough that several tries fit into what is left.
            let left = present.ends().saturating_sub(crate::trust::now());
            let pause = (left / 16).clamp(Duration::from_millis(200), LOOK);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Ok(()) = directory.changed() => {
                    // Changes come in crowds.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    async fn remember(&self, contacts: &Contacts) {
        let (dir, contacts) = (self.dir.clone(), contacts.clone());
        let saved = tokio::task::spawn_blocking(move || contacts.save(&dir)).await;
        if let Ok(Err(error)) = saved {
            tracing::warn!(%error, "where the authenticators are could not be written down");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::authority::CERTIFICATE_LIFETIME;

    #[test]
    fn a_certificate_is_renewed_when_half_its_life_is_over() {
        let authority = Authority::create("home").unwrap();
        let instance = "main-1".parse().unwrap();
        let credential = authority
            .issue(Kind::Main, &instance, CERTIFICATE_LIFETIME)
            .unwrap();
        let now = crate::trust::now();
        assert!(!is_due(&credential, now));
        assert!(!is_due(&credential, now + CERTIFICATE_LIFETIME * 2 / 5));
        assert!(is_due(&credential, now + CERTIFICATE_LIFETIME * 4 / 5));
        let due = |name: &str| {
            let credential =
                authority.issue(Kind::Main, &name.parse().unwrap(), CERTIFICATE_LIFETIME);
            is_due(&credential.unwrap(), now + CERTIFICATE_LIFETIME * 5 / 8)
        };
        let all: Vec<bool> = (0..20).map(|n| due(&format!("main-{n}"))).collect();
        assert!(
            all.contains(&true) && all.contains(&false),
            "not all at once"
        );
        assert!(is_due(&credential, now + CERTIFICATE_LIFETIME * 30));
    }

    #[test]
    fn contacts_are_remembered_and_damaged_ones_are_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Contacts::load(dir.path()), Contacts::default());
        let instance = |kind: Kind| Instance {
            kind,
            instance: format!("{kind}-1").parse().unwrap(),
            endpoint: ([127, 0, 0, 1], 1).into(),
            pid: 1,
            load: 0,
            draining: false,
        };
        let mut view = DirectoryView::empty();
        view.instances = Kind::ALL.into_iter().map(instance).collect();
        let contacts = Contacts::of(&view);
        assert_eq!(contacts.instances.len(), 2);
        contacts.save(dir.path()).unwrap();
        assert_eq!(Contacts::load(dir.path()), contacts);
        std::fs::write(dir.path().join(CONTACTS_FILE), "[").unwrap();
        assert_eq!(Contacts::load(dir.path()), Contacts::default());
    }
}
