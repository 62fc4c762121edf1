//! Whether a file is all there, told from the lengths it states: a copy that was cut short is
//! named as such, rather than by whatever a parser stumbles over. Pure, and reads a few bytes of
//! each top-level part only.

use std::io::{self, Read, Seek, SeekFrom};

/// Parts looked at before giving up on finding the end; a long fragmented MP4 has thousands.
const MOST_PARTS: u32 = 200_000;

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
    /// What is wrong, for people.
    pub(super) fn complaint(self) -> Option<String> {
        match self {
            Self::Complete => None,
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

/// Looks at an MP4 or MOV of `len` bytes.
///
/// # Errors
///
/// When the file cannot be read.
pub(super) fn mp4(file: &mut (impl Read + Seek), len: u64) -> io::Result<Completeness> {
    let mut at = 0u64;
    let mut index = false;
    for _ in 0..MOST_PARTS {
        let Some(header) = bytes::<8>(file, at, len)? else {
            break;
        };
        let [a, b, c, d, kind @ ..] = header;
        let size = match u32::from_be_bytes([a, b, c, d]) {
            // To the end of the file.
            0 => len - at,
            1 => match bytes::<8>(file, at + 8, len)? {
                Some(large) => u64::from_be_bytes(large),
                None => break,
            },
            n => u64::from(n),
        };
        if size < 8 {
            // No part's size: there is something else at the end.
            break;
        }
        let Some(end) = at.checked_add(size) else {
            break;
        };
        match &kind {
            b"moov" | b"mdat" | b"moof" if end > len => {
                return Ok(Completeness::CutShort(end - len));
            }
            b"moov" => index = true,
            _ => {}
        }
        at = end;
    }
    Ok(if index {
        Completeness::Complete
    } else {
        Completeness::NoIndex
    })
}

/// Looks at a Matroska or WebM file of `len` bytes.
///
/// # Errors
///
/// When the file cannot be read.
pub(super) fn matroska(file: &mut (impl Read + Seek), len: u64) -> io::Result<Completeness> {
    const SEGMENT: u32 = 0x1853_8067;
    let mut at = 0u64;
    // The header, the segment, and whatever void is between.
    for _ in 0..16 {
        let Some(head) = bytes::<4>(file, at, len)? else {
            break;
        };
        // An id's length is the number of its leading zero bits, and one.
        let id_len = u64::from(head[0].leading_zeros()) + 1;
        if id_len > 4 {
            break;
        }
        let id = u32::from_be_bytes(head);
        let Some(first) = bytes::<1>(file, at + id_len, len)? else {
            break;
        };
        let size_len = first[0].leading_zeros() + 1;
        let Some(size) = element_size(file, at + id_len, size_len, len)? else {
            break;
        };
        let Some(end) = at
            .checked_add(id_len + u64::from(size_len))
            .and_then(|body| body.checked_add(size))
        else {
            break;
        };
        if id == SEGMENT && id_len == 4 {
            return Ok(match end.saturating_sub(len) {
                0 => Completeness::Complete,
                missing => Completeness::CutShort(missing),
            });
        }
        at = end;
    }
    Ok(Completeness::Complete)
}

/// A Matroska element's size; `None` when it is unknown (a live recording) or not there.
fn element_size(
    file: &mut (impl Read + Seek),
    at: u64,
    size_len: u32,
    len: u64,
) -> io::Result<Option<u64>> {
    if size_len > 8 {
        return Ok(None);
    }
    let mut value = 0u64;
    for i in 0..u64::from(size_len) {
        let Some([byte]) = bytes::<1>(file, at + i, len)? else {
            return Ok(None);
        };
        value = value << 8 | u64::from(byte);
    }
    // Seven bits of each byte are the size; all of them set mean that it is not known.
    let most = (1u64 << (7 * size_len)) - 1;
    Ok(Some(value & most).filter(|size| *size != most))
}

/// `N` bytes at a place; `None` beyond the end.
fn bytes<const N: usize>(
    file: &mut (impl Read + Seek),
    at: u64,
    len: u64,
) -> io::Result<Option<[u8; N]>> {
    if at.checked_add(N as u64).is_none_or(|end| end > len) {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = [0; N];
    match file.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(e) => Err(e),
    }
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
        mp4(&mut Cursor::new(data), data.len() as u64).unwrap()
    }

    fn of_matroska(data: &[u8]) -> Completeness {
        matroska(&mut Cursor::new(data), data.len() as u64).unwrap()
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
