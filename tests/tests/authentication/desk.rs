//! The administrator's side of an authenticator.

use iceflix_core::{
    api::{
        PageRequest, SessionId,
        auth::{AuthError, AuthenticatorClient, Role, SessionInfo, Token, UserInfo},
    },
    service::Server,
    trust::password::prehash,
};
use iceflix_tests::cluster::Cluster;
use std::net::SocketAddr;

/// The administrator's methods, asked of one authenticator.
pub struct Desk<'a> {
    pub cluster: &'a Cluster,
    pub address: SocketAddr,
    pub token: Token,
}

macro_rules! desk {
    ($($method:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {$(
        pub async fn $method(&self, $($argument: $type),*) -> Result<$answer, AuthError> {
            let ask = |auth: AuthenticatorClient, context| {
                $(let $argument = $argument.to_owned();)*
                let token = self.token.clone();
                async move { auth.$method(context, token, $($argument.into()),*).await }
            };
            self.cluster.at(self.address, ask).await
        }
    )*};
}

impl<'a> Desk<'a> {
    /// At authenticator `n`, with an admin's fresh session.
    pub async fn at(cluster: &'a Cluster, n: usize) -> Self {
        Self {
            cluster,
            address: cluster.auths[n].address(),
            token: cluster.admin().await.token(),
        }
    }

    /// At authenticator `n`, with this token.
    pub fn with(cluster: &'a Cluster, n: usize, token: &Token) -> Self {
        Self {
            cluster,
            address: cluster.auths[n].address(),
            token: token.clone(),
        }
    }

    desk! {
        remove_user(user: &str) -> ();
        revoke_user(user: &str) -> ();
        disable_user(user: &str) -> ();
        enable_user(user: &str) -> ();
        end_session(session: SessionId) -> ();
        whois() -> String;
        is_admin() -> bool;
    }

    pub async fn add_user(&self, user: &str, password: &str, role: Role) -> Result<(), AuthError> {
        let hash = prehash(user, password);
        let ask = |auth: AuthenticatorClient, context| {
            let (token, user) = (self.token.clone(), user.to_owned());
            async move { auth.add_user(context, token, user, hash, role).await }
        };
        self.cluster.at(self.address, ask).await
    }

    pub async fn change_password(
        &self,
        user: &str,
        old: Option<&str>,
        new: &str,
    ) -> Result<(), AuthError> {
        let old = old.map(|old| prehash(user, old));
        let new = prehash(user, new);
        let ask = |auth: AuthenticatorClient, context| {
            let (token, user) = (self.token.clone(), user.to_owned());
            async move { auth.change_password(context, token, user, old, new).await }
        };
        self.cluster.at(self.address, ask).await
    }

    pub async fn set_role(&self, user: &str, role: Role) -> Result<(), AuthError> {
        let ask = |auth: AuthenticatorClient, context| {
            let (token, user) = (self.token.clone(), user.to_owned());
            async move { auth.set_role(context, token, user, role).await }
        };
        self.cluster.at(self.address, ask).await
    }

    pub async fn users(&self) -> Result<Vec<String>, AuthError> {
        let users = self.list().await?;
        Ok(users.into_iter().map(|user| user.name).collect())
    }

    pub async fn list(&self) -> Result<Vec<UserInfo>, AuthError> {
        let ask = |auth: AuthenticatorClient, context| {
            let token = self.token.clone();
            async move { auth.list_users(context, token, PageRequest::first()).await }
        };
        Ok(self.cluster.at(self.address, ask).await?.items)
    }

    /// A user's sessions, or one's own.
    pub async fn sessions(&self, user: Option<&str>) -> Result<Vec<SessionInfo>, AuthError> {
        let ask = |auth: AuthenticatorClient, context| {
            let (token, user) = (self.token.clone(), user.map(str::to_owned));
            async move {
                auth.sessions(context, token, user, PageRequest::first())
                    .await
            }
        };
        Ok(self.cluster.at(self.address, ask).await?.items)
    }
}
