//! Letting machines in, and keeping them out.

use super::{AuthService, Failed};
use crate::enrol::Enrolment;
use iceflix_core::{
    api::{
        InstanceId, Kind,
        auth::{AuthError, CertificateRequest, Welcome},
    },
    topics::AuthenticationFact,
    trust::invitation::InvitationSecret,
};

impl AuthService {
    fn enrolment(&self) -> Result<&Enrolment, AuthError> {
        self.enrolment.as_ref().ok_or(AuthError::Internal)
    }

    /// Whoever has an authenticator's certificate has its machine, and with it the signing key.
    fn is_authenticators(&self) -> Result<(), AuthError> {
        match self.role {
            Some(Kind::Auth) => Ok(()),
            _ => Err(AuthError::NotAuthenticator),
        }
    }

    pub(super) async fn try_invite(
        &self,
        secret: &InvitationSecret,
        roles: Vec<Kind>,
        seconds: u64,
    ) -> Result<(), AuthError> {
        self.is_authenticators()?;
        self.enrolment()?.invite(secret, roles, seconds).await
    }

    pub(super) async fn try_join(
        &self,
        secret: &InvitationSecret,
        requests: &[CertificateRequest],
    ) -> Result<Welcome, AuthError> {
        let enrolment = self.enrolment()?;
        let welcome = enrolment.join(secret, requests, &self.accounts).await?;
        for request in requests {
            tracing::info!(kind = %request.kind, instance = %request.instance, "let in");
        }
        Ok(welcome)
    }

    pub(super) fn try_renew(
        &self,
        request: &[u8],
        earlier: &str,
    ) -> Result<(InstanceId, String), AuthError> {
        let is_expelled = |instance: &InstanceId| self.accounts.is_expelled(instance);
        let renewed = self.enrolment()?.renew(request, earlier, is_expelled);
        renewed.map(|(name, pem)| (name.instance, pem))
    }

    pub(super) async fn try_expel(&self, instance: &InstanceId) -> Result<(), Failed> {
        self.is_authenticators()?;
        if *instance == self.itself {
            let why = "an authenticator cannot expel itself; ask another one";
            return Err(AuthError::BadRequest(why.into()).into());
        }
        self.accounts
            .look_up_instances([instance].into_iter())
            .await;
        if !self.accounts.is_named(instance) && !self.enrolment()?.is_there(instance) {
            // Mistyped: whoever is meant would stay.
            return Err(AuthError::UnknownInstance(instance.clone()).into());
        }
        self.accounts.expel(instance).await?;
        let instance = instance.clone();
        self.status
            .revoked(&AuthenticationFact::Expelled { instance });
        Ok(())
    }
}
