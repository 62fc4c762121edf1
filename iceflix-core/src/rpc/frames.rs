//! A stream of bytes cut into frames: a length of four bytes, big end first, then so many bytes.
//!
//! The format is that of tokio's length-delimited codec. Unlike that one it takes memory only for
//! what has arrived, and keeps none when a long frame is done: what a connection costs is what
//! its other end has sent, whatever length it states.

use std::io;
use tokio_util::{
    bytes::{BufMut, Bytes, BytesMut},
    codec::{Decoder, Encoder},
};

/// How much room is made at a time for a frame that is on its way, in bytes; more than nearly
/// every message needs.
pub const STEP: usize = 16 << 10;

/// The length before each frame, in bytes.
const HEAD: usize = 4;

/// Cuts bytes into frames of at most so many bytes each, and the other way round.
#[derive(Debug, Clone)]
pub struct Frames {
    longest: usize,
    /// The length of the frame whose head was read.
    expected: Option<usize>,
}

impl Frames {
    /// Frames of at most `longest` bytes.
    pub fn new(longest: usize) -> Self {
        Self {
            longest,
            expected: None,
        }
    }

    /// Whether a frame has begun that is not complete. `unread` are the bytes that have arrived
    /// and were not decoded yet.
    pub fn begun(&self, unread: &[u8]) -> bool {
        self.expected.is_some() || !unread.is_empty()
    }

    fn too_long(&self, length: usize) -> io::Error {
        let longest = self.longest;
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {length} bytes; the longest is {longest}"),
        )
    }
}

impl Decoder for Frames {
    type Item = BytesMut;
    type Error = io::Error;

    fn decode(&mut self, unread: &mut BytesMut) -> io::Result<Option<BytesMut>> {
        let length = match self.expected {
            Some(length) => length,
            None => {
                let Some(head) = unread.first_chunk::<HEAD>() else {
                    return Ok(None);
                };
                let length = usize::try_from(u32::from_be_bytes(*head)).unwrap_or(usize::MAX);
                if length > self.longest {
                    return Err(self.too_long(length));
                }
                let _ = unread.split_to(HEAD);
                self.expected = Some(length);
                length
            }
        };
        if unread.len() < length {
            unread.reserve((length - unread.len()).min(STEP));
            return Ok(None);
        }
        self.expected = None;
        let frame = unread.split_to(length);
        if length > STEP {
            // The frame takes the long buffer with it.
            *unread = BytesMut::from(&unread[..]);
        }
        Ok(Some(frame))
    }
}

impl Encoder<Bytes> for Frames {
    type Error = io::Error;

    fn encode(&mut self, frame: Bytes, out: &mut BytesMut) -> io::Result<()> {
        let length = u32::try_from(frame.len()).map_err(|_| self.too_long(frame.len()))?;
        if frame.len() > self.longest {
            return Err(self.too_long(frame.len()));
        }
        out.reserve(HEAD + frame.len());
        out.put_u32(length);
        out.put(frame);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};
    use tokio_util::codec::LengthDelimitedCodec;

    #[test]
    fn an_absurd_length_is_refused_and_costs_no_memory() {
        let mut unread = BytesMut::from(&[0xff, 0xff, 0xff, 0xff, 1][..]);
        assert!(Frames::new(1 << 20).decode(&mut unread).is_err());
        let mut unread = BytesMut::from(&[0, 0x10, 0, 0][..]);
        let mut frames = Frames::new(1 << 20);
        assert!(frames.decode(&mut unread).unwrap().is_none());
        assert!(unread.capacity() <= 2 * STEP, "{}", unread.capacity());
        assert!(frames.begun(&unread));
    }

    #[test]
    fn a_long_frame_leaves_no_memory_behind() {
        let mut unread = BytesMut::new();
        let mut frames = Frames::new(1 << 20);
        frames
            .encode(Bytes::from(vec![7; 1 << 20]), &mut unread)
            .unwrap();
        unread.extend_from_slice(&[0, 0]);
        let frame = frames.decode(&mut unread).unwrap().unwrap();
        assert_eq!(frame.len(), 1 << 20);
        assert_eq!(&unread[..], [0, 0]);
        assert!(unread.capacity() <= STEP, "{}", unread.capacity());
    }

    #[test]
    fn what_is_too_long_is_not_sent() {
        let mut out = BytesMut::new();
        assert!(Frames::new(3).encode(vec![0; 4].into(), &mut out).is_err());
        assert!(out.is_empty());
    }

    proptest! {
        /// However the bytes arrive, the frames are those that tokio's codec would cut.
        #[test]
        fn frames_are_those_of_the_standard_codec(bytes in vec(any::<u8>(), 0..400), pieces in vec(1usize..50, 1..50), honest in any::<bool>()) {
            let mut sent = BytesMut::new();
            if honest {
                for chunk in bytes.chunks(37) {
                    Frames::new(100).encode(Bytes::copy_from_slice(chunk), &mut sent).unwrap();
                }
            } else {
                sent.extend_from_slice(&bytes);
            }
            let mut standard = LengthDelimitedCodec::builder().max_frame_length(100).new_codec();
            let mut whole = sent.clone();
            let mut wanted = Vec::new();
            let refused = loop {
                match standard.decode(&mut whole) {
                    Ok(Some(frame)) => wanted.push(frame),
                    Ok(None) => break false,
                    Err(_) => break true,
                }
            };
            let (mut ours, mut unread, mut got) = (Frames::new(100), BytesMut::new(), Vec::new());
            let mut failed = false;
            for piece in pieces.into_iter().cycle() {
                if sent.is_empty() || failed {
                    break;
                }
                unread.extend_from_slice(&sent.split_to(piece.min(sent.len())));
                loop {
                    match ours.decode(&mut unread) {
                        Ok(Some(frame)) => got.push(frame),
                        Ok(None) => break,
                        Err(_) => { failed = true; break }
                    }
                }
            }
            prop_assert_eq!(got, wanted);
            prop_assert_eq!(failed, refused);
        }
    }
}
