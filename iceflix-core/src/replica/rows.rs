//! Rows and how they merge: pure. The later stamp wins, in any order, however often; of two rows
//! with one stamp, the one whose value sorts later as text. Of rows that only grow the later time
//! stands that they say ([`Grown`]), and of two that say the same, again the later stamp.

use super::digest::{Digest, bucket};
use crate::{api::InstanceId, topics::Entries};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::{cmp::Ordering, collections::BTreeMap};

/// How far after its stamp, in milliseconds, the time may lie that a row says which only grows: a
/// day. None that a clock wrote lies there by more than moments.
const AHEAD: u64 = 24 * 3600 * 1000;

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

    /// Its time, in units of 2^-32 s since 1970.
    fn time(&self) -> u64 {
        self.timestamp()
            .map_or(0, |timestamp| timestamp.get_time().as_u64())
    }

    /// Its time, in whole milliseconds since 1970.
    fn ms(&self) -> u64 {
        let (seconds, rest) = (self.time() >> 32, self.time() & u64::from(u32::MAX));
        seconds * 1000 + ((rest * 1000) >> 32)
    }
}

/// The last stamp's time before these milliseconds since 1970, or the first within them.
fn before_ms(ms: u64) -> u64 {
    let seconds = (ms / 1000).min(u64::from(u32::MAX));
    (seconds << 32) + ((ms % 1000) << 32) / 1000
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

/// What a row comes to that only grows: a time, in milliseconds since 1970, that something began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grown {
    /// Since when. Where that cannot be read, when the row was written: something began then.
    pub since: u64,
    /// Whether it could be read. It cannot where a later version has written something else, the
    /// row was damaged or removed, or where no clock can have said so.
    pub readable: bool,
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

    /// What it comes to, if it is one that only grows.
    pub(super) fn grown(&self) -> Grown {
        let written = self.stamp.ms();
        let number = self.value.as_ref().and_then(Value::as_u64);
        match number.filter(|since| *since <= written.saturating_add(AHEAD)) {
            Some(since) => Grown {
                since,
                readable: true,
            },
            None => Grown {
                since: written,
                readable: false,
            },
        }
    }

    /// Whether this row stands where the two meet: an order of all there can be, so that whoever
    /// has both agrees. A clock gives no stamp twice, but an instance that lost its database gives
    /// those of the beginning of time again: then it is the value that decides.
    pub(super) fn wins_over(&self, other: &Self, grows: bool) -> bool {
        let since = |row: &Row| grows.then(|| row.grown().since);
        // A tombstone sorts before all values.
        let text = |row: &Row| row.value.as_ref().map(Value::to_string);
        let order = since(self).cmp(&since(other));
        match order.then_with(|| self.stamp.cmp(&other.stamp)) {
            Ordering::Greater => true,
            Ordering::Less => false,
            Ordering::Equal => self.value != other.value && text(self) > text(other),
        }
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

/// All rows, and what is on its way to the disk.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows {
    rows: BTreeMap<String, Row>,
    /// What these rows come to, to compare with another instance's.
    digest: Digest,
    /// How the keys of rows begin that only grow.
    growing: &'static [&'static str],
    /// Of each row that is being written: the last stamp given, and how many writes there are.
    given: BTreeMap<String, (Stamp, usize)>,
}

impl Rows {
    /// No rows yet. Those whose keys begin like one of `growing` only grow: of two the one that
    /// says the later time stands ([`Grown`]), whichever was written later.
    pub fn new(growing: &'static [&'static str]) -> Self {
        Self {
            growing,
            ..Self::default()
        }
    }

    /// No rows, of which the same only grow.
    pub(super) fn none(&self) -> Self {
        Self::new(self.growing)
    }

    /// Takes all rows out.
    pub(super) fn take(&mut self) -> Vec<(String, Row)> {
        let none = self.none();
        std::mem::replace(self, none).rows.into_iter().collect()
    }

    /// What these rows come to.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// All rows of these buckets, as they travel.
    pub(super) fn in_buckets(&self, buckets: &[u8]) -> Entries {
        let wanted = |key: &&String| buckets.contains(&bucket(key));
        let rows = self.rows.iter().filter(|(key, _)| wanted(key));
        rows.map(|(key, row)| (key.clone(), row.to_value()))
            .collect()
    }

    /// Whether the row of this key is one that only grows.
    pub(super) fn grows(growing: &[&str], key: &str) -> bool {
        growing.iter().any(|begin| key.starts_with(begin))
    }

    /// What a row comes to that only grows; `None` when nobody ever wrote it.
    pub fn grown(&self, key: &str) -> Option<Grown> {
        self.rows.get(key).map(Row::grown)
    }

    /// What the rows come to whose keys begin so, and that only grow, in order: those that were
    /// removed, too.
    pub fn scan_grown<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, Grown)> {
        self.rows
            .range(prefix.to_owned()..)
            .take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(key, row)| (key.as_str(), row.grown()))
    }

    /// A row's value, unless it was removed.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.rows.get(key)?.value.as_ref()
    }

    /// Whether a row is there, or was and was removed.
    pub fn was_written(&self, key: &str) -> bool {
        self.rows.contains_key(key)
    }

    /// The rows whose keys begin so, in order, without those removed.
    pub fn scan<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.rows
            .range(prefix.to_owned()..)
            .take_while(move |(key, _)| key.starts_with(prefix))
            .filter_map(|(key, row)| Some((key.as_str(), row.value.as_ref()?)))
    }

    /// Whether a write with this stamp would be news.
    pub fn lacks(&self, key: &str, stamp: &Stamp) -> bool {
        self.rows.get(key).is_none_or(|row| row.stamp < *stamp)
    }

    /// Whether this row would be news.
    pub fn would_take(&self, key: &str, row: &Row) -> bool {
        let grows = Self::grows(self.growing, key);
        let known = self.rows.get(key);
        known.is_none_or(|known| row.wins_over(known, grows))
    }

    /// Gives the stamp for one write to all these rows at this time: later than what it replaces,
    /// whatever the clocks say, because whoever writes has seen that; and later than what was
    /// given to other writes of these rows, until those are [settled](Self::settle). One stamp for
    /// all: of two writes to the same rows, one wins whole. Where rows only grow, also later than
    /// what the replaced one says, so that what cannot be read stands over what its writer saw.
    pub fn give_stamp<'a>(
        &mut self,
        keys: impl Iterator<Item = &'a String> + Clone,
        time: &uhlc::Timestamp,
    ) -> Stamp {
        let before = keys
            .clone()
            .flat_map(|key| {
                let given = self.given.get(key).map(|(stamp, _)| stamp.time());
                let known = self.rows.get(key);
                let grows = known.filter(|_| Self::grows(self.growing, key));
                let said = grows.map(|row| before_ms(row.grown().since));
                [known.map(|row| row.stamp.time()), given, said]
            })
            .flatten()
            .max();
        let stamp = match before {
            Some(before) if before >= time.get_time().as_u64() => {
                Stamp::of(before.saturating_add(1), *time.get_id())
            }
            _ => Stamp::new(time),
        };
        keys.for_each(|key| self.begin(key, &stamp));
        stamp
    }

    /// A write with this stamp begins.
    pub fn begin(&mut self, key: &str, stamp: &Stamp) {
        let given = self.given.entry(key.to_owned());
        let (last, writes) = given.or_insert_with(|| (stamp.clone(), 0));
        *writes += 1;
        if *last < *stamp {
            *last = stamp.clone();
        }
    }

    /// A write that was begun is over, done or failed.
    pub fn settle<'a>(&mut self, keys: impl Iterator<Item = &'a String>) {
        for key in keys {
            match self.given.get_mut(key) {
                Some((_, writes)) if *writes > 1 => *writes -= 1,
                _ => drop(self.given.remove(key)),
            }
        }
    }

    /// Takes in rows, and gives back those that are news.
    pub fn merge(&mut self, rows: impl IntoIterator<Item = (String, Row)>) -> Vec<(String, Row)> {
        let mut newer = Vec::new();
        for (key, row) in rows {
            if !self.would_take(&key, &row) {
                continue;
            }
            if let Some(before) = self.rows.insert(key.clone(), row.clone()) {
                self.digest.toggle(&key, &before);
            }
            self.digest.toggle(&key, &row);
            newer.push((key, row));
        }
        newer
    }

    /// All rows, tombstones too, as they travel.
    pub(super) fn entries(&self) -> Entries {
        self.rows
            .iter()
            .map(|(key, row)| (key.clone(), row.to_value()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GROWING: &[&str] = &["d"];

    /// Some milliseconds, most of them in a few steps.
    fn times() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..20, 0u64..1 << 28]
    }

    fn row() -> impl Strategy<Value = (String, Row)> {
        let value = prop_oneof![
            4 => any::<u8>().prop_map(Value::from),
            1 => Just(serde_json::json!({ "later": "version" })),
            1 => Just(Value::from(u64::MAX)),
        ];
        let value = proptest::option::of(value);
        ("[a-d]", times(), 1u128..4, value).prop_map(|(key, time, id, value)| {
            let id = uhlc::ID::try_from(id.to_le_bytes()).unwrap();
            (
                key,
                Row {
                    stamp: Stamp::of(time, id),
                    value,
                },
            )
        })
    }

    /// Many of these bear the same stamp.
    fn rows() -> impl Strategy<Value = Vec<(String, Row)>> {
        proptest::collection::vec(row(), 0..40)
    }

    fn keys() -> impl Strategy<Value = std::collections::BTreeSet<String>> {
        proptest::collection::btree_set("[a-d]", 1..4)
    }

    proptest! {
        /// However the rows came, and whatever else there was before.
        #[test]
        fn digests_are_equal_exactly_when_the_rows_are(one in rows(), other in rows()) {
            let (mut a, mut b) = (Rows::new(GROWING), Rows::new(GROWING));
            a.merge(one.clone());
            b.merge(other.clone());
            prop_assert_eq!(a.rows == b.rows, a.digest == b.digest);
            let differing = a.digest.differing(&b.digest);
            for key in ["a", "b", "c", "d"] {
                if a.rows.get(key) != b.rows.get(key) {
                    prop_assert!(differing.contains(&bucket(key)));
                }
            }
            // Both take what the other has of the buckets that differ: then they are the same.
            let travelled = |rows: &Rows| -> Vec<(String, Row)> {
                let entries = rows.in_buckets(&differing).into_iter();
                entries.map(|(key, value)| (key, Row::from_value(&value).unwrap())).collect()
            };
            let (from_a, from_b) = (travelled(&a), travelled(&b));
            a.merge(from_b);
            b.merge(from_a);
            prop_assert_eq!(a, b);
        }

        /// Whatever is written later, at whatever clock: it never gets less.
        #[test]
        fn what_grows_never_shrinks(rows in rows()) {
            let mut all = Rows::new(GROWING);
            let mut most = None;
            for (key, row) in rows {
                if Rows::grows(GROWING, &key) {
                    most = most.max(Some(row.grown().since));
                }
                all.merge([(key, row)]);
                prop_assert_eq!(all.grown("d").map(|grown| grown.since), most);
            }
        }

        /// What a later version writes here counts, too, if its writer saw what there was …
        #[test]
        fn what_cannot_be_read_stands_over_what_its_writer_saw(rows in rows(), now in times()) {
            let mut all = Rows::new(GROWING);
            all.merge(rows);
            let (key, before) = ("d".to_owned(), all.grown("d"));
            let id = uhlc::ID::try_from([2u8; 16]).unwrap();
            let stamp = all.give_stamp([&key].into_iter(), &uhlc::Timestamp::new(uhlc::NTP64(now), id));
            let strange = Row { stamp, value: Some(serde_json::json!({ "later": "version" })) };
            prop_assert!(all.would_take(&key, &strange));
            all.merge([(key.clone(), strange)]);
            let grown = all.grown("d").unwrap();
            prop_assert!(!grown.readable && before.is_none_or(|before| grown.since >= before.since));
            // … and the next number stands over that.
            let stamp = all.give_stamp([&key].into_iter(), &uhlc::Timestamp::new(uhlc::NTP64(now), id));
            let next = Row { stamp, value: Some(Value::from(grown.since + 1)) };
            all.merge([(key, next)]);
            let next = Grown { since: grown.since + 1, readable: true };
            prop_assert_eq!(all.grown("d"), Some(next));
        }

        #[test]
        fn a_stamp_within_milliseconds_is_found(ms in 0..u64::from(u32::MAX) * 1000) {
            let id = uhlc::ID::try_from([1u8; 16]).unwrap();
            prop_assert_eq!(Stamp::of(before_ms(ms) + 1, id).ms(), ms);
        }

        #[test]
        fn merging_is_the_same_in_any_order_and_with_repetitions(
            rows in rows(), order in any::<prop::sample::Index>(), again in any::<prop::sample::Index>()
        ) {
            let mut straight = Rows::new(GROWING);
            straight.merge(rows.clone());
            let mut other = rows.clone();
            if !other.is_empty() {
                let (at, from) = (order.index(other.len()), again.index(other.len()));
                other.rotate_left(at);
                other.extend(rows[from..].to_vec());
                other.reverse();
            }
            let mut turned = Rows::new(GROWING);
            turned.merge(other);
            prop_assert_eq!(straight, turned);
        }

        #[test]
        fn a_write_wins_over_what_it_saw(rows in rows(), keys in keys(), now in 0u64..20) {
            let mut all = Rows::default();
            all.merge(rows);
            let id = uhlc::ID::try_from([2u8; 16]).unwrap();
            let stamp = all.give_stamp(keys.iter(), &uhlc::Timestamp::new(uhlc::NTP64(now), id));
            for key in &keys {
                prop_assert!(all.lacks(key, &stamp), "{key}");
            }
        }

        /// However many writes of some rows are on their way, and whichever of them fail: each
        /// gets a later stamp than the good ones before it, and the last good one stands.
        #[test]
        fn writes_begun_at_the_same_moment_are_stamped_one_after_another(
            rows in rows(),
            writes in proptest::collection::vec((keys(), 0u64..20, any::<bool>(), any::<prop::sample::Index>()), 1..20),
        ) {
            let id = uhlc::ID::try_from([2u8; 16]).unwrap();
            let mut all = Rows::default();
            all.merge(rows);
            let mut last: BTreeMap<String, Stamp> = BTreeMap::new();
            let (mut under_way, mut stands) = (Vec::new(), BTreeMap::new());
            for (n, (keys, now, fails, end)) in writes.into_iter().enumerate() {
                let stamp = all.give_stamp(keys.iter(), &uhlc::Timestamp::new(uhlc::NTP64(now), id));
                let mut written = Vec::new();
                for key in keys {
                    prop_assert!(last.get(&key).is_none_or(|before| *before < stamp));
                    prop_assert!(all.lacks(&key, &stamp));
                    if !fails {
                        last.insert(key.clone(), stamp.clone());
                        stands.insert(key.clone(), Value::from(n));
                    }
                    written.push((key, Row { stamp: stamp.clone(), value: Some(Value::from(n)) }));
                }
                under_way.push((written, fails));
                // Some end meanwhile, in any order …
                if end.index(2) == 0 {
                    let (written, fails): (Vec<(String, Row)>, bool) =
                        under_way.remove(end.index(under_way.len()));
                    all.settle(written.iter().map(|(key, _)| key));
                    if !fails {
                        all.merge(written);
                    }
                }
            }
            // … and the rest in the wrong one.
            while let Some((written, fails)) = under_way.pop() {
                all.settle(written.iter().map(|(key, _)| key));
                if !fails {
                    all.merge(written);
                }
            }
            for (key, value) in stands {
                prop_assert_eq!(all.get(&key), Some(&value));
            }
            prop_assert!(all.given.is_empty());
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

    /// However far beyond all clocks a damaged number is, it is no time.
    #[test]
    fn a_number_that_no_clock_can_have_said_cannot_be_read() {
        let id = uhlc::ID::try_from([1u8; 16]).unwrap();
        let grown = |value: u64| {
            let (stamp, value) = (Stamp::of(5 << 32, id), Some(Value::from(value)));
            Row { stamp, value }.grown()
        };
        let (last, written) = (5000 + AHEAD, 5000);
        let (readable, unreadable) = (true, false);
        for (value, since, readable) in [
            (7, 7, readable),
            (last, last, readable),
            (last + 1, written, unreadable),
            (u64::MAX, written, unreadable),
        ] {
            assert_eq!(grown(value), Grown { since, readable }, "{value}");
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
