//! Certificates for the clusters of tests: one authority for each cluster's name.

use iceflix_core::{
    api::{InstanceId, Kind},
    bus::{Bus, BusConfig},
    config::Common,
    rpc::Security,
    trust::{Authority, Credential, authority::CERTIFICATE_LIFETIME},
};
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

static AUTHORITIES: Mutex<BTreeMap<String, Authority>> = Mutex::new(BTreeMap::new());

/// The authority of the cluster of that name, in this process.
pub fn authority(cluster: &str) -> Authority {
    let mut known = AUTHORITIES.lock().unwrap_or_else(PoisonError::into_inner);
    known
        .entry(cluster.to_owned())
        .or_insert_with(|| Authority::create(cluster).unwrap())
        .clone()
}

/// A certificate of the cluster of that name.
pub fn credential(cluster: &str, kind: Kind, instance: &InstanceId) -> Credential {
    authority(cluster)
        .issue(kind, instance, CERTIFICATE_LIFETIME)
        .unwrap()
}

/// Gives an instance that is told this its certificate, where it looks for one.
pub fn equip(kind: Kind, common: &Common) {
    equip_for(kind, common, CERTIFICATE_LIFETIME);
}

/// The same, with a certificate for so long.
pub fn equip_for(kind: Kind, common: &Common, lifetime: Duration) {
    let instance = common.instance.clone();
    let instance = instance.unwrap_or_else(|| format!("{kind}-1").parse().unwrap());
    authority(common.cluster.as_str())
        .equip(&common.identity(), kind, &instance, lifetime)
        .unwrap();
}

/// How clients speak to the cluster of that name.
pub fn security(cluster: &str) -> Security {
    Security::client(authority(cluster).fingerprint()).unwrap()
}

/// A place on the bus of a cluster, with the rights of a kind, connected to these.
pub async fn on_the_bus(cluster: &str, kind: Kind, listen: &str, connect: &[String]) -> Bus {
    let config = BusConfig::new(
        cluster,
        credential(cluster, kind, &"beside".parse().unwrap()),
        vec![listen.to_owned()],
        connect.to_vec(),
    );
    Bus::open(&config).await.unwrap()
}
