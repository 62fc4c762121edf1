//! A film's RTP packets, made once by GStreamer's payloaders and shared by all who watch it.
//!
//! What a viewer costs is almost all per packet and per wake-up of a thread. So a file is read,
//! demultiplexed and packetised once for all who are at about the same place in it, and each viewer's
//! pipeline is only a source for each track that puts fresh headers before the same memory, in bursts.
//!
//! | part | what it is |
//! |---|---|
//! | `packet` | a packet, and how many go out at a time |
//! | `reel` | packets from some place on, made just ahead of who reads them |
//! | `store` | the reels of all films, within a budget of memory |
//! | `source` | the element that sends a track to one viewer |

mod packet;
mod reel;
mod source;
mod store;
#[cfg(test)]
mod tests;

pub(super) use source::{TrackSource, build};
pub(super) use store::Store;
