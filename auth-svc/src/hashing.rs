//! Turns at hashing passwords: not more at once than there are cores, and whoever has failed
//! behind whoever has not.

use crate::{accounts::AccountsError, attempts::Lane};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many may wait in each lane for each core: as many as are hashed in about a second, at 18 ms
/// each. Clients wait for two.
const WAITING: usize = 50;

/// The turns. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Hashing {
    /// Hashing takes 19 MiB and a core.
    cores: Arc<Semaphore>,
    /// One of those in the crowded lane waits for a core, beside those in the clear one.
    crowded: Arc<Semaphore>,
    /// One of those that failed waits with those in the crowded lane.
    failing: Arc<Semaphore>,
    /// Who may wait at all, by lane.
    places: [Arc<Semaphore>; 3],
}

/// Somebody's turn. It lasts until the work is done, even if nobody waits for it any more.
#[derive(Debug)]
pub struct Turn {
    _core: OwnedSemaphorePermit,
    _lanes: [Option<OwnedSemaphorePermit>; 2],
}

async fn permit(of: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, AccountsError> {
    // They are never closed.
    let permit = Arc::clone(of).acquire_owned().await;
    permit.map_err(|_| AccountsError::Interrupted)
}

impl Hashing {
    /// Turns for so many cores.
    pub fn new(cores: usize) -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self {
            cores: semaphore(cores),
            crowded: semaphore(1),
            failing: semaphore(1),
            places: [(); 3].map(|()| semaphore(cores * WAITING)),
        }
    }

    /// Waits for a turn in a lane. Between those who wait for a core there is never more than
    /// one from the lanes behind: a flood there costs the clear lane the time of one hash.
    ///
    /// # Errors
    /// [`AccountsError::Busy`] at once, when too many wait there.
    pub async fn turn(&self, lane: Lane) -> Result<Turn, AccountsError> {
        let place = Arc::clone(&self.places[lane as usize]).try_acquire_owned();
        let _place = place.map_err(|_| AccountsError::Busy)?;
        let failing = match lane {
            Lane::Failing => Some(permit(&self.failing).await?),
            Lane::Clear | Lane::Crowded => None,
        };
        let crowded = match lane {
            Lane::Clear => None,
            Lane::Crowded | Lane::Failing => Some(permit(&self.crowded).await?),
        };
        Ok(Turn {
            _core: permit(&self.cores).await?,
            _lanes: [failing, crowded],
        })
    }
}

#[cfg(test)]
impl Hashing {
    /// How many more may wait in a lane.
    pub fn room(&self, lane: Lane) -> usize {
        self.places[lane as usize].available_permits()
    }
}

impl Turn {
    /// Takes the turn, on a thread where that is allowed.
    ///
    /// # Errors
    /// When the thread is gone.
    pub async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, AccountsError> {
        let working = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(self);
            done
        });
        working.await.map_err(|_| AccountsError::Interrupted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering},
            mpsc,
        },
        time::Duration,
    };

    #[tokio::test(flavor = "multi_thread")]
    async fn no_more_at_once_than_cores_even_when_nobody_waits_for_them() {
        let hashing = Hashing::new(2);
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        for _ in 0..20 {
            let turn = hashing.turn(Lane::Clear).await.unwrap();
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            let work = turn.run(move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(5));
                now.fetch_sub(1, Ordering::SeqCst);
            });
            // As when a client gives up.
            let _ = tokio::time::timeout(Duration::from_millis(1), work).await;
        }
        assert_eq!(most.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_clear_lane_overtakes_the_others_and_each_is_bounded() {
        let hashing = Hashing::new(1);
        let (go, wait) = mpsc::channel::<()>();
        let busy = hashing.turn(Lane::Clear).await.unwrap();
        let busy = tokio::spawn(busy.run(move || wait.recv()));
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        // Each lane is filled before the next, the last ones first.
        for lane in [Lane::Failing, Lane::Crowded, Lane::Clear] {
            for _ in 0..WAITING {
                let (turns, order) = (hashing.clone(), Arc::clone(&order));
                waiting.push(tokio::spawn(async move {
                    let turn = turns.turn(lane).await.unwrap();
                    turn.run(move || order.lock().unwrap().push(lane)).await
                }));
            }
            while hashing.room(lane) > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let more = hashing.turn(lane).await;
            assert!(matches!(more, Err(AccountsError::Busy)));
        }
        go.send(()).unwrap();
        busy.await.unwrap().unwrap().unwrap();
        for task in waiting {
            task.await.unwrap().unwrap();
        }
        let order = order.lock().unwrap();
        let before_clear = |lane| {
            let last = order.iter().rposition(|lane| *lane == Lane::Clear);
            let mut before = order[..last.unwrap()].iter();
            before.by_ref().filter(|of| **of == lane).count()
        };
        // One that failed stood in line already, before anybody else came.
        assert_eq!(before_clear(Lane::Failing), 1);
        assert_eq!(before_clear(Lane::Crowded), 0);
        let last_crowded = order.iter().rposition(|lane| *lane == Lane::Crowded);
        let failing = order[..last_crowded.unwrap()].iter();
        let failing = failing.filter(|lane| **lane == Lane::Failing).count();
        assert!(failing <= 2, "{order:?}");
    }
}
