//! One session takes another's place, unnoticed.

use super::{Bus, BusConfig, BusError, close, open_at, settings::Place};
use crate::trust::Credential;
use std::{
    collections::BTreeSet,
    sync::PoisonError,
    time::{Duration, Instant},
};
use zenoh::{Session, session::ZenohId};

/// How long a node that is on the bus anew may take to meet everyone it knew before, and to stay
/// with them for [`OVERLAP`].
const MEETING: Duration = Duration::from_secs(5);

/// How long everyone must have been met without a break before the first session ends. Declarations
/// follow a link's opening within milliseconds; but when two nodes open a link to each other at the
/// same time, zenoh may close both, and one of them tries again a little later.
const OVERLAP: Duration = Duration::from_millis(500);

impl Bus {
    /// Goes on with a renewed credential. zenoh reads certificates when it opens, so a second
    /// session takes over everything that was declared before the first is closed: nobody sees a
    /// departure. A node with a fixed address moves twice, since only one can listen there.
    ///
    /// # Errors
    /// When no second session could be opened: the first goes on. When something could not be declared
    /// on the second, which goes on all the same.
    pub async fn renew(&self, credential: Credential) -> Result<(), BusError> {
        let bus = self.clone();
        // What was begun is finished, also when whoever asked for it is gone.
        let renewing = self
            .inner
            .aside
            .runtime
            .spawn(async move { bus.move_with(credential).await });
        renewing
            .await
            .unwrap_or_else(|broken| Err(not_renewed(broken)))
    }

    async fn move_with(&self, credential: Credential) -> Result<(), BusError> {
        let _renewing = self.inner.renewing.lock().await;
        if self.is_closed() {
            return Err(not_renewed("the bus was left"));
        }
        let config = BusConfig {
            credential,
            ..self.inner.config.clone()
        };
        let mut declared = self.move_to(&config, Place::aside).await?;
        if Place::is_fixed(&config) {
            // All is declared once more.
            declared = self.move_to(&config, Place::first).await?;
        }
        declared
    }

    /// Goes on with another session; whether everything is declared on it.
    async fn move_to(
        &self,
        config: &BusConfig,
        place: fn(&BusConfig) -> Result<Place, BusError>,
    ) -> Result<Result<(), BusError>, BusError> {
        let before = self.present();
        // The first session knows everybody, and tells the second.
        let after = open_at(config, place, before.place.endpoints()).await?;
        for declared in self.inner.all_declared() {
            if let Err(error) = declared.also_on(&after.session).await {
                close(after.session).await;
                return Err(error);
            }
        }
        // What is said from here on is heard by everyone.
        meet(&before.session, &after.session).await;
        *self
            .inner
            .present
            .write()
            .unwrap_or_else(PoisonError::into_inner) = after.clone();
        // What was declared in the meantime, on the session before.
        let mut all = Ok(());
        for declared in self.inner.all_declared() {
            all = all.and(declared.also_on(&after.session).await);
        }
        meet(&before.session, &after.session).await;
        for declared in self.inner.all_declared() {
            declared.only_on(&after.session).await;
        }
        // Whatever failed: nobody knows this one any more.
        close(before.session).await;
        Ok(all)
    }
}

fn not_renewed(reason: impl ToString) -> BusError {
    BusError::Operation {
        operation: "renew",
        key: "the session".into(),
        reason: reason.to_string(),
    }
}

/// Waits until a session has known everybody whom another one knows, for [`OVERLAP`]; at most for
/// [`MEETING`].
async fn meet(known: &Session, meeting: &Session) {
    let own = [known.zid(), meeting.zid()];
    let began = Instant::now();
    let mut since = began;
    while since.elapsed() < OVERLAP {
        let wanted: BTreeSet<ZenohId> = known.info().peers_zid().await.collect();
        let met: BTreeSet<ZenohId> = meeting.info().peers_zid().await.collect();
        let missing = wanted.difference(&met).filter(|peer| !own.contains(peer));
        if missing.count() > 0 {
            since = Instant::now();
        }
        if began.elapsed() > MEETING {
            tracing::debug!("not everyone was met again in time; they will be");
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
