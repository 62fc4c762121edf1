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
    granted: Option<Granted>,
}

/// What else a stream's life depends on that plays by a grant. Nobody renews it, so nobody is given
/// time for that.
#[derive(Debug, Clone, Copy)]
struct Granted {
    /// For how long it plays while there is no authenticator that could revoke it.
    unsupervised: Duration,
    /// Since when there is none.
    silent_since: Option<Instant>,
}

impl Lifetime {
    /// It plays until its token is over.
    pub fn until(deadline: Instant) -> Self {
        Self {
            deadline,
            revoked: None,
            granted: None,
        }
    }

    /// It plays until its grant is over, and for so long without an authenticator.
    pub fn granted(deadline: Instant, unsupervised: Duration) -> Self {
        let granted = Granted {
            unsupervised,
            silent_since: None,
        };
        Self {
            granted: Some(granted),
            ..Self::until(deadline)
        }
    }

    /// Whether a token can renew it.
    pub fn is_renewable(&self) -> bool {
        self.granted.is_none()
    }

    /// Since when there is no authenticator; `None` while there is one. Streams that tokens keep
    /// alive end without that, since nobody gets a token.
    pub fn supervised(&mut self, silent_since: Option<Instant>) {
        if let Some(granted) = &mut self.granted {
            granted.silent_since = silent_since;
        }
    }

    /// It was renewed: what happened to the token before does not count any more. A token that
    /// ends earlier than the one before does not shorten it. Whether the new token is what it rests
    /// on now.
    pub fn renew(&mut self, deadline: Instant) -> bool {
        let taken = self.revoked.take().is_some() || deadline > self.deadline;
        if taken {
            self.deadline = deadline;
        }
        taken
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
        if let Some(granted) = &self.granted {
            let unsupervised = granted
                .silent_since
                // Beyond what the clock can count is after any grant's end.
                .and_then(|since| since.checked_add(granted.unsupervised))
                .filter(|at| *at < over);
            let (over, reason) = match unsupervised {
                Some(at) => (at, EndReason::Unsupervised),
                None => (over, reason),
            };
            return match now < over {
                true => Next::Wait(over),
                false => Next::End(reason),
            };
        }
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

    #[test]
    fn a_granted_stream_ends_at_once_when_its_grant_does() {
        let now = Instant::now();
        let mut life = Lifetime::granted(now + seconds(3600), seconds(600));
        assert!(!life.is_renewable() && Lifetime::until(now).is_renewable());
        assert_eq!(life.next(now), Next::Wait(now + seconds(3600)));
        let over = life.next(now + seconds(3600));
        assert_eq!(over, Next::End(EndReason::Expired));
        life.revoke(now + seconds(10));
        let revoked = life.next(now + seconds(10));
        assert_eq!(revoked, Next::End(EndReason::Revoked));
    }

    #[test]
    fn a_granted_stream_stops_some_time_after_the_last_authenticator() {
        let now = Instant::now();
        let mut life = Lifetime::granted(now + seconds(3600), seconds(600));
        life.supervised(Some(now + seconds(100)));
        let silent = now + seconds(699);
        assert_eq!(life.next(silent), Next::Wait(now + seconds(700)));
        life.supervised(None);
        assert_eq!(life.next(silent), Next::Wait(now + seconds(3600)));
        life.supervised(Some(silent));
        let over = life.next(silent + seconds(600));
        assert_eq!(over, Next::End(EndReason::Unsupervised));
        // For one that a token keeps alive the token's end is enough.
        let mut life = Lifetime::until(now + seconds(3600));
        life.supervised(Some(now));
        assert_eq!(life.next(silent), Next::Wait(now + seconds(3600)));
    }

    proptest! {
        #[test]
        fn a_granted_stream_plays_exactly_until_the_first_of_its_ends(
            until in 1u64..1000, unsupervised in 0u64..1000,
            silent in proptest::option::of(0u64..1000), revoked in proptest::option::of(0u64..1000)
        ) {
            let start = Instant::now();
            let mut life = Lifetime::granted(start + seconds(until), seconds(unsupervised));
            life.supervised(silent.map(|at| start + seconds(at)));
            if let Some(at) = revoked {
                life.revoke(start + seconds(at));
            }
            let ends = [Some(until), revoked, silent.map(|at| at + unsupervised)];
            let first = ends.into_iter().flatten().min().unwrap();
            let before = start + seconds(first) - Duration::from_nanos(1);
            if first > 0 {
                prop_assert_eq!(life.next(before), Next::Wait(start + seconds(first)));
            }
            prop_assert!(matches!(life.next(start + seconds(first)), Next::End(_)));
        }

        #[test]
        fn no_supervision_is_too_long_for_the_clock(unsupervised in any::<u64>()) {
            let now = Instant::now();
            let mut life = Lifetime::granted(now + seconds(10), seconds(unsupervised));
            life.supervised(Some(now));
            prop_assert!(matches!(life.next(now + seconds(10)), Next::End(_)));
        }

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
