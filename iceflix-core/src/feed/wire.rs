//! What is sent: changes, and snapshots in pieces.

use crate::topics::Entries;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

/// An entry's name, and its new value (`None`: it is removed).
pub type Change = (String, Option<Value>);

/// Roughly how large a piece of a snapshot is, in bytes.
const PIECE: usize = crate::bus::BATCH;

/// Changes to a speaker's entries, or, when there are none, its heartbeat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Changes {
    /// Which life of the speaker: a new random number at each start.
    pub incarnation: u64,
    /// How many changes there have been in this life, with this one.
    pub number: u64,
    /// What changed.
    pub changes: Vec<Change>,
}

/// A part of a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Piece {
    /// See [`Changes::incarnation`].
    pub incarnation: u64,
    /// The last change that is in it.
    pub number: u64,
    /// Which piece this is, from 0.
    pub index: u32,
    /// How many pieces there are.
    pub count: u32,
    /// Some of the entries.
    pub entries: Entries,
}

/// All of a speaker's entries at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// See [`Changes::incarnation`].
    pub incarnation: u64,
    /// The last change that is in it.
    pub number: u64,
    /// The entries.
    pub entries: Entries,
}

/// Writes a message.
pub(super) fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    // Maps with text keys, numbers and texts: there is nothing in them that JSON cannot hold.
    serde_json::to_vec(message).unwrap_or_default()
}

/// Reads a message; `None` when it is malformed.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}

/// A snapshot as encoded pieces of a [batch](crate::bus::BATCH), at least one.
pub fn split(incarnation: u64, number: u64, entries: Entries) -> Vec<Vec<u8>> {
    let mut parts = vec![Entries::new()];
    let mut size = 0;
    for (name, value) in entries {
        let length = name.len() + value.to_string().len();
        if size > 0 && size + length > PIECE {
            parts.push(Entries::new());
            size = 0;
        }
        size += length;
        if let Some(last) = parts.last_mut() {
            last.insert(name, value);
        }
    }
    let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
    (0..count)
        .zip(parts)
        .map(|(index, entries)| {
            encode(&Piece {
                incarnation,
                number,
                index,
                count,
                entries,
            })
        })
        .collect()
}

/// Puts a snapshot together; `None` when a piece is missing or two snapshots are mixed. A piece that
/// came twice counts once: a speaker that renews its certificate is on the bus twice for a moment.
pub fn assemble(mut pieces: Vec<Piece>) -> Option<Snapshot> {
    pieces.sort_by_key(|piece| piece.index);
    pieces.dedup_by_key(|piece| (piece.incarnation, piece.number, piece.index));
    let first = pieces.first()?;
    let (incarnation, number, count) = (first.incarnation, first.number, first.count);
    if pieces.len() != usize::try_from(count).ok()? {
        return None;
    }
    let mut entries = Entries::new();
    for (index, piece) in (0..count).zip(pieces) {
        if (piece.incarnation, piece.number, piece.count, piece.index)
            != (incarnation, number, count, index)
        {
            return None;
        }
        entries.extend(piece.entries);
    }
    Some(Snapshot {
        incarnation,
        number,
        entries,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pieces(encoded: &[Vec<u8>]) -> Vec<Piece> {
        encoded.iter().filter_map(|piece| decode(piece)).collect()
    }

    #[test]
    fn large_snapshots_come_in_pieces_and_a_missing_piece_is_noticed() {
        let entries: Entries = (0..200)
            .map(|n| (format!("{n:04}"), Value::from("x".repeat(8 << 10))))
            .collect();
        let encoded = split(1, 2, entries.clone());
        assert!(encoded.len() > 4, "{} pieces", encoded.len());
        // A batch of zenoh's holds each, and what is around it.
        assert!(encoded.iter().all(|piece| piece.len() < (64 << 10)));
        let all = pieces(&encoded);
        assert_eq!(assemble(all.clone()).unwrap().entries, entries);
        let twice: Vec<Piece> = all.iter().chain(&all).cloned().collect();
        assert_eq!(assemble(twice).unwrap().entries, entries);
        let mut missing = all.clone();
        missing.remove(2);
        assert_eq!(assemble(missing), None);
        let mut mixed = all;
        mixed[1].number = 3;
        assert_eq!(assemble(mixed), None);
    }

    #[test]
    fn an_empty_snapshot_is_one_piece() {
        assert_eq!(
            assemble(pieces(&split(1, 0, Entries::new())))
                .unwrap()
                .entries,
            Entries::new()
        );
        assert_eq!(assemble(vec![]), None);
    }

    proptest! {
        /// A hearer that knew a number a little otherwise would never agree with its speaker.
        #[test]
        fn a_number_is_heard_as_it_was_said(number in any::<f64>().prop_filter("JSON has no other", |n| n.is_finite())) {
            let entries = Entries::from([("film".into(), Value::from(number))]);
            let heard = assemble(pieces(&split(1, 2, entries.clone())));
            prop_assert_eq!(heard.map(|heard| heard.entries), Some(entries));
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<Piece>(&bytes);
            let _ = decode::<Changes>(&bytes);
        }
    }
}
