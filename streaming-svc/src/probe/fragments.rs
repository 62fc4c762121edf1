//! How long a fragmented MP4 plays.
//!
//! Nothing in such a file need say it: it is written while its end is not known yet. GStreamer
//! knows where the last fragment begins, or less. So the durations of all samples are summed up,
//! as ISO/IEC 14496-12 tells how: from each fragment's headers, which are a thousandth of the file.

use super::{
    boxes::{Part, inside},
    source::Source,
};
use std::io::{self, Read, Seek};

/// Tracks looked at in one file.
const MOST_TRACKS: usize = 64;

/// Bytes of a table read at a time: a multiple of every size that an entry can have (4 to 16).
const TABLE: usize = 4080;

/// Flags of `tfhd`: which fields it has.
const TFHD_BASE: u32 = 0x1;
const TFHD_DESCRIPTION: u32 = 0x2;
const TFHD_DURATION: u32 = 0x8;

/// Flags of `trun`: which fields it has, and which each of its entries.
const TRUN_OFFSET: u32 = 0x1;
const TRUN_FIRST_FLAGS: u32 = 0x4;
const TRUN_DURATION: u32 = 0x100;
const TRUN_ENTRY: u32 = 0xf00;

/// One track, as far as it was read. Times are in its own units.
#[derive(Debug, Default)]
struct Track {
    id: u32,
    /// Units a second.
    timescale: u32,
    /// What a sample lasts where nothing else is said.
    default_duration: u32,
    /// What is not shown at its beginning.
    skipped: u64,
    /// What it is shown later than the film's beginning, in units of the whole film.
    delay: u64,
    /// Where the next sample begins.
    next: u64,
    /// Where the last sample so far ends.
    end: u64,
}

/// When the last sample ends of an MP4 with that index (`moov`) and these fragments (`moof`), in
/// nanoseconds from its beginning; `None` when nothing can be made of it. As far as the source is
/// read.
///
/// # Errors
///
/// When the file cannot be read.
pub(super) fn end<R: Read + Seek>(
    source: &mut Source<'_, R>,
    index: Part,
    fragments: &[Part],
) -> io::Result<Option<u64>> {
    let (mut tracks, timescale) = tracks(source, index)?;
    for fragment in fragments {
        inside(source, *fragment, |source, part| match &part.kind {
            b"traf" => track_fragment(source, part, &mut tracks),
            _ => Ok(()),
        })?;
    }
    let ends = tracks.iter().filter_map(|track| {
        let end = nanoseconds(track.end.saturating_sub(track.skipped), track.timescale)?;
        let delay = nanoseconds(track.delay, timescale).unwrap_or(0);
        (end > 0).then(|| end.saturating_add(delay))
    });
    // Over a century it is no duration; GStreamer's clock ends after five.
    Ok(ends.max().filter(|ns| *ns < u64::MAX / 5))
}

fn nanoseconds(time: u64, timescale: u32) -> Option<u64> {
    let ns = (u128::from(time) * 1_000_000_000).checked_div(u128::from(timescale))?;
    Some(u64::try_from(ns).unwrap_or(u64::MAX))
}

/// The tracks, and the film's own units a second.
fn tracks<R: Read + Seek>(
    source: &mut Source<'_, R>,
    index: Part,
) -> io::Result<(Vec<Track>, u32)> {
    let mut tracks: Vec<Track> = Vec::new();
    let mut defaults = Vec::new();
    let mut timescale = 0;
    inside(source, index, |source, part| {
        match &part.kind {
            b"mvhd" => timescale = after_times(source, part)?.unwrap_or(0),
            b"trak" if tracks.len() < MOST_TRACKS => {
                let mut track = Track::default();
                in_track(source, part, &mut track, 0)?;
                tracks.push(track);
            }
            b"mvex" => inside(source, part, |source, part| {
                if &part.kind == b"trex" && defaults.len() < MOST_TRACKS {
                    let id = source.u32(part.body + 4, part.end)?;
                    defaults.extend(id.zip(source.u32(part.body + 12, part.end)?));
                }
                Ok(())
            })?,
            _ => {}
        }
        Ok(())
    })?;
    for (id, duration) in defaults {
        for track in tracks.iter_mut().filter(|track| track.id == id) {
            track.default_duration = duration;
        }
    }
    Ok((tracks, timescale))
}

/// The number that follows the times of making and changing: a timescale, or a track's number.
fn after_times<R: Read + Seek>(source: &mut Source<'_, R>, part: Part) -> io::Result<Option<u32>> {
    let times = if version(source, part)? == 1 { 16 } else { 8 };
    source.u32(part.body + 4 + times, part.end)
}

fn version<R: Read + Seek>(source: &mut Source<'_, R>, part: Part) -> io::Result<u8> {
    Ok(source.bytes(part.body, part.end)?.map_or(0, |[v]| v))
}

/// Reads what is of use inside `trak`, and inside what is in it down to a depth.
fn in_track<R: Read + Seek>(
    source: &mut Source<'_, R>,
    part: Part,
    track: &mut Track,
    depth: u32,
) -> io::Result<()> {
    inside(source, part, |source, part| {
        match &part.kind {
            b"tkhd" => track.id = after_times(source, part)?.unwrap_or(0),
            b"mdhd" => track.timescale = after_times(source, part)?.unwrap_or(0),
            b"elst" => edits(source, part, track)?,
            // The first fragment can be part of the index.
            b"stts" => {
                let count = source.u32(part.body + 4, part.end)?.unwrap_or(0);
                let mut sum = 0u64;
                entries(source, part, 8, 8, count, |[count, duration]| {
                    sum = sum.saturating_add(u64::from(count) * u64::from(duration));
                })?;
                (track.next, track.end) = (sum, sum);
            }
            b"mdia" | b"minf" | b"stbl" | b"edts" if depth < 3 => {
                in_track(source, part, track, depth + 1)?;
            }
            _ => {}
        }
        Ok(())
    })
}

/// Reads the edit list: what comes before the track's first sample, or is cut off before it.
fn edits<R: Read + Seek>(
    source: &mut Source<'_, R>,
    part: Part,
    track: &mut Track,
) -> io::Result<()> {
    let large = version(source, part)? == 1;
    let (mut at, step) = (part.body + 8, if large { 20 } else { 12 });
    // One that says nothing of the beginning has no end here.
    for _ in 0..16 {
        let (duration, begin) = if large {
            let Some(duration) = source.u64(at, part.end)? else {
                break;
            };
            let begin = source.u64(at + 8, part.end)?;
            (duration, begin.map(u64::cast_signed))
        } else {
            let Some(duration) = source.u32(at, part.end)? else {
                break;
            };
            let begin = source.u32(at + 4, part.end)?;
            (duration.into(), begin.map(|it| it.cast_signed().into()))
        };
        match begin.map(u64::try_from) {
            Some(Ok(begin)) => {
                track.skipped = begin;
                break;
            }
            Some(Err(_)) => track.delay = track.delay.saturating_add(duration),
            None => break,
        }
        at += step;
    }
    Ok(())
}

/// Reads `traf`: a track's part of a fragment.
fn track_fragment<R: Read + Seek>(
    source: &mut Source<'_, R>,
    part: Part,
    tracks: &mut [Track],
) -> io::Result<()> {
    let mut current = None;
    let mut duration = 0;
    inside(source, part, |source, part| {
        let Some(word) = source.u32(part.body, part.end)? else {
            return Ok(());
        };
        let (version, flags) = (word >> 24, word & 0x00ff_ffff);
        if &part.kind == b"tfhd" {
            let id = source.u32(part.body + 4, part.end)?;
            current = tracks.iter().position(|track| Some(track.id) == id);
            let track = current.and_then(|it| tracks.get(it));
            duration = track.map_or(0, |it| it.default_duration);
            let mut at = part.body + 8;
            at += if flags & TFHD_BASE == 0 { 0 } else { 8 };
            at += if flags & TFHD_DESCRIPTION == 0 { 0 } else { 4 };
            if flags & TFHD_DURATION != 0 {
                duration = source.u32(at, part.end)?.unwrap_or(duration);
            }
            return Ok(());
        }
        let Some(track) = current.and_then(|it| tracks.get_mut(it)) else {
            return Ok(());
        };
        match &part.kind {
            b"tfdt" => {
                let begin = match version {
                    0 => source.u32(part.body + 4, part.end)?.map(u64::from),
                    _ => source.u64(part.body + 4, part.end)?,
                };
                track.next = begin.unwrap_or(track.next);
            }
            b"trun" => {
                let sum = run(source, part, flags, duration)?;
                track.next = track.next.saturating_add(sum);
                track.end = track.end.max(track.next);
            }
            _ => {}
        }
        Ok(())
    })
}

/// What the samples of a `trun` last together.
fn run<R: Read + Seek>(
    source: &mut Source<'_, R>,
    part: Part,
    flags: u32,
    default: u32,
) -> io::Result<u64> {
    let count = source.u32(part.body + 4, part.end)?.unwrap_or(0);
    if flags & TRUN_DURATION == 0 {
        return Ok(u64::from(count) * u64::from(default));
    }
    let optional = (flags & (TRUN_OFFSET | TRUN_FIRST_FLAGS)).count_ones();
    let size = (flags & TRUN_ENTRY).count_ones() * 4;
    let mut sum = 0u64;
    let header = u64::from(8 + 4 * optional);
    // The duration comes first in an entry.
    entries(source, part, header, size, count, |[duration]| {
        sum = sum.saturating_add(duration.into());
    })?;
    Ok(sum)
}

/// Does something with the first `N` numbers of each entry of a table that begins `header` bytes
/// into a box's body and has entries of `size` bytes.
fn entries<R: Read + Seek, const N: usize>(
    source: &mut Source<'_, R>,
    part: Part,
    header: u64,
    size: u32,
    count: u32,
    mut with: impl FnMut([u32; N]),
) -> io::Result<()> {
    let mut at = part.body + header;
    let fits = part.end.saturating_sub(at) / u64::from(size.max(1));
    let mut left = u64::from(count).min(fits) * u64::from(size);
    let mut buffer = [0; TABLE];
    while left > 0 {
        let step = left.min(TABLE as u64);
        let Some(chunk) = usize::try_from(step)
            .ok()
            .and_then(|it| buffer.get_mut(..it))
        else {
            break;
        };
        if !source.fill(at, part.end, chunk)? {
            break;
        }
        for entry in chunk.chunks_exact(size as usize) {
            let mut numbers = [0; N];
            for (number, bytes) in numbers.iter_mut().zip(entry.as_chunks::<4>().0) {
                *number = u32::from_be_bytes(*bytes);
            }
            with(numbers);
        }
        at += step;
        left -= step;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
