//! The contract's methods: check, ask the store, map the error.

use crate::{rows::RowKey, store::Store, text, unseen::Unseen};
use iceflix_core::{
    api::{
        MediaId, Page, PageRequest, TokenError,
        auth::{Role, Token},
        catalog::{Catalog, CatalogError, Query, Tile, TileDetails},
    },
    audit::{Audit, token_reason},
    replica::{RowChange, StoreError},
    rpc::Peer,
    trust::{Identity, Verifier},
};
use serde_json::Value;
use std::net::IpAddr;
use tarpc::context::Context;

/// The most ids that a prefix is answered with.
const MAX_IDS: usize = 10;

/// The most tags of one user on one film: with them a film still fits a frame.
const MAX_TAGS_OF_FILM: usize = 1000;

/// The catalogue as its callers see it.
#[derive(Clone)]
pub struct CatalogService {
    /// What it knows.
    pub store: Store,
    /// Nodes to be asked before it is said what is available.
    pub unseen: Unseen,
    /// Who may ask.
    pub verifier: Verifier,
    /// Where to write down who did what.
    pub audit: Audit,
    /// The caller's address.
    pub from: IpAddr,
    /// Whether that is another machine's.
    pub from_elsewhere: bool,
}

/// Whether it is on another machine than this, as far as its address tells.
fn is_elsewhere(peer: &Peer) -> bool {
    let ip = peer.address.ip();
    ip != peer.local.ip() && !ip.is_loopback()
}

fn reason(error: &CatalogError) -> &'static str {
    match error {
        CatalogError::Unauthorized(error) => token_reason(*error),
        CatalogError::NotAdmin => "not_admin",
        CatalogError::UnknownMedia => "unknown_media",
        CatalogError::InvalidName => "invalid_name",
        CatalogError::InvalidTag => "invalid_tag",
        CatalogError::Internal => "internal",
        CatalogError::CannotWrite => "cannot_write",
    }
}

impl CatalogService {
    /// The same, for a connection from there.
    pub fn facing(&self, peer: Peer) -> Self {
        Self {
            from: peer.address.ip(),
            from_elsewhere: is_elsewhere(&peer),
            ..self.clone()
        }
    }

    async fn caller(&self, token: &Token) -> Result<Identity, CatalogError> {
        Ok(self.verifier.check(token).await?)
    }

    /// The caller's name, if there is a token. A bad token is worse than none.
    async fn caller_if_any(&self, token: Option<&Token>) -> Result<Option<String>, CatalogError> {
        match token {
            Some(token) => Ok(Some(self.caller(token).await?.user)),
            None => Ok(None),
        }
    }

    async fn must_know(&self, id: MediaId) -> Result<(), CatalogError> {
        if self.store.knows(id).await {
            Ok(())
        } else {
            Err(CatalogError::UnknownMedia)
        }
    }

    /// Writes what is said of a film, which from then on is kept.
    async fn put(&self, id: MediaId, changes: Vec<RowChange>) -> Result<(), CatalogError> {
        if changes.is_empty() {
            return Ok(());
        }
        let title = self.store.index().missing_title(&id);
        let written = match self.store.put_titles(title).await {
            Ok(()) => self.store.put(changes).await,
            Err(error) => Err(error),
        };
        written.map_err(|error: StoreError| {
            tracing::error!(%error, "a change was not kept");
            match error {
                StoreError::Write(_) => CatalogError::CannotWrite,
                _ => CatalogError::Internal,
            }
        })
    }

    async fn set_tags(
        &self,
        token: &Token,
        id: MediaId,
        tags: &[String],
        value: Option<Value>,
    ) -> Result<(), CatalogError> {
        let user = self.caller(token).await?.user;
        let tags = text::tags(tags).ok_or(CatalogError::InvalidTag)?;
        self.must_know(id).await?;
        if value.is_some()
            && self.store.index().tag_count_with(&user, &id, &tags) > MAX_TAGS_OF_FILM
        {
            return Err(CatalogError::InvalidTag);
        }
        // Written even if it seems to be so already: another catalogue may know better.
        let changes = tags.into_iter().map(|tag| {
            let user = user.clone();
            (RowKey::Tag { id, user, tag }.to_string(), value.clone())
        });
        self.put(id, changes.collect()).await
    }
}

impl CatalogService {
    /// Sets or takes away tags, and writes that down. Not which: they are the user's own words.
    async fn tag(
        &self,
        action: &'static str,
        token: Token,
        id: MediaId,
        tags: &[String],
        value: Option<Value>,
    ) -> Result<(), CatalogError> {
        let (verifier, by, from) = (self.verifier.clone(), token.clone(), self.from);
        let asked = self.audit.begin(action, move |event| {
            let who = verifier.whose(&by);
            event.by(who.as_ref()).on_film(id).from(from)
        });
        let result = self.set_tags(&token, id, tags, value).await;
        asked.ends(result.as_ref().err().map(reason));
        result
    }

    async fn try_rename(&self, token: &Token, id: MediaId, name: &str) -> Result<(), CatalogError> {
        if self.caller(token).await?.role != Role::Admin {
            return Err(CatalogError::NotAdmin);
        }
        let name = text::name(name).ok_or(CatalogError::InvalidName)?;
        self.must_know(id).await?;
        let row = (RowKey::Name(id).to_string(), Some(Value::String(name)));
        self.put(id, vec![row]).await
    }
}

impl Catalog for CatalogService {
    async fn tile(
        self,
        _: Context,
        token: Token,
        id: MediaId,
    ) -> Result<TileDetails, CatalogError> {
        let user = self.caller(&token).await?.user;
        self.must_know(id).await?;
        self.unseen.are_asked(self.from_elsewhere).await;
        let found = self.store.index().get(&id, Some(&user));
        found.ok_or(CatalogError::UnknownMedia)
    }

    async fn tiles_by_name(
        self,
        context: Context,
        token: Option<Token>,
        name: String,
        exact: bool,
        page: PageRequest,
    ) -> Result<Page<Tile>, CatalogError> {
        let query = Query {
            name,
            exact,
            ..Query::default()
        };
        self.search(context, token, query, page).await
    }

    async fn tiles_by_tags(
        self,
        _: Context,
        token: Token,
        tags: Vec<String>,
        all: bool,
        page: PageRequest,
    ) -> Result<Page<Tile>, CatalogError> {
        let user = self.caller(&token).await?.user;
        let tags = text::tags(&tags).ok_or(CatalogError::InvalidTag)?;
        self.unseen.are_asked(self.from_elsewhere).await;
        Ok(self.store.index().find_tagged(tags, all, &user, &page))
    }

    async fn search(
        self,
        _: Context,
        token: Option<Token>,
        mut query: Query,
        page: PageRequest,
    ) -> Result<Page<Tile>, CatalogError> {
        let user = self.caller_if_any(token.as_ref()).await?;
        if !query.tags.is_empty() && user.is_none() {
            return Err(TokenError::Invalid.into());
        }
        query.tags = text::tags(&query.tags).ok_or(CatalogError::InvalidTag)?;
        self.unseen.are_asked(self.from_elsewhere).await;
        Ok(self.store.index().find(&query, user.as_deref(), &page))
    }

    async fn ids_by_prefix(self, _: Context, prefix: String) -> Result<Vec<MediaId>, CatalogError> {
        Ok(self.store.index().ids_by_prefix(&prefix, MAX_IDS))
    }

    async fn add_tags(
        self,
        _: Context,
        token: Token,
        id: MediaId,
        tags: Vec<String>,
    ) -> Result<(), CatalogError> {
        self.tag("add_tags", token, id, &tags, Some(Value::Bool(true)))
            .await
    }

    async fn remove_tags(
        self,
        _: Context,
        token: Token,
        id: MediaId,
        tags: Vec<String>,
    ) -> Result<(), CatalogError> {
        self.tag("remove_tags", token, id, &tags, None).await
    }

    async fn rename_tile(
        self,
        _: Context,
        token: Token,
        id: MediaId,
        name: String,
    ) -> Result<(), CatalogError> {
        let (verifier, by, to, from) = (
            self.verifier.clone(),
            token.clone(),
            name.clone(),
            self.from,
        );
        let asked = self.audit.begin("rename", move |event| {
            let who = verifier.whose(&by);
            event.by(who.as_ref()).on_film(id).name(&to).from(from)
        });
        let result = self.try_rename(&token, id, &name).await;
        asked.ends(result.as_ref().err().map(reason));
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_another_address_is_elsewhere() {
        let peer = |address: &str, local: &str| Peer {
            address: address.parse().unwrap(),
            local: local.parse().unwrap(),
            role: None,
            instance: None,
        };
        assert!(is_elsewhere(&peer("192.0.2.2:1", "192.0.2.1:2")));
        assert!(is_elsewhere(&peer("[2001:db8::2]:1", "[2001:db8::1]:2")));
        for (address, local) in [
            ("192.0.2.1:1", "192.0.2.1:2"),
            ("127.0.0.1:1", "127.0.0.1:2"),
            ("127.0.0.5:1", "127.0.0.1:2"),
            ("[::1]:1", "[::1]:2"),
        ] {
            assert!(!is_elsewhere(&peer(address, local)), "{address}");
        }
    }
}
