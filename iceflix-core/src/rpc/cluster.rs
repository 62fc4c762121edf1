//! A client's view of a cluster: it knows some Mains, and follows the directory of one of them.

use super::{CallError, Caller, Security, call::WAIT_FOR_ONE};
use crate::api::{
    Kind,
    main::{DirectoryVersion, DirectoryView, MainClient},
};
use rand::seq::SliceRandom;
use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// How long a Main may take to answer when it is first asked.
const FIRST_ANSWER: Duration = Duration::from_secs(1);

/// How soon all of them are asked once more when none answered.
const AGAIN: Duration = Duration::from_millis(100);

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
    /// when it fails, that of the next. When none answers it asks them all again for a while: one
    /// that was killed is about to be restarted.
    ///
    /// # Errors
    /// When no Main answers for 2 s.
    pub async fn connect(
        mut mains: Vec<SocketAddr>,
        security: Security,
    ) -> Result<Self, CallError> {
        mains.shuffle(&mut rand::rng());
        // Mains are called by address; what the directory holds does not matter to that.
        let asker = Caller::by_address(security.clone());
        let began = Instant::now();
        let (position, view) = loop {
            if let Some(found) = first(&asker, &mains).await {
                break found;
            }
            if mains.is_empty() || began.elapsed() > WAIT_FOR_ONE {
                return Err(CallError::NoMain(mains));
            }
            tokio::time::sleep(AGAIN).await;
        };
        mains.rotate_left(position);
        let mut mains = Mains::new(mains);
        mains.learn(&view);
        let (directory_sender, directory) = watch::channel(Arc::new(view));
        let (reachable_sender, reachable) = watch::channel(true);
        let follower = tokio::spawn(follow(asker, mains, directory_sender, reachable_sender));
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

/// The Mains to turn to: the one that is followed, then those that were alive when it last
/// answered, then those that were given and may be back.
#[derive(Debug)]
struct Mains {
    given: Vec<SocketAddr>,
    order: VecDeque<SocketAddr>,
}

impl Mains {
    /// Those that were given; the first is followed.
    fn new(given: Vec<SocketAddr>) -> Self {
        let order = given.iter().copied().collect();
        Self { given, order }
    }

    fn current(&self) -> Option<SocketAddr> {
        self.order.front().copied()
    }

    fn next(&mut self) {
        if !self.order.is_empty() {
            self.order.rotate_left(1);
        }
    }

    /// The one that is followed says who is alive. Those that are not are no longer asked, but for
    /// those that were given: over a long time Mains come and go.
    fn learn(&mut self, view: &DirectoryView) {
        let mut alive: Vec<SocketAddr> = view
            .instances
            .iter()
            .filter(|instance| instance.kind == Kind::Main)
            .map(|instance| instance.endpoint)
            .collect();
        // Not all clients of a Main that ends turn to the same next one.
        alive.shuffle(&mut rand::rng());
        let all = self.current().into_iter().chain(alive);
        let all = all.chain(self.given.iter().copied());
        let mut order = VecDeque::new();
        for main in all {
            if !order.contains(&main) {
                order.push_back(main);
            }
        }
        self.order = order;
    }
}

/// The first of these that answers, and what it says.
async fn first(asker: &Caller, mains: &[SocketAddr]) -> Option<(usize, DirectoryView)> {
    for (position, main) in mains.iter().enumerate() {
        if let Ok(view) = ask(asker, *main, None, FIRST_ANSWER).await {
            return Some((position, view));
        }
    }
    None
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
    mut mains: Mains,
    directory: watch::Sender<Arc<DirectoryView>>,
    reachable: watch::Sender<bool>,
) {
    let mut since = Some(directory.borrow().version);
    let mut failures = 0u32;
    loop {
        let Some(main) = mains.current() else { return };
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
                mains.learn(&view);
                directory.send_if_modified(|known| {
                    let changed = known.version != view.version;
                    *known = Arc::new(view);
                    changed
                });
            }
            Err(()) => {
                failures += 1;
                since = None;
                mains.next();
                if failures as usize >= mains.order.len() {
                    reachable.send_if_modified(|was| std::mem::replace(was, false));
                    let pause = Duration::from_millis(100 * u64::from(failures.min(20)));
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Instance;

    fn at(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn view(mains: &[u16]) -> DirectoryView {
        let mut view = DirectoryView::empty();
        view.instances = mains
            .iter()
            .map(|port| Instance {
                kind: Kind::Main,
                instance: format!("main-{port}").parse().unwrap(),
                endpoint: at(*port),
                pid: 1,
                load: 0,
                draining: false,
            })
            .collect();
        view
    }

    #[test]
    fn the_next_main_is_one_that_was_alive_and_those_given_come_last() {
        let mut mains = Mains::new(vec![at(1), at(2)]);
        // The second that was given is dead; two others are alive.
        mains.learn(&view(&[1, 3, 4]));
        assert_eq!(mains.current(), Some(at(1)), "it goes on with who answers");
        let mut asked = Vec::new();
        for _ in 0..3 {
            mains.next();
            asked.extend(mains.current());
        }
        asked[..2].sort();
        assert_eq!(asked, [at(3), at(4), at(2)]);
        // Those that have left are forgotten, those that were given are not.
        mains.learn(&view(&[2]));
        assert_eq!(mains.order, [at(2), at(1)]);
        mains.learn(&view(&[]));
        assert_eq!(mains.order, [at(2), at(1)]);
    }

    #[test]
    fn clients_of_a_main_that_ends_spread() {
        let second = || {
            let mut mains = Mains::new(vec![at(1)]);
            mains.learn(&view(&[1, 2, 3]));
            mains.order[1]
        };
        let all: std::collections::BTreeSet<SocketAddr> = (0..100).map(|_| second()).collect();
        assert_eq!(all, [at(2), at(3)].into());
    }
}
