//! What other nodes say on the bus: keys, changes, snapshots in pieces, and what is in them.
#![no_main]

use iceflix_core::{
    api::Kind,
    feed::{Changes, Piece, assemble, decode, split},
    topics::{AuthenticationFact, Description, Entries, MediaItem, Topics},
};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fn entry(value: &Value) {
    if let Ok(fact) = serde_json::from_value::<AuthenticationFact>(value.clone()) {
        fact.name();
    }
    let _ = serde_json::from_value::<MediaItem>(value.clone());
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(key) = std::str::from_utf8(bytes) {
        let topics = Topics::new("home");
        topics.parse_availability(key);
        topics.media().parse(key);
        topics.authentication().parse(key);
        topics.rows(Kind::Catalog).parse(key);
    }
    decode::<Description>(bytes);
    decode::<Vec<String>>(bytes);
    if let Some(changes) = decode::<Changes>(bytes) {
        for (_, value) in &changes.changes {
            value.iter().for_each(entry);
        }
    }
    // Lines are pieces that came together.
    let pieces: Vec<Piece> = bytes.split(|&c| c == b'\n').filter_map(decode).collect();
    if let Some(snapshot) = assemble(pieces) {
        snapshot.entries.values().for_each(entry);
        let again = split(
            snapshot.incarnation,
            snapshot.number,
            snapshot.entries.clone(),
        );
        let pieces = again.iter().filter_map(|piece| decode(piece)).collect();
        assert_eq!(assemble(pieces), Some(snapshot));
    }
    // What a speaker can say of anything is heard as it was said.
    if let Some(entries) = decode::<Entries>(bytes) {
        let pieces = split(1, 2, entries.clone());
        let pieces = pieces.iter().filter_map(|piece| decode(piece)).collect();
        assert_eq!(assemble(pieces).map(|heard| heard.entries), Some(entries));
    }
});
