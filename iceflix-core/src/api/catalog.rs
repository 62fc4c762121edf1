//! Catalogue: every film of the cluster, by id, name and tags.

use super::{Instance, MediaId, Page, PageRequest, TokenError, auth::Token};
use serde::{Deserialize, Serialize};

/// Why the catalogue refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum CatalogError {
    /// The token was not accepted.
    #[error(transparent)]
    Unauthorized(#[from] TokenError),
    /// Only an admin may do that.
    #[error("only an admin may do that")]
    NotAdmin,
    /// No film has that id.
    #[error("no film has that id")]
    UnknownMedia,
    /// The name is empty, too long, or has control characters.
    #[error("a film's name is 1 to 255 characters, none of them a control character")]
    InvalidName,
    /// A tag is empty, too long, or has control characters, or there are too many.
    #[error("a tag is 1 to 64 characters, none of them a control character; at most 100 at once")]
    InvalidTag,
    /// Something broke inside; the service's log has it.
    #[error("the catalogue had an internal error")]
    Internal,
    /// No disk that it could be kept on takes writes.
    #[error("nothing was changed: the catalogue's disk takes no writes just now")]
    CannotWrite,
}

/// A film, as one user sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tile {
    /// What it is.
    pub id: MediaId,
    /// Its name: its file's name without extension until an admin renames it.
    pub name: String,
    /// The caller's own tags, sorted; empty for a caller without a token.
    pub tags: Vec<String>,
    /// How long it plays, in seconds, when known.
    pub duration_s: Option<f64>,
    /// How many live nodes have it.
    pub providers: u32,
    /// Whether a live node has it and can play it.
    pub available: bool,
    /// Why it cannot be played although a node has it; for people.
    pub unplayable: Option<String>,
}

/// A film with the live nodes that have it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TileDetails {
    /// The film.
    pub tile: Tile,
    /// The live nodes that have it and can play it, sorted by name. The client picks one.
    pub providers: Vec<Instance>,
    /// What it is made of, for people: "MP4, H.264 1920×1080, AAC 2 channels".
    pub format: String,
    /// The file's size, in bytes.
    pub size: u64,
}

/// What a search asks for. Conditions left empty do not restrict.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// The name, whole (`exact`) or a part of it. Case and accents do not matter.
    pub name: String,
    /// The name must be `name`, not merely contain it.
    pub exact: bool,
    /// The caller's tags to look for.
    pub tags: Vec<String>,
    /// All of the tags, not just any.
    pub all_tags: bool,
}

/// The catalogue.
#[tarpc::service]
pub trait Catalog {
    /// One film, with its providers.
    async fn tile(token: Token, id: MediaId) -> Result<TileDetails, CatalogError>;
    /// The films of a name, sorted by name. Works without a token too, then without tags.
    async fn tiles_by_name(
        token: Option<Token>,
        name: String,
        exact: bool,
        page: PageRequest,
    ) -> Result<Page<Tile>, CatalogError>;
    /// The films that the caller tagged so: with any of the tags, or with `all`. No tags, no films.
    async fn tiles_by_tags(
        token: Token,
        tags: Vec<String>,
        all: bool,
        page: PageRequest,
    ) -> Result<Page<Tile>, CatalogError>;
    /// Name and tags at once. A query with tags needs a token.
    async fn search(
        token: Option<Token>,
        query: Query,
        page: PageRequest,
    ) -> Result<Page<Tile>, CatalogError>;
    /// The films whose id begins so (hexadecimal digits), at most 10: for ids typed by hand.
    async fn ids_by_prefix(prefix: String) -> Result<Vec<MediaId>, CatalogError>;
    /// Adds tags of the caller's to a film. A tag that is there already stays one.
    async fn add_tags(token: Token, id: MediaId, tags: Vec<String>) -> Result<(), CatalogError>;
    /// Removes tags of the caller's. Removing an absent tag is no error.
    async fn remove_tags(token: Token, id: MediaId, tags: Vec<String>) -> Result<(), CatalogError>;
    /// Admin: names a film.
    async fn rename_tile(token: Token, id: MediaId, name: String) -> Result<(), CatalogError>;
}
