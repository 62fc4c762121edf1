//! Whose a state directory is, by the certificates in it.

use super::State;
use anyhow::{Context, Result, bail};
use iceflix_core::trust::{Authority, Credential};
use std::{fs, io};

/// To which cluster the certificates in a state directory belong, and by what right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Belonging {
    /// There are none.
    None,
    /// This machine made the cluster of that name.
    First(String),
    /// This machine was let into the cluster of that name.
    Joined(String),
}

impl State {
    /// The certificates of the instances here. Damaged ones are passed over where others are good.
    pub fn credentials(&self) -> Result<Vec<Credential>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("cannot read {}", self.dir.display()))?,
        };
        let (mut good, mut damaged) = (Vec::new(), None);
        for entry in entries {
            let identity = entry?.path().join("identity");
            if !Credential::is_in(&identity) {
                continue;
            }
            match Credential::load(&identity) {
                Ok(credential) => good.push(credential),
                Err(error) => damaged = Some(error),
            }
        }
        match damaged {
            Some(error) if good.is_empty() => Err(error.into()),
            _ => Ok(good),
        }
    }

    /// What the certificates here say, whatever became of the record.
    pub fn belonging(&self) -> Result<Belonging> {
        if Authority::is_in(&self.authority()) {
            let cluster = Authority::load(&self.authority())?.cluster().to_owned();
            // A machine that was let in with an authenticator has the authority, too. Only the first
            // one's authenticators are told of a first user.
            let let_in = self
                .config("auth-1")
                .is_ok_and(|config| !config.contains_key("admin_password_file"));
            return Ok(match let_in {
                true => Belonging::Joined(cluster),
                false => Belonging::First(cluster),
            });
        }
        let credentials = self.credentials()?;
        Ok(match credentials.first() {
            Some(credential) => Belonging::Joined(credential.cluster().to_owned()),
            None => Belonging::None,
        })
    }

    pub(super) fn name_without_record(&self, wanted: Option<&str>) -> Result<String> {
        let dir = self.dir.display();
        match self.belonging()? {
            Belonging::First(cluster) => return Ok(cluster),
            Belonging::Joined(cluster) => bail!(
                "{dir} is of a machine that was let into the cluster {cluster:?}, and its cluster.toml is \
                 gone: make an invitation on a machine that has an authenticator (iceflix cluster invite), \
                 and start again here with JOIN=LINE; or choose another STATE for another cluster"
            ),
            Belonging::None if self.joining().exists() => bail!(
                "{dir} is of a machine that was about to join a cluster: start again with JOIN=LINE, or \
                 remove {} to give that up",
                self.joining().display()
            ),
            Belonging::None => {}
        }
        Ok(match wanted {
            Some(name) => name.to_owned(),
            None => format!("iceflix-{}", hex::encode(rand::random::<[u8; 4]>())),
        })
    }
}
