//! Sessions: listing and ending them.

use super::Shell;
use super::users::age;
use crate::cli::{Session, TypedSession};
use crate::error::Error;
use crate::output::table;
use iceflix_core::api::SessionId;
use iceflix_core::api::auth::SessionInfo;
use serde::Serialize;
use std::net::IpAddr;
use std::time::SystemTime;

/// How many digits of an id the list shows at least.
const ID_SHOWN: usize = 8;

/// A line of `session list --json`.
#[derive(Debug, Serialize)]
struct SessionRow<'a> {
    id: SessionId,
    user: &'a str,
    /// In seconds since 1970; none when it was not noted.
    opened: Option<u64>,
    from: Option<IpAddr>,
    /// In seconds since 1970.
    until: u64,
    current: bool,
}

/// A session that was ended, for `--json`.
#[derive(Debug, Serialize)]
struct EndedSession {
    id: SessionId,
}

impl<'a> From<&'a SessionInfo> for SessionRow<'a> {
    fn from(session: &'a SessionInfo) -> Self {
        Self {
            id: session.id,
            user: &session.user,
            opened: Some(session.opened).filter(|opened| *opened > 0),
            from: session.from,
            until: session.until,
            current: session.current,
        }
    }
}

impl Shell {
    pub(super) async fn sessions(&self, command: Session) -> Result<(), Error> {
        match command {
            Session::List { user } => self.list_sessions(user.as_deref()).await,
            Session::End { id, user } => {
                let typed: TypedSession = id.parse()?;
                let client = self.client()?;
                let id = client.resolve_session(&typed, user.as_deref()).await?;
                client.end_session(id).await?;
                let words = format!("session {id} has ended");
                self.out.confirm(&EndedSession { id }, &words)
            }
        }
    }

    async fn list_sessions(&self, user: Option<&str>) -> Result<(), Error> {
        let sessions = self.client()?.sessions(user).await?;
        let rows: Vec<SessionRow<'_>> = sessions.iter().map(SessionRow::from).collect();
        self.out.result(&rows, || {
            let digits = digits(&sessions);
            let now = SystemTime::now();
            let lines: Vec<Vec<String>> = rows
                .iter()
                .map(|row| {
                    let mut id = row.id.to_string();
                    id.truncate(digits);
                    let from = row.from.map(|from| from.to_string());
                    let opened = row.opened.map(|opened| age(opened, now));
                    let unknown = || "-".to_owned();
                    let this = if row.current { "this one" } else { "" };
                    vec![
                        id,
                        opened.unwrap_or_else(unknown),
                        from.unwrap_or_else(unknown),
                        this.to_owned(),
                    ]
                })
                .collect();
            table(&["ID", "OPENED", "FROM", ""], &lines, 2, self.out.width)
        })
    }
}

/// How many digits of these ids tell them apart.
fn digits(sessions: &[SessionInfo]) -> usize {
    let mut ids: Vec<String> = sessions.iter().map(|of| of.id.to_string()).collect();
    ids.sort_unstable();
    let shared = |a: &str, b: &str| a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    let pairs = ids.windows(2).map(|pair| shared(&pair[0], &pair[1]) + 1);
    pairs.max().unwrap_or(0).max(ID_SHOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(id: [u8; 16]) -> SessionInfo {
        SessionInfo {
            id: SessionId::from_bytes(id),
            user: "ann".into(),
            opened: 0,
            from: Some(IpAddr::from([10, 0, 0, 7])),
            until: 12,
            current: true,
        }
    }

    #[test]
    fn a_session_row_has_what_scripts_expect() {
        let row = serde_json::to_string(&SessionRow::from(&session([0xab; 16]))).unwrap();
        assert_eq!(
            row,
            format!(
                r#"{{"id":"{}","user":"ann","opened":null,"from":"10.0.0.7","until":12,"current":true}}"#,
                "ab".repeat(16)
            )
        );
    }

    #[test]
    fn ids_are_shown_as_long_as_it_takes_to_tell_them_apart() {
        assert_eq!(digits(&[]), 8);
        let (mut a, mut b) = ([1; 16], [1; 16]);
        (a[6], b[6]) = (0x20, 0x21);
        assert_eq!(digits(&[session(a), session([9; 16]), session(b)]), 14);
        assert_eq!(digits(&[session(a), session([9; 16])]), 8);
    }
}
