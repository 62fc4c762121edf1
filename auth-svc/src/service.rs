//! The contract's methods.

use crate::{
    accounts::{Accounts, AccountsError, Session, User},
    status::Status,
};
use iceflix_core::{
    api::{
        Page, PageRequest, SessionId,
        auth::{AuthError, Authenticator, Login, PreHash, Role, SessionProof, Token, UserInfo},
    },
    service::Node,
    topics::AuthenticationFact,
    trust::{
        self, Identity, Purpose, SESSION_LIFETIME, Verifier, keys::SigningKey, password::user_name,
        session, token,
    },
};
use std::sync::Arc;
use tarpc::context::Context;

/// Answers one connection's requests.
#[derive(Clone)]
pub struct AuthService {
    cluster: String,
    key: SigningKey,
    accounts: Accounts,
    status: Arc<Status>,
    verifier: Verifier,
}

impl From<AccountsError> for Failed {
    fn from(error: AccountsError) -> Self {
        tracing::error!(%error, "a request failed");
        Failed(AuthError::Internal)
    }
}

/// What a method answers when it cannot do what was asked.
struct Failed(AuthError);

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
    pub fn new(node: &Node, key: SigningKey, accounts: Accounts, status: Arc<Status>) -> Self {
        Self {
            cluster: node.topics.cluster().to_owned(),
            key,
            accounts,
            status,
            verifier: node.verifier.clone(),
        }
    }

    async fn admin(&self, token: &Token) -> Result<Identity, AuthError> {
        let identity = self.verifier.check(token).await?;
        match identity.role {
            Role::Admin => Ok(identity),
            Role::User => Err(AuthError::NotAdmin),
        }
    }

    fn token(&self, session: SessionId, of: &Session, role: Role) -> Result<Token, AuthError> {
        let now = trust::now();
        let token = token::issue(
            &self.key,
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
        let session = self.accounts.session(id).await;
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

    async fn try_login(
        &self,
        user: &str,
        password: PreHash,
        id: SessionId,
        key: [u8; 32],
    ) -> Result<Login, Failed> {
        let name = user_name(user);
        let user = match &name {
            Some(name) => self.accounts.user(name).await,
            None => None,
        };
        // Read first: what is revoked while the password is being checked is revoked for this, too.
        let epoch = name.as_deref().map_or(0, |name| self.accounts.epoch(name));
        let right = self.accounts.verify(user.as_ref(), password).await?;
        let (Some(name), Some(user), true) = (name, user, right) else {
            return Err(AuthError::WrongCredentials.into());
        };
        let _deciding = self.accounts.decide().await;
        // A new password and a removal begin a new epoch. Without one it is another authenticator's
        // first admin that replaced ours, and the password may be right all the same.
        let user = match self.accounts.user_here(&name) {
            Some(now) if now == user => now,
            Some(now) if self.accounts.verify(Some(&now), password).await? => now,
            _ => return Err(AuthError::WrongCredentials.into()),
        };
        if self.accounts.epoch(&name) != epoch {
            return Err(AuthError::WrongCredentials.into());
        }
        if self.accounts.was_ended(id) {
            return Err(AuthError::SessionEnded.into());
        }
        // The client chose the id at random, so there is nobody to ask about it.
        let session = match self.accounts.session_here(id) {
            // The same login again: its first answer was lost.
            Some(session) if session.user == name && session.key == key => session,
            Some(_) => return Err(AuthError::WrongCredentials.into()),
            None => {
                let session = Session {
                    epoch,
                    user: name.clone(),
                    key,
                    until: (trust::now() + SESSION_LIFETIME).as_secs(),
                };
                self.accounts.put_session(id, &session).await?;
                session
            }
        };
        tracing::info!(user = name, session = %id, "logged in");
        Ok(Login {
            cluster: self.cluster.clone(),
            session: id,
            token: self.token(id, &session, user.role)?,
            user: name,
            role: user.role,
        })
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

    async fn try_change_password(
        &self,
        token: &Token,
        user: &str,
        old: Option<PreHash>,
        new: PreHash,
    ) -> Result<(), Failed> {
        let caller = self.verifier.check(token).await?;
        let own = user_name(user).is_some_and(|name| name == caller.user);
        if !own && caller.role != Role::Admin {
            return Err(AuthError::NotAdmin.into());
        }
        let (name, user) = self.existing(user).await?;
        if own {
            let old = old.ok_or(AuthError::WrongCredentials)?;
            if !self.accounts.verify(Some(&user), old).await? {
                // The same request again, after its first answer was lost?
                return match self.accounts.verify(Some(&user), new).await? {
                    true => Ok(()),
                    false => Err(AuthError::WrongCredentials.into()),
                };
            }
        }
        let password = self.accounts.hash(new).await?;
        let _deciding = self.accounts.decide().await;
        // Hashing took a while: what was removed or changed meanwhile stays so.
        match self.accounts.user_here(&name) {
            None => return Err(AuthError::UnknownUser.into()),
            // Perhaps by this very request, asked of another authenticator, too.
            Some(now) if own && now != user => {
                return match self.accounts.verify(Some(&now), new).await? {
                    true => Ok(()),
                    false => Err(AuthError::WrongCredentials.into()),
                };
            }
            Some(_) => {}
        }
        self.verifier.check(token).await?;
        let keep = match own {
            true => self.accounts.session_here(caller.session),
            false => None,
        };
        let user = User { password, ..user };
        self.accounts
            .put_password(&name, &user, keep.map(|session| (caller.session, session)))
            .await?;
        self.say_epoch(name);
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
        let _deciding = self.accounts.decide().await;
        if let Some(there) = self.accounts.user(&name).await {
            // The same request again: its first answer was lost.
            let same = there.role == role && self.accounts.verify(Some(&there), password).await?;
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

    async fn try_remove_user(&self, token: &Token, user: &str) -> Result<(), Failed> {
        self.admin(token).await?;
        let _deciding = self.accounts.decide().await;
        let (name, user) = match self.existing(user).await {
            // The same request again, after its first answer was lost.
            Err(AuthError::UnknownUser) if self.accounts.was_removed(user) => return Ok(()),
            existing => existing?,
        };
        if user.role == Role::Admin && self.accounts.is_last_admin(&name) {
            return Err(AuthError::LastAdmin.into());
        }
        self.accounts.remove_user(&name).await?;
        self.say_epoch(name);
        Ok(())
    }

    async fn try_revoke_user(&self, token: &Token, user: &str) -> Result<(), Failed> {
        let caller = self.verifier.check(token).await?;
        let own = user_name(user).is_some_and(|name| name == caller.user);
        if !own && caller.role != Role::Admin {
            return Err(AuthError::NotAdmin.into());
        }
        let _deciding = self.accounts.decide().await;
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
        answer(self.try_login(&user, password, session, session_key).await)
    }

    async fn refresh_authorization(
        self,
        _: Context,
        proof: SessionProof,
    ) -> Result<Token, AuthError> {
        let (id, session) = self.proven(&proof, Purpose::Renew).await?;
        let user = self.accounts.user(&session.user).await;
        let user = user.ok_or(AuthError::SessionEnded)?;
        self.token(id, &session, user.role)
    }

    async fn logout(self, _: Context, proof: SessionProof) -> Result<(), AuthError> {
        answer(self.try_logout(&proof).await)
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
        answer(self.try_change_password(&token, &user, old, new).await)
    }

    async fn add_user(
        self,
        _: Context,
        token: Token,
        user: String,
        password: PreHash,
        role: Role,
    ) -> Result<(), AuthError> {
        answer(self.try_add_user(&token, &user, password, role).await)
    }

    async fn remove_user(self, _: Context, token: Token, user: String) -> Result<(), AuthError> {
        answer(self.try_remove_user(&token, &user).await)
    }

    async fn list_users(
        self,
        _: Context,
        token: Token,
        page: PageRequest,
    ) -> Result<Page<UserInfo>, AuthError> {
        self.admin(&token).await?;
        Ok(self.accounts.list(&page))
    }

    async fn revoke_user(self, _: Context, token: Token, user: String) -> Result<(), AuthError> {
        answer(self.try_revoke_user(&token, &user).await)
    }
}

#[cfg(test)]
mod tests;
