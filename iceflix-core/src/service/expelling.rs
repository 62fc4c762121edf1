//! Obeying an expulsion: of others, and of this instance.

use crate::{api::InstanceId, bus::Bus, membership::Membership, rpc::Security, trust::Verifier};
use tokio_util::sync::CancellationToken;

/// Keeps out who was expelled: neither called nor answered from the moment that it is heard.
pub(super) struct Expelling {
    pub verifier: Verifier,
    pub security: Security,
    pub membership: Membership,
    pub bus: Bus,
    pub stop: CancellationToken,
}

impl Expelling {
    pub async fn run(self, itself: InstanceId) {
        let mut changes = self.verifier.changes();
        loop {
            let expelled = self.verifier.expelled();
            self.security.expel(expelled.clone());
            self.membership.expel(expelled);
            if self.security.is_expelled(&itself) {
                tracing::error!("this instance was expelled from the cluster: it leaves");
                // Others would hear it on the bus until its certificate ends.
                self.stop.cancel();
                self.bus.close().await;
                return;
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}
