use super::*;
use proptest::prelude::*;
use std::io::Cursor;

/// An element whose size takes four bytes.
fn an_element(id: u32, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len()).unwrap() | 0x1000_0000;
    open(id, &size.to_be_bytes(), body)
}

fn open(id: u32, size: &[u8], body: &[u8]) -> Vec<u8> {
    let id = id.to_be_bytes();
    let id = &id[id.iter().take_while(|byte| **byte == 0).count()..];
    [id, size, body].concat()
}

/// A size that is not known.
const UNKNOWN: [u8; 8] = [1, 255, 255, 255, 255, 255, 255, 255];

fn block(track: u8, time: i16) -> Vec<u8> {
    let [high, low] = time.to_be_bytes();
    an_element(ebml::SIMPLE_BLOCK, &[0x80 | track, high, low, 0, 1, 2, 3])
}

fn a_cluster(begin: u32, size_known: bool, blocks: &[Vec<u8>]) -> Vec<u8> {
    let time = an_element(ebml::TIMESTAMP, &begin.to_be_bytes());
    let body = [time, blocks.concat()].concat();
    match size_known {
        true => an_element(ebml::CLUSTER, &body),
        false => open(ebml::CLUSTER, &UNKNOWN, &body),
    }
}

fn film(info: &[u8], clusters: &[Vec<u8>]) -> Vec<u8> {
    let header = an_element(0x1a45_dfa3, &[1, 2, 3]);
    let info = an_element(ebml::INFO, info);
    let body = [info, clusters.concat()].concat();
    [header, open(ebml::SEGMENT, &UNKNOWN, &body)].concat()
}

/// In milliseconds.
fn lasts(data: &[u8]) -> Option<u64> {
    let mut source = Source::new(Cursor::new(data), data.len() as u64, &|| true).unwrap();
    duration(&mut source).unwrap().map(|ns| ns / 1_000_000)
}

fn two_clusters(size_known: bool) -> [Vec<u8>; 2] {
    let first = a_cluster(0, size_known, &[block(1, 0), block(1, 40)]);
    let blocks = [
        block(1, 0),
        block(2, 3),
        block(1, 80),
        block(1, 40),
        block(2, 23),
    ];
    [first, a_cluster(5000, size_known, &blocks)]
}

#[test]
fn the_last_frame_of_the_last_cluster_is_the_end() {
    for size_known in [false, true] {
        let clusters = two_clusters(size_known);
        assert_eq!(lasts(&film(&[], &clusters)), Some(5120));
        // What comes after a cluster is no part of it: here, tags.
        let mut more = film(&[], &clusters);
        more.extend(an_element(0x1254_c367, &block(1, 900)));
        assert_eq!(lasts(&more), Some(5120));
    }
    // Ticks of another length.
    let scale = an_element(ebml::TIMESTAMP_SCALE, &100_000u32.to_be_bytes());
    assert_eq!(lasts(&film(&scale, &two_clusters(false))), Some(512));
}

#[test]
fn a_stated_duration_counts() {
    let stated = an_element(ebml::DURATION, &4000f64.to_be_bytes());
    assert_eq!(lasts(&film(&stated, &two_clusters(false))), None);
    let zero = an_element(ebml::DURATION, &0f32.to_be_bytes());
    assert_eq!(lasts(&film(&zero, &two_clusters(false))), Some(5120));
}

#[test]
fn a_film_cut_out_of_a_longer_one_begins_with_its_first_cluster() {
    let clusters = [60_000, 62_000].map(|at| a_cluster(at, false, &[block(1, 0), block(1, 50)]));
    assert_eq!(lasts(&film(&[], &clusters)), Some(2100));
    let stated = an_element(ebml::DURATION, &62_100f64.to_be_bytes());
    assert_eq!(lasts(&film(&stated, &clusters)), Some(2100));
}

#[test]
fn blocks_may_be_in_groups() {
    let [.., high, low] = 160u32.to_be_bytes();
    let inner = an_element(ebml::BLOCK, &[0x81, high, low, 0, 5]);
    let group = an_element(ebml::BLOCK_GROUP, &inner);
    let clusters = [a_cluster(0, false, &[block(1, 120), group])];
    assert_eq!(lasts(&film(&[], &clusters)), Some(200));
}

#[test]
fn a_recording_that_was_interrupted_ends_with_its_last_whole_frame() {
    let whole = film(&[], &two_clusters(false));
    assert_eq!(lasts(&whole[..whole.len() - 1]), Some(5120));
    let frame = block(2, 23).len();
    assert_eq!(lasts(&whole[..whole.len() - 2 * frame]), Some(5160));
    // Nothing but the beginning of the last cluster: the one before counts.
    let clusters = two_clusters(false);
    let begun = whole.len() - clusters[1].len() + 15;
    assert_eq!(lasts(&whole[..begun]), Some(80));
}

#[test]
fn a_clusters_id_within_a_frame_is_none() {
    let mut clusters = two_clusters(false);
    let mut body = vec![0x81, 0, 90, 0];
    body.extend(ebml::CLUSTER.to_be_bytes());
    body.extend([0x85, 0xe7, 0x81, 9, 1, 1]);
    clusters[1].extend(an_element(ebml::SIMPLE_BLOCK, &body));
    assert_eq!(lasts(&film(&[], &clusters)), Some(5100));
}

#[test]
fn the_last_cluster_may_be_long() {
    for padding in [STEP - 70, STEP - 60, STEP, 3 * STEP + 7] {
        let mut clusters = two_clusters(false);
        let mut body = vec![0; padding as usize];
        body[..3].copy_from_slice(&[0x81, 0, 120]);
        clusters[1].extend(an_element(ebml::SIMPLE_BLOCK, &body));
        assert_eq!(lasts(&film(&[], &clusters)), Some(5160), "{padding}");
    }
    assert_eq!(lasts(&film(&[], &[])), None);
}

proptest! {
    /// Damaged anywhere, it is still looked at.
    #[test]
    fn anything_can_be_looked_at(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
        size_known in any::<bool>(),
    ) {
        let scale = an_element(ebml::TIMESTAMP_SCALE, &100_000u32.to_be_bytes());
        let mut film = film(&scale, &two_clusters(size_known));
        for (place, value) in damage {
            let place = place.index(film.len());
            film[place] = value;
        }
        film.truncate(cut.index(film.len()) + 1);
        lasts(&film);
    }
}
