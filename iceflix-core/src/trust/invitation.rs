//! Invitations: the one line that is carried by hand from a machine of the cluster to another one.
//!
//! `iceflix1/CLUSTER/ROLES/ADDRESS/FINGERPRINT/SECRET` lets a machine in, once and for some roles;
//! `iceflix1/CLUSTER/client/MAIN[,MAIN…]/FINGERPRINT` lets a client find and know the cluster. Both
//! are one word to a shell.

use crate::api::{Fingerprint, InstanceId, Kind};
use rand::Rng;
use sha2::{Digest, Sha256};
use std::{collections::BTreeSet, fmt, net::SocketAddr, str::FromStr};

/// How an invitation begins: its form's name and number.
const FORM: &str = "iceflix1";

/// What stands in the place of the roles when a client is invited.
const CLIENT: &str = "client";

/// A secret that is good once: 128 random bits. Never shown but in its invitation.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct InvitationSecret([u8; 16]);

impl fmt::Debug for InvitationSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InvitationSecret(…)")
    }
}

impl InvitationSecret {
    /// A new one, from the operating system's random numbers.
    pub fn random() -> Self {
        Self(rand::rng().random())
    }

    /// What is kept of it: enough to know it again, not enough to use it.
    pub fn hash(&self) -> [u8; 32] {
        let domain = b"iceflix invitation v1".as_slice();
        Sha256::new()
            .chain_update(domain)
            .chain_update(self.0)
            .finalize()
            .into()
    }
}

/// An invitation, as it is carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invitation {
    /// A machine's.
    Machine {
        /// The cluster.
        cluster: InstanceId,
        /// What the machine's instances may be.
        roles: BTreeSet<Kind>,
        /// The authenticator that made it: only there is it good.
        issuer: SocketAddr,
        /// What the cluster is known by.
        fingerprint: Fingerprint,
        /// What it is redeemed with.
        secret: InvitationSecret,
    },
    /// A client's.
    Client {
        /// The cluster.
        cluster: InstanceId,
        /// Its Mains.
        mains: Vec<SocketAddr>,
        /// What the cluster is known by.
        fingerprint: Fingerprint,
    },
}

/// Why a text is no invitation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("that is no invitation ({0}); copy the whole line that `iceflix cluster invite` printed")]
pub struct InvalidInvitation(String);

impl fmt::Display for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine {
                cluster,
                roles,
                issuer,
                fingerprint,
                secret,
            } => {
                let roles: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
                let (roles, secret) = (roles.join(","), hex::encode(secret.0));
                write!(
                    f,
                    "{FORM}/{cluster}/{roles}/{issuer}/{fingerprint}/{secret}"
                )
            }
            Self::Client {
                cluster,
                mains,
                fingerprint,
            } => {
                let mains: Vec<String> = mains.iter().map(SocketAddr::to_string).collect();
                let mains = mains.join(",");
                write!(f, "{FORM}/{cluster}/{CLIENT}/{mains}/{fingerprint}")
            }
        }
    }
}

impl FromStr for Invitation {
    type Err = InvalidInvitation;

    fn from_str(text: &str) -> Result<Self, InvalidInvitation> {
        let bad = |why: &dyn fmt::Display| InvalidInvitation(why.to_string());
        let parts: Vec<&str> = text.trim().split('/').collect();
        let (cluster, what, addresses, fingerprint, secret) = match parts.as_slice() {
            [FORM, cluster, CLIENT, mains, fingerprint] => {
                (*cluster, CLIENT, *mains, *fingerprint, None)
            }
            [FORM, cluster, roles, issuer, fingerprint, secret] if *roles != CLIENT => {
                (*cluster, *roles, *issuer, *fingerprint, Some(*secret))
            }
            [FORM, ..] => return Err(bad(&"a part of it is missing")),
            _ => return Err(bad(&format!("it does not begin with {FORM}/"))),
        };
        let cluster = cluster
            .parse()
            .map_err(|_| bad(&"the cluster's name is damaged"))?;
        let fingerprint = fingerprint.parse().map_err(|error| bad(&error))?;
        let address = |text: &str| {
            let parsed = text.parse::<SocketAddr>();
            parsed.map_err(|_| bad(&format!("{text:?} is no address")))
        };
        let Some(secret) = secret else {
            let mains = addresses.split(',').map(address);
            return Ok(Self::Client {
                cluster,
                mains: mains.collect::<Result<_, _>>()?,
                fingerprint,
            });
        };
        let roles = what.split(',').map(|role| role.parse::<Kind>());
        let roles = roles.collect::<Result<_, _>>().map_err(|e| bad(&e))?;
        let mut bytes = [0; 16];
        hex::decode_to_slice(secret, &mut bytes).map_err(|_| bad(&"its secret is damaged"))?;
        Ok(Self::Machine {
            cluster,
            roles,
            issuer: address(addresses)?,
            fingerprint,
            secret: InvitationSecret(bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn machine(cluster: &str, roles: &[Kind], port: u16, secret: [u8; 16]) -> Invitation {
        Invitation::Machine {
            cluster: cluster.parse().unwrap(),
            roles: roles.iter().copied().collect(),
            issuer: ([192, 168, 1, 5], port).into(),
            fingerprint: Fingerprint::from_bytes([7; 32]),
            secret: InvitationSecret(secret),
        }
    }

    #[test]
    fn a_line_is_one_word_and_says_what_it_is() {
        let line = machine("home", &[Kind::Streaming, Kind::Catalog], 7001, [9; 16]).to_string();
        assert!(line.starts_with("iceflix1/home/catalog,streaming/192.168.1.5:7001/0707"));
        let plain = |c: char| c.is_ascii_alphanumeric() || "/,.:-".contains(c);
        assert!(line.chars().all(plain), "{line}");
    }

    #[test]
    fn a_secret_is_seen_in_its_line_only() {
        let secret = InvitationSecret([9; 16]);
        assert!(!format!("{secret:?}").contains("09"));
        assert_ne!(secret.hash(), InvitationSecret([8; 16]).hash());
        assert_ne!(InvitationSecret::random(), InvitationSecret::random());
    }

    #[test]
    fn damaged_lines_are_refused_with_a_reason() {
        let good = machine("home", &[Kind::Streaming], 7001, [9; 16]).to_string();
        for (from, to, why) in [
            ("iceflix1", "iceflix9", "begin with"),
            ("streaming", "chief", "kind"),
            ("192.168.1.5", "somewhere", "address"),
            ("home", "Home", "name"),
            ("0707", "07", "digits"),
            ("/0909", "", "missing"),
            ("0909", "x", "secret"),
        ] {
            let bad = match from {
                "/0909" => good[..good.rfind('/').unwrap()].to_owned(),
                "0909" => good.replacen("09", "x", 1),
                _ => good.replacen(from, to, 1),
            };
            let error = bad.parse::<Invitation>().unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
            assert!(error.contains("cluster invite"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn lines_read_back(cluster in "[a-z0-9-]{1,20}", port: u16, secret: [u8; 16],
                           roles in proptest::sample::subsequence(Kind::ALL.to_vec(), 1..=4)) {
            let invitation = machine(&cluster, &roles, port, secret);
            prop_assert_eq!(invitation.to_string().parse(), Ok(invitation));
            let client = Invitation::Client {
                cluster: cluster.parse().unwrap(),
                mains: vec![([10, 0, 0, 1], port).into(), "[::1]:9".parse().unwrap()],
                fingerprint: Fingerprint::from_bytes([1; 32]),
            };
            prop_assert_eq!(format!(" {client}\n").parse(), Ok(client));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            let _ = text.parse::<Invitation>();
            let _ = format!("iceflix1/{text}").parse::<Invitation>();
        }
    }
}
