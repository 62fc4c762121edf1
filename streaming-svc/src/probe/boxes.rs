//! The boxes that an MP4 consists of.

use super::source::Source;
use std::io::{self, Read, Seek};

/// A box's place in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// Its four letters.
    pub kind: [u8; 4],
    /// Where its content begins.
    pub body: u64,
    /// Where it ends by its own account, which may be beyond what it is in.
    pub end: u64,
}

/// The box at a place, in something that ends at `end`. `None` when there is no sensible one.
///
/// # Errors
///
/// When the file cannot be read.
pub(super) fn part<R: Read + Seek>(
    source: &mut Source<'_, R>,
    at: u64,
    end: u64,
) -> io::Result<Option<Part>> {
    let Some([a, b, c, d, kind @ ..]) = source.bytes::<8>(at, end)? else {
        return Ok(None);
    };
    let (size, header) = match u32::from_be_bytes([a, b, c, d]) {
        // To the end.
        0 => (end - at, 8),
        1 => match source.u64(at + 8, end)? {
            Some(large) => (large, 16),
            None => return Ok(None),
        },
        n => (u64::from(n), 8),
    };
    let body = at + header;
    let past = at.checked_add(size).filter(|past| *past >= body);
    Ok(past.map(|end| Part { kind, body, end }))
}

/// Does something with each box inside another, as far as they fit.
///
/// # Errors
///
/// When the file cannot be read.
pub(super) fn inside<R: Read + Seek>(
    source: &mut Source<'_, R>,
    outer: Part,
    mut with: impl FnMut(&mut Source<'_, R>, Part) -> io::Result<()>,
) -> io::Result<()> {
    let mut at = outer.body;
    while let Some(part) = part(source, at, outer.end)?.filter(|part| part.end <= outer.end) {
        with(source, part)?;
        at = part.end;
    }
    Ok(())
}
