//! How long a stream lives: pure, times in, decisions out.

use iceflix_core::api::streaming::EndReason;
use std::time::Duration;
use tokio::time::Instant;

/// How long a stream goes on after its token is over or revoked, for somebody to renew it.
const GRACE: Duration = Duration::from_secs(5);

/// What is to be done about a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing until then.
    Wait(Instant),
    /// Its controller is to renew it until then.
    Renewal(Instant),
    /// It ends.
    End(EndReason),
}

/// Until when a stream plays.
#[derive(Debug, Clone, Copy)]
pub struct Lifetime {
    deadline: Instant,
    revoked: Option<Instant>,
}

impl Lifetime {
    /// It plays until its token is over.
    pub fn until(deadline: Instant) -> Self {
        Self {
            deadline,
            revoked: None,
        }
    }

    /// It was renewed: what happened to the token before does not count any more. A token that
    /// ends earlier than the one before does not shorten it.
    pub fn renew(&mut self, deadline: Instant) {
        self.deadline = match self.revoked.take() {
            Some(_) => deadline,
            None => self.deadline.max(deadline),
        };
    }

    /// What its token rests on was revoked.
    pub fn revoke(&mut self, now: Instant) {
        self.revoked.get_or_insert(now);
    }

    /// What is to be done now.
    pub fn next(&self, now: Instant) -> Next {
        let (over, reason) = match self.revoked {
            Some(at) if at < self.deadline => (at, EndReason::Revoked),
            _ => (self.deadline, EndReason::Expired),
        };
        if now < over {
            Next::Wait(over)
        } else if now < over + GRACE {
            Next::Renewal(over + GRACE)
        } else {
            Next::End(reason)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn an_expired_stream_has_five_seconds_to_be_renewed() {
        let now = Instant::now();
        let mut life = Lifetime::until(now + seconds(30));
        assert_eq!(life.next(now), Next::Wait(now + seconds(30)));
        assert_eq!(
            life.next(now + seconds(30)),
            Next::Renewal(now + seconds(35))
        );
        assert_eq!(life.next(now + seconds(35)), Next::End(EndReason::Expired));
        life.renew(now + seconds(63));
        assert_eq!(life.next(now + seconds(35)), Next::Wait(now + seconds(63)));
    }

    #[test]
    fn a_revoked_stream_too_and_repeating_it_gives_no_more_time() {
        let now = Instant::now();
        let mut life = Lifetime::until(now + seconds(30));
        life.revoke(now + seconds(10));
        life.revoke(now + seconds(14));
        assert_eq!(
            life.next(now + seconds(10)),
            Next::Renewal(now + seconds(15))
        );
        assert_eq!(life.next(now + seconds(15)), Next::End(EndReason::Revoked));
        life.renew(now + seconds(20));
        assert_eq!(life.next(now + seconds(15)), Next::Wait(now + seconds(20)));
    }

    proptest! {
        #[test]
        fn no_stream_outlives_its_last_token_by_more_than_the_grace(
            renewals in proptest::collection::vec((0u64..100, 0u64..30), 0..20), revoked in proptest::option::of(0u64..100)
        ) {
            let start = Instant::now();
            let mut life = Lifetime::until(start + seconds(30));
            let mut last = seconds(30);
            for (at, lasts) in renewals {
                life.renew(start + seconds(at + lasts));
                last = last.max(seconds(at + lasts));
            }
            if let Some(at) = revoked {
                life.revoke(start + seconds(at));
                prop_assert!(matches!(life.next(start + seconds(at) + GRACE), Next::End(_)) || last < seconds(at));
            }
            prop_assert!(matches!(life.next(start + last + GRACE), Next::End(_)));
        }
    }
}
