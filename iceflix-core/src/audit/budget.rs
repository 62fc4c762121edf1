//! How many refusals are written down one by one.

use std::time::{Duration, Instant};

/// So many at once …
const BURST: u32 = 500;

/// … and one in so long after that. At some 170 bytes each, a flood that lasts for a day fills two of
/// the log's five files, and not, within a minute, all of them.
const PAUSE: Duration = Duration::from_secs(1);

/// What is left to write.
#[derive(Debug)]
pub(super) struct Budget {
    left: u32,
    /// Since when nothing was added.
    since: Instant,
}

impl Budget {
    pub fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            since: now,
        }
    }

    /// Whether one more may be written at this time, which it then counts as.
    pub fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since);
        let earned = u32::try_from(passed.as_millis() / PAUSE.as_millis()).unwrap_or(u32::MAX);
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(BURST);
            self.since = match self.left {
                BURST => now,
                _ => self.since + PAUSE * earned,
            };
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    proptest! {
        #[test]
        fn never_more_than_a_burst_and_one_a_second(pauses in vec(0u64..5_000, 1..2_000)) {
            let begun = Instant::now();
            let (mut budget, mut now, mut written) = (Budget::new(begun), begun, 0u64);
            for pause in pauses {
                now += Duration::from_millis(pause);
                written += u64::from(budget.take(now));
                prop_assert!(written <= u64::from(BURST) + (now - begun).as_secs());
            }
        }
    }

    #[test]
    fn after_a_flood_it_recovers() {
        let mut now = Instant::now();
        let mut budget = Budget::new(now);
        let taken = (0..10_000).filter(|_| budget.take(now)).count();
        assert_eq!(taken, 500);
        now += PAUSE;
        assert!(budget.take(now) && !budget.take(now));
        // One now and then is always written.
        for _ in 0..1_000 {
            now += PAUSE + Duration::from_millis(1);
            assert!(budget.take(now));
        }
        now += PAUSE * 10_000;
        let taken = (0..10_000).filter(|_| budget.take(now)).count();
        assert_eq!(taken, 500);
    }
}
