//! Lets passwords be tried as [`Attempts`] allows it.

use crate::attempts::{Attempts, Lane, Place, Verdict};
use iceflix_core::api::auth::AuthError;
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// When to try again if too many wait: as much is hashed in about that time.
pub const SOON: Duration = Duration::from_secs(1);

/// How many attempts from one address may stand in the crowded lane at a time: whoever makes up
/// names there shall not fill it for others.
const CROWD: usize = 10;

/// What all connections know of attempts. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    attempts: Arc<Mutex<Attempts>>,
    /// How many stand in the crowded lane, of each address.
    crowds: Arc<Mutex<HashMap<Place, usize>>>,
}

/// An attempt's place in its lane; to be kept until it was its turn.
#[derive(Debug)]
pub struct Standing {
    lane: Lane,
    _crowd: Option<InCrowd>,
}

/// One of those from an address that stand in the crowded lane.
#[derive(Debug)]
struct InCrowd {
    guard: Guard,
    from: Place,
}

/// A password that is being looked at. Unless it is said to have been right, it was wrong: who
/// gives up before the answer has tried, too.
#[derive(Debug)]
pub struct Attempt {
    guard: Guard,
    user: String,
    from: IpAddr,
    counts: bool,
}

/// The refusal of an attempt before it may be made.
pub fn too_early(left: Duration) -> AuthError {
    let whole = left.as_secs() + u64::from(left.subsec_nanos() > 0);
    AuthError::TooManyAttempts {
        retry_after_s: u32::try_from(whole.max(1)).unwrap_or(u32::MAX),
    }
}

fn judged(verdict: Verdict) -> Result<Lane, AuthError> {
    match verdict {
        Verdict::Go(lane) => Ok(lane),
        Verdict::Wait(left) => Err(too_early(left)),
    }
}

impl Guard {
    /// Lines an attempt up.
    ///
    /// # Errors
    /// [`AuthError::TooManyAttempts`] when it comes too early, or with too many others.
    pub fn line_up(&self, user: &str, from: IpAddr) -> Result<Standing, AuthError> {
        let verdict = self.attempts().judge(user, from, Instant::now());
        let lane = judged(verdict)?;
        let _crowd = match lane {
            Lane::Crowded => Some(self.crowd(from.into())?),
            Lane::Clear | Lane::Failing => None,
        };
        Ok(Standing { lane, _crowd })
    }

    fn crowd(&self, from: Place) -> Result<InCrowd, AuthError> {
        let mut crowds = self.crowds();
        let standing = crowds.entry(from).or_default();
        if *standing >= CROWD {
            return Err(too_early(SOON));
        }
        *standing += 1;
        Ok(InCrowd {
            guard: self.clone(),
            from,
        })
    }

    /// As for [`Guard::attempts`].
    fn crowds(&self) -> MutexGuard<'_, HashMap<Place, usize>> {
        self.crowds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called when it is the attempt's turn: others may have failed while it waited.
    ///
    /// # Errors
    /// [`AuthError::TooManyAttempts`] when it comes too early.
    pub fn begin(&self, user: &str, from: IpAddr) -> Result<Attempt, AuthError> {
        judged(self.attempts().begin(user, from, Instant::now()))?;
        Ok(Attempt {
            guard: self.clone(),
            user: user.to_owned(),
            from,
            counts: true,
        })
    }

    /// It is changed in single steps, so a panic elsewhere cannot have left it half changed.
    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Standing {
    /// In which lane.
    pub fn lane(&self) -> Lane {
        self.lane
    }
}

impl Drop for InCrowd {
    fn drop(&mut self) {
        let mut crowds = self.guard.crowds();
        match crowds.get_mut(&self.from) {
            Some(standing) if *standing > 1 => *standing -= 1,
            _ => drop(crowds.remove(&self.from)),
        }
    }
}

impl Attempt {
    /// The password was right.
    pub fn succeeded(mut self) {
        self.counts = false;
        let mut attempts = self.guard.attempts();
        attempts.succeeded(&self.user, self.from, Instant::now());
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.counts {
            let mut attempts = self.guard.attempts();
            attempts.failed(&self.user, self.from, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gives_up_in_the_middle_has_tried() {
        let (guard, from) = (Guard::default(), IpAddr::from([127, 0, 0, 1]));
        let mut tries = 0;
        let refused = loop {
            match guard.begin("ada", from) {
                Ok(attempt) => drop(attempt),
                Err(refused) => break refused,
            }
            tries += 1;
            assert!(tries < 100);
        };
        assert_eq!(refused, AuthError::TooManyAttempts { retry_after_s: 1 });
        assert_eq!(guard.line_up("ada", from).unwrap_err(), refused);
        guard.begin("bob", from).unwrap().succeeded();
        assert_eq!(guard.line_up("bob", from).unwrap().lane(), Lane::Clear);
    }

    #[test]
    fn one_address_fills_a_part_of_the_crowded_lane_only() {
        let guard = Guard::default();
        let (here, there) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        for n in 0..20 {
            for from in [here, there] {
                drop(guard.begin(&format!("made up {n}"), from).unwrap());
            }
        }
        let line_up = |from| guard.line_up("ada", from);
        let mut standing: Vec<Standing> = (0..CROWD).map(|_| line_up(here).unwrap()).collect();
        assert!(standing.iter().all(|one| one.lane() == Lane::Crowded));
        assert_eq!(line_up(here).unwrap_err(), too_early(SOON));
        assert_eq!(line_up(there).unwrap().lane(), Lane::Crowded);
        standing.pop();
        standing.push(line_up(here).unwrap());
        assert!(line_up(here).is_err());
        drop(standing);
        assert!(guard.crowds().is_empty());
    }

    #[test]
    fn the_time_to_wait_is_never_said_too_short() {
        for (millis, seconds) in [(1, 1), (1000, 1), (1001, 2), (299_001, 300)] {
            let said = too_early(Duration::from_millis(millis));
            let retry_after_s = seconds;
            assert_eq!(said, AuthError::TooManyAttempts { retry_after_s });
        }
    }
}
