//! Instances: whose name is whose, and who was expelled.

use super::{Accounts, AccountsError, read, write};
use iceflix_core::{
    api::{InstanceId, auth::CertificateRequest},
    replica::RowChange,
    trust,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// How many names are noted of instances that are only seen: far more than a cluster has. Whoever
/// is on the bus can call itself anything.
const MOST_SEEN: usize = 10_000;

/// A name that somebody has.
#[derive(Debug, Serialize, Deserialize)]
struct Named {
    /// The hash of the request that was answered with a certificate. Of an instance that was seen
    /// and not let in here (the first machine makes its certificates itself), there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request: Option<[u8; 32]>,
}

fn named_key(instance: &InstanceId) -> String {
    format!("named/{instance}")
}

fn expelled_key(instance: &InstanceId) -> String {
    format!("expelled/{instance}")
}

impl Accounts {
    /// Takes in what the other authenticators know of these instances by now.
    pub async fn look_up_instances(&self, instances: impl Iterator<Item = &InstanceId>) {
        let keys = instances.flat_map(|one| [named_key(one), expelled_key(one)]);
        self.replica.look_again(keys.collect()).await;
    }

    /// Whether an instance has or had this name, whether or not it runs.
    pub fn is_named(&self, instance: &InstanceId) -> bool {
        // What cannot be read names somebody, too.
        self.replica.get(&named_key(instance)).is_some() || self.is_expelled(instance)
    }

    /// Whether the name was given for this very request.
    pub fn is_named_by(&self, request: &CertificateRequest) -> bool {
        let key = named_key(&request.instance);
        let named = self.replica.get(&key);
        let named = named.and_then(|value| read::<Named>(&key, value));
        named.is_some_and(|named| named.request == Some(Sha256::digest(&request.request).into()))
    }

    /// Gives these names to who requested them, for ever.
    pub async fn name_instances(
        &self,
        requests: &[CertificateRequest],
    ) -> Result<(), AccountsError> {
        let rows = requests.iter().map(|request| {
            let by = Sha256::digest(&request.request).into();
            write(named_key(&request.instance), &Named { request: Some(by) })
        });
        Ok(self.replica.put(rows.collect()).await?)
    }

    /// Notes the names of instances that are there, so that nobody gets them while they are not.
    pub async fn saw_instances(&self, instances: impl Iterator<Item = &InstanceId>) {
        let new: Vec<RowChange> = instances
            .filter(|one| !self.is_named(one))
            .map(|one| write(named_key(one), &Named { request: None }))
            .collect();
        if new.is_empty() || self.replica.scan("named/").len() + new.len() > MOST_SEEN {
            return;
        }
        let rows = new
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)));
        // What another authenticator knows of who let them in stands, whenever it comes here.
        if let Err(error) = self.replica.put_first(rows.collect()).await {
            tracing::warn!(%error, "who is there could not be noted");
        }
    }

    /// The instances that were expelled.
    pub fn expelled(&self) -> Vec<InstanceId> {
        let rows = self.replica.scan("expelled/").into_iter();
        rows.filter_map(|(key, _)| key.strip_prefix("expelled/")?.parse().ok())
            .collect()
    }

    /// Whether an instance was expelled.
    pub fn is_expelled(&self, instance: &InstanceId) -> bool {
        self.replica.get(&expelled_key(instance)).is_some()
    }

    /// Expels an instance, for ever.
    pub async fn expel(&self, instance: &InstanceId) -> Result<(), AccountsError> {
        let row = write(expelled_key(instance), &trust::now().as_secs());
        Ok(self.replica.put(vec![row]).await?)
    }
}
