//! Sessions: seeing them, and ending one.

use super::{AuthService, Failed};
use iceflix_core::{
    api::{
        Page, PageRequest, SessionId,
        auth::{AuthError, Role, SessionInfo, Token},
    },
    topics::AuthenticationFact,
    trust::password::user_name,
};

impl AuthService {
    pub(super) async fn list_sessions(
        &self,
        token: &Token,
        user: Option<&str>,
        page: &PageRequest,
    ) -> Result<Page<SessionInfo>, AuthError> {
        let caller = self.verifier.check(token).await?;
        let name = match user {
            None => caller.user,
            Some(user) if user_name(user).as_ref() == Some(&caller.user) => caller.user,
            Some(_) if caller.role != Role::Admin => return Err(AuthError::NotAdmin),
            Some(user) => self.existing(user).await?.0,
        };
        Ok(self.accounts.sessions_of(&name, caller.session, page))
    }

    pub(super) async fn try_end_session(
        &self,
        token: &Token,
        session: SessionId,
    ) -> Result<(), Failed> {
        let caller = self.verifier.check(token).await?;
        if self.accounts.was_ended(session) {
            return Ok(());
        }
        // Asked of the other authenticators, it may take a while.
        let found = self.accounts.session(session).await;
        let _deciding = self.deciding(token).await?;
        let allowed = found.filter(|of| of.user == caller.user || caller.role == Role::Admin);
        let of = allowed.ok_or(AuthError::UnknownSession)?;
        self.accounts.end_session(session).await?;
        self.status
            .revoked(&AuthenticationFact::SessionEnded { session });
        tracing::info!(user = of.user, %session, by = caller.user, "a session was ended");
        Ok(())
    }
}
