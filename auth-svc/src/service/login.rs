//! What takes a password: logging in, and changing it.

use super::{AuthService, Failed};
use crate::{
    accounts::{Session, User},
    guard::Attempt,
};
use iceflix_core::{
    api::{
        SessionId,
        auth::{AuthError, Login, PreHash, Role, Token},
    },
    topics::AuthenticationFact,
    trust::{self, SESSION_LIFETIME, password::user_name},
};
use std::time::Duration;
use tokio::time::Instant;

/// "Wrong" is said when a whole number of these has passed, so that the time does not tell an
/// unknown user from a wrong password. Far more than looking at a password takes when the machine
/// is not overloaded.
const STEP: Duration = Duration::from_millis(200);

/// When it is said that something is wrong which took so long to be found out.
pub(super) fn said_after(took: Duration) -> Duration {
    STEP.mul_f64(took.div_duration_f64(STEP).ceil().max(1.0))
}

/// Answers as usual; but that name or password is wrong, in [`STEP`]s.
pub(super) async fn in_steps<T>(
    answer: impl Future<Output = Result<T, Failed>>,
) -> Result<T, Failed> {
    let asked = Instant::now();
    let answer = answer.await;
    if let Err(Failed(AuthError::WrongCredentials)) = answer {
        tokio::time::sleep_until(asked + said_after(asked.elapsed())).await;
    }
    answer
}

/// A user as they were when the password was looked at.
struct Seen {
    user: User,
    /// What is revoked while the password is being looked at is revoked for this, too.
    epoch: u64,
}

impl AuthService {
    fn seen(&self, name: &str) -> Option<Seen> {
        // In this order: a revocation between the two counts.
        let epoch = self.accounts.epoch(name);
        let user = self.accounts.user_here(name)?;
        Some(Seen { user, epoch })
    }

    /// Whether this is the user's password. For a user that does not exist it does what it does
    /// for a wrong password, in every lane: who asks for many names at once would otherwise see
    /// which of them have to wait for their turn.
    async fn is_right(
        &self,
        name: &str,
        user: Option<&User>,
        password: PreHash,
    ) -> Result<(bool, Attempt), Failed> {
        let standing = self.guard.line_up(name, self.client)?;
        let turn = self.accounts.turn(standing.lane()).await?;
        // Others may have failed while it waited.
        let attempt = self.guard.begin(name, self.client)?;
        let right = self.accounts.verify_in(turn, user, password).await?;
        Ok((right, attempt))
    }

    /// Finds the user with this password.
    async fn identify(
        &self,
        name: &str,
        password: PreHash,
    ) -> Result<(Option<Seen>, Attempt), Failed> {
        let seen = self.seen(name);
        let user = seen.as_ref().map(|seen| &seen.user);
        let (right, attempt) = self.is_right(name, user, password).await?;
        if right {
            return Ok((seen, attempt));
        }
        // Another authenticator may have added the user, or changed the password, just now.
        self.accounts.catch_up(name).await;
        let now = self.seen(name);
        let old = seen.map(|seen| seen.user.password);
        match now.filter(|now| old.is_none_or(|old| old != now.user.password)) {
            Some(now) if self.accounts.verify(&now.user, password).await? => {
                Ok((Some(now), attempt))
            }
            _ => Ok((None, attempt)),
        }
    }

    pub(super) async fn try_login(
        &self,
        user: &str,
        password: PreHash,
        id: SessionId,
        key: [u8; 32],
    ) -> Result<Login, Failed> {
        // What cannot be a name is looked for like any that is nobody's.
        let name = user_name(user).unwrap_or_default();
        let (seen, attempt) = self.identify(&name, password).await?;
        let seen = seen.ok_or(AuthError::WrongCredentials)?;
        attempt.succeeded();
        let _deciding = self.accounts.decide().await;
        // A new password and a removal begin a new epoch. Without one it is another authenticator's
        // first admin that replaced ours, and the password may be right all the same.
        let user = match self.accounts.user_here(&name) {
            Some(now) if now == seen.user => now,
            Some(now) if self.accounts.verify(&now, password).await? => now,
            _ => return Err(AuthError::WrongCredentials.into()),
        };
        if self.accounts.is_disabled(&name) {
            return Err(AuthError::Disabled.into());
        }
        if self.accounts.epoch(&name) != seen.epoch {
            return Err(AuthError::WrongCredentials.into());
        }
        if self.accounts.was_ended(id) {
            return Err(AuthError::SessionEnded.into());
        }
        // The client chose the id at random, so there is nobody to ask about it.
        let session = match self.accounts.session_here(id) {
            // The same login again: its first answer was lost.
            Some(session)
                if session.user == name && session.key == key && session.media.is_none() =>
            {
                session
            }
            Some(_) => return Err(AuthError::WrongCredentials.into()),
            None => {
                let epoch = self.accounts.mended_epoch(&name).await?;
                if epoch != seen.epoch {
                    self.say_epoch(name.clone());
                }
                let now = trust::now();
                let session = Session {
                    epoch,
                    user: name.clone(),
                    key,
                    until: (now + SESSION_LIFETIME).as_secs(),
                    opened: now.as_secs(),
                    from: Some(self.client.to_canonical()),
                    media: None,
                };
                for session in self.accounts.open_session(id, &session).await? {
                    self.status
                        .revoked(&AuthenticationFact::SessionEnded { session });
                    tracing::info!(user = name, %session, "the oldest of too many was ended");
                }
                session
            }
        };
        tracing::info!(user = name, session = %id, "logged in");
        Ok(Login {
            cluster: self.cluster.clone(),
            session: id,
            token: self.token(id, &session, user.role)?,
            user: name,
            role: user.role,
        })
    }

    /// The old password is wrong. Is it the same request again, after its first answer was lost, so
    /// that the new one is the user's already? Whoever asks that has guessed a second time.
    async fn was_changed_before(
        &self,
        name: &str,
        user: &User,
        new: PreHash,
    ) -> Result<(), Failed> {
        match self.is_right(name, Some(user), new).await {
            Ok((true, attempt)) => {
                attempt.succeeded();
                Ok(())
            }
            // The new one may have come too early to be looked at; the old one was.
            Ok((false, _)) | Err(Failed(AuthError::TooManyAttempts { .. })) => {
                Err(AuthError::WrongCredentials.into())
            }
            Err(failed) => Err(failed),
        }
    }

    pub(super) async fn try_change_password(
        &self,
        token: &Token,
        user: &str,
        old: Option<PreHash>,
        new: PreHash,
    ) -> Result<(), Failed> {
        let caller = self.verifier.check(token).await?;
        let own = user_name(user).is_some_and(|name| name == caller.user);
        if !own && caller.role != Role::Admin {
            return Err(AuthError::NotAdmin.into());
        }
        let (name, user) = self.existing(user).await?;
        if own {
            let old = old.ok_or(AuthError::WrongCredentials)?;
            // Guessed with a stolen token, a password is an attempt like any other.
            let (right, attempt) = self.is_right(&name, Some(&user), old).await?;
            if !right {
                // It counts before the new one is looked at.
                drop(attempt);
                return self.was_changed_before(&name, &user, new).await;
            }
            attempt.succeeded();
        }
        let password = self.accounts.hash(new).await?;
        let _deciding = self.accounts.decide().await;
        // Hashing took a while: what was removed or changed meanwhile stays so.
        let user = match self.accounts.user_here(&name) {
            None => return Err(AuthError::UnknownUser.into()),
            // Perhaps by this very request, asked of another authenticator, too.
            Some(now) if own && now.password != user.password => {
                return self.was_changed_before(&name, &now, new).await;
            }
            Some(now) => now,
        };
        self.verifier.check(token).await?;
        let keep = match own {
            true => self.accounts.session_here(caller.session),
            false => None,
        };
        let user = User { password, ..user };
        self.accounts
            .put_password(&name, &user, keep.map(|session| (caller.session, session)))
            .await?;
        self.say_epoch(name);
        Ok(())
    }
}
