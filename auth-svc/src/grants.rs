//! Grants: streams that go on without a session. Each has a row like a session's, without a key:
//! it is listed, ended and revoked like one, and nothing can be renewed with it.

use super::{
    accounts::Session,
    service::{AuthService, Failed},
};
use iceflix_core::{
    api::{
        MediaId, SessionId,
        auth::{AuthError, Granted, Role, Token},
    },
    span::Span,
    topics::AuthenticationFact,
    trust::{
        self, Identity,
        grant::{self, Leave},
    },
};
use std::time::Duration;

/// How many grants a user has at a time, at most: more televisions than a home has, and few
/// enough that nobody fills the authenticators with them.
const MOST: usize = 50;

/// The shortest limit that can be configured.
const SHORTEST_LIMIT: Duration = Duration::from_secs(60);

/// What a configured limit has to keep to.
///
/// # Errors
/// A sentence that says what is wrong and what to do.
pub fn check_longest(limit: Span) -> Result<(), String> {
    let allowed = SHORTEST_LIMIT..=grant::LONGEST;
    match allowed.contains(&limit.as_duration()) {
        true => Ok(()),
        false => Err(format!(
            "`grant_max` = {limit} is not within 1m to {}",
            Span::from_secs(grant::LONGEST.as_secs())
        )),
    }
}

impl AuthService {
    pub(super) async fn try_grant(
        &self,
        token: &Token,
        id: SessionId,
        media: MediaId,
        seconds: u64,
    ) -> Result<Granted, Failed> {
        let caller = self.verifier.check(token).await?;
        let longest = self.longest_grant.as_secs();
        if !(1..=longest).contains(&seconds) {
            return Err(AuthError::GrantTooLong(longest).into());
        }
        let _deciding = self.deciding(token).await?;
        if self.accounts.was_ended(id) {
            return Err(AuthError::SessionEnded.into());
        }
        let granted = match self.accounts.session(id).await {
            // The same request again: its first answer was lost.
            Some(there) if there.user == caller.user && there.media == Some(media) => there,
            Some(_) => return Err(AuthError::UnknownGrant.into()),
            None if self.accounts.grants_of(&caller.user) >= MOST => {
                return Err(AuthError::TooManyGrants.into());
            }
            None => {
                let granted = Session {
                    user: caller.user,
                    key: [0; 32],
                    epoch: caller.epoch,
                    until: trust::now().as_secs().saturating_add(seconds),
                    opened: trust::now().as_secs(),
                    from: Some(self.client.to_canonical()),
                    media: Some(media),
                };
                self.accounts.put_grant(id, &granted).await?;
                tracing::info!(user = granted.user, grant = %id, %media, seconds, "granted");
                granted
            }
        };
        let leave = Leave {
            identity: Identity {
                user: granted.user,
                session: id,
                role: Role::User,
                epoch: granted.epoch,
                expires: Duration::from_secs(granted.until),
            },
            media,
        };
        let grant = grant::issue(&self.keys.current(), &self.cluster, &leave, trust::now());
        Ok(Granted {
            grant: grant.ok_or(AuthError::Internal)?,
            until: granted.until,
        })
    }

    pub(super) async fn try_end_grant(&self, token: &Token, id: SessionId) -> Result<(), Failed> {
        let caller = self.verifier.check(token).await?;
        let _deciding = self.deciding(token).await?;
        if self.accounts.was_ended(id) {
            return Ok(());
        }
        let granted = self.accounts.session(id).await;
        // Of what is not theirs nobody learns whether it is there.
        granted
            .filter(|it| it.media.is_some())
            .filter(|it| it.user == caller.user || caller.role == Role::Admin)
            .ok_or(AuthError::UnknownGrant)?;
        self.accounts.end_session(id).await?;
        self.status
            .revoked(&AuthenticationFact::SessionEnded { session: id });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
