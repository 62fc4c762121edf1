//! What every Main's directory says, as it changes: when an instance was noticed to be gone.

use client_cli::client::Client;
use iceflix_core::api::{
    InstanceId,
    main::{DirectoryView, MainClient},
};
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio_util::task::AbortOnDropHandle;

/// An instance as it ran: a restarted one is another.
pub type Life = (InstanceId, u32);

/// How long a Main may take to say that nothing changed.
const FOLLOW: Duration = Duration::from_secs(5);

/// The pause after a Main that does not answer.
const PAUSE: Duration = Duration::from_millis(50);

/// What one Main said at one moment.
struct Sight {
    at: Instant,
    main: SocketAddr,
    live: BTreeSet<Life>,
}

/// Follows Mains.
pub struct Watch {
    seen: Arc<Mutex<Vec<Sight>>>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Watch {
    /// Follows these until it is dropped.
    pub fn start(client: &Client, mains: &[SocketAddr]) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let follow = |main: &SocketAddr| {
            let task = tokio::spawn(follow(client.clone(), *main, Arc::clone(&seen)));
            AbortOnDropHandle::new(task)
        };
        let tasks = mains.iter().map(follow).collect();
        Self {
            seen,
            _tasks: tasks,
        }
    }

    /// How long after `since` the last of these Mains had listed each of `lives` no more; `None`
    /// when some Main never missed one of them.
    pub fn gone(&self, since: Instant, lives: &[Life], mains: &[SocketAddr]) -> Option<Duration> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let first = |main: &SocketAddr, life: &Life| {
            let mut later = seen.iter().filter(|sight| sight.at >= since);
            let found = later.find(|sight| sight.main == *main && !sight.live.contains(life));
            Some(found?.at - since)
        };
        let pairs = mains
            .iter()
            .flat_map(|main| lives.iter().map(move |life| (main, life)));
        let times: Option<Vec<Duration>> = pairs.map(|(main, life)| first(main, life)).collect();
        times?.into_iter().max()
    }

    /// Those of `lives` that one of these Mains did not list at some time.
    pub fn missed(
        &self,
        during: Range<Instant>,
        lives: &[Life],
        mains: &[SocketAddr],
    ) -> BTreeSet<InstanceId> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = seen
            .iter()
            .filter(|sight| during.contains(&sight.at) && mains.contains(&sight.main));
        let missed = seen.flat_map(|sight| lives.iter().filter(|life| !sight.live.contains(*life)));
        missed.map(|(instance, _)| instance.clone()).collect()
    }
}

/// The lives in a directory.
pub fn lives(view: &DirectoryView) -> BTreeSet<Life> {
    let live = view.instances.iter();
    live.map(|it| (it.instance.clone(), it.pid)).collect()
}

async fn follow(client: Client, main: SocketAddr, seen: Arc<Mutex<Vec<Sight>>>) {
    let mut since = None;
    loop {
        let asked = client
            .caller()
            .call_at(main, FOLLOW, |stub: MainClient, context| async move {
                stub.directory(context, since).await
            });
        match asked.await {
            Ok(Ok(view)) => {
                since = Some(view.version);
                let sight = Sight {
                    at: Instant::now(),
                    main,
                    live: lives(&view),
                };
                seen.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(sight);
            }
            _ => {
                since = None;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_from_the_fault_to_the_last_main_that_misses_it_and_not_to_what_it_says_later() {
        let begun = Instant::now();
        let ms = Duration::from_millis;
        let mains: [SocketAddr; 2] = [([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 1).into()];
        let life = |pid| ("catalog-1".parse::<InstanceId>().unwrap(), pid);
        let sight = |at, main: usize, pids: &[u32]| Sight {
            at: begun + ms(at),
            main: mains[main],
            live: pids.iter().map(|pid| life(*pid)).collect(),
        };
        let watch = Watch {
            seen: Arc::new(Mutex::new(vec![
                sight(0, 0, &[7]),
                sight(0, 1, &[7]),
                // One says so in the moment in which it is done.
                sight(50, 0, &[]),
                sight(62, 1, &[]),
                sight(4850, 0, &[8]),
            ])),
            _tasks: Vec::new(),
        };
        let gone = |since| watch.gone(begun + ms(since), &[life(7)], &mains);
        assert_eq!(gone(50), Some(ms(12)));
        let missed = watch.missed(begun..begun + ms(40), &[life(7)], &mains);
        assert!(missed.is_empty(), "{missed:?}");
        let missed = watch.missed(begun..begun + ms(70), &[life(7)], &mains);
        assert_eq!(missed.len(), 1);
        assert_eq!(watch.gone(begun, &[life(8)], &mains[1..]), Some(ms(0)));
        assert_eq!(
            watch.gone(begun + ms(70), &[life(7)], &mains),
            None,
            "one says nothing more"
        );
    }
}
