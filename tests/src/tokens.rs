//! Each wrong kind of token.

use crate::cluster::{Cluster, Person};
use iceflix_core::{
    api::{
        SessionId, TokenError,
        auth::{AuthenticatorClient, Role, Token},
    },
    service::Server,
    trust::{
        Purpose,
        keyring::{Keyring, Schedule},
        keys::SigningKey,
        now, token,
    },
};
use std::time::Duration;

/// What is wrong with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// There is nothing.
    Empty,
    /// It is no token at all.
    Nonsense,
    /// Its end is missing.
    Truncated,
    /// Its claims were changed after it was signed.
    Forged,
    /// Its 30 seconds are over.
    Expired,
    /// Its 30 seconds have not begun.
    NotYet,
    /// It was made for another cluster, by a key this cluster knows.
    ForeignCluster,
    /// It was signed by a key that no authenticator of this cluster has.
    UnknownSigner,
    /// Its session was ended.
    LoggedOut,
    /// Its user was revoked.
    Revoked,
}

impl Wrong {
    /// What the refusal has to say.
    pub fn refusal(self) -> TokenError {
        match self {
            Wrong::Empty | Wrong::Nonsense | Wrong::Truncated | Wrong::Forged => {
                TokenError::Invalid
            }
            Wrong::Expired | Wrong::NotYet => TokenError::Expired,
            Wrong::ForeignCluster => TokenError::WrongAudience,
            Wrong::UnknownSigner => TokenError::UnknownSigner,
            Wrong::LoggedOut | Wrong::Revoked => TokenError::Revoked,
        }
    }

    /// Such a token of an admin's, made with the key of the cluster's first authenticator where
    /// that takes its key.
    pub async fn make(self, cluster: &Cluster) -> Token {
        let ours = signing_key(cluster);
        let session = SessionId::random();
        let issue = |key: &SigningKey, cluster: &str, at: Duration| {
            token::issue(key, cluster, "admin", session, Role::Admin, 0, at).unwrap()
        };
        let name = cluster.name();
        match self {
            Wrong::Empty => Token(String::new()),
            Wrong::Nonsense => Token("v4.public.".to_owned() + &"x".repeat(300)),
            Wrong::Truncated => {
                let good = cluster.admin().await.token().0;
                Token(good[..good.len() - 20].to_owned())
            }
            Wrong::Forged => {
                let good = cluster.admin().await.token().0;
                let mut bytes = good.into_bytes();
                // A character amid the claims, which follow the ten of "v4.public.".
                bytes[60] = if bytes[60] == b'A' { b'B' } else { b'A' };
                Token(String::from_utf8(bytes).unwrap())
            }
            Wrong::Expired => issue(&ours, name, now() - Duration::from_secs(31)),
            Wrong::NotYet => issue(&ours, name, now() + Duration::from_secs(60)),
            Wrong::ForeignCluster => issue(&ours, "elsewhere", now()),
            Wrong::UnknownSigner => issue(&SigningKey::generate().unwrap(), name, now()),
            Wrong::LoggedOut => {
                let admin = cluster.admin().await;
                log_out(cluster, &admin).await;
                admin.token()
            }
            Wrong::Revoked => {
                let admin = cluster.admin().await;
                let token = admin.token();
                cluster
                    .at(
                        cluster.auths[0].address(),
                        |auth: AuthenticatorClient, context| {
                            let token = token.clone();
                            async move { auth.revoke_user(context, token, "admin".into()).await }
                        },
                    )
                    .await
                    .unwrap();
                token
            }
        }
    }
}

/// The key that signs the tokens of a cluster's first authenticator.
pub fn signing_key(cluster: &Cluster) -> SigningKey {
    let file = cluster.dir.path().join("auth-1/signing.key");
    let keys = Keyring::open(&file, Schedule::default()).unwrap();
    keys.current()
}

/// Ends a session, at the first authenticator.
pub async fn log_out(cluster: &Cluster, who: &Person) {
    let proof = who.proof(Purpose::Logout);
    cluster
        .at(
            cluster.auths[0].address(),
            |auth: AuthenticatorClient, context| {
                let proof = proof.clone();
                async move { auth.logout(context, proof).await }
            },
        )
        .await
        .unwrap();
}
