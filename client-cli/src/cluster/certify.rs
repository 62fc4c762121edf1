//! The certificates of a cluster's services on this machine.

use super::{plan::Record, services::Service, settings::Settings};
use anyhow::{Context, anyhow};
use iceflix_core::{
    api::{Fingerprint, InstanceId},
    trust::{self, Authority, Credential, authority::CERTIFICATE_LIFETIME},
};
use std::time::Duration;

/// A certificate that is over sooner is replaced at a start.
const NEAR_ITS_END: Duration = Duration::from_secs(CERTIFICATE_LIFETIME.as_secs() / 2);

impl Settings {
    /// Sees to it that every service has a certificate, and says what the cluster is known by. The
    /// first start makes the cluster's authority; a machine that has none cannot make certificates,
    /// and its services renew their own.
    pub(super) fn certify(
        &self,
        record: &Record,
        services: &[Service],
    ) -> anyhow::Result<Fingerprint> {
        match self.authority(record)? {
            Some(authority) => {
                for service in services {
                    equip(&authority, service)?;
                }
                Ok(authority.fingerprint())
            }
            None => {
                let mut fingerprint = None;
                for service in services {
                    fingerprint = Some(self.invited(record, service)?.fingerprint());
                }
                fingerprint.ok_or_else(|| {
                    anyhow!(
                        "there is nothing to run on this machine: give MEDIA=DIR, or ask for an \
                         invitation for other services"
                    )
                })
            }
        }
    }

    /// The credential of a service on a machine that was let in.
    fn invited(&self, record: &Record, service: &Service) -> anyhow::Result<Credential> {
        let reason = match Credential::load(&service.identity) {
            Ok(known) if known.cluster() != record.cluster => "it is another cluster's".to_owned(),
            Ok(known) if !service.entry.is_named_in(&known) => {
                "it is another instance's".to_owned()
            }
            Ok(known) => return Ok(known),
            Err(error) => error.to_string(),
        };
        Err(anyhow!(
            "{} has no good certificate of the cluster {} ({reason}): start again here with the same \
             JOIN=LINE if joining was interrupted; else make an invitation on a machine that has an \
             authenticator (iceflix cluster invite --role {}), and start here with that",
            service.name,
            record.cluster,
            service.entry.kind,
        ))
    }

    fn authority(&self, record: &Record) -> anyhow::Result<Option<Authority>> {
        let dir = self.state.authority();
        if Authority::is_in(&dir) {
            let known = Authority::load(&dir)?;
            anyhow::ensure!(
                known.cluster() == record.cluster,
                "{} has the authority of the cluster {:?}, not {:?}; choose another STATE for another cluster",
                dir.display(),
                known.cluster(),
                record.cluster
            );
            return Ok(Some(known));
        }
        if record.joined.is_some() {
            return Ok(None);
        }
        let made = Authority::create(&record.cluster)?;
        made.save(&dir)?;
        Ok(Some(made))
    }
}

/// Gives a service a certificate that is good.
fn equip(authority: &Authority, service: &Service) -> anyhow::Result<()> {
    let entry = &service.entry;
    let instance: InstanceId = entry.instance.parse()?;
    if Credential::is_in(&service.identity) {
        let known = Credential::load(&service.identity)?;
        let left = known.ends().saturating_sub(trust::now());
        let good = known.fingerprint() == authority.fingerprint() && entry.is_named_in(&known);
        if good && left > NEAR_ITS_END {
            return Ok(());
        }
    }
    authority
        .equip(
            &service.identity,
            entry.kind,
            &instance,
            CERTIFICATE_LIFETIME,
        )
        .with_context(|| format!("no certificate for {}", service.name))?;
    Ok(())
}
