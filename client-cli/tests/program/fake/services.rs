//! The contracts' methods, as shortly as they can be told.

use super::Fake;
use iceflix_core::api::auth::{
    AuthError, Authenticator, CertificateRequest, Grant, Granted, Login, PreHash, Role,
    SessionInfo, SessionProof, Token, UserInfo, Welcome,
};
use iceflix_core::api::catalog::{Catalog, CatalogError, Query, Tile, TileDetails};
use iceflix_core::api::main::{DirectoryVersion, DirectoryView, Main, MainError};
use iceflix_core::api::{Instance, InstanceId, Kind, MediaId, Page, PageRequest, SessionId};
use iceflix_core::trust::Purpose;
use iceflix_core::trust::invitation::InvitationSecret;
use tarpc::context::Context;

impl Main for Fake {
    async fn authenticator(self, _: Context) -> Result<Instance, MainError> {
        Err(MainError::TemporarilyUnavailable)
    }
    async fn catalog(self, _: Context) -> Result<Instance, MainError> {
        Err(MainError::TemporarilyUnavailable)
    }
    async fn provider(self, _: Context) -> Result<Instance, MainError> {
        Err(MainError::TemporarilyUnavailable)
    }
    async fn directory(
        self,
        context: Context,
        since: Option<DirectoryVersion>,
    ) -> Result<DirectoryView, MainError> {
        let version = || DirectoryVersion {
            counter: 1,
            number: self.state.lock().unwrap().directory.len() as u64,
        };
        if since == Some(version()) {
            tokio::time::sleep(iceflix_core::rpc::patience(&context)).await;
        }
        Ok(DirectoryView {
            version: version(),
            instances: self.state.lock().unwrap().directory.clone(),
        })
    }
}

impl Authenticator for Fake {
    async fn login(
        self,
        _: Context,
        user: String,
        password: PreHash,
        session: SessionId,
        key: [u8; 32],
    ) -> Result<Login, AuthError> {
        let user = user.to_lowercase();
        let role = {
            let mut state = self.state.lock().unwrap();
            if let Some(retry_after_s) = state.early {
                return Err(AuthError::TooManyAttempts { retry_after_s });
            }
            let role = match state.users.get(&user) {
                Some((right, role)) if *right == password => *role,
                _ => return Err(AuthError::WrongCredentials),
            };
            if state.disabled.contains(&user) {
                return Err(AuthError::Disabled);
            }
            state.sessions.insert(session, (user.clone(), key));
            role
        };
        let token = self.issue(&user, session);
        Ok(Login {
            cluster: "test".into(),
            session,
            user,
            role,
            token,
        })
    }
    async fn refresh_authorization(
        self,
        _: Context,
        proof: SessionProof,
    ) -> Result<Token, AuthError> {
        self.has_heard_of_sessions()?;
        let session = self.proven(&proof, Purpose::Renew)?;
        let user = self.state.lock().unwrap().sessions[&session].0.clone();
        Ok(self.issue(&user, session))
    }
    async fn logout(self, _: Context, proof: SessionProof) -> Result<(), AuthError> {
        self.has_heard_of_sessions()?;
        let session = self.proven(&proof, Purpose::Logout)?;
        self.state.lock().unwrap().sessions.remove(&session);
        Ok(())
    }
    async fn is_authorized(self, _: Context, token: Token) -> bool {
        self.user(&token).is_ok()
    }
    async fn whois(self, _: Context, token: Token) -> Result<String, AuthError> {
        Ok(self.user(&token)?.0)
    }
    async fn is_admin(self, _: Context, token: Token) -> Result<bool, AuthError> {
        Ok(self.user(&token)?.1 == Role::Admin)
    }
    async fn change_password(
        self,
        _: Context,
        token: Token,
        user: String,
        old: Option<PreHash>,
        new: PreHash,
    ) -> Result<(), AuthError> {
        let (me, role) = self.user(&token)?;
        let mut state = self.state.lock().unwrap();
        let (password, _) = state.users.get_mut(&user).ok_or(AuthError::UnknownUser)?;
        match (me == user, role) {
            (true, _) if old != Some(*password) => Err(AuthError::WrongCredentials),
            (false, Role::User) => Err(AuthError::NotAdmin),
            _ => {
                *password = new;
                Ok(())
            }
        }
    }
    async fn add_user(
        self,
        _: Context,
        token: Token,
        user: String,
        password: PreHash,
        role: Role,
    ) -> Result<(), AuthError> {
        self.admin(&token, AuthError::NotAdmin)?;
        self.state
            .lock()
            .unwrap()
            .users
            .insert(user, (password, role));
        Ok(())
    }
    async fn remove_user(self, _: Context, token: Token, user: String) -> Result<(), AuthError> {
        self.admin(&token, AuthError::NotAdmin)?;
        self.fated(|state| {
            state.users.remove(&user).ok_or(AuthError::UnknownUser)?;
            state.sessions.retain(|_, (whose, _)| *whose != user);
            Ok(())
        })
        .await
    }
    async fn list_users(
        self,
        _: Context,
        token: Token,
        page: PageRequest,
    ) -> Result<Page<UserInfo>, AuthError> {
        self.admin(&token, AuthError::NotAdmin)?;
        let state = self.state.lock().unwrap();
        let users = state.users.iter().map(|(name, (_, role))| UserInfo {
            name: name.clone(),
            role: *role,
            created: 1,
            disabled: state.disabled.contains(name),
        });
        let rest = users.filter(|user| page.after.as_ref().is_none_or(|after| user.name > *after));
        let items: Vec<UserInfo> = rest.take(1).collect();
        let next = items.last().map(|user| user.name.clone());
        Ok(Page { items, next })
    }
    async fn revoke_user(self, _: Context, token: Token, user: String) -> Result<(), AuthError> {
        let user = user.to_lowercase();
        if self.user(&token)?.0 != user {
            self.admin(&token, AuthError::NotAdmin)?;
        }
        self.fated(|state| {
            state.sessions.retain(|_, (whose, _)| *whose != user);
            Ok(())
        })
        .await
    }
    async fn sessions(
        self,
        _: Context,
        token: Token,
        user: Option<String>,
        page: PageRequest,
    ) -> Result<Page<SessionInfo>, AuthError> {
        let me = self.user(&token)?.0;
        let user = user.unwrap_or_else(|| me.clone());
        if user != me {
            self.admin(&token, AuthError::NotAdmin)?;
        }
        let state = self.state.lock().unwrap();
        let current = state.tokens[&token.0];
        let of_user = state.sessions.iter().filter(|(_, (of, _))| *of == user);
        let infos = of_user.map(|(id, (user, _))| SessionInfo {
            id: *id,
            user: user.clone(),
            opened: 1,
            from: Some([10, 0, 0, 7].into()),
            until: 2,
            current: *id == current,
        });
        let rest = infos.filter(|of| page.after.as_ref().is_none_or(|a| of.id.to_string() > *a));
        let items: Vec<SessionInfo> = rest.take(1).collect();
        let next = items.last().map(|session| session.id.to_string());
        Ok(Page { items, next })
    }
    async fn end_session(
        self,
        _: Context,
        token: Token,
        session: SessionId,
    ) -> Result<(), AuthError> {
        let (me, role) = self.user(&token)?;
        let mut state = self.state.lock().unwrap();
        match state.sessions.get(&session) {
            Some((user, _)) if *user == me || role == Role::Admin => {
                state.sessions.remove(&session);
                Ok(())
            }
            _ => Err(AuthError::UnknownSession),
        }
    }
    async fn disable_user(self, _: Context, token: Token, user: String) -> Result<(), AuthError> {
        self.admin(&token, AuthError::NotAdmin)?;
        self.fated(|state| {
            state.users.get(&user).ok_or(AuthError::UnknownUser)?;
            state.sessions.retain(|_, (whose, _)| *whose != user);
            state.disabled.insert(user);
            Ok(())
        })
        .await
    }
    async fn enable_user(self, _: Context, token: Token, user: String) -> Result<(), AuthError> {
        self.admin(&token, AuthError::NotAdmin)?;
        self.state.lock().unwrap().disabled.remove(&user);
        Ok(())
    }
    async fn set_role(
        self,
        _: Context,
        token: Token,
        user: String,
        role: Role,
    ) -> Result<(), AuthError> {
        self.admin(&token, AuthError::NotAdmin)?;
        self.fated(|state| {
            let (_, now) = state.users.get_mut(&user).ok_or(AuthError::UnknownUser)?;
            if *now != role {
                *now = role;
                state.sessions.retain(|_, (whose, _)| *whose != user);
            }
            Ok(())
        })
        .await
    }
    async fn grant(
        self,
        _: Context,
        token: Token,
        id: SessionId,
        media: MediaId,
        seconds: u64,
    ) -> Result<Granted, AuthError> {
        self.user(&token)?;
        if seconds > 3600 {
            return Err(AuthError::GrantTooLong(3600));
        }
        self.state.lock().unwrap().grants.insert(id, media);
        Ok(Granted {
            grant: Grant(id.to_string()),
            until: 1_800_000_000,
        })
    }
    async fn end_grant(self, _: Context, token: Token, id: SessionId) -> Result<(), AuthError> {
        self.user(&token)?;
        let ended = self.state.lock().unwrap().grants.remove(&id);
        ended.map(drop).ok_or(AuthError::UnknownGrant)
    }
    // Machines are not let in here.
    async fn invite(
        self,
        _: Context,
        _: InvitationSecret,
        _: Vec<Kind>,
        _: u64,
    ) -> Result<(), AuthError> {
        Err(AuthError::NotAuthenticator)
    }
    async fn join(
        self,
        _: Context,
        _: InvitationSecret,
        _: Vec<CertificateRequest>,
    ) -> Result<Welcome, AuthError> {
        Err(AuthError::NotInvited)
    }
    async fn renew_certificate(
        self,
        _: Context,
        _: Vec<u8>,
        _: String,
    ) -> Result<String, AuthError> {
        Err(AuthError::NotInvited)
    }
    async fn expel(self, _: Context, _: InstanceId) -> Result<(), AuthError> {
        Err(AuthError::NotAuthenticator)
    }
}

impl Catalog for Fake {
    async fn tile(
        self,
        _: Context,
        token: Token,
        id: MediaId,
    ) -> Result<TileDetails, CatalogError> {
        let (user, _) = self.user(&token)?;
        let tile = self.seen_by(self.known(id)?, Some(&user));
        let mut providers = self.state.lock().unwrap().directory.clone();
        providers.retain(|node| node.kind == Kind::Streaming && tile.available);
        Ok(TileDetails {
            tile,
            providers,
            format: "MP4".into(),
            size: 1000,
        })
    }
    async fn tiles_by_name(
        self,
        _: Context,
        _: Option<Token>,
        _: String,
        _: bool,
        _: PageRequest,
    ) -> Result<Page<Tile>, CatalogError> {
        Err(CatalogError::Internal)
    }
    async fn tiles_by_tags(
        self,
        _: Context,
        _: Token,
        _: Vec<String>,
        _: bool,
        _: PageRequest,
    ) -> Result<Page<Tile>, CatalogError> {
        Err(CatalogError::Internal)
    }
    async fn search(
        self,
        _: Context,
        token: Option<Token>,
        query: Query,
        page: PageRequest,
    ) -> Result<Page<Tile>, CatalogError> {
        let user = token
            .map(|token| self.user(&token))
            .transpose()?
            .map(|(user, _)| user);
        let films: Vec<Tile> = self.state.lock().unwrap().films.values().cloned().collect();
        let found: Vec<Tile> = films
            .into_iter()
            .map(|tile| self.seen_by(tile, user.as_deref()))
            .filter(|tile| match query.exact {
                true => tile.name == query.name,
                false => tile.name.contains(&query.name),
            })
            .filter(|tile| {
                query.tags.is_empty() || query.tags.iter().any(|tag| tile.tags.contains(tag))
            })
            .filter(|tile| {
                page.after
                    .as_ref()
                    .is_none_or(|after| tile.id.to_string() > *after)
            })
            .collect();
        self.state.lock().unwrap().pages += 1;
        let size = page.size();
        let next = found
            .get(size)
            .and(found.get(size - 1))
            .map(|tile| tile.id.to_string());
        let items = found.into_iter().take(size).collect();
        Ok(Page { items, next })
    }
    async fn ids_by_prefix(self, _: Context, prefix: String) -> Result<Vec<MediaId>, CatalogError> {
        let state = self.state.lock().unwrap();
        let fitting = state
            .films
            .keys()
            .filter(|id| id.to_string().starts_with(&prefix));
        Ok(fitting.copied().take(10).collect())
    }
    async fn add_tags(
        self,
        _: Context,
        token: Token,
        id: MediaId,
        tags: Vec<String>,
    ) -> Result<(), CatalogError> {
        self.change_tags(&token, id, |kept| {
            kept.extend(tags.iter().map(|tag| tag.trim().to_owned()));
            kept.sort();
            kept.dedup();
        })
    }
    async fn remove_tags(
        self,
        _: Context,
        token: Token,
        id: MediaId,
        tags: Vec<String>,
    ) -> Result<(), CatalogError> {
        self.change_tags(&token, id, |kept| kept.retain(|tag| !tags.contains(tag)))
    }
    async fn rename_tile(
        self,
        _: Context,
        token: Token,
        id: MediaId,
        name: String,
    ) -> Result<(), CatalogError> {
        self.admin(&token, CatalogError::NotAdmin)?;
        self.known(id)?;
        if let Some(tile) = self.state.lock().unwrap().films.get_mut(&id) {
            tile.name = name;
        }
        Ok(())
    }
}
