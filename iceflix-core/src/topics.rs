//! The topics: which keys there are on the bus, and what is said on them. Built and parsed here.
//!
//! | topic | key | who speaks |
//! |---|---|---|
//! | ServiceAvailability | `iceflix/{cluster}/service-availability/{kind}/{instance}` | every instance, of itself |
//! | what each of them sees | `iceflix/{cluster}/directory/{kind}/{instance}` | every instance, when asked |
//! | MediaAnnouncements | `iceflix/{cluster}/media-announcements/{instance}` | streaming nodes |
//! | AuthenticationStatus | `iceflix/{cluster}/authentication-status/{instance}` | authenticators |
//! | shared rows | `iceflix/{cluster}/rows/{kind}/{instance}` | the instances of a kind, among themselves |
//! | their exchange | `iceflix/{cluster}/row-exchange/{kind}/{instance}` | the same: what one asks of another |
//!
//! Messages are JSON: fields that a later version adds are ignored by an earlier one.

use crate::{
    api::{InstanceId, Kind, MediaId, SessionId},
    trust::keys::VerifyingKey,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::SocketAddr};

/// The keys of one cluster.
#[derive(Debug, Clone)]
pub struct Topics {
    cluster: String,
}

impl Topics {
    /// The keys of the cluster of that name. The name is one plain chunk of a key
    /// (see [`InstanceId`] for what that is); the configuration checks it.
    pub fn new(cluster: &str) -> Self {
        Self {
            cluster: cluster.to_owned(),
        }
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Where one instance says that it is alive.
    pub fn availability(&self, kind: Kind, instance: &InstanceId) -> String {
        format!(
            "iceflix/{}/service-availability/{kind}/{instance}",
            self.cluster
        )
    }

    /// Where all instances say that they are alive.
    pub fn all_availability(&self) -> String {
        format!("iceflix/{}/service-availability/*/*", self.cluster)
    }

    /// Where the instances of one kind say that they are alive.
    pub fn availability_of(&self, kind: Kind) -> String {
        format!("iceflix/{}/service-availability/{kind}/*", self.cluster)
    }

    /// Where one instance says, when asked, whom it sees alive.
    pub fn directory(&self, kind: Kind, instance: &InstanceId) -> String {
        format!("iceflix/{}/directory/{kind}/{instance}", self.cluster)
    }

    /// All that is said on the bus, by whom and to whom. Nothing else is.
    pub fn access(&self) -> Vec<Access> {
        let everyone = || Kind::ALL.to_vec();
        let feed = |topic: FeedTopic, hearers: Vec<Kind>| Access {
            says: topic.all(),
            asked: topic.all(),
            speaker: topic.speaker(),
            hearers,
        };
        let alive = Kind::ALL.into_iter().map(|kind| Access {
            says: self.availability_of(kind),
            asked: self.all_availability(),
            speaker: kind,
            hearers: everyone(),
        });
        let seen = Kind::ALL.into_iter().map(|kind| Access {
            says: format!("iceflix/{}/directory/{kind}/*", self.cluster),
            asked: format!("iceflix/{}/directory/*/*", self.cluster),
            speaker: kind,
            hearers: everyone(),
        });
        // The kinds whose instances share rows.
        let rows = [Kind::Auth, Kind::Catalog];
        alive
            .chain(seen)
            .chain(rows.map(|kind| feed(self.rows(kind), vec![kind])))
            .chain(rows.map(|kind| feed(self.exchange(kind), vec![kind])))
            .chain([
                feed(self.media(), vec![Kind::Catalog]),
                feed(self.authentication(), everyone()),
            ])
            .collect()
    }

    /// Who speaks on an availability key; `None` when it is malformed or another cluster's.
    pub fn parse_availability(&self, key: &str) -> Option<(Kind, InstanceId)> {
        let (kind, instance) = key
            .strip_prefix("iceflix/")?
            .strip_prefix(self.cluster.as_str())?
            .strip_prefix("/service-availability/")?
            .split_once('/')?;
        Some((kind.parse().ok()?, instance.parse().ok()?))
    }

    /// The topic of a streaming node's films.
    pub fn media(&self) -> FeedTopic {
        FeedTopic {
            prefix: format!("iceflix/{}/media-announcements", self.cluster),
            speaker: Kind::Streaming,
        }
    }

    /// The topic of what authenticators say of keys and revocations.
    pub fn authentication(&self) -> FeedTopic {
        FeedTopic {
            prefix: format!("iceflix/{}/authentication-status", self.cluster),
            speaker: Kind::Auth,
        }
    }

    /// The private topic in which the instances of a kind share rows.
    pub fn rows(&self, kind: Kind) -> FeedTopic {
        FeedTopic {
            prefix: format!("iceflix/{}/rows/{kind}", self.cluster),
            speaker: kind,
        }
    }

    /// Where the instances of a kind ask each other to keep rows, and what theirs come to.
    pub fn exchange(&self, kind: Kind) -> FeedTopic {
        FeedTopic {
            prefix: format!("iceflix/{}/row-exchange/{kind}", self.cluster),
            speaker: kind,
        }
    }
}

/// Who may say something on the bus, and who may hear it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The keys on which it is said.
    pub says: String,
    /// The keys by which it is asked for: these and all that they contain.
    pub asked: String,
    /// Who says it.
    pub speaker: Kind,
    /// Who hears it.
    pub hearers: Vec<Kind>,
}

/// A topic with a key for each of its speakers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedTopic {
    prefix: String,
    speaker: Kind,
}

impl FeedTopic {
    /// The kind of service that speaks here.
    pub fn speaker(&self) -> Kind {
        self.speaker
    }

    /// One speaker's key.
    pub fn of(&self, instance: &InstanceId) -> String {
        format!("{}/{instance}", self.prefix)
    }

    /// All speakers' keys.
    pub fn all(&self) -> String {
        format!("{}/*", self.prefix)
    }

    /// Whose key this is; `None` when it is malformed or another topic's.
    pub fn parse(&self, key: &str) -> Option<InstanceId> {
        key.strip_prefix(self.prefix.as_str())?
            .strip_prefix('/')?
            .parse()
            .ok()
    }
}

/// What an instance says of itself when asked on its availability key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Where it answers tarpc calls.
    pub endpoint: SocketAddr,
    /// Its process id.
    pub pid: u32,
    /// The version of the contracts it speaks.
    pub protocol: u32,
    /// How busy it is: 0 idle, 1000 at its limit.
    pub load: u16,
    /// It is leaving.
    pub draining: bool,
}

/// What an instance answers on its availability key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// What it is.
    #[serde(flatten)]
    pub description: Description,
    /// What time it is there, in microseconds since 1970.
    #[serde(default)]
    pub clock_us: Option<u64>,
}

/// A film, as the node that has it announces it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MediaItem {
    /// What it is.
    pub id: MediaId,
    /// Its file's name without extension.
    pub name: String,
    /// The file's size, in bytes.
    pub size: u64,
    /// How long it plays, in seconds, when known.
    pub duration_s: Option<f64>,
    /// What it is made of, for people.
    pub format: String,
    /// Why it cannot be played, for people; `None` when it can.
    pub unplayable: Option<String>,
}

/// What an authenticator says to all services: one fact each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthenticationFact {
    /// Tokens signed with this Ed25519 key (64 hexadecimal digits) are this cluster's.
    Key(String),
    /// A session was ended. To be remembered until the last token it may have got is over.
    SessionEnded {
        /// Which.
        session: SessionId,
    },
    /// An instance was expelled: nobody calls it, and nobody answers it.
    Expelled {
        /// Which.
        instance: InstanceId,
    },
    /// Tokens of this user with an epoch below this one are refused.
    UserEpoch {
        /// Whose.
        user: String,
        /// The first epoch that counts.
        epoch: u64,
    },
}

/// The key under which a fact stands in a snapshot: a later fact replaces the earlier.
impl AuthenticationFact {
    /// That tokens signed with this key are this cluster's.
    pub fn key(key: &VerifyingKey) -> Self {
        Self::Key(hex::encode(key.0))
    }

    /// See above.
    pub fn name(&self) -> String {
        match self {
            Self::Key(key) => format!("key/{key}"),
            Self::SessionEnded { session } => format!("session/{session}"),
            Self::Expelled { instance } => format!("expelled/{instance}"),
            Self::UserEpoch { user, .. } => format!("user/{user}"),
        }
    }
}

/// A map that a speaker keeps and its hearers follow: see [`crate::feed`].
pub type Entries = BTreeMap<String, serde_json::Value>;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn malformed_and_foreign_keys_are_not_parsed() {
        let topics = Topics::new("home");
        for key in [
            "",
            "iceflix/home/service-availability/auth",
            "iceflix/home/service-availability/auth/",
            "iceflix/home/service-availability/chief/a",
            "iceflix/home/service-availability/auth/A",
            "iceflix/home/service-availability/auth/a/b",
            "iceflix/homely/service-availability/auth/a",
            "iceflix/home2/service-availability/auth/a",
        ] {
            assert_eq!(topics.parse_availability(key), None, "{key}");
        }
        assert_eq!(topics.media().parse("iceflix/home/rows/auth/a"), None);
        assert_eq!(
            topics.media().parse("iceflix/home/media-announcements"),
            None
        );
    }

    #[test]
    fn only_streaming_announces_media_and_only_auth_revokes() {
        let access = Topics::new("home").access();
        let speakers = |part: &str| -> Vec<Kind> {
            let saying = access.iter().filter(|access| access.says.contains(part));
            saying.map(|access| access.speaker).collect()
        };
        assert_eq!(speakers("/media-announcements/"), [Kind::Streaming]);
        assert_eq!(speakers("/authentication-status/"), [Kind::Auth]);
        for kind in Kind::ALL {
            assert_eq!(speakers(&format!("/service-availability/{kind}/")), [kind]);
        }
        let rows = access
            .iter()
            .filter(|access| access.says.contains("/rows/"));
        for access in rows {
            assert_eq!(access.hearers, [access.speaker]);
        }
    }

    proptest! {
        #[test]
        fn keys_parse_back(cluster in "[a-z0-9-]{1,20}", instance in "[a-z0-9-]{1,64}", n in 0usize..4) {
            let topics = Topics::new(&cluster);
            let instance: InstanceId = instance.parse().unwrap();
            let kind = Kind::ALL[n];
            let parsed = topics.parse_availability(&topics.availability(kind, &instance));
            prop_assert_eq!(parsed, Some((kind, instance.clone())));
            let rows = topics.rows(kind);
            prop_assert_eq!(rows.parse(&rows.of(&instance)), Some(instance));
        }

        #[test]
        fn no_key_makes_the_parser_panic(key in ".*") {
            let _ = Topics::new("home").parse_availability(&key);
            let _ = Topics::new("home").media().parse(&key);
        }
    }
}
