//! Authenticator: users, sessions and the tokens that open everything else.

use super::{Page, PageRequest, SessionId, TokenError};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A PASETO v4.public token, good for 30 seconds.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token(pub String);

/// A request signed with a session's own key (PASETO v4.public, made by the client): proves that
/// the caller holds the session, for one purpose and a short time.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionProof(pub String);

/// What a client sends instead of a password: SHA-256 over domain, lower-cased user name and the
/// NFC form of the password. See `trust::password`.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreHash(pub [u8; 32]);

// Secrets do not show when something is printed for debugging.
macro_rules! redacted {
    ($($name:ident)*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(…)"))
            }
        }
    )*};
}
redacted!(Token SessionProof PreHash);

/// What a user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Watches, searches, tags.
    User,
    /// Also manages users and names films.
    Admin,
}

/// Why the authenticator refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum AuthError {
    /// The user name or the password is wrong; which of them is not said.
    #[error("wrong user name or password")]
    WrongCredentials,
    /// The token was not accepted.
    #[error(transparent)]
    Unauthorized(#[from] TokenError),
    /// The session is unknown, was ended, or its 7 days are over: log in again.
    #[error("the session has ended; log in again")]
    SessionEnded,
    /// Only an admin may do that.
    #[error("only an admin may do that")]
    NotAdmin,
    /// There is no such user.
    #[error("there is no such user")]
    UnknownUser,
    /// A user of that name exists (with another password).
    #[error("a user of that name exists already")]
    UserExists,
    /// The last admin cannot be removed.
    #[error("the last admin cannot be removed")]
    LastAdmin,
    /// The name is not one a user can have.
    #[error(
        "a user name is 1 to 64 characters without control characters or white space at its ends"
    )]
    InvalidName,
    /// Something broke inside; the service's log has it.
    #[error("the authenticator had an internal error")]
    Internal,
}

/// What a login gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// The cluster's name: proofs of the session are made for it.
    pub cluster: String,
    /// The session, until it is ended or 7 days are over.
    pub session: SessionId,
    /// The user's name as it is stored (lower-cased).
    pub user: String,
    /// What the user may do.
    pub role: Role,
    /// The first token.
    pub token: Token,
}

/// A user as an admin sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserInfo {
    /// The name, lower-cased.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// When the user was made, in seconds since 1970.
    pub created: u64,
}

/// The authenticator.
#[tarpc::service]
pub trait Authenticator {
    /// Opens a session for a user. The client makes an Ed25519 key pair first and sends the public
    /// half (32 bytes) with an id it chose, so that a repeated login is the same session.
    async fn login(
        user: String,
        password: PreHash,
        session: SessionId,
        session_key: [u8; 32],
    ) -> Result<Login, AuthError>;
    /// A fresh token for a session. The proof's purpose is `renew`.
    async fn refresh_authorization(proof: SessionProof) -> Result<Token, AuthError>;
    /// Ends a session; its tokens are refused from now on. The proof's purpose is `logout`.
    async fn logout(proof: SessionProof) -> Result<(), AuthError>;
    /// Whether the token is good right now.
    async fn is_authorized(token: Token) -> bool;
    /// Whose token this is.
    async fn whois(token: Token) -> Result<String, AuthError>;
    /// Whether the token's user is an admin.
    async fn is_admin(token: Token) -> Result<bool, AuthError>;
    /// Sets a user's password. For oneself `old` is needed; an admin needs none for others.
    /// The user's other sessions end; of this one the tokens, so it is to be renewed.
    async fn change_password(
        token: Token,
        user: String,
        old: Option<PreHash>,
        new: PreHash,
    ) -> Result<(), AuthError>;
    /// Admin: adds a user. Adding the same user with the same password again is no error.
    async fn add_user(
        token: Token,
        user: String,
        password: PreHash,
        role: Role,
    ) -> Result<(), AuthError>;
    /// Admin: removes a user and ends their sessions.
    async fn remove_user(token: Token, user: String) -> Result<(), AuthError>;
    /// Admin: the users, by name.
    async fn list_users(token: Token, page: PageRequest) -> Result<Page<UserInfo>, AuthError>;
    /// Admin: ends all sessions of a user (who may log in again).
    async fn revoke_user(token: Token, user: String) -> Result<(), AuthError>;
}
