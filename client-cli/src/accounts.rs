//! What a client asks of the authenticator about sessions, and about who may log in as what.

use crate::cli::TypedSession;
use crate::client::Client;
use crate::error::Error;
use iceflix_core::api::auth::{AuthenticatorClient, Role, SessionInfo, Token};
use iceflix_core::api::{Page, PageRequest, SessionId};
use iceflix_core::rpc::Effort;
use iceflix_core::trust::password::user_name;

impl Client {
    /// A user's sessions, or one's own, the oldest first.
    pub async fn sessions(&self, user: Option<&str>) -> Result<Vec<SessionInfo>, Error> {
        let mut sessions = Vec::new();
        let mut request = PageRequest::first();
        loop {
            let page: Page<SessionInfo> = self
                .authorised(|token| {
                    let request = &request;
                    self.caller().call(move |auth: AuthenticatorClient, ctx| {
                        let (token, page) = (token.clone(), request.clone());
                        let user = user.map(str::to_owned);
                        async move { auth.sessions(ctx, token, user, page).await }
                    })
                })
                .await?;
            sessions.extend(page.items);
            match page.next {
                Some(next) => request.after = Some(next),
                None => break,
            }
        }
        sessions.sort_by_key(|session| (session.opened, session.id));
        Ok(sessions)
    }

    /// The session that an id stands for, among a user's or one's own.
    ///
    /// # Errors
    /// [`Error::NotFound`] when no session's id, or more than one, begins so.
    pub async fn resolve_session(
        &self,
        id: &TypedSession,
        user: Option<&str>,
    ) -> Result<SessionId, Error> {
        let beginning = match id {
            TypedSession::Whole(id) => return Ok(*id),
            TypedSession::Beginning(beginning) => beginning,
        };
        let sessions = self.sessions(user).await?;
        let ids = sessions.iter().map(|session| session.id);
        let fitting: Vec<SessionId> = ids
            .filter(|id| id.to_string().starts_with(beginning))
            .collect();
        match fitting.as_slice() {
            [] => Err(Error::NotFound(format!(
                "no session's id begins with {beginning}"
            ))),
            [id] => Ok(*id),
            several => {
                let list: Vec<String> = several.iter().map(|id| format!("\n  {id}")).collect();
                Err(Error::NotFound(format!(
                    "several sessions' ids begin with {beginning}; type more of one of them:{}",
                    list.concat()
                )))
            }
        }
    }

    /// Ends a session. One's present one is forgotten, too: that is a logout.
    pub async fn end_session(&self, id: SessionId) -> Result<(), Error> {
        if self.session().await?.is_some_and(|own| own.id == id) {
            return self.logout().await.map(drop);
        }
        self.authorised(|token| {
            self.caller()
                .call_with(Effort::Write, move |auth: AuthenticatorClient, ctx| {
                    let token = token.clone();
                    async move { auth.end_session(ctx, token, id).await }
                })
        })
        .await
    }

    /// Keeps a user from logging in, and ends their sessions.
    pub async fn disable_user(&self, user: &str) -> Result<(), Error> {
        self.end_sessions(user, |auth, ctx, token, user| async move {
            auth.disable_user(ctx, token, user).await
        })
        .await
    }

    /// Lets a user log in again.
    pub async fn enable_user(&self, user: &str) -> Result<(), Error> {
        self.authorised(|token| {
            self.caller()
                .call_with(Effort::Write, move |auth: AuthenticatorClient, ctx| {
                    let (token, user) = (token.clone(), user.to_owned());
                    async move { auth.enable_user(ctx, token, user).await }
                })
        })
        .await
    }

    /// Gives a user a role. Another one than before ends their sessions.
    pub async fn set_role(&self, user: &str, role: Role) -> Result<(), Error> {
        let session = self.session().await?.ok_or_else(Error::logged_out)?;
        if user_name(user).as_ref() == Some(&session.user) && session.role == role {
            // Nothing is to be changed, and nothing ends by it.
            let ask = |token: Token| {
                self.caller()
                    .call_with(Effort::Write, move |auth: AuthenticatorClient, ctx| {
                        let (token, user) = (Token::clone(&token), user.to_owned());
                        async move { auth.set_role(ctx, token, user, role).await }
                    })
            };
            return self.authorised(ask).await;
        }
        self.end_sessions(user, move |auth, ctx, token, user| async move {
            auth.set_role(ctx, token, user, role).await
        })
        .await
    }
}
