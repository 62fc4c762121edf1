//! The sessions of a user: how many, and as they are shown.

use super::{Accounts, AccountsError, Session, ended, read, session_key, write};
use iceflix_core::api::{Page, PageRequest, SessionId, auth::SessionInfo};

/// How many sessions a user has at a time, at most, grants not counted: more than anybody has
/// machines and programs, and few enough that nobody fills the authenticators with them.
pub const MOST_SESSIONS: usize = 100;

impl Accounts {
    /// Opens a session, and ends the oldest ones of the user for which there is no room beside it.
    /// Gives those that were ended.
    pub async fn open_session(
        &self,
        id: SessionId,
        session: &Session,
    ) -> Result<Vec<SessionId>, AccountsError> {
        let (accounts, user) = (self.clone(), session.user.clone());
        let oldest = tokio::task::spawn_blocking(move || accounts.too_many(&user));
        let oldest = oldest.await.map_err(|_| AccountsError::Interrupted)?;
        let mut rows = vec![write(session_key(id), session)];
        rows.extend(oldest.iter().flat_map(|id| ended(*id)));
        self.replica.put(rows).await?;
        Ok(oldest)
    }

    /// The oldest sessions of a user that have to end before another one begins. Looks at all
    /// users' sessions: some 3 µs each.
    fn too_many(&self, user: &str) -> Vec<SessionId> {
        let rows = self.replica.scan("session/").into_iter();
        let own = rows.filter(|(_, value)| value["user"] == user);
        let mut own: Vec<(u64, SessionId)> = own
            .filter_map(|(key, value)| {
                let id = key.strip_prefix("session/")?.parse().ok()?;
                let session: Session = read(&key, value)?;
                let counts = session.media.is_none() && !self.is_over(id, &session);
                counts.then_some((session.opened, id))
            })
            .collect();
        own.sort_unstable();
        own.truncate((own.len() + 1).saturating_sub(MOST_SESSIONS));
        own.into_iter().map(|(_, id)| id).collect()
    }

    /// A user's sessions that are not over, by id. `current` is the asker's own.
    pub fn sessions_of(
        &self,
        user: &str,
        current: SessionId,
        page: &PageRequest,
    ) -> Page<SessionInfo> {
        let after = page.after.as_deref().unwrap_or("");
        let rows = self.replica.scan("session/").into_iter();
        let mut sessions = rows.filter_map(|(key, _)| {
            let id = key.strip_prefix("session/")?;
            if id <= after {
                return None;
            }
            let id: SessionId = id.parse().ok()?;
            let session: Session = self.session_here(id).filter(|of| of.user == user)?;
            Some(SessionInfo {
                id,
                user: session.user,
                opened: session.opened,
                from: session.from,
                until: session.until,
                current: id == current,
            })
        });
        let items: Vec<SessionInfo> = sessions.by_ref().take(page.size()).collect();
        let next = sessions
            .next()
            .and_then(|_| items.last().map(|session| session.id.to_string()));
        Page { items, next }
    }
}
