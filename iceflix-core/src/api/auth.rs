//! Authenticator: users, sessions and the tokens that open everything else.

use super::{MediaId, Page, PageRequest, SessionId, TokenError};
use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr};

/// A PASETO v4.public token, good for 30 seconds.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token(pub String);

/// A request signed with a session's own key (PASETO v4.public, made by the client): proves that
/// the caller holds the session, for one purpose and a short time.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionProof(pub String);

/// Leave to watch one film (PASETO v4.public, made by an authenticator), whoever is logged in. A
/// streaming node takes it up within [`crate::trust::grant::TAKE_UP`]; its stream then plays until
/// the grant's end, or until the grant or its user is revoked.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant(pub String);

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
redacted!(Token SessionProof Grant PreHash);

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
    /// The last admin cannot be removed, disabled or made a user.
    #[error("the last admin cannot be removed, disabled or made a user")]
    LastAdmin,
    /// The name is not one a user can have.
    #[error(
        "a user name is 1 to 64 characters without control characters or white space at its ends"
    )]
    InvalidName,
    /// Something broke inside; the service's log has it.
    #[error("the authenticator had an internal error")]
    Internal,
    /// Too many wrong passwords of this user came from this address, or too much is asked just
    /// now. The password was not looked at.
    #[error("too many attempts; try again in {retry_after_s} s")]
    TooManyAttempts {
        /// When to try again, in seconds from now.
        retry_after_s: u32,
    },
    /// The password is right, and an admin has disabled the user.
    #[error("this user is disabled; ask an admin")]
    Disabled,
    /// There is no such session: it has ended, or it is not yours.
    #[error("there is no such session")]
    UnknownSession,
    /// The grant would last longer than this cluster allows (in seconds), or no time at all.
    #[error("a grant lasts at most {} here, and at least a second; ask for less", crate::span::Span::from_secs(*.0))]
    GrantTooLong(u64),
    /// The user has as many grants as anyone may have at a time.
    #[error("there are too many grants of yours; stop some with `iceflix stream stop`, or wait")]
    TooManyGrants,
    /// There is no such grant: it is over, or it is not yours.
    #[error("there is no such grant")]
    UnknownGrant,
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

/// A grant that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// What a streaming node wants to see.
    pub grant: Grant,
    /// When it is over, in seconds since 1970.
    pub until: u64,
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
    /// An admin has disabled them: they cannot log in.
    pub disabled: bool,
}

/// A session that has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Its id. Not a secret: using the session takes its private key.
    pub id: SessionId,
    /// Whose it is.
    pub user: String,
    /// When it was opened, in seconds since 1970; 0 when that was not noted yet.
    pub opened: u64,
    /// The address it was opened from, when that was noted.
    pub from: Option<IpAddr>,
    /// When it ends by itself, in seconds since 1970.
    pub until: u64,
    /// It is the one whose token asked.
    pub current: bool,
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
    /// The caller's sessions, or (admin) another user's, by id.
    async fn sessions(
        token: Token,
        user: Option<String>,
        page: PageRequest,
    ) -> Result<Page<SessionInfo>, AuthError>;
    /// Ends one of the caller's sessions, or (admin) anybody's; its tokens are refused from now
    /// on. Ending an ended one is no error.
    async fn end_session(token: Token, session: SessionId) -> Result<(), AuthError>;
    /// Admin: keeps a user from logging in and ends their sessions. All they have stays.
    async fn disable_user(token: Token, user: String) -> Result<(), AuthError>;
    /// Admin: lets a disabled user log in again.
    async fn enable_user(token: Token, user: String) -> Result<(), AuthError>;
    /// Admin: makes a user an admin, or an admin a user. If that changes anything their sessions
    /// end: what the new role allows takes a new login.
    async fn set_role(token: Token, user: String, role: Role) -> Result<(), AuthError>;
    /// Grants the token's user a stream of one film for so many seconds, which goes on when the
    /// session has ended. The caller chooses the grant's id at random: asked again with the same
    /// one, it is the same grant, which keeps its end. It is listed among the user's sessions, and
    /// ends with whatever ends those.
    async fn grant(
        token: Token,
        id: SessionId,
        media: MediaId,
        seconds: u64,
    ) -> Result<Granted, AuthError>;
    /// Ends a grant, and thereby its stream: one's own, or as an admin anybody's. Ending an ended
    /// one is no error.
    async fn end_grant(token: Token, id: SessionId) -> Result<(), AuthError>;
}
