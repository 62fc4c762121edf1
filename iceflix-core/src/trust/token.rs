//! Tokens: PASETO v4.public, 30 seconds, verified by every service by itself.

use super::{
    TOKEN_LIFETIME,
    keys::{Signed, SigningKey, VerifyingKey},
};
use crate::api::{
    SessionId, TokenError,
    auth::{Role, Token},
};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// How far the clock of the authenticator may be ahead of ours.
pub(crate) const LEEWAY: Duration = Duration::from_secs(2);

/// Whom a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub user: String,
    /// The session that the token was made for.
    pub session: SessionId,
    /// What the user may do.
    pub role: Role,
    /// The user's epoch when the token was made: revoking raises it.
    pub epoch: u64,
    /// When the token ends, since 1970.
    pub expires: Duration,
}

/// The claims, by the names that PASETO registers where it has one.
#[derive(Serialize, Deserialize)]
struct Claims {
    aud: String,
    sub: String,
    iat: String,
    nbf: String,
    exp: String,
    sid: SessionId,
    roles: Vec<Role>,
    epoch: u64,
}

/// The audience of a cluster's tokens.
pub(super) fn audience(cluster: &str) -> String {
    format!("iceflix/{cluster}")
}

/// A time as PASETO writes it (RFC 3339).
pub(crate) fn write_time(time: Duration) -> String {
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|time_of_day| {
            (time_of_day + Duration::from_millis(time.subsec_millis().into()))
                .format(&Rfc3339)
                .ok()
        })
        // Only a clock beyond the year 9999 gets here; the token will not verify.
        .unwrap_or_default()
}

/// Reads a time; `None` when it is none, or before 1970.
pub(super) fn read_time(text: &str) -> Option<Duration> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    u64::try_from(time.unix_timestamp_nanos())
        .ok()
        .map(Duration::from_nanos)
}

/// Makes a token that is good for 30 s from `now`. `None` when it cannot be signed, which only a
/// clock beyond all calendars brings about.
pub fn issue(
    key: &SigningKey,
    cluster: &str,
    user: &str,
    session: SessionId,
    role: Role,
    epoch: u64,
    now: Duration,
) -> Option<Token> {
    let claims = Claims {
        aud: audience(cluster),
        sub: user.to_owned(),
        iat: write_time(now),
        nbf: write_time(now),
        exp: write_time(now + TOKEN_LIFETIME),
        sid: session,
        roles: vec![role],
        epoch,
    };
    key.sign(&claims, &hex::encode(key.public().0)).map(Token)
}

/// Whose token this is, if `known` has the key it names and it is good at `now`. What was revoked
/// is not looked at here; [`super::Verifier`] does.
pub fn verify(
    token: &Token,
    cluster: &str,
    known: impl Fn(&VerifyingKey) -> bool,
    now: Duration,
) -> Result<Identity, TokenError> {
    let claims: Claims = Signed::by_known(&token.0, known)?;
    if claims.aud != audience(cluster) {
        return Err(TokenError::WrongAudience);
    }
    let begins = read_time(&claims.nbf).ok_or(TokenError::Invalid)?;
    let expires = read_time(&claims.exp).ok_or(TokenError::Invalid)?;
    if now + LEEWAY < begins || now >= expires || expires > begins + TOKEN_LIFETIME {
        return Err(TokenError::Expired);
    }
    Ok(Identity {
        user: claims.sub,
        session: claims.sid,
        role: claims.roles.into_iter().max().unwrap_or(Role::User),
        epoch: claims.epoch,
        expires,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Duration = Duration::from_millis(1_800_000_000_123);

    fn token(key: &SigningKey, cluster: &str) -> Token {
        let session = SessionId::from_bytes([1; 16]);
        issue(key, cluster, "ada", session, Role::Admin, 7, NOW).unwrap()
    }

    #[test]
    fn a_token_says_whose_it_is_for_thirty_seconds() {
        let key = SigningKey::generate().unwrap();
        let token = token(&key, "home");
        let check = |now| verify(&token, "home", |k| *k == key.public(), now);
        let identity = check(NOW).unwrap();
        assert_eq!((identity.user.as_str(), identity.epoch), ("ada", 7));
        assert_eq!(identity.role, Role::Admin);
        assert_eq!(identity.expires, NOW + TOKEN_LIFETIME);
        assert!(check(NOW + TOKEN_LIFETIME - Duration::from_millis(1)).is_ok());
        assert_eq!(check(NOW + TOKEN_LIFETIME), Err(TokenError::Expired));
        assert!(check(NOW - LEEWAY).is_ok());
        assert_eq!(
            check(NOW - LEEWAY - Duration::from_millis(1)),
            Err(TokenError::Expired)
        );
    }

    #[test]
    fn a_token_of_an_unknown_signer_is_refused() {
        let key = SigningKey::generate().unwrap();
        let result = verify(&token(&key, "home"), "home", |_| false, NOW);
        assert_eq!(result, Err(TokenError::UnknownSigner));
    }

    #[test]
    fn a_token_that_names_another_key_than_signed_it_is_refused() {
        let (ours, theirs) = (
            SigningKey::generate().unwrap(),
            SigningKey::generate().unwrap(),
        );
        let text = token(&theirs, "home").0;
        let forged = {
            let claims: Claims = Signed::parse(&text)
                .unwrap()
                .verify(&theirs.public())
                .unwrap();
            theirs.sign(&claims, &hex::encode(ours.public().0)).unwrap()
        };
        let result = verify(&Token(forged), "home", |k| *k == ours.public(), NOW);
        assert_eq!(result, Err(TokenError::Invalid));
    }

    #[test]
    fn a_token_of_another_cluster_is_refused() {
        let key = SigningKey::generate().unwrap();
        let result = verify(&token(&key, "lab"), "home", |_| true, NOW);
        assert_eq!(result, Err(TokenError::WrongAudience));
    }

    #[test]
    fn a_token_that_claims_to_live_longer_is_refused() {
        let key = SigningKey::generate().unwrap();
        let claims = Claims {
            aud: audience("home"),
            sub: "ada".into(),
            iat: write_time(NOW),
            nbf: write_time(NOW),
            exp: write_time(NOW + TOKEN_LIFETIME * 2),
            sid: SessionId::from_bytes([1; 16]),
            roles: vec![Role::Admin],
            epoch: 0,
        };
        let text = key.sign(&claims, &hex::encode(key.public().0)).unwrap();
        let result = verify(&Token(text), "home", |_| true, NOW);
        assert_eq!(result, Err(TokenError::Expired));
    }

    /// What a clock may say that jumps: near the token's time, or anything.
    fn reading() -> impl Strategy<Value = Duration> {
        let near = NOW.as_millis() as u64;
        prop_oneof![
            (near - 5_000..near + 40_000).prop_map(Duration::from_millis),
            any::<u64>().prop_map(Duration::from_millis),
            any::<u32>().prop_map(|later| NOW + Duration::from_secs(later.into())),
        ]
    }

    proptest! {
        /// However the clock is set forth and back: it is not remembered that a token was good.
        #[test]
        fn a_token_is_good_in_its_time_and_at_no_other(clock in proptest::collection::vec(reading(), 1..30)) {
            let key = SigningKey::generate().unwrap();
            let token = token(&key, "home");
            for now in clock {
                let good = verify(&token, "home", |k| *k == key.public(), now);
                let in_time = now + LEEWAY >= NOW && now < NOW + TOKEN_LIFETIME;
                prop_assert_eq!(good.is_ok(), in_time, "{:?}: {:?}", now, good);
                if !in_time {
                    prop_assert_eq!(good, Err(TokenError::Expired));
                }
            }
        }

        #[test]
        fn a_damaged_token_is_refused(at in 0usize..400, to in "[A-Za-z0-9_.-]", cut in any::<bool>()) {
            let key = SigningKey::generate().unwrap();
            let good = token(&key, "home");
            let at = at % good.0.len();
            let mut bad = good.0.clone();
            if cut {
                bad.truncate(at);
            } else {
                bad.replace_range(at..=at, &to);
            }
            prop_assume!(bad != good.0);
            prop_assert!(verify(&Token(bad), "home", |k| *k == key.public(), NOW).is_err());
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            let prefixed = format!("v4.public.{text}");
            for text in [text, prefixed] {
                prop_assert!(verify(&Token(text), "home", |_| true, NOW).is_err());
            }
        }

        #[test]
        fn times_read_back(ms in 0u64..4_000_000_000_000) {
            let time = Duration::from_millis(ms);
            prop_assert_eq!(read_time(&write_time(time)), Some(time));
        }
    }
}
