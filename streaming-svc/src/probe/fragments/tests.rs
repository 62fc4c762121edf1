use super::*;
use crate::probe::structure;
use proptest::prelude::*;
use std::io::Cursor;

fn a_box(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len() + 8).unwrap();
    [&size.to_be_bytes(), &kind[..], body].concat()
}

/// A body of numbers of four bytes.
fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_be_bytes()).collect()
}

/// A track of 1000 units a second, whose samples last 40 where nothing is said.
fn trak(id: u32, edits: &[u32], samples: &[u32]) -> Vec<u8> {
    let stts = a_box(b"stts", &numbers(&[&[0, 1], samples].concat()));
    let minf = a_box(b"minf", &a_box(b"stbl", &stts));
    let mdhd = a_box(b"mdhd", &numbers(&[0, 0, 0, 1000, 0]));
    let elst = a_box(
        b"elst",
        &numbers(&[&[0, edits.len() as u32 / 3], edits].concat()),
    );
    let parts = [
        a_box(b"tkhd", &numbers(&[0, 0, 0, id, 0])),
        a_box(b"edts", &elst),
        a_box(b"mdia", &[mdhd, minf].concat()),
    ];
    a_box(b"trak", &parts.concat())
}

fn moov(tracks: &[Vec<u8>]) -> Vec<u8> {
    let trex = |id| a_box(b"trex", &numbers(&[0, id, 1, 40, 0, 0]));
    let mvex = a_box(b"mvex", &[trex(1), trex(2)].concat());
    let mvhd = a_box(b"mvhd", &numbers(&[0, 0, 0, 600, 0]));
    a_box(b"moov", &[mvhd, tracks.concat(), mvex].concat())
}

fn moof(trafs: &[Vec<u8>]) -> Vec<u8> {
    let mfhd = a_box(b"mfhd", &numbers(&[0, 1]));
    let parts = [mfhd, trafs.concat()].concat();
    [a_box(b"moof", &parts), a_box(b"mdat", &[0; 50])].concat()
}

fn traf(id: u32, parts: &[Vec<u8>]) -> Vec<u8> {
    let tfhd = a_box(b"tfhd", &numbers(&[0, id]));
    a_box(b"traf", &[tfhd, parts.concat()].concat())
}

fn tfdt(begin: u32) -> Vec<u8> {
    a_box(b"tfdt", &numbers(&[0, begin]))
}

/// Samples of the usual duration.
fn usual(count: u32) -> Vec<u8> {
    a_box(b"trun", &numbers(&[0x201, count, 0, 1, 2, 3]))
}

/// In milliseconds.
fn lasts(data: &[u8]) -> Option<u64> {
    let mut source = Source::new(Cursor::new(data), data.len() as u64, &|| true).unwrap();
    let outline = structure::mp4(&mut source).unwrap();
    let end = end(&mut source, outline.index?, &outline.fragments).unwrap();
    assert!(!source.gave_up());
    end.map(|ns| ns / 1_000_000)
}

#[test]
fn fragments_are_summed_up() {
    let one = [moov(&[trak(1, &[], &[])]), moof(&[traf(1, &[usual(25)])])].concat();
    assert_eq!(lasts(&one), Some(1000));
    // Without a time of its own, a fragment follows the one before.
    let two = [one.clone(), moof(&[traf(1, &[usual(25), usual(5)])])].concat();
    assert_eq!(lasts(&two), Some(2200));
    // With one, it begins there.
    let gap = [one, moof(&[traf(1, &[tfdt(5000), usual(25)])])].concat();
    assert_eq!(lasts(&gap), Some(6000));
    let late = [0x0100_0000, 0, 7000];
    let long = moof(&[traf(1, &[a_box(b"tfdt", &numbers(&late)), usual(1)])]);
    assert_eq!(lasts(&[gap, long].concat()), Some(7040));
}

#[test]
fn durations_are_taken_from_where_they_are() {
    let index = moov(&[trak(1, &[], &[])]);
    // The fragment's own, behind its offset and description.
    let tfhd = a_box(b"tfhd", &numbers(&[0xb, 1, 9, 9, 9, 100]));
    let own = a_box(b"traf", &[tfhd, usual(10)].concat());
    assert_eq!(lasts(&[index.clone(), moof(&[own])].concat()), Some(1000));
    // Each sample's own, with all else that an entry and a header can have.
    let head = [0xf05, 3, 7, 7];
    let entries = [100, 1, 2, 3, 200, 1, 2, 3, 300, 1, 2, 3];
    let each = a_box(b"trun", &numbers(&[&head[..], &entries].concat()));
    let film = [index.clone(), moof(&[traf(1, &[each])])].concat();
    assert_eq!(lasts(&film), Some(600));
    // A long table of durations only.
    let mut table = vec![0x100, 5000];
    table.resize(5002, 20);
    let film = [index, moof(&[traf(1, &[a_box(b"trun", &numbers(&table))])])].concat();
    assert_eq!(lasts(&film), Some(100_000));
}

#[test]
fn the_longest_track_counts_from_where_it_begins() {
    // Two: 0.5 s later (300 of 600), and without its first 0.2 s.
    let edits = [300, u32::MAX, 0x1_0000, 0, 200, 0x1_0000];
    let index = moov(&[trak(1, &[], &[]), trak(2, &edits, &[])]);
    let both = moof(&[traf(1, &[usual(25)]), traf(2, &[usual(50)])]);
    assert_eq!(lasts(&[index.clone(), both].concat()), Some(2300));
    let other = moof(&[
        traf(1, &[usual(75)]),
        traf(2, &[usual(50)]),
        traf(9, &[usual(999)]),
    ]);
    assert_eq!(lasts(&[index, other].concat()), Some(3000));
}

#[test]
fn the_first_fragment_may_be_in_the_index() {
    let index = moov(&[trak(1, &[], &[25, 40])]);
    assert_eq!(lasts(&index), Some(1000));
    let film = [index, moof(&[traf(1, &[usual(25)])])].concat();
    assert_eq!(lasts(&film), Some(2000));
}

#[test]
fn a_fragment_that_is_not_all_there_does_not_count() {
    let whole = [moov(&[trak(1, &[], &[])]), moof(&[traf(1, &[usual(25)])])].concat();
    let film = [whole.clone(), moof(&[traf(1, &[usual(25)])])].concat();
    let fragment = film.len() - whole.len();
    for missing in 59..fragment {
        assert_eq!(
            lasts(&film[..film.len() - missing]),
            Some(1000),
            "{missing}"
        );
    }
    assert_eq!(lasts(&film[..film.len() - 1]), Some(2000));
}

#[test]
fn hostile_sizes_do_no_harm() {
    let index = moov(&[trak(1, &[], &[])]);
    // Billions of samples that are not there.
    let many = a_box(b"trun", &numbers(&[0x100, u32::MAX, 40]));
    let film = [index.clone(), moof(&[traf(1, &[many])])].concat();
    assert_eq!(lasts(&film), Some(40));
    // Times beyond all.
    let huge = a_box(b"tfdt", &numbers(&[0x0100_0000, u32::MAX, u32::MAX]));
    let film = [index.clone(), moof(&[traf(1, &[huge, usual(1)])])].concat();
    assert_eq!(lasts(&film), None);
    // A box in a box in a box.
    let mut deep = trak(1, &[], &[]);
    for _ in 0..20_000 {
        deep = a_box(b"mdia", &deep);
    }
    let film = [moov(&[a_box(b"trak", &deep)]), moof(&[])].concat();
    assert_eq!(lasts(&film), None);
    // A box longer than what it is in ends it.
    let mut longer = usual(25);
    longer[3] += 1;
    let film = [index, moof(&[traf(1, &[usual(1), longer])])].concat();
    assert_eq!(lasts(&film), Some(40));
}

#[test]
fn it_ends_when_it_is_told_to() {
    let film = [moov(&[trak(1, &[], &[])]), moof(&[traf(1, &[usual(25)])])].concat();
    let mut source = Source::new(Cursor::new(&film), film.len() as u64, &|| false).unwrap();
    let outline = structure::mp4(&mut source).unwrap();
    assert_eq!(outline.complete, structure::Completeness::Complete);
    assert!(source.gave_up() && outline.fragments.is_empty());
}

proptest! {
    /// As an encoder would write it: the sum is the sum.
    #[test]
    fn any_fragments_are_summed_up(
        runs in prop::collection::vec(prop::collection::vec(1u32..10_000, 1..40), 1..20),
        with_times in any::<bool>(),
    ) {
        let mut film = moov(&[trak(1, &[], &[])]);
        let mut sum = 0;
        for run in &runs {
            let head = [0x100, run.len() as u32];
            let trun = a_box(b"trun", &numbers(&[&head[..], run].concat()));
            let time = if with_times { tfdt(sum) } else { vec![] };
            film.extend(moof(&[traf(1, &[time, trun])]));
            sum += run.iter().sum::<u32>();
        }
        prop_assert_eq!(lasts(&film), Some(u64::from(sum)));
    }

    /// Damaged anywhere, it is still looked at.
    #[test]
    fn anything_can_be_looked_at(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let fragment = moof(&[traf(1, &[tfdt(7), usual(25)]), traf(2, &[usual(9)])]);
        let mut film = [moov(&[trak(1, &[1, 2, 3], &[4, 5]), trak(2, &[], &[])]), fragment].concat();
        for (place, value) in damage {
            let place = place.index(film.len());
            film[place] = value;
        }
        film.truncate(cut.index(film.len()) + 1);
        lasts(&film);
    }
}
