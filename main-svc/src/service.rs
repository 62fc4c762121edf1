//! The contract's methods.

use iceflix_core::{
    api::{
        Instance, Kind,
        main::{DirectoryVersion, DirectoryView, Main, MainError},
    },
    directory::Turns,
    membership::Membership,
    rpc,
};
use std::sync::{Arc, Mutex, PoisonError};
use tarpc::context::Context;
use tokio_util::sync::CancellationToken;

/// Answers one connection's requests. All connections share whose turn it is.
#[derive(Clone)]
pub struct MainService {
    membership: Membership,
    turns: Arc<Mutex<Turns>>,
    stop: CancellationToken,
}

impl MainService {
    /// Answers from this directory, until `stop`.
    pub fn new(membership: Membership, stop: CancellationToken) -> Self {
        Self {
            membership,
            turns: Arc::default(),
            stop,
        }
    }

    fn next(&self, kind: Kind) -> Result<Instance, MainError> {
        let view = self.membership.now();
        // Whose turn it is stays right whatever panicked while it was held.
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns
            .pick(kind, &view.instances)
            .ok_or(MainError::TemporarilyUnavailable)
    }
}

impl Main for MainService {
    async fn authenticator(self, _: Context) -> Result<Instance, MainError> {
        self.next(Kind::Auth)
    }

    async fn catalog(self, _: Context) -> Result<Instance, MainError> {
        self.next(Kind::Catalog)
    }

    async fn provider(self, _: Context) -> Result<Instance, MainError> {
        self.next(Kind::Streaming)
    }

    async fn directory(
        self,
        context: Context,
        since: Option<DirectoryVersion>,
    ) -> Result<DirectoryView, MainError> {
        let mut view = self.membership.watch();
        let news = view.wait_for(|view| since != Some(view.version));
        tokio::select! {
            _ = tokio::time::timeout(rpc::patience(&context), news) => {}
            () = self.stop.cancelled() => {}
        }
        Ok(DirectoryView::clone(&self.membership.now()))
    }
}
