//! What can go wrong for the person at the terminal, and the exit code that says so.

use iceflix_core::api::{
    Kind, TokenError, auth::AuthError, catalog::CatalogError, main::MainError,
    streaming::StreamError,
};
use iceflix_core::rpc::CallError;
use std::io;

/// The exit codes, which are part of the command line's contract.
pub mod exit {
    /// Done.
    pub const DONE: u8 = 0;
    /// It was tried and failed.
    pub const FAILED: u8 = 1;
    /// The command was not understood; the same number as clap's.
    pub const USAGE: u8 = 2;
    /// No such film, user or session.
    pub const NOT_FOUND: u8 = 3;
    /// Not logged in, not any more, or not allowed.
    pub const NOT_AUTHORISED: u8 = 4;
    /// No service, or no copy of the film, is available.
    pub const UNAVAILABLE: u8 = 5;
}

/// What to type when there is no session.
pub const LOG_IN: &str = "log in: iceflix login";

/// Why a command was not done. The text is for people.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command makes no sense as it stands.
    #[error("{0}")]
    Usage(String),
    /// The film or user it names does not exist.
    #[error("{0}")]
    NotFound(String),
    /// There is no session, or it does not suffice.
    #[error("{0}")]
    NotAuthorised(String),
    /// There was a session, and it has ended.
    #[error("your session has ended; {LOG_IN}")]
    SessionEnded,
    /// No live service or copy of the film.
    #[error("{0}")]
    Unavailable(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
    /// A file or terminal operation failed.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was being done, after "cannot".
        doing: String,
        /// What the system said.
        source: io::Error,
    },
    /// Whoever read our output has gone. No failure: `iceflix search | head` is fine.
    #[error("the output was closed")]
    BrokenPipe,
    /// Ctrl-C while a question was open.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// For use in `map_err`: an operation on a file or terminal that failed.
    pub fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let doing = doing.into();
        move |source| match source.kind() {
            io::ErrorKind::BrokenPipe => Error::BrokenPipe,
            io::ErrorKind::Interrupted => Error::Interrupted,
            _ => Error::Io { doing, source },
        }
    }

    /// There is no session here.
    pub fn logged_out() -> Self {
        Error::NotAuthorised(format!("you are not logged in; {LOG_IN}"))
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::BrokenPipe => exit::DONE,
            Error::Failed(_) | Error::Io { .. } | Error::Interrupted => exit::FAILED,
            Error::Usage(_) => exit::USAGE,
            Error::NotFound(_) => exit::NOT_FOUND,
            Error::NotAuthorised(_) | Error::SessionEnded => exit::NOT_AUTHORISED,
            Error::Unavailable(_) => exit::UNAVAILABLE,
        }
    }

    /// Whether it would be done for somebody else, or after logging in.
    pub(crate) fn is_refusal(&self) -> bool {
        self.exit_code() == exit::NOT_AUTHORISED
    }

    /// Whether a word turned out to be no film's id.
    pub(crate) fn means_no_film(&self) -> bool {
        matches!(self, Error::Usage(_) | Error::NotFound(_))
    }
}

/// A service's refusal, which may be about the token alone.
pub trait Refusal: Into<Error> {
    /// Why the token was not accepted, when that is what it is about.
    fn token_error(&self) -> Option<TokenError>;
}

impl Refusal for AuthError {
    fn token_error(&self) -> Option<TokenError> {
        match self {
            AuthError::Unauthorized(error) => Some(*error),
            _ => None,
        }
    }
}

impl Refusal for CatalogError {
    fn token_error(&self) -> Option<TokenError> {
        match self {
            CatalogError::Unauthorized(error) => Some(*error),
            _ => None,
        }
    }
}

impl Refusal for StreamError {
    fn token_error(&self) -> Option<TokenError> {
        match self {
            StreamError::Unauthorized(error) => Some(*error),
            _ => None,
        }
    }
}

impl From<TokenError> for Error {
    fn from(error: TokenError) -> Self {
        Error::NotAuthorised(format!("{error}; {LOG_IN}"))
    }
}

impl From<AuthError> for Error {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Unauthorized(token) => token.into(),
            AuthError::SessionEnded => Error::SessionEnded,
            AuthError::WrongCredentials
            | AuthError::NotAdmin
            | AuthError::TooManyAttempts { .. }
            | AuthError::Disabled
            | AuthError::NotInvited
            | AuthError::NotForRole(_)
            | AuthError::NotAuthenticator
            | AuthError::Expelled => Error::NotAuthorised(error.to_string()),
            AuthError::UnknownUser | AuthError::UnknownSession => {
                Error::NotFound(error.to_string())
            }
            AuthError::UnknownGrant | AuthError::UnknownInstance(_) => {
                Error::NotFound(error.to_string())
            }
            AuthError::InvalidName | AuthError::GrantTooLong(_) => Error::Usage(error.to_string()),
            AuthError::BadRequest(_)
            | AuthError::UserExists
            | AuthError::LastAdmin
            | AuthError::TooManyGrants
            | AuthError::CannotWrite
            | AuthError::Internal => Error::Failed(error.to_string()),
        }
    }
}

impl From<CatalogError> for Error {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::Unauthorized(token) => token.into(),
            CatalogError::NotAdmin => Error::NotAuthorised(error.to_string()),
            CatalogError::UnknownMedia => Error::NotFound(error.to_string()),
            CatalogError::InvalidName | CatalogError::InvalidTag => Error::Usage(error.to_string()),
            CatalogError::Internal | CatalogError::CannotWrite => Error::Failed(error.to_string()),
        }
    }
}

impl From<StreamError> for Error {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Unauthorized(token) => token.into(),
            StreamError::UnknownMedia | StreamError::Draining => {
                Error::Unavailable(error.to_string())
            }
            StreamError::NotAdmin => Error::NotAuthorised(error.to_string()),
            StreamError::Unplayable(_)
            | StreamError::UnknownStream
            | StreamError::OtherFilm
            | StreamError::TooMany
            | StreamError::IdTaken
            | StreamError::Internal => Error::Failed(error.to_string()),
        }
    }
}

impl From<MainError> for Error {
    fn from(error: MainError) -> Self {
        match error {
            MainError::TemporarilyUnavailable => Error::Unavailable(error.to_string()),
            MainError::Internal => Error::Failed(error.to_string()),
        }
    }
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        match error {
            CallError::NoneAlive(Kind::Main) | CallError::NoMain(_) => Error::Unavailable(format!(
                "{error}; is the cluster running? Start one with `make run-cluster`, or name a \
                 live Main with --main HOST:PORT"
            )),
            CallError::NoneAlive(kind) => Error::Unavailable(format!(
                "no {} is alive just now; `iceflix status` shows who is",
                service(kind)
            )),
            other => Error::Unavailable(other.to_string()),
        }
    }
}

fn service(kind: Kind) -> &'static str {
    match kind {
        Kind::Main => "Main",
        Kind::Auth => "authenticator",
        Kind::Catalog => "catalogue",
        Kind::Streaming => "streaming node",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_exit_code() {
        let code = |error: Error| error.exit_code();
        assert_eq!(code(AuthError::WrongCredentials.into()), 4);
        assert_eq!(code(AuthError::SessionEnded.into()), 4);
        assert_eq!(code(AuthError::NotAdmin.into()), 4);
        assert_eq!(code(AuthError::Unauthorized(TokenError::Expired).into()), 4);
        assert_eq!(code(AuthError::UnknownUser.into()), 3);
        assert_eq!(code(AuthError::UnknownSession.into()), 3);
        assert_eq!(code(AuthError::Disabled.into()), 4);
        let early: Error = AuthError::TooManyAttempts { retry_after_s: 8 }.into();
        assert!(early.to_string().ends_with("try again in 8 s"), "{early}");
        assert_eq!(code(early), 4);
        assert_eq!(code(AuthError::UserExists.into()), 1);
        assert_eq!(code(AuthError::InvalidName.into()), 2);
        assert_eq!(code(CatalogError::NotAdmin.into()), 4);
        assert_eq!(code(CatalogError::UnknownMedia.into()), 3);
        assert_eq!(code(CatalogError::InvalidTag.into()), 2);
        let full: [Error; 2] = [
            CatalogError::CannotWrite.into(),
            AuthError::CannotWrite.into(),
        ];
        for error in full {
            assert!(error.to_string().contains("takes no writes"), "{error}");
            assert_eq!(code(error), 1);
        }
        assert_eq!(code(StreamError::Unplayable("odd".into()).into()), 1);
        assert_eq!(code(StreamError::Draining.into()), 5);
        assert_eq!(code(MainError::TemporarilyUnavailable.into()), 5);
        assert_eq!(code(CallError::NoneAlive(Kind::Catalog).into()), 5);
        assert_eq!(code(CallError::NoneAlive(Kind::Main).into()), 5);
        assert_eq!(code(Error::BrokenPipe), 0);
    }

    #[test]
    fn a_closed_output_is_told_from_other_failures() {
        let broken = Error::io("write")(io::ErrorKind::BrokenPipe.into());
        assert!(matches!(broken, Error::BrokenPipe));
        let other = Error::io("read x")(io::ErrorKind::NotFound.into());
        assert_eq!(other.exit_code(), 1);
        assert!(other.to_string().starts_with("cannot read x: "));
    }
}
