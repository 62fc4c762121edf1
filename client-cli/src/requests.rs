//! What a client asks of the catalogue and, about users, of the authenticator.

use crate::client::Client;
use crate::error::Error;
use iceflix_core::api::auth::{AuthError, AuthenticatorClient, Role, Token, UserInfo};
use iceflix_core::api::catalog::{CatalogClient, CatalogError, Query, Tile, TileDetails};
use iceflix_core::api::{MediaId, Page, PageRequest};
use iceflix_core::rpc::Effort;
use iceflix_core::trust::password::{prehash, user_name};
use std::sync::atomic::{AtomicBool, Ordering};
use tarpc::client::RpcError;
use tarpc::context::Context;

/// How many hexadecimal digits a film's id has.
const ID_DIGITS: usize = 64;

/// What a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The films, by name.
    pub tiles: Vec<Tile>,
    /// There was a session, and it has ended: the films are shown as to anyone, without tags.
    pub session_ended: bool,
}

/// A film's id as people type it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TypedId {
    /// All of it.
    Whole(MediaId),
    /// Its beginning, in lower case.
    Beginning(String),
}

impl std::str::FromStr for TypedId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let digits = (1..=ID_DIGITS).contains(&text.len());
        if !digits || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(Error::Usage(format!(
                "`{}` is no film's id: an id is up to {ID_DIGITS} hexadecimal digits, as `search` \
                 shows them",
                crate::output::plain(text)
            )));
        }
        let text = text.to_ascii_lowercase();
        Ok(match text.parse() {
            Ok(id) => TypedId::Whole(id),
            Err(_) => TypedId::Beginning(text),
        })
    }
}

impl Client {
    /// The film an id stands for.
    ///
    /// # Errors
    /// [`Error::NotFound`] when no film's id, or more than one, begins so.
    pub async fn resolve(&self, id: &TypedId) -> Result<MediaId, Error> {
        let beginning = match id {
            TypedId::Whole(id) => return Ok(*id),
            TypedId::Beginning(beginning) => beginning,
        };
        let ids = self
            .caller()
            .call(|catalog: CatalogClient, ctx| {
                let prefix = beginning.clone();
                async move { catalog.ids_by_prefix(ctx, prefix).await }
            })
            .await??;
        match ids.as_slice() {
            [] => Err(Error::NotFound(format!(
                "no film's id begins with {beginning}"
            ))),
            [id] => Ok(*id),
            several => {
                let list: Vec<String> = several.iter().map(|id| format!("\n  {id}")).collect();
                Err(Error::NotFound(format!(
                    "several films' ids begin with {beginning}; type more of one of them:{}",
                    list.concat()
                )))
            }
        }
    }

    /// Films by name and tags, all of them or the first `limit`. Without a session by name only.
    pub async fn search(&self, query: &Query, limit: Option<u32>) -> Result<Found, Error> {
        let mut found = Found {
            tiles: Vec::new(),
            session_ended: false,
        };
        let mut after = None;
        loop {
            let wanted = match limit {
                Some(limit) => limit - u32::try_from(found.tiles.len()).unwrap_or(limit),
                None => PageRequest::MAX,
            };
            let request = PageRequest {
                after: after.take(),
                limit: wanted.min(PageRequest::MAX),
            };
            let page = if query.tags.is_empty() && self.session().await?.is_none() {
                self.search_page(None, query, &request).await?
            } else {
                match self.authorised_page(query, &request).await {
                    Err(error) if error.is_refusal() && query.tags.is_empty() => {
                        found.session_ended = true;
                        self.search_page(None, query, &request).await?
                    }
                    page => page?,
                }
            };
            found.tiles.extend(page.items);
            after = page.next;
            let full = limit.is_some_and(|limit| found.tiles.len() >= limit as usize);
            if full || after.is_none() {
                return Ok(found);
            }
        }
    }

    async fn authorised_page(
        &self,
        query: &Query,
        page: &PageRequest,
    ) -> Result<Page<Tile>, Error> {
        self.authorised(|token| async move {
            self.caller()
                .call(|catalog: CatalogClient, ctx| {
                    let (token, query, page) = (token.clone(), query.clone(), page.clone());
                    async move { catalog.search(ctx, Some(token), query, page).await }
                })
                .await
        })
        .await
    }

    async fn search_page(
        &self,
        token: Option<Token>,
        query: &Query,
        page: &PageRequest,
    ) -> Result<Page<Tile>, Error> {
        let answer: Result<Page<Tile>, CatalogError> = self
            .caller()
            .call(|catalog: CatalogClient, ctx| {
                let (token, query, page) = (token.clone(), query.clone(), page.clone());
                async move { catalog.search(ctx, token, query, page).await }
            })
            .await?;
        Ok(answer?)
    }

    /// One film, with the nodes that have it.
    pub async fn tile(&self, id: MediaId) -> Result<TileDetails, Error> {
        self.authorised(|token| {
            self.caller().call(move |catalog: CatalogClient, ctx| {
                let token = token.clone();
                async move { catalog.tile(ctx, token, id).await }
            })
        })
        .await
    }

    /// Adds tags of the user's to a film. The film comes back as it is then.
    pub async fn add_tags(&self, id: MediaId, tags: &[String]) -> Result<Tile, Error> {
        self.change_tags(id, async |catalog, ctx, token| {
            catalog.add_tags(ctx, token, id, tags.to_vec()).await
        })
        .await
    }

    /// Removes tags of the user's from a film. The film comes back as it is then.
    pub async fn remove_tags(&self, id: MediaId, tags: &[String]) -> Result<Tile, Error> {
        self.change_tags(id, async |catalog, ctx, token| {
            catalog.remove_tags(ctx, token, id, tags.to_vec()).await
        })
        .await
    }

    /// Changes tags, and asks the same catalogue how the film is now: another one may hear of the
    /// change a moment later.
    async fn change_tags<F>(&self, id: MediaId, change: F) -> Result<Tile, Error>
    where
        F: AsyncFn(&CatalogClient, Context, Token) -> Result<Result<(), CatalogError>, RpcError>,
    {
        let change = &change;
        self.authorised(|token| {
            self.caller()
                .call_with(Effort::Write, move |catalog: CatalogClient, ctx| {
                    let token = token.clone();
                    async move {
                        match change(&catalog, ctx, token.clone()).await? {
                            Ok(()) => {}
                            Err(error) => return Ok(Err(error)),
                        }
                        let details = catalog.tile(ctx, token, id).await?;
                        Ok(details.map(|details| details.tile))
                    }
                })
        })
        .await
    }

    /// Names a film.
    pub async fn rename(&self, id: MediaId, name: &str) -> Result<(), Error> {
        self.authorised(|token| {
            self.caller()
                .call_with(Effort::Write, move |catalog: CatalogClient, ctx| {
                    let (token, name) = (token.clone(), name.to_owned());
                    async move { catalog.rename_tile(ctx, token, id, name).await }
                })
        })
        .await
    }

    /// Adds a user.
    pub async fn add_user(&self, user: &str, password: &str, role: Role) -> Result<(), Error> {
        let hash = prehash(user, password);
        self.authorised(|token| {
            self.caller()
                .call_with(Effort::Write, move |auth: AuthenticatorClient, ctx| {
                    let (token, user) = (token.clone(), user.to_owned());
                    async move { auth.add_user(ctx, token, user, hash, role).await }
                })
        })
        .await
    }

    /// Removes a user.
    pub async fn remove_user(&self, user: &str) -> Result<(), Error> {
        self.end_sessions(user, |auth, ctx, token, user| async move {
            auth.remove_user(ctx, token, user).await
        })
        .await
    }

    /// All users, by name.
    pub async fn users(&self) -> Result<Vec<UserInfo>, Error> {
        let mut users = Vec::new();
        let mut request = PageRequest::first();
        loop {
            let page: Page<UserInfo> = self
                .authorised(|token| {
                    let request = &request;
                    self.caller().call(move |auth: AuthenticatorClient, ctx| {
                        let (token, page) = (token.clone(), request.clone());
                        async move { auth.list_users(ctx, token, page).await }
                    })
                })
                .await?;
            users.extend(page.items);
            match page.next {
                Some(next) => request.after = Some(next),
                None => return Ok(users),
            }
        }
    }

    /// Sets a password; `old` is needed for one's own.
    pub async fn change_password(
        &self,
        user: &str,
        old: Option<&str>,
        new: &str,
    ) -> Result<(), Error> {
        let old = old.map(|old| prehash(user, old));
        let new = prehash(user, new);
        let answer = self
            .authorised(|token| {
                self.caller()
                    .call_with(Effort::Write, move |auth: AuthenticatorClient, ctx| {
                        let (token, user) = (token.clone(), user.to_owned());
                        async move { auth.change_password(ctx, token, user, old, new).await }
                    })
            })
            .await;
        match answer {
            Err(Error::NotAuthorised(why)) if why == AuthError::WrongCredentials.to_string() => {
                Err(Error::NotAuthorised("the old password is wrong".into()))
            }
            answer => answer,
        }
    }

    /// Ends all sessions of a user.
    pub async fn revoke(&self, user: &str) -> Result<(), Error> {
        self.end_sessions(user, |auth, ctx, token, user| async move {
            auth.revoke_user(ctx, token, user).await
        })
        .await
    }

    /// Asks for what ends all sessions of a user. If these are the asker's own, it works once only:
    /// when its answer is lost, the next attempt finds the session ended, and that is the answer.
    /// Not so when nothing was lost: then somebody else ended the session before.
    pub(crate) async fn end_sessions<F, Fut>(&self, user: &str, ask: F) -> Result<(), Error>
    where
        F: Fn(AuthenticatorClient, Context, Token, String) -> Fut,
        Fut: Future<Output = Result<Result<(), AuthError>, RpcError>>,
    {
        let session = self.session().await?.ok_or_else(Error::logged_out)?;
        let own = user_name(user).as_ref() == Some(&session.user);
        let lost = AtomicBool::new(false);
        let (ask, lost) = (&ask, &lost);
        let done = self
            .authorised(|token| {
                self.caller().call_with(Effort::Write, move |auth, ctx| {
                    let asked = ask(auth, ctx, token.clone(), user.to_owned());
                    async move {
                        let mut unheard = Unheard { lost, holds: true };
                        let answer = asked.await;
                        // A request that was not sent or not taken has done nothing.
                        unheard.holds = matches!(
                            answer,
                            Err(RpcError::Shutdown
                                | RpcError::Channel(_)
                                | RpcError::DeadlineExceeded)
                        );
                        answer
                    }
                })
            })
            .await;
        match done {
            Err(Error::SessionEnded) if own && lost.load(Ordering::Relaxed) => {}
            done => done?,
        }
        match own {
            true => self.forget(session.id).await,
            false => Ok(()),
        }
    }
}

/// Says that an attempt had no answer, also when the attempt was given up while it waited for one.
struct Unheard<'a> {
    lost: &'a AtomicBool,
    holds: bool,
}

impl Drop for Unheard<'_> {
    fn drop(&mut self) {
        self.lost.fetch_or(self.holds, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_are_hexadecimal_and_not_too_long() {
        let whole = "AB".repeat(32);
        assert!(matches!(whole.parse(), Ok(TypedId::Whole(_))));
        assert_eq!(
            "AbC".parse::<TypedId>().unwrap(),
            TypedId::Beginning("abc".into())
        );
        for bad in ["", "xyz", "12 3", "é", &"a".repeat(65)] {
            assert_eq!(bad.parse::<TypedId>().unwrap_err().exit_code(), 2, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_beginning_is_an_id(digits in "[0-9a-fA-F]{1,63}") {
            let typed = digits.parse::<TypedId>().unwrap();
            prop_assert_eq!(typed, TypedId::Beginning(digits.to_lowercase()));
        }
    }
}
