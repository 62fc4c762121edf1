//! Whether a file is all there, told from the lengths it states: a copy that was cut short is
//! named as such, rather than by whatever a parser stumbles over. Reads a few bytes of each top-level
//! part only.

use super::{
    boxes::{self, Part},
    ebml,
    source::Source,
};
use std::io::{self, Read, Seek};

/// Fragments remembered: of half a second each, those of six days.
const MOST_FRAGMENTS: usize = 1_000_000;

/// What the outermost structure says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Completeness {
    /// Nothing is missing, as far as can be told.
    Complete,
    /// It should be longer by so many bytes.
    CutShort(u64),
    /// An MP4 without its index.
    NoIndex,
}

impl Completeness {
    /// What is wrong, for people, with a file that is fragmented or not.
    pub(super) fn complaint(self, fragmented: bool) -> Option<String> {
        match self {
            Self::Complete => None,
            // Half a copy, or a recording that was interrupted: they look the same.
            Self::CutShort(missing) if fragmented => Some(format!(
                "the file is incomplete: {missing} bytes are missing at its end; copy it again, or \
                 if its recording was interrupted, keep what there is with \
                 `ffmpeg -i FILE -c copy NEW-FILE`"
            )),
            Self::CutShort(missing) => Some(format!(
                "the file is incomplete: {missing} bytes are missing at its end; copy it again"
            )),
            Self::NoIndex => Some(
                "the file is incomplete: it has no index (moov); copy it again, or let its \
                 recording finish"
                    .to_owned(),
            ),
        }
    }
}

/// What an MP4 consists of.
#[derive(Debug)]
pub(super) struct Outline {
    /// Whether it is all there.
    pub complete: Completeness,
    /// Its index (`moov`).
    pub index: Option<Part>,
    /// Its fragments (`moof`), those that are all there; none in a usual file.
    pub fragments: Vec<Part>,
}

/// Looks at an MP4 or MOV.
///
/// # Errors
///
/// When the file cannot be read.
pub(super) fn mp4<R: Read + Seek>(source: &mut Source<'_, R>) -> io::Result<Outline> {
    let len = source.len();
    let mut outline = Outline {
        complete: Completeness::Complete,
        index: None,
        fragments: Vec::new(),
    };
    let mut at = 0;
    // Ends where there is something else than a part.
    while let Some(part) = boxes::part(source, at, len)? {
        match &part.kind {
            b"moov" | b"mdat" | b"moof" if part.end > len => {
                outline.complete = Completeness::CutShort(part.end - len);
                return Ok(outline);
            }
            b"moov" => outline.index = outline.index.or(Some(part)),
            b"moof" if outline.fragments.len() < MOST_FRAGMENTS => outline.fragments.push(part),
            _ => {}
        }
        at = part.end;
    }
    if outline.index.is_none() && !source.gave_up() {
        outline.complete = Completeness::NoIndex;
    }
    Ok(outline)
}

/// Looks at a Matroska or WebM file.
///
/// # Errors
///
/// When the file cannot be read.
pub(super) fn matroska<R: Read + Seek>(source: &mut Source<'_, R>) -> io::Result<Completeness> {
    let len = source.len();
    let mut at = 0;
    // The header, the segment, and whatever void is between.
    for _ in 0..16 {
        // A live recording's length is not known.
        let Some((id, end)) = ebml::element(source, at, len)?.and_then(|it| Some((it.id, it.end?)))
        else {
            break;
        };
        if id == ebml::SEGMENT {
            return Ok(match end.saturating_sub(len) {
                0 => Completeness::Complete,
                missing => Completeness::CutShort(missing),
            });
        }
        at = end;
    }
    Ok(Completeness::Complete)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn part(kind: &[u8; 4], body: usize) -> Vec<u8> {
        let mut part = u32::try_from(body + 8).unwrap().to_be_bytes().to_vec();
        part.extend(kind);
        part.resize(body + 8, 0);
        part
    }

    fn of_mp4(data: &[u8]) -> Completeness {
        let mut source = Source::new(Cursor::new(data), data.len() as u64, &|| true).unwrap();
        mp4(&mut source).unwrap().complete
    }

    fn of_matroska(data: &[u8]) -> Completeness {
        let mut source = Source::new(Cursor::new(data), data.len() as u64, &|| true).unwrap();
        matroska(&mut source).unwrap()
    }

    #[test]
    fn an_mp4_cut_short_is_told() {
        let whole = [part(b"ftyp", 8), part(b"moov", 20), part(b"mdat", 100)].concat();
        assert_eq!(of_mp4(&whole), Completeness::Complete);
        let cut = &whole[..whole.len() - 30];
        assert_eq!(of_mp4(cut), Completeness::CutShort(30));
        assert_eq!(of_mp4(&whole[..30]), Completeness::CutShort(14));
        assert_eq!(of_mp4(&whole[..20]), Completeness::NoIndex);
        assert_eq!(of_mp4(&[]), Completeness::NoIndex);
        // The index at the end, and something after it.
        let late = [part(b"mdat", 100), part(b"moov", 20), vec![0xff; 3]].concat();
        assert_eq!(of_mp4(&late), Completeness::Complete);
        assert_eq!(of_mp4(&late[..108]), Completeness::NoIndex);
    }

    #[test]
    fn large_and_open_sizes_are_understood() {
        let mut large = part(b"moov", 0);
        large.extend([0, 0, 0, 1]);
        large.extend(b"mdat");
        large.extend(26u64.to_be_bytes());
        assert_eq!(of_mp4(&large), Completeness::CutShort(10));
        large.extend([0; 10]);
        assert_eq!(of_mp4(&large), Completeness::Complete);
        let mut open = part(b"moov", 0);
        open.extend([0, 0, 0, 0]);
        open.extend(b"mdat and whatever");
        assert_eq!(of_mp4(&open), Completeness::Complete);
    }

    #[test]
    fn a_matroska_cut_short_is_told() {
        let header = [0x1a, 0x45, 0xdf, 0xa3, 0x82, 1, 2];
        let segment = [0x18, 0x53, 0x80, 0x67, 0x40, 5, 1, 2, 3, 4, 5];
        let whole = [&header[..], &segment].concat();
        assert_eq!(of_matroska(&whole), Completeness::Complete);
        let cut = &whole[..whole.len() - 2];
        assert_eq!(of_matroska(cut), Completeness::CutShort(2));
        let live = [&header[..], &[0x18, 0x53, 0x80, 0x67, 0xff, 1]].concat();
        assert_eq!(of_matroska(&live), Completeness::Complete);
    }

    proptest! {
        #[test]
        fn anything_can_be_looked_at(mut data in prop::collection::vec(any::<u8>(), 0..300), matroska in any::<bool>()) {
            if matroska {
                data.splice(0..0, [0x1a, 0x45, 0xdf, 0xa3]);
                of_matroska(&data);
            } else {
                of_mp4(&data);
            }
        }
    }
}
