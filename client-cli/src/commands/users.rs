//! Users: adding, removing, listing, passwords, revoking.

use super::Shell;
use crate::cli::User;
use crate::error::Error;
use crate::output::{plain, table};
use iceflix_core::api::auth::{Role, UserInfo};
use iceflix_core::trust::password::user_name;
use serde::Serialize;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A user after a command, for `--json`.
#[derive(Debug, Serialize)]
struct UserDocument<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<Role>,
}

/// A line of `user list --json`.
#[derive(Debug, Serialize)]
struct UserRow<'a> {
    name: &'a str,
    role: Role,
    /// In seconds since 1970.
    created: u64,
    disabled: bool,
}

impl<'a> From<&'a UserInfo> for UserRow<'a> {
    fn from(user: &'a UserInfo) -> Self {
        Self {
            name: &user.name,
            role: user.role,
            created: user.created,
            disabled: user.disabled,
        }
    }
}

impl Shell {
    pub(super) async fn user(&self, command: User) -> Result<(), Error> {
        match command {
            User::Add {
                name,
                admin,
                password_stdin,
            } => self.add_user(&name, admin, password_stdin).await,
            User::Remove { name } => {
                self.client()?.remove_user(&name).await?;
                self.done(&name, None, "is no user any more")
            }
            User::Disable { name } => {
                self.client()?.disable_user(&name).await?;
                self.done(&name, None, "is disabled; their sessions are over")
            }
            User::Enable { name } => {
                self.client()?.enable_user(&name).await?;
                self.done(&name, None, "can log in")
            }
            User::Role { name, role } => {
                let role = role.into();
                self.client()?.set_role(&name, role).await?;
                let what = match role {
                    Role::Admin => "is an admin",
                    Role::User => "is a user and no admin",
                };
                self.done(&name, Some(role), what)
            }
            User::List => self.list_users().await,
            User::Passwd {
                name,
                password_stdin,
            } => self.passwd(name, password_stdin).await,
        }
    }

    pub(super) async fn revoke(&self, user: &str) -> Result<(), Error> {
        self.client()?.revoke(user).await?;
        self.done(user, None, "has no session any more")
    }

    async fn add_user(&self, name: &str, admin: bool, from_stdin: bool) -> Result<(), Error> {
        let client = self.client()?;
        // Whoever may not do it should not have to type a password first.
        client.token().await?;
        let question = format!("Password of {name}");
        let password = self.input.new_password(&question, from_stdin).await?;
        let role = if admin { Role::Admin } else { Role::User };
        client.add_user(name, &password, role).await?;
        self.done(name, Some(role), "is a user now")
    }

    async fn list_users(&self) -> Result<(), Error> {
        let users = self.client()?.users().await?;
        let rows: Vec<UserRow<'_>> = users.iter().map(UserRow::from).collect();
        self.out.result(&rows, || {
            let lines: Vec<Vec<String>> = users
                .iter()
                .map(|user| {
                    let role = match user.role {
                        Role::Admin => "admin",
                        Role::User => "user",
                    };
                    let state = match user.disabled {
                        true => "disabled",
                        false => "",
                    };
                    vec![
                        plain(&user.name),
                        role.to_owned(),
                        age(user.created, SystemTime::now()),
                        state.to_owned(),
                    ]
                })
                .collect();
            let header = ["NAME", "ROLE", "ADDED", "STATE"];
            table(&header, &lines, 0, self.out.width)
        })
    }

    async fn passwd(&self, name: Option<String>, from_stdin: bool) -> Result<(), Error> {
        let client = self.client()?;
        client.token().await?;
        let session = client.session().await?.ok_or_else(Error::logged_out)?;
        let name = name.unwrap_or_else(|| session.user.clone());
        let own = user_name(&name).as_ref() == Some(&session.user);
        let old = match own {
            true => Some(self.input.password("Old password", from_stdin).await?),
            false => None,
        };
        let new = self.input.new_password("New password", from_stdin).await?;
        client.change_password(&name, old.as_deref(), &new).await?;
        self.done(
            &name,
            None,
            "has a new password; their other sessions are over",
        )
    }

    fn done(&self, name: &str, role: Option<Role>, what: &str) -> Result<(), Error> {
        let words = format!("{} {what}", plain(name));
        self.out.confirm(&UserDocument { name, role }, &words)
    }
}

/// How long ago that was, for people.
pub(super) fn age(created: u64, now: SystemTime) -> String {
    let created = UNIX_EPOCH.checked_add(Duration::from_secs(created));
    let passed = created.and_then(|created| now.duration_since(created).ok());
    let some = |number: u64, unit: &str| {
        let plural = if number == 1 { "" } else { "s" };
        format!("{number} {unit}{plural} ago")
    };
    match passed.map_or(0, |passed| passed.as_secs()) {
        0..60 => "just now".to_owned(),
        seconds @ 60..3600 => some(seconds / 60, "minute"),
        seconds @ 3600..86400 => some(seconds / 3600, "hour"),
        seconds => some(seconds / 86400, "day"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_row_has_what_scripts_expect() {
        let user = UserInfo {
            name: "ann".into(),
            role: Role::Admin,
            created: 12,
            disabled: false,
        };
        assert_eq!(
            serde_json::to_string(&UserRow::from(&user)).unwrap(),
            r#"{"name":"ann","role":"admin","created":12,"disabled":false}"#
        );
    }

    #[test]
    fn ages_read_well() {
        let at = |seconds: u64| age(1000, UNIX_EPOCH + Duration::from_secs(1000 + seconds));
        assert_eq!(at(5), "just now");
        assert_eq!(at(60), "1 minute ago");
        assert_eq!(at(7200), "2 hours ago");
        assert_eq!(at(86400 * 3), "3 days ago");
        assert_eq!(age(u64::MAX, UNIX_EPOCH), "just now");
    }
}
