//! Rows and how they merge: pure. The later stamp wins, in any order, however often.

use crate::{api::InstanceId, topics::Entries};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// When a row was written, by the hybrid logical clock, and by whom: as text that sorts by time
/// (16 hexadecimal digits of NTP time, `-`, 32 of the writer's id).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Stamp(String);

impl Stamp {
    /// The stamp of a clock's timestamp.
    pub fn new(timestamp: &uhlc::Timestamp) -> Self {
        Self::of(timestamp.get_time().as_u64(), *timestamp.get_id())
    }

    fn of(time: u64, id: uhlc::ID) -> Self {
        let id = u128::from_le_bytes(id.to_le_bytes());
        Self(format!("{time:016x}-{id:032x}"))
    }

    /// The earliest stamp that this writer can make.
    pub(super) fn first(id: &uhlc::ID) -> Self {
        Self::of(0, *id)
    }

    /// Reads a stamp; `None` when it is malformed.
    pub fn parse(text: &str) -> Option<Self> {
        let stamp = Self(text.to_owned());
        stamp.timestamp().map(|_| stamp)
    }

    /// The stamp as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The clock's timestamp.
    pub fn timestamp(&self) -> Option<uhlc::Timestamp> {
        let (time, id) = self.0.split_once('-')?;
        if time.len() != 16 || id.len() != 32 || self.0.bytes().any(|c| c.is_ascii_uppercase()) {
            return None;
        }
        let time = u64::from_str_radix(time, 16).ok()?;
        let id = u128::from_str_radix(id, 16).ok()?;
        let id = uhlc::ID::try_from(id.to_le_bytes()).ok()?;
        Some(uhlc::Timestamp::new(uhlc::NTP64(time), id))
    }
}

/// The clock's id of an instance: what breaks the tie of two writes at one time.
pub(super) fn clock_id(instance: &InstanceId) -> uhlc::ID {
    let hash = Sha256::digest(instance.as_str().as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    // The id must not be zero, which one hash in 2^128 is.
    bytes[0] |= 1;
    uhlc::ID::try_from(bytes).unwrap_or_else(|_| uhlc::ID::rand())
}

/// A row, or the tombstone of one.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// When it was written.
    pub stamp: Stamp,
    /// What it holds; `None`: it was removed.
    pub value: Option<Value>,
}

#[derive(Serialize, Deserialize)]
struct OnTheBus {
    s: String,
    v: Option<Value>,
}

impl Row {
    /// The row as it travels.
    pub(super) fn to_value(&self) -> Value {
        serde_json::json!({ "s": self.stamp.0, "v": self.value })
    }

    /// Reads a row that travelled; `None` when it is malformed.
    pub(super) fn from_value(value: &Value) -> Option<Self> {
        let row = OnTheBus::deserialize(value).ok()?;
        Some(Self {
            stamp: Stamp::parse(&row.s)?,
            value: row.v,
        })
    }
}

/// All rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows(BTreeMap<String, Row>);

impl Rows {
    /// A row's value, unless it was removed.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)?.value.as_ref()
    }

    /// The rows whose keys begin so, in order, without those removed.
    pub fn scan<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.0
            .range(prefix.to_owned()..)
            .take_while(move |(key, _)| key.starts_with(prefix))
            .filter_map(|(key, row)| Some((key.as_str(), row.value.as_ref()?)))
    }

    /// Whether a write with this stamp would be news.
    pub fn lacks(&self, key: &str, stamp: &Stamp) -> bool {
        self.0.get(key).is_none_or(|row| row.stamp < *stamp)
    }

    /// The stamp for a write at this time: later than what it replaces, whatever the clocks say,
    /// because whoever writes has seen that.
    pub fn stamp_after(&self, key: &str, time: &uhlc::Timestamp) -> Stamp {
        let stamp = Stamp::new(time);
        match self.0.get(key).and_then(|row| row.stamp.timestamp()) {
            Some(before) if *before.get_time() >= *time.get_time() => {
                Stamp::of(before.get_time().as_u64().saturating_add(1), *time.get_id())
            }
            _ => stamp,
        }
    }

    /// Takes in rows, and gives back those that were news.
    pub fn merge(&mut self, rows: impl IntoIterator<Item = (String, Row)>) -> Vec<(String, Row)> {
        let mut newer = Vec::new();
        for (key, row) in rows {
            if self.lacks(&key, &row.stamp) {
                self.0.insert(key.clone(), row.clone());
                newer.push((key, row));
            }
        }
        newer
    }

    /// All rows, tombstones too, as they travel.
    pub(super) fn entries(&self) -> Entries {
        self.0
            .iter()
            .map(|(key, row)| (key.clone(), row.to_value()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row() -> impl Strategy<Value = (String, Row)> {
        let value = proptest::option::of(any::<u8>().prop_map(Value::from));
        ("[a-d]", 0u64..20, 1u128..4, value).prop_map(|(key, time, id, value)| {
            let id = uhlc::ID::try_from(id.to_le_bytes()).unwrap();
            // One writer never stamps two values alike.
            let value = value.map(|_| Value::from(format!("{time}-{id}")));
            (
                key,
                Row {
                    stamp: Stamp::of(time, id),
                    value,
                },
            )
        })
    }

    /// Equal stamps mean one write, so its value is one too.
    fn rows() -> impl Strategy<Value = Vec<(String, Row)>> {
        proptest::collection::vec(row(), 0..40).prop_map(|rows| {
            let mut first = BTreeMap::new();
            rows.into_iter()
                .map(|(key, row)| {
                    let same = first.entry((key.clone(), row.stamp.clone())).or_insert(row);
                    (key, same.clone())
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn merging_is_the_same_in_any_order_and_with_repetitions(
            rows in rows(), order in any::<prop::sample::Index>(), again in any::<prop::sample::Index>()
        ) {
            let mut straight = Rows::default();
            straight.merge(rows.clone());
            let mut other = rows.clone();
            if !other.is_empty() {
                let (at, from) = (order.index(other.len()), again.index(other.len()));
                other.rotate_left(at);
                other.extend(rows[from..].to_vec());
                other.reverse();
            }
            let mut turned = Rows::default();
            turned.merge(other);
            prop_assert_eq!(straight, turned);
        }

        #[test]
        fn a_write_wins_over_what_it_saw(rows in rows(), key in "[a-d]", now in 0u64..20) {
            let mut all = Rows::default();
            all.merge(rows);
            let id = uhlc::ID::try_from([2u8; 16]).unwrap();
            let stamp = all.stamp_after(&key, &uhlc::Timestamp::new(uhlc::NTP64(now), id));
            prop_assert!(all.lacks(&key, &stamp));
        }

        #[test]
        fn stamps_sort_as_their_times_do(a in any::<u64>(), b in any::<u64>()) {
            let id = uhlc::ID::try_from([1u8; 16]).unwrap();
            prop_assert_eq!(Stamp::of(a, id).cmp(&Stamp::of(b, id)), a.cmp(&b));
            prop_assert_eq!(Stamp::parse(Stamp::of(a, id).as_str()), Some(Stamp::of(a, id)));
        }

        #[test]
        fn rows_travel(row in row()) {
            prop_assert_eq!(Row::from_value(&row.1.to_value()), Some(row.1));
        }
    }

    #[test]
    fn malformed_stamps_are_refused() {
        for bad in [
            "",
            "-",
            "0-0",
            &format!("{}-{}", "0".repeat(16), "0".repeat(32)),
        ] {
            assert_eq!(Stamp::parse(bad), None, "{bad}");
        }
    }
}
