//! What all rows of an instance come to, so that two instances can tell in a few bytes whether they
//! have the same, and if not, roughly where they differ.

use super::rows::Row;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Into how many buckets the rows are sorted, by their keys. Of 100,000 rows a bucket has some 400:
/// one row that slipped costs 60 KiB to mend.
pub const BUCKETS: usize = 256;

/// For each bucket, its rows' hashes taken together (XOR), so that one row's part can be put in
/// and taken out. That finds accidents. A peer is trusted with the rows themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest(Vec<u64>);

impl Default for Digest {
    fn default() -> Self {
        Self(vec![0; BUCKETS])
    }
}

impl Digest {
    /// Puts a row in, or takes it out again.
    pub(super) fn toggle(&mut self, key: &str, row: &Row) {
        if let Some(sum) = self.0.get_mut(usize::from(bucket(key))) {
            *sum ^= hash(key, row);
        }
    }

    /// The buckets in which two instances differ. One that is not a digest differs in all.
    pub(super) fn differing(&self, other: &Self) -> Vec<u8> {
        (0..=u8::MAX)
            .filter(|&n| {
                let (ours, theirs) = (self.0.get(usize::from(n)), other.0.get(usize::from(n)));
                ours != theirs
            })
            .collect()
    }
}

/// The bucket of a row.
pub(super) fn bucket(key: &str) -> u8 {
    Sha256::digest(key.as_bytes())[0]
}

fn hash(key: &str, row: &Row) -> u64 {
    // No key and no stamp holds the character between them.
    let mut hash = Sha256::new();
    for part in [key, "\0", row.stamp.as_str(), "\0"] {
        hash.update(part.as_bytes());
    }
    // A tombstone's is empty, which no value's JSON is.
    if let Some(value) = &row.value {
        hash.update(value.to_string().as_bytes());
    }
    let hash = hash.finalize();
    hash.iter()
        .take(8)
        .fold(0, |all, byte| all << 8 | u64::from(*byte))
}
