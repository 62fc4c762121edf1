//! Passwords: hashed once by the client, and once more, slowly and with a salt, by the server.
//!
//! The client sends SHA-256 over a domain, the lower-cased user name and the NFC form of the
//! password, so that the password itself never leaves it. The server keeps Argon2id over that.

use crate::api::auth::{LONGEST_NAME, LONGEST_NAME_SENT, PreHash};
use argon2::{
    Algorithm, Argon2, Block, Params, Version,
    password_hash::{Output, ParamsString, PasswordHash, Salt, SaltString},
};
use sha2::{Digest, Sha256};
use std::sync::{Mutex, PoisonError};
use unicode_normalization::UnicodeNormalization;

/// What keeps these hashes apart from any others of the same texts.
const DOMAIN: &[u8] = b"iceflix password v1";

/// The tag of the scheme in which passwords are stored now: [`prehash`] inside, and the rest says
/// the PHC string itself.
const SCHEME: &str = "v1";

/// A user name in the form in which it is stored and compared (NFC, lower case); `None` when it
/// cannot be one: 1 to [`LONGEST_NAME`] characters, no control characters, no white space at its
/// ends.
pub fn user_name(name: &str) -> Option<String> {
    // Strangers send names, too: no work is done for what is absurd.
    if name.len() > LONGEST_NAME_SENT {
        return None;
    }
    let name: String = name.nfc().collect::<String>().to_lowercase();
    let fits = (1..=LONGEST_NAME).contains(&name.chars().count())
        && name.trim() == name
        && !name.chars().any(char::is_control);
    fits.then_some(name)
}

/// What a client sends instead of the password.
pub fn prehash(user: &str, password: &str) -> PreHash {
    let mut hash = Sha256::new();
    for part in [
        DOMAIN,
        user.nfc().collect::<String>().to_lowercase().as_bytes(),
        password.nfc().collect::<String>().as_bytes(),
    ] {
        // The lengths keep ("ab", "c") and ("a", "bc") apart.
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    PreHash(hash.finalize().into())
}

/// A password could not be hashed.
#[derive(Debug, thiserror::Error)]
#[error("hashing a password failed: {0}")]
pub struct HashError(argon2::password_hash::Error);

/// Argon2id with 19 MiB, 2 passes, 1 lane: the OWASP password storage cheat sheet's second choice;
/// 18 ms here.
fn argon2() -> Result<Argon2<'static>, HashError> {
    let params = Params::new(19 * 1024, 2, 1, None).map_err(|error| HashError(error.into()))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// What is stored for a password, with a salt of its own. Takes tens of milliseconds: not for an
/// async thread.
///
/// # Errors
/// When memory or random numbers are missing.
pub fn hash(password: &PreHash) -> Result<String, HashError> {
    let salt = SaltString::encode_b64(&rand::random::<[u8; 16]>()).map_err(HashError)?;
    let argon2 = argon2()?;
    let hash = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(argon2.params()).map_err(HashError)?,
        salt: Some(salt.as_salt()),
        hash: Some(output(&argon2, password, salt.as_salt())?),
    };
    Ok(format!("{SCHEME}{hash}"))
}

/// What Argon2 makes of a password.
fn output(argon2: &Argon2<'_>, password: &PreHash, salt: Salt<'_>) -> Result<Output, HashError> {
    let mut buffer = [0; 64];
    let salt = salt.decode_b64(&mut buffer).map_err(HashError)?;
    in_memory(argon2.params().block_count(), |memory| {
        Output::init_with(Params::DEFAULT_OUTPUT_LEN, |out| {
            Ok(argon2.hash_password_into_with_memory(&password.0, salt, out, memory)?)
        })
    })
    .map_err(HashError)
}

/// Does something with so many blocks, the same ones each time. Allocated anew, the 19 MiB would in
/// the end be kept once for each thread that ever hashed: an authenticator had 490 MB after a
/// hundred restarts of its peers under load.
fn in_memory<T>(blocks: usize, work: impl FnOnce(&mut [Block]) -> T) -> T {
    static SPARE: Mutex<Vec<Vec<Block>>> = Mutex::new(Vec::new());
    let spare = || SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut memory = spare().pop().unwrap_or_default();
    memory.resize(blocks, Block::default());
    let done = work(&mut memory);
    spare().push(memory);
    done
}

/// Whether this is the password that was stored. What is stored in a form that is not known never
/// is. Takes tens of milliseconds: not for an async thread.
pub fn verify(password: &PreHash, stored: &str) -> bool {
    let Some(phc) = stored.strip_prefix(SCHEME) else {
        return false;
    };
    match (PasswordHash::new(phc), argon2()) {
        (Ok(hash), Ok(argon2)) => is_that_of(&argon2, password, &hash).unwrap_or(false),
        _ => false,
    }
}

/// Whether a stored hash, made with these parameters, is that of a password.
fn is_that_of(
    argon2: &Argon2<'_>,
    password: &PreHash,
    stored: &PasswordHash<'_>,
) -> Result<bool, HashError> {
    let made_so = stored.algorithm == Algorithm::Argon2id.ident()
        && stored.version == Some(Version::V0x13.into())
        && stored.params == ParamsString::try_from(argon2.params()).map_err(HashError)?;
    match (made_so, stored.salt, stored.hash) {
        // Compared in a time that does not depend on where they differ.
        (true, Some(salt), Some(hash)) => Ok(output(argon2, password, salt)? == hash),
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_known_by_what_is_stored_and_by_nothing_else() {
        let password = prehash("ada", "correct horse");
        let stored = hash(&password).unwrap();
        assert!(
            stored.starts_with("v1$argon2id$v=19$m=19456,t=2,p=1$"),
            "{stored}"
        );
        assert!(verify(&password, &stored));
        assert!(!verify(&prehash("ada", "wrong"), &stored));
        assert!(!verify(&password, &stored[2..]), "a scheme is named");
        assert!(!verify(&password, ""));
        assert_ne!(stored, hash(&password).unwrap(), "each has its own salt");
        assert!(!stored.contains(&hex::encode(password.0)));
    }

    /// Stored by the library's own functions, as versions before did.
    #[test]
    fn what_was_stored_before_is_known() {
        let stored = "v1$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$";
        let salt = Salt::from_b64("c2FsdHNhbHRzYWx0c2FsdA").unwrap();
        let password = prehash("ada", "correct horse");
        let by_the_library =
            argon2::PasswordHasher::hash_password(&argon2().unwrap(), &password.0, salt);
        let by_the_library = format!("{SCHEME}{}", by_the_library.unwrap());
        assert!(by_the_library.starts_with(stored), "{by_the_library}");
        assert!(verify(&password, &by_the_library));
        assert!(!verify(&prehash("ada", "wrong"), &by_the_library));
    }

    #[test]
    fn the_prehash_depends_on_user_and_password_and_not_on_how_they_are_typed() {
        assert_eq!(prehash("Ada", "pä"), prehash("ada", "pa\u{308}"));
        assert_ne!(prehash("ada", "x"), prehash("bob", "x"));
        assert_ne!(prehash("ab", "c"), prehash("a", "bc"));
        assert_ne!(prehash("ada", "X"), prehash("ada", "x"));
    }

    #[test]
    fn user_names() {
        assert_eq!(user_name("Ada").as_deref(), Some("ada"));
        assert_eq!(user_name("Jose\u{301}"), user_name("JOSÉ"));
        for bad in ["", " a", "a ", "a\nb", &"x".repeat(65)] {
            assert_eq!(user_name(bad), None, "{bad:?}");
        }
        // The longest in bytes: Hangul, each syllable in its three parts.
        let longest = "\u{1112}\u{1161}\u{11ab}".repeat(LONGEST_NAME);
        assert_eq!(user_name(&longest), Some("한".repeat(LONGEST_NAME)));
    }

    #[test]
    fn an_absurd_name_costs_nothing() {
        // A frame full of accents to be put in order, which takes some tens of milliseconds.
        let absurd = "\u{301}\u{316}".repeat(crate::api::MAX_FRAME / 4);
        let begin = std::time::Instant::now();
        for _ in 0..10_000 {
            assert_eq!(user_name(&absurd), None);
        }
        assert!(begin.elapsed() < std::time::Duration::from_secs(10));
    }
}
