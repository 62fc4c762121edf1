//! Grants: leave to watch one film for some hours, whether or not anybody stays logged in.
//!
//! An authenticator keeps a row for each, as for a session, so that it can be revoked. What it
//! signs (PASETO v4.public, its audience another than a token's) only brings word of that row to a
//! streaming node, within [`TAKE_UP`]. From then on the node goes by what is revoked.

use super::{
    Identity, SESSION_LIFETIME,
    keys::{Signed, SigningKey, VerifyingKey},
    token::{LEEWAY, audience, read_time, write_time},
};
use crate::api::{
    MediaId, SessionId, TokenError,
    auth::{Grant, Role},
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Within what time a streaming node has to take a grant up.
pub const TAKE_UP: Duration = Duration::from_secs(60);

/// The longest that any cluster may allow: as long as a session.
pub const LONGEST: Duration = SESSION_LIFETIME;

/// What a grant allows, and to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leave {
    /// The user, the grant's id in the place of a session's, and its end. It has no more rights
    /// than any user's.
    pub identity: Identity,
    /// The film.
    pub media: MediaId,
}

/// The claims, by the names that PASETO registers where it has one.
#[derive(Serialize, Deserialize)]
struct Claims {
    aud: String,
    sub: String,
    nbf: String,
    exp: String,
    sid: SessionId,
    epoch: u64,
    media: MediaId,
    until: String,
}

/// No token is taken for a grant, nor a grant for a token: a cluster's name has no `/`.
fn grants_audience(cluster: &str) -> String {
    format!("{}/grant", audience(cluster))
}

/// Signs a grant, to be taken up from `now` on. `None` when it cannot be signed, which only a clock
/// beyond all calendars brings about.
pub fn issue(key: &SigningKey, cluster: &str, leave: &Leave, now: Duration) -> Option<Grant> {
    let claims = Claims {
        aud: grants_audience(cluster),
        sub: leave.identity.user.clone(),
        nbf: write_time(now),
        exp: write_time(now + TAKE_UP),
        sid: leave.identity.session,
        epoch: leave.identity.epoch,
        media: leave.media,
        until: write_time(leave.identity.expires),
    };
    key.sign(&claims, &hex::encode(key.public().0)).map(Grant)
}

/// What a grant allows, if `known` has the key it names and it can be taken up at `now`. What was
/// revoked is not looked at here; [`super::Verifier`] does.
///
/// # Errors
/// Says what is wrong with it.
pub fn verify(
    grant: &Grant,
    cluster: &str,
    known: impl Fn(&VerifyingKey) -> bool,
    now: Duration,
) -> Result<Leave, TokenError> {
    let claims: Claims = Signed::by_known(&grant.0, known)?;
    if claims.aud != grants_audience(cluster) {
        return Err(TokenError::WrongAudience);
    }
    let time = |text: &str| read_time(text).ok_or(TokenError::Invalid);
    let (begins, ends, until) = (time(&claims.nbf)?, time(&claims.exp)?, time(&claims.until)?);
    let in_time = now + LEEWAY >= begins && now < ends && now < until;
    // Nobody but an authenticator signs, and none of ours signs more than this.
    if !in_time || ends > begins + TAKE_UP || until > begins + LONGEST {
        return Err(TokenError::Expired);
    }
    Ok(Leave {
        identity: Identity {
            user: claims.sub,
            session: claims.sid,
            role: Role::User,
            epoch: claims.epoch,
            expires: until,
        },
        media: claims.media,
    })
}

#[cfg(test)]
mod tests {
    use super::{super::token, *};
    use crate::api::auth::Token;
    use proptest::prelude::*;

    const NOW: Duration = Duration::from_millis(1_800_000_000_123);

    fn leave(lasts: Duration) -> Leave {
        Leave {
            identity: Identity {
                user: "ada".into(),
                session: SessionId::from_bytes([3; 16]),
                role: Role::User,
                epoch: 7,
                expires: NOW + lasts,
            },
            media: MediaId::from_bytes([4; 32]),
        }
    }

    const HOURS: Duration = Duration::from_secs(4 * 3600);

    #[test]
    fn a_grant_says_what_it_allows_and_is_taken_up_within_a_minute() {
        let key = SigningKey::generate().unwrap();
        let grant = issue(&key, "home", &leave(HOURS), NOW).unwrap();
        let check = |now| verify(&grant, "home", |k| *k == key.public(), now);
        assert_eq!(check(NOW), Ok(leave(HOURS)));
        assert_eq!(check(NOW - LEEWAY), Ok(leave(HOURS)));
        assert!(check(NOW + TAKE_UP - Duration::from_millis(1)).is_ok());
        for late in [NOW + TAKE_UP, NOW + HOURS, NOW - LEEWAY * 2] {
            assert_eq!(check(late), Err(TokenError::Expired));
        }
        let elsewhere = verify(&grant, "lab", |_| true, NOW);
        assert_eq!(elsewhere, Err(TokenError::WrongAudience));
        let unknown = verify(&grant, "home", |_| false, NOW);
        assert_eq!(unknown, Err(TokenError::UnknownSigner));
    }

    #[test]
    fn one_that_ends_within_the_minute_is_not_taken_up_after_its_end() {
        let key = SigningKey::generate().unwrap();
        let short = Duration::from_secs(10);
        let grant = issue(&key, "home", &leave(short), NOW).unwrap();
        let check = |now| verify(&grant, "home", |_| true, now);
        assert!(check(NOW + short - Duration::from_millis(1)).is_ok());
        assert_eq!(check(NOW + short), Err(TokenError::Expired));
    }

    #[test]
    fn one_that_lasts_longer_than_any_may_is_refused() {
        let key = SigningKey::generate().unwrap();
        for (lasts, good) in [(LONGEST, true), (LONGEST + Duration::from_secs(1), false)] {
            let grant = issue(&key, "home", &leave(lasts), NOW).unwrap();
            assert_eq!(verify(&grant, "home", |_| true, NOW).is_ok(), good);
        }
    }

    #[test]
    fn tokens_and_grants_are_not_taken_for_each_other() {
        let key = SigningKey::generate().unwrap();
        let grant = issue(&key, "home", &leave(HOURS), NOW).unwrap();
        let as_token = token::verify(&Token(grant.0), "home", |_| true, NOW);
        assert!(as_token.is_err(), "{as_token:?}");
        let session = SessionId::from_bytes([1; 16]);
        let token = token::issue(&key, "home", "ada", session, Role::Admin, 7, NOW).unwrap();
        assert!(verify(&Grant(token.0), "home", |_| true, NOW).is_err());
        // Not even when the rest fits: by the audience alone.
        let claims = Claims {
            aud: audience("home"),
            sub: "ada".into(),
            nbf: write_time(NOW),
            exp: write_time(NOW + TAKE_UP),
            sid: session,
            epoch: 0,
            media: MediaId::from_bytes([4; 32]),
            until: write_time(NOW + HOURS),
        };
        let text = key.sign(&claims, &hex::encode(key.public().0)).unwrap();
        let refused = verify(&Grant(text), "home", |_| true, NOW);
        assert_eq!(refused, Err(TokenError::WrongAudience));
    }

    proptest! {
        #[test]
        fn a_damaged_grant_is_refused(at in any::<prop::sample::Index>(), to in "[A-Za-z0-9_.-]") {
            let key = SigningKey::generate().unwrap();
            let good = issue(&key, "home", &leave(HOURS), NOW).unwrap();
            let mut bad = good.0.clone();
            let at = at.index(bad.len());
            bad.replace_range(at..=at, &to);
            prop_assume!(bad != good.0);
            prop_assert!(verify(&Grant(bad), "home", |k| *k == key.public(), NOW).is_err());
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            let prefixed = format!("v4.public.{text}");
            for text in [text, prefixed] {
                prop_assert!(verify(&Grant(text), "home", |_| true, NOW).is_err());
            }
        }
    }
}
