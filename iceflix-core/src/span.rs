//! Spans of time as people write them: `90s`, `10m`, `4h`, `2d`.

use serde::{Deserialize, Deserializer, de::Error as _};
use std::{fmt, str::FromStr, time::Duration};

/// A span of time in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(u64);

/// A text that is no span of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a span of time is a whole number and s, m, h or d: 90s, 10m, 4h, 2d")]
pub struct InvalidSpan;

/// The units, largest first, in seconds.
const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

impl Span {
    /// So many seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds)
    }

    /// In seconds.
    pub const fn as_secs(self) -> u64 {
        self.0
    }

    /// As the standard library has it.
    pub const fn as_duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl FromStr for Span {
    type Err = InvalidSpan;

    fn from_str(text: &str) -> Result<Self, InvalidSpan> {
        let unit = text.chars().next_back().ok_or(InvalidSpan)?;
        let number = text.strip_suffix(unit).ok_or(InvalidSpan)?;
        // `parse` would take a sign.
        if !number.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(InvalidSpan);
        }
        let number: u64 = number.parse().map_err(|_| InvalidSpan)?;
        UNITS
            .into_iter()
            .find(|(name, _)| *name == unit)
            .and_then(|(_, seconds)| number.checked_mul(seconds))
            .map(Self)
            .ok_or(InvalidSpan)
    }
}

impl fmt::Display for Span {
    /// In the largest unit that leaves nothing over.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fitting = UNITS
            .into_iter()
            .find(|(_, seconds)| self.0 >= *seconds && self.0.is_multiple_of(*seconds));
        let (unit, seconds) = fitting.unwrap_or(('s', 1));
        write!(f, "{}{unit}", self.0 / seconds)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spans_are_read_as_people_write_them() {
        for (text, seconds) in [("90s", 90), ("10m", 600), ("4h", 14_400), ("2d", 172_800)] {
            assert_eq!(text.parse(), Ok(Span(seconds)), "{text}");
        }
        for bad in [
            "",
            "4",
            "h",
            "-1h",
            "+1h",
            "1.5h",
            "4 h",
            "4hh",
            "4ü",
            "9999999999999999999d",
        ] {
            assert_eq!(bad.parse::<Span>(), Err(InvalidSpan), "{bad}");
        }
        assert_eq!(Span(0).to_string(), "0s");
        assert_eq!(Span(5_400).to_string(), "90m");
    }

    proptest! {
        #[test]
        fn a_span_reads_back_what_it_writes(seconds in any::<u64>()) {
            prop_assert_eq!(Span(seconds).to_string().parse(), Ok(Span(seconds)));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,12}") {
            let _ = text.parse::<Span>();
        }
    }
}
