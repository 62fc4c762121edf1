//! Logging in and out.

use super::Shell;
use crate::error::Error;
use iceflix_core::api::auth::Role;
use serde::Serialize;

/// Who is logged in, for `--json`.
#[derive(Debug, Serialize)]
struct Account<'a> {
    user: Option<&'a str>,
    role: Option<Role>,
}

impl Shell {
    pub(super) async fn login(
        &self,
        user: Option<String>,
        password_stdin: bool,
    ) -> Result<(), Error> {
        let client = self.client()?;
        let before = client.session().await?.map(|session| session.user);
        let default = before.as_deref().unwrap_or("admin");
        let user = match user {
            Some(user) => user,
            None if self.input.is_person() && !password_stdin => {
                self.input.word("User", default).await?
            }
            None => default.to_owned(),
        };
        let question = format!("Password of {user}");
        let password = self.input.password(&question, password_stdin).await?;
        let session = client.login(&user, &password).await?;
        let account = Account {
            user: Some(&session.user),
            role: Some(session.role),
        };
        let what = match session.role {
            Role::Admin => ", an admin",
            Role::User => "",
        };
        let words = format!("logged in as {}{what}", session.user);
        self.out.confirm(&account, &words)
    }

    pub(super) async fn logout(&self) -> Result<(), Error> {
        let account = Account {
            user: None,
            role: None,
        };
        match self.client()?.logout().await? {
            Some(session) => self
                .out
                .confirm(&account, &format!("{} logged out", session.user)),
            None => self.out.confirm(&account, "nobody was logged in"),
        }
    }
}
