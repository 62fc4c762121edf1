//! How long to wait before a dead instance is started again.

use std::time::Duration;

/// Short at first, since most deaths are single ones; then doubling, so that an instance which
/// cannot start does not keep a core busy.
#[derive(Debug, Default)]
pub struct Backoff {
    deaths: u32,
}

impl Backoff {
    /// The first wait.
    pub const FIRST: Duration = Duration::from_millis(200);
    /// The longest wait.
    pub const LONGEST: Duration = Duration::from_secs(30);
    /// An instance that ran for so long counts as healthy again: one that cannot start mostly ends
    /// within a few seconds, and one that was killed twice in a minute is wanted back at once.
    pub const HEALTHY: Duration = Duration::from_secs(10);

    /// The wait after a death, given for how long the instance had run.
    pub fn after(&mut self, ran: Duration) -> Duration {
        if ran >= Self::HEALTHY {
            self.deaths = 0;
        }
        let wait = Self::FIRST.saturating_mul(1 << self.deaths.min(16));
        self.deaths = self.deaths.saturating_add(1);
        wait.min(Self::LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..10)
            .map(|_| backoff.after(Duration::ZERO).as_millis())
            .collect();
        assert_eq!(
            waits,
            [
                200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000
            ]
        );
    }

    #[test]
    fn ten_seconds_of_health_start_over() {
        let mut backoff = Backoff::default();
        for _ in 0..5 {
            backoff.after(Duration::from_secs(9));
        }
        assert_eq!(backoff.after(Duration::from_secs(10)), Backoff::FIRST);
        assert_eq!(backoff.after(Duration::ZERO), Backoff::FIRST * 2);
    }

    proptest! {
        #[test]
        fn waits_stay_in_bounds(lives in proptest::collection::vec(0u64..200, 0..100)) {
            let mut backoff = Backoff::default();
            for life in lives {
                let wait = backoff.after(Duration::from_secs(life));
                prop_assert!((Backoff::FIRST..=Backoff::LONGEST).contains(&wait));
            }
        }
    }
}
