//! Who may log in, and as what; and that there is always an admin.

use super::{Accounts, AccountsError, User, epoch_key, read, user_key, write};
use iceflix_core::{api::auth::Role, trust};

/// The row that says that a user is disabled.
pub(super) fn disabled_key(name: &str) -> String {
    format!("disabled/{name}")
}

impl Accounts {
    /// Whether a user is disabled. A row that cannot be read says so, too.
    pub fn is_disabled(&self, name: &str) -> bool {
        self.replica.get(&disabled_key(name)).is_some()
    }

    /// Disables a user, and ends all sessions.
    pub async fn disable(&self, name: &str) -> Result<(), AccountsError> {
        let since = write(disabled_key(name), &trust::now().as_secs());
        let epoch = write(epoch_key(name), &self.next_epoch(name));
        Ok(self.replica.put(vec![since, epoch]).await?)
    }

    /// Lets a user log in again.
    pub async fn enable(&self, name: &str) -> Result<(), AccountsError> {
        Ok(self.replica.put(vec![(disabled_key(name), None)]).await?)
    }

    /// Writes a user with another role, and ends all sessions.
    pub async fn put_role(&self, name: &str, user: &User) -> Result<(), AccountsError> {
        let epoch = write(epoch_key(name), &self.next_epoch(name));
        let user = write(user_key(name), user);
        Ok(self.replica.put(vec![user, epoch]).await?)
    }

    /// The admins who are not disabled, by name.
    fn admins(&self) -> impl Iterator<Item = String> {
        let rows = self.replica.scan("user/").into_iter();
        rows.filter_map(|(key, value)| {
            let user: User = read(&key, value)?;
            let name = key.strip_prefix("user/")?.to_owned();
            (user.role == Role::Admin && !self.is_disabled(&name)).then_some(name)
        })
    }

    /// Whether no admin would be left without this one.
    pub fn is_last_admin(&self, name: &str) -> bool {
        self.admins().all(|admin| admin == name)
    }

    /// Whether an admin is left, as far as the other authenticators know by now: one of them may
    /// just have done to the others what was done here to one.
    pub async fn is_admin_left(&self) -> bool {
        let mut keys = Vec::new();
        for admin in self.admins() {
            keys.extend([user_key(&admin), disabled_key(&admin)]);
        }
        self.replica.look_again(keys).await;
        self.admins().next().is_some()
    }
}
