//! Sessions: the client's own key, and the proofs it makes with it.

use super::{
    keys::{KeyError, Signed, SigningKey, VerifyingKey},
    token::{audience, read_time, write_time},
};
use crate::api::{SessionId, TokenError, auth::SessionProof};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How far the client's clock may be off. A proof is replayable for that long by whoever can read
/// the (later encrypted) connection; a home computer's clock may well be minutes off.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(300);

/// What a proof is for; one made for one thing is no good for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// A fresh token.
    Renew,
    /// The end of the session.
    Logout,
}

/// The private half of a session's key, kept by the client alone.
#[derive(Debug, Clone)]
pub struct SessionKey(SigningKey);

#[derive(Serialize, Deserialize)]
struct Claims {
    aud: String,
    iat: String,
    purpose: Purpose,
}

impl SessionKey {
    /// A new one.
    ///
    /// # Errors
    /// When the operating system gives no random numbers.
    pub fn generate() -> Result<Self, KeyError> {
        SigningKey::generate().map(Self)
    }

    /// The key that [`SessionKey::to_bytes`] gave; `None` when these are not its bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        SigningKey::from_bytes(bytes).map(Self)
    }

    /// The key as bytes, for a file that only its owner can read.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.to_bytes()
    }

    /// The public half, for the login.
    pub fn public(&self) -> [u8; 32] {
        self.0.public().0
    }

    /// Proves that the caller holds the session: for one cluster, one purpose, and now.
    /// `None` only when the clock is beyond all calendars.
    pub fn prove(
        &self,
        session: SessionId,
        cluster: &str,
        purpose: Purpose,
        now: Duration,
    ) -> Option<SessionProof> {
        let claims = Claims {
            aud: audience(cluster),
            iat: write_time(now),
            purpose,
        };
        self.0.sign(&claims, &session.to_string()).map(SessionProof)
    }
}

/// Which session a proof says it is of: not to be believed before [`verify`].
pub fn claimed_session(proof: &SessionProof) -> Option<SessionId> {
    Signed::parse(&proof.0).ok()?.footer().parse().ok()
}

/// Whether the session's key made this proof, for this cluster and purpose, about now.
///
/// # Errors
/// Says which of these does not hold.
pub fn verify(
    proof: &SessionProof,
    key: [u8; 32],
    cluster: &str,
    purpose: Purpose,
    now: Duration,
) -> Result<(), TokenError> {
    let signed = Signed::parse(&proof.0).map_err(|_| TokenError::Invalid)?;
    let claims: Claims = signed
        .verify(&VerifyingKey(key))
        .map_err(|_| TokenError::Invalid)?;
    if claims.aud != audience(cluster) || claims.purpose != purpose {
        return Err(TokenError::WrongAudience);
    }
    let made = read_time(&claims.iat).ok_or(TokenError::Invalid)?;
    if made.abs_diff(now) > CLOCK_TOLERANCE {
        return Err(TokenError::Expired);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_800_000_000);

    #[test]
    fn a_proof_holds_for_its_session_purpose_cluster_and_time() {
        let key = SessionKey::generate().unwrap();
        let session = SessionId::from_bytes([9; 16]);
        let proof = key.prove(session, "home", Purpose::Renew, NOW).unwrap();
        assert_eq!(claimed_session(&proof), Some(session));
        let check =
            |key: [u8; 32], cluster, purpose, now| verify(&proof, key, cluster, purpose, now);
        assert_eq!(check(key.public(), "home", Purpose::Renew, NOW), Ok(()));
        assert_eq!(
            check(key.public(), "home", Purpose::Logout, NOW),
            Err(TokenError::WrongAudience)
        );
        assert_eq!(
            check(key.public(), "lab", Purpose::Renew, NOW),
            Err(TokenError::WrongAudience)
        );
        for off in [NOW + CLOCK_TOLERANCE * 2, NOW - CLOCK_TOLERANCE * 2] {
            assert_eq!(
                check(key.public(), "home", Purpose::Renew, off),
                Err(TokenError::Expired)
            );
        }
        let other = SessionKey::generate().unwrap();
        assert_eq!(
            check(other.public(), "home", Purpose::Renew, NOW),
            Err(TokenError::Invalid)
        );
    }

    #[test]
    fn nonsense_is_no_proof() {
        let nonsense = SessionProof("v4.public.nonsense".into());
        assert_eq!(claimed_session(&nonsense), None);
        assert!(verify(&nonsense, [0; 32], "home", Purpose::Renew, NOW).is_err());
    }
}
