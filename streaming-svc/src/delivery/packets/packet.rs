//! One RTP packet, and how many of them go out at a time.

use std::time::Duration;

/// The fixed part of an RTP header (RFC 3550, 5.1), in bytes. Payloaders write no other here: no
/// sources, no extensions.
const HEADER: usize = 12;

/// A packet of a film, without what differs from viewer to viewer.
#[derive(Debug, Clone)]
pub(super) struct Packet {
    /// Its place in the film, in units of the track's RTP clock.
    pub(super) stamp: i64,
    /// Whether a player can begin with it.
    pub(super) key: bool,
    /// The header's first two bytes: version, marker, payload type.
    first: [u8; 2],
    /// All behind the header.
    body: gst::Buffer,
}

/// What one viewer's packets have of their own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) sequence: u16,
    pub(super) timestamp: u32,
    pub(super) source: u32,
}

impl Packet {
    /// Of what a payloader made, and its RTP timestamp; `None` when it is no RTP packet.
    pub(super) fn read(made: &gst::BufferRef) -> Option<(Self, u32)> {
        let mut header = [0; HEADER];
        // One without anything in it is of no use.
        if made.size() <= HEADER {
            return None;
        }
        made.copy_to_slice(0, &mut header).ok()?;
        let [first, second, _, _, a, b, c, d, ..] = header;
        let body = made.copy_region(gst::BufferCopyFlags::MEMORY, HEADER..);
        let packet = Self {
            stamp: 0,
            key: false,
            first: [first, second],
            body: body.ok()?,
        };
        Some((packet, u32::from_be_bytes([a, b, c, d])))
    }

    /// How much memory it is known to hold, in bytes: its body, and what describes that.
    pub(super) fn cost(&self) -> usize {
        // A buffer and two memories, as GStreamer 1.22 allocates them on 64 bits.
        const DESCRIBING: usize = 512;
        self.body.size() + DESCRIBING
    }

    /// Its size on the wire, in bytes.
    pub(super) fn size(&self) -> usize {
        self.body.size() + HEADER
    }

    /// The packet for one viewer. The body is shared, not copied.
    pub(super) fn with(&self, header: Header, due: gst::ClockTime) -> gst::Buffer {
        let mut bytes = [0; HEADER];
        bytes[..2].copy_from_slice(&self.first);
        bytes[2..4].copy_from_slice(&header.sequence.to_be_bytes());
        bytes[4..8].copy_from_slice(&header.timestamp.to_be_bytes());
        bytes[8..].copy_from_slice(&header.source.to_be_bytes());
        let mut buffer = gst::Buffer::from_slice(bytes);
        // Made just now, so nobody else has it.
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_pts(due);
            // It fails only for a region that is not there.
            let _ = self
                .body
                .copy_into(buffer, gst::BufferCopyFlags::MEMORY, ..);
        }
        buffer
    }
}

/// How much is sent at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Burst {
    /// In bytes; one packet at least.
    pub(super) bytes: usize,
    /// How much of the film, from the first packet's time on.
    pub(super) time: Duration,
}

impl Burst {
    /// Over TCP. Each costs some wake-ups of threads, which is most of what a viewer costs; and a
    /// socket's buffer takes that much.
    pub(super) const TCP: Burst = Burst {
        bytes: 512 << 10,
        time: Duration::from_millis(500),
    };

    /// Over UDP, where a receiver's socket buffer has to take one that it is too slow for: usually
    /// 208 KiB, of which a packet counts for more than its size.
    pub(super) const UDP: Burst = Burst {
        bytes: 32 << 10,
        time: Duration::from_millis(250),
    };

    /// How many of these packets, by their places in units of a clock of this rate, and their sizes in
    /// bytes.
    pub(super) fn length(self, packets: impl Iterator<Item = (i64, usize)>, clock: u32) -> usize {
        let time = i64::try_from(self.time.as_micros()).unwrap_or(i64::MAX);
        let time = time.saturating_mul(clock.into()) / 1_000_000;
        let (mut first, mut bytes, mut count) = (None, 0, 0);
        for (stamp, size) in packets {
            let end = first.get_or_insert(stamp).saturating_add(time);
            bytes += size;
            if count > 0 && (bytes > self.bytes || stamp >= end) {
                break;
            }
            count += 1;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_viewers_packet_is_the_payloaders_with_other_numbers() {
        gst::init().unwrap();
        let made: Vec<u8> = (0..40).collect();
        let made = gst::Buffer::from_slice(made);
        let (packet, timestamp) = Packet::read(&made).unwrap();
        assert_eq!(timestamp, 0x0405_0607);
        assert_eq!(packet.size(), 40);
        let header = Header {
            sequence: 0xabcd,
            timestamp: 0x1122_3344,
            source: 0x5566_7788,
        };
        let given = packet.with(header, gst::ClockTime::SECOND);
        assert_eq!(given.pts(), Some(gst::ClockTime::SECOND));
        let given = given.map_readable().unwrap();
        let head = [
            0, 1, 0xab, 0xcd, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88,
        ];
        assert_eq!(given[..HEADER], head);
        assert_eq!(given[HEADER..], (12..40).collect::<Vec<u8>>());
    }

    #[test]
    fn what_is_too_short_is_no_packet() {
        gst::init().unwrap();
        for (size, is_one) in [(11, false), (12, false), (13, true)] {
            let made = gst::Buffer::from_slice(vec![0x80; size]);
            assert_eq!(Packet::read(&made).is_some(), is_one, "{size}");
        }
    }

    proptest! {
        #[test]
        fn a_burst_is_within_its_bounds_and_as_long_as_they_let_it_be(
            packets in proptest::collection::vec((0i64..90_000, 1usize..2000), 0..200),
            bytes in 1usize..50_000, millis in 1u64..2000,
        ) {
            let burst = Burst { bytes, time: Duration::from_millis(millis) };
            let length = burst.length(packets.iter().copied(), 90_000);
            let fits = |packets: &[(i64, usize)]| {
                let end = packets[0].0 + i64::try_from(millis).unwrap() * 90;
                packets.iter().map(|it| it.1).sum::<usize>() <= bytes && packets.iter().all(|it| it.0 < end)
            };
            prop_assert_eq!(length == 0, packets.is_empty());
            if length > 1 {
                prop_assert!(fits(&packets[..length]));
            }
            if length > 0 && length < packets.len() {
                prop_assert!(!fits(&packets[..=length]));
            }
        }
    }
}
