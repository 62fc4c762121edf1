//! A film as a list showed it: what numbers, selection and completion go by.

use iceflix_core::api::{MediaId, catalog::Tile};

/// A film of a result list, or the selected one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The film.
    pub id: MediaId,
    /// Its name when it was listed.
    pub name: String,
    /// The user's tags on it.
    pub tags: Vec<String>,
}

impl From<&Tile> for Listed {
    fn from(tile: &Tile) -> Self {
        Self {
            id: tile.id,
            name: tile.name.clone(),
            tags: tile.tags.clone(),
        }
    }
}
