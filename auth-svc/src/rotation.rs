//! The keys that sign tokens take turns, and everyone is told.

use crate::status::Status;
use iceflix_core::trust::keyring::{Keyring, Schedule};
use serde::{Deserialize, Deserializer, de::Error as _};
use std::{sync::Arc, time::Duration};

/// How long until another try, when a key could not be made or kept.
const AGAIN: Duration = Duration::from_secs(60);

/// For how long a key signs tokens: an hour to 30 days, as `24h` or `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyLifetime(Duration);

const HOUR: u64 = 3600;

impl KeyLifetime {
    /// The usual times, with keys that sign for this long.
    pub fn schedule(self) -> Schedule {
        Schedule::every(self.0)
    }

    /// Reads one; `None` when it is none, or too short or too long.
    fn parse(text: &str) -> Option<Self> {
        let (number, hours) = match text.strip_suffix('d') {
            Some(days) => (days, 24),
            None => (text.strip_suffix('h')?, 1),
        };
        // A sign would be parsed, too.
        let plain = number.bytes().all(|digit| digit.is_ascii_digit());
        let hours = number
            .parse::<u64>()
            .ok()
            .filter(|_| plain)?
            .checked_mul(hours)?;
        (1..=30 * 24)
            .contains(&hours)
            .then(|| Self(Duration::from_secs(hours * HOUR)))
    }
}

impl Default for KeyLifetime {
    fn default() -> Self {
        Self(Duration::from_secs(24 * HOUR))
    }
}

impl<'de> Deserialize<'de> for KeyLifetime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            D::Error::custom(format!(
                "`token_key_lifetime` is from \"1h\" to \"30d\", in whole hours or days, not {text:?}"
            ))
        })
    }
}

/// Does what is due with the keys, for ever.
pub async fn rotate(keys: Keyring, status: Arc<Status>) {
    loop {
        let ring = keys.clone();
        let step = tokio::task::spawn_blocking(move || ring.step());
        let wait = match step.await {
            Ok(Ok(step)) => {
                if !step.said.is_empty() {
                    tracing::info!(
                        "another key signs tokens from now on, and the next is announced"
                    );
                }
                status.keys_changed(&step.said, &step.unsaid);
                step.wait
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "the keys did not take turns; trying again in a minute");
                AGAIN
            }
            // It was interrupted because everything is.
            Err(_) => return,
        };
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_hours_or_days_within_reason() {
        for (text, hours) in [("1h", 1), ("24h", 24), ("7d", 7 * 24), ("30d", 720)] {
            let read = KeyLifetime::parse(text);
            assert_eq!(read, Some(KeyLifetime(Duration::from_secs(hours * HOUR))));
        }
        for bad in [
            "",
            "h",
            "24",
            "0h",
            "31d",
            "721h",
            "1.5h",
            "-1h",
            "+1h",
            "1m",
            "1 h",
            "99999999999999999999d",
            "18446744073709551615d",
        ] {
            assert_eq!(KeyLifetime::parse(bad), None, "{bad}");
        }
    }
}
