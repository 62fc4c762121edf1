//! The words about sessions and roles.

use crate::error::Error;
use clap::{Subcommand, ValueEnum};
use iceflix_core::api::{SessionId, auth::Role};
use std::str::FromStr;

/// How many hexadecimal digits a session's id has.
const ID_DIGITS: usize = 32;

/// What is done about sessions.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Session {
    /// List your sessions; an admin may name whose
    List {
        /// Whose; your own when not given
        user: Option<String>,
    },
    /// End a session; your present one: as with `logout`
    End {
        /// The session's id, or any part of its beginning that no other of your sessions shares
        id: String,
        /// It is this user's (admins)
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
    },
}

/// What a user may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RoleName {
    /// Watches, searches, tags
    User,
    /// Also manages users and names films
    Admin,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::User => Role::User,
            RoleName::Admin => Role::Admin,
        }
    }
}

/// A session's id as people type it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TypedSession {
    /// All of it.
    Whole(SessionId),
    /// Its beginning, in lower case.
    Beginning(String),
}

impl FromStr for TypedSession {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let digits = (1..=ID_DIGITS).contains(&text.len());
        if !digits || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(Error::Usage(format!(
                "`{}` is no session's id: an id is up to {ID_DIGITS} hexadecimal digits, as \
                 `session list` shows them",
                crate::output::plain(text)
            )));
        }
        let text = text.to_ascii_lowercase();
        Ok(match text.parse() {
            Ok(id) => TypedSession::Whole(id),
            Err(_) => TypedSession::Beginning(text),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_hexadecimal_and_not_too_long() {
        let whole = "AB".repeat(16).parse::<TypedSession>();
        assert_eq!(
            whole.unwrap(),
            TypedSession::Whole(SessionId::from_bytes([0xab; 16]))
        );
        let part = "AbC".parse::<TypedSession>().unwrap();
        assert_eq!(part, TypedSession::Beginning("abc".into()));
        for bad in ["", "xyz", "12 3", "é", &"a".repeat(33)] {
            let error = bad.parse::<TypedSession>().unwrap_err();
            assert_eq!(error.exit_code(), 2, "{bad}");
        }
    }
}
