//! What goes into the audit log: one line for what was done, and for what was refused.

use crate::{accounts::Accounts, enrol::MOST_INSTANCES};
use iceflix_core::{
    api::{
        InstanceId, Kind, MediaId, SessionId,
        auth::{AuthError, CertificateRequest, SessionProof, Token},
    },
    audit::{Audit, Event, Pending, token_reason},
    rpc::Peer,
    trust::{Verifier, password::user_name, session},
};
use std::{collections::BTreeSet, net::IpAddr};

/// The audit log, for the requests of one connection.
#[derive(Clone)]
pub struct Record {
    audit: Audit,
    verifier: Verifier,
    from: IpAddr,
    /// The instance that asks, if it is one.
    peer: Option<InstanceId>,
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
        AuthError::UnknownInstance(_) => "unknown_instance",
        AuthError::CannotWrite => "cannot_write",
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
            peer: None,
        }
    }

    /// The same, of requests from there.
    pub fn facing(self, peer: &Peer) -> Self {
        Self {
            from: peer.address.ip(),
            peer: peer.instance.clone(),
            ..self
        }
    }

    /// An event, with where it came from.
    fn placed(&self, event: Event) -> Event {
        event.from(self.from).peer(self.peer.as_ref())
    }

    fn begin(
        &self,
        action: &'static str,
        about: impl FnOnce(Event) -> Event + Send + 'static,
    ) -> Asked {
        let record = self.clone();
        Asked(
            self.audit
                .begin(action, move |event| about(record.placed(event))),
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
            let event = self.placed(Event::refused("refresh", reason));
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

    /// An invitation.
    pub fn invite(&self, roles: &[Kind]) -> Asked {
        // Whoever asks may name many; there are four.
        let roles: BTreeSet<Kind> = roles.iter().copied().collect();
        self.begin("invite", move |event| event.roles(roles))
    }

    /// Machines that want to be of the cluster: a line for each that was let in.
    pub fn join(&self, requests: &[CertificateRequest]) -> Asked {
        let requests = requests.iter().take(MOST_INSTANCES);
        let mut let_in: Vec<(InstanceId, Kind)> = requests
            .map(|request| (request.instance.clone(), request.kind))
            .collect();
        let audit = self.audit.clone();
        self.begin("join", move |event| {
            let said = |event: Event, (instance, kind): (InstanceId, Kind)| {
                event.on_instance(&instance).roles([kind])
            };
            // A stranger's names are nobody's.
            match let_in.pop() {
                Some(last) if event.is_done() => {
                    for one in let_in {
                        audit.record(&said(event.clone(), one));
                    }
                    said(event, last)
                }
                _ => event,
            }
        })
    }

    /// A certificate's renewal, of that instance if it is known.
    pub fn renew_certificate(&self, instance: Option<&InstanceId>) -> Asked {
        let instance = instance.cloned();
        self.begin("renew_certificate", move |event| match instance {
            Some(instance) => event.on_instance(&instance),
            None => event,
        })
    }

    /// The end of an instance's being of the cluster.
    pub fn expel(&self, instance: &InstanceId) -> Asked {
        let instance = instance.clone();
        self.begin("expel", move |event| event.on_instance(&instance))
    }

    /// A question that was refused. Answers change nothing.
    pub fn denied<T>(&self, action: &'static str, token: &Token, result: &Result<T, AuthError>) {
        if let Some(reason) = refused(result) {
            let who = self.verifier.whose(token);
            let event = Event::refused(action, reason).by(who.as_ref());
            self.audit.record(&self.placed(event));
        }
    }
}

fn of_session(event: Event, session: Option<SessionId>) -> Event {
    match session {
        Some(session) => event.session(session),
        None => event,
    }
}

#[cfg(test)]
mod tests;
