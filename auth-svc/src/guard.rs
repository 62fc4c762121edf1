//! Lets passwords be tried as [`Attempts`] allows it.

use crate::attempts::{Attempts, Lane, Verdict};
use iceflix_core::api::auth::AuthError;
use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// What all connections know of attempts. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    attempts: Arc<Mutex<Attempts>>,
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
    /// Where an attempt has to line up.
    ///
    /// # Errors
    /// [`AuthError::TooManyAttempts`] when it comes too early.
    pub fn lane(&self, user: &str, from: IpAddr) -> Result<Lane, AuthError> {
        judged(self.attempts().judge(user, from, Instant::now()))
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
        assert_eq!(guard.lane("ada", from), Err(refused));
        guard.begin("bob", from).unwrap().succeeded();
        assert_eq!(guard.lane("bob", from), Ok(Lane::Clear));
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
