//! Authenticator: users, sessions and the tokens that open everything else.

use super::{Instance, InstanceId, Kind, MediaId, Page, PageRequest, SessionId, TokenError};
use crate::trust::invitation::InvitationSecret;
use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr};

/// The longest name of a user, in characters.
pub const LONGEST_NAME: usize = 64;

/// The longest name of a user as it is sent, in bytes of UTF-8: [`LONGEST_NAME`] characters that
/// each come in parts take up to 576. A longer one is nobody's, and is not looked at.
pub const LONGEST_NAME_SENT: usize = 640;

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
    /// The session was ended, or its 7 days are over: log in again.
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
    /// There is no such session: it has ended, or it is not yours. To who proves that a session is
    /// theirs: this authenticator has never heard of it, nor has any that it sees; another may have.
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
    /// The invitation is unknown here, over, or was used by another machine.
    #[error(
        "the invitation is not good (any more): each is for one machine and a limited time; ask for \
         another with `iceflix cluster invite`"
    )]
    NotInvited,
    /// The invitation is for other roles than these.
    #[error(
        "the invitation is not for a {0} service; `iceflix cluster invite --role {0}` makes one"
    )]
    NotForRole(Kind),
    /// The request is not one for a certificate, or names an instance that there is.
    #[error("no certificate can be made for that: {0}")]
    BadRequest(String),
    /// Only a service of the cluster may ask for that, and only of the right kind.
    #[error("only an authenticator's machine may do that")]
    NotAuthenticator,
    /// The instance was expelled.
    #[error(
        "this instance was expelled from the cluster; it takes a new invitation, and a new name"
    )]
    Expelled,
    /// No instance has that name, nor had it ever.
    #[error(
        "no instance is called {0}, nor ever was; `iceflix status` lists the names of those that are there"
    )]
    UnknownInstance(InstanceId),
    /// No disk that it could be kept on takes writes: no session can begin either.
    #[error("nothing was changed: the authenticator's disk takes no writes just now")]
    CannotWrite,
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

/// What a joining instance wants a certificate for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRequest {
    /// What it is to be.
    pub kind: Kind,
    /// Which instance: a name that nobody has.
    pub instance: InstanceId,
    /// The request, signed with its new private key (PKCS #10, DER).
    pub request: Vec<u8>,
}

/// What a machine that was let in needs to know.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The authority's certificate, in PEM.
    pub authority: String,
    /// The instances' certificates, in PEM, in the order in which they were asked for.
    pub certificates: Vec<String>,
    /// The authority's private key, in PEM, if one of the instances is an authenticator.
    pub authority_key: Option<String>,
    /// Where the cluster's authenticators and Mains answer.
    pub contacts: Vec<Instance>,
    /// Where the bus of the authenticator that says this is.
    pub bus: Vec<String>,
}

impl fmt::Debug for Welcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Welcome({} certificates, …)", self.certificates.len())
    }
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

/// The authenticator. A user's name is of at most [`LONGEST_NAME`] characters, and sent in at most
/// [`LONGEST_NAME_SENT`] bytes.
#[tarpc::service]
pub trait Authenticator {
    /// Opens a session for a user. The client makes an Ed25519 key pair first and sends the public
    /// half (32 bytes) with an id it chose, so that a repeated login is the same session. Beside 100 others the user's oldest one ends.
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
    /// An authenticator's machine: makes an invitation for instances of these kinds, good at this
    /// authenticator, once, and for so many seconds.
    async fn invite(
        secret: InvitationSecret,
        roles: Vec<Kind>,
        seconds: u64,
    ) -> Result<(), AuthError>;
    /// Redeems an invitation for certificates. The same requests may be sent again when the answer
    /// was lost; others find it used.
    async fn join(
        secret: InvitationSecret,
        requests: Vec<CertificateRequest>,
    ) -> Result<Welcome, AuthError>;
    /// A new certificate (PEM) for the key and the instance of an earlier one (PEM), which may be
    /// over. The request (PKCS #10, DER) is signed with that key.
    async fn renew_certificate(request: Vec<u8>, earlier: String) -> Result<String, AuthError>;
    /// An authenticator's machine: nobody calls or answers that instance from now on, and its
    /// certificate is not renewed. It need not be running. Expelling it again is no error.
    async fn expel(instance: InstanceId) -> Result<(), AuthError>;
}
