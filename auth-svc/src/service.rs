//! The contract's methods.

mod joining;
mod login;
mod sessions;
mod standing;

use crate::{
    accounts::{Accounts, AccountsError, Session, User},
    enrol::Enrolment,
    guard::{self, Guard},
    record::Record,
    status::Status,
};
use iceflix_core::{
    api::{
        InstanceId, Kind, MediaId, Page, PageRequest, SessionId,
        auth::{
            AuthError, Authenticator, CertificateRequest, Granted, Login, PreHash, Role,
            SessionInfo, SessionProof, Token, UserInfo, Welcome,
        },
    },
    replica::StoreError,
    rpc::Peer,
    service::Node,
    span::Span,
    topics::AuthenticationFact,
    trust::{
        self, Identity, Purpose, Verifier, invitation::InvitationSecret, keyring::Keyring,
        password::user_name, session, token,
    },
};
use std::{net::IpAddr, sync::Arc};
use tarpc::context::Context;
use tokio::sync::MutexGuard;

/// Answers requests; [`AuthService::facing`] one connection's.
#[derive(Clone)]
pub struct AuthService {
    pub(super) cluster: String,
    pub(super) keys: Keyring,
    pub(super) accounts: Accounts,
    pub(super) status: Arc<Status>,
    pub(super) verifier: Verifier,
    /// How long a grant may last; nothing is granted when it is zero.
    pub(super) longest_grant: Span,
    guard: Guard,
    /// The caller's own address.
    pub(super) client: IpAddr,
    pub(super) record: Record,
    /// Lets machines in.
    enrolment: Option<Enrolment>,
    /// This authenticator.
    itself: InstanceId,
    /// The caller's role, if it is a service.
    role: Option<Kind>,
}

impl From<AccountsError> for Failed {
    fn from(error: AccountsError) -> Self {
        if let AccountsError::Busy = error {
            return Failed(guard::too_early(guard::SOON));
        }
        tracing::error!(%error, "a request failed");
        Failed(match error {
            AccountsError::Store(StoreError::Write(_)) => AuthError::CannotWrite,
            _ => AuthError::Internal,
        })
    }
}

/// What a method answers when it cannot do what was asked.
pub(super) struct Failed(AuthError);

impl<E: Into<AuthError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Failed(error.into())
    }
}

fn answer<T>(result: Result<T, Failed>) -> Result<T, AuthError> {
    result.map_err(|Failed(error)| error)
}

impl AuthService {
    /// Answers from these accounts.
    pub fn new(node: &Node, keys: Keyring, accounts: Accounts, status: Arc<Status>) -> Self {
        Self {
            cluster: node.topics.cluster().to_owned(),
            keys,
            accounts,
            status,
            verifier: node.verifier.clone(),
            guard: Guard::default(),
            client: node.address().ip(),
            longest_grant: Span::from_secs(0),
            enrolment: None,
            itself: node.instance.clone(),
            role: None,
            record: Record::new(
                node.audit.clone(),
                node.verifier.clone(),
                node.address().ip(),
            ),
        }
    }

    /// The same, which grants streams for up to so long.
    pub fn with_longest_grant(self, longest_grant: Span) -> Self {
        Self {
            longest_grant,
            ..self
        }
    }

    /// The same, which lets machines in.
    pub fn with_enrolment(self, enrolment: Enrolment) -> Self {
        Self {
            enrolment: Some(enrolment),
            ..self
        }
    }

    /// The same, for a connection from there.
    pub fn facing(&self, peer: Peer) -> Self {
        Self {
            client: peer.address.ip(),
            role: peer.role,
            record: self.record.clone().facing(&peer),
            ..self.clone()
        }
    }

    async fn admin(&self, token: &Token) -> Result<Identity, AuthError> {
        let identity = self.verifier.check(token).await?;
        match identity.role {
            Role::Admin => Ok(identity),
            Role::User => Err(AuthError::NotAdmin),
        }
    }

    /// To be held while something is read, decided and written for whom this token names, who may
    /// have been revoked while others were decided about.
    pub(super) async fn deciding(&self, token: &Token) -> Result<MutexGuard<'_, ()>, AuthError> {
        let deciding = self.accounts.decide().await;
        self.verifier.check_now(token)?;
        Ok(deciding)
    }

    fn token(&self, session: SessionId, of: &Session, role: Role) -> Result<Token, AuthError> {
        let now = trust::now();
        let token = token::issue(
            &self.keys.current(),
            &self.cluster,
            &of.user,
            session,
            role,
            of.epoch,
            now,
        );
        token.ok_or(AuthError::Internal)
    }

    /// The session that a proof proves.
    async fn proven(
        &self,
        proof: &SessionProof,
        purpose: Purpose,
    ) -> Result<(SessionId, Session), AuthError> {
        let id = session::claimed_session(proof).ok_or(trust_error_invalid())?;
        let session = match self.accounts.session(id).await {
            // It may have been opened where nobody is seen from here just now.
            None if !self.accounts.was_opened(id) => return Err(AuthError::UnknownSession),
            // It may have been heard of meanwhile.
            None => self.accounts.session_here(id),
            found => found,
        };
        // A grant has no key that could prove it.
        let session = session.filter(|session| session.media.is_none());
        let session = session.ok_or(AuthError::SessionEnded)?;
        session::verify(proof, session.key, &self.cluster, purpose, trust::now())?;
        Ok((id, session))
    }

    /// Tells everyone that what the user had until now is over.
    fn say_epoch(&self, user: String) {
        let epoch = self.accounts.epoch(&user);
        self.status
            .revoked(&AuthenticationFact::UserEpoch { user, epoch });
    }

    async fn existing(&self, name: &str) -> Result<(String, User), AuthError> {
        let name = user_name(name).ok_or(AuthError::UnknownUser)?;
        let user = self.accounts.user(&name).await;
        Ok((name, user.ok_or(AuthError::UnknownUser)?))
    }

    async fn try_refresh(&self, proof: &SessionProof) -> Result<Token, AuthError> {
        let (id, session) = self.proven(proof, Purpose::Renew).await?;
        let user = self.accounts.user(&session.user).await;
        // Who is removed has no sessions: this one has not been heard of here yet.
        let user = user.ok_or(AuthError::UnknownSession)?;
        if self.accounts.is_disabled(&session.user) {
            return Err(AuthError::Disabled);
        }
        self.token(id, &session, user.role)
    }

    async fn try_logout(&self, proof: &SessionProof) -> Result<(), Failed> {
        if let Some(id) = session::claimed_session(proof)
            && self.accounts.was_ended(id)
        {
            return Ok(());
        }
        let (session, _) = self.proven(proof, Purpose::Logout).await?;
        self.accounts.end_session(session).await?;
        self.status
            .revoked(&AuthenticationFact::SessionEnded { session });
        Ok(())
    }

    async fn try_add_user(
        &self,
        token: &Token,
        user: &str,
        password: PreHash,
        role: Role,
    ) -> Result<(), Failed> {
        self.admin(token).await?;
        let name = user_name(user).ok_or(AuthError::InvalidName)?;
        let hash = self.accounts.hash(password).await?;
        let _deciding = self.deciding(token).await?;
        if let Some(there) = self.accounts.user(&name).await {
            // The same request again: its first answer was lost.
            let same = there.role == role && self.accounts.verify(&there, password).await?;
            return match same {
                true => Ok(()),
                false => Err(AuthError::UserExists.into()),
            };
        }
        let user = User {
            password: hash,
            role,
            created: trust::now().as_secs(),
        };
        self.accounts.put_user(&name, &user).await?;
        Ok(())
    }

    async fn try_revoke_user(&self, token: &Token, user: &str) -> Result<(), Failed> {
        let caller = self.verifier.check(token).await?;
        let own = user_name(user).is_some_and(|name| name == caller.user);
        if !own && caller.role != Role::Admin {
            return Err(AuthError::NotAdmin.into());
        }
        let _deciding = self.deciding(token).await?;
        let (name, _) = self.existing(user).await?;
        self.accounts.revoke(&name).await?;
        self.say_epoch(name);
        Ok(())
    }
}

fn trust_error_invalid() -> AuthError {
    AuthError::Unauthorized(iceflix_core::api::TokenError::Invalid)
}

impl Authenticator for AuthService {
    async fn login(
        self,
        _: Context,
        user: String,
        password: PreHash,
        session: SessionId,
        session_key: [u8; 32],
    ) -> Result<Login, AuthError> {
        let asked = self.record.login(&self.accounts, &user, session);
        let login = self.try_login(&user, password, session, session_key);
        let result = answer(login::in_steps(login).await);
        asked.ends(&result);
        result
    }

    async fn refresh_authorization(
        self,
        _: Context,
        proof: SessionProof,
    ) -> Result<Token, AuthError> {
        let result = self.try_refresh(&proof).await;
        self.record.refresh(&proof, &result);
        result
    }

    async fn logout(self, _: Context, proof: SessionProof) -> Result<(), AuthError> {
        let asked = self.record.logout(&self.accounts, &proof);
        let result = answer(self.try_logout(&proof).await);
        asked.ends(&result);
        result
    }

    async fn is_authorized(self, _: Context, token: Token) -> bool {
        self.verifier.check(&token).await.is_ok()
    }

    async fn whois(self, _: Context, token: Token) -> Result<String, AuthError> {
        Ok(self.verifier.check(&token).await?.user)
    }

    async fn is_admin(self, _: Context, token: Token) -> Result<bool, AuthError> {
        Ok(self.verifier.check(&token).await?.role == Role::Admin)
    }

    async fn change_password(
        self,
        _: Context,
        token: Token,
        user: String,
        old: Option<PreHash>,
        new: PreHash,
    ) -> Result<(), AuthError> {
        let asked = self.record.asked("change_password", &token, &user);
        let change = self.try_change_password(&token, &user, old, new);
        let result = answer(login::in_steps(change).await);
        asked.ends(&result);
        result
    }

    async fn add_user(
        self,
        _: Context,
        token: Token,
        user: String,
        password: PreHash,
        role: Role,
    ) -> Result<(), AuthError> {
        let asked = self.record.asked("add_user", &token, &user);
        let result = answer(self.try_add_user(&token, &user, password, role).await);
        asked.ends(&result);
        result
    }

    async fn remove_user(self, _: Context, token: Token, user: String) -> Result<(), AuthError> {
        let asked = self.record.asked("remove_user", &token, &user);
        let result = answer(self.try_remove_user(&token, &user).await);
        asked.ends(&result);
        result
    }

    async fn list_users(
        self,
        _: Context,
        token: Token,
        page: PageRequest,
    ) -> Result<Page<UserInfo>, AuthError> {
        let admin = self.admin(&token).await;
        self.record.denied("list_users", &token, &admin);
        admin.map(|_| self.accounts.list(&page))
    }

    async fn revoke_user(self, _: Context, token: Token, user: String) -> Result<(), AuthError> {
        let asked = self.record.asked("revoke_user", &token, &user);
        let result = answer(self.try_revoke_user(&token, &user).await);
        asked.ends(&result);
        result
    }

    async fn sessions(
        self,
        _: Context,
        token: Token,
        user: Option<String>,
        page: PageRequest,
    ) -> Result<Page<SessionInfo>, AuthError> {
        self.list_sessions(&token, user.as_deref(), &page).await
    }

    async fn end_session(
        self,
        _: Context,
        token: Token,
        session: SessionId,
    ) -> Result<(), AuthError> {
        let asked = self.record.asked_of_session("end_session", &token, session);
        let result = answer(self.try_end_session(&token, session).await);
        asked.ends(&result);
        result
    }

    async fn disable_user(self, _: Context, token: Token, user: String) -> Result<(), AuthError> {
        let asked = self.record.asked("disable_user", &token, &user);
        let result = answer(self.try_disable_user(&token, &user).await);
        asked.ends(&result);
        result
    }

    async fn enable_user(self, _: Context, token: Token, user: String) -> Result<(), AuthError> {
        let asked = self.record.asked("enable_user", &token, &user);
        let result = answer(self.try_enable_user(&token, &user).await);
        asked.ends(&result);
        result
    }

    async fn set_role(
        self,
        _: Context,
        token: Token,
        user: String,
        role: Role,
    ) -> Result<(), AuthError> {
        let asked = self.record.asked("set_role", &token, &user);
        let result = answer(self.try_set_role(&token, &user, role).await);
        asked.ends(&result);
        result
    }

    async fn grant(
        self,
        _: Context,
        token: Token,
        id: SessionId,
        media: MediaId,
        seconds: u64,
    ) -> Result<Granted, AuthError> {
        let asked = self.record.grant(&token, media);
        let result = answer(self.try_grant(&token, id, media, seconds).await);
        asked.ends(&result);
        result
    }

    async fn end_grant(self, _: Context, token: Token, id: SessionId) -> Result<(), AuthError> {
        let asked = self.record.asked_of_session("end_grant", &token, id);
        let result = answer(self.try_end_grant(&token, id).await);
        asked.ends(&result);
        result
    }

    async fn invite(
        self,
        _: Context,
        secret: InvitationSecret,
        roles: Vec<Kind>,
        seconds: u64,
    ) -> Result<(), AuthError> {
        let asked = self.record.invite(&roles);
        let result = self.try_invite(&secret, roles, seconds).await;
        asked.ends(&result);
        result
    }

    async fn join(
        self,
        _: Context,
        secret: InvitationSecret,
        requests: Vec<CertificateRequest>,
    ) -> Result<Welcome, AuthError> {
        let asked = self.record.join(&requests);
        let result = self.try_join(&secret, &requests).await;
        asked.ends(&result);
        result
    }

    async fn renew_certificate(
        self,
        _: Context,
        request: Vec<u8>,
        earlier: String,
    ) -> Result<String, AuthError> {
        let result = self.try_renew(&request, &earlier);
        let instance = result.as_ref().ok().map(|(instance, _)| instance);
        self.record.renew_certificate(instance).ends(&result);
        result.map(|(_, pem)| pem)
    }

    async fn expel(self, _: Context, instance: InstanceId) -> Result<(), AuthError> {
        let asked = self.record.expel(&instance);
        let result = answer(self.try_expel(&instance).await);
        asked.ends(&result);
        result
    }
}

#[cfg(test)]
mod tests;
