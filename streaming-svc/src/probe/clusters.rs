//! How long a Matroska or WebM file plays that does not say so, as browsers and live recorders
//! write it. GStreamer then takes the beginning of the last cluster for the end. So the times of
//! the last cluster's frames are looked at.

use super::{
    ebml::{self, Element, element, number, unsigned},
    source::Source,
};
use std::{
    collections::HashMap,
    io::{self, Read, Seek},
};

/// How far from the end the last cluster is looked for, in bytes. It is at most 33 s long.
const FARTHEST: u64 = 64 << 20;

/// How much is looked through at a time, in bytes.
const STEP: u64 = 64 << 10;

/// The longest that a last frame is taken to last, in nanoseconds.
const LONGEST_FRAME: u64 = 1_000_000_000;

/// Tracks looked at in one file.
const MOST_TRACKS: usize = 64;

/// A film that begins so late by its own clock, in nanoseconds, is one cut out of a longer one: the
/// duration it states may be that of the other.
const LATE: u64 = 1_000_000_000;

/// How long the film plays, in nanoseconds: from its first cluster to the end of its last frame.
/// `None` when the file itself states it, or nothing can be made of it.
///
/// # Errors
///
/// When the file cannot be read.
pub(super) fn duration<R: Read + Seek>(source: &mut Source<'_, R>) -> io::Result<Option<u64>> {
    let Some(Beginning {
        at: first,
        scale,
        stated,
    }) = beginning(source)?
    else {
        return Ok(None);
    };
    // GStreamer counts from there, too.
    let Some(begin) = first_time(source, first, scale)?.filter(|it| !stated || *it > LATE) else {
        return Ok(None);
    };
    let mut end = source.len();
    let lowest = first.max(end.saturating_sub(FARTHEST));
    // A place before which all was looked at as a beginning of an id, which has four bytes.
    while end > lowest {
        let from = end.saturating_sub(STEP).max(lowest);
        let mut window = vec![0; usize::try_from(end - from).unwrap_or(0) + 3];
        let len = window
            .len()
            .min(usize::try_from(source.len() - from).unwrap_or(0));
        window.truncate(len);
        if !source.fill(from, source.len(), &mut window)? {
            break;
        }
        let id = ebml::CLUSTER.to_be_bytes();
        let found = window.windows(4).enumerate().rev();
        for (offset, _) in found.filter(|(_, four)| *four == id) {
            if let Some(end) = cluster(source, from + offset as u64, scale)? {
                return Ok(end.checked_sub(begin).filter(|it| *it > 0));
            }
        }
        end = from;
    }
    Ok(None)
}

/// What is said before the first cluster.
struct Beginning {
    /// Where that cluster begins.
    at: u64,
    /// A tick's length, in nanoseconds.
    scale: u64,
    /// A duration is stated.
    stated: bool,
}

fn beginning<R: Read + Seek>(source: &mut Source<'_, R>) -> io::Result<Option<Beginning>> {
    let len = source.len();
    let mut said = Beginning {
        at: 0,
        scale: 1_000_000,
        stated: false,
    };
    while let Some(found) = element(source, said.at, len)? {
        if found.id == ebml::CLUSTER {
            return Ok(Some(said));
        }
        if found.id == ebml::INFO {
            let end = found.end.unwrap_or(len).min(len);
            let mut at = found.body;
            while let Some((part, part_end)) =
                element(source, at, end)?.and_then(|it| Some((it, it.end?)))
            {
                match part.id {
                    ebml::TIMESTAMP_SCALE => {
                        said.scale = unsigned(source, part)?.unwrap_or(said.scale);
                    }
                    ebml::DURATION => said.stated = is_positive(source, part, part_end)?,
                    _ => {}
                }
                at = part_end;
            }
        }
        said.at = match (found.id, found.end) {
            // The rest is inside it.
            (ebml::SEGMENT, _) => found.body,
            (_, Some(end)) => end,
            (_, None) => break,
        };
    }
    Ok(None)
}

/// When the cluster at a place begins, in nanoseconds.
fn first_time<R: Read + Seek>(
    source: &mut Source<'_, R>,
    at: u64,
    scale: u64,
) -> io::Result<Option<u64>> {
    let len = source.len();
    let Some(mut part) = element(source, at, len)? else {
        return Ok(None);
    };
    let mut at = part.body;
    // It is first, but for a checksum.
    for _ in 0..4 {
        match element(source, at, len)? {
            Some(found) => part = found,
            None => break,
        }
        if part.id == ebml::TIMESTAMP {
            let ticks = unsigned(source, part)?;
            return Ok(ticks.and_then(|ticks| ticks.checked_mul(scale)));
        }
        let Some(end) = part.end else { break };
        at = end;
    }
    Ok(None)
}

/// Whether an element is a floating point number above zero.
fn is_positive<R: Read + Seek>(
    source: &mut Source<'_, R>,
    it: Element,
    end: u64,
) -> io::Result<bool> {
    Ok(match end - it.body {
        4 => (source.bytes(it.body, end)?).is_some_and(|four| f32::from_be_bytes(four) > 0.0),
        8 => (source.bytes(it.body, end)?).is_some_and(|eight| f64::from_be_bytes(eight) > 0.0),
        _ => false,
    })
}

/// When the last frame ends of the cluster that may be at a place; `None` when there is none.
fn cluster<R: Read + Seek>(
    source: &mut Source<'_, R>,
    at: u64,
    scale: u64,
) -> io::Result<Option<u64>> {
    let len = source.len();
    let Some(found) = element(source, at, len)?.filter(|it| it.id == ebml::CLUSTER) else {
        return Ok(None);
    };
    let end = found.end.unwrap_or(len).min(len);
    let mut begin = None;
    // The two latest times of each track: what is between them is taken for the last one's length.
    let mut tracks: HashMap<u8, (i64, Option<i64>)> = HashMap::new();
    let mut at = found.body;
    while let Some(part) = element(source, at, end)? {
        let Some(part_end) = part.end.filter(|it| *it <= end) else {
            break;
        };
        let frame = match part.id {
            ebml::TIMESTAMP => {
                begin = unsigned(source, part)?.and_then(|it| i64::try_from(it).ok());
                None
            }
            ebml::SIMPLE_BLOCK => frame(source, part.body, part_end)?,
            ebml::BLOCK_GROUP => match element(source, part.body, part_end)? {
                Some(block) if block.id == ebml::BLOCK => frame(source, block.body, part_end)?,
                _ => None,
            },
            // One byte: what else is in clusters. Four: what comes after it.
            id if id > 0xff => break,
            _ => None,
        };
        if let (Some((track, time)), Some(begin)) = (frame, begin) {
            let time = begin.saturating_add(time);
            let known = tracks.len();
            match tracks.get_mut(&track) {
                Some((last, before)) if time > *last => (*last, *before) = (time, Some(*last)),
                Some((last, before)) if time < *last => *before = (*before).max(Some(time)),
                None if known < MOST_TRACKS => {
                    tracks.insert(track, (time, None));
                }
                _ => {}
            }
        }
        at = part_end;
    }
    let ends = tracks.values().filter_map(|(last, before)| {
        let ns = |ticks: i64| u64::try_from(ticks).ok()?.checked_mul(scale);
        let length = before
            .and_then(|before| ns(last.checked_sub(before)?))
            .unwrap_or(0);
        ns(*last)?.checked_add(length.min(LONGEST_FRAME))
    });
    // Over a century it is no duration; GStreamer's clock ends after five.
    Ok(ends.max().filter(|ns| (1..u64::MAX / 5).contains(ns)))
}

/// A block's track and its time within the cluster.
fn frame<R: Read + Seek>(
    source: &mut Source<'_, R>,
    at: u64,
    end: u64,
) -> io::Result<Option<(u8, i64)>> {
    // Tracks beyond the 126th, which have longer numbers, are not delivered.
    let head = number(source, at, 3, end)?.map(u64::to_be_bytes);
    Ok(head.and_then(|[.., track, high, low]| {
        (track & 0x80 != 0).then(|| (track, i16::from_be_bytes([high, low]).into()))
    }))
}

#[cfg(test)]
mod tests;
