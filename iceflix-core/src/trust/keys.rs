//! Ed25519 keys, and PASETO v4.public texts signed with them.

use crate::api::TokenError;
use pasetors::{
    Public,
    keys::{AsymmetricKeyPair, AsymmetricPublicKey, AsymmetricSecretKey, Generate},
    token::UntrustedToken,
    version4::{PublicToken, V4},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt, io};

/// The longest signed text that is looked at, in bytes.
const MAX_SIGNED: usize = 4096;

/// A private key. Never shown.
#[derive(Clone)]
pub struct SigningKey {
    secret: AsymmetricSecretKey<V4>,
    public: VerifyingKey,
}

/// A public key: 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VerifyingKey(pub [u8; 32]);

/// A signed text that cannot be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a signed text, or not signed with this key")]
pub struct BadSignature;

/// A key could not be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file system refused.
    #[error("the key file {path} cannot be used")]
    File {
        /// Which file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is there is not a key.
    #[error("{0} does not hold a private key; restore it, or remove it to make a new one")]
    Malformed(String),
    /// The operating system gave no random numbers.
    #[error("no random numbers for a new key")]
    Random,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({})", hex::encode(self.0))
    }
}

impl SigningKey {
    /// A new one.
    ///
    /// # Errors
    /// When the operating system gives no random numbers.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = AsymmetricKeyPair::<V4>::generate().map_err(|_| KeyError::Random)?;
        Self::from_bytes(pair.secret.as_bytes()).ok_or(KeyError::Random)
    }

    /// The key that [`SigningKey::to_bytes`] gave; `None` when these are not its bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let secret = AsymmetricSecretKey::<V4>::from(bytes).ok()?;
        // The seed, then the public key (the form that PASERK k4.secret has too).
        let public = VerifyingKey(bytes.get(32..64)?.try_into().ok()?);
        Some(Self { secret, public })
    }

    /// The key as 64 bytes, for a file that only its owner can read.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.secret.as_bytes().to_vec()
    }

    /// The public half.
    pub fn public(&self) -> VerifyingKey {
        self.public
    }

    /// Signs claims; the footer is readable (and signed) without the key.
    pub(super) fn sign<T: Serialize>(&self, claims: &T, footer: &str) -> Option<String> {
        let message = serde_json::to_vec(claims).ok()?;
        PublicToken::sign(&self.secret, &message, Some(footer.as_bytes()), None).ok()
    }
}

/// A signed text, taken apart but not yet believed.
pub(super) struct Signed(UntrustedToken<Public, V4>);

impl Signed {
    /// Takes a text apart.
    pub(super) fn parse(text: &str) -> Result<Self, BadSignature> {
        if text.len() > MAX_SIGNED {
            return Err(BadSignature);
        }
        UntrustedToken::try_from(text)
            .map(Self)
            .map_err(|_| BadSignature)
    }

    /// The claims of a text whose footer names one of our authenticators' keys, which signed it.
    pub(super) fn by_known<T: DeserializeOwned>(
        text: &str,
        known: impl Fn(&VerifyingKey) -> bool,
    ) -> Result<T, TokenError> {
        let invalid = |BadSignature| TokenError::Invalid;
        let signed = Self::parse(text).map_err(invalid)?;
        let mut key = [0; 32];
        hex::decode_to_slice(signed.footer(), &mut key).map_err(|_| TokenError::Invalid)?;
        let key = VerifyingKey(key);
        match known(&key) {
            true => signed.verify(&key).map_err(invalid),
            false => Err(TokenError::UnknownSigner),
        }
    }

    /// The footer, which says which key to try.
    pub(super) fn footer(&self) -> &str {
        std::str::from_utf8(self.0.untrusted_footer()).unwrap_or_default()
    }

    /// The claims, if this key signed them.
    pub(super) fn verify<T: DeserializeOwned>(
        &self,
        key: &VerifyingKey,
    ) -> Result<T, BadSignature> {
        let key = AsymmetricPublicKey::<V4>::from(&key.0).map_err(|_| BadSignature)?;
        let trusted = PublicToken::verify(&key, &self.0, None, None).map_err(|_| BadSignature)?;
        serde_json::from_str(trusted.payload()).map_err(|_| BadSignature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_does_not_show_itself() {
        let key = SigningKey::generate().unwrap();
        assert!(!format!("{key:?}").contains(&hex::encode(key.to_bytes())));
        let read = SigningKey::from_bytes(&key.to_bytes()).unwrap();
        assert_eq!(read.public(), key.public());
        assert!(SigningKey::from_bytes(&key.to_bytes()[1..]).is_none());
    }
}
