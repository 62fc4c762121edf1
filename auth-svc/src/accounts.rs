//! Users and sessions, as shared rows.
//!
//! | row | what it holds |
//! |---|---|
//! | `user/{name}` | password hash, role, when made |
//! | `epoch/{name}` | when the user was last revoked: sessions of an earlier epoch are over. It only grows, also where two authenticators revoke apart |
//! | `disabled/{name}` | that the user is disabled: a row of its own, so that it wins over any other change of the user |
//! | `session/{id}` | user, public key, epoch, beginning, end, from where it was opened |
//! | `granted/{id}` | that a session is a grant, and its end: stays when the session was ended |
//! | `named/{instance}` | that an instance has that name, and by which request it got it: for ever |
//! | `expelled/{instance}` | that an instance was expelled, and when: for ever |
//! | `ended/{id}` | that a session was ended: a row of its own, so that it wins whatever comes |

mod instances;
mod sessions;
mod standing;

#[cfg(test)]
pub use sessions::MOST_SESSIONS;

use crate::{
    attempts::Lane,
    hashing::{Hashing, Turn},
};
use iceflix_core::{
    api::{
        MediaId, Page, PageRequest, SessionId,
        auth::{PreHash, Role, UserInfo},
    },
    replica::{Grown, Replica, RowChange, StoreError},
    trust::{self, SESSION_LIFETIME, password},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{net::IpAddr, sync::Arc, time::Duration};
use tokio::sync::{Mutex, MutexGuard};

/// How long it is remembered that a session was ended: longer than it would have lasted, so that
/// no write from elsewhere brings it back.
const REMEMBERED: Duration = Duration::from_secs(SESSION_LIFETIME.as_secs() + 24 * 3600);

/// The name of the first user.
pub const FIRST_ADMIN: &str = "admin";

/// Why something could not be done; the log has what broke.
#[derive(Debug, thiserror::Error)]
pub enum AccountsError {
    /// The rows could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A password could not be hashed.
    #[error(transparent)]
    Hash(#[from] password::HashError),
    /// The thread that hashed is gone.
    #[error("hashing was interrupted")]
    Interrupted,
    /// Nothing broke: there is more to hash than can be done soon.
    #[error("too many passwords are waiting to be hashed")]
    Busy,
}

/// A user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct User {
    /// What is stored of the password.
    pub password: String,
    /// What the user may do.
    pub role: Role,
    /// When the user was made, in seconds since 1970.
    pub created: u64,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Whose.
    pub user: String,
    /// The public half of its key.
    pub key: [u8; 32],
    /// The user's epoch when it was opened.
    pub epoch: u64,
    /// When it is over, in seconds since 1970.
    pub until: u64,
    /// When it was opened, in seconds since 1970; 0 in rows from before this was noted.
    #[serde(default)]
    pub opened: u64,
    /// From where it was opened.
    #[serde(default)]
    pub from: Option<IpAddr>,
    /// The film, if it is a grant: that has no key, and nothing is renewed or signed for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media: Option<MediaId>,
}

/// The rows that only grow: an epoch that began stays begun, whatever else is written.
pub const GROWING: &[&str] = &["epoch/"];

/// The epoch of a user whose own cannot be read: after that of every session there is.
const UNREADABLE: u64 = u64::MAX;

/// Users and sessions. Cheap to clone.
#[derive(Clone)]
pub struct Accounts {
    replica: Replica,
    /// Held while something is read, decided and written.
    deciding: Arc<Mutex<()>>,
    pub(crate) hashing: Hashing,
}

fn user_key(name: &str) -> String {
    format!("user/{name}")
}

fn epoch_key(name: &str) -> String {
    format!("epoch/{name}")
}

fn session_key(session: SessionId) -> String {
    format!("session/{session}")
}

fn granted_key(session: SessionId) -> String {
    format!("granted/{session}")
}

fn ended_key(session: SessionId) -> String {
    format!("ended/{session}")
}

/// The rows that say that a session was ended.
fn ended(id: SessionId) -> [RowChange; 2] {
    let until = (trust::now() + REMEMBERED).as_secs();
    [write(ended_key(id), &until), (session_key(id), None)]
}

fn read<T: DeserializeOwned>(key: &str, value: Value) -> Option<T> {
    serde_json::from_value(value)
        .inspect_err(|error| tracing::error!(key, %error, "a damaged row was passed over"))
        .ok()
}

fn read_epoch(key: &str, known: Grown) -> u64 {
    if known.readable {
        return known.since;
    }
    tracing::error!(key, "an epoch that cannot be read ends all sessions");
    UNREADABLE
}

fn write<T: Serialize>(key: String, value: &T) -> RowChange {
    // Texts, numbers and lists of them: JSON holds them all.
    (key, serde_json::to_value(value).ok())
}

impl Accounts {
    /// The accounts in these rows.
    pub fn new(replica: Replica) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            replica,
            deciding: Arc::default(),
            hashing: Hashing::new(cores),
        }
    }

    /// To be held while something is read, decided and written.
    pub async fn decide(&self) -> MutexGuard<'_, ()> {
        self.deciding.lock().await
    }

    /// Makes the user `admin`, unless there was ever one.
    pub async fn make_first_admin(&self, password: &str) -> Result<(), AccountsError> {
        if !self.replica.scan("user/").is_empty() {
            return Ok(());
        }
        let password = self.hash(password::prehash(FIRST_ADMIN, password)).await?;
        let admin = User {
            password,
            role: Role::Admin,
            created: trust::now().as_secs(),
        };
        let (key, Some(value)) = write(user_key(FIRST_ADMIN), &admin) else {
            return Ok(());
        };
        self.replica.put_first(vec![(key, value)]).await?;
        match self.user_here(FIRST_ADMIN) {
            Some(_) => tracing::info!("there was no user yet; `{FIRST_ADMIN}` was made"),
            None => tracing::error!("there is no user left, and `{FIRST_ADMIN}` was removed once"),
        }
        Ok(())
    }

    /// What is stored for a password.
    pub async fn hash(&self, password: PreHash) -> Result<String, AccountsError> {
        let turn = self.turn(Lane::Clear).await?;
        Ok(turn.run(move || password::hash(&password)).await??)
    }

    /// Whether this is the user's password.
    pub async fn verify(&self, user: &User, given: PreHash) -> Result<bool, AccountsError> {
        let turn = self.turn(Lane::Clear).await?;
        self.verify_in(turn, Some(user), given).await
    }

    /// A turn at hashing.
    pub async fn turn(&self, lane: Lane) -> Result<Turn, AccountsError> {
        self.hashing.turn(lane).await
    }

    /// The same as [`Accounts::verify`], in one's turn, and as long where there is no user.
    pub async fn verify_in(
        &self,
        turn: Turn,
        user: Option<&User>,
        given: PreHash,
    ) -> Result<bool, AccountsError> {
        let stored = user.map(|user| user.password.clone());
        turn.run(move || match stored {
            Some(stored) => password::verify(&given, &stored),
            None => {
                let _ = password::hash(&given);
                false
            }
        })
        .await
    }

    /// Takes in what the other authenticators know of a user by now: it may be on its way here.
    pub async fn catch_up(&self, name: &str) {
        let keys = vec![
            user_key(name),
            epoch_key(name),
            standing::disabled_key(name),
        ];
        self.replica.refresh(keys).await;
    }

    /// A user, by the stored form of the name.
    pub async fn user(&self, name: &str) -> Option<User> {
        let key = user_key(name);
        read(&key, self.replica.get_or_ask(&key).await?)
    }

    /// The same, as far as is known here.
    pub fn user_here(&self, name: &str) -> Option<User> {
        let key = user_key(name);
        read(&key, self.replica.get(&key)?)
    }

    /// Whether there was a user of that name, who was removed: the epoch stays.
    pub fn was_removed(&self, name: &str) -> bool {
        password::user_name(name).is_some_and(|name| self.epoch(&name) > 0)
    }

    /// The next epoch: later than the one known here, and than one that another authenticator may
    /// be giving at the same time.
    fn next_epoch(&self, name: &str) -> u64 {
        // It fits for half a billion years.
        let now = u64::try_from(trust::now().as_millis()).unwrap_or(UNREADABLE - 1);
        let known = self.replica.grown(&epoch_key(name));
        known.map_or(now, |known| now.max(known.since.saturating_add(1)))
    }

    /// Since when the user's sessions count: milliseconds since 1970 of the last revocation, or 0.
    /// When it cannot be read none counts, until there is a new one.
    pub fn epoch(&self, name: &str) -> u64 {
        let key = epoch_key(name);
        let known = self.replica.grown(&key);
        known.map_or(0, |known| read_epoch(&key, known))
    }

    /// The epoch in which a session can be opened. One that cannot be read is mended by a new one.
    pub async fn mended_epoch(&self, name: &str) -> Result<u64, AccountsError> {
        if self.epoch(name) == UNREADABLE {
            tracing::warn!(
                user = name,
                "a new epoch begins: the old one cannot be read"
            );
            self.revoke(name).await?;
        }
        Ok(self.epoch(name))
    }

    /// All epochs above 0.
    pub fn epochs(&self) -> Vec<(String, u64)> {
        let rows = self.replica.scan_grown("epoch/").into_iter();
        rows.filter_map(|(key, known)| {
            let epoch = read_epoch(&key, known);
            Some((key.strip_prefix("epoch/")?.to_owned(), epoch))
        })
        .collect()
    }

    /// A session that was not ended and is not over.
    pub async fn session(&self, id: SessionId) -> Option<Session> {
        self.replica.get_or_ask(&session_key(id)).await?;
        self.session_here(id)
    }

    /// The same, as far as is known here.
    pub fn session_here(&self, id: SessionId) -> Option<Session> {
        let key = session_key(id);
        let session: Session = read(&key, self.replica.get(&key)?)?;
        (!self.is_over(id, &session)).then_some(session)
    }

    /// Whether a session was ever heard of here, be it over by now.
    pub fn was_opened(&self, id: SessionId) -> bool {
        self.was_ended(id) || self.replica.was_written(&session_key(id))
    }

    /// Whether a session has ended, in whatever way.
    fn is_over(&self, id: SessionId, session: &Session) -> bool {
        self.was_ended(id)
            || session.until <= trust::now().as_secs()
            || session.epoch < self.epoch(&session.user)
    }

    /// Whether a session was ended.
    pub fn was_ended(&self, id: SessionId) -> bool {
        self.replica.get(&ended_key(id)).is_some()
    }

    /// The sessions that were ended and are still remembered.
    pub fn ended(&self) -> Vec<SessionId> {
        let rows = self.replica.scan("ended/").into_iter();
        rows.filter_map(|(key, _)| key.strip_prefix("ended/")?.parse().ok())
            .collect()
    }

    /// The users, by name.
    pub fn list(&self, page: &PageRequest) -> Page<UserInfo> {
        let after = page.after.as_deref().unwrap_or("");
        let rows = self.replica.scan("user/").into_iter();
        let mut users = rows.filter_map(|(key, value)| {
            let user: User = read(&key, value)?;
            let name = key.strip_prefix("user/")?.to_owned();
            Some(UserInfo {
                disabled: self.is_disabled(&name),
                name,
                role: user.role,
                created: user.created,
            })
        });
        let mut items: Vec<UserInfo> = users
            .by_ref()
            .skip_while(|user| user.name.as_str() <= after)
            .take(page.size())
            .collect();
        items.shrink_to_fit();
        let next = users
            .next()
            .and_then(|_| items.last().map(|user| user.name.clone()));
        Page { items, next }
    }

    /// Writes a user, who may log in.
    pub async fn put_user(&self, name: &str, user: &User) -> Result<(), AccountsError> {
        let mut rows = vec![write(user_key(name), user)];
        if self.is_disabled(name) {
            rows.push((standing::disabled_key(name), None));
        }
        Ok(self.replica.put(rows).await?)
    }

    /// Writes a user's new password, and ends all sessions but `keep`.
    pub async fn put_password(
        &self,
        name: &str,
        user: &User,
        keep: Option<(SessionId, Session)>,
    ) -> Result<(), AccountsError> {
        let epoch = self.next_epoch(name);
        let mut rows = vec![write(user_key(name), user), write(epoch_key(name), &epoch)];
        if let Some((id, session)) = keep {
            rows.push(write(session_key(id), &Session { epoch, ..session }));
        }
        Ok(self.replica.put(rows).await?)
    }

    /// Removes a user, and ends all sessions. Another one of that name is not disabled.
    pub async fn remove_user(&self, name: &str) -> Result<(), AccountsError> {
        let epoch = write(epoch_key(name), &self.next_epoch(name));
        let mut rows = vec![(user_key(name), None), epoch];
        if self.is_disabled(name) {
            rows.push((standing::disabled_key(name), None));
        }
        Ok(self.replica.put(rows).await?)
    }

    /// Ends all sessions of a user.
    pub async fn revoke(&self, name: &str) -> Result<(), AccountsError> {
        let epoch = write(epoch_key(name), &self.next_epoch(name));
        Ok(self.replica.put(vec![epoch]).await?)
    }

    /// Writes a session.
    #[cfg(test)]
    pub async fn put_session(&self, id: SessionId, session: &Session) -> Result<(), AccountsError> {
        Ok(self
            .replica
            .put(vec![write(session_key(id), session)])
            .await?)
    }

    /// Writes a grant: a session, and that it is one.
    pub async fn put_grant(&self, id: SessionId, grant: &Session) -> Result<(), AccountsError> {
        let granted = write(granted_key(id), &grant.until);
        let session = write(session_key(id), grant);
        Ok(self.replica.put(vec![granted, session]).await?)
    }

    /// Whether there is, or was, a grant of that id that would not be over by itself.
    pub fn is_granted(&self, id: SessionId) -> bool {
        self.replica.get(&granted_key(id)).is_some()
    }

    /// How many grants a user has.
    pub fn grants_of(&self, user: &str) -> usize {
        let rows = self.replica.scan("session/").into_iter();
        let ids = rows.filter_map(|(key, value)| {
            let session: Session = read(&key, value)?;
            let id = key.strip_prefix("session/")?.parse().ok()?;
            (session.media.is_some() && session.user == user).then_some(id)
        });
        ids.filter(|id| self.session_here(*id).is_some()).count()
    }

    /// Ends a session.
    pub async fn end_session(&self, id: SessionId) -> Result<(), AccountsError> {
        Ok(self.replica.put(ended(id).into()).await?)
    }

    /// Removes the rows of sessions that are over at this time (since 1970). What cannot be read
    /// stays: it may be a later version's, and an end that was forgotten would be undone.
    ///
    /// The rows' tombstones stay for good, some hundred bytes for each session that ever was. An
    /// authenticator that was away for long has the rows still, and without the tombstones would
    /// hand them to everybody again, who then would clear them away again. To forget one, all who
    /// ever had the row would have to forget it; rows do not know who that is.
    pub async fn clear_expired(&self, now: Duration) {
        let now = now.as_secs();
        let sessions = self.replica.scan("session/").into_iter();
        let over = sessions.filter(|(key, value)| {
            read::<Session>(key, value.clone()).is_some_and(|session| session.until <= now)
        });
        let ended = self.replica.scan("ended/").into_iter();
        let forgotten = ended.filter(|(key, value)| {
            read::<u64>(key, value.clone()).is_some_and(|until| until <= now)
        });
        let granted = self.replica.scan("granted/").into_iter();
        let passed = granted.filter(|(key, value)| {
            read::<u64>(key, value.clone()).is_some_and(|until| until <= now)
        });
        let gone = over.chain(forgotten).chain(passed);
        let gone: Vec<RowChange> = gone.map(|(key, _)| (key, None)).collect();
        if let Err(error) = self.replica.put(gone).await {
            tracing::warn!(%error, "sessions that are over could not be cleared away");
        }
    }
}

#[cfg(test)]
mod tests;
