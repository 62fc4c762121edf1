//! What goes into the audit log: one line for what was done, and for what was refused.

use crate::accounts::Accounts;
use iceflix_core::{
    api::{
        InstanceId, MediaId, SessionId,
        auth::{AuthError, SessionProof, Token},
    },
    audit::{Audit, Event, Pending, token_reason},
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
        AuthError::NotInvited => "not_invited",
        AuthError::NotForRole(_) => "not_for_role",
        AuthError::BadRequest(_) => "bad_request",
        AuthError::NotAuthenticator => "not_authenticator",
        AuthError::Expelled => "expelled",
    }
}

/// Why it was refused, if it was.
fn refused<T>(result: &Result<T, AuthError>) -> Option<&'static str> {
    result.as_ref().err().map(reason)
}

/// A request that is to be written down when it ends.
pub struct Asked(Pending);

impl Asked {
    /// It ended so.
    pub fn ends<T>(self, result: &Result<T, AuthError>) {
        self.0.ends(refused(result));
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

    fn begin(
        &self,
        action: &'static str,
        about: impl FnOnce(Event) -> Event + Send + 'static,
    ) -> Asked {
        let from = self.from;
        Asked(
            self.audit
                .begin(action, move |event| about(event.from(from))),
        )
    }

    /// A login. The name is written if there is such a user: who is nobody may have typed a
    /// password in its place.
    pub fn login(&self, accounts: &Accounts, name: &str, session: SessionId) -> Asked {
        let (accounts, name) = (accounts.clone(), user_name(name));
        self.begin("login", move |event| {
            match name.filter(|name| accounts.user_here(name).is_some()) {
                Some(name) => event.user(&name).session(session),
                None => event,
            }
        })
    }

    /// The end of a session.
    pub fn logout(&self, accounts: &Accounts, proof: &SessionProof) -> Asked {
        let session = session::claimed_session(proof);
        // Its row is gone afterwards. Before that, whoever asked may only claim to be this user.
        let of = session.and_then(|id| accounts.session_here(id));
        self.begin("logout", move |event| {
            let event = of_session(event, session);
            match of {
                Some(of) if event.is_done() => event.user(&of.user),
                _ => event,
            }
        })
    }

    /// What a token's user asks for, about a user.
    pub fn asked(&self, action: &'static str, token: &Token, about: &str) -> Asked {
        let (verifier, token) = (self.verifier.clone(), token.clone());
        let about = about.to_owned();
        self.begin(action, move |event| {
            event.by(verifier.whose(&token).as_ref()).on_user(&about)
        })
    }

    /// A renewal that was refused. Those that were not are too many.
    pub fn refresh(&self, proof: &SessionProof, result: &Result<Token, AuthError>) {
        if let Some(reason) = refused(result) {
            let event = Event::refused("refresh", reason).from(self.from);
            let session = session::claimed_session(proof);
            self.audit.record(&of_session(event, session));
        }
    }

    /// What a token's user asks for, about a session (or a grant, which is one).
    pub fn asked_of_session(&self, action: &'static str, token: &Token, about: SessionId) -> Asked {
        let (verifier, token) = (self.verifier.clone(), token.clone());
        self.begin(action, move |event| {
            event.by(verifier.whose(&token).as_ref()).on_session(about)
        })
    }

    /// A grant of a film.
    pub fn grant(&self, token: &Token, media: MediaId) -> Asked {
        let (verifier, token) = (self.verifier.clone(), token.clone());
        self.begin("grant", move |event| {
            event.by(verifier.whose(&token).as_ref()).on_film(media)
        })
    }

    /// What became of a machine, or of one that wants to be of the cluster.
    pub fn machine<T>(
        &self,
        action: &'static str,
        instance: Option<&InstanceId>,
        result: &Result<T, AuthError>,
    ) {
        let event = match refused(result) {
            None => Event::done(action),
            Some(reason) => Event::refused(action, reason),
        };
        let event = event.from(self.from);
        self.audit.record(&match instance {
            Some(instance) => event.on_instance(instance),
            None => event,
        });
    }

    /// A question that was refused. Answers change nothing.
    pub fn denied<T>(&self, action: &'static str, token: &Token, result: &Result<T, AuthError>) {
        if let Some(reason) = refused(result) {
            let who = self.verifier.whose(token);
            let event = Event::refused(action, reason).by(who.as_ref());
            self.audit.record(&event.from(self.from));
        }
    }
}

fn of_session(event: Event, session: Option<SessionId>) -> Event {
    match session {
        Some(session) => event.session(session),
        None => event,
    }
}
