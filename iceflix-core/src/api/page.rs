//! Paging: every list is answered in pieces that fit a frame.

use serde::{Deserialize, Serialize};

/// Which piece of a list is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRequest {
    /// Where the piece before ended ([`Page::next`]); `None` starts at the beginning.
    pub after: Option<String>,
    /// At most this many items; clamped to 1..=[`PageRequest::MAX`].
    pub limit: u32,
}

impl PageRequest {
    /// The most items a page holds, whatever was asked for.
    pub const MAX: u32 = 500;

    /// The first page, as long as pages get.
    pub fn first() -> Self {
        Self {
            after: None,
            limit: Self::MAX,
        }
    }

    /// The number of items to answer with.
    pub fn size(&self) -> usize {
        self.limit.clamp(1, Self::MAX) as usize
    }
}

/// A piece of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items, in the list's order.
    pub items: Vec<T>,
    /// What to ask for next; `None` when this was the last piece.
    pub next: Option<String>,
}
