//! What goes into the audit log: one line for what was done, and for what was refused.

use crate::accounts::Accounts;
use iceflix_core::{
    api::{
        MediaId, SessionId,
        auth::{AuthError, Granted, Login, SessionProof, Token},
    },
    audit::{Audit, Event, token_reason},
    trust::{Verifier, password::user_name, session},
};
use std::net::IpAddr;

/// The audit log, for the requests of one connection.
#[derive(Clone)]
pub struct Record {
    audit: Audit,
    verifier: Verifier,
    from: IpAddr,
}

fn reason(error: &AuthError) -> &'static str {
    match error {
        AuthError::WrongCredentials => "wrong_credentials",
        AuthError::Unauthorized(error) => token_reason(*error),
        AuthError::SessionEnded => "session_ended",
        AuthError::NotAdmin => "not_admin",
        AuthError::UnknownUser => "unknown_user",
        AuthError::UserExists => "user_exists",
        AuthError::LastAdmin => "last_admin",
        AuthError::InvalidName => "invalid_name",
        AuthError::Internal => "internal",
        AuthError::TooManyAttempts { .. } => "too_many_attempts",
        AuthError::Disabled => "disabled",
        AuthError::UnknownSession => "unknown_session",
        AuthError::GrantTooLong(_) => "grant_too_long",
        AuthError::TooManyGrants => "too_many_grants",
        AuthError::UnknownGrant => "unknown_grant",
    }
}

fn event<T>(action: &'static str, result: &Result<T, AuthError>) -> Event {
    match result {
        Ok(_) => Event::done(action),
        Err(error) => Event::refused(action, reason(error)),
    }
}

impl Record {
    /// A record of requests from that address.
    pub fn new(audit: Audit, verifier: Verifier, from: IpAddr) -> Self {
        Self {
            audit,
            verifier,
            from,
        }
    }

    /// The same, of requests from that address.
    pub fn from(self, from: IpAddr) -> Self {
        Self { from, ..self }
    }

    fn write(&self, event: Event) {
        self.audit.record(&event.from(self.from));
    }

    /// A login. Of one that was refused the name is written if there is such a user: who is nobody
    /// may have typed a password in its place.
    pub fn login(&self, accounts: &Accounts, name: &str, result: &Result<Login, AuthError>) {
        let event = event("login", result);
        self.write(match result {
            Ok(login) => event.user(&login.user).session(login.session),
            Err(_) => match user_name(name).filter(|name| accounts.user_here(name).is_some()) {
                Some(name) => event.user(&name),
                None => event,
            },
        });
    }

    /// A renewal that was refused. Those that were not are too many.
    pub fn refresh(&self, proof: &SessionProof, result: &Result<Token, AuthError>) {
        if result.is_err() {
            let session = session::claimed_session(proof);
            self.write(of_session(event("refresh", result), session));
        }
    }

    /// The end of a session, which was this user's.
    pub fn logout(&self, proof: &SessionProof, user: Option<&str>, result: &Result<(), AuthError>) {
        let event = of_session(event("logout", result), session::claimed_session(proof));
        self.write(match user {
            // Whoever only claims to be somebody is nobody.
            Some(user) if result.is_ok() => event.user(user),
            _ => event,
        });
    }

    /// What a token's user asked for, about a user.
    pub fn asked<T>(
        &self,
        action: &'static str,
        token: &Token,
        about: &str,
        result: &Result<T, AuthError>,
    ) {
        let who = self.verifier.whose(token);
        self.write(event(action, result).by(who.as_ref()).on_user(about));
    }

    /// A grant of a film.
    pub fn grant(&self, token: &Token, media: MediaId, result: &Result<Granted, AuthError>) {
        let who = self.verifier.whose(token);
        self.write(event("grant", result).by(who.as_ref()).on_film(media));
    }

    /// The end of a grant.
    pub fn end_grant(&self, token: &Token, id: SessionId, result: &Result<(), AuthError>) {
        let who = self.verifier.whose(token);
        self.write(event("end_grant", result).by(who.as_ref()).on_session(id));
    }

    /// What a token's user asked for and did not get.
    pub fn denied<T>(&self, action: &'static str, token: &Token, result: &Result<T, AuthError>) {
        if result.is_err() {
            let who = self.verifier.whose(token);
            self.write(event(action, result).by(who.as_ref()));
        }
    }
}

fn of_session(event: Event, session: Option<SessionId>) -> Event {
    match session {
        Some(session) => event.on_session(session),
        None => event,
    }
}
