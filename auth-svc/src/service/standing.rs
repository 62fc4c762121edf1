//! What admins decide about users: removing, disabling, enabling, roles.
//!
//! There is always an admin who can log in. Two authenticators that are asked at once to do this to
//! the last two admins each see the other one left; so whoever does it to an admin asks the others
//! afterwards, and takes it back if nobody is left.

use super::{AuthService, Failed};
use crate::accounts::User;
use iceflix_core::api::auth::{AuthError, Role, Token};
use tokio::sync::MutexGuard;

/// What may be done to an admin, and how it is taken back.
enum Done {
    Removed,
    Disabled,
    Demoted,
}

impl AuthService {
    /// For admins: to be held while something is read, decided and written.
    async fn deciding_admin(&self, token: &Token) -> Result<MutexGuard<'_, ()>, Failed> {
        self.admin(token).await?;
        // An admin to whom the like was done meanwhile is none any more.
        Ok(self.deciding(token).await?)
    }

    /// Whether this user is an admin who can log in: not to be done to the last one.
    fn is_needed(&self, name: &str, user: &User) -> Result<bool, AuthError> {
        let needed = user.role == Role::Admin && !self.accounts.is_disabled(name);
        match needed && self.accounts.is_last_admin(name) {
            true => Err(AuthError::LastAdmin),
            false => Ok(needed),
        }
    }

    /// Tells everyone what was done to a user; takes it back if they turn out to have been needed.
    async fn tell(
        &self,
        done: Done,
        name: String,
        before: User,
        needed: bool,
    ) -> Result<(), Failed> {
        self.say_epoch(name.clone());
        if !needed || self.accounts.is_admin_left().await {
            return Ok(());
        }
        tracing::warn!(user = name, "taken back: no admin would be left");
        match done {
            Done::Disabled => self.accounts.enable(&name).await?,
            Done::Removed | Done::Demoted => self.accounts.put_user(&name, &before).await?,
        }
        Err(AuthError::LastAdmin.into())
    }

    pub(super) async fn try_remove_user(&self, token: &Token, user: &str) -> Result<(), Failed> {
        let _deciding = self.deciding_admin(token).await?;
        let (name, user) = match self.existing(user).await {
            // The same request again, after its first answer was lost.
            Err(AuthError::UnknownUser) if self.accounts.was_removed(user) => return Ok(()),
            existing => existing?,
        };
        let needed = self.is_needed(&name, &user)?;
        self.accounts.remove_user(&name).await?;
        self.tell(Done::Removed, name, user, needed).await
    }

    pub(super) async fn try_disable_user(&self, token: &Token, user: &str) -> Result<(), Failed> {
        let _deciding = self.deciding_admin(token).await?;
        let (name, user) = self.existing(user).await?;
        if self.accounts.is_disabled(&name) {
            return Ok(());
        }
        let needed = self.is_needed(&name, &user)?;
        self.accounts.disable(&name).await?;
        self.tell(Done::Disabled, name, user, needed).await
    }

    pub(super) async fn try_enable_user(&self, token: &Token, user: &str) -> Result<(), Failed> {
        let _deciding = self.deciding_admin(token).await?;
        let (name, _) = self.existing(user).await?;
        if self.accounts.is_disabled(&name) {
            self.accounts.enable(&name).await?;
        }
        Ok(())
    }

    pub(super) async fn try_set_role(
        &self,
        token: &Token,
        user: &str,
        role: Role,
    ) -> Result<(), Failed> {
        let _deciding = self.deciding_admin(token).await?;
        let (name, user) = self.existing(user).await?;
        if user.role == role {
            return Ok(());
        }
        let needed = self.is_needed(&name, &user)?;
        let changed = User {
            role,
            ..user.clone()
        };
        self.accounts.put_role(&name, &changed).await?;
        self.tell(Done::Demoted, name, user, needed).await
    }
}
