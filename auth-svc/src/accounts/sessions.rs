//! The sessions of a user, as they are shown.

use super::{Accounts, Session};
use iceflix_core::api::{Page, PageRequest, SessionId, auth::SessionInfo};

impl Accounts {
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
