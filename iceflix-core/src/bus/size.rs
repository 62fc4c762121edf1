//! How much is sent at once, and who waits for it when a neighbour's link is full.

use zenoh::{
    qos::{CongestionControl, Priority},
    query::Query,
};

/// What travels in one piece, in bytes: a batch of zenoh's is 64 KiB, with what is around it. Only a
/// link that takes none of those for a while is given up.
pub const BATCH: usize = 48 << 10;

/// How a message travels, or a question and with it its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// A [batch](BATCH) at most. It waits for nobody: where a neighbour's link is full it is dropped.
    Small,
    /// As much as need be, in pieces, behind all that is small: whoever sends waits for the link, and
    /// whoever else of this process has something large to send waits, too. A link that takes none
    /// for a while ([`BusConfig::link_patience`](super::BusConfig)) is given up.
    Large,
}

/// What a large question says of itself: zenoh does not tell whoever answers how it travelled.
const LARGE: &str = "large";

impl Size {
    /// That of so many bytes.
    pub fn of(bytes: usize) -> Self {
        match bytes > BATCH {
            true => Size::Large,
            false => Size::Small,
        }
    }

    pub(super) fn congestion_control(self) -> CongestionControl {
        match self {
            Size::Small => CongestionControl::Drop,
            Size::Large => CongestionControl::Block,
        }
    }

    pub(super) fn priority(self) -> Priority {
        match self {
            Size::Small => Priority::Data,
            Size::Large => Priority::DataLow,
        }
    }

    /// How a question of this size on `key` begins: zenoh's selector.
    pub(super) fn asks(self, key: &str) -> String {
        match self {
            Size::Small => key.to_owned(),
            Size::Large => format!("{key}?{LARGE}"),
        }
    }

    /// That of a question that came; its answers have it, too.
    pub(super) fn of_question(query: &Query) -> Self {
        match query.parameters().as_str() == LARGE {
            true => Size::Large,
            false => Size::Small,
        }
    }
}
