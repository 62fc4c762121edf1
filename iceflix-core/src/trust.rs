//! Trust: certificates, tokens, sessions, passwords, and what was revoked.
//!
//! A *service* has a certificate of the cluster's own [`Authority`], which says its kind and name
//! and is good for a day: see [`credentials`].
//!
//! A *session* (7 days) is a key pair that the client made at login. With it the client proves
//! itself to any authenticator and gets *tokens* (30 s), which every service verifies by itself:
//! [`Verifier`] holds the authenticators' public keys and what they revoked.

pub mod authority;
pub mod credentials;
pub mod grant;
pub mod invitation;
pub mod keyring;
pub mod keys;
pub mod password;
mod presence;
pub mod session;
pub mod token;
mod verifier;

pub use authority::Authority;
pub use credentials::{Credential, Credentials};
pub use invitation::Invitation;
pub use session::{Purpose, SessionKey};
pub use token::Identity;
pub use verifier::Verifier;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a token is good.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(30);

/// How long a session is good.
pub const SESSION_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// Now, as the time since 1970.
pub fn now() -> Duration {
    // A clock before 1970 makes everything expired, which is the safe side.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
