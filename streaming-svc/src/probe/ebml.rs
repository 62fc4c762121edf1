//! The elements that a Matroska or WebM file consists of.

use super::source::Source;
use std::io::{self, Read, Seek};

/// The whole of a film.
pub(super) const SEGMENT: u32 = 0x1853_8067;
/// What is said of all of it.
pub(super) const INFO: u32 = 0x1549_a966;
/// The length of a tick, in nanoseconds.
pub(super) const TIMESTAMP_SCALE: u32 = 0x2a_d7b1;
/// How many ticks it plays.
pub(super) const DURATION: u32 = 0x4489;
/// Some seconds of it.
pub(super) const CLUSTER: u32 = 0x1f43_b675;
/// When a cluster begins, in ticks.
pub(super) const TIMESTAMP: u32 = 0xe7;
/// A frame.
pub(super) const SIMPLE_BLOCK: u32 = 0xa3;
/// A frame with more said of it.
pub(super) const BLOCK_GROUP: u32 = 0xa0;
/// The frame itself.
pub(super) const BLOCK: u32 = 0xa1;

/// An element's place in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Element {
    /// What it is.
    pub id: u32,
    /// Where its content begins.
    pub body: u64,
    /// Where it ends by its own account, which may be beyond what it is in; `None` when it was
    /// written before that was known.
    pub end: Option<u64>,
}

/// The element at a place, in something that ends at `end`. `None` when there is none.
///
/// # Errors
///
/// When the file cannot be read.
pub(super) fn element<R: Read + Seek>(
    source: &mut Source<'_, R>,
    at: u64,
    end: u64,
) -> io::Result<Option<Element>> {
    let Some((id, id_len)) = coded(source, at, 4, end)? else {
        return Ok(None);
    };
    let at = at + u64::from(id_len);
    let Some((size, size_len)) = coded(source, at, 8, end)? else {
        return Ok(None);
    };
    let body = at + u64::from(size_len);
    // Seven bits of each byte are the size; all of them set mean that it is not known.
    let most = (1u64 << (7 * size_len)) - 1;
    let size = Some(size & most).filter(|size| *size != most);
    Ok(u32::try_from(id).ok().map(|id| Element {
        id,
        body,
        // Less than 2^56 beyond a place in a file.
        end: size.map(|size| body.saturating_add(size)),
    }))
}

/// A number that begins with its own length, of at most `longest` bytes, as ids and sizes do; and
/// that length: the number of leading zero bits, and one.
fn coded<R: Read + Seek>(
    source: &mut Source<'_, R>,
    at: u64,
    longest: u32,
    end: u64,
) -> io::Result<Option<(u64, u32)>> {
    let Some([first]) = source.bytes(at, end)? else {
        return Ok(None);
    };
    let len = first.leading_zeros() + 1;
    if len > longest {
        return Ok(None);
    }
    Ok(number(source, at, len, end)?.map(|number| (number, len)))
}

/// A number of up to eight bytes.
///
/// # Errors
///
/// When the file cannot be read.
pub(super) fn number<R: Read + Seek>(
    source: &mut Source<'_, R>,
    at: u64,
    len: u32,
    end: u64,
) -> io::Result<Option<u64>> {
    let mut bytes = [0; 8];
    let Some(last) = 8usize
        .checked_sub(len as usize)
        .and_then(|skip| bytes.get_mut(skip..))
    else {
        return Ok(None);
    };
    let filled = source.fill(at, end, last)?;
    Ok(filled.then(|| u64::from_be_bytes(bytes)))
}

/// The unsigned number that is an element's content.
///
/// # Errors
///
/// When the file cannot be read.
pub(super) fn unsigned<R: Read + Seek>(
    source: &mut Source<'_, R>,
    element: Element,
) -> io::Result<Option<u64>> {
    let Some(end) = element.end else {
        return Ok(None);
    };
    match u32::try_from(end - element.body) {
        Ok(len @ 0..=8) => number(source, element.body, len, end),
        _ => Ok(None),
    }
}
