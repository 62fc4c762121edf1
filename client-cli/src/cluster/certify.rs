//! The certificates of a cluster's services on this machine.

use super::{services::Service, settings::Settings};
use anyhow::Context;
use iceflix_core::{
    api::{Fingerprint, InstanceId},
    trust::{Authority, Credential, authority::CERTIFICATE_LIFETIME},
};
use std::time::Duration;

/// A certificate that is over sooner is replaced at a start.
const NEAR_ITS_END: Duration = Duration::from_secs(CERTIFICATE_LIFETIME.as_secs() / 2);

impl Settings {
    /// Gives every service a certificate that is good, and says what the cluster is known by. The
    /// first start makes the cluster's authority.
    pub(super) fn certify(
        &self,
        cluster: &str,
        services: &[Service],
    ) -> anyhow::Result<Fingerprint> {
        let authority = self.authority(cluster)?;
        for service in services {
            let entry = &service.entry;
            let instance: InstanceId = entry.instance.parse()?;
            if Credential::is_in(&service.identity) {
                let known = Credential::load(&service.identity)?;
                let left = known.ends().saturating_sub(iceflix_core::trust::now());
                let good = known.fingerprint() == authority.fingerprint()
                    && known.name().instance == instance
                    && known.name().kind == entry.kind;
                if good && left > NEAR_ITS_END {
                    continue;
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
        }
        Ok(authority.fingerprint())
    }

    fn authority(&self, cluster: &str) -> anyhow::Result<Authority> {
        let dir = self.state.authority();
        if Authority::is_in(&dir) {
            let known = Authority::load(&dir)?;
            anyhow::ensure!(
                known.cluster() == cluster,
                "{} has the authority of the cluster {:?}, not {cluster:?}; choose another STATE for another cluster",
                dir.display(),
                known.cluster()
            );
            return Ok(known);
        }
        let made = Authority::create(cluster)?;
        made.save(&dir)?;
        Ok(made)
    }
}
