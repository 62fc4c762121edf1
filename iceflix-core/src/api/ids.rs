//! Identifiers: newtypes that cannot be mistaken for one another and are valid once made.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest, Sha256};
use std::{fmt, str::FromStr};

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidId(pub(super) &'static str);

/// Declares an identifier of a fixed number of bytes, written as lower-case hexadecimal digits.
macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// Wraps the bytes.
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            /// The bytes themselves.
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), &hex::encode(self.0)[..12])
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let mut bytes = [0; $bytes];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| InvalidId($what))?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.serialize_str(&hex::encode(self.0))
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                    text.parse().map_err(D::Error::custom)
                } else {
                    // Serde implements arrays up to 32, which is as long as ours get.
                    <[u8; $bytes]>::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

hex_id! {
    /// A film: the SHA-256 of its file's content, the same on every node.
    MediaId, 32, "a media id is 64 hexadecimal digits"
}

hex_id! {
    /// An authorised stream: 128 random bits that whoever asks for it draws, and that nobody else
    /// knows.
    StreamId, 16, "a stream id is 32 hexadecimal digits"
}

hex_id! {
    /// A login session: 128 random bits.
    SessionId, 16, "a session id is 32 hexadecimal digits"
}

hex_id! {
    /// What a cluster's certificate authority is known by: the SHA-256 of its certificate.
    Fingerprint, 32, "a cluster's fingerprint is 64 hexadecimal digits"
}

hex_id! {
    /// What a stream is called where its secret id must not be seen: made of the id, which cannot
    /// be had back from it.
    StreamHandle, 16, "a stream's handle is 32 hexadecimal digits"
}

impl StreamId {
    /// A new one, from the operating system's random numbers.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// What to call it where others can see it.
    pub fn handle(&self) -> StreamHandle {
        let mut handle = [0; 16];
        let digest = Sha256::new_with_prefix(b"iceflix stream handle\0").chain_update(self.0);
        handle.copy_from_slice(&digest.finalize()[..16]);
        StreamHandle(handle)
    }
}

impl SessionId {
    /// A new one, from the operating system's random numbers.
    pub fn random() -> Self {
        Self(rand::random())
    }
}

/// The name of a service instance: 1 to 64 of `a-z`, `0-9`, `-`, so that it is one plain chunk
/// of a topic's key on the bus.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct InstanceId(String);

impl InstanceId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InstanceId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        if (1..=64).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidId("an instance name is 1 to 64 of a-z, 0-9 and '-'"))
        }
    }
}

impl<'de> Deserialize<'de> for InstanceId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_what_they_write() {
        let id = MediaId::from_bytes([7; 32]);
        assert_eq!(id.to_string().parse(), Ok(id));
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, format!("\"{}\"", "07".repeat(32)));
        assert_eq!(serde_json::from_str::<MediaId>(&json).unwrap(), id);
        let packed = bincode::serialize(&id).unwrap();
        assert_eq!(packed.len(), 32);
        assert_eq!(bincode::deserialize::<MediaId>(&packed).unwrap(), id);
    }

    #[test]
    fn a_handle_stays_the_same_and_does_not_show_the_id() {
        let (stream, other) = (StreamId::from_bytes([7; 16]), StreamId::from_bytes([8; 16]));
        assert_eq!(stream.handle(), stream.handle());
        assert_ne!(stream.handle(), other.handle());
        assert_ne!(stream.handle().as_bytes(), stream.as_bytes());
    }

    #[test]
    fn malformed_ids_are_refused() {
        assert!("07".parse::<MediaId>().is_err());
        assert!("zz".repeat(16).parse::<StreamId>().is_err());
        for bad in ["", "Auth-1", "a/b", "a*", "ü", &"a".repeat(65)] {
            assert!(bad.parse::<InstanceId>().is_err(), "{bad}");
            assert!(serde_json::from_value::<InstanceId>(bad.into()).is_err());
        }
        assert!("auth-1-9f".parse::<InstanceId>().is_ok());
    }
}
