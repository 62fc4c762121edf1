//! A client's view of a cluster: it knows some Mains, and follows the directory of one of them.

use super::{CallError, Caller, Security};
use crate::api::{
    Kind,
    main::{DirectoryVersion, DirectoryView, MainClient},
};
use rand::seq::SliceRandom;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// How long a Main may take to answer when it is first asked.
const FIRST_ANSWER: Duration = Duration::from_secs(1);

/// How long a Main may wait for a change before it answers all the same. Also how long it takes
/// to notice a Main that is unreachable without a word.
const FOLLOW: Duration = Duration::from_secs(5);

/// A cluster, seen from outside the bus. Cheap to clone; ends with its last clone.
#[derive(Clone)]
pub struct Cluster {
    caller: Caller,
    directory: watch::Receiver<Arc<DirectoryView>>,
    reachable: watch::Receiver<bool>,
    _follower: Arc<AbortOnDropHandle<()>>,
}

impl Cluster {
    /// Finds a Main that answers, beginning anywhere, and follows its directory from then on;
    /// when it fails, that of the next.
    ///
    /// # Errors
    /// When no Main answers.
    pub async fn connect(
        mut mains: Vec<SocketAddr>,
        security: Security,
    ) -> Result<Self, CallError> {
        mains.shuffle(&mut rand::rng());
        // Mains are called by address; what the directory holds does not matter to that.
        let (empty, nothing) = watch::channel(Arc::new(nobody()));
        let asker = Caller::new(nothing, security.clone());
        let mut found = None;
        for (position, main) in mains.iter().enumerate() {
            if let Ok(view) = ask(&asker, *main, None, FIRST_ANSWER).await {
                found = Some((position, view));
                break;
            }
        }
        let Some((position, view)) = found else {
            return Err(CallError::NoMain(mains));
        };
        mains.rotate_left(position);
        remember(&mut mains, &view);
        let (directory_sender, directory) = watch::channel(Arc::new(view));
        let (reachable_sender, reachable) = watch::channel(true);
        let follower = tokio::spawn(async move {
            let _keep = empty;
            follow(asker, mains, directory_sender, reachable_sender).await;
        });
        Ok(Self {
            caller: Caller::new(directory.clone(), security),
            directory,
            reachable,
            _follower: Arc::new(AbortOnDropHandle::new(follower)),
        })
    }

    /// Calls the cluster's services.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The directory, now and whenever it changes. The last one known while no Main answers.
    pub fn directory(&self) -> watch::Receiver<Arc<DirectoryView>> {
        self.directory.clone()
    }

    /// Whether a Main answers.
    pub fn reachable(&self) -> watch::Receiver<bool> {
        self.reachable.clone()
    }
}

/// Adds the Mains of a directory to those to turn to.
fn remember(mains: &mut Vec<SocketAddr>, view: &DirectoryView) {
    for instance in &view.instances {
        if instance.kind == Kind::Main && !mains.contains(&instance.endpoint) {
            mains.push(instance.endpoint);
        }
    }
}

fn nobody() -> DirectoryView {
    DirectoryView {
        version: DirectoryVersion {
            counter: 0,
            number: 0,
        },
        instances: Vec::new(),
    }
}

async fn ask(
    asker: &Caller,
    main: SocketAddr,
    since: Option<DirectoryVersion>,
    deadline: Duration,
) -> Result<DirectoryView, ()> {
    asker
        .call_at(main, deadline, |client: MainClient, context| async move {
            client.directory(context, since).await
        })
        .await
        .map_err(|error| tracing::debug!(%main, %error, "a Main did not answer"))?
        .map_err(|error| tracing::debug!(%main, %error, "a Main gave no directory"))
}

async fn follow(
    asker: Caller,
    mut mains: Vec<SocketAddr>,
    directory: watch::Sender<Arc<DirectoryView>>,
    reachable: watch::Sender<bool>,
) {
    let mut since = Some(directory.borrow().version);
    let mut failures = 0u32;
    loop {
        let Some(&main) = mains.first() else { return };
        let deadline = if since.is_some() {
            FOLLOW
        } else {
            FIRST_ANSWER
        };
        match ask(&asker, main, since, deadline).await {
            Ok(view) => {
                failures = 0;
                reachable.send_if_modified(|was| !std::mem::replace(was, true));
                since = Some(view.version);
                remember(&mut mains, &view);
                directory.send_if_modified(|known| {
                    let changed = known.version != view.version;
                    *known = Arc::new(view);
                    changed
                });
            }
            Err(()) => {
                failures += 1;
                since = None;
                mains.rotate_left(1);
                if failures as usize >= mains.len() {
                    reachable.send_if_modified(|was| std::mem::replace(was, false));
                    let pause = Duration::from_millis(100 * u64::from(failures.min(20)));
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}
